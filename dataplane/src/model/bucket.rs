//! A token bucket: what passes at a rate, with a short burst.
//!
//! *Invariant:* in any time that is longer than the burst no more passes than the rate allows for it and the burst, but for
//! the last piece.

use std::time::Duration;

/// What may pass at once after a rest, as time at the rate.
const BURST: Duration = Duration::from_millis(250);

/// The bucket. Times are of one monotonic clock.
#[derive(Debug)]
pub struct Bucket {
    bytes_per_second: u64,
    /// All that has passed is paid for then.
    paid_at: Duration,
}

impl Bucket {
    /// At `bytes_per_second`, which is at least 1.
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), paid_at: Duration::ZERO }
    }

    /// Its rate.
    pub fn bytes_per_second(&self) -> u64 {
        self.bytes_per_second
    }

    /// Bytes pass: how long to wait before the next ones do.
    pub fn pass(&mut self, bytes: u64, now: Duration) -> Duration {
        let from = self.paid_at.max(now.saturating_sub(BURST));
        self.paid_at = from + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        self.paid_at.saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_whatever_the_pieces() {
        for piece in [10, 1000, 70_000] {
            let (mut bucket, mut now, mut passed) = (Bucket::new(100_000), Duration::from_secs(5), 0u64);
            let began = now;
            while now - began < Duration::from_secs(20) {
                passed += piece;
                now += bucket.pass(piece, now) + Duration::from_micros(1);
            }
            let allowed = 100_000.0 * ((now - began) + BURST).as_secs_f64() + piece as f64;
            assert!(
                (passed as f64) <= allowed && passed as f64 > 0.9 * allowed - piece as f64,
                "{piece}: {passed}"
            );
        }
    }

    #[test]
    fn a_rest_saves_no_more_than_the_burst() {
        let mut bucket = Bucket::new(1000);
        let hour = Duration::from_secs(3600);
        assert_eq!(bucket.pass(250, hour), Duration::ZERO);
        assert_eq!(bucket.pass(1000, hour), Duration::from_secs(1));
    }
}
