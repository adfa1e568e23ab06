//! Recording one run: opens and reads come in, a trace comes out.
//!
//! *Invariants:* no chunk is recorded twice; the order is that of first reads; memory is bounded, and what no
//! longer fits makes the trace `truncated`.

use super::{MAX_FILES, MAX_READS, SpanSet, Trace, TracedFile, TracedRead, clip};
use globalfs_proto::{ByteRange, ChunkSpan, GlobalPath};
use std::collections::HashMap;

/// A file that was opened and never asked for data had it in the kernel's page cache: up to this size it is
/// taken to have been read as a whole.
pub const WHOLE_IF_UNREAD_BYTES: u64 = 4 * 1024 * 1024;

/// Chunks in one read of a trace, so that files that were read side by side stay side by side: 8 MiB.
const MAX_READ_CHUNKS: u64 = 64;

/// Bytes of all paths together.
const MAX_PATH_BYTES: usize = 4 * 1024 * 1024;

/// What one run read so far.
#[derive(Debug, Default)]
pub struct Recording {
    files: Vec<FileState>,
    numbers: HashMap<GlobalPath, u32>,
    reads: Vec<(u64, TracedRead)>,
    events: u64,
    path_bytes: usize,
    truncated: bool,
}

#[derive(Debug)]
struct FileState {
    path: GlobalPath,
    size: u64,
    opened_at: u64,
    chunks: SpanSet,
    last_read: usize,
}

impl Recording {
    /// A file of `size` bytes was opened. Its number for [`Recording::read`]; `None` when there is no room.
    pub fn opened(&mut self, path: &GlobalPath, size: u64) -> Option<u32> {
        self.events += 1;
        if let Some(&number) = self.numbers.get(path) {
            let file = &mut self.files[number as usize];
            file.size = file.size.max(size);
            return Some(number);
        }
        self.path_bytes += path.as_bytes().len();
        if self.files.len() >= MAX_FILES || self.path_bytes > MAX_PATH_BYTES {
            self.truncated = true;
            return None;
        }
        let number = self.files.len() as u32;
        self.numbers.insert(path.clone(), number);
        let (path, chunks) = (path.clone(), SpanSet::default());
        self.files.push(FileState { path, size, opened_at: self.events, chunks, last_read: usize::MAX });
        Some(number)
    }

    /// A part of the file `number` was read; gives the chunks that were not read before.
    pub fn read(&mut self, number: u32, range: ByteRange) -> Vec<ChunkSpan> {
        let Some(file) = self.files.get_mut(number as usize) else { return Vec::new() };
        let Some(span) = clip(range.chunks(), file.size) else { return Vec::new() };
        let fresh = file.chunks.insert(span);
        for part in &fresh {
            self.note(number, *part);
        }
        fresh
    }

    fn note(&mut self, number: u32, span: ChunkSpan) {
        self.events += 1;
        let file = &mut self.files[number as usize];
        if let Some((_, last)) = self.reads.get_mut(file.last_read) {
            let follows = last.span.first.0 + last.span.count == span.first.0;
            if follows && last.span.count + span.count <= MAX_READ_CHUNKS {
                last.span.count += span.count;
                return;
            }
        }
        if self.reads.len() >= MAX_READS {
            self.truncated = true;
            return;
        }
        file.last_read = self.reads.len();
        self.reads.push((self.events, TracedRead { file: number, span, missed: 0 }));
    }

    /// How much has happened; the same number means that nothing is new.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The trace of all so far; `run` names the run.
    pub fn trace(&self, run: u64, now_ns: i64) -> Trace {
        let unread = (0..).zip(&self.files).filter(|(_, file)| file.chunks.is_empty());
        let cached = unread.filter_map(|(number, file)| {
            let whole =
                ByteRange::new(0, file.size).filter(|r| r.length() <= WHOLE_IF_UNREAD_BYTES)?.chunks();
            Some((file.opened_at, TracedRead { file: number, span: whole, missed: 0 }))
        });
        let mut reads: Vec<_> = self.reads.iter().copied().chain(cached).collect();
        reads.sort_by_key(|(at, _)| *at);
        let truncated = self.truncated || reads.len() > MAX_READS;
        reads.truncate(MAX_READS);
        let file = |file: &FileState| TracedFile { path: file.path.clone(), size: file.size };
        Trace {
            run,
            recorded_at_ns: now_ns,
            runs: 1,
            truncated,
            files: self.files.iter().map(file).collect(),
            reads: reads.into_iter().map(|(_, read)| read).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use globalfs_proto::limits::CHUNK_SIZE;
    use std::collections::BTreeSet;

    fn path(name: &str) -> GlobalPath {
        GlobalPath::new(name.as_bytes()).unwrap()
    }

    fn range(first: u64, count: u64) -> ByteRange {
        ByteRange::new(first * CHUNK_SIZE, count * CHUNK_SIZE).unwrap()
    }

    fn told(trace: &Trace) -> Vec<(u32, u64, u64)> {
        trace.reads.iter().map(|read| (read.file, read.span.first.0, read.span.count)).collect()
    }

    #[test]
    fn reads_are_joined_and_keep_their_order() {
        let mut recording = Recording::default();
        let a = recording.opened(&path("/a"), 400 * CHUNK_SIZE).unwrap();
        let b = recording.opened(&path("/b"), 10 * CHUNK_SIZE).unwrap();
        recording.read(b, range(4, 1));
        recording.read(a, range(0, 8));
        recording.read(b, range(5, 2));
        recording.read(a, range(8, 8));
        recording.read(a, range(4, 4));
        recording.read(b, range(0, 2));
        recording.read(b, range(9, 5));
        assert_eq!(recording.opened(&path("/a"), 1), Some(a));
        let trace = recording.trace(7, 8);
        assert_eq!(told(&trace), [(1, 4, 3), (0, 0, 16), (1, 0, 2), (1, 9, 1)]);
        assert!(trace.is_sound() && !trace.truncated && trace.runs == 1);
    }

    #[test]
    fn long_reads_are_cut_so_that_neighbours_stay_together() {
        let mut recording = Recording::default();
        let a = recording.opened(&path("/a"), 400 * CHUNK_SIZE).unwrap();
        (0..16).for_each(|n| drop(recording.read(a, range(n * 8, 8))));
        assert_eq!(told(&recording.trace(0, 0)), [(0, 0, 64), (0, 64, 64)]);
    }

    #[test]
    fn what_was_opened_and_not_read_was_cached_in_the_kernel() {
        let mut recording = Recording::default();
        let first = recording.opened(&path("/first"), CHUNK_SIZE).unwrap();
        recording.opened(&path("/cached"), 3 * CHUNK_SIZE);
        recording.opened(&path("/large"), WHOLE_IF_UNREAD_BYTES + 1);
        recording.opened(&path("/empty"), 0);
        let last = recording.opened(&path("/last"), CHUNK_SIZE).unwrap();
        recording.read(last, range(0, 1));
        recording.read(first, range(0, 1));
        assert_eq!(told(&recording.trace(0, 0)), [(1, 0, 3), (4, 0, 1), (0, 0, 1)]);
    }

    #[test]
    fn a_recording_has_its_limits() {
        let mut recording = Recording::default();
        for n in 0..MAX_FILES {
            assert!(recording.opened(&path(&format!("/{n}")), 1).is_some());
        }
        assert!(recording.opened(&path("/more"), 1).is_none());
        let trace = recording.trace(0, 0);
        assert!(trace.truncated && trace.is_sound());
        let mut recording = Recording::default();
        let file = recording.opened(&path("/f"), u64::MAX).unwrap();
        (0..=MAX_READS as u64).for_each(|n| drop(recording.read(file, range(n * 2, 1))));
        let trace = recording.trace(0, 0);
        assert!(trace.truncated && trace.reads.len() == MAX_READS);
    }

    proptest::proptest! {
        #[test]
        fn exactly_the_chunks_that_were_read_are_recorded(
            events in proptest::collection::vec((0_u32..4, 0_u64..90, 1_u64..9), 1..60)
        ) {
            let mut recording = Recording::default();
            let mut naive = BTreeSet::new();
            for n in 0..4 {
                recording.opened(&path(&format!("/{n}")), 95 * CHUNK_SIZE - 3);
            }
            for (file, first, count) in events {
                recording.read(file, range(first, count));
                naive.extend((first..(first + count).min(95)).map(|chunk| (file, chunk)));
            }
            let trace = recording.trace(0, 0);
            let was_read: BTreeSet<u32> = naive.iter().map(|(file, _)| *file).collect();
            let of_reads: Vec<_> = trace.reads.iter()
                .filter(|read| was_read.contains(&read.file))
                .flat_map(|read| read.span.iter().map(|index| (read.file, index.0)))
                .collect();
            assert_eq!(of_reads.len(), naive.len(), "no chunk twice");
            assert_eq!(of_reads.into_iter().collect::<BTreeSet<_>>(), naive);
            assert!(trace.is_sound());
        }
    }
}
