//! Write leases of this site: when nodes change what another site masters, the subtree comes here; what is changed is
//! brought home in the background; and when nobody uses it any more, or others ask for it, it goes home.
//!
//! *Invariants:* this site is the master of a subtree only after its home has stopped changing it, all of it is here, and
//! the coordinator has told everybody. It goes home only when nothing is owed and no change is under way.

use super::claim::{Claim, Claiming};
use super::peers::Peers;
use super::view::View;
use async_trait::async_trait;
use globalfs_controlplane::leases::{HeldLease, LeaseAgent, LeaseEvent};
use globalfs_controlplane::model::lease::holder::Ending;
use globalfs_controlplane::model::record::PendingChanges;
use globalfs_controlplane::model::timestamp::Timestamp;
use globalfs_dataplane::home::holdings::{Holding, Holdings};
use globalfs_dataplane::home::receive::Receiver;
use globalfs_dataplane::home::syncer::{Home, Syncer};
use globalfs_dataplane::model::urgency::Rank;
use globalfs_dataplane::origin::Origin;
use globalfs_dataplane::replicas::Replicas;
use globalfs_dataplane::route::{Claims, Routed};
use globalfs_dataplane::{Deadline, Source};
use globalfs_proto::{Attr, BringHome, Fence, FsError, FsResult, GlobalPath, HomeItem, Settled, SiteName};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

/// A lease that was not used for so long goes home.
pub(super) const IDLE: Duration = Duration::from_secs(600);

/// Between two words to the coordinator that a lease is in use.
const TOUCH_EVERY: Duration = Duration::from_secs(5);

/// Paths owed at which changes stop, so that the rest comes home and the lease with it.
const FEW: u64 = 64;

/// What changes wait at most for the rest to come home; then they go on, and it is tried again.
const CLOSED_LIMIT: Duration = Duration::from_secs(2);

/// Paths that are named of those which are not home.
const SHOWN_PATHS: usize = 100;

/// What is waited before it is tried again.
const DRAIN_AGAIN: Duration = Duration::from_millis(200);

/// Who still waits then asks again.
const HURRY_LIMIT: Duration = Duration::from_secs(10);

/// How often it is looked whether all is home.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What is left of a deadline for the answer to reach who asked.
const FOR_THE_ANSWER: Duration = Duration::from_secs(1);

const EIO: i32 = 5;

/// All of it. Clones are one.
#[derive(Clone)]
pub(super) struct Leases(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) view: Arc<View>,
    pub(super) peers: Arc<Peers>,
    pub(super) replicas: Replicas,
    pub(super) origin: Origin,
    pub(super) receiver: Receiver,
    pub(super) holdings: Holdings,
    pub(super) agent: LeaseAgent,
    pub(super) claiming: Claiming,
    routed: OnceLock<Routed>,
    syncers: Mutex<BTreeMap<GlobalPath, AbortHandle>>,
    touched: Mutex<BTreeMap<GlobalPath, Instant>>,
}

/// The way to wherever a subtree is at home.
struct HomeOf {
    view: Arc<View>,
    peers: Arc<Peers>,
}

impl Leases {
    pub(super) fn new(
        (view, peers, replicas): (Arc<View>, Arc<Peers>, Replicas),
        origin: Origin,
        holdings: Holdings,
        agent: LeaseAgent,
    ) -> Self {
        let receiver = Receiver::new(origin.clone());
        Self(Arc::new(Inner {
            view,
            peers,
            replicas,
            origin,
            receiver,
            holdings,
            agent,
            claiming: Claiming::default(),
            routed: OnceLock::new(),
            syncers: Mutex::default(),
            touched: Mutex::default(),
        }))
    }

    /// Goes on where the last start has ended, and then with what happens to leases, until `stop`.
    pub(super) async fn run(
        self,
        routed: Routed,
        mut events: mpsc::UnboundedReceiver<LeaseEvent>,
        stop: CancellationToken,
    ) {
        let _ = self.0.routed.set(routed);
        self.recover().await;
        while let Some(Some(event)) = stop.run_until_cancelled(events.recv()).await {
            match event {
                LeaseEvent::ViewChanged => self.0.view.want(),
                LeaseEvent::Replicate(path, number) => {
                    self.0.replicas.ask(&path, number);
                    self.0.view.want();
                }
                LeaseEvent::Hurry(lease) => drop(tokio::spawn(self.clone().hurry(lease))),
                LeaseEvent::Drain(lease) => drop(tokio::spawn(self.clone().drain(lease))),
                LeaseEvent::Ended(lease, ending) => drop(tokio::spawn(self.clone().end(lease, ending))),
            }
        }
        self.0.syncers.lock().values().for_each(AbortHandle::abort);
    }

    /// A lease without a holding was not taken over to the end; a holding without a lease has ended.
    async fn recover(&self) {
        let held = self.0.agent.held();
        for holding in self.0.holdings.all() {
            match held.iter().find(|lease| lease.scope.path == holding.scope) {
                Some(lease) if !lease.ready => {}
                Some(lease) if Fence(lease.epoch.0) == holding.fence => self.begin_syncing(holding),
                _ if holding.owes_nothing() => self.clear(&holding.scope).await,
                _ => self.set_aside(&holding).await,
            }
        }
        for lease in held {
            if !lease.ready || self.0.holdings.at(&lease.scope.path).is_none() {
                self.0.agent.release(lease.request);
            }
        }
    }

    pub(super) fn begin_syncing(&self, holding: Arc<Holding>) {
        let home = HomeOf { view: self.0.view.clone(), peers: self.0.peers.clone() };
        let origin = Arc::new(self.0.origin.clone()) as Arc<dyn Source>;
        let syncer = Syncer::new(self.0.holdings.clone(), holding.clone(), origin, Arc::new(home));
        let task = tokio::spawn(syncer.run());
        if let Some(before) = self.0.syncers.lock().insert(holding.scope.clone(), task.abort_handle()) {
            before.abort();
        }
    }

    /// Somebody waits: the coordinator is told what is owed now, and when nothing is any more.
    async fn hurry(self, lease: HeldLease) {
        self.0.view.want();
        let Some(holding) = self.0.holdings.at(&lease.scope.path) else { return };
        let until = Instant::now() + HURRY_LIMIT;
        holding.hurry();
        while !holding.owes_nothing() && Instant::now() < until {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.0.view.want();
    }

    /// Brings the rest home. Changes go on until little is owed, and wait then.
    async fn drain(self, lease: HeldLease) {
        let scope = &lease.scope.path;
        if let Some(holding) = self.0.holdings.at(scope).filter(|holding| holding.scope == *scope) {
            tracing::info!(%scope, owed = holding.debt(&self.0.holdings).paths, "lease_draining");
            while !self.close_when_home(&holding).await {
                tokio::time::sleep(DRAIN_AGAIN).await;
                if !self.is_held(&holding) {
                    return;
                }
            }
        }
        self.0.agent.drained(lease.request);
    }

    /// Whether it is still what this site holds: it may have been given up meanwhile.
    fn is_held(&self, holding: &Arc<Holding>) -> bool {
        self.0.holdings.at(&holding.scope).is_some_and(|held| Arc::ptr_eq(&held, holding))
    }

    /// True: all is home, and nothing is changed any more.
    async fn close_when_home(&self, holding: &Holding) -> bool {
        holding.hurry();
        let debt = holding.debt(&self.0.holdings);
        // While home is away nobody waits for it.
        if debt.paths > FEW || (debt.paths > 0 && holding.trouble().is_some()) {
            return false;
        }
        if self.tell_open(holding).await {
            return false;
        }
        holding.close(true);
        if let Some(routed) = self.0.routed.get() {
            routed.settled().await;
        }
        // Somebody may have begun until then.
        if self.tell_open(holding).await {
            holding.close(false);
            return false;
        }
        let until = Instant::now() + CLOSED_LIMIT;
        while Instant::now() < until {
            holding.hurry();
            if holding.owes_nothing() {
                return true;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        holding.close(false);
        false
    }

    /// Whether a node has a file there open that its kernel writes to by itself, which would be lost: says which.
    async fn tell_open(&self, holding: &Holding) -> bool {
        let Some(routed) = self.0.routed.get() else { return false };
        let open = routed.open_below(&holding.scope).await;
        let Some(path) = open else { return false };
        holding.tell_trouble(format!("{path} is open for writing on a node that sees the origin"));
        self.0.view.want();
        true
    }

    /// The lease is over.
    async fn end(self, lease: HeldLease, ending: Ending) {
        let scope = lease.scope.path;
        let Some(holding) = self.0.holdings.at(&scope).filter(|holding| holding.scope == scope) else {
            return;
        };
        holding.close(true);
        // Until then it is this site that is asked, and it must not say that the subtree is gone.
        while self.0.view.has_lease(&scope, holding.fence) {
            self.0.view.refresh().await;
        }
        if ending == Ending::Released && holding.owes_nothing() {
            tracing::info!(%scope, "lease_returned");
            self.clear(&scope).await;
        } else {
            self.set_aside(&holding).await;
        }
    }

    /// What is here of a subtree that has gone home is not needed.
    async fn clear(&self, scope: &GlobalPath) {
        self.stop_syncing(scope);
        let gone = HomeItem { path: scope.clone(), attr: None, same_as: None };
        let own = Arc::new(self.0.origin.clone()) as Arc<dyn Source>;
        let removed = self.0.receiver.bring_all(vec![gone], own, claim_deadline()).await;
        let forgotten = removed.and_then(|()| self.0.holdings.forget(scope));
        if let Err(error) = forgotten {
            tracing::warn!(%scope, %error, "cannot remove what has gone home");
        }
        self.0.replicas.look_at(scope);
    }

    /// An administrator has given up what was not home: it stays under another name, where one can look for it.
    async fn set_aside(&self, holding: &Holding) {
        let (scope, owed) = (&holding.scope, holding.debt(&self.0.holdings).paths);
        self.stop_syncing(scope);
        match self.0.origin.set_aside(scope, holding.fence, claim_deadline()).await {
            Ok(place) => {
                tracing::error!(%scope, owed, %place, "lease_abandoned: what was not home was set aside")
            }
            Err(FsError::NOT_FOUND) => {}
            Err(error) => return tracing::error!(%scope, owed, %error, "cannot set aside what was abandoned"),
        }
        if let Err(error) = self.0.holdings.forget(scope) {
            tracing::error!(%scope, %error, "cannot forget a lease");
        }
    }

    fn stop_syncing(&self, scope: &GlobalPath) {
        self.0.syncers.lock().remove(scope).into_iter().for_each(|syncer| syncer.abort());
        self.0.touched.lock().remove(scope);
    }

    /// Subtrees that are held.
    pub(super) fn count(&self) -> usize {
        self.0.holdings.all().len()
    }

    /// The age of the oldest change that is not home.
    pub(super) fn oldest_pending(&self) -> Option<Duration> {
        self.0.holdings.all().iter().filter_map(|holding| holding.debt(&self.0.holdings).oldest).max()
    }

    /// Paths of a subtree that are owed for longer than its policy permits.
    fn late(&self, holding: &Holding) -> u64 {
        let deadline = self.0.view.now().policies.sync_deadline(&holding.scope);
        deadline.map_or(0, |deadline| holding.late(deadline, &self.0.holdings))
    }

    /// What is not home, for the heartbeat.
    pub(super) fn pending(&self) -> Vec<PendingChanges> {
        let pending = |holding: Arc<Holding>| {
            let debt = holding.debt(&self.0.holdings);
            (debt.paths > 0).then(|| PendingChanges {
                path: holding.scope.clone(),
                files: debt.paths,
                bytes: debt.bytes,
                oldest: debt.oldest.map(ago),
                paths: holding.some_paths(SHOWN_PATHS),
                trouble: holding.trouble(),
                late: self.late(&holding),
            })
        };
        self.0.holdings.all().into_iter().filter_map(pending).collect()
    }
}

pub(super) fn claim_deadline() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

pub(super) fn ago(age: Duration) -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(i64::try_from(since.saturating_sub(age).as_millis()).unwrap_or(i64::MAX))
}

#[async_trait]
impl Claims for Leases {
    async fn claim(&self, path: &GlobalPath, master: &SiteName, deadline: Deadline) -> bool {
        Claim::new(self, master, deadline).run(path).await
    }

    async fn look_again(&self) {
        self.0.view.refresh().await;
    }

    async fn replicate(
        &self,
        path: &GlobalPath,
        attr: &Attr,
        sites: Vec<SiteName>,
        deadline: Deadline,
    ) -> FsResult<()> {
        let left = deadline.remaining();
        // The error shall say more than that it was late.
        let limit = deadline.min(Deadline::after(left.saturating_sub(FOR_THE_ANSWER.min(left / 4))));
        for site in sites {
            let asked = async { self.0.peers.remote(&site)?.replicate(path, *attr, limit).await };
            limit.bound(asked).await.map_err(|error| {
                tracing::warn!(%path, %site, %error, "critical_change_not_replicated");
                FsError::Os(EIO)
            })?;
        }
        Ok(())
    }

    fn used(&self, path: &GlobalPath) {
        let Some(holding) = self.0.holdings.at(path) else { return };
        let mut touched = self.0.touched.lock();
        if touched.get(&holding.scope).is_none_or(|at| at.elapsed() >= TOUCH_EVERY) {
            touched.insert(holding.scope.clone(), Instant::now());
            self.0.agent.touch(&holding.scope);
        }
    }
}

#[async_trait]
impl Home for HomeOf {
    async fn bring_home(
        &self,
        bring: BringHome,
        deadline: Deadline,
    ) -> FsResult<mpsc::Receiver<FsResult<Settled>>> {
        let nobody = || FsError::Refused(format!("{} has no home: its policy names no primary", bring.scope));
        let home = self.view.home(&bring.scope).ok_or_else(nobody)?;
        self.peers.remote(&home)?.bring_home(bring, deadline).await
    }

    fn rank(&self, scope: &GlobalPath) -> Rank {
        let now = self.view.now();
        Rank { priority: now.policies.priority(scope), deadline: now.policies.sync_deadline(scope) }
    }
}
