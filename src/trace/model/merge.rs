//! Merging a run into what earlier runs read: what recent runs read is kept, what [`FORGET_AFTER`] runs in a
//! row did not touch is dropped.

use super::{MAX_FILES, MAX_READS, SpanSet, Trace, TracedFile, TracedRead, clip};
use globalfs_proto::{ChunkSpan, GlobalPath};
use std::collections::HashMap;

/// Runs in a row that did not read a chunk, after which it is forgotten.
pub const FORGET_AFTER: u8 = 2;

/// What is left of `old` after the run `new`, and the run. Of the same run, as another node or a later moment
/// tells it, both are kept. Merging the same run once more changes nothing.
pub fn merge(old: &Trace, new: &Trace) -> Trace {
    let same_run = old.run == new.run;
    let mut merging = Merging::default();
    let of_this_run = |read: &&TracedRead| same_run && read.missed == 0;
    merging.take(old, new, old.reads.iter().filter(of_this_run), 0);
    merging.take(new, new, new.reads.iter(), 0);
    merging.take(old, new, old.reads.iter().filter(|read| !of_this_run(read)), u8::from(!same_run));
    Trace {
        run: new.run,
        recorded_at_ns: old.recorded_at_ns.max(new.recorded_at_ns),
        runs: old.runs.saturating_add(u32::from(!same_run)),
        truncated: new.truncated || merging.truncated,
        files: merging.files,
        reads: merging.reads,
    }
}

#[derive(Default)]
struct Merging {
    files: Vec<TracedFile>,
    numbers: HashMap<GlobalPath, u32>,
    chunks: Vec<SpanSet>,
    reads: Vec<TracedRead>,
    truncated: bool,
}

impl Merging {
    /// Takes `reads` of `from`, `missed` once more, so far as they are not there yet. `latest` knows the sizes
    /// better.
    fn take<'a>(
        &mut self,
        from: &Trace,
        latest: &Trace,
        reads: impl Iterator<Item = &'a TracedRead>,
        missed: u8,
    ) {
        let sizes: HashMap<&GlobalPath, u64> = latest.files.iter().map(|f| (&f.path, f.size)).collect();
        for read in reads {
            let file = &from.files[read.file as usize];
            let size = sizes.get(&file.path).copied().unwrap_or(file.size);
            let missed = read.missed + missed;
            if let Some(span) = clip(read.span, size).filter(|_| missed < FORGET_AFTER) {
                self.add(&file.path, size, span, missed);
            }
        }
    }

    fn add(&mut self, path: &GlobalPath, size: u64, span: ChunkSpan, missed: u8) {
        let Some(file) = self.number(path, size) else { return };
        for span in self.chunks[file as usize].insert(span) {
            if self.reads.len() >= MAX_READS {
                self.truncated = true;
                return;
            }
            self.reads.push(TracedRead { file, span, missed });
        }
    }

    fn number(&mut self, path: &GlobalPath, size: u64) -> Option<u32> {
        if let Some(&number) = self.numbers.get(path) {
            return Some(number);
        }
        if self.files.len() >= MAX_FILES {
            self.truncated = true;
            return None;
        }
        let number = self.files.len() as u32;
        self.numbers.insert(path.clone(), number);
        self.files.push(TracedFile { path: path.clone(), size });
        self.chunks.push(SpanSet::default());
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::model::span;
    use globalfs_proto::limits::CHUNK_SIZE;
    use std::collections::BTreeMap;

    /// A run that read single chunks of files of 20 chunks.
    fn run(run: u64, chunks: &[(u8, u64)]) -> Trace {
        let path = |file: u8| GlobalPath::new(format!("/{file}").as_bytes()).unwrap();
        let file = |file| TracedFile { path: path(file), size: 20 * CHUNK_SIZE };
        let empty = Trace { run, runs: 1, files: (0..4).map(file).collect(), ..Trace::default() };
        let mut seen = std::collections::BTreeSet::new();
        let fresh = chunks.iter().filter(|chunk| seen.insert(**chunk));
        let read = |(file, chunk): &(u8, u64)| TracedRead {
            file: u32::from(*file),
            span: span(*chunk, chunk + 1),
            missed: 0,
        };
        Trace { reads: fresh.map(read).collect(), ..empty }
    }

    /// The chunks of a trace with the runs that missed them.
    fn told(trace: &Trace) -> Vec<(String, u64, u8)> {
        let read = |read: &TracedRead| {
            let path = trace.files[read.file as usize].path.to_string();
            read.span.iter().map(move |index| (path.clone(), index.0, read.missed)).collect::<Vec<_>>()
        };
        trace.reads.iter().flat_map(read).collect()
    }

    #[test]
    fn what_two_runs_did_not_touch_is_dropped() {
        let first = run(1, &[(0, 1), (1, 1)]);
        let second = merge(&first, &run(2, &[(1, 2), (1, 1)]));
        let name = |n: u8| format!("/{n}");
        assert_eq!(told(&second), [(name(1), 2, 0), (name(1), 1, 0), (name(0), 1, 1)]);
        assert_eq!((second.runs, second.run), (2, 2));
        let third = merge(&second, &run(3, &[(2, 5)]));
        assert_eq!(told(&third), [(name(2), 5, 0), (name(1), 2, 1), (name(1), 1, 1)]);
        assert_eq!(third.files.len(), 2, "a file without reads is forgotten");
    }

    #[test]
    fn a_file_that_shrank_keeps_what_is_left() {
        let mut new = run(2, &[(1, 0)]);
        new.files[0].size = 3 * CHUNK_SIZE;
        let merged = merge(&run(1, &[(0, 1), (0, 9)]), &new);
        assert_eq!(told(&merged), [("/1".to_owned(), 0, 0), ("/0".to_owned(), 1, 1)]);
        assert!(merged.is_sound());
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_counting_chunk_by_chunk(
            runs in proptest::collection::vec(proptest::collection::vec((0_u8..4, 0_u64..20), 0..12), 1..7)
        ) {
            let mut naive: BTreeMap<(String, u64), u8> = BTreeMap::new();
            let mut merged = Trace { run: 99, ..Trace::default() };
            for (number, chunks) in (0..).zip(&runs) {
                let new = run(number, chunks);
                merged = merge(&merged, &new);
                assert!(merged.is_sound());
                assert_eq!(merge(&merged, &new), merged, "the same run once more changes nothing");
                naive.values_mut().for_each(|missed| *missed += 1);
                naive.extend(chunks.iter().map(|(file, chunk)| ((format!("/{file}"), *chunk), 0)));
                naive.retain(|_, missed| *missed < FORGET_AFTER);
                let told = told(&merged);
                assert_eq!(told.len(), naive.len(), "no chunk twice");
                let told: BTreeMap<_, _> = told.into_iter().map(|(p, c, m)| ((p, c), m)).collect();
                assert_eq!(told, naive);
            }
        }
    }
}
