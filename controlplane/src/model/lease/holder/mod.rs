//! The machine at a site: asks for leases, renews them, and gives them back.
//!
//! Events go in with the `now` of the site's monotonic clock; [`Holder::poll`] gives what is to be done.
//!
//! *Invariants:* a right ends a term after the request was *sent* that the granter answered; a write lease is
//! durable before it is used and forgotten, durably, before its release is told; no lease is used again after it
//! was drained; a request that ended never comes back, whatever arrives late.

mod answers;
mod entry;
#[cfg(test)]
mod tests;

use super::index::ScopeIndex;
use super::message::ToGranter;
use super::types::{
    Epoch, Generation, Incarnation, LeaseKind, LeaseScope, RequestNumber, Stamp, WriteRecord,
};
use super::{ASK_INTERVAL, MAX_REQUESTS_PER_HOLDER};
use entry::{Entry, Stage};
use globalfs_proto::GlobalPath;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// Why a lease or request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It was given back, drained, or the request was given up.
    Released,
    /// It was recalled before it was ever used: ask again if it is still wanted.
    Recalled,
    /// The term of a read lease ran out before it was renewed.
    Lapsed,
    /// An administrator gave it up: others may have written since. What was not brought home is to be set aside.
    Abandoned,
    /// A limit is reached: ask again later.
    Busy,
}

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send this to the granter.
    Send(ToGranter),
    /// Keep a write lease durably, in place of one with the same number; then call [`Holder::persisted`].
    Persist(WriteRecord),
    /// Forget a write lease durably, after what was to be persisted before; then call [`Holder::forgotten`].
    Forget(RequestNumber),
    /// The lease may be used, as long as [`Holder::begin`] says so.
    Granted {
        /// Its number.
        request: RequestNumber,
        /// To name in changes; reads have none.
        epoch: Option<Epoch>,
        /// What was cached under another generation may have changed.
        generation: Generation,
    },
    /// Finish what was begun, bring changes home, make readers forget; then call [`Holder::drained`].
    Drain(RequestNumber),
    /// The request or lease is over.
    Ended {
        /// Its number.
        request: RequestNumber,
        /// Why.
        ending: Ending,
    },
}

/// Under what an operation runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Right {
    /// The lease.
    pub request: RequestNumber,
    /// The fence to name in changes; reads have none.
    pub epoch: Option<Epoch>,
    /// How often the lease's scope has changed.
    pub generation: Generation,
}

/// More requests and leases than [`MAX_REQUESTS_PER_HOLDER`]: try again when some have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many leases and requests; try again later")]
pub struct TooMany;

/// The machine.
#[derive(Debug)]
pub struct Holder {
    incarnation: Incarnation,
    last_number: u64,
    now: Duration,
    /// Leases that nothing was begun under for so long are given back.
    idle: Duration,
    entries: BTreeMap<RequestNumber, Entry>,
    index: ScopeIndex<RequestNumber>,
    alarms: BTreeSet<(Duration, RequestNumber)>,
    actions: VecDeque<Action>,
}

impl Holder {
    /// Goes on with the write leases that are durable. They give no right before the granter has renewed them.
    ///
    /// `incarnation` is above that of all earlier starts.
    pub fn recover(
        incarnation: Incarnation,
        records: Vec<WriteRecord>,
        idle: Duration,
        now: Duration,
    ) -> Self {
        let mut holder = Self {
            incarnation,
            last_number: 0,
            now,
            idle,
            entries: BTreeMap::new(),
            index: ScopeIndex::default(),
            alarms: BTreeSet::new(),
            actions: VecDeque::new(),
        };
        for record in records {
            assert!(record.request.incarnation < incarnation, "incarnations grow");
            holder.insert(record.request, Entry::recovered(record, now));
            holder.tick(now);
        }
        holder
    }

    /// What is to be done next.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Self::tick`] is to be called at the latest.
    pub fn next_wake(&self) -> Option<Duration> {
        self.alarms.first().map(|(at, _)| *at)
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Duration) {
        self.now = self.now.max(now);
        while let Some((at, request)) = self.alarms.first().copied().filter(|(at, _)| *at <= self.now) {
            self.alarms.remove(&(at, request));
            self.ring(request);
        }
    }

    /// Asks for a lease, until it is granted or ends.
    pub fn acquire(
        &mut self,
        kind: LeaseKind,
        scope: LeaseScope,
        now: Duration,
    ) -> Result<RequestNumber, TooMany> {
        self.tick(now);
        if self.entries.len() >= MAX_REQUESTS_PER_HOLDER {
            return Err(TooMany);
        }
        self.last_number += 1;
        let request = RequestNumber { incarnation: self.incarnation, number: self.last_number };
        self.insert(request, Entry::new(kind, scope, self.now));
        self.tick(now);
        Ok(request)
    }

    /// Gives a lease back after a drain, or a request up.
    pub fn release(&mut self, request: RequestNumber, now: Duration) {
        self.tick(now);
        let Some(entry) = self.entries.get_mut(&request) else { return };
        match entry.stage {
            Stage::Waiting => self.give_up(request, Ending::Released),
            Stage::Persisting => entry.leaving = true,
            Stage::Held => self.drain(request),
            Stage::Draining | Stage::Forgetting => {}
        }
    }

    /// Whether an operation at `path` may begin: under which lease. Counts as use of the lease.
    pub fn begin(&mut self, kind: LeaseKind, path: &GlobalPath, now: Duration) -> Option<Right> {
        let right = self.find(kind, path, now, |entry| entry.stage == Stage::Held)?;
        self.entries.get_mut(&right.request)?.used = now;
        Some(right)
    }

    /// The leases that `path` lies in are in use, whether or not they give a right at this moment.
    pub fn touch(&mut self, path: &GlobalPath, now: Duration) {
        let mut used = Vec::new();
        self.index.any_overlapping(&LeaseScope::alone(path.clone()), |request| {
            used.push(request);
            false
        });
        for request in used {
            if let Some(entry) = self.entries.get_mut(&request) {
                entry.used = entry.used.max(now);
            }
        }
    }

    /// Whether an operation at `path` that was begun may be answered: that a change is acknowledged, or that what a
    /// cache holds is current. It was begun under a lease that is still held or drained.
    pub fn may_finish(&self, kind: LeaseKind, path: &GlobalPath, now: Duration) -> Option<Right> {
        self.find(kind, path, now, |entry| matches!(entry.stage, Stage::Held | Stage::Draining))
    }

    /// The scopes of the leases of `kind` under which operations may be answered at `now`.
    pub fn usable(
        &self,
        kind: LeaseKind,
        now: Duration,
    ) -> impl Iterator<Item = (RequestNumber, &LeaseScope, Right)> {
        self.entries
            .iter()
            .filter(move |(_, entry)| entry.kind == kind && entry.is_usable(now))
            .map(|(request, entry)| (*request, &entry.scope, entry.right(*request)))
    }

    /// The write leases that may have changes which are nowhere else.
    pub fn holds_writes(&self) -> impl Iterator<Item = (RequestNumber, &LeaseScope, Option<Epoch>)> {
        let held = |entry: &Entry| matches!(entry.stage, Stage::Held | Stage::Draining);
        let writes = self.entries.iter().filter(move |(_, e)| e.kind == LeaseKind::Write && held(e));
        writes.map(|(request, entry)| (*request, &entry.scope, entry.epoch))
    }

    /// The newest lease that permits `kind` at `path`.
    fn find(
        &self,
        kind: LeaseKind,
        path: &GlobalPath,
        now: Duration,
        stage: impl Fn(&Entry) -> bool,
    ) -> Option<Right> {
        let mut best: Option<Right> = None;
        self.index.any_overlapping(&LeaseScope::alone(path.clone()), |request| {
            let found = self.entries.get(&request).filter(|e| e.kind.permits(kind) && stage(e));
            if let Some(entry) = found.filter(|entry| entry.is_usable(now)) {
                let right = entry.right(request);
                best = best.filter(|best| best.epoch >= right.epoch).or(Some(right));
            }
            false
        });
        best
    }

    fn insert(&mut self, request: RequestNumber, entry: Entry) {
        self.index.insert(&entry.scope, request);
        self.alarms.extend(entry.alarm.map(|at| (at, request)));
        self.entries.insert(request, entry);
    }

    fn remove(&mut self, request: RequestNumber) -> Option<Entry> {
        let entry = self.entries.remove(&request)?;
        self.index.remove(&entry.scope, request);
        entry.alarm.map(|at| self.alarms.remove(&(at, request)));
        Some(entry)
    }

    /// Sets when the entry is looked at again.
    fn arm(&mut self, request: RequestNumber) {
        let Some(entry) = self.entries.get_mut(&request) else { return };
        entry.alarm.map(|at| self.alarms.remove(&(at, request)));
        entry.alarm = entry.next_alarm();
        self.alarms.extend(entry.alarm.map(|at| (at, request)));
    }

    fn ring(&mut self, request: RequestNumber) {
        let Some(entry) = self.entries.get(&request) else { return };
        if entry.has_lapsed(self.now) {
            return self.end(request, Ending::Lapsed);
        }
        if entry.is_idle(self.now, self.idle) {
            self.drain(request);
        } else if entry.asks() && entry.ask_at <= self.now {
            self.ask(request);
        }
        self.arm(request);
    }

    fn ask(&mut self, request: RequestNumber) {
        let stamp = Stamp { incarnation: self.incarnation, at: self.now };
        let Some(entry) = self.entries.get_mut(&request) else { return };
        entry.ask_at = self.now + ASK_INTERVAL;
        let (kind, scope) = (entry.kind, entry.scope.clone());
        let held = entry.epoch;
        self.actions.push_back(Action::Send(ToGranter::Ask { request, kind, scope, held, stamp }));
    }

    fn tell_release(&mut self, request: RequestNumber) {
        self.actions.push_back(Action::Send(ToGranter::Release { request }));
    }

    /// A request that is not a lease yet.
    fn give_up(&mut self, request: RequestNumber, ending: Ending) {
        self.tell_release(request);
        self.end(request, ending);
    }

    fn end(&mut self, request: RequestNumber, ending: Ending) {
        if self.remove(request).is_some() {
            self.actions.push_back(Action::Ended { request, ending });
        }
    }

    fn drain(&mut self, request: RequestNumber) {
        let Some(entry) = self.entries.get_mut(&request).filter(|e| e.stage == Stage::Held) else { return };
        entry.stage = Stage::Draining;
        self.actions.push_back(Action::Drain(request));
    }
}
