//! Traces: what a job read, in which order, kept so that the next burst brings exactly that.
//!
//! `model` decides and is pure: recording, merging, pacing, whose job a process is. `stored` is the form on
//! disk and on the wire, `store` a directory of them at a site. `watch` records in a mount's process, `process`
//! looks at who reads, `replay` warms what a trace says, `control` is the way from the command line to a mount.
//!
//! *Invariant:* a read of the mount never waits for recording, and an open waits for a short look at `/proc`
//! at most.

pub mod control;
pub mod model;
mod process;
pub mod replay;
pub mod store;
pub mod stored;
pub mod watch;

pub use model::{Trace, TracedFile, TracedRead};
pub use process::MARK;
pub use watch::Watch;

use std::time::{SystemTime, UNIX_EPOCH};

/// Now, ns since 1970.
pub(crate) fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
