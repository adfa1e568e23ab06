//! Files that are to be synced when they are closed: they were changed where a close counts only when that has come home.
//!
//! *Invariant:* who closes a file is not told that all is home while another one still waits for that, or has failed to.

use crate::model::NodeId;
use std::collections::HashMap;

/// Each with the number of its last change.
#[derive(Debug, Default)]
pub(crate) struct Unconfirmed {
    files: HashMap<NodeId, u64>,
    last: u64,
}

impl Unconfirmed {
    /// `id` was changed.
    pub(crate) fn note(&mut self, id: NodeId) {
        self.last += 1;
        self.files.insert(id, self.last);
    }

    /// The last change of `id` that is not known to be home.
    pub(crate) fn last(&self, id: NodeId) -> Option<u64> {
        self.files.get(&id).copied()
    }

    /// `id` is home as it was after `change`.
    pub(crate) fn confirm(&mut self, id: NodeId, change: u64) {
        if self.last(id) == Some(change) {
            self.files.remove(&id);
        }
    }

    /// Nobody knows `id` any more.
    pub(crate) fn forget(&mut self, id: NodeId) {
        self.files.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_changed_before_is_confirmed() {
        let (mut files, id) = (Unconfirmed::default(), NodeId(5));
        assert_eq!(files.last(id), None);
        files.note(id);
        let first = files.last(id).unwrap();
        assert_eq!(files.last(id), Some(first), "who else asks waits, too");
        files.note(id);
        files.confirm(id, first);
        let second = files.last(id).expect("it has changed since");
        files.confirm(id, second);
        assert_eq!(files.last(id), None);
        files.note(id);
        files.note(NodeId(6));
        files.forget(id);
        assert!(files.last(id).is_none() && files.last(NodeId(6)).is_some());
    }
}
