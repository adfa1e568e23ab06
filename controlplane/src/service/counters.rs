//! What the coordinator counts for its metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters of a running coordinator; they only rise.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) requests: AtomicU64,
    pub(crate) errors: AtomicU64,
    pub(crate) refusals: AtomicU64,
    pub(crate) joins: AtomicU64,
    pub(crate) heartbeats: AtomicU64,
    pub(crate) record_writes: AtomicU64,
    pub(crate) failed_handshakes: AtomicU64,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CounterSnapshot {
    /// Requests that arrived.
    pub requests: u64,
    /// Requests that failed, refusals not among them.
    pub errors: u64,
    /// Requests that were refused for who asked.
    pub refusals: u64,
    /// Certificates issued.
    pub joins: u64,
    /// Heartbeats taken.
    pub heartbeats: u64,
    /// Site records written because of heartbeats or their absence.
    pub record_writes: u64,
    /// Connections that did not get through the TLS handshake.
    pub failed_handshakes: u64,
}

impl Counters {
    pub(crate) fn raise(counter: &AtomicU64) {
        counter.fetch_add(1, Relaxed);
    }

    pub(crate) fn snapshot(&self) -> CounterSnapshot {
        CounterSnapshot {
            requests: self.requests.load(Relaxed),
            errors: self.errors.load(Relaxed),
            refusals: self.refusals.load(Relaxed),
            joins: self.joins.load(Relaxed),
            heartbeats: self.heartbeats.load(Relaxed),
            record_writes: self.record_writes.load(Relaxed),
            failed_handshakes: self.failed_handshakes.load(Relaxed),
        }
    }
}
