//! Files that the kernel writes to by itself: the file itself, which this machine sees, is passed through to it.
//!
//! Nothing of ours sees what is written. So the file is asked what it is whenever somebody wants to know, and its volume is
//! told to look at it: before a lock is given up, and after each close, for which nobody waits, as the bytes are where they
//! belong.
//!
//! *Invariant:* whoever writes that way was permitted to by the volume, and holds on to the file until it is closed.

use super::Operations;
use crate::model::{LocalAttr, NodeId};
use crate::volume::{Volume, WholeFile};
use globalfs_proto::{Attr, Change, FsResult, GlobalPath, Lasting, Target};
use parking_lot::Mutex;
use std::any::Any;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

/// Those that are open to write, by their nodes.
#[derive(Default)]
pub(super) struct DirectFiles(Mutex<HashMap<NodeId, Direct>>);

struct Direct {
    file: Arc<File>,
    writers: usize,
    /// What its volume was told last.
    told: LocalAttr,
    _keep: Box<dyn Any + Send + Sync>,
}

impl<V: Volume + ?Sized> Operations<V> {
    /// The file that `id` is, for the kernel to write to by itself. Who gets it says [`Self::begin_direct`] or drops it.
    pub(crate) async fn writable_file(&self, id: NodeId) -> Option<WholeFile> {
        let (_, target) = self.target(id).ok()?;
        self.volume.writable_file(target).await
    }

    /// The kernel writes to `id`, which is `whole`, by itself until [`Self::end_direct`] was called as often.
    pub(crate) fn begin_direct(&self, id: NodeId, whole: WholeFile) {
        let WholeFile { file, keep, .. } = whole;
        let Ok(told) = file.metadata().map(|metadata| local_attr(&metadata)) else { return };
        let mut files = self.direct.0.lock();
        let direct = files.entry(id).or_insert(Direct { file, writers: 0, told, _keep: keep });
        direct.writers += 1;
    }

    /// One who writes has closed `id`.
    pub(super) fn end_direct(&self, id: NodeId) {
        self.learn(id);
        let gone = match self.direct.0.lock().entry(id) {
            Entry::Occupied(mut direct) => {
                direct.get_mut().writers -= 1;
                (direct.get().writers == 0).then(|| direct.remove())
            }
            Entry::Vacant(_) => None,
        };
        // Outside the lock: closing a file may wait.
        drop(gone);
    }

    /// Whether the kernel writes to `id` by itself.
    pub(crate) fn is_direct(&self, id: NodeId) -> bool {
        self.direct.0.lock().contains_key(&id)
    }

    /// What `id` is at this moment is what is known of it, if the kernel writes to it.
    pub(super) fn learn(&self, id: NodeId) {
        if let Some(now) = self.local_attr(id) {
            self.inodes.lock().is_written(id, now);
        }
    }

    /// What is known of `id`, as of now.
    pub(super) fn attr(&self, id: NodeId) -> FsResult<Attr> {
        self.learn(id);
        self.inodes.lock().attr(id)
    }

    /// For how long that counts: the kernel does not hear of what it writes through a mapping.
    pub(super) fn lasting(&self, id: NodeId, path: &GlobalPath, attr: &Attr) -> Lasting {
        let lasting = self.volume.lasting(path, attr);
        if self.is_direct(id) { Lasting { attr: Duration::ZERO, ..lasting } } else { lasting }
    }

    /// Has the volume look at `id` if the kernel has written to it since it did. If it cannot it will find out by itself, and
    /// nothing is lost: the bytes are where they belong.
    pub(super) async fn look_direct(&self, id: NodeId) {
        let Some(now) = self.local_attr(id) else { return };
        if let Some(target) = self.untold_direct(id) {
            self.tell_direct(target).await;
            self.direct.0.lock().get_mut(&id).into_iter().for_each(|direct| direct.told = now);
        }
    }

    /// A handle of `id` is about to be closed: who opens it next finds what was written. Where somebody has had a lock, which
    /// goes with the close, so do others.
    pub(super) async fn close_direct(&self, id: NodeId) {
        let Some(target) = self.untold_direct(id) else { return };
        let attr = self.attr(id);
        if let Ok(attr) = attr {
            self.volume.learn(&target.path, &attr).await;
        }
        let is_locked = self.locked.lock().contains(&id);
        if is_locked {
            self.look_direct(id).await;
        }
    }

    /// What the volume is to look at, if the kernel has written to `id` since it did.
    pub(crate) fn untold_direct(&self, id: NodeId) -> Option<Target> {
        let now = self.local_attr(id)?;
        let is_told = self.direct.0.lock().get(&id).is_none_or(|direct| is_same(direct.told, now));
        if is_told { None } else { Some(self.target(id).ok()?.1) }
    }

    /// Has the volume look at `target`.
    pub(crate) async fn tell_direct(&self, target: Target) {
        if let Err(error) = self.volume.change(Change::LookDirect { target }).await {
            tracing::debug!(%error, "what was written to a file is seen later");
        }
    }

    pub(super) fn local_attr(&self, id: NodeId) -> Option<LocalAttr> {
        let file = self.direct.0.lock().get(&id)?.file.clone();
        // Of a file system of this machine alone, which has this in memory while it is open.
        file.metadata().ok().map(|metadata| local_attr(&metadata))
    }
}

/// Whether nothing was written in between.
fn is_same(one: LocalAttr, other: LocalAttr) -> bool {
    let content = |attr: LocalAttr| (attr.size, attr.mtime_ns, attr.ctime_ns);
    content(one) == content(other)
}

fn local_attr(metadata: &Metadata) -> LocalAttr {
    const SECOND: i64 = 1_000_000_000;
    let ns = |seconds: i64, rest: i64| seconds.saturating_mul(SECOND).saturating_add(rest);
    LocalAttr {
        size: metadata.size(),
        blocks: metadata.blocks(),
        atime_ns: ns(metadata.atime(), metadata.atime_nsec()),
        mtime_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
        ctime_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
    }
}
