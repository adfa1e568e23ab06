//! The requests that wait, in order of arrival.
//!
//! *Invariant:* whoever is behind a request that conflicts is not served before it; whoever conflicts with nobody
//! waits for nobody.

use super::sites::{Id, SiteKey};
use crate::model::lease::RECALL_INTERVAL;
use crate::model::lease::index::ScopeIndex;
use crate::model::lease::types::{LeaseKind, LeaseScope, Stamp};
use std::collections::BTreeMap;
use std::time::Duration;

/// Orders requests by when they came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Arrival(u64);

/// A request that waits.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    pub(super) id: Id,
    pub(super) kind: LeaseKind,
    pub(super) scope: LeaseScope,
    /// Of its last repetition.
    pub(super) stamp: Stamp,
    pub(super) heard: Duration,
    /// When it was last looked for what is in its way.
    pub(super) recalled: Option<Duration>,
}

/// All that wait.
#[derive(Debug, Default)]
pub(super) struct Queue {
    last: Arrival,
    waiting: BTreeMap<Arrival, Waiting>,
    by_id: BTreeMap<Id, Arrival>,
    index: ScopeIndex<Arrival>,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn push(&mut self, request: Waiting) -> Arrival {
        self.last.0 += 1;
        self.index.insert(&request.scope, self.last);
        self.by_id.insert(request.id, self.last);
        self.waiting.insert(self.last, request);
        self.last
    }

    pub(super) fn get(&self, arrival: Arrival) -> Option<&Waiting> {
        self.waiting.get(&arrival)
    }

    /// Whether what is in the way of a request is to be recalled now: not at each lease that ends, for a subtree may
    /// have a million of them.
    pub(super) fn recalls(&mut self, arrival: Arrival, now: Duration) -> Option<Waiting> {
        let request = self.waiting.get_mut(&arrival)?;
        if request.recalled.is_some_and(|at| now < at + RECALL_INTERVAL) {
            return None;
        }
        request.recalled = Some(now);
        Some(request.clone())
    }

    /// A new lease is in the way of who waits in `scope`: it is recalled without delay.
    pub(super) fn recall_anew(&mut self, scope: &LeaseScope) {
        for arrival in self.around(scope) {
            self.waiting.entry(arrival).and_modify(|request| request.recalled = None);
        }
    }

    /// The request `id` was repeated; false when it does not wait.
    pub(super) fn repeated(&mut self, id: Id, stamp: Stamp, now: Duration) -> bool {
        let request = self.by_id.get(&id).and_then(|arrival| self.waiting.get_mut(arrival));
        let Some(request) = request else { return false };
        (request.stamp, request.heard) = (stamp, now);
        true
    }

    pub(super) fn find(&self, id: Id) -> Option<Arrival> {
        self.by_id.get(&id).copied()
    }

    pub(super) fn remove(&mut self, arrival: Arrival) -> Option<Waiting> {
        let request = self.waiting.remove(&arrival)?;
        self.by_id.remove(&request.id);
        self.index.remove(&request.scope, arrival);
        Some(request)
    }

    /// Whether a request of another site that conflicts waits, before `arrival` if given.
    pub(super) fn conflicts(
        &self,
        (site, kind, scope): (SiteKey, LeaseKind, &LeaseScope),
        before: Option<Arrival>,
    ) -> bool {
        self.index.any_overlapping(scope, |other| {
            let earlier = before.is_none_or(|arrival| other < arrival);
            earlier && self.waiting.get(&other).is_some_and(|w| w.id.site != site && w.kind.conflicts(kind))
        })
    }

    /// The requests that overlap `scope` in order of arrival.
    pub(super) fn around(&self, scope: &LeaseScope) -> Vec<Arrival> {
        let mut found = self.index.overlapping(scope);
        found.sort_unstable();
        found
    }

    pub(super) fn all(&self) -> Vec<Arrival> {
        self.waiting.keys().copied().collect()
    }
}
