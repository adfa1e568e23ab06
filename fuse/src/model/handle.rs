//! What is open: a file pins its version. Directories have no handles; see `listing.rs`.
//!
//! *Invariant:* a handle's number is not used twice in the life of a mount.

use crate::model::NodeId;
use globalfs_proto::{FsError, FsResult, Version};
use std::collections::HashMap;

/// An open regular file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpenFile {
    /// The node.
    pub(crate) node: NodeId,
    /// The content that every read of this handle returns.
    pub(crate) version: Version,
}

/// All open files. Their number is bounded by the kernel's own limit on open files.
#[derive(Debug, Default)]
pub(crate) struct HandleTable {
    files: HashMap<u64, OpenFile>,
    last: u64,
}

impl HandleTable {
    /// Gives `file` a number.
    pub(crate) fn open(&mut self, file: OpenFile) -> u64 {
        self.last += 1;
        self.files.insert(self.last, file);
        self.last
    }

    /// Takes `number` out of use.
    pub(crate) fn close(&mut self, number: u64) -> FsResult<OpenFile> {
        self.files.remove(&number).ok_or(BAD_HANDLE)
    }

    /// The open file `number`.
    pub(crate) fn file(&self, number: u64) -> FsResult<OpenFile> {
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
    use globalfs_proto::FileId;

    #[test]
    fn numbers_are_not_reused() {
        let mut table = HandleTable::default();
        let version = Version { file: FileId { origin: 1, inode: 1 }, size: 0, mtime_ns: 0, ctime_ns: 0 };
        let file = OpenFile { node: NodeId(5), version };
        let number = table.open(file);
        assert!(table.file(99).is_err());
        assert_eq!(table.file(number), Ok(file));
        assert_eq!(table.close(number), Ok(file));
        assert!(table.close(number).is_err() && table.file(number).is_err());
        assert_ne!(table.open(file), number);
        assert_eq!(table.len(), 1);
    }
}
