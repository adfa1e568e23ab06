//! Who may ask a site's daemon, and what each kind of peer gets to see.

use super::handover::HandOver;
use super::traces::Traces;
use super::view::View;
use async_trait::async_trait;
use bytes::Bytes;
use globalfs_dataplane::Deadline;
use globalfs_dataplane::home::side;
use globalfs_dataplane::locks::LockKeeper;
use globalfs_dataplane::replicas::Replicas;
use globalfs_dataplane::route::{Master, Placement, Routed};
use globalfs_dataplane::serve::{ServeCounters, Server};
use globalfs_proto::{FsError, FsResult, PeerIdentity, Request, Response, SiteName};
use globalfs_transport::{Handler, Reply};
use std::sync::Arc;
use std::time::Duration;

/// Serves the whole tree to the site's own nodes, and to other sites what is mastered here.
pub(super) struct SiteHandler {
    here: SiteName,
    view: Arc<View>,
    nodes: Server,
    sites: Server,
    traces: Arc<Traces>,
    handover: HandOver,
    replicas: Replicas,
}

impl SiteHandler {
    pub(super) fn new(
        here: SiteName,
        view: Arc<View>,
        routed: &Routed,
        traces: Arc<Traces>,
        (handover, replicas): (HandOver, Replicas),
    ) -> Self {
        Self {
            handover,
            replicas,
            here,
            view,
            nodes: Server::new(routed.for_nodes(), Arc::new(|_| Ok(()))),
            sites: Server::new(routed.for_sites(), Arc::new(|_| Ok(()))),
            traces,
        }
    }

    /// Keeps the locks of the site's nodes in `keeper`.
    pub(super) fn with_locks(self, keeper: LockKeeper) -> Self {
        Self { nodes: self.nodes.with_locks(keeper), ..self }
    }

    /// Ends the answers that tell changes, which would go on for minutes.
    pub(super) fn end_watches(&self) {
        self.nodes.end_watches();
        self.sites.end_watches();
    }

    /// What was served to nodes and to sites.
    pub(super) fn counters(&self) -> [(&'static str, ServeCounters); 2] {
        [("nodes", self.nodes.counters()), ("sites", self.sites.counters())]
    }
}

#[async_trait]
impl Handler for SiteHandler {
    async fn admit(&self, peer: &PeerIdentity, key_fingerprint: &str) -> Result<(), String> {
        let fits = match peer {
            PeerIdentity::Site(site) => *site != self.here,
            PeerIdentity::Node(_, site) => *site == self.here,
            PeerIdentity::Coordinator | PeerIdentity::Admin => false,
        };
        if !fits {
            return Err(format!("{peer} has no business with the daemon of site {}", self.here));
        }
        // Who joined a moment ago is in the coordinator's view and not yet in ours. Asked twice, since the
        // first answer may have been on its way before.
        for _ in 0..2 {
            if self.view.now().admits(peer, key_fingerprint) {
                return Ok(());
            }
            self.view.refresh().await;
        }
        if !self.view.now().admits(peer, key_fingerprint) {
            return Err(format!("{peer} is not registered, or no longer; join again with a new token"));
        }
        Ok(())
    }

    async fn handle(
        &self,
        peer: &PeerIdentity,
        request: Request,
        budget: Duration,
        reply: &mut Reply,
    ) -> FsResult<()> {
        if Traces::takes(&request) {
            let answer = self.traces.answer(peer, request, Deadline::after(budget)).await?;
            return reply.send(&Response::Bytes(answer)).await;
        }
        match (peer, request) {
            (PeerIdentity::Site(site), Request::TakeOver { scope, fence }) => {
                self.handover.hand_over(site, &scope, fence, Deadline::after(budget)).await?;
                reply.send(&Response::Bytes(Bytes::new())).await
            }
            (PeerIdentity::Site(site), Request::BringHome(bring)) => {
                let settled = self.handover.bring_home(site, bring, Deadline::after(budget)).await?;
                side::send(settled, reply).await
            }
            (PeerIdentity::Site(site), Request::Replicate(path, attr)) => {
                if self.view.master(&path) != Master::Site(site.clone()) {
                    return Err(FsError::Elsewhere(format!("{site} is not the master of {path}")));
                }
                self.replicas.bring_now(&path, attr, Deadline::after(budget)).await?;
                reply.send(&Response::Bytes(Bytes::new())).await
            }
            (PeerIdentity::Node(..), request) => self.nodes.handle(peer, request, budget, reply).await,
            (PeerIdentity::Site(_), request) => self.sites.handle(peer, request, budget, reply).await,
            (other, _) => Err(FsError::Refused(format!("{other} may not read files"))),
        }
    }
}
