//! A site's daemon: the origin, the cache, the ways to other sites, and what serves nodes and sites.
//!
//! *Invariant:* the daemon serves whoever the last known view admits, also while the coordinator is down.

mod admission;
mod claim;
mod handover;
mod heartbeat;
mod leases;
mod limits;
mod metrics;
mod peers;
mod replicas;
mod tenures;
mod traces;
mod view;

use crate::config::{OriginUrl, SiteConfig};
use crate::node::open_cache;
use crate::telemetry::metrics::{Health, MetricsServer};
use crate::trace::store::Store;
use admission::SiteHandler;
use anyhow::{Result, ensure};
use globalfs_controlplane::files::CertFiles;
use globalfs_controlplane::leases::{AgentOptions, LeaseAgent, LeaseEvent};
use globalfs_dataplane::cache::Cache;
use globalfs_dataplane::direct::DirectWrites;
use globalfs_dataplane::home::holdings::Holdings;
use globalfs_dataplane::home::receive::Receiver;
use globalfs_dataplane::locks::LockKeeper;
use globalfs_dataplane::origin::{self, Origin};
use globalfs_dataplane::replicas::{Masters, Replicas};
use globalfs_dataplane::route::Routed;
use globalfs_dataplane::{Source, disk, fetch};
use globalfs_proto::PeerIdentity;
use globalfs_transport::{Endpoint, Identity, Options};
use handover::HandOver;
use leases::Leases;
use limits::SiteLimits;
use peers::Peers;
use replicas::SiteRules;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use traces::Traces;
use view::View;

/// A site's daemon, ready to run.
pub struct SiteDaemon {
    config: SiteConfig,
    files: CertFiles,
    endpoint: Endpoint,
    origin: Origin,
    cache: Cache,
    peers: Arc<Peers>,
    view: Arc<View>,
    handler: Arc<SiteHandler>,
    traces: Arc<Traces>,
    origin_reachable: Arc<AtomicBool>,
    leases: Leases,
    replicas: Replicas,
    masters: Masters,
    routed: Routed,
    lease_events: mpsc::UnboundedReceiver<LeaseEvent>,
    agent_stop: CancellationToken,
}

impl SiteDaemon {
    /// Opens everything that the daemon needs; fails with words for the administrator.
    pub async fn open(config: SiteConfig) -> Result<Self> {
        let files = CertFiles::load(&config.state_dir)?;
        let (found, wanted) =
            (files.identity().map_err(anyhow::Error::msg)?, PeerIdentity::Site(config.name.clone()));
        let dir = config.state_dir.display();
        ensure!(
            found == wanted,
            "the certificate in {dir} is that of {found}, the configuration is for {wanted}"
        );
        let OriginUrl::File(directory) = &config.origin;
        let disk = disk::open(config.disk)?;
        let options = origin::Options {
            read_only: config.read_only,
            ids: config.ids.clone(),
            ..origin::Options::default()
        };
        let origin = Origin::open(directory, &config.name, disk, options)?;
        let cache = open_cache(&config.cache.dir, config.cache.size.0, config.disk).await?;
        let identity =
            Identity::from_pem(files.certificate.as_bytes(), files.key.as_bytes(), files.ca.as_bytes())?;
        let endpoint = Endpoint::bind(Options::server(config.listen), identity)?;
        let view = Arc::new(View::open(&config.name, &config.state_dir, &config.coordinator, &files).await?);
        let fetch_options = fetch::Options { metadata_ttl: config.metadata_ttl, ..fetch::Options::default() };
        let agent_stop = CancellationToken::new();
        let options = AgentOptions {
            site: config.name.clone(),
            coordinator: config.coordinator.to_string(),
            files: files.clone(),
            file: config.state_dir.join("leases.json"),
            idle: leases::IDLE,
        };
        let (agent, lease_events) = LeaseAgent::start(options, agent_stop.clone())?;
        let holdings = Holdings::open(&config.state_dir.join("changed"))?;
        let rules = SiteRules { view: view.clone(), holdings: holdings.clone() };
        let replicas = Replicas::open(&config.state_dir.join("replicas"), origin.clone(), Arc::new(rules))?;
        let peers =
            Peers::new(endpoint.clone(), cache.clone(), view.clone(), fetch_options, replicas.clone());
        let peers = Arc::new(peers);
        let limits = Arc::new(SiteLimits::new(view.clone()));
        let masters = replicas::masters(&view, &origin, &peers, &limits);
        let direct =
            DirectWrites::open(&config.state_dir.join("direct"), origin.clone(), holdings.clone()).await?;
        let leases = (view.clone(), peers.clone(), replicas.clone());
        let leases = Leases::new(leases, origin.clone(), holdings.clone(), agent);
        let routed = Routed::new(view.clone(), Arc::new(origin.clone()) as Arc<dyn Source>, peers.clone());
        let routed = routed.with_leases(holdings, Arc::new(leases.clone())).with_direct(direct);
        let (moved, looking) = (routed.on_placement_change(), replicas.clone());
        view.on_change(Box::new(move |changes| {
            looking.changed(&changes);
            moved(changes);
        }));
        let store = Store::open(&config.state_dir.join("traces"))?;
        let traces = Arc::new(Traces::new(config.name.clone(), store, view.clone(), peers.clone()));
        let receiver = Receiver::new(origin.clone());
        let handover = HandOver::new(view.clone(), (peers.clone(), limits), routed.clone(), receiver);
        let locks = LockKeeper::open(&config.state_dir.join("locks"))?;
        let handler = SiteHandler::new(
            config.name.clone(),
            view.clone(),
            &routed,
            traces.clone(),
            (handover, replicas.clone()),
        );
        let handler = handler.with_locks(locks);
        Ok(Self {
            config,
            files,
            endpoint,
            origin,
            cache,
            peers,
            view,
            handler: Arc::new(handler),
            traces,
            origin_reachable: Arc::new(AtomicBool::new(true)),
            leases,
            replicas,
            masters,
            routed,
            lease_events,
            agent_stop,
        })
    }

    /// Serves until `stop`, then lets requests end for a short while.
    pub async fn run(self, stop: CancellationToken) -> Result<()> {
        let server = match self.config.metrics {
            Some(address) => {
                let reachable = self.origin_reachable.clone();
                let health = Arc::new(move || health(reachable.load(Ordering::Relaxed)));
                Some(MetricsServer::start(address, Arc::new(self.metrics()), health, stop.clone()).await?)
            }
            None => None,
        };
        let heart = tokio::spawn(self.heart().beat(stop.clone()));
        let (handler, stopping) = (self.handler.clone(), stop.clone());
        let watches = tokio::spawn(async move {
            stopping.cancelled().await;
            handler.end_watches();
        });
        let forwarder = tokio::spawn(self.traces.clone().forward(stop.clone()));
        self.reach_primary();
        let leases = self.leases.clone().run(self.routed.clone(), self.lease_events, stop.clone());
        let leases = tokio::spawn(leases);
        let replicas = tokio::spawn(self.replicas.clone().run(self.masters, stop.clone()));
        let (routed, stopping) = (self.routed.clone(), stop.clone());
        let direct = tokio::spawn(async move {
            stopping.run_until_cancelled(routed.look_after_direct()).await;
        });
        tracing::info!(
            site = %self.config.name,
            listen = %self.endpoint.local_addr(),
            origin = %self.config.origin,
            cache = %self.config.cache.dir.display(),
            "site_started"
        );
        self.endpoint.serve(self.handler.clone(), stop).await;
        self.endpoint.close().await;
        heart.await?;
        watches.await?;
        forwarder.await?;
        leases.await?;
        replicas.await?;
        direct.await?;
        self.agent_stop.cancel();
        if let Some(server) = server {
            server.stopped().await;
        }
        tracing::info!(site = %self.config.name, "site_stopped");
        Ok(())
    }

    /// Most of what nodes ask for first is there, so that nobody's first request waits for a handshake.
    fn reach_primary(&self) {
        let primary = self.view.now().cluster.default_primary.clone();
        if primary != self.config.name
            && let Err(error) = self.peers.remote(&primary)
        {
            tracing::debug!(%error, "the primary is not there yet");
        }
    }

    fn heart(&self) -> heartbeat::Heart {
        heartbeat::Heart {
            coordinator: self.config.coordinator.to_string(),
            files: self.files.clone(),
            address: self.config.advertise.to_string(),
            view: self.view.clone(),
            origin: self.origin.clone(),
            cache: self.cache.clone(),
            origin_reachable: self.origin_reachable.clone(),
            leases: self.leases.clone(),
            replicas: self.replicas.clone(),
        }
    }
}

fn health(origin_reachable: bool) -> Health {
    let mut details = serde_json::Map::new();
    details.insert("origin_reachable".into(), origin_reachable.into());
    Health { healthy: origin_reachable, details }
}
