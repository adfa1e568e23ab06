//! What the kernel's requests about locks mean in terms of [`Operations`].
//!
//! *Invariant:* before a lock is told as granted the kernel has forgotten what others had changed until then.
//!
//! [`Operations`]: crate::operations::Operations

use super::{Server, Shared};
use crate::kernel::lock_request::{self, LockRequest};
use crate::kernel::request::Request;
use crate::model::NodeId;
use crate::operations::LockAsker;
use crate::transport::Reply;
use globalfs_proto::{FsResult, Lock, LockKind, LockOwner, LockRange};
use rustix::io::Errno;

impl Shared {
    async fn set_lock(&self, unique: u64, asker: LockAsker, lock: Lock, waits: bool) -> FsResult<()> {
        let interrupted = self.interrupts.begin(unique);
        let follows = !self.passthrough.is_passed(asker.node);
        let outcome = self.operations.set_lock(asker, lock, waits, follows, interrupted).await;
        self.interrupts.end(unique);
        outcome?;
        self.drops.wait(asker.node).await;
        Ok(())
    }
}

impl Server {
    pub(super) fn lock(&self, request: &Request<'_>, lock: LockRequest, mut reply: Reply) {
        let (node, unique) = (request.node, request.unique);
        let asker = move |kind, owner, pid| LockAsker { node, kind, owner, pid };
        match lock {
            LockRequest::Flush { handle, owner } => {
                self.flush(handle, asker(LockKind::Ranges, owner, 0), reply);
            }
            // As before there were locks: the kernel does not ask again.
            _ if !self.shared.operations.has_locks() => reply.error(Errno::NOSYS),
            LockRequest::Interrupt { unique } => {
                self.shared.interrupts.interrupt(unique);
                reply.not_needed();
            }
            LockRequest::Test { kind, owner, pid, lock } => self.spawn(move |shared| async move {
                match shared.operations.test_lock(asker(kind, owner, pid), lock).await {
                    Ok(conflict) => reply.structure(&lock_request::found(conflict)),
                    Err(error) => shared.fail("getlk", node, &error, reply),
                }
            }),
            // Those who are to give locks up would wait behind those who wait for them.
            LockRequest::Set { waits: true, .. } if !reply.may_wait() => reply.error(Errno::NOLCK),
            LockRequest::Set { kind, owner, pid, lock, waits } => self.spawn(move |shared| async move {
                let outcome = shared.set_lock(unique, asker(kind, owner, pid), lock, waits).await;
                shared.done("setlk", node, outcome, reply);
            }),
            LockRequest::Unlock { kind, owner, pid, range } => {
                self.unlock(asker(kind, owner, pid), range, reply);
            }
        }
    }

    fn unlock(&self, asker: LockAsker, range: LockRange, reply: Reply) {
        self.answer(move |shared| async move {
            let outcome = shared.operations.unlock(asker, range).await;
            shared.done("setlk", asker.node, outcome, reply);
        });
    }

    /// What was written is there before its owner's locks go.
    fn flush(&self, handle: u64, asker: LockAsker, reply: Reply) {
        self.answer(move |shared| async move {
            let written = shared.operations.flush(asker.node, handle).await;
            let unlocked = match shared.operations.has_locks() {
                true => shared.operations.unlock(asker, LockRange::WHOLE).await,
                false => Ok(()),
            };
            shared.done("flush", asker.node, written.and(unlocked), reply);
        });
    }

    /// The last handle of an open file is closed, and with it goes the lock of the whole file. Nobody waits.
    pub(super) fn release_lock(&self, node: NodeId, owner: LockOwner) {
        let asker = LockAsker { node, kind: LockKind::Whole, owner, pid: 0 };
        let file = self.shared.operations.lock_target(asker);
        let untold = self.shared.operations.untold_direct(node);
        self.spawn(move |shared| async move {
            shared.operations.write_out(node).await;
            if let Some(target) = untold {
                shared.operations.tell_direct(target).await;
            }
            if let Ok(target) = file {
                let _ = shared.operations.unlock_target(target, LockRange::WHOLE).await;
            }
        });
    }
}
