//! What is open: a file pins its version, a directory the listing that its reader goes through.
//!
//! *Invariants:* a handle's number is not used twice in the life of a mount; an offset in a directory
//! means the same entry until the reader rewinds.

use crate::model::NodeId;
use globalfs_proto::{DirEntry, FsError, FsResult, Version};
use std::collections::HashMap;
use std::sync::Arc;

/// An open regular file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpenFile {
    /// The node.
    pub(crate) node: NodeId,
    /// The content that every read of this handle returns.
    pub(crate) version: Version,
}

/// What a handle's number stands for.
#[derive(Debug, Clone)]
pub(crate) enum Handle {
    /// A regular file.
    File(OpenFile),
    /// A directory and the listing that its reader has begun, if any.
    Directory {
        /// The node.
        node: NodeId,
        /// Taken at the first read and at each rewind.
        listing: Option<Arc<[DirEntry]>>,
    },
}

impl Handle {
    /// The node that this handle holds.
    pub(crate) fn node(&self) -> NodeId {
        match self {
            Self::File(file) => file.node,
            Self::Directory { node, .. } => *node,
        }
    }
}

/// All open handles. Their number is bounded by the kernel's own limit on open files.
#[derive(Debug, Default)]
pub(crate) struct HandleTable {
    handles: HashMap<u64, Handle>,
    last: u64,
}

impl HandleTable {
    /// Gives `handle` a number.
    pub(crate) fn open(&mut self, handle: Handle) -> u64 {
        self.last += 1;
        self.handles.insert(self.last, handle);
        self.last
    }

    /// Takes `number` out of use.
    pub(crate) fn close(&mut self, number: u64) -> FsResult<Handle> {
        self.handles.remove(&number).ok_or(BAD_HANDLE)
    }

    /// The open file `number`.
    pub(crate) fn file(&self, number: u64) -> FsResult<OpenFile> {
        match self.handles.get(&number) {
            Some(Handle::File(file)) => Ok(*file),
            _ => Err(BAD_HANDLE),
        }
    }

    /// The directory `number` and the listing that its reader has begun.
    pub(crate) fn directory(&self, number: u64) -> FsResult<(NodeId, Option<Arc<[DirEntry]>>)> {
        match self.handles.get(&number) {
            Some(Handle::Directory { node, listing }) => Ok((*node, listing.clone())),
            _ => Err(BAD_HANDLE),
        }
    }

    /// The reader of directory `number` goes through `fresh` from now on.
    pub(crate) fn set_listing(&mut self, number: u64, fresh: Arc<[DirEntry]>) {
        if let Some(Handle::Directory { listing, .. }) = self.handles.get_mut(&number) {
            *listing = Some(fresh);
        }
    }

    /// Number of open handles.
    pub(crate) fn len(&self) -> usize {
        self.handles.len()
    }
}

/// `EBADF`: the kernel named a handle that is not open.
const BAD_HANDLE: FsError = FsError::Os(9);

/// What comes next for a reader of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DirPosition {
    /// `.`
    Itself,
    /// `..`
    Parent,
    /// The entry with this index.
    Entry(usize),
}

/// What comes behind `offset`, as the kernel names it: 0 is the start, then [`offset_after`].
pub(crate) fn dir_position(offset: u64) -> DirPosition {
    match offset {
        0 => DirPosition::Itself,
        1 => DirPosition::Parent,
        n => DirPosition::Entry(usize::try_from(n - 2).unwrap_or(usize::MAX)),
    }
}

/// The offset behind `position`, which is where the next read goes on.
pub(crate) fn offset_after(position: DirPosition) -> u64 {
    match position {
        DirPosition::Itself => 1,
        DirPosition::Parent => 2,
        DirPosition::Entry(index) => index as u64 + 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_lead_from_entry_to_entry() {
        let mut offset = 0;
        for want in [DirPosition::Itself, DirPosition::Parent, DirPosition::Entry(0), DirPosition::Entry(1)] {
            assert_eq!(dir_position(offset), want);
            offset = offset_after(want);
        }
        assert_eq!(dir_position(u64::MAX), DirPosition::Entry(usize::MAX - 2));
    }

    #[test]
    fn handles_are_of_their_kind_and_are_not_reused() {
        let mut table = HandleTable::default();
        let directory = table.open(Handle::Directory { node: NodeId(5), listing: None });
        assert!(table.file(directory).is_err() && table.file(99).is_err());
        assert_eq!(table.directory(directory).unwrap().0, NodeId(5));
        table.set_listing(directory, Arc::new([]));
        assert!(table.directory(directory).unwrap().1.is_some());
        assert_eq!(table.close(directory).unwrap().node(), NodeId(5));
        assert!(table.close(directory).is_err() && table.directory(directory).is_err());
        assert_ne!(table.open(Handle::Directory { node: NodeId(5), listing: None }), directory);
        assert_eq!(table.len(), 1);
    }
}
