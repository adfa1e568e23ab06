//! The site's heartbeat: tells the coordinator how the site is and learns what has changed.

use super::leases::Leases;
use super::replicas;
use super::view::View;
use globalfs_controlplane::client::{ClientError, ControlClient};
use globalfs_controlplane::files::CertFiles;
use globalfs_controlplane::model::record::Health;
use globalfs_controlplane::service::HEARTBEAT_INTERVAL;
use globalfs_dataplane::Deadline;
use globalfs_dataplane::cache::Cache;
use globalfs_dataplane::origin::Origin;
use globalfs_dataplane::replicas::Replicas;
use globalfs_proto::FsStat;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What the origin is given to answer: a hung storage must not silence the site.
const ORIGIN_LIMIT: Duration = Duration::from_secs(3);

/// How soon the coordinator is tried again after it did not answer.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// The least time between two heartbeats, however often an unknown peer makes us ask.
const LEAST_PAUSE: Duration = Duration::from_millis(100);

/// Sends the heartbeats of one site.
pub(super) struct Heart {
    pub(super) coordinator: String,
    pub(super) files: CertFiles,
    pub(super) address: String,
    pub(super) view: Arc<View>,
    pub(super) origin: Origin,
    pub(super) cache: Cache,
    pub(super) origin_reachable: Arc<AtomicBool>,
    pub(super) leases: Leases,
    pub(super) replicas: Replicas,
}

impl Heart {
    /// Beats until `stop`.
    pub(super) async fn beat(self, stop: CancellationToken) {
        let mut client = None;
        let mut fine = true;
        loop {
            let result = self.once(&mut client).await;
            let pause = *result.as_ref().unwrap_or(&RETRY_AFTER);
            match result {
                Ok(_) if !fine => tracing::info!(coordinator = self.coordinator, "coordinator_back"),
                Err(error) if fine => tracing::warn!(%error, "heartbeat_failed"),
                result => tracing::debug!(ok = result.is_ok(), "heartbeat"),
            }
            fine = client.is_some();
            let rest = async {
                tokio::time::sleep(LEAST_PAUSE.min(pause)).await;
                let _ = tokio::time::timeout(pause, self.view.wanted()).await;
            };
            if stop.run_until_cancelled(rest).await.is_none() {
                return;
            }
        }
    }

    async fn once(&self, client: &mut Option<ControlClient>) -> Result<Duration, ClientError> {
        // First, since /health tells it also while there is no coordinator to be told.
        let health = self.health().await;
        let connected = match client.take() {
            Some(connected) => connected,
            None => ControlClient::connect(&self.coordinator, &self.files).await?,
        };
        let revision = self.view.now().cluster.revision;
        let answer = connected.heartbeat(&health, &self.address, revision).await?;
        if let Some(view) = answer.view {
            self.view.learn(view);
        }
        self.view.answered();
        *client = Some(connected);
        Ok(answer.interval.min(HEARTBEAT_INTERVAL))
    }

    async fn health(&self) -> Health {
        let asked = Deadline::after(ORIGIN_LIMIT);
        let disk = asked.bound(self.origin.probe(asked)).await;
        let was_reachable = self.origin_reachable.swap(disk.is_ok(), Ordering::Relaxed);
        match &disk {
            Ok(_) if !was_reachable => tracing::info!("origin_back"),
            Err(error) if was_reachable => tracing::error!(%error, "origin_unreachable"),
            _ => {}
        }
        let (stat, cache) = (disk.as_ref().copied().unwrap_or_default(), self.cache.counters());
        let bytes = |blocks: fn(&FsStat) -> u64| blocks(&stat).saturating_mul(stat.block_size);
        Health {
            cpu_load_percent: load_percent(),
            disk_free_bytes: bytes(|stat| stat.blocks_available),
            disk_total_bytes: bytes(|stat| stat.blocks),
            origin_reachable: disk.is_ok(),
            cache_used_bytes: cache.used_bytes,
            cache_quota_bytes: cache.quota_bytes,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pending: self.leases.pending(),
            replicas: replicas::health(&self.replicas, &self.view),
        }
    }
}

/// Load average over one minute, in percent of the processors.
fn load_percent() -> u32 {
    /// The kernel counts load in units of 1/65536.
    const UNIT: f64 = 65_536.0;
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (rustix::system::sysinfo().loads[0] as f64 / UNIT / processors as f64 * 100.0).round() as u32
}
