//! The coordinator: registry of sites and nodes, certificates, policies, over gRPC with mutual TLS.
//!
//! *Invariants:* no plain-text connection exists; without a client certificate only `Join` answers; several
//! coordinators may run on one shared store, since each answer is read from it.

mod counters;
mod joining;
#[cfg(all(test, feature = "etcd"))]
mod leader_tests;
#[cfg(test)]
mod lease_tests;
pub(crate) mod leases;
mod listener;
mod records;
mod refusal;
mod registry;
mod rpc;
#[cfg(test)]
mod tests;

pub use counters::CounterSnapshot;
pub use joining::{MAX_TOKEN_TTL, MAX_TOKENS};
pub use leases::SendHome;
pub use listener::{HANDSHAKE_TIMEOUT, MAX_CONNECTIONS};
pub(crate) use refusal::leader_of;
pub use refusal::{Reason, ServiceError};

use crate::ca::{Authority, CaError};
use crate::model::policy::Policy;
use crate::model::record::{ClusterView, MAX_SITES, SiteRole};
use crate::proto::control_server::ControlServer;
use crate::store::{self, MetaStore, StoreConfig, StoreError};
use crate::tls;
use globalfs_proto::{PeerIdentity, SiteName};
use leases::Leases;
use registry::Registry;
use rpc::Rpc;
use serde::{Deserialize, Serialize};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// Time between two heartbeats of a site.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);
/// Time between two writes of a site's record while nothing important changes.
pub const RECORD_WRITE_INTERVAL: Duration = Duration::from_secs(15);
/// Silence after which a site counts as unreachable. Another coordinator sees a heartbeat only when the
/// record is written, so this is more than the two times above together.
pub const UNREACHABLE_AFTER: Duration = Duration::from_secs(30);
const _: () =
    assert!(UNREACHABLE_AFTER.as_secs() > HEARTBEAT_INTERVAL.as_secs() + RECORD_WRITE_INTERVAL.as_secs());
/// Longest time that one request takes.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Time that requests have to end when the coordinator stops.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// Largest request; the largest is a set of policies.
const MAX_REQUEST_BYTES: usize = 4 << 20;
/// Requests of one connection at the same time.
const MAX_REQUESTS_PER_CONNECTION: u32 = 64;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);

/// A site that the configuration names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclaredSite {
    /// Its name.
    pub name: SiteName,
    /// What it is for.
    pub role: SiteRole,
}

/// How often things happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// Time between two heartbeats of a site.
    pub heartbeat_interval: Duration,
    /// Time between two writes of a site's record while nothing important changes.
    pub record_write_interval: Duration,
    /// Silence after which a site counts as unreachable.
    pub unreachable_after: Duration,
}

/// What a coordinator needs to know.
#[derive(Debug, Clone)]
pub struct Options {
    /// The cluster's name.
    pub cluster: String,
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where the certificate authority and the administrator's certificate are kept.
    pub data_dir: PathBuf,
    /// Where records are kept.
    pub store: StoreConfig,
    /// The sites that may register.
    pub sites: Vec<DeclaredSite>,
    /// Home of the paths that no policy matches.
    pub default_primary: SiteName,
    /// The policies; they replace those in the store at start.
    pub policies: Vec<Policy>,
    /// How often things happen.
    pub timing: Timing,
}

/// The cluster at one moment, for people, `--json` and metrics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Sites with their present health, nodes, policies.
    #[serde(flatten)]
    pub view: ClusterView,
    /// The sites that may register.
    pub declared: Vec<DeclaredSite>,
    /// Version of the coordinator's program.
    pub version: String,
}

/// Why a coordinator cannot run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration contradicts itself or the store.
    #[error("{0}")]
    Configuration(ServiceError),
    /// The certificate authority cannot be used.
    #[error(transparent)]
    Authority(#[from] CaError),
    /// The metadata store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The reason.
        source: io::Error,
    },
    /// TLS or gRPC failed.
    #[error("the gRPC service failed: {0}")]
    Serve(Box<dyn std::error::Error + Send + Sync>),
}

/// A coordinator that listens; [`Coordinator::run`] makes it answer.
pub struct Coordinator {
    listener: TcpListener,
    local_addr: SocketAddr,
    acceptor: TlsAcceptor,
    registry: Arc<Registry>,
    authority: Arc<Authority>,
    admin_dir: PathBuf,
}

/// A look into a running coordinator.
#[derive(Clone)]
pub struct Observer(Arc<Registry>);

impl Coordinator {
    /// Opens the store that the options name, and everything else.
    pub async fn open(options: Options) -> Result<Self, StartError> {
        let store = store::open(&options.store).await?;
        Self::open_with(options, store).await
    }

    /// The same over a store that is open already.
    pub async fn open_with(options: Options, store: Arc<dyn MetaStore>) -> Result<Self, StartError> {
        check_sites(&options).map_err(StartError::Configuration)?;
        let authority = Authority::open(&options.data_dir)?;
        let (listen, data_dir) = (options.listen, options.data_dir.clone());
        let registry =
            Registry::open(options, store, authority.fingerprint()).await.map_err(|e| match e {
                ServiceError::Store(error) => StartError::Store(error),
                other => StartError::Configuration(other),
            })?;
        let admin_dir = authority.ensure_admin(&data_dir)?;
        let own = authority.own_files(&PeerIdentity::Coordinator)?;
        let config = tls::server_config(&own.certificate, &own.key, &own.ca).map_err(StartError::Serve)?;
        let failed = |source| StartError::Listen { address: listen, source };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        Ok(Self {
            local_addr: listener.local_addr().map_err(failed)?,
            listener,
            acceptor: TlsAcceptor::from(Arc::new(config)),
            registry: Arc::new(registry),
            authority: Arc::new(authority),
            admin_dir,
        })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The directory with the administrator's certificate.
    pub fn admin_dir(&self) -> &std::path::Path {
        &self.admin_dir
    }

    /// What metrics are made of.
    pub fn observer(&self) -> Observer {
        Observer(self.registry.clone())
    }

    /// Answers until `stop`; then lets requests end, for a short while.
    pub async fn run(self, stop: CancellationToken) -> Result<(), StartError> {
        let registry = self.registry.clone();
        let ending = stop.child_token();
        let _ending = ending.clone().drop_guard();
        let (leases, granting) = Leases::start(registry.clone(), reachable(self.local_addr), ending.clone());
        let rpc = Rpc { registry: registry.clone(), authority: self.authority, leases, stop: stop.clone() };
        let ready = listener::accept(self.listener, self.acceptor, registry.counters.clone(), stop.clone());
        let service = ControlServer::new(rpc).max_decoding_message_size(MAX_REQUEST_BYTES);
        let serving = tonic::transport::Server::builder()
            .timeout(REQUEST_TIMEOUT)
            .max_concurrent_streams(MAX_REQUESTS_PER_CONNECTION)
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_INTERVAL))
            .add_service(service)
            .serve_with_incoming_shutdown(ReceiverStream::new(ready), stop.clone().cancelled_owned());
        let over = async {
            stop.cancelled().await;
            tokio::time::sleep(STOP_GRACE).await;
        };
        let served = tokio::select! {
            served = serving => served.map_err(|error| StartError::Serve(Box::new(error))),
            () = over => Ok(()),
            () = watch_silence(&registry) => Ok(()),
        };
        // Another coordinator need not wait until this one counts as lost.
        ending.cancel();
        let _ = tokio::time::timeout(STOP_GRACE, granting).await;
        served
    }
}

impl Observer {
    /// The counters now.
    pub fn counters(&self) -> CounterSnapshot {
        self.0.counters.snapshot()
    }

    /// The cluster now.
    pub async fn status(&self) -> Result<Status, ServiceError> {
        self.0.status().await
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat_interval: HEARTBEAT_INTERVAL,
            record_write_interval: RECORD_WRITE_INTERVAL,
            unreachable_after: UNREACHABLE_AFTER,
        }
    }
}

/// By what name others find the coordinator that listens at `address`.
fn reachable(address: SocketAddr) -> String {
    if !address.ip().is_unspecified() {
        return address.to_string();
    }
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => address.to_string(),
        name => format!("{name}:{}", address.port()),
    }
}

/// Looks for sites that fell silent, for ever.
async fn watch_silence(registry: &Registry) {
    let mut ticks = tokio::time::interval(registry.options.timing.heartbeat_interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = registry.mark_silent_sites().await {
            tracing::warn!(%error, "cannot look for silent sites");
        }
    }
}

fn check_sites(options: &Options) -> Result<(), ServiceError> {
    if options.sites.len() > MAX_SITES {
        return Err(ServiceError::Invalid(format!("a cluster has at most {MAX_SITES} sites")));
    }
    let mut names = std::collections::HashSet::new();
    match options.sites.iter().find(|site| !names.insert(&site.name)) {
        Some(site) => Err(ServiceError::Invalid(format!("site '{}' is named twice", site.name))),
        None => Ok(()),
    }
}
