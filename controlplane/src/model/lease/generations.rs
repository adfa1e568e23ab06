//! How often each scope may have changed: the epoch of the last write grant that overlaps it, or more.
//!
//! *Invariants:* a scope's generation never falls, and grows with every grant that overlaps the scope. What is
//! forgotten, by a limit or a restart, raises a floor: it counts as changed.

use super::index::{above, key};
use super::types::{Epoch, Generation, LeaseScope, Reach};
use std::collections::{BTreeSet, HashMap};

/// Most paths of which the last grants are remembered; with paths of 100 bytes some 20 MiB.
pub(super) const MAX_REMEMBERED_PATHS: usize = 1 << 16;

/// The last grants at one path.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// Of a grant on exactly this path, of either reach.
    here: Epoch,
    /// Of a grant on this path's subtree.
    subtree: Epoch,
    /// Of any grant at this path or below it.
    within: Epoch,
}

/// The last write grants by path.
#[derive(Debug)]
pub(super) struct Generations {
    floor: Epoch,
    limit: usize,
    places: HashMap<Box<[u8]>, Place>,
    /// The paths by when they were last raised. A grant raises several, so its number is part of the key.
    oldest: BTreeSet<(Epoch, Box<[u8]>)>,
}

impl Generations {
    /// All scopes count as changed by the grant of epoch `floor`.
    pub(super) fn new(floor: Epoch, limit: usize) -> Self {
        Self { floor, limit, places: HashMap::new(), oldest: BTreeSet::new() }
    }

    /// A write grant on `scope`; its epoch is above all before.
    pub(super) fn raise(&mut self, scope: &LeaseScope, epoch: Epoch) {
        let key = key(&scope.path);
        for path in above(&key).chain([&key[..]]) {
            let place = self.touch(path, epoch);
            if path.len() == key.len() {
                place.here = epoch;
                place.subtree = if scope.reach == Reach::Subtree { epoch } else { place.subtree };
            }
        }
        self.forget();
    }

    /// What readers of `scope` are told.
    pub(super) fn of(&self, scope: &LeaseScope) -> Generation {
        let key = key(&scope.path);
        let get = |path: &[u8]| self.places.get(path).copied().unwrap_or_default();
        let here = get(&key);
        let own = if scope.reach == Reach::Subtree { here.within } else { here.here };
        above(&key).map(|path| get(path).subtree).fold(self.floor.max(own), Epoch::max).into()
    }

    fn touch(&mut self, path: &[u8], epoch: Epoch) -> &mut Place {
        let place = self.places.entry(path.into()).or_default();
        assert!(place.within < epoch, "epochs grow");
        self.oldest.remove(&(place.within, path.into()));
        self.oldest.insert((epoch, path.into()));
        place.within = epoch;
        place
    }

    fn forget(&mut self) {
        while self.places.len() > self.limit {
            let Some((epoch, path)) = self.oldest.pop_first() else { return };
            self.floor = self.floor.max(epoch);
            self.places.remove(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use globalfs_proto::GlobalPath;
    use proptest::prelude::*;

    prop_compose! {
        fn scopes()(names in prop::collection::vec("[ab]|a-", 0..4), tree: bool) -> LeaseScope {
            let path = GlobalPath::new(format!("/{}", names.join("/")).as_bytes()).unwrap();
            LeaseScope { path, reach: if tree { Reach::Subtree } else { Reach::Alone } }
        }
    }

    proptest! {
        #[test]
        fn is_exact_without_a_limit(grants in prop::collection::vec(scopes(), 0..20), wanted in scopes()) {
            let mut generations = Generations::new(Epoch(0), usize::MAX);
            let mut last = Epoch(0);
            for (n, scope) in grants.iter().enumerate() {
                let epoch = Epoch(n as u64 + 1);
                generations.raise(scope, epoch);
                last = if scope.overlaps(&wanted) { epoch } else { last };
            }
            prop_assert_eq!(generations.of(&wanted), last.into());
        }

        #[test]
        fn never_falls_and_grows_with_each_overlapping_grant(
            grants in prop::collection::vec(scopes(), 0..40), wanted in scopes(), limit in 0usize..6,
        ) {
            let mut generations = Generations::new(Epoch(0), limit);
            for (n, scope) in grants.iter().enumerate() {
                let before = generations.of(&wanted);
                generations.raise(scope, Epoch(n as u64 + 1));
                let after = generations.of(&wanted);
                prop_assert!(after >= before && (after > before || !scope.overlaps(&wanted)));
                prop_assert!(generations.places.len() <= limit && generations.oldest.len() <= limit);
            }
        }
    }
}
