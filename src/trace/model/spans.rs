//! A set of chunks of one file, kept as the ranges that they form.

use super::span;
use globalfs_proto::ChunkSpan;
use std::collections::BTreeMap;

/// Chunks of one file: the first of each range, and the one behind its last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpanSet(BTreeMap<u64, u64>);

impl SpanSet {
    /// The parts of `wanted` that are not in the set, in order.
    pub fn missing(&self, wanted: ChunkSpan) -> Vec<ChunkSpan> {
        let (mut at, end) = (wanted.first.0, wanted.first.0 + wanted.count);
        let mut gaps = Vec::new();
        let before = self.0.range(..=at).next_back();
        for (&first, &last) in before.into_iter().chain(self.0.range(at + 1..end.max(at + 1))) {
            if first > at {
                gaps.push(span(at, first.min(end)));
            }
            at = at.max(last);
        }
        if at < end {
            gaps.push(span(at, end));
        }
        gaps
    }

    /// Adds `wanted`; gives the parts that were not in the set.
    pub fn insert(&mut self, wanted: ChunkSpan) -> Vec<ChunkSpan> {
        let gaps = self.missing(wanted);
        if !gaps.is_empty() {
            self.join(wanted.first.0, wanted.first.0 + wanted.count);
        }
        gaps
    }

    /// How many chunks of `wanted` are in the set.
    pub fn covered(&self, wanted: ChunkSpan) -> u64 {
        wanted.count - self.missing(wanted).iter().map(|gap| gap.count).sum::<u64>()
    }

    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Makes one range of all that touch this one.
    fn join(&mut self, mut first: u64, mut end: u64) {
        while let Some((&start, &stop)) = self.0.range(..=end).next_back().filter(|(_, stop)| **stop >= first)
        {
            self.0.remove(&start);
            (first, end) = (first.min(start), end.max(stop));
        }
        self.0.insert(first, end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    proptest::proptest! {
        #[test]
        fn behaves_as_a_set_of_numbers(spans in proptest::collection::vec((0_u64..60, 1_u64..12), 0..30)) {
            let (mut set, mut naive) = (SpanSet::default(), BTreeSet::new());
            for (first, count) in spans {
                let wanted = span(first, first + count);
                let fresh: Vec<u64> = (first..first + count).filter(|n| !naive.contains(n)).collect();
                assert_eq!(set.covered(wanted), count - fresh.len() as u64);
                let gaps = set.insert(wanted);
                assert_eq!(gaps.iter().flat_map(|gap| gap.iter().map(|i| i.0)).collect::<Vec<_>>(), fresh);
                naive.extend(fresh);
                let ranges: Vec<_> = set.0.iter().collect();
                assert!(ranges.windows(2).all(|two| two[0].1 < two[1].0), "ranges do not touch");
                assert_eq!(set.0.iter().flat_map(|(a, b)| *a..*b).collect::<BTreeSet<_>>(), naive);
            }
        }
    }
}
