//! The root of a namespace that has none of its own.

use crate::source::Listing;
use globalfs_proto::{Attr, FileId, FileKind};

/// The root of a namespace whose root nobody has.
pub(super) fn synthetic_root() -> Attr {
    Attr {
        file: FileId { origin: 0, inode: 1 },
        kind: FileKind::Directory,
        mode: 0o755,
        nlink: 2,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        blocks: 0,
        atime_ns: 0,
        mtime_ns: 0,
        ctime_ns: 0,
        no_xattrs: false,
    }
}

/// That root's listing, before anything is merged into it.
pub(super) fn empty_root() -> Listing {
    Listing { attr: synthetic_root(), entries: [].into(), complete: true, watched: false }
}
