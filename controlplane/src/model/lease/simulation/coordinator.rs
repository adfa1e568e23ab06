//! A coordinator in the simulation: a granter that may crash, and a store that outlives it.

use super::machine::{Clock, Disk, Random, Wake};
use crate::model::lease::granter::{Action, Durable, Granter, RecordChange, Ticket};
use crate::model::lease::message::ToGranter;
use crate::model::lease::term::Terms;
use crate::model::lease::types::{Epoch, LeaseId, RequestNumber, WriteRecord};
use globalfs_proto::SiteName;
use std::collections::BTreeMap;
use std::time::Duration;

/// A transaction of the store.
#[derive(Debug)]
pub(super) struct Transaction {
    ticket: Ticket,
    pub(super) site: SiteName,
    pub(super) change: RecordChange,
    last_epoch: Epoch,
}

/// What survives.
#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) last_epoch: Epoch,
    pub(super) records: BTreeMap<(SiteName, RequestNumber), WriteRecord>,
}

impl Store {
    fn apply(&mut self, Transaction { site, change, last_epoch, .. }: Transaction) {
        assert!(last_epoch >= self.last_epoch, "epochs grow");
        self.last_epoch = last_epoch;
        match change {
            RecordChange::Put(record) => self.records.insert((site, record.request), record),
            RecordChange::Remove(request) => self.records.remove(&(site, request)),
        };
    }

    fn read(&self) -> Durable {
        let records = self.records.iter().map(|((site, _), record)| (site.clone(), record.clone()));
        Durable { last_epoch: self.last_epoch, records: records.collect() }
    }
}

/// The machine with its clock and store.
#[derive(Debug)]
pub(super) struct Coordinator {
    pub(super) clock: Clock,
    pub(super) store: Store,
    disk: Disk<Transaction>,
    granter: Option<Granter>,
    /// Which start this is.
    pub(super) life: u64,
    pub(super) wake: Option<Wake>,
}

impl Coordinator {
    pub(super) fn new(random: &mut Random) -> Self {
        let (store, disk) = (Store::default(), Disk::default());
        Self { clock: Clock::any(random), store, disk, granter: None, life: 0, wake: None }
    }

    pub(super) fn runs(&self) -> bool {
        self.granter.is_some()
    }

    pub(super) fn start(&mut self, terms: Terms, now: Duration) {
        self.life += 1;
        let granter = Granter::recover(terms, self.store.read(), self.clock.read(now));
        self.granter = Some(granter.expect("records are sound"));
    }

    pub(super) fn crash(&mut self, random: &mut Random) {
        self.granter = None;
        self.wake = None;
        self.disk.crash(random).into_iter().for_each(|transaction| self.store.apply(transaction));
        self.clock.restart(random);
    }

    pub(super) fn receive(&mut self, from: &SiteName, message: ToGranter, now: Duration) {
        let local = self.clock.read(now);
        if let Some(granter) = &mut self.granter {
            granter.receive(from, message, local);
        }
    }

    pub(super) fn tick(&mut self, now: Duration) {
        let local = self.clock.read(now);
        if let Some(granter) = &mut self.granter {
            granter.tick(local);
        }
    }

    /// Begins a transaction and says when it is durable.
    pub(super) fn begin(&mut self, action: Action, at: Duration) -> Option<Duration> {
        let Action::Persist { ticket, site, change, last_epoch } = action else { return None };
        Some(self.disk.begin(at, Transaction { ticket, site, change, last_epoch }))
    }

    /// The transaction that is durable now has been made; the lease whose record it removed.
    pub(super) fn disk_done(&mut self, now: Duration) -> Option<(SiteName, RequestNumber)> {
        let transaction = self.disk.done(now)?;
        let (ticket, site) = (transaction.ticket, transaction.site.clone());
        let removed = match transaction.change {
            RecordChange::Remove(request) => Some((site, request)),
            RecordChange::Put(_) => None,
        };
        self.store.apply(transaction);
        let local = self.clock.read(now);
        if let Some(granter) = &mut self.granter {
            granter.persisted(ticket, local);
        }
        removed
    }

    /// Gives up a lease that one of these sites holds, if any does.
    pub(super) fn abandon_any(
        &mut self,
        random: &mut Random,
        of: &[SiteName],
        now: Duration,
    ) -> Option<LeaseId> {
        let local = self.clock.read(now);
        let granter = self.granter.as_mut()?;
        let held: Vec<LeaseId> = granter
            .records()
            .filter(|(site, _)| of.contains(site))
            .map(|(site, record)| LeaseId { site: site.clone(), request: record.request })
            .collect();
        let lease = held.get(random.below(held.len().max(1)))?;
        granter.abandon(lease, local).is_ok().then(|| lease.clone())
    }

    pub(super) fn poll(&mut self) -> Option<Action> {
        self.granter.as_mut()?.poll()
    }

    pub(super) fn check(&self) {
        self.granter.iter().for_each(Granter::check);
    }

    /// When the granter wants to be called, in true time.
    pub(super) fn next_wake(&self) -> Option<Duration> {
        Some(self.clock.when(self.granter.as_ref()?.next_wake()?))
    }
}
