//! A site in the simulation: a holder that may crash, what it keeps, and applications that want leases.

use super::machine::{Clock, Disk, Random, Wake};
use crate::model::lease::holder::{Action, Holder};
use crate::model::lease::types::{Incarnation, LeaseKind, LeaseScope, RequestNumber, WriteRecord};
use globalfs_proto::SiteName;
use std::collections::BTreeMap;
use std::time::Duration;

/// Longer than a simulation: leases are given back only when they are recalled.
const NEVER: Duration = Duration::from_secs(3600);

/// A change of what a site keeps.
#[derive(Debug)]
pub(super) enum Change {
    Put(WriteRecord),
    Remove(RequestNumber),
}

/// What an application waits for.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) kind: LeaseKind,
    pub(super) scope: LeaseScope,
    pub(super) since: Duration,
}

/// The machine with its clock, disk and applications.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) name: SiteName,
    pub(super) clock: Clock,
    pub(super) records: BTreeMap<RequestNumber, WriteRecord>,
    disk: Disk<Change>,
    pub(super) holder: Option<Holder>,
    pub(super) incarnation: Incarnation,
    idle: Duration,
    pub(super) wake: Option<Wake>,
    /// What is asked for and not yet granted.
    pub(super) wanted: BTreeMap<RequestNumber, Wanted>,
    /// Of all leases of this start, also ended ones.
    pub(super) scopes: BTreeMap<RequestNumber, (LeaseKind, LeaseScope)>,
}

impl Site {
    pub(super) fn new(random: &mut Random, number: usize) -> Self {
        Self {
            name: SiteName::new(&format!("site-{number}")).expect("a name"),
            clock: Clock::any(random),
            records: BTreeMap::new(),
            disk: Disk::default(),
            holder: None,
            incarnation: Incarnation::default(),
            idle: if random.chance(500) { random.millis(2_000, 40_000) } else { NEVER },
            wake: None,
            wanted: BTreeMap::new(),
            scopes: BTreeMap::new(),
        }
    }

    pub(super) fn start(&mut self, now: Duration) {
        self.incarnation = self.incarnation.next();
        let records: Vec<WriteRecord> = self.records.values().cloned().collect();
        self.scopes = records.iter().map(|r| (r.request, (LeaseKind::Write, r.scope.clone()))).collect();
        let local = self.clock.read(now);
        self.holder = Some(Holder::recover(self.incarnation, records, self.idle, local));
    }

    pub(super) fn crash(&mut self, random: &mut Random) {
        self.holder = None;
        self.wake = None;
        self.wanted.clear();
        self.disk.crash(random).into_iter().for_each(|change| self.apply(change));
        if random.chance(500) {
            self.clock.restart(random);
        }
    }

    /// Runs `event` with the holder and what its clock shows.
    pub(super) fn with<T>(
        &mut self,
        now: Duration,
        event: impl FnOnce(&mut Holder, Duration) -> T,
    ) -> Option<T> {
        let local = self.clock.read(now);
        self.holder.as_mut().map(|holder| event(holder, local))
    }

    pub(super) fn acquire(&mut self, wanted: Wanted, now: Duration) {
        let (kind, scope) = (wanted.kind, wanted.scope.clone());
        let asked = self.with(now, |holder, local| holder.acquire(kind, scope.clone(), local));
        if let Some(Ok(request)) = asked {
            self.scopes.insert(request, (kind, scope));
            self.wanted.insert(request, wanted);
        }
    }

    /// Begins what a driver does to its disk and says when it is durable.
    pub(super) fn begin(&mut self, action: Action, at: Duration) -> Option<Duration> {
        let change = match action {
            Action::Persist(record) => Change::Put(record),
            Action::Forget(request) => Change::Remove(request),
            _ => return None,
        };
        Some(self.disk.begin(at, change))
    }

    pub(super) fn disk_done(&mut self, now: Duration) {
        let Some(change) = self.disk.done(now) else { return };
        match &change {
            Change::Put(record) => {
                let (request, epoch) = (record.request, record.epoch);
                self.apply(change);
                self.with(now, |holder, local| holder.persisted(request, epoch, local));
            }
            Change::Remove(request) => {
                let request = *request;
                self.apply(change);
                self.with(now, |holder, local| holder.forgotten(request, local));
            }
        }
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Put(record) => self.records.insert(record.request, record),
            Change::Remove(request) => self.records.remove(&request),
        };
    }

    pub(super) fn poll(&mut self) -> Option<Action> {
        self.holder.as_mut()?.poll()
    }

    /// When the holder wants to be called, in true time.
    pub(super) fn next_wake(&self) -> Option<Duration> {
        Some(self.clock.when(self.holder.as_ref()?.next_wake()?))
    }
}
