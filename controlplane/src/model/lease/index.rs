//! Finds by path what overlaps a scope, without looking at the rest.
//!
//! *Invariant:* cost grows with a path's depth and with what is found, not with what is kept. Keys are ordered by
//! components: `/a-b` lies outside the range of `/a`, though bytewise it is between `/a` and `/a/b`.

use super::types::{LeaseScope, Reach};
use globalfs_proto::GlobalPath;
use std::collections::BTreeMap;
use std::ops::Bound;

/// The components of a path, each after a NUL, which no path contains: bytes then sort as components do, and all
/// below a path is one range.
pub(super) fn key(path: &GlobalPath) -> Box<[u8]> {
    if path.is_root() {
        return Box::from([]);
    }
    path.as_bytes().iter().map(|&b| if b == b'/' { 0 } else { b }).collect()
}

/// The keys of the paths above `key`, from the root down.
pub(super) fn above(key: &[u8]) -> impl Iterator<Item = &[u8]> {
    key.iter().enumerate().filter(|(_, b)| **b == 0).map(|(end, _)| &key[..end])
}

/// What lies at scopes, several at each.
#[derive(Debug)]
pub(super) struct ScopeIndex<T> {
    /// Sorted vectors: few things lie at one path, and one that is full costs a move of some KiB.
    places: BTreeMap<Box<[u8]>, Vec<(T, Reach)>>,
}

impl<T> Default for ScopeIndex<T> {
    fn default() -> Self {
        Self { places: BTreeMap::new() }
    }
}

impl<T: Copy + Ord> ScopeIndex<T> {
    /// Adds `item`, which is not yet there.
    pub(super) fn insert(&mut self, scope: &LeaseScope, item: T) {
        let place = self.places.entry(key(&scope.path)).or_insert_with(|| Vec::with_capacity(1));
        let position = place.partition_point(|(other, _)| *other < item);
        place.insert(position, (item, scope.reach));
    }

    /// Removes `item` from where it was inserted.
    pub(super) fn remove(&mut self, scope: &LeaseScope, item: T) {
        let key = key(&scope.path);
        let Some(place) = self.places.get_mut(&key) else { return };
        if let Ok(position) = place.binary_search(&(item, scope.reach)) {
            place.remove(position);
        }
        if place.is_empty() {
            self.places.remove(&key);
        }
    }

    /// Calls `found` with what overlaps `scope` until it returns true, and says whether it did.
    pub(super) fn any_overlapping(&self, scope: &LeaseScope, mut found: impl FnMut(T) -> bool) -> bool {
        if self.places.is_empty() {
            return false;
        }
        let key = key(&scope.path);
        let mut at = |place: &[(T, Reach)], least| {
            place.iter().filter(|(_, reach)| *reach >= least).any(|(item, _)| found(*item))
        };
        above(&key).any(|key| self.places.get(key).is_some_and(|place| at(place, Reach::Subtree)))
            || self.places.get(&key).is_some_and(|place| at(place, Reach::Alone))
            || scope.reach == Reach::Subtree && self.below(&key).any(|place| at(place, Reach::Alone))
    }

    /// All that overlaps `scope`.
    pub(super) fn overlapping(&self, scope: &LeaseScope) -> Vec<T> {
        let mut all = Vec::new();
        self.any_overlapping(scope, |item| {
            all.push(item);
            false
        });
        all
    }

    fn below(&self, key: &[u8]) -> impl Iterator<Item = &[(T, Reach)]> {
        let first = [key, &[0]].concat();
        let behind = [key, &[1]].concat();
        let range = (Bound::Included(&first[..]), Bound::Excluded(&behind[..]));
        self.places.range::<[u8], _>(range).map(|(_, place)| &place[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn scopes()(names in prop::collection::vec("[ab]|a-|a\u{1}", 0..4), tree: bool) -> LeaseScope {
            let path = GlobalPath::new(format!("/{}", names.join("/")).as_bytes()).unwrap();
            LeaseScope { path, reach: if tree { Reach::Subtree } else { Reach::Alone } }
        }
    }

    proptest! {
        #[test]
        fn finds_what_a_scan_finds(
            kept in prop::collection::vec(scopes(), 0..20),
            gone in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
            wanted in scopes(),
        ) {
            let mut index = ScopeIndex::default();
            let mut all: Vec<(usize, LeaseScope)> = kept.into_iter().enumerate().collect();
            all.iter().for_each(|(n, scope)| index.insert(scope, *n));
            for which in gone.iter().filter(|_| !all.is_empty()).collect::<Vec<_>>() {
                if all.is_empty() { break }
                let (n, scope) = all.remove(which.index(all.len()));
                index.remove(&scope, n);
            }
            let scan: Vec<usize> = all.iter().filter(|(_, s)| s.overlaps(&wanted)).map(|(n, _)| *n).collect();
            let mut found = index.overlapping(&wanted);
            found.sort_unstable();
            prop_assert_eq!(found, scan);
        }
    }

    #[test]
    fn keeps_no_empty_places() {
        let mut index = ScopeIndex::default();
        let scope = LeaseScope::subtree(GlobalPath::root());
        index.insert(&scope, 1);
        index.remove(&scope, 1);
        assert!(index.places.is_empty());
    }
}
