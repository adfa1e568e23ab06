//! What a mount shows: the trait behind the kernel's requests, which knows nothing of sites.

use async_trait::async_trait;
use bytes::Bytes;
use globalfs_proto::{
    Attr, Change, Changed, Changes, DirEntry, Edition, FileId, FsError, FsResult, FsStat, GlobalPath,
    Lasting, Lock, LockKind, LockOwner, LockRange, Target, Version,
};
use std::any::Any;
use std::fs::File;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// A file on a local file system with all bytes of one content, for the kernel to read by itself.
pub struct WholeFile {
    /// The bytes, at their own offsets.
    pub file: Arc<File>,
    /// It is the file itself, which may be written to if the volume permits it; else one content of it.
    pub is_original: bool,
    /// Dropped when the kernel reads it no longer.
    pub keep: Box<dyn Any + Send + Sync>,
}

/// The whole of a directory, without `.` and `..`.
#[derive(Debug, Clone)]
pub struct Names {
    /// In no particular order.
    pub entries: Arc<[DirEntry]>,
    /// `None`: nobody would tell of their changes.
    pub edition: Option<Edition>,
}

/// A file, and who asks for a lock on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockTarget {
    /// The file.
    pub file: FileId,
    /// Which kind of locks.
    pub kind: LockKind,
    /// The owner, by the kernel's number.
    pub owner: LockOwner,
    /// Its process.
    pub pid: u32,
}

/// `ENOLCK`.
const NO_LOCKS: FsError = FsError::Os(37);

/// A tree of files. Every method ends before the volume's own deadline, in data or an error.
#[async_trait]
pub trait Volume: Send + Sync + 'static {
    /// Attributes of `path`, not following a final symbolic link.
    async fn stat(&self, path: &GlobalPath) -> FsResult<Attr>;

    /// Attributes of `path` as fresh as an `open(2)` promises (close-to-open within a site).
    ///
    /// [`Volume::stat`] must not answer anything older afterwards: a refused open is looked up again, and
    /// has to find the version that it was refused for.
    async fn stat_for_open(&self, path: &GlobalPath) -> FsResult<Attr>;

    /// For how long it counts that `path` has the attributes `attr`, which were just told. Must not wait.
    fn lasting(&self, _path: &GlobalPath, _attr: &Attr) -> Lasting {
        Lasting::default()
    }

    /// The whole directory `path`.
    async fn list(&self, path: &GlobalPath) -> FsResult<Names>;

    /// The same, if [`Volume::list`] would tell it without asking anybody and its changes are told. Its attributes may
    /// be out of date. Must not wait.
    fn known_names(&self, _path: &GlobalPath) -> Option<Names> {
        None
    }

    /// The target of the symbolic link `path`.
    async fn read_link(&self, path: &GlobalPath) -> FsResult<Bytes>;

    /// The value of one extended attribute.
    async fn get_xattr(&self, path: &GlobalPath, name: &[u8]) -> FsResult<Bytes>;

    /// The names of the extended attributes, each with a final NUL.
    async fn list_xattr(&self, path: &GlobalPath) -> FsResult<Bytes>;

    /// Totals of the file system that holds `path`.
    async fn fs_stat(&self, path: &GlobalPath) -> FsResult<FsStat>;

    /// Where data of content `version`, or a hole if `hole`, begins at or behind `offset`; `EOPNOTSUPP` where nobody
    /// knows.
    async fn seek(&self, _path: &GlobalPath, _version: Version, _offset: u64, _hole: bool) -> FsResult<u64> {
        Err(FsError::NOT_SUPPORTED)
    }

    /// `length` bytes at `offset` of content `version`; fewer only at the end of the file.
    ///
    /// Any number may be asked for at a time: the volume bounds the memory that they take together. Pieces are
    /// in order; they reach the kernel without being joined first.
    async fn read(
        &self,
        path: &GlobalPath,
        version: Version,
        offset: u64,
        length: u32,
    ) -> FsResult<Vec<Bytes>>;

    /// A local file with all of content `version`; `None` when there is none. It must not be slow: an open waits for it.
    async fn whole_file(&self, _path: &GlobalPath, _version: Version) -> Option<WholeFile> {
        None
    }

    /// The file `target` itself, on a local file system, for the kernel to read and write by itself until `keep` is dropped.
    /// The volume has seen to it before that no write is lost or forgotten. `None` where that cannot be, and then it is
    /// written to by [`Volume::change`]. It must not be slow: an open waits for it.
    async fn writable_file(&self, _target: Target) -> Option<WholeFile> {
        None
    }

    /// The kernel has written to `path` by itself, which has the attributes `attr` now: the volume answers nothing older.
    async fn learn(&self, _path: &GlobalPath, _attr: &Attr) {}

    /// The part of content `version` around `offset` that the volume keeps as one, and where it begins; `None` when it is
    /// not here.
    async fn held_around(&self, _version: Version, _offset: u64) -> Option<(u64, Bytes)> {
        None
    }

    /// Whether the file can be changed at all, so that an open for writing fails where a write would.
    async fn is_writable(&self, _target: Target) -> bool {
        false
    }

    /// Changes something. When it is answered the volume answers anew itself; others hear of it by their own
    /// [`Volume::changes`]. A write may be of any length that the kernel asks for.
    async fn change(&self, _change: Change) -> FsResult<Changed> {
        Err(FsError::READ_ONLY)
    }

    /// Whether a write to `file` may be told as done before it is sent, as nothing is known that forbids it. Must not wait.
    fn may_write_behind(&self, _file: FileId) -> bool {
        true
    }

    /// Whether locks are kept here. If not the kernel keeps them, for this mount alone.
    fn has_locks(&self) -> bool {
        false
    }

    /// Who is in the way of `lock`, and its process, if it is of this mount, else 0.
    async fn test_lock(&self, _target: LockTarget, _lock: Lock) -> FsResult<Option<(Lock, u32)>> {
        Err(NO_LOCKS)
    }

    /// Gets a lock: `EAGAIN` if somebody else has it and `waits` is false. Waits without a deadline else, as long as it is
    /// known that others have it, until `interrupted` gets word: then `EINTR`.
    async fn set_lock(
        &self,
        _target: LockTarget,
        _lock: Lock,
        _waits: bool,
        _interrupted: oneshot::Receiver<()>,
    ) -> FsResult<()> {
        Err(NO_LOCKS)
    }

    /// The owner gives up what it has in `range`. It must not wait for anybody if that is nothing.
    async fn unlock(&self, _target: LockTarget, _range: LockRange) -> FsResult<()> {
        Ok(())
    }

    /// What becomes out of date from now on, so that the kernel forgets it; `None` when nobody tells. The volume
    /// already answers anew when it tells of a change.
    fn changes(&self) -> Option<mpsc::Receiver<Arc<Changes>>> {
        None
    }

    /// The thread `tid` has opened the regular file `path` of `size` bytes as `handle`; it waits for this.
    async fn opened(&self, _handle: u64, _tid: u32, _path: &GlobalPath, _size: u64) {}

    /// Something of `handle` is about to be read, for whomever. Must not wait.
    fn reading(&self, _handle: u64, _offset: u64, _length: u32) {}

    /// `handle` is closed. Must not wait.
    fn closed(&self, _handle: u64) {}
}
