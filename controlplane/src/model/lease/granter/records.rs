//! Write leases and their durable records.
//!
//! *Invariant:* nothing is told of a record before it is durable, and nothing is granted over it before its removal
//! is.

use super::queue::Waiting;
use super::sites::Id;
use super::writes::{Stage, WriteLease};
use super::{AbandonError, Action, Ask, Granter, RecordChange, RecoverError, Timer};
use crate::model::lease::message::ToHolder;
use crate::model::lease::term::outlasts;
use crate::model::lease::types::{Epoch, LeaseId, LeaseScope, Stamp, WriteRecord};
use globalfs_proto::SiteName;

impl Granter {
    /// A record that is read back. Its holder may have renewed just before the restart.
    pub(super) fn recover_record(
        &mut self,
        site: &SiteName,
        record: WriteRecord,
    ) -> Result<(), RecoverError> {
        let WriteRecord { request, scope, epoch, abandoned } = record;
        if epoch > self.last_epoch {
            return Err(RecoverError::Epoch { epoch, last: self.last_epoch });
        }
        let id = Id { site: self.sites.enter(site).ok_or(RecoverError::Sites)?, request };
        if self.writes.held_against(id.site, &scope) {
            return Err(RecoverError::Overlap { site: site.clone(), path: scope.path.to_string() });
        }
        let stage = if abandoned { Stage::Fenced } else { Stage::Held };
        if abandoned {
            self.tell_abandoned(id, &scope, self.last_epoch);
        }
        self.insert_write(id, WriteLease { stage, ..self.new_write(scope, epoch, None) });
        self.arm(id);
        Ok(())
    }

    fn tell_abandoned(&mut self, id: Id, scope: &LeaseScope, epoch: Epoch) {
        let lease = LeaseId { site: self.sites.name(id.site).clone(), request: id.request };
        self.actions.push_back(Action::Abandoned { lease, scope: scope.clone(), epoch });
    }

    fn new_write(&self, scope: LeaseScope, epoch: Epoch, stamp: Option<Stamp>) -> WriteLease {
        WriteLease {
            scope,
            epoch,
            stage: Stage::Recording,
            expires: self.now + outlasts(self.terms.write),
            fence: epoch,
            stamp,
            heard: self.now,
            alarm: None,
            recalled: None,
            released: false,
        }
    }

    fn insert_write(&mut self, id: Id, lease: WriteLease) {
        self.sites.get_mut(id.site).writes += 1;
        self.writes.insert(id, lease);
    }

    /// Begins to grant: nobody is told before the record is durable.
    pub(super) fn record_write(&mut self, Waiting { id, scope, stamp, .. }: Waiting) {
        let read = self.sites.others(id.site).any(|(_, other)| other.reads_anything_in(&scope));
        assert!(!read, "no write lease is granted over another site's read lease");
        self.last_epoch = self.last_epoch.next();
        self.insert_write(id, self.new_write(scope, self.last_epoch, Some(stamp)));
        self.put_record(id);
    }

    fn put_record(&mut self, id: Id) {
        if let Some(record) = self.writes.get(id).map(|lease| lease.record(id)) {
            self.persist(id, RecordChange::Put(record));
        }
    }

    fn remove_record(&mut self, id: Id) {
        if let Some(lease) = self.writes.get_mut(id) {
            lease.stage = Stage::Removing;
            self.persist(id, RecordChange::Remove(id.request));
        }
    }

    fn persist(&mut self, id: Id, change: RecordChange) {
        self.last_ticket.0 += 1;
        self.persisting.push_back((self.last_ticket, id));
        self.actions.push_back(Action::Persist {
            ticket: self.last_ticket,
            site: self.sites.name(id.site).clone(),
            change,
            last_epoch: self.last_epoch,
        });
    }

    pub(super) fn on_persisted(&mut self, id: Id) {
        let lease = self.writes.get(id).expect("a lease stays until its record is removed");
        match lease.stage {
            Stage::Recording => self.on_recorded(id),
            Stage::Marking => self.on_marked(id),
            Stage::Removing => self.on_removed(id),
            Stage::Held | Stage::Fenced => panic!("nothing of this lease was to be persisted"),
        }
    }

    fn on_recorded(&mut self, id: Id) {
        let until = self.now + outlasts(self.terms.write);
        let Some(lease) = self.writes.get_mut(id) else { return };
        if lease.released {
            return self.remove_record(id);
        }
        (lease.stage, lease.expires, lease.heard) = (Stage::Held, until, self.now);
        let (scope, epoch, stamp) = (lease.scope.clone(), lease.epoch, lease.stamp);
        self.generations.raise(&scope, epoch);
        self.arm(id);
        stamp.into_iter().for_each(|stamp| self.send_write_grant(id, stamp));
        self.queue.recall_anew(&scope);
        self.serve_around(&scope);
    }

    fn send_write_grant(&mut self, id: Id, stamp: Stamp) {
        let Some(lease) = self.writes.get(id) else { return };
        let (epoch, request, term) = (lease.epoch, id.request, self.terms.write);
        let grant = ToHolder::Grant { request, epoch: Some(epoch), generation: epoch.into(), stamp, term };
        self.send(id, grant);
    }

    /// True when nothing new is to be granted: the lease exists, or its holder believes so.
    pub(super) fn renew_write(&mut self, ask: &Ask) -> bool {
        let (now, until) = (self.now, self.now + outlasts(self.terms.write));
        let (id, request) = (ask.id, ask.id.request);
        let Some(lease) = self.writes.get_mut(id) else {
            // What was abandoned is over for its holder, who may have changed what others then changed.
            let Some(epoch) = ask.held else { return false };
            self.send(id, ToHolder::Ended { request, epoch });
            return true;
        };
        let over = matches!(lease.stage, Stage::Fenced | Stage::Removing);
        if let Some(epoch) = ask.held.filter(|epoch| over || *epoch != lease.epoch) {
            self.send(id, ToHolder::Ended { request, epoch });
        } else if matches!(lease.stage, Stage::Recording | Stage::Held) {
            (lease.stamp, lease.heard) = (Some(ask.stamp), now);
            if lease.stage == Stage::Held {
                lease.expires = until;
                self.send_write_grant(id, ask.stamp);
            }
        }
        true
    }

    /// The holder uses the lease no more, whatever stage it is in.
    pub(super) fn release_write(&mut self, id: Id) {
        let Some(lease) = self.writes.get_mut(id) else { return };
        match lease.stage {
            Stage::Recording | Stage::Marking => lease.released = true,
            Stage::Held | Stage::Fenced => self.remove_record(id),
            Stage::Removing => {}
        }
    }

    fn on_removed(&mut self, id: Id) {
        let Some(lease) = self.writes.remove(id) else { return };
        self.sites.get_mut(id.site).writes -= 1;
        lease.alarm.into_iter().for_each(|at| {
            self.timers.remove(&(at, Timer::Write(id)));
        });
        self.serve_around(&lease.scope);
    }

    /// The new epoch is the fence; the record keeps its own, by which its holder is told.
    pub(super) fn on_abandon(&mut self, id: Id) -> Result<(), AbandonError> {
        let lease = self.writes.get_mut(id).ok_or(AbandonError::Unknown)?;
        match lease.stage {
            Stage::Recording => return Err(AbandonError::Recording),
            Stage::Removing => return Err(AbandonError::Unknown),
            Stage::Marking | Stage::Fenced => return Ok(()),
            Stage::Held => lease.stage = Stage::Marking,
        }
        self.last_epoch = self.last_epoch.next();
        lease.fence = self.last_epoch;
        self.put_record(id);
        Ok(())
    }

    fn on_marked(&mut self, id: Id) {
        let Some(lease) = self.writes.get_mut(id) else { return };
        lease.stage = Stage::Fenced;
        let (scope, epoch, fence, released) = (lease.scope.clone(), lease.epoch, lease.fence, lease.released);
        self.generations.raise(&scope, fence);
        self.tell_abandoned(id, &scope, fence);
        if released {
            return self.remove_record(id);
        }
        self.send(id, ToHolder::Ended { request: id.request, epoch });
        self.arm(id);
    }

    /// Sets the timer of a lease: a silent holder is asked, a fenced one waited for.
    fn arm(&mut self, id: Id) {
        let (check, again) = (self.terms.write / 2, self.terms.read);
        let now = self.now;
        let Some(lease) = self.writes.get_mut(id) else { return };
        let at = match lease.stage {
            Stage::Fenced => lease.expires,
            _ if lease.heard + check > now => lease.heard + check,
            _ => now + again,
        };
        let before = lease.alarm.replace(at);
        before.into_iter().for_each(|before| {
            self.timers.remove(&(before, Timer::Write(id)));
        });
        self.timers.insert((at, Timer::Write(id)));
    }

    pub(super) fn write_alarm(&mut self, id: Id) {
        let (now, check) = (self.now, self.terms.write / 2);
        let Some(lease) = self.writes.get_mut(id) else { return };
        lease.alarm = None;
        match lease.stage {
            Stage::Fenced if lease.expires <= now => self.remove_record(id),
            Stage::Held if lease.heard + check <= now => {
                self.send(id, ToHolder::Check { request: id.request });
                self.arm(id);
            }
            Stage::Held | Stage::Fenced => self.arm(id),
            Stage::Recording | Stage::Marking | Stage::Removing => {}
        }
    }
}
