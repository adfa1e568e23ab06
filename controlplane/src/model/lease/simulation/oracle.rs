//! Sees all machines at one true instant, and knows what must never be.

use super::coordinator::Store;
use super::site::Site;
use crate::model::lease::WAITING_EXPIRY;
use crate::model::lease::holder::Right;
use crate::model::lease::types::{Epoch, Generation, LeaseKind, LeaseScope, RequestNumber, WriteRecord};
use globalfs_proto::SiteName;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A request as the coordinator has seen it, in order of arrival.
#[derive(Debug)]
struct Seen {
    site: SiteName,
    request: RequestNumber,
    kind: LeaseKind,
    scope: LeaseScope,
    heard: Duration,
}

/// What it remembers.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    /// The highest epoch and generation that a site was granted for a scope.
    written: BTreeMap<(SiteName, LeaseScope), Generation>,
    read: BTreeMap<(SiteName, LeaseScope), Generation>,
    told: BTreeMap<LeaseScope, Generation>,
    granted: BTreeMap<Epoch, (SiteName, RequestNumber)>,
    last_recorded: Epoch,
    abandoned: BTreeSet<(SiteName, RequestNumber)>,
    waiting: Vec<Seen>,
    served: BTreeSet<(SiteName, RequestNumber)>,
}

impl Oracle {
    /// What site `which` may do now, others must not be able to contradict.
    pub(super) fn check(&self, sites: &[Site], which: usize, store: &Store, now: Duration) {
        let site = &sites[which];
        let writes = rights(site, LeaseKind::Write, now);
        let reads = rights(site, LeaseKind::Read, now);
        for other in sites.iter().enumerate().filter(|(n, _)| *n != which).map(|(_, other)| other) {
            for (request, scope, _) in rights(other, LeaseKind::Write, now) {
                let clash = writes.iter().chain(&reads).find(|(_, own, _)| own.overlaps(scope));
                assert!(
                    clash.is_none(),
                    "{} writes {scope:?} by {request:?}, {} has {clash:?}",
                    other.name,
                    site.name
                );
            }
            for (request, scope, _) in rights(other, LeaseKind::Read, now) {
                let clash = writes.iter().find(|(_, own, _)| own.overlaps(scope));
                assert!(
                    clash.is_none(),
                    "{} reads {scope:?} by {request:?}, {} has {clash:?}",
                    other.name,
                    site.name
                );
            }
        }
        writes.iter().for_each(|write| self.check_record(site, write, store));
    }

    /// Who may acknowledge changes finds its lease again after any crash, as does the coordinator.
    fn check_record(
        &self,
        site: &Site,
        (request, _, right): &(RequestNumber, &LeaseScope, Right),
        store: &Store,
    ) {
        let kept = site.records.get(request).map(|record| record.epoch);
        assert_eq!(kept, right.epoch, "{} keeps {request:?}", site.name);
        let recorded = store.records.get(&(site.name.clone(), *request)).map(|record| record.epoch);
        assert_eq!(recorded, right.epoch, "{request:?} of {} is recorded", site.name);
    }

    /// The coordinator's records change so: they go only when their holder has forgotten them or was given up.
    pub(super) fn on_removed(&self, sites: &[Site], (name, request): &(SiteName, RequestNumber)) {
        let site = sites.iter().find(|site| site.name == *name).expect("a site");
        let given_up = self.abandoned.contains(&(name.clone(), *request));
        let kept = site.records.contains_key(request);
        assert!(given_up || !kept, "{request:?} of {name} was removed while its holder had it");
    }

    pub(super) fn on_recorded(&mut self, record: &WriteRecord) {
        if !record.abandoned {
            assert!(
                record.epoch > self.last_recorded,
                "epochs only grow: {record:?} after {}",
                self.last_recorded
            );
            assert!(
                self.granted.range(record.epoch..).next().is_none(),
                "epochs only grow, over restarts too"
            );
            self.last_recorded = record.epoch;
        }
    }

    pub(super) fn on_abandoned(&mut self, site: SiteName, request: RequestNumber) {
        self.abandoned.insert((site, request));
    }

    /// A holder has taken a grant: it is newer than what others in its scope were granted before.
    pub(super) fn on_granted(&mut self, site: &SiteName, scope: &LeaseScope, right: Right) {
        let of_others = |map: &BTreeMap<(SiteName, LeaseScope), Generation>| {
            let found = map.iter().filter(|((other, at), _)| other != site && at.overlaps(scope));
            found.map(|(_, generation)| *generation).max().unwrap_or_default()
        };
        let key = (site.clone(), scope.clone());
        assert!(
            right.generation >= of_others(&self.written),
            "{site} sees all writes of others at {scope:?}"
        );
        if let Some(epoch) = right.epoch {
            let holder = (site.clone(), right.request);
            let before = self.granted.insert(epoch, holder.clone());
            assert!(before.is_none_or(|before| before == holder), "an epoch is of one lease");
            let read = of_others(&self.read);
            assert!(
                right.generation > read || read == Generation::default(),
                "readers of {scope:?} see a change"
            );
            raise(&mut self.written, key, right.generation);
        } else {
            raise(&mut self.read, key, right.generation);
        }
    }

    /// The coordinator tells a reader how often its scope has changed.
    pub(super) fn on_told(&mut self, scope: &LeaseScope, generation: Generation) {
        let before = self.told.insert(scope.clone(), generation).unwrap_or_default();
        assert!(generation >= before, "generations only grow");
    }

    /// A request reaches the coordinator. What is late, or of a lease, has no place in the queue.
    pub(super) fn on_ask(
        &mut self,
        site: &SiteName,
        (request, kind, scope): (RequestNumber, LeaseKind, &LeaseScope),
        held: bool,
        store: &Store,
        local: Duration,
    ) {
        let id = (site.clone(), request);
        self.waiting.retain(|seen| seen.heard + WAITING_EXPIRY > local);
        if let Some(seen) = self.waiting.iter_mut().find(|seen| seen.site == *site && seen.request == request)
        {
            seen.heard = local;
        } else if !held && !self.served.contains(&id) && !store.records.contains_key(&id) {
            self.waiting.push(Seen { site: id.0, request, kind, scope: scope.clone(), heard: local });
        }
    }

    /// The coordinator decides for a request: nobody who came before and conflicts still waits.
    pub(super) fn on_served(&mut self, site: &SiteName, request: RequestNumber, local: Duration) {
        self.served.insert((site.clone(), request));
        let Some(n) = self.waiting.iter().position(|s| s.site == *site && s.request == request) else {
            return;
        };
        let seen = self.waiting.remove(n);
        let conflicts = |other: &&Seen| {
            other.site != seen.site && other.kind.conflicts(seen.kind) && other.scope.overlaps(&seen.scope)
        };
        let mut before = self.waiting[..n].iter().filter(|other| other.heard + WAITING_EXPIRY > local);
        let passed = before.find(conflicts);
        assert!(passed.is_none(), "{seen:?} was served before {passed:?}");
    }

    pub(super) fn on_ended(&mut self, site: &SiteName, request: RequestNumber) {
        self.waiting.retain(|seen| seen.site != *site || seen.request != request);
        self.served.remove(&(site.clone(), request));
    }

    pub(super) fn on_coordinator_crash(&mut self, last_epoch: Epoch) {
        self.waiting.clear();
        self.served.clear();
        // What was not durable was told to nobody, and may be used again.
        self.last_recorded = last_epoch;
    }
}

fn rights(site: &Site, kind: LeaseKind, now: Duration) -> Vec<(RequestNumber, &LeaseScope, Right)> {
    let local = site.clock.read(now);
    site.holder.iter().flat_map(|holder| holder.usable(kind, local)).collect()
}

fn raise<K: Ord>(map: &mut BTreeMap<K, Generation>, key: K, generation: Generation) {
    let highest = map.entry(key).or_default();
    *highest = generation.max(*highest);
}
