//! Names that were changed by requests of this hop lately. What the upstream tells of them unasked may be from before.

use std::collections::HashMap;
use std::time::Duration;

/// What is told may have been on its way for so long at most: then the subscription is given up.
const ON_ITS_WAY: Duration = Duration::from_secs(60);

/// Names that are remembered; with more, each name counts as changed.
const MAX_NAMES: usize = 4096;

/// Names changed here, and when.
#[derive(Debug, Default)]
pub(super) struct OwnChanges {
    at: HashMap<Box<[u8]>, Duration>,
    /// Until then some are not remembered.
    forgotten_until: Duration,
}

impl OwnChanges {
    /// `path` was changed here.
    pub(super) fn note(&mut self, path: &[u8], now: Duration) {
        if self.at.len() >= MAX_NAMES && !self.at.contains_key(path) {
            self.at.retain(|_, at| *at + ON_ITS_WAY > now);
        }
        if self.at.len() < MAX_NAMES || self.at.contains_key(path) {
            self.at.insert(path.into(), now);
        } else {
            self.forgotten_until = now + ON_ITS_WAY;
        }
    }

    /// Whether what is told of `path` may be from before a change that was made here.
    pub(super) fn may_be_newer(&self, path: &[u8], now: Duration) -> bool {
        now < self.forgotten_until || self.at.get(path).is_some_and(|at| *at + ON_ITS_WAY > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn own_changes_are_remembered_for_a_while() {
        let mut own = OwnChanges::default();
        own.note(b"/a", at(1));
        assert!(own.may_be_newer(b"/a", at(60)) && !own.may_be_newer(b"/a", at(61)));
        assert!(!own.may_be_newer(b"/b", at(2)));
    }

    #[test]
    fn with_too_many_each_name_counts_as_changed_until_they_are_old() {
        let mut own = OwnChanges::default();
        (0..=MAX_NAMES).for_each(|n| own.note(n.to_string().as_bytes(), at(1)));
        assert!(own.may_be_newer(b"/a", at(60)) && !own.may_be_newer(b"/a", at(61)));
        own.note(b"/b", at(62));
        assert_eq!(own.at.len(), 1, "old ones make room");
        assert!(own.may_be_newer(b"/b", at(63)) && !own.may_be_newer(b"/a", at(63)));
    }
}
