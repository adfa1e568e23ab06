//! Locks between the nodes of a site: the daemon's side keeps them, a mount's side holds them.
//!
//! A mount's locks live as long as its session, and that as long as it is heard of at least every [`TERM`]. A daemon that
//! was restarted knows which sessions there were, and grants nothing new until each has said what it holds, or [`GRACE`] is
//! over. What a mount has lost nobody goes on with: files under a lost lock fail with `EIO`.

mod held;
mod keeper;
mod records;

#[cfg(test)]
mod tests;

pub use held::{Asked, HeldLocks, Interrupted};
pub use keeper::LockKeeper;

use crate::source::Deadline;
use async_trait::async_trait;
use globalfs_proto::{KeepLocks, LockRequest, Locked};
use std::time::Duration;

/// A mount that was not heard of for so long has lost its locks: a node that is restarted or moved is back by then.
pub const TERM: Duration = Duration::from_secs(30);

/// So long a restarted daemon waits for mounts to say what they hold.
pub const GRACE: Duration = Duration::from_secs(30);

/// How often a mount says that it is there.
pub const RENEWAL: Duration = Duration::from_secs(5);

/// The longest that a request waits for a lock before it has to ask again.
pub const LONGEST_WAIT: Duration = Duration::from_secs(20);

/// Sessions that a daemon keeps, of all its nodes.
pub const MAX_SESSIONS: usize = 16 * 1024;

const _: () = assert!(RENEWAL.as_secs() * 4 < TERM.as_secs() && TERM.as_secs() <= GRACE.as_secs());

/// Who keeps locks, as a mount asks it.
#[async_trait]
pub trait LockService: Send + Sync + 'static {
    /// Sets, tests and gives up locks. An error of the network leaves open what came of it.
    async fn lock(&self, request: LockRequest, deadline: Deadline) -> globalfs_proto::FsResult<Locked>;

    /// Begins, keeps and ends a session.
    async fn keep(&self, keep: KeepLocks, deadline: Deadline) -> globalfs_proto::FsResult<Locked>;
}
