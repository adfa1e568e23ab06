//! Which leases live, until when, and the keys bound to them. Pure: the caller says what time it is.
//!
//! *Invariant:* a key is bound to at most one lease, and only to one that is in the table.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use crate::store::{Key, LeaseId, Result, StoreError};

#[derive(Debug)]
struct Held {
    ttl: Duration,
    expires_at: Instant,
    keys: BTreeSet<Key>,
}

/// The leases of a store.
#[derive(Debug, Default)]
pub(super) struct LeaseTable {
    held: HashMap<LeaseId, Held>,
}

impl LeaseTable {
    pub(super) fn contains(&self, lease: LeaseId) -> bool {
        self.held.contains_key(&lease)
    }

    pub(super) fn check(&self, lease: LeaseId) -> Result<()> {
        if self.contains(lease) { Ok(()) } else { Err(StoreError::LeaseGone(lease)) }
    }

    pub(super) fn grant(&mut self, lease: LeaseId, ttl: Duration, now: Instant) {
        let held = Held { ttl, expires_at: now + ttl, keys: BTreeSet::new() };
        self.held.insert(lease, held);
    }

    pub(super) fn keep_alive(&mut self, lease: LeaseId, now: Instant) -> Result<()> {
        let held = self.held.get_mut(&lease).ok_or(StoreError::LeaseGone(lease))?;
        held.expires_at = now + held.ttl;
        Ok(())
    }

    /// Moves `key` from one lease to another; either may be none.
    pub(super) fn rebind(&mut self, key: &Key, from: Option<LeaseId>, to: Option<LeaseId>) {
        if let Some(held) = from.and_then(|lease| self.held.get_mut(&lease)) {
            held.keys.remove(key);
        }
        if let Some(held) = to.and_then(|lease| self.held.get_mut(&lease)) {
            held.keys.insert(key.clone());
        }
    }

    /// Forgets the lease and hands out its keys.
    pub(super) fn remove(&mut self, lease: LeaseId) -> Result<BTreeSet<Key>> {
        self.held.remove(&lease).map(|held| held.keys).ok_or(StoreError::LeaseGone(lease))
    }

    /// The leases whose time is over.
    pub(super) fn expired(&self, now: Instant) -> Vec<LeaseId> {
        self.held.iter().filter(|(_, held)| held.expires_at <= now).map(|(lease, _)| *lease).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    #[test]
    fn a_lease_expires_unless_kept_alive() {
        let start = Instant::now();
        let mut table = LeaseTable::default();
        table.grant(LeaseId(1), TTL, start);
        assert_eq!(table.expired(start + TTL - Duration::from_nanos(1)), []);
        assert_eq!(table.expired(start + TTL), [LeaseId(1)]);
        table.keep_alive(LeaseId(1), start + TTL).unwrap();
        assert_eq!(table.expired(start + TTL), []);
        assert_eq!(table.keep_alive(LeaseId(2), start), Err(StoreError::LeaseGone(LeaseId(2))));
    }

    #[test]
    fn a_key_follows_its_last_binding() {
        let mut table = LeaseTable::default();
        let (first, second) = (LeaseId(1), LeaseId(2));
        table.grant(first, TTL, Instant::now());
        table.grant(second, TTL, Instant::now());
        let key = Key::new("/globalfs/k").unwrap();
        table.rebind(&key, None, Some(first));
        table.rebind(&key, Some(first), Some(second));
        assert_eq!(table.remove(first), Ok(BTreeSet::new()));
        assert_eq!(table.remove(second), Ok(BTreeSet::from([key])));
        assert_eq!(table.remove(second), Err(StoreError::LeaseGone(second)));
    }
}
