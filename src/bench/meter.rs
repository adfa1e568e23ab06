//! What moved: the node's own link, and the site's links to other sites as its metrics page tells.

use crate::local::Metrics;
use anyhow::{Context, Result};
use globalfs_dataplane::remote::Remote;
use std::net::SocketAddr;
use std::sync::Arc;

/// Reads the counters of both legs.
pub(super) struct Meter {
    remote: Arc<Remote>,
    site_metrics: Option<SocketAddr>,
}

/// Bytes that moved, since the start or between two readings.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Moved {
    /// Received by the node on its streams.
    pub(super) node_wire: u64,
    /// Bytes of chunks received by the node, decompressed.
    pub(super) node_fetched: u64,
    /// What the site received from other sites.
    pub(super) site: Option<SiteMoved>,
}

/// What a site received from other sites.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SiteMoved {
    /// On its streams.
    pub(super) wire: u64,
    /// Bytes of chunks, decompressed.
    pub(super) fetched: u64,
}

impl Meter {
    /// Counts on the link to the daemon and, where its address is known, on its metrics page.
    pub(super) fn new(remote: Arc<Remote>, site_metrics: Option<SocketAddr>) -> Self {
        Self { remote, site_metrics }
    }

    /// The daemon.
    pub(super) fn remote(&self) -> &Remote {
        &self.remote
    }

    /// All that moved so far.
    pub(super) async fn read(&self) -> Result<Moved> {
        let site = match self.site_metrics {
            Some(address) => Some(read_site(address).await?),
            None => None,
        };
        let node_wire = self.remote.peer().counters().bytes_received;
        Ok(Moved { node_wire, node_fetched: self.remote.counters().bytes, site })
    }
}

async fn read_site(address: SocketAddr) -> Result<SiteMoved> {
    let fetched = tokio::task::spawn_blocking(move || Metrics::fetch(address)).await?;
    let metrics = fetched.with_context(|| format!("cannot read the site's metrics at {address}"))?;
    let sum = |name| metrics.sum(name) as u64;
    Ok(SiteMoved {
        wire: sum("globalfs_replication_bytes_transferred"),
        fetched: sum("globalfs_fetched_bytes_total"),
    })
}

impl Moved {
    /// What moved after `before`.
    pub(super) fn since(self, before: Self) -> Self {
        let site = self.site.zip(before.site).map(|(now, then)| SiteMoved {
            wire: now.wire.saturating_sub(then.wire),
            fetched: now.fetched.saturating_sub(then.fetched),
        });
        Self {
            node_wire: self.node_wire.saturating_sub(before.node_wire),
            node_fetched: self.node_fetched.saturating_sub(before.node_fetched),
            site,
        }
    }

    /// Both together.
    pub(super) fn plus(self, other: Self) -> Self {
        let site = match (self.site, other.site) {
            (Some(a), Some(b)) => Some(SiteMoved { wire: a.wire + b.wire, fetched: a.fetched + b.fetched }),
            (a, b) => a.or(b),
        };
        Self {
            node_wire: self.node_wire + other.node_wire,
            node_fetched: self.node_fetched + other.node_fetched,
            site,
        }
    }
}
