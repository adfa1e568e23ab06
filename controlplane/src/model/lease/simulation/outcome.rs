//! What a run saw, to know that it was no idle one.

use std::time::Duration;

/// Counts of what happened in one run or in many.
#[derive(Debug, Clone, Default)]
pub(super) struct Outcome {
    pub(super) events: u64,
    pub(super) reads: u64,
    pub(super) writes: u64,
    pub(super) recalls: u64,
    pub(super) abandoned: u64,
    pub(super) fenced: u64,
    pub(super) lapsed: u64,
    pub(super) crashes: u64,
    pub(super) longest_wait: Duration,
}

impl Outcome {
    pub(super) fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.reads += other.reads;
        self.writes += other.writes;
        self.recalls += other.recalls;
        self.abandoned += other.abandoned;
        self.fenced += other.fenced;
        self.lapsed += other.lapsed;
        self.crashes += other.crashes;
        self.longest_wait = self.longest_wait.max(other.longest_wait);
    }

    /// A simulation in which nothing happens finds nothing.
    pub(super) fn assert_much_happened(&self, seeds: u64) {
        let seen =
            [self.reads, self.writes, self.recalls, self.abandoned, self.fenced, self.lapsed, self.crashes];
        assert!(seen.iter().all(|count| *count > seeds / 20), "{self:?}");
    }
}
