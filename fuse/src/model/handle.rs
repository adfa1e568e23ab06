//! What is open: a file pins its node. Directories have no handles; see `listing.rs`.
//!
//! *Invariant:* a handle's number is not used twice in the life of a mount.

use crate::model::NodeId;
use globalfs_proto::{FsError, FsResult};
use std::collections::HashMap;

/// All open files. Their number is bounded by the kernel's own limit on open files.
#[derive(Debug, Default)]
pub(crate) struct HandleTable {
    files: HashMap<u64, NodeId>,
    last: u64,
}

impl HandleTable {
    /// `node` is opened: the number of the handle.
    pub(crate) fn open(&mut self, node: NodeId) -> u64 {
        self.last += 1;
        self.files.insert(self.last, node);
        self.last
    }

    /// Takes `number` out of use.
    pub(crate) fn close(&mut self, number: u64) -> FsResult<NodeId> {
        self.files.remove(&number).ok_or(BAD_HANDLE)
    }

    /// What the handle `number` is open on.
    pub(crate) fn node(&self, number: u64) -> FsResult<NodeId> {
        self.files.get(&number).copied().ok_or(BAD_HANDLE)
    }

    /// Number of open files.
    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }
}

/// `EBADF`: the kernel named a handle that is not open.
const BAD_HANDLE: FsError = FsError::Os(9);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_not_reused() {
        let mut table = HandleTable::default();
        let number = table.open(NodeId(5));
        assert!(table.node(99).is_err());
        assert_eq!(table.node(number), Ok(NodeId(5)));
        assert_eq!(table.close(number), Ok(NodeId(5)));
        assert!(table.close(number).is_err() && table.node(number).is_err());
        assert_ne!(table.open(NodeId(5)), number);
        assert_eq!(table.len(), 1);
    }
}
