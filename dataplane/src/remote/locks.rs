//! Asking a site's daemon for locks.

use super::Remote;
use crate::locks::LockService;
use crate::source::Deadline;
use async_trait::async_trait;
use globalfs_proto::{FsResult, KeepLocks, LockRequest, Locked, Request, Response};

impl Remote {
    async fn ask_locked(&self, request: Request, deadline: Deadline) -> FsResult<Locked> {
        match self.ask_one(request, deadline).await? {
            Response::Locked(locked) => Ok(locked),
            _ => Err(self.unexpected()),
        }
    }
}

#[async_trait]
impl LockService for Remote {
    async fn lock(&self, request: LockRequest, deadline: Deadline) -> FsResult<Locked> {
        self.ask_locked(Request::Lock(request), deadline).await
    }

    async fn keep(&self, keep: KeepLocks, deadline: Deadline) -> FsResult<Locked> {
        self.ask_locked(Request::KeepLocks(keep), deadline).await
    }
}
