//! Files of this site that its nodes write to by themselves.
//!
//! *Invariant:* a node is told so only for what this site masters, whose home and replicas need not be waited for, and for
//! what no other site is about to master.

use super::{Routed, Routes};
use crate::direct::DirectWrites;
use crate::source::Deadline;
use bytes::Bytes;
use globalfs_proto::{
    Change, Changed, ChangedDirectory, Changes, FsError, FsResult, GlobalPath, Target, Version,
};
use std::sync::Arc;

impl Routed {
    /// Lets nodes write to files by themselves, which `direct` looks after.
    pub fn with_direct(self, direct: DirectWrites) -> Self {
        let routes = Arc::into_inner(self.0).expect("it is not used before it is complete");
        Self(Arc::new(Routes { direct: Some(direct), ..routes }))
    }

    /// Tells what nodes have written by themselves and nobody has told. Goes on until it is dropped.
    pub async fn look_after_direct(&self) {
        let Some(direct) = &self.0.direct else { return std::future::pending().await };
        let routes = self.0.clone();
        direct.run(move |path| routes.tell_changed(&path)).await;
    }

    /// A file at or beneath `scope` that a node has open to write by itself.
    pub async fn open_below(&self, scope: &GlobalPath) -> Option<GlobalPath> {
        self.0.direct.as_ref()?.open_below(scope).await
    }
}

impl Routes {
    fn tell_changed(&self, path: &GlobalPath) {
        let Some(directory) = path.parent() else { return };
        let names = vec![Bytes::copy_from_slice(path.name())];
        let directories = vec![ChangedDirectory { path: directory, names }];
        self.moved.tell(Arc::new(Changes::of(directories)));
        if let Some(claims) = &self.claims {
            claims.used(path);
        }
    }

    /// A node asks whether it may write by itself. Where it may not, it writes through this daemon.
    pub(super) async fn begin_direct(&self, target: &Target, deadline: Deadline) -> FsResult<()> {
        let path = &target.path;
        match &self.direct {
            Some(direct) if !self.placement.is_critical(path) => direct.begin(target, deadline).await,
            _ => Err(FsError::NOT_SUPPORTED),
        }
    }

    /// What was made of a file that nodes write to by themselves, or of its names.
    pub(super) async fn note_direct(&self, change: &Change, changed: &mut Changed) {
        let Some(direct) = &self.direct else { return };
        if let Change::Rename { from, to, existing } = change
            && let Err(error) = direct.renamed(from, to, *existing).await
        {
            tracing::warn!(%from, %to, %error, "a file that a node writes to is looked for by its old name");
        }
        let Some(attr) = changed.attr.filter(|attr| direct.contains(attr.file)) else { return };
        if matches!(change, Change::LookDirect { .. }) {
            direct.told(attr.version());
        }
        // Others may have written between, without a turn: who keeps pages has to look anew.
        let unknown = |before| Version { ctime_ns: i64::MIN, ..before };
        changed.before = changed.before.map(unknown);
    }
}

/// Whether `change` is about writing without the daemon, which only its own nodes can do.
pub(super) fn is_direct(change: &Change) -> bool {
    matches!(change, Change::OpenDirect { .. } | Change::LookDirect { .. })
}
