//! Names while another site is away: those that were brought last, where policy says that they are read on.
//!
//! *Invariant:* what is told has the attributes that its master told, so that what is open, cached or copied stays good. Of a
//! directory that only leads to what is here nothing is told but the way.

use super::{Copies, Replicas};
use crate::home::blocking;
use crate::model::replicas::Record;
use crate::source::{Deadline, Found, Listed, Listing, no_directories};
use bytes::Bytes;
use globalfs_proto::{Attr, DirEntry, FsError, FsResult, GlobalPath};
use parking_lot::Mutex;
use std::future::Future;
use std::time::{Duration, Instant};

/// What the master is waited for before what was kept is told.
const PATIENCE: Duration = Duration::from_secs(3);

/// For how long a master that was away is not asked again, but by one of those who want something of it.
const AWAY: Duration = Duration::from_secs(5);

/// When a master was found to be away.
#[derive(Default)]
pub(super) struct Away(Mutex<Option<Instant>>);

impl Away {
    /// Whether it is not worth to ask. Who hears that it may be, asks for the others.
    fn is_recent(&self) -> bool {
        let mut at = self.0.lock();
        let is_recent = at.is_some_and(|at| at.elapsed() < AWAY);
        if !is_recent && at.is_some() {
            *at = Some(Instant::now());
        }
        is_recent
    }

    fn set(&self, is_away: bool) {
        *self.0.lock() = is_away.then(Instant::now);
    }
}

impl Copies {
    /// What `ask` gives or, while the master is away and policy says so, what is `kept`.
    pub(super) async fn ask<T, A, K>(
        &self,
        path: &GlobalPath,
        deadline: Deadline,
        ask: impl FnOnce(Deadline) -> A,
        kept: impl FnOnce() -> K,
    ) -> FsResult<T>
    where
        A: Future<Output = FsResult<T>>,
        K: Future<Output = FsResult<T>>,
    {
        if !self.replicas.reads_on(path) {
            return ask(deadline).await;
        }
        if self.away.is_recent() {
            return kept().await;
        }
        let patience = deadline.min(Deadline::after(PATIENCE.min(deadline.remaining() / 2)));
        let answer = patience.bound(ask(patience)).await;
        let is_away = matches!(answer, Err(FsError::Unreachable(_) | FsError::Deadline));
        self.away.set(is_away);
        if is_away {
            kept().await.or_else(|error| if is_silent(&error) { answer } else { Err(error) })
        } else {
            answer
        }
    }

    pub(super) async fn kept_stat(&self, path: &GlobalPath) -> FsResult<Attr> {
        self.kept(path).await
    }

    pub(super) async fn kept_look_up(&self, path: &GlobalPath) -> FsResult<Found> {
        Found::of(self.kept_stat(path).await)
    }

    pub(super) async fn kept_list(&self, path: &GlobalPath) -> FsResult<Listing> {
        let attr = self.kept_stat(path).await?;
        if self.replicas.0.rules.rule(path).is_none() && !self.replicas.0.rules.may_hold(path) {
            return Err(silent(path));
        }
        let (ledger, directory) = (self.replicas.0.ledger.clone(), path.clone());
        let children = blocking(move || ledger.children(&directory)).await?;
        let entry = |(path, record): (GlobalPath, Record)| {
            Some(DirEntry::new(Bytes::copy_from_slice(path.name()), record.told()?))
        };
        let entries = children.into_iter().filter_map(entry).collect();
        Ok(Listing { attr, entries, complete: true, watched: false })
    }

    pub(super) async fn kept_list_below(&self, path: &GlobalPath) -> FsResult<Listed> {
        Ok(Listed { listing: self.kept_list(path).await?, directories: no_directories() })
    }

    /// Fails unless there is a copy of `path`.
    pub(super) async fn check_kept(&self, path: &GlobalPath) -> FsResult<()> {
        self.kept(path).await.map(drop)
    }

    /// What is not here is absent where all that is to be here is told, and else unknown.
    async fn kept(&self, path: &GlobalPath) -> FsResult<Attr> {
        let (ledger, at) = (self.replicas.0.ledger.clone(), path.clone());
        let told = blocking(move || ledger.get(&at)).await?.and_then(|record| record.told());
        match told {
            Some(attr) => Ok(attr),
            None if self.replicas.0.rules.rule(path).is_some() => Err(FsError::NOT_FOUND),
            None => Err(silent(path)),
        }
    }
}

impl Replicas {
    fn reads_on(&self, path: &GlobalPath) -> bool {
        !self.0.ledger.is_empty() && self.0.rules.reads_on(path)
    }
}

fn silent(path: &GlobalPath) -> FsError {
    FsError::Unreachable(format!("the master of {path} is away, and it is not replicated here"))
}

fn is_silent(error: &FsError) -> bool {
    matches!(error, FsError::Unreachable(_))
}
