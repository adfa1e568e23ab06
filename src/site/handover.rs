//! What this site does as the home of subtrees that others hold: it hands them over, and takes back what was changed.
//!
//! *Invariant:* once a subtree was handed over this site changes nothing in it by itself until the coordinator says that the
//! lease is over; and it takes changes from the site alone that has the lease now.

use super::limits::SiteLimits;
use super::peers::Peers;
use super::view::View;
use globalfs_dataplane::Deadline;
use globalfs_dataplane::home::receive::Receiver;
use globalfs_dataplane::home::side::HomeSide;
use globalfs_dataplane::paced::Paced;
use globalfs_dataplane::route::Routed;
use globalfs_proto::{BringHome, Fence, FsError, FsResult, GlobalPath, Settled, SiteName};
use std::sync::Arc;
use tokio::sync::mpsc;

/// The home's side of leases.
pub(super) struct HandOver {
    view: Arc<View>,
    peers: Arc<Peers>,
    limits: Arc<SiteLimits>,
    routed: Routed,
    side: HomeSide,
}

impl HandOver {
    pub(super) fn new(
        view: Arc<View>,
        (peers, limits): (Arc<Peers>, Arc<SiteLimits>),
        routed: Routed,
        receiver: Receiver,
    ) -> Self {
        Self { view, peers, limits, routed, side: HomeSide::new(receiver) }
    }

    /// Returns when nothing is changed here in `scope` any more.
    pub(super) async fn hand_over(
        &self,
        to: &SiteName,
        scope: &GlobalPath,
        fence: Fence,
        deadline: Deadline,
    ) -> FsResult<()> {
        self.check(to, scope, fence, deadline).await?;
        let settle = async {
            self.routed.settled().await;
            Ok(())
        };
        deadline.bound(settle).await?;
        // What the kernel of a node writes would be lost here afterwards, and nobody would be told.
        match self.routed.open_below(scope).await {
            Some(path) => Err(FsError::Refused(format!(
                "{path} is open for writing at its home, on a node that sees the origin"
            ))),
            None => Ok(()),
        }
    }

    /// Brings home what the holder has changed.
    pub(super) async fn bring_home(
        &self,
        from: &SiteName,
        bring: BringHome,
        deadline: Deadline,
    ) -> FsResult<mpsc::Receiver<Settled>> {
        self.check(from, &bring.scope, bring.fence, deadline).await?;
        let from = Paced::new(self.peers.remote(from)?, self.limits.clone());
        self.side.bring_home(bring, Arc::new(from), deadline).await
    }

    /// Whether `site` has the lease. The coordinator may have told it a moment earlier than us.
    async fn check(
        &self,
        site: &SiteName,
        scope: &GlobalPath,
        fence: Fence,
        deadline: Deadline,
    ) -> FsResult<()> {
        for _ in 0..2 {
            if self.view.is_holder(site, scope, fence) {
                return Ok(());
            }
            self.view.refresh().await;
            if deadline.remaining().is_zero() {
                return Err(FsError::Deadline);
            }
        }
        if self.view.is_holder(site, scope, fence) {
            return Ok(());
        }
        Err(FsError::Refused(format!(
            "{site} has no lease on {scope} with epoch {}, as far as known here",
            fence.0
        )))
    }
}
