//! Which batches of changes a home still carries out: none of a subtree after one that was said later.
//!
//! *Invariant:* what is refused was said before something that was carried out, by the order of fences and numbers.

use globalfs_proto::{Fence, GlobalPath};
use std::collections::HashMap;

/// Subtrees that are remembered. Of those that were forgotten nothing that was said before is carried out.
const MAX_SUBTREES: usize = 8192;

/// The last batch of each subtree.
#[derive(Debug, Default)]
pub struct Batches {
    last: HashMap<GlobalPath, (Fence, u64)>,
    /// The highest fence of those that were forgotten.
    forgotten: Option<Fence>,
}

impl Batches {
    /// Whether the batch `number` under `fence` may be carried out; from then on those before it may not, nor those of older
    /// leases on what is around or beneath. The same one may be repeated.
    pub fn admit(&mut self, scope: &GlobalPath, fence: Fence, number: u64) -> bool {
        let is_newer = |(other, last): (&GlobalPath, &(Fence, u64))| match other == scope {
            true => *last > (fence, number),
            false => last.0 > fence && overlap(other, scope),
        };
        let is_unknown = !self.last.contains_key(scope);
        if self.last.iter().any(is_newer) || (is_unknown && self.forgotten > Some(fence)) {
            return false;
        }
        if self.last.len() >= MAX_SUBTREES && !self.last.contains_key(scope) {
            self.forget_oldest();
        }
        self.last.insert(scope.clone(), (fence, number));
        true
    }

    fn forget_oldest(&mut self) {
        let oldest =
            self.last.iter().min_by_key(|(_, last)| **last).map(|(scope, last)| (scope.clone(), last.0));
        if let Some((scope, fence)) = oldest {
            self.last.remove(&scope);
            self.forgotten = self.forgotten.max(Some(fence));
        }
    }
}

/// Whether one of both lies in the other.
pub fn overlap(one: &GlobalPath, other: &GlobalPath) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(n: usize) -> GlobalPath {
        GlobalPath::new(format!("/r/{n}").as_bytes()).unwrap()
    }

    #[test]
    fn what_was_said_earlier_is_not_carried_out() {
        let mut batches = Batches::default();
        assert!(batches.admit(&path(1), Fence(5), 7) && batches.admit(&path(1), Fence(5), 7));
        assert!(!batches.admit(&path(1), Fence(5), 6) && !batches.admit(&path(1), Fence(4), 99));
        assert!(batches.admit(&path(1), Fence(6), 1) && !batches.admit(&path(1), Fence(5), 8));
        assert!(batches.admit(&path(2), Fence(1), 1), "another subtree");
    }

    #[test]
    fn an_older_lease_on_what_is_around_or_beneath_is_over() {
        let mut batches = Batches::default();
        let [around, scope, beneath, beside] =
            ["/", "/r", "/r/1", "/r-1"].map(|text| GlobalPath::new(text.as_bytes()).unwrap());
        assert!(batches.admit(&scope, Fence(5), 7));
        assert!(!batches.admit(&around, Fence(4), 99) && !batches.admit(&beneath, Fence(4), 99));
        assert!(batches.admit(&beside, Fence(4), 1) && batches.admit(&beneath, Fence(6), 1));
        assert!(!batches.admit(&scope, Fence(5), 8));
    }

    #[test]
    fn of_what_was_forgotten_nothing_old_is_carried_out() {
        let mut batches = Batches::default();
        for n in 0..=MAX_SUBTREES {
            assert!(batches.admit(&path(n), Fence(10 + n as u64), 1));
        }
        assert_eq!(batches.last.len(), MAX_SUBTREES);
        assert!(!batches.admit(&path(0), Fence(9), 99));
        assert!(batches.admit(&path(0), Fence(10), 1), "the last of it again");
    }
}
