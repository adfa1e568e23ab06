//! What is open: a file pins its version, a directory the listing that its reader goes through.
//!
//! *Invariants:* a handle's number is not used twice in the life of a mount; an offset in a directory
//! means the same entry until the reader rewinds, and is in no other edition of the directory's names the same.

use crate::model::NodeId;
use crate::volume::Names;
use globalfs_proto::{DirEntry, FsError, FsResult, Version};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// An open regular file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpenFile {
    /// The node.
    pub(crate) node: NodeId,
    /// The content that every read of this handle returns.
    pub(crate) version: Version,
}

/// A directory's entries as one reader goes through them.
#[derive(Debug, Clone)]
pub(crate) struct Listing {
    /// In the order of their offsets.
    pub(crate) entries: Arc<[DirEntry]>,
    /// What the offsets are told apart by.
    pub(crate) edition: u64,
    /// For how long the names count, so long as no change is told.
    pub(crate) lasting: Duration,
}

impl Listing {
    /// The names as they were told just now; 0 stands for no edition.
    pub(crate) fn of(names: Names) -> Self {
        let (edition, lasting) = names.edition.map_or_else(Default::default, |e| (e.number, e.lasting));
        Self { entries: names.entries, edition, lasting }
    }
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
        /// Taken at the first read and at each rewind, or when it was opened.
        listing: Option<Listing>,
        /// Whether the kernel may keep what this reader is told.
        is_kept: bool,
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
    pub(crate) fn directory(&self, number: u64) -> FsResult<(NodeId, Option<Listing>)> {
        match self.handles.get(&number) {
            Some(Handle::Directory { node, listing, .. }) => Ok((*node, listing.clone())),
            _ => Err(BAD_HANDLE),
        }
    }

    /// The reader of directory `number` goes through `fresh` from now on.
    pub(crate) fn set_listing(&mut self, number: u64, fresh: Listing) {
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

/// The part of an offset that counts entries; the rest tells editions apart.
const COUNT_BITS: u32 = 32;

/// Bits of an edition's number in an offset, whose sign must stay positive.
const EDITION_MASK: u64 = (1 << (63 - COUNT_BITS)) - 1;

/// What comes behind `offset`, as the kernel names it: 0 is the start, then [`offset_after`].
pub(crate) fn dir_position(offset: u64) -> DirPosition {
    match offset & ((1 << COUNT_BITS) - 1) {
        0 => DirPosition::Itself,
        1 => DirPosition::Parent,
        n => DirPosition::Entry(usize::try_from(n - 2).unwrap_or(usize::MAX)),
    }
}

/// The offset behind `position` in `edition`, which is where the next read goes on.
pub(crate) fn offset_after(position: DirPosition, edition: u64) -> u64 {
    let count = match position {
        DirPosition::Itself => 1,
        DirPosition::Parent => 2,
        DirPosition::Entry(index) => index as u64 + 3,
    };
    (edition & EDITION_MASK) << COUNT_BITS | count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_lead_from_entry_to_entry() {
        for edition in [0, 1, 77, u64::MAX] {
            let mut offset = 0;
            for want in
                [DirPosition::Itself, DirPosition::Parent, DirPosition::Entry(0), DirPosition::Entry(1)]
            {
                assert_eq!(dir_position(offset), want);
                offset = offset_after(want, edition);
                assert!(i64::try_from(offset).is_ok(), "the kernel takes it");
            }
        }
        assert_ne!(offset_after(DirPosition::Parent, 1), offset_after(DirPosition::Parent, 2));
        assert_eq!(dir_position(u64::MAX), DirPosition::Entry(u32::MAX as usize - 2));
    }

    fn directory_handle() -> Handle {
        Handle::Directory { node: NodeId(5), listing: None, is_kept: false }
    }

    #[test]
    fn handles_are_of_their_kind_and_are_not_reused() {
        let mut table = HandleTable::default();
        let directory = table.open(directory_handle());
        assert!(table.file(directory).is_err() && table.file(99).is_err());
        assert_eq!(table.directory(directory).unwrap().0, NodeId(5));
        table.set_listing(directory, Listing::of(Names { entries: Arc::new([]), edition: None }));
        assert!(table.directory(directory).unwrap().1.is_some());
        assert_eq!(table.close(directory).unwrap().node(), NodeId(5));
        assert!(table.close(directory).is_err() && table.directory(directory).is_err());
        assert_ne!(table.open(directory_handle()), directory);
        assert_eq!(table.len(), 1);
    }
}
