//! Attributes in the kernel's terms.

use crate::operations::Node;
use fuser::{FileAttr, FileType, INodeNo};
use globalfs_proto::limits::CHUNK_SIZE;
use globalfs_proto::{Attr, FileKind};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What `st_blksize` advises programs to read at once: a chunk, the unit of transfer.
const ADVISED_BLOCK_SIZE: u32 = CHUNK_SIZE as u32;

/// What a reply names that says "there is no such file, and you may remember it".
pub(crate) const NO_FILE: FileAttr = FileAttr {
    ino: INodeNo(0),
    size: 0,
    blocks: 0,
    atime: UNIX_EPOCH,
    mtime: UNIX_EPOCH,
    ctime: UNIX_EPOCH,
    crtime: UNIX_EPOCH,
    kind: FileType::RegularFile,
    perm: 0,
    nlink: 0,
    uid: 0,
    gid: 0,
    rdev: 0,
    blksize: 0,
    flags: 0,
};

/// The attributes of `node`.
pub(crate) fn file_attr(node: &Node) -> FileAttr {
    let Node { id, attr, .. } = node;
    let Attr { kind, nlink, uid, gid, size, blocks, .. } = *attr;
    FileAttr {
        ino: INodeNo(id.0),
        size,
        blocks,
        atime: system_time(attr.atime_ns),
        mtime: system_time(attr.mtime_ns),
        ctime: system_time(attr.ctime_ns),
        crtime: UNIX_EPOCH,
        kind: file_type(kind),
        perm: (attr.mode & 0o7777) as u16,
        nlink,
        uid,
        gid,
        // Below major 4096 and minor 2^20 the low half of a `dev_t` is the form that the kernel takes.
        rdev: attr.rdev as u32,
        blksize: ADVISED_BLOCK_SIZE,
        flags: 0,
    }
}

fn system_time(ns: i64) -> SystemTime {
    let distance = Duration::from_nanos(ns.unsigned_abs());
    if ns >= 0 { UNIX_EPOCH + distance } else { UNIX_EPOCH - distance }
}

/// The type of a directory entry.
pub(crate) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Regular => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_are_kept() {
        assert_eq!(system_time(1_500_000_000), UNIX_EPOCH + Duration::from_millis(1500));
        assert_eq!(system_time(-1), UNIX_EPOCH - Duration::from_nanos(1));
        assert!(system_time(i64::MIN) < system_time(i64::MAX));
    }
}
