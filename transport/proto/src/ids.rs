//! Names of sites and nodes, and who a peer is after its certificate was checked.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Why text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a name: 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit")]
pub struct NameError(pub String);

/// Names become parts of host names in certificates, so they follow the rule for DNS labels.
fn check(text: &str) -> Result<(), NameError> {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    let edge = |c: Option<&u8>| c.is_some_and(|&c| c != b'-');
    let bytes = text.as_bytes();
    let fine =
        bytes.len() <= 63 && bytes.iter().all(|&c| inner(c)) && edge(bytes.first()) && edge(bytes.last());
    if fine { Ok(()) } else { Err(NameError(text.to_owned())) }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// Checks that `text` is a DNS label in lower case.
            pub fn new(text: &str) -> Result<Self, NameError> {
                check(text).map(|()| Self(text.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(&text)
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type! {
    /// The name of a site: a place with storage and nodes.
    SiteName
}
name_type! {
    /// The name of a node: a machine with a mount, unique within its site.
    NodeName
}

/// The host name under which the coordinator's certificate is issued.
pub const COORDINATOR_HOST: &str = "coordinator.globalfs";

/// Who is at the other end, read from a certificate that the cluster's CA signed.
///
/// The name in the certificate is its one DNS subject alternative name: `coordinator.globalfs`,
/// `admin.globalfs`, `SITE.site.globalfs` or `NODE.SITE.node.globalfs`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PeerIdentity {
    /// A coordinator.
    Coordinator,
    /// An administrator's command line.
    Admin,
    /// A site's daemon.
    Site(SiteName),
    /// A node and the site to which it belongs.
    Node(NodeName, SiteName),
}

impl PeerIdentity {
    /// The DNS name that stands for this identity in a certificate.
    pub fn host(&self) -> String {
        match self {
            Self::Coordinator => COORDINATOR_HOST.to_owned(),
            Self::Admin => "admin.globalfs".to_owned(),
            Self::Site(site) => format!("{site}.site.globalfs"),
            Self::Node(node, site) => format!("{node}.{site}.node.globalfs"),
        }
    }

    /// The identity that a certificate's DNS name stands for.
    pub fn from_host(host: &str) -> Option<Self> {
        match host.split('.').collect::<Vec<_>>()[..] {
            ["coordinator", "globalfs"] => Some(Self::Coordinator),
            ["admin", "globalfs"] => Some(Self::Admin),
            [site, "site", "globalfs"] => SiteName::new(site).ok().map(Self::Site),
            [node, site, "node", "globalfs"] => {
                Some(Self::Node(NodeName::new(node).ok()?, SiteName::new(site).ok()?))
            }
            _ => None,
        }
    }
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coordinator => f.write_str("coordinator"),
            Self::Admin => f.write_str("administrator"),
            Self::Site(site) => write!(f, "site {site}"),
            Self::Node(node, site) => write!(f, "node {node} of site {site}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "onprem", "cloud-2", "0x", &"a".repeat(63)] {
            assert!(SiteName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "ü", &"a".repeat(64)] {
            assert!(SiteName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn identities_survive_their_host_name() {
        let site = SiteName::new("cloud").unwrap();
        let node = NodeName::new("n1").unwrap();
        for id in [
            PeerIdentity::Coordinator,
            PeerIdentity::Admin,
            PeerIdentity::Site(site.clone()),
            PeerIdentity::Node(node, site),
        ] {
            assert_eq!(PeerIdentity::from_host(&id.host()), Some(id));
        }
        for other in ["", "globalfs", "x.y", "A.site.globalfs", "a.b.c.node.globalfs"] {
            assert_eq!(PeerIdentity::from_host(other), None);
        }
    }
}
