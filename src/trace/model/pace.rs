//! How far a replay may run ahead of its job: what it warms has to be read in the end.

use super::{SpanSet, Trace};
use globalfs_proto::{ChunkSpan, GlobalPath};
use std::collections::HashMap;

/// Bytes that are warmed before anything has to be read of them.
pub const HEAD_START_BYTES: u64 = 256 * 1024 * 1024;

/// Counts what was warmed and what of the trace was read.
#[derive(Debug, Default)]
pub struct Pace {
    wanted: HashMap<GlobalPath, SpanSet>,
    warmed_bytes: u64,
    read_bytes: u64,
}

impl Pace {
    /// Nothing of `trace` is warmed or read yet.
    pub fn new(trace: &Trace) -> Self {
        let mut wanted: HashMap<GlobalPath, SpanSet> = HashMap::new();
        for read in &trace.reads {
            let path = &trace.files[read.file as usize].path;
            wanted.entry(path.clone()).or_default().insert(read.span);
        }
        Self { wanted, warmed_bytes: 0, read_bytes: 0 }
    }

    /// `bytes` more were brought.
    pub fn warmed(&mut self, bytes: u64) {
        self.warmed_bytes += bytes;
    }

    /// The job read chunks that it had not read before.
    pub fn read(&mut self, path: &GlobalPath, span: ChunkSpan) {
        let covered = self.wanted.get(path).map_or(0, |wanted| wanted.covered(span));
        self.read_bytes += covered * globalfs_proto::limits::CHUNK_SIZE;
    }

    /// Whether more may be warmed: beyond the head start, at least a half of it must have been read.
    pub fn may_go_on(&self) -> bool {
        self.warmed_bytes < HEAD_START_BYTES || self.read_bytes >= self.warmed_bytes / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::model::{TracedFile, TracedRead, span};
    use globalfs_proto::limits::CHUNK_SIZE;

    #[test]
    fn a_replay_waits_for_a_job_that_reads_something_else() {
        let (path, other) = (GlobalPath::new(b"/a").unwrap(), GlobalPath::new(b"/b").unwrap());
        let files = vec![TracedFile { path: path.clone(), size: u64::MAX }];
        let reads = vec![TracedRead { file: 0, span: span(0, 10_000), missed: 0 }];
        let mut pace = Pace::new(&Trace { files, reads, ..Trace::default() });
        pace.warmed(HEAD_START_BYTES - 1);
        assert!(pace.may_go_on());
        pace.warmed(1);
        assert!(!pace.may_go_on());
        pace.read(&other, span(0, 10_000));
        pace.read(&path, span(20_000, 30_000));
        assert!(!pace.may_go_on());
        pace.read(&path, span(0, HEAD_START_BYTES / 2 / CHUNK_SIZE));
        assert!(pace.may_go_on());
    }
}
