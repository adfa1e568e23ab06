//! How far and how fast an upstream is, as its answers show it: the least latency and the highest delivery rate
//! of late. Filters of minimum and maximum, as BBR uses them (Cardwell et al., ACM Queue 14(5), 2016), because
//! queues only ever add to the one, and slow readers only ever take from the other.

use std::time::Duration;

/// The shortest time over which a rate is taken: a few chunks at 100 Mbit/s.
const MIN_PERIOD: Duration = Duration::from_millis(20);

/// Growth of the rate from one period to the next without which it is taken for all that the upstream gives.
const GROWTH: f64 = 1.25;

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

    /// The last one and the highest one before it.
    fn last_and_highest_before(&self) -> Option<(u64, u64)> {
        let last = self.count.checked_sub(1)? % MEMORY;
        let before = self.known().iter().enumerate().filter(|(place, _)| *place != last);
        Some((self.values[last], before.map(|(_, value)| *value).max()?))
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

    /// Whether the rate still follows what is asked for: then it tells of the requests, not of the upstream.
    pub fn is_growing(&self) -> bool {
        let rates = self.rates.last_and_highest_before();
        rates.is_none_or(|(last, before)| last as f64 > before as f64 * GROWTH)
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
    fn a_rate_grows_until_it_stays() {
        let mut pace = Pace::default();
        assert!(pace.is_growing(), "nothing is known");
        let grows: Vec<bool> = [1, 2, 4, 4, 4, 3, 4, 4, 4, 4, 4, 6, 6]
            .into_iter()
            .scan(0, |now, bytes| {
                (0..20).for_each(|_| {
                    *now += 1;
                    pace.delivered(bytes * 1000, ms(*now));
                });
                Some(pace.is_growing())
            })
            .collect();
        let expected = [true, true, true, true, false, false, false, false, false, false, false, false, true];
        assert_eq!(grows, expected, "each tells of the period before");
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let mut pace = Pace::default();
        pace.answered(ms(1));
        (0..MEMORY).for_each(|_| pace.answered(ms(40)));
        assert_eq!(pace.latency(), Some(ms(40)));
    }
}
