//! What is open: a file pins its node. Directories have no handles; see `listing.rs`.
//!
//! *Invariant:* a handle's number is not used twice in the life of a mount.

use crate::model::NodeId;
use globalfs_proto::{FsError, FsResult};
use std::collections::HashMap;

/// All open files. Their number is bounded by the kernel's own limit on open files.
#[derive(Debug, Default)]
pub(crate) struct HandleTable {
    files: HashMap<u64, Open>,
    last: u64,
}

#[derive(Debug)]
struct Open {
    node: NodeId,
    writes: bool,
    /// What was written to the node was lost, and this handle was not told yet.
    error: Option<FsError>,
}

impl HandleTable {
    /// `node` is opened, to write if `writes`: the number of the handle.
    pub(crate) fn open(&mut self, node: NodeId, writes: bool) -> u64 {
        self.last += 1;
        self.files.insert(self.last, Open { node, writes, error: None });
        self.last
    }

    /// Takes `number` out of use.
    pub(crate) fn close(&mut self, number: u64) -> FsResult<NodeId> {
        self.files.remove(&number).map(|open| open.node).ok_or(BAD_HANDLE)
    }

    /// What the handle `number` is open on.
    pub(crate) fn node(&self, number: u64) -> FsResult<NodeId> {
        self.files.get(&number).map(|open| open.node).ok_or(BAD_HANDLE)
    }

    /// Whether the handle `number` was opened to write.
    pub(crate) fn writes(&self, number: u64) -> bool {
        self.files.get(&number).is_some_and(|open| open.writes)
    }

    /// What was written to `node` is lost: its handles are to be told. Whether one is that writes.
    pub(crate) fn fail(&mut self, node: NodeId, error: &FsError) -> bool {
        let open = self.files.values_mut().filter(|open| open.node == node);
        let told = open.map(|open| {
            open.error = Some(error.clone());
            open.writes
        });
        told.fold(false, |any, writes| any | writes)
    }

    /// What the handle `number` has to be told, once.
    pub(crate) fn take_error(&mut self, number: u64) -> Option<FsError> {
        self.files.get_mut(&number)?.error.take()
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
        let number = table.open(NodeId(5), true);
        assert!(table.node(99).is_err());
        assert_eq!(table.node(number), Ok(NodeId(5)));
        assert_eq!(table.close(number), Ok(NodeId(5)));
        assert!(table.close(number).is_err() && table.node(number).is_err());
        assert_ne!(table.open(NodeId(5), false), number);
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn each_handle_is_told_once() {
        let (mut table, lost) = (HandleTable::default(), FsError::Os(28));
        let [reader, writer] = [false, true].map(|writes| table.open(NodeId(5), writes));
        let other = table.open(NodeId(6), true);
        assert!(table.fail(NodeId(5), &lost) && !table.fail(NodeId(7), &lost));
        let late = table.open(NodeId(5), true);
        let told = |table: &mut HandleTable, handle| (table.take_error(handle), table.take_error(handle));
        assert_eq!(told(&mut table, writer), (Some(lost.clone()), None));
        assert_eq!(told(&mut table, reader), (Some(lost.clone()), None));
        assert_eq!((told(&mut table, other), told(&mut table, late)), ((None, None), (None, None)));
        assert!(table.writes(writer) && !table.writes(reader) && !table.writes(99));
        table.close(writer).unwrap();
        table.close(late).unwrap();
        assert!(!table.fail(NodeId(5), &lost), "nobody who writes has it open");
    }
}
