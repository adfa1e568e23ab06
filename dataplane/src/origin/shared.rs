//! Files that nodes which see the origin by themselves write to.
//!
//! *Invariant:* that nobody has one open to write is told only after the kernel of this machine has said so.

use super::Origin;
use super::lease::is_open_to_write;
use super::tree::os;
use super::watch::is_local;
use crate::source::Deadline;
use globalfs_proto::{Attr, FsError, FsResult, Target};
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;

/// Set-user-ID and set-group-ID: the kernel does not take them away by itself from what it writes for a mount.
const SET_ID: u32 = 0o6000;

/// A file that others on this machine write to. Clones are one.
#[derive(Debug, Clone)]
pub struct SharedFile(Arc<File>);

/// What was seen of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedLook {
    /// What it is now.
    pub attr: Attr,
    /// Somebody had it open to write a moment before.
    pub is_written: bool,
}

impl Origin {
    /// The file `target`, to be looked at while others write to it by themselves. `EOPNOTSUPP` where they are not to, or
    /// where nobody would see that they do: on another machine, or where the file system does not tell.
    pub async fn share(&self, target: &Target, deadline: Deadline) -> FsResult<(SharedFile, Attr)> {
        let target = target.clone();
        self.call(deadline, move |inner| {
            let (file, attr) = inner.tree.open_regular(&target.path)?;
            if attr.file != target.file {
                return Err(FsError::Stale(Some(Box::new(attr))));
            }
            let is_possible = !inner.options.read_only && attr.mode & SET_ID == 0 && is_local(&file);
            match is_possible && is_open_to_write(file.as_fd()).unwrap_or(false) {
                true => Ok((SharedFile(Arc::new(file)), attr)),
                false => Err(FsError::NOT_SUPPORTED),
            }
        })
        .await
    }

    /// Looks at each of `files`.
    pub async fn look_at(
        &self,
        files: Vec<SharedFile>,
        deadline: Deadline,
    ) -> FsResult<Vec<FsResult<SharedLook>>> {
        self.call(deadline, move |inner| {
            let look = |SharedFile(file): &SharedFile| {
                // Before the attributes: so they are of after the last write.
                let is_written = is_open_to_write(file.as_fd())?;
                Ok(SharedLook {
                    attr: inner.tree.attr_of(&super::tree::statx(file).map_err(os)?)?,
                    is_written,
                })
            };
            Ok(files.iter().map(look).collect())
        })
        .await
    }
}
