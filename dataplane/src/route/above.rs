//! Directories above subtrees that this site holds, while their own master is away: the way to what is held stays open.
//!
//! *Invariant:* what is told then is a directory that this site has itself; nothing is told of what lies beside the way.

use super::{CHILD_DEADLINE, Routes, child_deadline};
use crate::source::Deadline;
use globalfs_proto::{Attr, FileKind, FsError, FsResult, GlobalPath};
use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// For how long a master that was away is not asked again, so that each step of each path does not wait for it.
const AWAY: Duration = Duration::from_secs(5);

/// When a master was found to be away.
#[derive(Default)]
pub(super) struct Away(Mutex<Option<Instant>>);

impl Away {
    fn is_recent(&self) -> bool {
        self.0.lock().is_some_and(|at| at.elapsed() < AWAY)
    }
}

impl Routes {
    /// The directory `path`, if its master was away a moment ago.
    pub(super) async fn way_to_held(&self, path: &GlobalPath) -> Option<Attr> {
        if self.away.is_recent() && self.leads_to_held(path) { self.own_directory(path).await } else { None }
    }

    /// The directory `path`, whose master has failed with `error`.
    pub(super) async fn open_way(&self, path: &GlobalPath, error: FsError) -> FsResult<Attr> {
        let is_away = matches!(error, FsError::Unreachable(_) | FsError::Deadline);
        if !is_away || !self.leads_to_held(path) {
            return Err(error);
        }
        let attr = self.own_directory(path).await.ok_or(error)?;
        *self.away.0.lock() = Some(Instant::now());
        Ok(attr)
    }

    /// What the master of `path` is waited for.
    pub(super) fn patience(&self, path: &GlobalPath, deadline: Deadline) -> Deadline {
        match self.leads_to_held(path) {
            true => child_deadline(deadline),
            false => deadline,
        }
    }

    fn leads_to_held(&self, path: &GlobalPath) -> bool {
        let is_above = |scope: &GlobalPath| scope != path && scope.starts_with(path);
        self.holdings.as_ref().is_some_and(|holdings| holdings.any(is_above))
    }

    async fn own_directory(&self, path: &GlobalPath) -> Option<Attr> {
        let attr = self.origin.stat(path, Deadline::after(CHILD_DEADLINE)).await.ok()?;
        (attr.kind == FileKind::Directory).then_some(attr)
    }
}
