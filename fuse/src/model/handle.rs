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
    /// What was written to the node was lost, and no write or sync of this handle was told yet.
    error: Option<FsError>,
    /// A close of it was.
    is_told: bool,
}

impl HandleTable {
    /// `node` is opened, to write if `writes`: the number of the handle.
    pub(crate) fn open(&mut self, node: NodeId, writes: bool) -> u64 {
        self.last += 1;
        self.files.insert(self.last, Open { node, writes, error: None, is_told: false });
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

    /// Whether the handle `number` writes.
    pub(crate) fn writes(&self, number: u64) -> bool {
        self.files.get(&number).is_some_and(|open| open.writes)
    }

    /// What was written to `node` is lost: its handles are to be told. Whether one is that writes.
    pub(crate) fn fail(&mut self, node: NodeId, error: &FsError) -> bool {
        let open = self.files.values_mut().filter(|open| open.node == node);
        let told = open.map(|open| {
            (open.error, open.is_told) = (Some(error.clone()), false);
            open.writes
        });
        told.fold(false, |any, writes| any | writes)
    }

    /// What a close of the handle `number` is told if it writes. It may be that of a copy which a child process had and
    /// whose end nobody looks at, so it is to be told again.
    pub(crate) fn tell_close(&mut self, number: u64) -> Option<FsError> {
        let open = self.files.get_mut(&number).filter(|open| open.writes)?;
        open.is_told |= open.error.is_some();
        open.error.clone()
    }

    /// What the handle `number`, which writes, has never told anybody.
    pub(crate) fn untold(&self, number: u64) -> Option<FsError> {
        self.files.get(&number).filter(|open| open.writes && !open.is_told)?.error.clone()
    }

    /// What a write or sync of the handle `number` has to be told, once.
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
        table.close(writer).unwrap();
        table.close(late).unwrap();
        assert!(!table.fail(NodeId(5), &lost), "nobody who writes has it open");
        assert_eq!((table.tell_close(reader), table.untold(reader)), (None, None), "it has written nothing");
    }

    #[test]
    fn each_close_is_told_until_a_write_or_a_sync_is() {
        let (mut table, lost) = (HandleTable::default(), FsError::Os(28));
        let writer = table.open(NodeId(5), true);
        assert_eq!((table.tell_close(writer), table.untold(writer)), (None, None));
        table.fail(NodeId(5), &lost);
        assert_eq!(table.untold(writer), Some(lost.clone()));
        (0..2).for_each(|_| assert_eq!(table.tell_close(writer), Some(lost.clone())));
        assert_eq!((table.untold(writer), table.take_error(writer)), (None, Some(lost.clone())));
        assert_eq!(table.tell_close(writer), None);
        table.fail(NodeId(5), &lost);
        assert_eq!(table.untold(writer), Some(lost), "it is another one");
    }
}
