//! A connection to a site's daemon with everything that is measured around it.

use super::bound;
use super::load::Pass;
use super::meter::{Meter, Moved};
use super::{Bounds, PassReport, State};
use crate::Client;
use crate::cli::progress::Progress;
use crate::config::MountConfig;
use crate::node::Link;
use anyhow::Result;
use globalfs_proto::GlobalPath;
use globalfs_proto::limits::MAX_DEADLINE;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

/// What a benchmark works with.
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) bounds: Bounds,
    link: Link,
    meter: Meter,
}

/// Passes of one kind over one or more sets of files, added up.
pub(super) struct Tally {
    pub(super) pass: Pass,
    pub(super) moved: Moved,
}

impl Tally {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        Self { pass: Pass::empty(), moved: Moved::default() }
    }
}

impl Session {
    /// Connects as the node of `config` and measures the bounds.
    pub(super) async fn open(config: &Path, site_metrics: Option<SocketAddr>) -> Result<Self> {
        let link = Link::open(&MountConfig::load(config)?).await?;
        let meter = Meter::new(link.remote(), site_metrics);
        let bounds = bound::measure(meter.remote()).await?;
        // The longest deadline that there is: a slow link makes a large file slow, and that is the figure.
        let client = Client::over(link.remote(), MAX_DEADLINE);
        Ok(Self { client, bounds, link, meter })
    }

    /// Reads each of `files` once and adds what was seen and moved to `tally`.
    pub(super) async fn read(
        &self,
        tally: &mut Tally,
        files: Arc<[GlobalPath]>,
        concurrency: usize,
        progress: &mut Progress,
    ) -> Result<()> {
        let before = self.meter.read().await?;
        tally.pass.read(&self.client, files, concurrency, progress).await?;
        tally.moved = tally.moved.plus(self.meter.read().await?.since(before));
        Ok(())
    }

    /// The tally as a report tells it.
    pub(super) fn report(&self, of: (Option<u64>, usize, State), tally: &Tally) -> PassReport {
        PassReport::new(of, &tally.pass, tally.moved, &self.bounds)
    }

    /// Says goodbye to the daemon.
    pub(super) async fn close(self) -> Bounds {
        self.link.close().await;
        self.bounds
    }
}
