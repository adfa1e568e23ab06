//! What the granter and the driver answer.
//!
//! *Invariant:* a grant counts only for a request that waits or is held, from a stamp of this incarnation whose term
//! is not over; who is told of a lease that is not known here says that it is released.

use super::entry::Stage;
use super::{Action, Ending, Holder};
use crate::model::lease::message::ToHolder;
use crate::model::lease::types::{Epoch, Generation, LeaseKind, RequestNumber, Stamp};
use std::time::Duration;

/// The granter's word, with the time until which it holds here.
#[derive(Debug, Clone, Copy)]
struct Grant {
    request: RequestNumber,
    epoch: Option<Epoch>,
    generation: Generation,
    until: Duration,
}

impl Holder {
    /// A message of the granter.
    pub fn receive(&mut self, message: ToHolder, now: Duration) {
        self.tick(now);
        match message {
            ToHolder::Grant { request, epoch, generation, stamp, term } => {
                self.on_grant(Grant { request, epoch, generation, until: self.until(stamp, term) });
            }
            ToHolder::Recall { request, kind } => self.on_recall(request, kind),
            ToHolder::Check { request } => self.on_check(request),
            ToHolder::Busy { request } => self.on_busy(request),
            ToHolder::Ended { request, epoch } => self.on_ended(request, epoch),
        }
    }

    /// What was asked for in [`Action::Persist`] is durable.
    pub fn persisted(&mut self, request: RequestNumber, epoch: Epoch, now: Duration) {
        self.tick(now);
        let Some(entry) = self.entries.get_mut(&request) else { return };
        if entry.stage != Stage::Persisting || entry.epoch != Some(epoch) {
            return;
        }
        (entry.stage, entry.used) = (Stage::Held, now);
        let (generation, leaving) = (entry.generation, entry.leaving);
        self.actions.push_back(Action::Granted { request, epoch: Some(epoch), generation });
        if leaving {
            self.drain(request);
        }
        self.arm(request);
    }

    /// What was asked for in [`Action::Drain`] is done.
    pub fn drained(&mut self, request: RequestNumber, now: Duration) {
        self.tick(now);
        let Some(entry) = self.entries.get_mut(&request).filter(|e| e.stage == Stage::Draining) else {
            return;
        };
        match entry.kind {
            LeaseKind::Read => self.give_up(request, Ending::Released),
            LeaseKind::Write => {
                entry.stage = Stage::Forgetting;
                self.actions.push_back(Action::Forget(request));
                self.arm(request);
            }
        }
    }

    /// What was asked for in [`Action::Forget`] is done.
    pub fn forgotten(&mut self, request: RequestNumber, now: Duration) {
        self.tick(now);
        if self.entries.get(&request).is_some_and(|entry| entry.stage == Stage::Forgetting) {
            self.give_up(request, Ending::Released);
        }
    }

    /// Zero for a stamp of another incarnation: its clock may have stood anywhere.
    fn until(&self, stamp: Stamp, term: Duration) -> Duration {
        if stamp.incarnation == self.incarnation { stamp.at.saturating_add(term) } else { Duration::ZERO }
    }

    fn on_grant(&mut self, grant: Grant) {
        let Some(entry) = self.entries.get(&grant.request) else {
            let kind = if grant.epoch.is_some() { LeaseKind::Write } else { LeaseKind::Read };
            return self.disown(grant.request, kind);
        };
        if entry.epoch.is_some() && grant.epoch > entry.epoch {
            // The one held here was abandoned, and the granter took a late request for a new one.
            return self.lose(grant.request);
        }
        let stale = grant.until <= self.now || grant.epoch < entry.epoch;
        if stale || grant.epoch.is_some() != (entry.kind == LeaseKind::Write) {
            return;
        }
        match entry.stage {
            Stage::Waiting => self.take(grant),
            Stage::Persisting | Stage::Held | Stage::Draining => self.prolong(grant),
            Stage::Forgetting => {}
        }
    }

    fn take(&mut self, grant: Grant) {
        let Some(entry) = self.entries.get_mut(&grant.request) else { return };
        entry.epoch = grant.epoch;
        entry.used = self.now;
        match grant.epoch {
            Some(epoch) => {
                entry.stage = Stage::Persisting;
                self.actions.push_back(Action::Persist(entry.record(grant.request, epoch)));
            }
            None => entry.stage = Stage::Held,
        }
        self.prolong(grant);
        if grant.epoch.is_none() {
            self.tell_granted(grant);
        }
    }

    fn tell_granted(&mut self, Grant { request, epoch, generation, .. }: Grant) {
        self.actions.push_back(Action::Granted { request, epoch, generation });
    }

    /// Renews after a third of what is left, so that two renewals may be lost.
    fn prolong(&mut self, grant: Grant) {
        let Some(entry) = self.entries.get_mut(&grant.request) else { return };
        entry.until = entry.until.max(grant.until);
        entry.ask_at = entry.ask_at.max(self.now + entry.until.saturating_sub(self.now) / 3);
        entry.generation = entry.generation.max(grant.generation);
        self.arm(grant.request);
    }

    /// Says that a lease is not known here. Read leases of earlier incarnations run out instead: nodes of this site
    /// may still use what they cached under them.
    fn disown(&mut self, request: RequestNumber, kind: LeaseKind) {
        if kind == LeaseKind::Write || request.incarnation == self.incarnation {
            self.tell_release(request);
        }
    }

    fn on_recall(&mut self, request: RequestNumber, kind: LeaseKind) {
        let Some(entry) = self.entries.get_mut(&request) else {
            return self.disown(request, kind);
        };
        match (entry.stage, kind) {
            // It was granted, and this came first. A write lease is taken first, so that it was of some use.
            (Stage::Waiting, LeaseKind::Read) => self.give_up(request, Ending::Recalled),
            (Stage::Waiting | Stage::Persisting, _) => entry.leaving = true,
            (Stage::Held, _) => {
                self.drain(request);
                self.arm(request);
            }
            (Stage::Draining | Stage::Forgetting, _) => {}
        }
    }

    fn on_check(&mut self, request: RequestNumber) {
        match self.entries.get(&request) {
            None => self.disown(request, LeaseKind::Write),
            Some(entry) if entry.asks() => {
                self.ask(request);
                self.arm(request);
            }
            Some(_) => {}
        }
    }

    fn on_busy(&mut self, request: RequestNumber) {
        if self.entries.get(&request).is_some_and(|entry| entry.stage == Stage::Waiting) {
            self.give_up(request, Ending::Busy);
        }
    }

    fn on_ended(&mut self, request: RequestNumber, epoch: Epoch) {
        match self.entries.get(&request) {
            None => self.disown(request, LeaseKind::Write),
            Some(entry) if entry.epoch == Some(epoch) && entry.stage != Stage::Forgetting => {
                self.lose(request)
            }
            Some(_) => {}
        }
    }

    /// The write lease was abandoned. The granter hears that nothing more is acknowledged under it.
    fn lose(&mut self, request: RequestNumber) {
        self.actions.push_back(Action::Forget(request));
        self.give_up(request, Ending::Abandoned);
    }
}
