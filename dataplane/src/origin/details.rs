//! What is told of an entry beside its attributes, so that nobody has to ask for it: that it has no extended
//! attributes, and where a link points. The calls block.
//!
//! Extended attributes are told of file systems of this machine alone: those list all that they have, at little
//! cost. Others have attributes that they do not list, or ask a server for each file.

use super::tree::{os, proc_path};
use super::watch::is_local;
use globalfs_proto::limits::MAX_LISTED_TARGET;
use globalfs_proto::{Attr, FileKind, FsResult};
use rustix::fd::OwnedFd;
use std::ffi::CStr;

/// Whether the file behind `found` certainly has no extended attributes.
pub(super) fn has_no_xattrs(found: &OwnedFd) -> bool {
    is_local(found) && rustix::fs::listxattr_query(proc_path(found)) == Ok(0)
}

/// What is told of the entries of one directory.
pub(super) struct Details<'d> {
    directory: &'d OwnedFd,
    /// The directory's name with a slash, by which it is found wherever it has moved to.
    prefix: Vec<u8>,
    is_local: bool,
}

impl<'d> Details<'d> {
    pub(super) fn of(directory: &'d OwnedFd) -> Self {
        let prefix = [proc_path(directory).as_bytes(), b"/"].concat();
        Self { directory, prefix, is_local: is_local(directory) }
    }

    /// Whether `name`, which lies on the directory's own file system, certainly has no extended attributes. No link
    /// is followed, no automount triggered.
    pub(super) fn has_no_xattrs(&self, name: &CStr) -> bool {
        let path = || [&self.prefix[..], name.to_bytes()].concat();
        self.is_local && rustix::fs::llistxattr_query(path()) == Ok(0)
    }

    /// Where the link `name` points, if that is to be told along.
    pub(super) fn target(&self, name: &CStr, attr: &Attr) -> Option<Box<[u8]>> {
        if attr.kind != FileKind::Symlink || attr.size > MAX_LISTED_TARGET as u64 {
            return None;
        }
        let target = read_link(self.directory, name).ok()?;
        (1..=MAX_LISTED_TARGET).contains(&target.len()).then(|| target.into())
    }
}

/// Where the link `name` in `directory` points; with an empty name the one that `directory` itself refers to.
pub(super) fn read_link(directory: &OwnedFd, name: &CStr) -> FsResult<Vec<u8>> {
    rustix::fs::readlinkat(directory, name, Vec::new()).map(|target| target.into_bytes()).map_err(os)
}
