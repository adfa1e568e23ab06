//! Why the coordinator does not do what it was asked, in a form that survives gRPC.

use crate::ca::CaError;
use crate::model::policy::PolicyError;
use crate::model::token::TokenError;
use crate::store::StoreError;
use tonic::{Code, Status};

/// The metadata entry of a gRPC status that holds the [`Reason`].
const REASON_KEY: &str = "globalfs-reason";
/// The one that names the coordinator to ask instead.
const LEADER_KEY: &str = "globalfs-leader";

/// Why somebody was refused; the client turns it back into an error of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The text is no token.
    TokenMalformed,
    /// No such token.
    TokenUnknown,
    /// The token admitted another machine.
    TokenUsed,
    /// The token is too old.
    TokenExpired,
    /// The token is for another name.
    TokenOtherName,
    /// The certificate's name has no record, or another key.
    NotRegistered,
    /// The coordinator's configuration does not name the site.
    NotDeclared,
    /// No certificate, or one that says nothing.
    NoCertificate,
    /// The certificate's name may not do this.
    NotPermitted,
    /// Another coordinator grants leases.
    NotLeader,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// Who asks must change something first.
    #[error("{1}")]
    Refused(Reason, String),
    /// The request itself is wrong.
    #[error("{0}")]
    Invalid(String),
    /// There is nothing of this name.
    #[error("{0}")]
    NotFound(String),
    /// Others changed the same records all the time; ask again.
    #[error("too many changes at once; try again")]
    Contended,
    /// Another coordinator grants leases, if one does.
    #[error("this coordinator does not grant leases; {}", where_to_ask(.0.as_deref()))]
    NotLeader(Option<String>),
    /// The metadata store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// A record in the store cannot be read: an operator must look at it.
    #[error("the record {key} in the metadata store is not readable: {reason}")]
    Damaged {
        /// Where it is.
        key: String,
        /// Why it cannot be read.
        reason: String,
    },
    /// The certificate authority failed.
    #[error("{0}")]
    Authority(#[source] CaError),
}

impl Reason {
    const ALL: [(Self, &'static str); 10] = [
        (Self::TokenMalformed, "token-malformed"),
        (Self::TokenUnknown, "token-unknown"),
        (Self::TokenUsed, "token-used"),
        (Self::TokenExpired, "token-expired"),
        (Self::TokenOtherName, "token-other-name"),
        (Self::NotRegistered, "not-registered"),
        (Self::NotDeclared, "not-declared"),
        (Self::NoCertificate, "no-certificate"),
        (Self::NotPermitted, "not-permitted"),
        (Self::NotLeader, "not-leader"),
    ];

    /// The reason that a gRPC status names.
    pub(crate) fn of(status: &Status) -> Option<Self> {
        let text = status.metadata().get(REASON_KEY)?.to_str().ok()?;
        Self::ALL.iter().find(|(_, name)| *name == text).map(|(reason, _)| *reason)
    }

    fn text(self) -> &'static str {
        Self::ALL.iter().find(|(reason, _)| *reason == self).map_or("", |(_, name)| name)
    }

    fn code(self) -> Code {
        match self {
            Self::NotPermitted | Self::NotDeclared | Self::TokenOtherName => Code::PermissionDenied,
            Self::NotLeader => Code::Unavailable,
            _ => Code::Unauthenticated,
        }
    }
}

impl From<TokenError> for ServiceError {
    fn from(error: TokenError) -> Self {
        let reason = match &error {
            TokenError::Malformed => Reason::TokenMalformed,
            TokenError::Unknown => Reason::TokenUnknown,
            TokenError::Used(_) => Reason::TokenUsed,
            TokenError::Expired(_) => Reason::TokenExpired,
            TokenError::OtherName(_) => Reason::TokenOtherName,
        };
        Self::Refused(reason, error.to_string())
    }
}

impl From<PolicyError> for ServiceError {
    fn from(error: PolicyError) -> Self {
        Self::Invalid(error.to_string())
    }
}

impl From<CaError> for ServiceError {
    fn from(error: CaError) -> Self {
        match error {
            CaError::Request(_) => Self::Invalid(error.to_string()),
            other => Self::Authority(other),
        }
    }
}

impl From<ServiceError> for Status {
    fn from(error: ServiceError) -> Self {
        let message = error.to_string();
        match error {
            ServiceError::Refused(reason, _) => with_reason(reason, message),
            ServiceError::NotLeader(leader) => {
                let mut status = with_reason(Reason::NotLeader, message);
                // What cannot be a header is no address either.
                if let Some(leader) = leader.and_then(|leader| leader.parse().ok()) {
                    status.metadata_mut().insert(LEADER_KEY, leader);
                }
                status
            }
            ServiceError::Invalid(_) => Self::invalid_argument(message),
            ServiceError::NotFound(_) => Self::not_found(message),
            ServiceError::Contended | ServiceError::Store(StoreError::Unavailable(_)) => {
                Self::unavailable(message)
            }
            ServiceError::Store(_) | ServiceError::Damaged { .. } | ServiceError::Authority(_) => {
                Self::internal(message)
            }
        }
    }
}

/// The coordinator that a gRPC status names to be asked instead.
pub(crate) fn leader_of(status: &Status) -> Option<String> {
    Some(status.metadata().get(LEADER_KEY)?.to_str().ok()?.to_owned())
}

fn with_reason(reason: Reason, message: String) -> Status {
    let mut status = Status::new(reason.code(), message);
    status.metadata_mut().insert(REASON_KEY, tonic::metadata::MetadataValue::from_static(reason.text()));
    status
}

fn where_to_ask(leader: Option<&str>) -> String {
    leader.map_or_else(|| "nobody does at this moment".into(), |leader| format!("ask {leader}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_survive_grpc() {
        for (reason, name) in Reason::ALL {
            let status = Status::from(ServiceError::Refused(reason, name.to_owned()));
            assert_eq!((Reason::of(&status), status.message()), (Some(reason), name));
        }
        assert_eq!(Reason::of(&Status::from(ServiceError::Contended)), None);
        for leader in [None, Some("coordinator-2:7440".to_owned())] {
            let status = Status::from(ServiceError::NotLeader(leader.clone()));
            assert_eq!((status.code(), Reason::of(&status)), (Code::Unavailable, Some(Reason::NotLeader)));
            assert_eq!(leader_of(&status), leader);
        }
    }
}
