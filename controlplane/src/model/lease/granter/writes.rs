//! The write leases, each on its way from being recorded to being removed.
//!
//! *Invariant:* a lease excludes others from before its record is written until after that is removed: those of other
//! sites from all that it overlaps, those of its own site from its very path, which has one record.

use super::sites::{Id, SiteKey};
use crate::model::lease::index::ScopeIndex;
use crate::model::lease::types::{Epoch, LeaseScope, Stamp, WriteRecord};
use std::collections::BTreeMap;
use std::time::Duration;

/// How far a write lease is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its record is being written; nobody knows of it yet.
    Recording,
    /// Granted.
    Held,
    /// That it is abandoned is being written; it is not renewed any more.
    Marking,
    /// Abandoned; its holder may still acknowledge changes until it expires.
    Fenced,
    /// Its record is being removed.
    Removing,
}

/// A write lease.
#[derive(Debug)]
pub(super) struct WriteLease {
    pub(super) scope: LeaseScope,
    pub(super) epoch: Epoch,
    pub(super) stage: Stage,
    /// From then on its holder acknowledges nothing, unless it is renewed.
    pub(super) expires: Duration,
    /// What others are fenced by once it is abandoned.
    pub(super) fence: Epoch,
    /// Of the last request; none since a restart.
    pub(super) stamp: Option<Stamp>,
    pub(super) heard: Duration,
    pub(super) alarm: Option<Duration>,
    pub(super) recalled: Option<Duration>,
    /// Its holder has ended it while something was being written.
    pub(super) released: bool,
}

impl WriteLease {
    pub(super) fn record(&self, id: Id) -> WriteRecord {
        let abandoned = matches!(self.stage, Stage::Marking | Stage::Fenced);
        WriteRecord { request: id.request, scope: self.scope.clone(), epoch: self.epoch, abandoned }
    }
}

/// All write leases.
#[derive(Debug, Default)]
pub(super) struct Writes {
    leases: BTreeMap<Id, WriteLease>,
    index: ScopeIndex<Id>,
}

impl Writes {
    pub(super) fn get(&self, id: Id) -> Option<&WriteLease> {
        self.leases.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: Id) -> Option<&mut WriteLease> {
        self.leases.get_mut(&id)
    }

    pub(super) fn insert(&mut self, id: Id, lease: WriteLease) {
        assert!(!self.held_against(id.site, &lease.scope), "two sites never hold write leases that overlap");
        assert!(!self.has_path(&lease.scope), "a path has one record");
        self.index.insert(&lease.scope, id);
        let before = self.leases.insert(id, lease);
        assert!(before.is_none(), "a lease is granted once");
    }

    pub(super) fn remove(&mut self, id: Id) -> Option<WriteLease> {
        let lease = self.leases.remove(&id)?;
        self.index.remove(&lease.scope, id);
        Some(lease)
    }

    /// Whether another site than `site` has a write lease that overlaps `scope`.
    pub(super) fn held_against(&self, site: SiteKey, scope: &LeaseScope) -> bool {
        self.index.any_overlapping(scope, |id| id.site != site)
    }

    /// Whether anybody has a write lease on the path of `scope` itself.
    pub(super) fn has_path(&self, scope: &LeaseScope) -> bool {
        self.index.any_overlapping(scope, |id| self.is_at(id, scope))
    }

    /// The write leases that must end before `site` gets one on `scope`.
    pub(super) fn against(&self, site: SiteKey, scope: &LeaseScope) -> Vec<Id> {
        let mut found = self.index.overlapping(scope);
        found.retain(|id| id.site != site || self.is_at(*id, scope));
        found
    }

    fn is_at(&self, id: Id, scope: &LeaseScope) -> bool {
        self.leases.get(&id).is_some_and(|lease| lease.scope.path == scope.path)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Id, &WriteLease)> {
        self.leases.iter().map(|(id, lease)| (*id, lease))
    }
}
