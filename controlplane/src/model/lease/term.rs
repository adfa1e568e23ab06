//! How long leases last, and how much longer the granter waits than a holder relies on them.
//!
//! *Invariant:* a term that a holder counts from its request has ended, in true time, before [`outlasts`] of that
//! term, counted by the granter from its later answer, has.

use std::time::Duration;

/// No clock's rate differs from true time by more than this. Quartz that is not disciplined drifts by some 0.01 %,
/// NTP slews by 0.05 %; clocks of virtual machines are worse.
pub const CLOCK_RATE_PERCENT: u32 = 1;

const _: () = assert!(CLOCK_RATE_PERCENT > 0 && CLOCK_RATE_PERCENT < 100);

/// How long holders may rely on an answer. All coordinators of a cluster have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// To use a read lease; also how long a restarted granter grants no write lease.
    pub read: Duration,
    /// To acknowledge changes under a write lease; also the longest wait after an `abandon`.
    pub write: Duration,
}

impl Default for Terms {
    /// Readers bound the wait of a writer, so their term is short; a write term bounds how long local writes go on
    /// without the coordinator, so it is long.
    fn default() -> Self {
        Self { read: Duration::from_secs(30), write: Duration::from_secs(600) }
    }
}

/// What the granter waits, by its own clock, to be sure that a holder's `term` is over: its clock may be the fastest,
/// the holder's the slowest.
pub fn outlasts(term: Duration) -> Duration {
    // Rounded up, twice: by the division and where clocks tick.
    term * (100 + CLOCK_RATE_PERCENT) / (100 - CLOCK_RATE_PERCENT) + Duration::from_nanos(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn outlasts_the_slowest_holder_on_the_fastest_granter(nanos in 1u64..3_600_000_000_000) {
            let waits = outlasts(Duration::from_nanos(nanos)).as_nanos();
            // In true time: waits / 1.01 is more than nanos / 0.99.
            prop_assert!(waits * 99 > u128::from(nanos) * 101);
        }
    }
}
