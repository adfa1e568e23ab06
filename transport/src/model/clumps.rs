//! Acknowledgements that come in clumps, because a host was busy or a link gathers them: how much more came at
//! once than the path delivers in that time. After draft-ietf-ccwg-bbr, section 5.5.9 (ACK aggregation).

use super::rate::Rate;
use std::time::Duration;

/// The largest clump of this cycle and the one before.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Clumps {
    begun: Duration,
    acked: u64,
    this_cycle: u64,
    last_cycle: u64,
}

impl Clumps {
    /// Bytes beyond what the rate explains.
    pub(crate) fn largest(&self) -> u64 {
        self.this_cycle.max(self.last_cycle)
    }

    /// `acked` bytes were acknowledged at `now` on a path that delivers at `rate`.
    pub(crate) fn put(&mut self, now: Duration, acked: u64, rate: Rate) {
        let expected = rate.bytes_in(now.saturating_sub(self.begun));
        if self.acked <= expected {
            (self.begun, self.acked) = (now, 0);
        }
        self.acked += acked;
        let expected = rate.bytes_in(now.saturating_sub(self.begun));
        self.this_cycle = self.this_cycle.max(self.acked.saturating_sub(expected));
    }

    /// Begins another cycle.
    pub(crate) fn turn(&mut self) {
        self.last_cycle = std::mem::take(&mut self.this_cycle);
        self.acked = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_clump_is_what_the_rate_does_not_explain() {
        let rate = Rate::of(1000, MS);
        let mut clumps = Clumps::default();
        (1..100).for_each(|now| clumps.put(now * MS, 1000, rate));
        assert!(clumps.largest() <= 1000, "{}", clumps.largest());
        clumps.put(110 * MS, 6000, rate);
        clumps.put(110 * MS, 5000, rate);
        assert!((9000..=11_000).contains(&clumps.largest()), "{}", clumps.largest());
        clumps.turn();
        (111..200).for_each(|now| clumps.put(now * MS, 1000, rate));
        assert!(clumps.largest() >= 9000, "of the last cycle");
        clumps.turn();
        assert!(clumps.largest() < 9000);
    }
}
