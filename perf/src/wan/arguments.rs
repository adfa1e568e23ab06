//! The options of a link on the command line, the same for each subcommand.

use crate::model::{LinkOptions, bytes_in};
use clap::Args;
use std::time::Duration;

/// The link between the two sides.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Link")]
pub struct LinkArgs {
    /// Round trip of the empty link, half of it each way
    #[arg(long, default_value = "40ms", value_parser = humantime::parse_duration)]
    pub rtt: Duration,
    /// Bits per second of IP packets, such as 1gbit, 100mbit, 2.5gbit or unlimited
    #[arg(long, default_value = "1gbit", value_parser = parse_rate)]
    pub rate: Rate,
    /// Packets lost at random, in percent
    #[arg(long, default_value = "0", value_parser = parse_percent)]
    pub loss: f64,
    /// What waits for the bottleneck at most, such as 512KiB or 20ms; by default one RTT at the rate
    #[arg(long, value_parser = parse_queue)]
    pub queue: Option<Queue>,
    /// Packets held back for 1 ms so that later ones overtake them, in percent
    #[arg(long, default_value = "0", value_parser = parse_percent)]
    pub reorder: f64,
    /// Largest IP packet
    #[arg(long, default_value_t = 1500)]
    pub mtu: u16,
    /// What the random decisions follow from
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// A rate in bits per second, or as fast as the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(pub Option<u64>);

/// The size of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// In bytes.
    Bytes(u64),
    /// In time at the rate of the link.
    Time(Duration),
}

impl LinkArgs {
    /// The link that they describe.
    pub fn options(&self) -> LinkOptions {
        LinkOptions {
            rtt: self.rtt,
            rate_bits_per_s: self.rate.0,
            loss: self.loss,
            queue_bytes: self.queue.and_then(|queue| queue.bytes(self.rate)),
            reorder: self.reorder,
            mtu: self.mtu,
            seed: self.seed,
        }
    }
}

impl Queue {
    /// Nothing for a time at an unlimited rate, where no queue is.
    fn bytes(self, rate: Rate) -> Option<u64> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Time(time) => rate.0.map(|rate| bytes_in(time, rate)),
        }
    }
}

fn parse_rate(text: &str) -> Result<Rate, String> {
    if text == "unlimited" {
        return Ok(Rate(None));
    }
    let units = [("gbit", 1e9), ("mbit", 1e6), ("kbit", 1e3), ("bit", 1.0)];
    let bits = with_unit(text, &units).filter(|bits| *bits >= 1.0);
    bits.map(|bits| Rate(Some(bits as u64))).ok_or_else(|| "expected 100mbit, 1gbit or unlimited".into())
}

fn parse_queue(text: &str) -> Result<Queue, String> {
    let units = [("KiB", 1024.0), ("MiB", 1_048_576.0), ("B", 1.0), ("", 1.0)];
    let bytes = with_unit(text, &units).map(|bytes| Queue::Bytes(bytes as u64));
    let time = || humantime::parse_duration(text).map(Queue::Time).ok();
    bytes.or_else(time).ok_or_else(|| "expected 512KiB, 4MiB or 20ms".into())
}

fn parse_percent(text: &str) -> Result<f64, String> {
    let percent = with_unit(text, &[("%", 1.0), ("", 1.0)]).filter(|percent| *percent <= 100.0);
    percent.map(|percent| percent / 100.0).ok_or_else(|| "expected a percentage, 0 to 100".into())
}

/// A number that is not negative, times what its unit stands for.
fn with_unit(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let lower = text.to_lowercase();
    units.iter().find_map(|(unit, factor)| {
        let number: f64 = lower.strip_suffix(&unit.to_lowercase())?.trim().parse().ok()?;
        (number.is_finite() && number >= 0.0).then_some(number * factor)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        let rate = |text| parse_rate(text).ok().map(|rate| rate.0);
        assert_eq!(rate("1gbit"), Some(Some(1_000_000_000)));
        assert_eq!(rate("2.5Gbit"), Some(Some(2_500_000_000)));
        assert_eq!(rate("100 mbit"), Some(Some(100_000_000)));
        assert_eq!(rate("64kbit"), Some(Some(64_000)));
        assert_eq!(rate("unlimited"), Some(None));
        for wrong in ["", "gbit", "1", "0mbit", "-1gbit", "nanmbit", "infgbit", "1gb"] {
            assert_eq!(rate(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn queues_in_bytes_and_in_time() {
        let gigabit = Rate(Some(1_000_000_000));
        let bytes = |text, rate| parse_queue(text).ok().and_then(|queue| queue.bytes(rate));
        assert_eq!(bytes("65536", gigabit), Some(65_536));
        assert_eq!(bytes("4MiB", gigabit), Some(4 << 20));
        assert_eq!(bytes("20ms", gigabit), Some(2_500_000));
        assert_eq!(bytes("20ms", Rate(None)), None);
        assert!(parse_queue("20 bananas").is_err());
    }

    #[test]
    fn percentages() {
        assert_eq!(parse_percent("0.1"), Ok(0.001));
        assert_eq!(parse_percent("100%"), Ok(1.0));
        assert!(parse_percent("101").is_err());
        assert!(parse_percent("-1").is_err());
    }
}
