//! How a link is to behave.

use std::time::Duration;

/// The least queue that is chosen for a link whose queue is not set: a burst of a few super-packets.
pub const MIN_QUEUE_BYTES: u64 = 256 * 1024;

/// How a link behaves, the same in both directions.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkOptions {
    /// The round trip of an empty link, half of it each way.
    pub rtt: Duration,
    /// Bits per second of IP packets, headers included; `None` is as fast as the machine.
    pub rate_bits_per_s: Option<u64>,
    /// Share of the packets that are lost at random, 0 to 1; 1 cuts the link.
    pub loss: f64,
    /// Bytes that wait for the bottleneck at most; what comes then is dropped. Without it one
    /// bandwidth-delay product, at least [`MIN_QUEUE_BYTES`]. Means nothing where the rate is unlimited.
    pub queue_bytes: Option<u64>,
    /// Share of the packets that are held back so that later ones overtake them, 0 to 1.
    pub reorder: f64,
    /// Largest IP packet.
    pub mtu: u16,
    /// What the random decisions follow from.
    pub seed: u64,
}

impl Default for LinkOptions {
    fn default() -> Self {
        Self {
            rtt: Duration::from_millis(40),
            rate_bits_per_s: Some(1_000_000_000),
            loss: 0.0,
            queue_bytes: None,
            reorder: 0.0,
            mtu: 1500,
            seed: 1,
        }
    }
}

impl LinkOptions {
    /// How long a packet travels on an empty link without limit of rate.
    pub fn one_way_ns(&self) -> u64 {
        u64::try_from(self.rtt.as_nanos() / 2).unwrap_or(u64::MAX)
    }

    /// Bytes that wait for the bottleneck at most.
    pub fn queue_limit_bytes(&self) -> u64 {
        let Some(rate) = self.rate_bits_per_s else { return u64::MAX };
        self.queue_bytes.unwrap_or_else(|| bytes_in(self.rtt, rate).max(MIN_QUEUE_BYTES))
    }

    /// How long a packet waits for the bottleneck at most.
    pub fn max_wait(&self) -> Duration {
        let Some(rate) = self.rate_bits_per_s else { return Duration::ZERO };
        Duration::from_nanos(transmit_ns(self.queue_limit_bytes(), rate))
    }
}

/// What a link of that rate moves in `time`.
pub fn bytes_in(time: Duration, rate_bits_per_s: u64) -> u64 {
    let bits = time.as_nanos().saturating_mul(u128::from(rate_bits_per_s)) / 1_000_000_000;
    u64::try_from(bits / 8).unwrap_or(u64::MAX)
}

/// How long `bytes` occupy a link of that rate, rounded up so that the rate is never passed.
pub(super) fn transmit_ns(bytes: u64, rate_bits_per_s: u64) -> u64 {
    let bits = u128::from(bytes) * 8 * 1_000_000_000;
    u64::try_from(bits.div_ceil(u128::from(rate_bits_per_s.max(1)))).unwrap_or(u64::MAX)
}
