//! Regular files of an origin that are not yet what they will be: under a hidden name, where a later try finds what an
//! earlier one has left. The calls block.
//!
//! *Invariant:* what is written to is a file that only we could have made, and that nobody else has a name or a handle of.

use super::change::Place;
use super::install::{hidden_name, remove_at};
use super::tree::{Tree, os, proc_path, resolve_in, statx};
use globalfs_proto::limits::CHUNK_SIZE;
use globalfs_proto::{ChunkHash, ChunkIndex, ChunkSpan, FsError, FsResult, GlobalPath};
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags, ResolveFlags, SeekFrom};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Permissions of a draft: it shows nobody what its path will not show him.
const DRAFT_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// The type bits of a regular file.
const REGULAR: u32 = 0o100_000;

/// A regular file that is being made under a hidden name. Clones write to the same one.
#[derive(Clone)]
pub(crate) struct Draft {
    pub(super) file: Arc<File>,
    /// Bytes that an earlier try has left.
    pub(crate) left: u64,
}

impl Tree {
    /// Begins the regular file `path`, or goes on with what an earlier try has left of one, cut to `size` bytes.
    pub(crate) fn draft(&self, path: &GlobalPath, size: u64) -> FsResult<Draft> {
        let (hidden, place) = (hidden_name(path), Place::of(self, path)?);
        // Mostly there is nothing yet.
        let file = match new_draft(&place, &hidden) {
            Err(Errno::EXIST) => match left_draft(&place, &hidden)? {
                Some(file) => file,
                None => {
                    remove_at(&place.directory, &hidden, 0)?;
                    new_draft(&place, &hidden).map_err(os)?
                }
            },
            made => made.map_err(os)?,
        };
        let left = file.metadata()?.len();
        if left > size {
            file.set_len(size)?;
        }
        Ok(Draft { file: Arc::new(file), left: left.min(size) })
    }

    /// Removes the draft of `path`.
    pub(crate) fn drop_draft(&self, path: &GlobalPath) -> FsResult<()> {
        remove_at(&Place::of(self, path)?.directory, &hidden_name(path), 0)
    }
}

impl Draft {
    /// Writes a chunk that arrived. One of zeros needs no bytes.
    pub(crate) fn write(&self, index: ChunkIndex, data: &[u8]) -> FsResult<()> {
        let offset = index.0 * CHUNK_SIZE;
        if data.iter().all(|byte| *byte == 0) {
            return self.clear(offset, offset + data.len() as u64);
        }
        Ok(self.file.write_all_at(data, offset)?)
    }

    /// Takes over chunks of `old`, which has them at the same place. Holes stay holes.
    pub(crate) fn copy(&self, old: &File, span: ChunkSpan, size: u64) -> FsResult<()> {
        let (mut at, end) = (span.first.0 * CHUNK_SIZE, ((span.first.0 + span.count) * CHUNK_SIZE).min(size));
        while at < end {
            let data = seek(old, SeekFrom::Data(at))?.map_or(end, |data| data.min(end));
            self.clear(at, data)?;
            let hole = if data < end { seek(old, SeekFrom::Hole(data))?.unwrap_or(end) } else { end };
            self.copy_range(old, data, hole.min(end))?;
            at = hole.min(end);
        }
        Ok(())
    }

    fn copy_range(&self, old: &File, mut at: u64, end: u64) -> FsResult<()> {
        while at < end {
            let (mut from, mut to) = (at, at);
            let left = (end - at) as usize;
            at += match rustix::fs::copy_file_range(old, Some(&mut from), &self.file, Some(&mut to), left) {
                Ok(0) => return Err(FsError::Stale(None)),
                Ok(copied) => copied as u64,
                Err(Errno::INTR) => 0,
                // Not every file system can, nor between any two files.
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::XDEV | Errno::INVAL) => {
                    self.carry(old, at, end)?
                }
                Err(error) => return Err(os(error)),
            };
        }
        Ok(())
    }

    /// Copies some bytes the long way: how many.
    fn carry(&self, old: &File, at: u64, end: u64) -> FsResult<u64> {
        let mut bytes = vec![0; CHUNK_SIZE.min(end - at) as usize];
        old.read_exact_at(&mut bytes, at)?;
        self.file.write_all_at(&bytes, at)?;
        Ok(bytes.len() as u64)
    }

    /// Zeros from `start` to `end`; behind what an earlier try has left there are none but zeros.
    fn clear(&self, start: u64, end: u64) -> FsResult<()> {
        let end = end.min(self.left);
        if start >= end {
            return Ok(());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&*self.file, flags, start, end - start) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.write_zeros(start, end),
            punched => punched.map_err(os),
        }
    }

    fn write_zeros(&self, mut start: u64, end: u64) -> FsResult<()> {
        let zeros = crate::encoding::zeros();
        while start < end {
            let some = CHUNK_SIZE.min(end - start);
            self.file.write_all_at(&zeros[..some as usize], start)?;
            start += some;
        }
        Ok(())
    }

    /// The hash of the chunk that an earlier try has left, if it is whole.
    pub(crate) fn hash(&self, index: ChunkIndex, size: u64) -> Option<ChunkHash> {
        let range = index.bytes(size)?;
        (range.end() <= self.left).then(|| hash_at(&self.file, index, size)).flatten()
    }
}

/// What an earlier try has left, if it is certain that it was us: others might still write to a file of theirs, or have
/// another name for it.
fn left_draft(place: &Place<'_>, hidden: &[u8]) -> FsResult<Option<File>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW;
    let found = match resolve_in(&place.directory, hidden, flags, ResolveFlags::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        found => found.map_err(os)?,
    };
    let stat = statx(&found).map_err(os)?;
    let is_ours = u32::from(stat.stx_mode) == REGULAR | DRAFT_MODE.bits()
        && stat.stx_nlink == 1
        && stat.stx_uid == rustix::process::geteuid().as_raw();
    if !is_ours {
        return Ok(None);
    }
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, proc_path(&found), flags, Mode::empty()).map_err(os)?;
    Ok(Some(file.into()))
}

fn new_draft(place: &Place<'_>, hidden: &[u8]) -> rustix::io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(&place.directory, hidden, flags, DRAFT_MODE).map(File::from)
}

/// Where data or a hole begins; `None` where only a hole follows.
fn seek(file: &File, to: SeekFrom) -> FsResult<Option<u64>> {
    match rustix::fs::seek(file, to) {
        Err(Errno::NXIO) => Ok(None),
        // It does not tell: all is data.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(match to {
            SeekFrom::Data(at) => Some(at),
            _ => None,
        }),
        found => found.map(Some).map_err(os),
    }
}

/// The hash of a chunk of `file`, as if it were `size` bytes long; `None` where it has fewer or cannot be read.
pub(crate) fn hash_at(file: &File, index: ChunkIndex, size: u64) -> Option<ChunkHash> {
    let range = index.bytes(size)?;
    let mut bytes = vec![0; range.length() as usize];
    file.read_exact_at(&mut bytes, range.start()).ok()?;
    Some(ChunkHash(*blake3::hash(&bytes).as_bytes()))
}

/// Gives a draft back what tells that it is ours. The error that made it necessary says more than one of this.
pub(super) fn undress(found: &OwnedFd) {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let _ = rustix::fs::chownat(found, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH);
    let _ = rustix::fs::chmod(proc_path(found), DRAFT_MODE);
}
