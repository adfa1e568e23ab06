//! Directories whose names the kernel keeps: it lists them by itself until it is told to forget them.
//!
//! *Invariant:* what the kernel keeps is here until it is taken out to be forgotten there, or the kernel has forgotten the
//! directory.

use crate::model::NodeId;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// Until when each may be kept, by the clock of the mount.
#[derive(Debug, Default)]
pub(crate) struct KeptNames {
    until: HashMap<NodeId, Duration>,
    by_time: BTreeSet<(Duration, NodeId)>,
}

impl KeptNames {
    /// The kernel keeps the names of `directory`, which count until then.
    pub(crate) fn keep(&mut self, directory: NodeId, until: Duration) {
        self.forget(directory);
        self.until.insert(directory, until);
        self.by_time.insert((until, directory));
    }

    /// The kernel keeps them no more.
    pub(crate) fn forget(&mut self, directory: NodeId) {
        if let Some(until) = self.until.remove(&directory) {
            self.by_time.remove(&(until, directory));
        }
    }

    /// Takes out those that may be kept no longer.
    pub(crate) fn take_due(&mut self, now: Duration) -> Vec<NodeId> {
        let mut due = Vec::new();
        while let Some(&(until, directory)) = self.by_time.first()
            && until <= now
        {
            self.forget(directory);
            due.push(directory);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_lasted_is_taken_out_once() {
        let (mut kept, at) = (KeptNames::default(), Duration::from_secs);
        kept.keep(NodeId(1), at(10));
        kept.keep(NodeId(2), at(5));
        kept.keep(NodeId(3), at(7));
        kept.keep(NodeId(2), at(20));
        kept.forget(NodeId(3));
        assert_eq!(kept.take_due(at(9)), []);
        assert_eq!(kept.take_due(at(10)), [NodeId(1)]);
        assert_eq!(kept.take_due(Duration::MAX), [NodeId(2)]);
        assert_eq!(kept.take_due(Duration::MAX), []);
        assert!(kept.until.is_empty());
    }
}
