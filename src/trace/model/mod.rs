//! What a trace is and what becomes of it: pure.

mod job;
mod merge;
mod pace;
mod recording;
mod spans;

pub use job::Job;
pub use merge::{FORGET_AFTER, merge};
pub use pace::{HEAD_START_BYTES, Pace};
pub use recording::{Recording, WHOLE_IF_UNREAD_BYTES};
pub use spans::SpanSet;

use globalfs_proto::chunk::chunk_count;
use globalfs_proto::limits::CHUNK_SIZE;
use globalfs_proto::{ChunkIndex, ChunkSpan, GlobalPath, TraceName, TraceSummary};

/// Files of one trace.
pub const MAX_FILES: usize = 32_768;

/// Reads of one trace.
pub const MAX_READS: usize = 65_536;

/// What one or several runs of a job read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trace {
    /// Which run was recorded last: a run that is put twice is counted once.
    pub run: u64,
    /// When, ns since 1970.
    pub recorded_at_ns: i64,
    /// Runs that it was made of.
    pub runs: u32,
    /// Whether more was read than a trace can hold.
    pub truncated: bool,
    /// The files, each once.
    pub files: Vec<TracedFile>,
    /// What was read of them, in order; no chunk twice.
    pub reads: Vec<TracedRead>,
}

/// A file of a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracedFile {
    /// Where it was.
    pub path: GlobalPath,
    /// Its length when it was read.
    pub size: u64,
}

/// Chunks of a file that were read together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TracedRead {
    /// Which of the trace's files.
    pub file: u32,
    /// The chunks, all inside the file.
    pub span: ChunkSpan,
    /// How many of the last runs did not read them.
    pub missed: u8,
}

impl Trace {
    /// The bytes of all reads.
    pub fn bytes(&self) -> u64 {
        self.reads.iter().map(|read| span_bytes(read.span, self.files[read.file as usize].size)).sum()
    }

    /// What a list tells of it.
    pub fn summary(&self, name: TraceName) -> TraceSummary {
        let files = u32::try_from(self.files.len()).unwrap_or(u32::MAX);
        let Self { runs, recorded_at_ns, .. } = *self;
        TraceSummary { name, files, bytes: self.bytes(), runs, recorded_at_ns }
    }

    /// Whether every read names chunks inside a file that is there.
    pub fn is_sound(&self) -> bool {
        self.files.len() <= MAX_FILES
            && self.reads.len() <= MAX_READS
            && self.reads.iter().all(|read| {
                let file = self.files.get(read.file as usize);
                file.is_some_and(|file| clip(read.span, file.size) == Some(read.span))
            })
    }
}

/// The bytes of `span` in a file of `size` bytes.
pub fn span_bytes(span: ChunkSpan, size: u64) -> u64 {
    let end = span.first.0.saturating_add(span.count).saturating_mul(CHUNK_SIZE).min(size);
    end.saturating_sub(span.first.0.saturating_mul(CHUNK_SIZE))
}

/// What of `span` lies inside a file of `size` bytes.
pub fn clip(span: ChunkSpan, size: u64) -> Option<ChunkSpan> {
    let count = chunk_count(size).saturating_sub(span.first.0).min(span.count);
    (count > 0).then_some(ChunkSpan { count, ..span })
}

fn span(first: u64, end: u64) -> ChunkSpan {
    ChunkSpan { first: ChunkIndex(first), count: end - first }
}
