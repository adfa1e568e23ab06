//! What is answered only when home has it: `fsync` and close of a path whose policy says `consistency: critical`.
//!
//! *Invariant:* what is confirmed is home as it was when it was asked for, or as it was later.

use super::blocking;
use super::holdings::{Holding, Holdings, is_hidden};
use super::links::is_linked;
use crate::model::pending::Moment;
use crate::source::Deadline;
use globalfs_proto::{Attr, FileKind, FsError, FsResult, GlobalPath};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// `EIO`.
const NOT_HOME: FsError = FsError::Os(5);

/// What is left of a deadline for the answer to reach who asked, so that the error says more than that it was late.
const FOR_THE_ANSWER: Duration = Duration::from_secs(1);

impl Holdings {
    /// Brings `path`, which has the attributes `attr`, home before all else, and returns when it is; of a directory also
    /// its names. `EIO` when it is not in time: then it stays owed.
    pub async fn confirm(&self, path: &GlobalPath, attr: Option<&Attr>, deadline: Deadline) -> FsResult<()> {
        let Some(holding) = self.at(path) else { return Ok(()) };
        let awaited = self.await_home(&holding, path, attr).await?;
        if awaited.is_empty() {
            return Ok(());
        }
        holding.wake.notify_one();
        let left = deadline.remaining();
        let limit = left.saturating_sub(FOR_THE_ANSWER.min(left / 4));
        timeout(limit, holding.all_home(&awaited)).await.map_err(|_| {
            let reason = holding.trouble().unwrap_or_else(|| "home has not taken it in time".to_owned());
            tracing::warn!(%path, reason, "critical_change_not_home");
            NOT_HOME
        })
    }

    async fn await_home(
        &self,
        holding: &Arc<Holding>,
        path: &GlobalPath,
        attr: Option<&Attr>,
    ) -> FsResult<Vec<(GlobalPath, Moment)>> {
        // What lost its name while it was open has further ones, or nothing of it comes home.
        let mut paths: Vec<_> = std::iter::once(path.clone()).filter(|path| !is_hidden(path)).collect();
        if let Some(attr) = attr.filter(|attr| is_linked(attr)) {
            // It may have been changed by another name.
            paths.extend(holding.links.lock().names(attr.file));
        }
        let moved = holding.pending.lock().was_moved(path);
        if moved {
            let (holdings, holding, paths) = (self.clone(), holding.clone(), paths.clone());
            blocking(move || holdings.add(&holding, &paths)).await?;
        }
        let mut pending = holding.pending.lock();
        if attr.is_some_and(|attr| attr.kind == FileKind::Directory) {
            paths.extend(pending.names_in(path));
        }
        let awaited = paths.into_iter().map(|path| (pending.want_home(&path), path));
        Ok(awaited.filter_map(|(moment, path)| Some((path, moment?))).collect())
    }
}

impl Holding {
    async fn all_home(&self, awaited: &[(GlobalPath, Moment)]) {
        loop {
            let tried = self.tried.notified();
            tokio::pin!(tried);
            // Before it is looked: else what comes home in between would not wake this.
            tried.as_mut().enable();
            let is_home = {
                let pending = self.pending.lock();
                awaited.iter().all(|(path, moment)| pending.is_home(path, *moment))
            };
            if is_home {
                return;
            }
            tried.await;
        }
    }
}
