//! What machines have: chance, a clock of their own, a disk that is done after a while.

use std::collections::VecDeque;
use std::time::Duration;

/// Numbers that look random and are the same for the same seed (splitmix64).
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to below `end`.
    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// True so many times of a thousand.
    pub(super) fn chance(&mut self, permille: u32) -> bool {
        self.next() % 1000 < u64::from(permille)
    }

    /// Between two times, in milliseconds.
    pub(super) fn millis(&mut self, from: u64, to: u64) -> Duration {
        let nanos = from * 1_000_000 + self.next() % ((to - from) * 1_000_000 + 1);
        Duration::from_nanos(nanos)
    }
}

/// A timer that was set: for when, and when it rings.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wake {
    pub(super) due: Duration,
    pub(super) rings: Duration,
}

const MILLION: u128 = 1_000_000;

/// A monotonic clock that stands somewhere and runs at some rate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    offset: Duration,
    per_million: u128,
}

impl Clock {
    /// Often at the ends of what is allowed: a hundredth too slow or too fast.
    pub(super) fn any(random: &mut Random) -> Self {
        let per_million = match random.below(5) {
            0 => 990_000,
            1 => 1_010_000,
            2 => 1_000_000,
            _ => 990_000 + random.below(20_001) as u128,
        };
        Self { offset: random.millis(0, 100_000), per_million }
    }

    pub(super) fn run_at(&mut self, per_million: u128) {
        self.per_million = per_million;
    }

    /// The machine was started anew: the clock stands elsewhere, the quartz is the same.
    pub(super) fn restart(&mut self, random: &mut Random) {
        self.offset = random.millis(0, 100_000);
    }

    pub(super) fn read(&self, time: Duration) -> Duration {
        self.offset + nanos(time.as_nanos() * self.per_million / MILLION)
    }

    /// The first time at which the clock shows `reading` or more.
    pub(super) fn when(&self, reading: Duration) -> Duration {
        let since = reading.saturating_sub(self.offset).as_nanos();
        nanos((since * MILLION).div_ceil(self.per_million))
    }
}

fn nanos(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).expect("centuries"))
}

/// Changes on their way to being durable, made in order.
#[derive(Debug)]
pub(super) struct Disk<T> {
    pending: VecDeque<(Duration, T)>,
}

impl<T> Default for Disk<T> {
    fn default() -> Self {
        Self { pending: VecDeque::new() }
    }
}

impl<T> Disk<T> {
    /// Begins `change` and says when it will be durable.
    pub(super) fn begin(&mut self, at: Duration, change: T) -> Duration {
        let at = self.pending.back().map_or(at, |(before, _)| at.max(*before));
        self.pending.push_back((at, change));
        at
    }

    /// The change that is durable now.
    pub(super) fn done(&mut self, now: Duration) -> Option<T> {
        self.pending
            .front()
            .is_some_and(|(at, _)| *at <= now)
            .then(|| self.pending.pop_front())?
            .map(|(_, t)| t)
    }

    /// The machine stops: some of what was begun is durable, the first of it.
    pub(super) fn crash(&mut self, random: &mut Random) -> Vec<T> {
        let kept = random.below(self.pending.len() + 1);
        let changes = std::mem::take(&mut self.pending);
        changes.into_iter().take(kept).map(|(_, change)| change).collect()
    }
}
