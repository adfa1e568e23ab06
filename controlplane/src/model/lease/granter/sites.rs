//! The sites that a granter hears of, and the read leases of each: soft state.
//!
//! *Invariant:* a read lease is in its site's index exactly while it is in its table.

use crate::model::lease::index::ScopeIndex;
use crate::model::lease::types::{LeaseScope, RequestNumber};
use crate::model::lease::{MAX_LEASE_SITES, MAX_READ_LEASES_PER_SITE, MAX_RECALLS_AT_ONCE, RECALL_INTERVAL};
use globalfs_proto::SiteName;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// A site, short: names are long to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SiteKey(usize);

/// A lease or request, short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Id {
    pub(super) site: SiteKey,
    pub(super) request: RequestNumber,
}

/// A read lease.
#[derive(Debug)]
pub(super) struct ReadLease {
    pub(super) scope: LeaseScope,
    /// From then on its holder does not use it.
    pub(super) expires: Duration,
    /// When its timer rings; not moved by renewals, which are many.
    pub(super) alarm: Duration,
    pub(super) recalled: Option<Duration>,
}

impl ReadLease {
    pub(super) fn is_to_be_recalled(&self, now: Duration) -> bool {
        self.recalled.is_none_or(|at| at + RECALL_INTERVAL <= now)
    }
}

/// What a site has.
#[derive(Debug, Default)]
pub(super) struct Site {
    reads: HashMap<RequestNumber, ReadLease>,
    index: ScopeIndex<RequestNumber>,
    /// Write leases and requests that wait, to bound them.
    pub(super) writes: usize,
    pub(super) waiting: usize,
}

impl Site {
    pub(super) fn read(&mut self, request: RequestNumber) -> Option<&mut ReadLease> {
        self.reads.get_mut(&request)
    }

    pub(super) fn has_room(&self) -> bool {
        self.reads.len() < MAX_READ_LEASES_PER_SITE
    }

    pub(super) fn insert_read(&mut self, request: RequestNumber, lease: ReadLease) {
        self.index.insert(&lease.scope, request);
        let before = self.reads.insert(request, lease);
        assert!(before.is_none(), "a lease is granted once");
    }

    pub(super) fn remove_read(&mut self, request: RequestNumber) -> Option<ReadLease> {
        let lease = self.reads.remove(&request)?;
        self.index.remove(&lease.scope, request);
        Some(lease)
    }

    /// The read leases in `scope` whose holder is to be asked now, a bounded number of them.
    pub(super) fn reads_to_recall(&self, scope: &LeaseScope, now: Duration) -> Vec<RequestNumber> {
        let mut due = Vec::new();
        self.index.any_overlapping(scope, |request| {
            let lease = self.reads.get(&request);
            due.extend(lease.filter(|lease| lease.is_to_be_recalled(now)).map(|_| request));
            due.len() >= MAX_RECALLS_AT_ONCE
        });
        due
    }

    #[cfg(test)]
    pub(super) fn reads(&self) -> impl Iterator<Item = (&RequestNumber, &ReadLease)> {
        self.reads.iter()
    }

    pub(super) fn reads_anything_in(&self, scope: &LeaseScope) -> bool {
        self.index.any_overlapping(scope, |_| true)
    }
}

/// All sites.
#[derive(Debug, Default)]
pub(super) struct Sites {
    keys: BTreeMap<SiteName, SiteKey>,
    names: Vec<SiteName>,
    sites: Vec<Site>,
}

impl Sites {
    /// The site called `name`, new if need be; `None` when there are too many.
    pub(super) fn enter(&mut self, name: &SiteName) -> Option<SiteKey> {
        if let Some(key) = self.keys.get(name) {
            return Some(*key);
        }
        if self.sites.len() == MAX_LEASE_SITES {
            return None;
        }
        let key = SiteKey(self.sites.len());
        self.keys.insert(name.clone(), key);
        self.names.push(name.clone());
        self.sites.push(Site::default());
        Some(key)
    }

    pub(super) fn find(&self, name: &SiteName) -> Option<SiteKey> {
        self.keys.get(name).copied()
    }

    pub(super) fn name(&self, key: SiteKey) -> &SiteName {
        &self.names[key.0]
    }

    pub(super) fn get(&self, key: SiteKey) -> &Site {
        &self.sites[key.0]
    }

    pub(super) fn get_mut(&mut self, key: SiteKey) -> &mut Site {
        &mut self.sites[key.0]
    }

    pub(super) fn others(&self, key: SiteKey) -> impl Iterator<Item = (SiteKey, &Site)> {
        self.all().filter(move |(other, _)| *other != key)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (SiteKey, &Site)> {
        self.sites.iter().enumerate().map(|(n, site)| (SiteKey(n), site))
    }
}
