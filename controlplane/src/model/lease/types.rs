//! What leases are about: kinds, scopes, and the numbers that order them.
//!
//! *Invariant:* two scopes overlap exactly when some path lies in both.

use globalfs_proto::{GlobalPath, SiteName};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// What a lease permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LeaseKind {
    /// To use what is cached without asking.
    Read,
    /// To change, and to use without asking.
    Write,
}

impl LeaseKind {
    /// Whether leases of these kinds exclude each other where they overlap.
    pub fn conflicts(self, other: Self) -> bool {
        self == Self::Write || other == Self::Write
    }

    /// Whether a lease of this kind permits what `wanted` permits.
    pub fn permits(self, wanted: Self) -> bool {
        self >= wanted
    }
}

/// How far below its path a scope reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// The path alone: a file's content, or the names in a directory but nothing beneath them.
    Alone,
    /// The path and all beneath it.
    Subtree,
}

/// What a lease is on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeaseScope {
    /// Its topmost path.
    pub path: GlobalPath,
    /// How far it reaches.
    pub reach: Reach,
}

impl LeaseScope {
    /// A file, or the names in a directory.
    pub fn alone(path: GlobalPath) -> Self {
        Self { path, reach: Reach::Alone }
    }

    /// A path and all beneath it.
    pub fn subtree(path: GlobalPath) -> Self {
        Self { path, reach: Reach::Subtree }
    }

    /// Whether `path` lies in this scope.
    pub fn contains(&self, path: &GlobalPath) -> bool {
        match self.reach {
            Reach::Alone => self.path == *path,
            Reach::Subtree => path.starts_with(&self.path),
        }
    }

    /// Whether some path lies in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(&other.path) || other.contains(&self.path)
    }
}

/// A counter that is at zero before it was ever raised.
macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The one after this.
            ///
            /// # Panics
            /// After 2^64 of them.
            pub fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("2^64 are never reached"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

counter! {
    /// Orders all write grants of the cluster, also over restarts: the fence. A master's answers and a mover's
    /// writes name it, and who knows a newer one for that place refuses.
    Epoch
}
counter! {
    /// A start of a holder. Each is higher than those before, durably.
    Incarnation
}

/// How often a scope may have changed: grows with each write grant that overlaps it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Generation(u64);

impl From<Epoch> for Generation {
    fn from(epoch: Epoch) -> Self {
        Self(epoch.0)
    }
}

/// Names a request of one holder and the lease it becomes; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestNumber {
    /// The start of the holder that made the request.
    pub incarnation: Incarnation,
    /// Its number among the requests of that incarnation.
    pub number: u64,
}

/// Names a lease in the cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId {
    /// Who holds it.
    pub site: SiteName,
    /// Its number there.
    pub request: RequestNumber,
}

/// When a holder sent a message, by its own clock. For others it is opaque: they repeat it in the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// Whose clock: another incarnation's may have begun elsewhere.
    pub incarnation: Incarnation,
    /// The clock's reading.
    pub at: Duration,
}

/// A write lease as it is kept, on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteRecord {
    /// Its number at its holder.
    pub request: RequestNumber,
    /// What it is on.
    pub scope: LeaseScope,
    /// The fence.
    pub epoch: Epoch,
    /// An administrator has given up what its holder did not bring home. Only the granter's records know.
    pub abandoned: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(text: &str) -> GlobalPath {
        GlobalPath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn overlap_is_by_components_and_reach() {
        let check = |a: LeaseScope, b: LeaseScope, expected| {
            assert_eq!(a.overlaps(&b), expected, "{a:?} {b:?}");
            assert_eq!(b.overlaps(&a), expected, "{b:?} {a:?}");
        };
        let (alone, tree) = (|p| LeaseScope::alone(path(p)), |p| LeaseScope::subtree(path(p)));
        check(tree("/a"), tree("/a/b"), true);
        check(tree("/a"), tree("/a-b"), false);
        check(tree("/"), alone("/a"), true);
        check(alone("/"), tree("/a"), false);
        check(alone("/a"), alone("/a"), true);
        check(alone("/a"), alone("/a/b"), false);
        check(tree("/a/b"), alone("/a"), false);
        check(tree("/a"), alone("/a"), true);
    }

    #[test]
    fn only_reads_share() {
        assert!(!LeaseKind::Read.conflicts(LeaseKind::Read));
        assert!(LeaseKind::Read.conflicts(LeaseKind::Write) && LeaseKind::Write.conflicts(LeaseKind::Write));
        assert!(LeaseKind::Write.permits(LeaseKind::Read) && !LeaseKind::Read.permits(LeaseKind::Write));
    }

    prop_compose! {
        fn scopes()(names in prop::collection::vec("[ab]|a-", 0..4), tree: bool) -> LeaseScope {
            let path = path(&format!("/{}", names.join("/")));
            LeaseScope { path, reach: if tree { Reach::Subtree } else { Reach::Alone } }
        }
    }

    proptest! {
        #[test]
        fn scopes_overlap_when_a_path_lies_in_both(a in scopes(), b in scopes()) {
            // The topmost paths suffice: a common path lies below both, and the deeper of the two is one.
            let common = [&a.path, &b.path].into_iter().any(|path| a.contains(path) && b.contains(path));
            prop_assert_eq!(a.overlaps(&b), common);
        }
    }
}
