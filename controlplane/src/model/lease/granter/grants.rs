//! Requests: who is served now, who waits, and who is asked to make room.

use super::queue::{Arrival, Waiting};
use super::sites::{Id, ReadLease, SiteKey};
use super::writes::Stage;
use super::{Ask, Granter, Timer};
use crate::model::lease::message::ToHolder;
use crate::model::lease::term::outlasts;
use crate::model::lease::types::{LeaseKind, LeaseScope, RequestNumber, Stamp};
use crate::model::lease::{
    MAX_RECALLS_AT_ONCE, MAX_WAITING_PER_SITE, MAX_WRITE_LEASES_PER_SITE, RECALL_INTERVAL, WAITING_EXPIRY,
};

impl Granter {
    pub(super) fn on_ask(&mut self, ask: Ask) {
        let known = match ask.kind {
            LeaseKind::Read => self.renew_read(&ask),
            LeaseKind::Write => self.renew_write(&ask),
        };
        if !known && !self.queue.repeated(ask.id, ask.stamp, self.now) {
            self.on_new(ask);
        }
    }

    fn on_new(&mut self, ask: Ask) {
        let Ask { id, kind, scope, stamp, .. } = ask;
        let request = Waiting { id, kind, scope, stamp, heard: self.now, recalled: None };
        if !self.has_room(id.site, kind) {
            self.send(id, ToHolder::Busy { request: id.request });
        } else if self.may_be_served(&request, None) {
            self.grant(request);
        } else if self.sites.get(id.site).waiting < MAX_WAITING_PER_SITE {
            self.wait(request);
        } else {
            self.send(id, ToHolder::Busy { request: id.request });
        }
    }

    fn has_room(&self, site: SiteKey, kind: LeaseKind) -> bool {
        let site = self.sites.get(site);
        match kind {
            LeaseKind::Read => site.has_room(),
            LeaseKind::Write => site.writes < MAX_WRITE_LEASES_PER_SITE,
        }
    }

    fn wait(&mut self, request: Waiting) {
        self.sites.get_mut(request.id.site).waiting += 1;
        let arrival = self.queue.push(request);
        self.look_again();
        self.timers.insert((self.now + WAITING_EXPIRY, Timer::WaitingExpires(arrival)));
        self.serve(arrival);
    }

    /// Serves those who wait for something in `scope` and need not any more, in order of arrival.
    pub(super) fn serve_around(&mut self, scope: &LeaseScope) {
        if !self.queue.is_empty() {
            self.queue.around(scope).into_iter().for_each(|arrival| self.serve(arrival));
        }
    }

    /// Grants what a request wants, or recalls what is in its way when its turn has come.
    pub(super) fn serve(&mut self, arrival: Arrival) {
        let Some(request) = self.queue.get(arrival) else { return };
        if self.may_be_served(request, Some(arrival)) {
            self.serve_now(arrival);
        } else if !self.queue.conflicts((request.id.site, request.kind, &request.scope), Some(arrival))
            && let Some(request) = self.queue.recalls(arrival, self.now)
        {
            self.recall_against(&request);
        }
    }

    fn serve_now(&mut self, arrival: Arrival) {
        let Some(request) = self.queue.remove(arrival) else { return };
        self.sites.get_mut(request.id.site).waiting -= 1;
        if self.has_room(request.id.site, request.kind) {
            self.grant(request);
        } else {
            self.send(request.id, ToHolder::Busy { request: request.id.request });
        }
    }

    /// Whether nobody who came before and no lease is in the way.
    fn may_be_served(&self, request: &Waiting, arrival: Option<Arrival>) -> bool {
        let Waiting { id, kind, scope, .. } = request;
        let paused = *kind == LeaseKind::Write && self.now < self.paused_until;
        !paused
            && !self.queue.conflicts((id.site, *kind, scope), arrival)
            && !self.held_against(id.site, *kind, scope)
    }

    /// Whether a lease of another site is in the way. What a site does itself is its own to order, but for a second write
    /// lease on one path: its record would take the place of the first one's.
    fn held_against(&self, site: SiteKey, kind: LeaseKind, scope: &LeaseScope) -> bool {
        self.writes.held_against(site, scope)
            || kind == LeaseKind::Write
                && (self.writes.has_path(scope)
                    || self.sites.others(site).any(|(_, other)| other.reads_anything_in(scope)))
    }

    fn grant(&mut self, request: Waiting) {
        match request.kind {
            LeaseKind::Read => self.grant_read(request),
            LeaseKind::Write => self.record_write(request),
        }
    }

    fn grant_read(&mut self, Waiting { id, scope, stamp, .. }: Waiting) {
        let expires = self.now + outlasts(self.terms.read);
        self.timers.insert((expires, Timer::ReadExpires(id)));
        self.send_read_grant(id, &scope, stamp);
        let lease = ReadLease { scope, expires, alarm: expires, recalled: None };
        self.sites.get_mut(id.site).insert_read(id.request, lease);
    }

    /// True when the read lease exists. It is renewed unless someone waits to write there.
    fn renew_read(&mut self, ask: &Ask) -> bool {
        let Some(lease) = self.sites.get_mut(ask.id.site).read(ask.id.request) else { return false };
        let scope = lease.scope.clone();
        if self.queue.conflicts((ask.id.site, LeaseKind::Read, &scope), None) {
            self.recall_read(ask.id);
            return true;
        }
        lease.expires = self.now + outlasts(self.terms.read);
        self.send_read_grant(ask.id, &scope, ask.stamp);
        true
    }

    fn send_read_grant(&mut self, id: Id, scope: &LeaseScope, stamp: Stamp) {
        let (generation, term) = (self.generations.of(scope), self.terms.read);
        self.send(id, ToHolder::Grant { request: id.request, epoch: None, generation, stamp, term });
    }

    pub(super) fn read_alarm(&mut self, id: Id) {
        let now = self.now;
        let Some(lease) = self.sites.get_mut(id.site).read(id.request) else { return };
        if lease.expires <= now {
            return self.end_read(id);
        }
        lease.alarm = lease.expires;
        let alarm = lease.alarm;
        self.timers.insert((alarm, Timer::ReadExpires(id)));
    }

    fn end_read(&mut self, id: Id) {
        if let Some(lease) = self.sites.get_mut(id.site).remove_read(id.request) {
            self.timers.remove(&(lease.alarm, Timer::ReadExpires(id)));
            self.serve_around(&lease.scope);
        }
    }

    /// Asks all whose leases are in the way to give them back, each once in [`RECALL_INTERVAL`].
    fn recall_against(&mut self, request: &Waiting) {
        let (site, scope) = (request.id.site, &request.scope);
        let in_the_way = self.writes.against(site, scope);
        let matters = |id: &Id| id.site != site || request.kind == LeaseKind::Write;
        in_the_way.into_iter().filter(matters).for_each(|id| self.recall_write(id));
        if request.kind == LeaseKind::Write {
            let now = self.now;
            let due = self.sites.others(site).flat_map(|(site, other)| {
                let ids = move |request: RequestNumber| Id { site, request };
                other.reads_to_recall(scope, now).into_iter().map(ids)
            });
            let due: Vec<Id> = due.take(MAX_RECALLS_AT_ONCE).collect();
            due.into_iter().for_each(|id| self.recall_read(id));
        }
    }

    fn recall_read(&mut self, id: Id) {
        let now = self.now;
        let Some(lease) = self.sites.get_mut(id.site).read(id.request) else { return };
        if lease.is_to_be_recalled(now) {
            lease.recalled = Some(now);
            self.send(id, ToHolder::Recall { request: id.request, kind: LeaseKind::Read });
        }
    }

    fn recall_write(&mut self, id: Id) {
        let now = self.now;
        let Some(lease) = self.writes.get_mut(id).filter(|lease| lease.stage == Stage::Held) else { return };
        if lease.recalled.is_none_or(|at| at + RECALL_INTERVAL <= now) {
            lease.recalled = Some(now);
            self.send(id, ToHolder::Recall { request: id.request, kind: LeaseKind::Write });
        }
    }

    pub(super) fn on_release(&mut self, id: Id) {
        self.end_read(id);
        self.release_write(id);
        if let Some(arrival) = self.queue.find(id) {
            self.end_waiting(arrival);
        }
    }
}
