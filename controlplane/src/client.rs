//! The members' side of the control plane: join with a token, then calls with a certificate.
//!
//! *Invariants:* a private key never leaves its machine; the token is sent only over a connection whose
//! authority has the fingerprint that the token names; every call ends before its deadline.

use crate::files::{self, CertFiles, FilesError};
use crate::model::policy::PolicyFile;
use crate::model::record::{ClusterView, Health};
use crate::model::token::{JoinToken, Joiner, TokenError};
use crate::proto;
use crate::proto::control_client::ControlClient as Generated;
use crate::service::leases::{Down, Up};
use crate::service::{Reason, SendHome, Status, leader_of};
use crate::tls;
use futures_util::{Stream, StreamExt};
use globalfs_proto::ids::COORDINATOR_HOST;
use globalfs_proto::{GlobalPath, NodeName, SiteName};
use rcgen::{CertificateParams, KeyPair};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::error::Error as StdError;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

/// Longest time to make a connection, the TLS handshake included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time of one call.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Largest answer: a view with all the nodes that a cluster may have.
const MAX_REPLY_BYTES: usize = 32 << 20;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// The same for leases: nobody gets one before it is noticed that the coordinator is gone.
const LEASES_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(4);
/// Deepest chain of causes that is looked through.
const MAX_CAUSES: usize = 16;

/// A connection to the coordinator; cheap to clone, connects again by itself.
#[derive(Clone)]
pub struct ControlClient {
    inner: Generated<Channel>,
    endpoint: Arc<str>,
}

/// What a joining machine says of itself.
#[derive(Debug, Clone)]
pub struct JoinRequest {
    /// Who it is.
    pub joiner: Joiner,
    /// Sites: the origin's URI. Nodes leave it empty.
    pub endpoint: String,
    /// Sites: host and port of the daemon. Nodes leave it empty.
    pub address: String,
}

/// What a machine has after it joined.
#[derive(Debug, Clone)]
pub struct Joined {
    /// Its certificate, key and authority.
    pub files: CertFiles,
    /// The cluster.
    pub view: ClusterView,
}

/// The answer to a heartbeat.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    /// The view, when it differs from the one that was known.
    pub view: Option<ClusterView>,
    /// When to send the next one.
    pub interval: Duration,
}

/// Why a call failed, sorted by what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Try again later; look at the coordinator and the network.
    #[error("the coordinator at {endpoint} does not answer: {reason}; is it running, and is the port open?")]
    Unreachable {
        /// The address.
        endpoint: String,
        /// The reason.
        reason: String,
    },
    /// The coordinator answers but cannot do it now: try again later.
    #[error("the coordinator cannot do this now: {0}")]
    Busy(String),
    /// Another coordinator grants leases: ask there.
    #[error("{message}")]
    NotLeader {
        /// Its `host:port`, if it is known.
        leader: Option<String>,
        /// The coordinator's words.
        message: String,
    },
    /// The coordinator and the certificate or token belong to different clusters.
    #[error(
        "the coordinator at {endpoint} belongs to another cluster than the token or certificate ({reason}); \
         check the address, or join with a new token"
    )]
    WrongAuthority {
        /// The address.
        endpoint: String,
        /// The reason.
        reason: String,
    },
    /// Join again.
    #[error(
        "a certificate has expired or is not valid yet ({0}); check the clock, or join again with a new token"
    )]
    CertificateExpired(String),
    /// Get another token.
    #[error("{message}")]
    Token {
        /// Which rule of tokens it breaks.
        reason: Reason,
        /// The coordinator's words.
        message: String,
    },
    /// Join again: the coordinator does not know this certificate, or not any more.
    #[error("{0}; join again with a new token from 'globalfs token create'")]
    NotRegistered(String),
    /// Ask an administrator.
    #[error("{0}")]
    NotPermitted(String),
    /// Correct the request.
    #[error("{0}")]
    Invalid(String),
    /// The certificate files cannot be used.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The two programs do not understand each other, or the coordinator failed.
    #[error("the coordinator failed: {0}; its log says more")]
    Failed(String),
}

impl ClientError {
    /// Whether the same call may succeed later; everything else an administrator has to mend.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Busy(_) | Self::NotLeader { .. })
    }
}

impl ControlClient {
    /// Connects to the coordinator at `endpoint` (`host:port`) as who `files` says.
    pub async fn connect(endpoint: &str, files: &CertFiles) -> Result<Self, ClientError> {
        Self::connect_with(endpoint, files, KEEPALIVE_INTERVAL).await
    }

    /// The same for [`Self::leases`].
    pub(crate) async fn connect_for_leases(endpoint: &str, files: &CertFiles) -> Result<Self, ClientError> {
        Self::connect_with(endpoint, files, LEASES_KEEPALIVE_INTERVAL).await
    }

    async fn connect_with(
        endpoint: &str,
        files: &CertFiles,
        keepalive: Duration,
    ) -> Result<Self, ClientError> {
        check_expiry(files)?;
        let identity = Identity::from_pem(&files.certificate, &files.key);
        Self::connect_alive(endpoint, &files.ca, Some(identity), keepalive).await
    }

    /// Sends a site's heartbeat.
    pub async fn heartbeat(
        &self,
        health: &Health,
        address: &str,
        known_revision: u64,
    ) -> Result<Heartbeat, ClientError> {
        let request =
            proto::HeartbeatRequest { health: json(health), address: address.to_owned(), known_revision };
        let reply = self.call(self.inner.clone().heartbeat(request)).await?;
        let view = reply.view.as_deref().map(parse).transpose()?;
        Ok(Heartbeat { view, interval: Duration::from_millis(reply.interval_ms) })
    }

    /// Makes a token that lets `joiner` join once.
    pub async fn create_token(&self, joiner: &Joiner, ttl: Duration) -> Result<String, ClientError> {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let request = proto::CreateTokenRequest { joiner: json(joiner), ttl_ms };
        Ok(self.call(self.inner.clone().create_token(request)).await?.token)
    }

    /// Removes a site and its nodes from the cluster.
    pub async fn remove_site(&self, site: &SiteName) -> Result<(), ClientError> {
        let request = proto::SiteRequest { name: site.to_string() };
        self.call(self.inner.clone().remove_site(request)).await.map(drop)
    }

    /// Removes a node from the cluster.
    pub async fn remove_node(&self, node: &NodeName, site: &SiteName) -> Result<(), ClientError> {
        let request = proto::NodeRequest { name: node.to_string(), site: site.to_string() };
        self.call(self.inner.clone().remove_node(request)).await.map(drop)
    }

    /// Gives up what the holder of the lease on `path` has not brought home.
    pub async fn abandon(&self, path: &GlobalPath) -> Result<(), ClientError> {
        let request = proto::PathRequest { path: path.clone().into() };
        self.call(self.inner.clone().abandon(request)).await.map(drop)
    }

    /// Asks holders to bring home what they have changed.
    pub async fn send_home(&self, what: &SendHome) -> Result<(), ClientError> {
        let request = proto::SendHomeRequest { request: json(what) };
        self.call(self.inner.clone().send_home(request)).await.map(drop)
    }

    /// Opens the stream of a site's leases: `up` goes to the coordinator, what it says comes back.
    pub(crate) async fn leases(
        &self,
        up: mpsc::Receiver<Up>,
    ) -> Result<impl Stream<Item = Result<Down, ClientError>> + Send + use<>, ClientError> {
        let up = ReceiverStream::new(up).map(|up| proto::LeaseMessage { message: json(&up) });
        let down = self.call(self.inner.clone().lease(up)).await?;
        let endpoint = self.endpoint.clone();
        Ok(down.map(move |message| match message {
            Ok(message) => parse(&message.message),
            Err(status) => Err(refused(&endpoint, &status)),
        }))
    }

    /// Replaces all policies.
    pub async fn set_policies(&self, policies: &PolicyFile) -> Result<(), ClientError> {
        let request = proto::SetPoliciesRequest { policies: json(policies) };
        self.call(self.inner.clone().set_policies(request)).await.map(drop)
    }

    /// The cluster as members are told.
    pub async fn view(&self) -> Result<ClusterView, ClientError> {
        parse(&self.call(self.inner.clone().view(proto::Nothing {})).await?.view)
    }

    /// The cluster with all that people want to know.
    pub async fn status(&self) -> Result<Status, ClientError> {
        parse(&self.call(self.inner.clone().status(proto::Nothing {})).await?.status)
    }

    pub(crate) async fn connect_as(
        endpoint: &str,
        ca: &str,
        identity: Option<Identity>,
    ) -> Result<Self, ClientError> {
        Self::connect_alive(endpoint, ca, identity, KEEPALIVE_INTERVAL).await
    }

    async fn connect_alive(
        endpoint: &str,
        ca: &str,
        identity: Option<Identity>,
        keepalive: Duration,
    ) -> Result<Self, ClientError> {
        let mut tls =
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name(COORDINATOR_HOST);
        if let Some(identity) = identity {
            tls = tls.identity(identity);
        }
        let invalid = |error: tonic::transport::Error| {
            ClientError::Invalid(format!("'{endpoint}' cannot be connected to: {}", causes(&error)))
        };
        let channel = Endpoint::from_shared(format!("https://{endpoint}"))
            .and_then(|channel| channel.tls_config(tls.timeout(CONNECT_TIMEOUT)))
            .map_err(invalid)?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(keepalive)
            .keep_alive_timeout(keepalive)
            .keep_alive_while_idle(true);
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, channel.connect());
        let channel = connecting
            .await
            .map_err(|_| unreachable(endpoint, "no connection in time"))?
            .map_err(|error| classify(endpoint, &error))?;
        let inner = Generated::new(channel).max_decoding_message_size(MAX_REPLY_BYTES);
        Ok(Self { inner, endpoint: endpoint.into() })
    }

    async fn call<T>(
        &self,
        reply: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, ClientError> {
        match tokio::time::timeout(CALL_TIMEOUT, reply).await {
            Ok(reply) => {
                reply.map(tonic::Response::into_inner).map_err(|status| refused(&self.endpoint, &status))
            }
            Err(_) => Err(unreachable(&self.endpoint, "no answer in time")),
        }
    }
}

/// Joins with a token: learns the authority that the token names, then has `key` (PEM) certified.
///
/// The same call with the same key may be repeated when the answer was lost.
pub async fn join(
    endpoint: &str,
    token: &str,
    request: &JoinRequest,
    key: &str,
) -> Result<Joined, ClientError> {
    let parsed = JoinToken::parse(token).map_err(malformed)?;
    let csr = signing_request(key).map_err(ClientError::Invalid)?;
    let deadline = tokio::time::timeout(CONNECT_TIMEOUT, learn_authority(endpoint, &parsed.ca_fingerprint));
    let ca = deadline.await.map_err(|_| unreachable(endpoint, "no TLS handshake in time"))??;
    let client = ControlClient::connect_as(endpoint, &ca, None).await?;
    let request = proto::JoinRequest {
        token: parsed.reveal(),
        joiner: json(&request.joiner),
        csr,
        endpoint: request.endpoint.clone(),
        address: request.address.clone(),
    };
    let reply = client.call(client.inner.clone().join(request)).await?;
    let files = CertFiles { certificate: reply.certificate, key: key.to_owned(), ca };
    Ok(Joined { files, view: parse(&reply.view)? })
}

/// Joins and stores the certificate in `dir`. A crash at any point, or a lost answer, is mended by the same
/// call: the key is stored before it is used.
pub async fn join_into(
    dir: &Path,
    endpoint: &str,
    token: &str,
    request: &JoinRequest,
) -> Result<Joined, ClientError> {
    JoinToken::parse(token).map_err(malformed)?;
    let joined = join(endpoint, token, request, &CertFiles::pending_key(dir)?).await?;
    joined.files.write(dir)?;
    Ok(joined)
}

/// A key for [`join`].
pub fn new_key() -> Result<String, ClientError> {
    files::new_key().map_err(ClientError::Invalid)
}

/// Shakes hands once to see the authority whose fingerprint is known, and returns it as PEM.
async fn learn_authority(endpoint: &str, fingerprint: &str) -> Result<String, ClientError> {
    let (config, pinned) =
        tls::first_contact(fingerprint).map_err(|error| ClientError::Invalid(error.to_string()))?;
    let stream =
        TcpStream::connect(endpoint).await.map_err(|error| unreachable(endpoint, &error.to_string()))?;
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(tls::coordinator_name(), stream).await.map_err(|error| classify(endpoint, &error))?;
    let authority =
        pinned.found().ok_or_else(|| unreachable(endpoint, "no certificate authority was shown"))?;
    Ok(tls::to_pem(authority))
}

fn signing_request(key: &str) -> Result<String, String> {
    let request = || -> Result<String, rcgen::Error> {
        CertificateParams::default().serialize_request(&KeyPair::from_pem(key)?)?.pem()
    };
    request().map_err(|error| error.to_string())
}

fn check_expiry(files: &CertFiles) -> Result<(), ClientError> {
    let peer = tls::peer(&files.certificate).map_err(ClientError::Invalid)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |age| age.as_secs());
    if u64::try_from(peer.expires_at_unix_s).is_ok_and(|expires_at| now < expires_at) {
        return Ok(());
    }
    let expired_at =
        crate::model::timestamp::Timestamp::from_unix_ms(peer.expires_at_unix_s.saturating_mul(1000));
    Err(ClientError::CertificateExpired(format!("that of {} was valid until {expired_at}", peer.identity)))
}

fn malformed(error: TokenError) -> ClientError {
    ClientError::Token { reason: Reason::TokenMalformed, message: error.to_string() }
}

fn unreachable(endpoint: &str, reason: &str) -> ClientError {
    ClientError::Unreachable { endpoint: endpoint.to_owned(), reason: reason.to_owned() }
}

/// The error that a gRPC status stands for.
fn refused(endpoint: &str, status: &tonic::Status) -> ClientError {
    let message = status.message().to_owned();
    match Reason::of(status) {
        Some(Reason::NotRegistered) => return ClientError::NotRegistered(message),
        Some(Reason::NotDeclared | Reason::NotPermitted | Reason::NoCertificate) => {
            return ClientError::NotPermitted(message);
        }
        Some(Reason::NotLeader) => {
            return ClientError::NotLeader { leader: leader_of(status), message };
        }
        Some(reason) => return ClientError::Token { reason, message },
        None => {}
    }
    match status.code() {
        // A status with a cause was made on this side: the connection failed.
        _ if status.source().is_some() => classify(endpoint, status),
        tonic::Code::Unavailable => ClientError::Busy(message),
        tonic::Code::InvalidArgument | tonic::Code::NotFound => ClientError::Invalid(message),
        tonic::Code::Cancelled | tonic::Code::DeadlineExceeded => unreachable(endpoint, &message),
        _ => ClientError::Failed(message),
    }
}

/// Finds out why a connection failed: TLS's reason, if there is one among the causes, is the true one.
fn classify(endpoint: &str, error: &(dyn StdError + 'static)) -> ClientError {
    use rustls::CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    let wrong = |reason: String| ClientError::WrongAuthority { endpoint: endpoint.into(), reason };
    match tls_cause(error) {
        Some(rustls::Error::InvalidCertificate(
            fault @ (Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. }),
        )) => ClientError::CertificateExpired(format!("the coordinator's: {fault}")),
        Some(reason @ rustls::Error::InvalidCertificate(_)) => wrong(reason.to_string()),
        Some(rustls::Error::InvalidMessage(_) | rustls::Error::PeerIncompatible(_)) => {
            unreachable(endpoint, "what listens there is no GlobalFS coordinator")
        }
        _ => match (causes(error), refusing_alert(&causes(error))) {
            (_, Some("CertificateExpired")) => {
                ClientError::CertificateExpired("the coordinator refused ours".into())
            }
            (_, Some(alert)) => wrong(format!("it refused our certificate: {alert}")),
            (reason, None) => unreachable(endpoint, &reason),
        },
    }
}

/// The alert by which the coordinator refused our certificate. In TLS 1.3 it arrives after the handshake,
/// and HTTP/2 hands on only its text.
fn refusing_alert(causes: &str) -> Option<&'static str> {
    const ALERTS: [&str; 4] = ["CertificateExpired", "UnknownCA", "DecryptError", "BadCertificate"];
    let (_, alert) = causes.split_once("received fatal alert: ")?;
    ALERTS.into_iter().find(|name| alert.starts_with(name))
}

/// The TLS error among the causes. `io::Error` does not name what it wraps as its cause, so it is opened.
fn tls_cause<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    for _ in 0..MAX_CAUSES {
        let error = next?;
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped as &(dyn StdError + 'static)),
            None => error.source(),
        };
    }
    None
}

/// All causes in one line.
fn causes(error: &(dyn StdError + 'static)) -> String {
    let mut texts = vec![error.to_string()];
    let mut next = error.source();
    while let Some(cause) = next.filter(|_| texts.len() < MAX_CAUSES) {
        texts.push(cause.to_string());
        next = cause.source();
    }
    texts.dedup();
    texts.join(": ")
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("requests have text keys and no failing parts")
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, ClientError> {
    serde_json::from_str(text).map_err(|error| {
        ClientError::Failed(format!("its answer cannot be read ({error}); is it of another version?"))
    })
}
