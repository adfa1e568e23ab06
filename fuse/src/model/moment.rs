//! Whether what was found out about names was overtaken by changes of names that this mount made meanwhile: then the
//! kernel, which has seen them through, must not keep it.
//!
//! *Invariant:* what was asked for before a change had ended, and is told after it had begun, is never kept.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Counts changes of names.
#[derive(Debug, Default)]
pub(crate) struct NameChanges {
    begun: AtomicU64,
    ended: AtomicU64,
}

/// A point between changes of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Moment(u64);

/// A change of names, until it is dropped.
#[derive(Debug)]
pub(crate) struct NameChange<'a>(&'a NameChanges);

impl NameChanges {
    /// A change begins.
    pub(crate) fn begin(&self) -> NameChange<'_> {
        self.begun.fetch_add(1, SeqCst);
        NameChange(self)
    }

    /// To be taken before something is asked for.
    pub(crate) fn moment(&self) -> Moment {
        Moment(self.ended.load(SeqCst))
    }

    /// Whether no change has been under way since.
    pub(crate) fn none_since(&self, moment: Moment) -> bool {
        self.begun.load(SeqCst) == moment.0
    }
}

impl Drop for NameChange<'_> {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_before_between_and_after_are_told_apart() {
        let changes = NameChanges::default();
        let before = changes.moment();
        assert!(changes.none_since(before));
        let change = changes.begin();
        let during = changes.moment();
        assert!(!changes.none_since(before) && !changes.none_since(during));
        drop(change);
        assert!(!changes.none_since(before) && !changes.none_since(during));
        assert!(changes.none_since(changes.moment()));
    }
}
