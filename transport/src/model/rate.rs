//! Rates, and the highest one of the last two probing cycles.

use std::time::Duration;

/// Bytes per second.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default)]
pub(crate) struct Rate(f64);

impl Rate {
    pub(crate) const fn per_second(bytes: u32) -> Self {
        Self(bytes as f64)
    }

    /// `bytes` within `time`; nothing when no time has passed, for that tells no rate.
    pub(crate) fn of(bytes: u64, time: Duration) -> Self {
        if time.is_zero() { Self(0.0) } else { Self(bytes as f64 / time.as_secs_f64()) }
    }

    /// The bytes that pass in `time`.
    pub(crate) fn bytes_in(self, time: Duration) -> u64 {
        (self.0 * time.as_secs_f64()) as u64
    }

    pub(crate) fn times(self, factor: f64) -> Self {
        Self(self.0 * factor)
    }

    pub(crate) fn is_zero(self) -> bool {
        self.0 <= 0.0
    }

    pub(crate) fn max(self, other: Self) -> Self {
        Self(self.0.max(other.0))
    }
}

/// The highest rate of this cycle and the one before: an estimate lives through one quiet cycle, and a
/// bottleneck that became narrower is believed after two.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct HighestRate {
    this_cycle: Rate,
    last_cycle: Rate,
}

impl HighestRate {
    pub(crate) fn get(&self) -> Rate {
        self.this_cycle.max(self.last_cycle)
    }

    pub(crate) fn put(&mut self, rate: Rate) {
        self.this_cycle = self.this_cycle.max(rate);
    }

    /// Begins another cycle. A cycle that has seen nothing forgets nothing.
    pub(crate) fn turn(&mut self) {
        if !self.this_cycle.is_zero() {
            self.last_cycle = std::mem::take(&mut self.this_cycle);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_lives_for_two_cycles() {
        let second = Duration::from_secs(1);
        let mut highest = HighestRate::default();
        highest.put(Rate::of(10, second));
        highest.turn();
        highest.turn();
        highest.put(Rate::of(5, second));
        assert_eq!(highest.get(), Rate::of(10, second), "an empty cycle does not count");
        highest.turn();
        assert_eq!(highest.get(), Rate::of(5, second));
    }

    #[test]
    fn no_time_is_no_rate() {
        assert!(Rate::of(10, Duration::ZERO).is_zero());
        assert_eq!(Rate::of(1000, Duration::from_millis(10)).bytes_in(Duration::from_millis(1)), 100);
    }
}
