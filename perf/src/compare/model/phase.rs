//! The phases of the comparison: what each measures, in which unit, what physics allows and what is aimed at.
//! A size may be scaled down; a figure that depends on it is a rate, a ratio or has its bound scaled, too.

use crate::arguments::named;
use crate::model::{Better, LinkOptions};
use std::time::Duration;

/// The link for which goals are stated.
const GOAL_RTT: Duration = Duration::from_millis(40);
const GOAL_RATE_BITS_PER_S: u64 = 1_000_000_000;

/// The round trip of a link within a hall.
const NEAR_RTT: Duration = Duration::from_micros(200);

/// The round trip of a link between continents.
const FAR_RTT: Duration = Duration::from_millis(150);

/// One thing that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// A lone small file in a tree that was never touched.
    Lone,
    /// Small files in directories of which another file was read.
    Further,
    /// Small reads all over a large file.
    Random,
    /// Names and attributes of a tree.
    Walk,
    /// What a long listing of one directory asks.
    Details,
    /// A tree's files one after another.
    Tree,
    /// A large file that does not compress, from its beginning to its end.
    Sequential,
    /// The same with random loss.
    SequentialLoss,
    /// The same between continents.
    SequentialFar,
    /// A large file of English-like text.
    Text,
    /// A file most of whose chunks are here in another one.
    Dedup,
    /// A large file of float64 numbers.
    Field,
    /// Importing a Python package.
    Import,
    /// A walk through a tree's files that ends early.
    EarlyTree,
    /// A sequential read that ends early.
    EarlyFile,
    /// Several mounts of a site read one file: the bytes that cross the link.
    FanOutBytes,
    /// The same: how long it takes.
    FanOutTime,
    /// A large file from the reader's own site over a fast short link.
    Lan,
    /// The same with jumbo frames.
    LanJumbo,
    /// The same over loopback.
    Loopback,
}

/// In what a phase is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Round trips of the link.
    RoundTrips,
    /// Seconds.
    Seconds,
    /// Megabytes (10^6 bytes) of file content per second.
    MegabytesPerSecond,
    /// Bytes of file content per second, in parts of the link's rate.
    OfLink,
    /// Bytes of file content per second, in parts of one TCP + TLS 1.3 stream over the same link.
    OfStream,
    /// Bytes over the link in parts of the bytes read.
    OfRead,
    /// In parts of what one mount takes alone.
    OfOne,
}

/// What a figure's bound is reckoned from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Reference {
    /// The link's round trip.
    pub rtt: Duration,
    /// What the link carries; one TCP + TLS stream where no rate is set.
    pub bytes_per_s: f64,
    /// Bytes that the phase reads.
    pub read_bytes: u64,
    /// By how much the data can be made smaller before they cross the link.
    pub shrinks_by: f64,
    /// How long the same work takes on this machine's own disk.
    pub local_s: f64,
}

impl Phase {
    /// Every phase, in the order in which they are run and shown.
    pub(crate) const ALL: [Self; 20] = [
        Self::Lone,
        Self::Further,
        Self::Random,
        Self::Walk,
        Self::Details,
        Self::Tree,
        Self::Sequential,
        Self::SequentialLoss,
        Self::SequentialFar,
        Self::Text,
        Self::Dedup,
        Self::Field,
        Self::Import,
        Self::EarlyTree,
        Self::EarlyFile,
        Self::FanOutBytes,
        Self::FanOutTime,
        Self::Lan,
        Self::LanJumbo,
        Self::Loopback,
    ];

    /// Those that are measured over many links.
    pub(crate) const MATRIX: [Self; 8] = [
        Self::Lone,
        Self::Further,
        Self::Random,
        Self::Walk,
        Self::Tree,
        Self::Sequential,
        Self::Text,
        Self::Dedup,
    ];

    /// What it is called on command lines and in JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lone => "lone",
            Self::Further => "further",
            Self::Random => "random",
            Self::Walk => "walk",
            Self::Details => "details",
            Self::Tree => "tree",
            Self::Sequential => "sequential",
            Self::SequentialLoss => "sequential-loss",
            Self::SequentialFar => "sequential-far",
            Self::Text => "text",
            Self::Dedup => "dedup",
            Self::Field => "field",
            Self::Import => "import",
            Self::EarlyTree => "early-tree",
            Self::EarlyFile => "early-file",
            Self::FanOutBytes => "fan-out-bytes",
            Self::FanOutTime => "fan-out-time",
            Self::Lan => "lan",
            Self::LanJumbo => "lan-jumbo",
            Self::Loopback => "loopback",
        }
    }

    /// The phase of that name.
    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        named(&Self::ALL, Self::name, "phase", name)
    }

    /// What it measures, in a few words.
    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Lone => "open + read + close of a lone 4 KiB file, four directories deep, first access",
            Self::Further => "the same, further files under directories already seen",
            Self::Random => "random 4 KiB reads in a file of 512 MiB, mean of 64 with the open",
            Self::Walk => "walk + stat of 2,000 files in 40 directories",
            Self::Details => "ls -l of 480 files and 20 links: attributes, one extended one, targets",
            Self::Tree => "reading that tree file by file, 16 MB of noise",
            Self::Sequential => "sequential, noise",
            Self::SequentialLoss => "sequential, noise, 0.1 % loss",
            Self::SequentialFar => "sequential, noise, 150 ms",
            Self::Text => "sequential, text",
            Self::Dedup => "sequential, 80 % of the chunks here in another file",
            Self::Field => "sequential, float64 field",
            Self::Import => "import of a Python package of 3,000 modules",
            Self::EarlyTree => "reader of 5 of 40 directories: bytes moved / read",
            Self::EarlyFile => "reader of 1/16 of a file: bytes moved / read",
            Self::FanOutBytes => "4 mounts read one file: bytes moved / those of 1",
            Self::FanOutTime => "4 mounts read one file: time / that of 1",
            Self::Lan => "one hop, no rate limit, 0.2 ms, MTU 1500: sequential / a TCP + TLS stream",
            Self::LanJumbo => "one hop, no rate limit, 0.2 ms, MTU 9000: sequential / a TCP + TLS stream",
            Self::Loopback => "one hop over loopback: sequential / a TCP + TLS stream",
        }
    }

    /// In what it is measured.
    pub(crate) fn unit(self) -> Unit {
        match self {
            Self::Lone | Self::Further | Self::Random => Unit::RoundTrips,
            Self::Walk | Self::Details | Self::Tree | Self::Import => Unit::Seconds,
            Self::Sequential | Self::SequentialLoss | Self::SequentialFar => Unit::MegabytesPerSecond,
            Self::Text | Self::Dedup | Self::Field => Unit::OfLink,
            Self::EarlyTree | Self::EarlyFile => Unit::OfRead,
            Self::FanOutBytes | Self::FanOutTime => Unit::OfOne,
            Self::Lan | Self::LanJumbo | Self::Loopback => Unit::OfStream,
        }
    }

    /// Which way its figure points.
    pub(crate) fn better(self) -> Better {
        self.unit().better()
    }

    /// The link that it runs over, when `base` was asked for.
    pub(crate) fn link(self, base: &LinkOptions) -> LinkOptions {
        let lan = |mtu| LinkOptions { rtt: NEAR_RTT, rate_bits_per_s: None, loss: 0.0, mtu, ..base.clone() };
        match self {
            Self::SequentialLoss => LinkOptions { loss: 0.001, ..base.clone() },
            Self::SequentialFar => LinkOptions { rtt: FAR_RTT, ..base.clone() },
            Self::Lan | Self::Loopback => lan(1500),
            Self::LanJumbo => lan(9000),
            _ => base.clone(),
        }
    }

    /// Whether it goes past the link: both ends on the far side.
    pub(crate) fn is_loopback(self) -> bool {
        self == Self::Loopback
    }

    /// What physics allows, in the phase's unit.
    pub(crate) fn bound(self, reference: &Reference) -> f64 {
        let rtt_s = reference.rtt.as_secs_f64();
        let transfer_s = reference.read_bytes as f64 / reference.bytes_per_s + rtt_s;
        match self {
            Self::Walk | Self::Details => rtt_s,
            Self::Tree => transfer_s,
            // What a processor needs for the same import is no smaller over a link.
            Self::Import => transfer_s.max(reference.local_s),
            Self::Sequential | Self::SequentialLoss | Self::SequentialFar => reference.bytes_per_s / 1e6,
            Self::Text | Self::Dedup | Self::Field => reference.shrinks_by,
            _ => 1.0,
        }
    }

    /// What is aimed at over 40 ms and 1 Gbit/s, in the phase's unit; nothing over another link.
    pub(crate) fn goal(self, base: &LinkOptions, bound: f64) -> Option<f64> {
        let is_goal_link =
            base.rtt == GOAL_RTT && base.rate_bits_per_s == Some(GOAL_RATE_BITS_PER_S) && base.loss == 0.0;
        is_goal_link.then_some(match self {
            Self::Lone => 2.2,
            Self::Further => 1.1,
            Self::Random => 1.15,
            Self::Walk | Self::Details => 0.25,
            Self::Tree => 0.8,
            Self::Sequential => 112.0,
            Self::SequentialLoss => 100.0,
            Self::SequentialFar => 112.5,
            Self::Text => 1.6,
            Self::Dedup => 3.5,
            Self::Field => 1.4,
            Self::Import => 1.5 * bound,
            Self::EarlyTree | Self::EarlyFile => 2.0,
            Self::FanOutBytes => 1.05,
            Self::FanOutTime => 1.2,
            Self::Lan => 0.6,
            Self::LanJumbo | Self::Loopback => 0.85,
        })
    }
}

impl Unit {
    /// Which way figures in this unit point.
    pub(crate) fn better(self) -> Better {
        match self {
            Self::MegabytesPerSecond | Self::OfLink | Self::OfStream => Better::Higher,
            Self::RoundTrips | Self::Seconds | Self::OfRead | Self::OfOne => Better::Lower,
        }
    }

    /// What stands behind a figure.
    pub(crate) fn symbol(self) -> &'static str {
        match self {
            Self::RoundTrips => "RTT",
            Self::Seconds => "s",
            Self::MegabytesPerSecond => "MB/s",
            Self::OfLink => "x link",
            Self::OfStream => "x stream",
            Self::OfRead => "x read",
            Self::OfOne => "x one",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference() -> Reference {
        let rtt = Duration::from_millis(40);
        Reference { rtt, bytes_per_s: 125e6, read_bytes: 16_000_000, shrinks_by: 3.0, local_s: 0.5 }
    }

    #[test]
    fn names_are_read_back() {
        for phase in Phase::ALL {
            assert_eq!(Phase::parse(phase.name()), Ok(phase));
        }
        assert!(Phase::parse("warm").unwrap_err().contains("lone, further"));
    }

    #[test]
    fn bounds_are_those_of_physics() {
        let check = |phase: Phase, want: f64| {
            let bound = phase.bound(&reference());
            assert!((bound - want).abs() < 1e-9, "{phase:?}: {bound}");
        };
        check(Phase::Lone, 1.0);
        check(Phase::Walk, 0.04);
        check(Phase::Details, 0.04);
        check(Phase::Tree, 0.168);
        check(Phase::Sequential, 125.0);
        check(Phase::Text, 3.0);
        check(Phase::Import, 0.5);
    }

    #[test]
    fn goals_hold_for_their_link_alone_and_never_beat_the_bound() {
        let link = LinkOptions::default();
        for phase in Phase::ALL {
            let bound = phase.bound(&Reference { shrinks_by: 5.0, ..reference() });
            let goal = phase.goal(&link, bound).unwrap();
            assert!(phase.better().reaches(bound, goal), "{phase:?}: {bound} {goal}");
            let other = LinkOptions { rtt: Duration::from_millis(5), ..link.clone() };
            assert_eq!(phase.goal(&other, bound), None);
        }
    }

    #[test]
    fn what_is_measured_over_many_links_brings_none_of_its_own() {
        let base = LinkOptions { rtt: Duration::from_millis(7), ..LinkOptions::default() };
        assert!(Phase::MATRIX.iter().all(|phase| phase.link(&base) == base));
        assert_eq!(Phase::SequentialFar.link(&base).rtt, FAR_RTT);
        assert_eq!(Phase::LanJumbo.link(&base).mtu, 9000);
    }
}
