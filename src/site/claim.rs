//! Becoming the master of a subtree: the lease, the home's word that it changes nothing more, all that is there, and the
//! coordinator's word to everybody.
//!
//! *Invariant:* a claim succeeds before the first change is made under it, or not at all: a node that has a file open for
//! writing never finds another file in its place.

use super::leases::Leases;
use globalfs_controlplane::leases::HeldLease;
use globalfs_controlplane::model::lease::LeaseScope;
use globalfs_dataplane::home::survey::{Limits, survey};
use globalfs_dataplane::route::{Master, Placement};
use globalfs_dataplane::{Deadline, Source};
use globalfs_proto::{Fence, FsError, FsResult, GlobalPath, HomeItem, SiteName};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// A subtree that is larger stays where it is: what is there would have to come here before the first change.
const LIMITS: Limits = Limits { entries: 20_000, bytes: 64 << 20 };

/// What the first change waits at most.
const CLAIM_LIMIT: Duration = Duration::from_secs(10);

/// After a claim that failed it is not tried again for so long; changes go to the master meanwhile.
const REST: Duration = Duration::from_secs(30);

/// Subtrees that are remembered for that.
const MAX_RESTING: usize = 4096;

/// Claims under way, and those that failed lately.
#[derive(Default)]
pub(super) struct Claiming {
    turns: Mutex<HashMap<GlobalPath, Weak<tokio::sync::Mutex<()>>>>,
    resting: Mutex<HashMap<GlobalPath, Instant>>,
}

/// One claim.
pub(super) struct Claim<'l> {
    leases: &'l Leases,
    master: &'l SiteName,
    deadline: Deadline,
}

impl Claiming {
    fn turn(&self, scope: &GlobalPath) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock();
        if let Some(turn) = turns.get(scope).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::default();
        turns.insert(scope.clone(), Arc::downgrade(&turn));
        turn
    }

    fn rests(&self, scope: &GlobalPath) -> bool {
        self.resting.lock().get(scope).is_some_and(|until| Instant::now() < *until)
    }

    fn rest(&self, scope: &GlobalPath) {
        let mut resting = self.resting.lock();
        let now = Instant::now();
        if resting.len() >= MAX_RESTING {
            resting.retain(|_, until| now < *until);
        }
        if resting.len() < MAX_RESTING {
            resting.insert(scope.clone(), now + REST);
        }
    }
}

impl<'l> Claim<'l> {
    pub(super) fn new(leases: &'l Leases, master: &'l SiteName, deadline: Deadline) -> Self {
        let deadline = deadline.min(Deadline::after(CLAIM_LIMIT.min(deadline.remaining() / 2)));
        Self { leases, master, deadline }
    }

    /// Claims the largest subtree around `path` that policy permits and that is not too large. True: this site may change
    /// `path` now.
    pub(super) async fn run(&self, path: &GlobalPath) -> bool {
        let inner = &self.leases.0;
        let candidates = inner.view.claimable(path, self.master);
        let Some(first) = candidates.iter().find(|scope| !inner.claiming.rests(scope)).cloned() else {
            return false;
        };
        let turn = inner.claiming.turn(&first);
        let Ok(_turn) = self.deadline.bound(async { Ok(turn.lock_owned().await) }).await else {
            return false;
        };
        if inner.view.writer(path) == Ok(Master::Here) {
            return true;
        }
        for scope in candidates {
            if inner.claiming.rests(&scope) {
                continue;
            }
            match self.deadline.bound(self.claim(&scope)).await {
                Ok(true) => return true,
                Ok(false) => inner.claiming.rest(&scope),
                Err(error) => {
                    tracing::info!(%scope, %error, "lease_not_taken: changes go to the master");
                    inner.claiming.rest(&scope);
                    return false;
                }
            }
        }
        false
    }

    /// False: it is too large, or not there.
    async fn claim(&self, scope: &GlobalPath) -> FsResult<bool> {
        let home = self.leases.0.peers.remote(self.master)?;
        if survey(&*home, scope, LIMITS, self.deadline).await?.is_none() {
            return Ok(false);
        }
        // Copies of what is to be changed here are copies no more.
        let _reserved = self.leases.0.replicas.give_up(scope).await?;
        self.check_own(scope).await?;
        let lease_scope = LeaseScope::subtree(scope.clone());
        let failed =
            |error: globalfs_controlplane::leases::AcquireError| FsError::Unreachable(error.to_string());
        let within = self.deadline.remaining() / 2;
        let lease = self.leases.0.agent.acquire(lease_scope, within).await.map_err(failed)?;
        let release = ReleaseUnlessTaken { leases: self.leases, lease: Some(lease.clone()) };
        self.take_over(scope, &lease).await?;
        self.leases.0.agent.ready(lease.request, self.deadline.remaining()).await.map_err(failed)?;
        while self.leases.0.view.writer(scope) != Ok(Master::Here) {
            self.leases.0.view.refresh().await;
        }
        release.taken();
        tracing::info!(%scope, epoch = lease.epoch.0, "lease_taken");
        Ok(true)
    }

    /// What is at that place in this site's own origin would be shown, and go home: it must not be somebody's.
    async fn check_own(&self, scope: &GlobalPath) -> FsResult<()> {
        match self.leases.0.origin.list(scope, self.deadline).await {
            Err(FsError::NOT_FOUND) => Ok(()),
            Ok(listing) if listing.is_empty() => Ok(()),
            Ok(_) => Err(FsError::Refused(format!(
                "{scope} is in this site's origin, and not from {}",
                self.master
            ))),
            Err(error) => Err(error),
        }
    }

    async fn take_over(&self, scope: &GlobalPath, lease: &HeldLease) -> FsResult<()> {
        let (inner, fence) = (&self.leases.0, Fence(lease.epoch.0));
        let home = inner.peers.remote(self.master)?;
        home.take_over(scope, fence, self.deadline).await?;
        let grown = || FsError::Limit(format!("{scope} has grown meanwhile"));
        let mut items = self.directories_above(&*home, scope).await?;
        items.extend(survey(&*home, scope, LIMITS, self.deadline).await?.ok_or_else(grown)?);
        // Kept before anything is here: what a crash leaves is known as what came from home.
        let holding = inner.holdings.hold(scope, fence)?;
        inner.receiver.bring_all(items, home.clone(), self.deadline).await?;
        self.leases.begin_syncing(holding);
        Ok(())
    }

    /// Those that this site's origin does not have.
    async fn directories_above(&self, home: &dyn Source, scope: &GlobalPath) -> FsResult<Vec<HomeItem>> {
        let mut items = Vec::new();
        for path in std::iter::successors(scope.parent(), GlobalPath::parent) {
            match self.leases.0.origin.stat(&path, self.deadline).await {
                Ok(_) => break,
                Err(FsError::NOT_FOUND) => {
                    let attr = Some(home.stat(&path, self.deadline).await?);
                    items.push(HomeItem { path, attr, same_as: None });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(items)
    }
}

/// A lease that nobody changes anything under goes back.
struct ReleaseUnlessTaken<'l> {
    leases: &'l Leases,
    lease: Option<HeldLease>,
}

impl ReleaseUnlessTaken<'_> {
    fn taken(mut self) {
        self.lease = None;
    }
}

impl Drop for ReleaseUnlessTaken<'_> {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            self.leases.0.agent.release(lease.request);
        }
    }
}
