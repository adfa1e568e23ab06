//! Reading directories of an origin. The calls block.
//!
//! *Invariant:* what nobody asked for has no effect, access times of directories and links apart: no automount is
//! triggered, no other file system entered, and a directory with too many entries is left after its first names.

use super::details::Details;
use super::tree::{Tree, device, os, resolve_in, statx};
use crate::source::{Deadline, Listing};
use bytes::Bytes;
use globalfs_proto::limits::MAX_NAME;
use globalfs_proto::{Attr, DirEntry, FileKind, FsError, FsResult, GlobalPath};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, OFlags, RawDir, ResolveFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use std::ffi::{CStr, CString};

/// Bytes of directory entries taken from the kernel at a time: some 2,000 names.
const LIST_BUFFER: usize = 64 * 1024;

/// Entries between two looks at the deadline.
const LIST_BATCH: usize = 1024;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW);

/// A directory that was read.
pub(super) struct Contents {
    pub(super) listing: Listing,
    /// Names of directories in it that can be entered without an effect.
    pub(super) enterable: Vec<Bytes>,
}

impl Contents {
    pub(super) fn watched(self, watched: bool) -> Self {
        Self { listing: Listing { watched, ..self.listing }, ..self }
    }
}

impl Tree {
    /// A handle to read the directory by. `O_DIRECTORY` makes the kernel refuse anything else before it is
    /// opened.
    pub(super) fn open_directory(&self, path: &GlobalPath) -> FsResult<OwnedFd> {
        self.resolve(path, DIRECTORY).map_err(os)
    }

    /// What is in `directory`; `None` when that is more than `most` entries.
    pub(super) fn contents(
        &self,
        directory: &OwnedFd,
        most: usize,
        deadline: Deadline,
    ) -> FsResult<Option<Contents>> {
        let own = statx(directory).map_err(os)?;
        let Some(names) = names(directory, most, deadline)? else { return Ok(None) };
        let details = Details::of(directory);
        let (mut entries, mut enterable) = (Vec::with_capacity(names.len()), Vec::new());
        for (n, name) in names.iter().enumerate() {
            check(n, deadline)?;
            let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
            let stat = match rustix::fs::statx(directory, name, flags, StatxFlags::BASIC_STATS) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(os(error)),
            };
            let mounts =
                device(&stat) != device(&own) || stat.stx_attributes.contains(StatxAttributes::AUTOMOUNT);
            let no_xattrs = !mounts && details.has_no_xattrs(name);
            let attr = Attr { no_xattrs, ..self.attr_of(&stat)? };
            let (target, name) = (details.target(name, &attr), Bytes::copy_from_slice(name.to_bytes()));
            if attr.kind == FileKind::Directory && !mounts {
                enterable.push(name.clone());
            }
            entries.push(DirEntry { name, attr, target });
        }
        let (attr, entries) = (self.attr_of(&own)?, entries.into());
        Ok(Some(Contents { listing: Listing { attr, entries, complete: true, watched: false }, enterable }))
    }
}

/// A directory below `directory`, on the same file system.
pub(super) fn open_below(directory: impl AsFd, relative: &[u8]) -> FsResult<OwnedFd> {
    resolve_in(directory, relative, DIRECTORY, ResolveFlags::NO_XDEV).map_err(os)
}

fn names(directory: &OwnedFd, most: usize, deadline: Deadline) -> FsResult<Option<Vec<CString>>> {
    let (mut buffer, mut names) = (Vec::with_capacity(LIST_BUFFER), Vec::new());
    let mut read = RawDir::new(directory, buffer.spare_capacity_mut());
    while let Some(entry) = read.next() {
        check(names.len(), deadline)?;
        let entry = entry.map_err(os)?;
        if !is_listed(entry.file_name()) {
            continue;
        }
        if names.len() == most {
            return Ok(None);
        }
        names.push(entry.file_name().to_owned());
    }
    Ok(Some(names))
}

fn is_listed(name: &CStr) -> bool {
    let name = name.to_bytes();
    !matches!(name, b"." | b"..") && name.len() <= MAX_NAME
}

fn check(n: usize, deadline: Deadline) -> FsResult<()> {
    if n.is_multiple_of(LIST_BATCH) && deadline.remaining().is_zero() {
        Err(FsError::Deadline)
    } else {
        Ok(())
    }
}
