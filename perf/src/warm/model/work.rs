//! What one measurement did, and what it took.

use serde::Serialize;
use std::time::Duration;

/// Bytes or operations, and the time and CPU time that they took.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub(crate) struct Work {
    /// Bytes that were read.
    pub bytes: u64,
    /// Reads, or files, or names.
    pub operations: u64,
    /// How long it took, in seconds.
    pub elapsed_s: f64,
    /// CPU seconds of the reader, where it tells them.
    pub reader_cpu_s: Option<f64>,
    /// CPU seconds of the processes of the file system.
    pub daemons_cpu_s: f64,
    /// Where something was made known first: how long ago each name was seen last, in seconds.
    pub known_for_s: Option<f64>,
}

impl Work {
    /// So many operations that moved `bytes` in `elapsed`.
    pub(crate) fn of(operations: u64, bytes: u64, elapsed: Duration) -> Self {
        Self { bytes, operations, elapsed_s: elapsed.as_secs_f64(), ..Self::default() }
    }

    /// CPU seconds of everybody.
    pub(crate) fn cpu_s(&self) -> f64 {
        self.reader_cpu_s.unwrap_or_default() + self.daemons_cpu_s
    }
}
