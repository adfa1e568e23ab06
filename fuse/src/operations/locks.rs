//! Locks, as the volume keeps them, and what is forgotten when one is granted.
//!
//! *Invariant:* who was granted a lock reads what others wrote before they gave theirs up.

use super::Operations;
use crate::model::NodeId;
use crate::volume::{LockTarget, Volume};
use globalfs_proto::{FsResult, Lock, LockKind, LockOwner, LockRange};
use tokio::sync::oneshot;

/// Who asks for a lock, and of what.
#[derive(Debug, Clone, Copy)]
pub struct LockAsker {
    /// The file.
    pub node: NodeId,
    /// Which kind of locks.
    pub kind: LockKind,
    /// The owner, by the kernel's number.
    pub owner: LockOwner,
    /// Its process.
    pub pid: u32,
}

impl<V: Volume + ?Sized> Operations<V> {
    /// Whether the volume keeps locks.
    pub fn has_locks(&self) -> bool {
        self.volume.has_locks()
    }

    /// What `asker` means to the volume.
    pub(crate) fn lock_target(&self, asker: LockAsker) -> FsResult<LockTarget> {
        let LockAsker { node, kind, owner, pid } = asker;
        Ok(LockTarget { file: self.inodes.lock().attr(node)?.file, kind, owner, pid })
    }

    /// Who is in the way of `lock`, and its process, if it is of this mount.
    pub async fn test_lock(&self, asker: LockAsker, lock: Lock) -> FsResult<Option<(Lock, u32)>> {
        self.volume.test_lock(self.lock_target(asker)?, lock).await
    }

    /// Gets a lock; afterwards the node is what the file is now, and follows what others make of it if `follows`. If it
    /// cannot, since the kernel reads another content of it by itself, `Stale`, and the lock is given back.
    pub async fn set_lock(
        &self,
        asker: LockAsker,
        lock: Lock,
        waits: bool,
        follows: bool,
        interrupted: oneshot::Receiver<()>,
    ) -> FsResult<()> {
        let target = self.lock_target(asker)?;
        self.volume.set_lock(target, lock, waits, interrupted).await?;
        self.locked.lock().insert(asker.node);
        let outcome = self.catch_up(asker.node, follows).await;
        if outcome.is_err() {
            self.unlock_target(target, lock.range).await?;
        }
        outcome
    }

    /// Others have changed `id`, for all that is known.
    async fn catch_up(&self, id: NodeId, follows: bool) -> FsResult<()> {
        self.write_out(id).await;
        let _turn = self.turns.take(id).await?;
        let attr = self
            .volume
            .stat_for_open(&self.path(id)?)
            .await
            .map_err(|error| self.gone_is_stale(id, error))?;
        let pages = {
            let mut inodes = self.inodes.lock();
            if follows {
                inodes.go_live(id)?;
            }
            inodes.refresh(id, &attr)?
        };
        self.settle(id, pages);
        Ok(())
    }

    /// `asker` gives up what it has in `range`, after what was written.
    pub async fn unlock(&self, asker: LockAsker, range: LockRange) -> FsResult<()> {
        self.write_out(asker.node).await;
        self.look_direct(asker.node).await;
        self.unlock_target(self.lock_target(asker)?, range).await
    }

    pub(crate) async fn unlock_target(&self, target: LockTarget, range: LockRange) -> FsResult<()> {
        self.volume.unlock(target, range).await
    }
}
