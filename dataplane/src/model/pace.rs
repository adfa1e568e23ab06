//! How far and how fast an upstream is, as its answers show it: the least latency and the highest delivery rate
//! of late. Filters of minimum and maximum, as BBR uses them (Cardwell et al., ACM Queue 14(5), 2016), because
//! queues only ever add to the one, and slow readers only ever take from the other.

use std::time::Duration;

/// The shortest time over which a rate is taken: a few chunks at 100 Mbit/s.
const MIN_PERIOD: Duration = Duration::from_millis(20);

/// Latencies, and periods of a rate, that are remembered.
const MEMORY: usize = 8;

/// Measurements of one upstream.
#[derive(Debug, Clone, Default)]
pub struct Pace {
    latencies: Recent,
    rates: Recent,
    period_begun: Option<Duration>,
    period_bytes: u64,
}

/// The last few values.
#[derive(Debug, Clone, Copy, Default)]
struct Recent {
    values: [u64; MEMORY],
    count: usize,
}

impl Recent {
    fn add(&mut self, value: u64) {
        self.values[self.count % MEMORY] = value;
        self.count += 1;
    }

    fn known(&self) -> &[u64] {
        &self.values[..self.count.min(MEMORY)]
    }
}

impl Pace {
    /// The first chunk of an answer came this long after it was asked for.
    pub fn answered(&mut self, latency: Duration) {
        self.latencies.add(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    /// `bytes` came at `now`, a time on any clock that does not go back.
    pub fn delivered(&mut self, bytes: u64, now: Duration) {
        let begun = *self.period_begun.get_or_insert(now);
        let passed = now.saturating_sub(begun);
        if passed >= self.period() {
            self.rates.add((self.period_bytes as f64 / passed.as_secs_f64()) as u64);
            (self.period_begun, self.period_bytes) = (Some(now), 0);
        }
        self.period_bytes += bytes;
    }

    /// The least latency of late.
    pub fn latency(&self) -> Option<Duration> {
        self.latencies.known().iter().min().map(|ns| Duration::from_nanos(*ns))
    }

    /// The bytes that are under way when an upstream of this latency and rate is never idle.
    pub fn bandwidth_delay_product(&self) -> Option<u64> {
        let rate = *self.rates.known().iter().max()?;
        Some((rate as f64 * self.latency()?.as_secs_f64()) as u64)
    }

    fn period(&self) -> Duration {
        self.latency().unwrap_or_default().max(MIN_PERIOD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_product_of_what_was_measured() {
        let mut pace = Pace::default();
        assert_eq!(pace.bandwidth_delay_product(), None);
        [70, 40, 90].into_iter().for_each(|n| pace.answered(ms(n)));
        assert_eq!(pace.latency(), Some(ms(40)));
        // 125 bytes a microsecond, with a pause in which nothing was wanted.
        (0..100).chain(200..300).for_each(|n| pace.delivered(125_000, ms(n)));
        let product = pace.bandwidth_delay_product().unwrap();
        assert!((4_900_000..5_200_000).contains(&product), "{product}");
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let mut pace = Pace::default();
        pace.answered(ms(1));
        (0..MEMORY).for_each(|_| pace.answered(ms(40)));
        assert_eq!(pace.latency(), Some(ms(40)));
    }
}
