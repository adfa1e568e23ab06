//! One direction of a link: a queue that drops at its tail before a bottleneck, then the line, which loses
//! and delays.
//!
//! *Invariants:* what arrives never passes the rate; packets that are not held back arrive in the order in
//! which they came; which packets are lost depends on the seed and their number alone.

use super::options::{LinkOptions, transmit_ns};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// How much later a packet arrives that is held back: at 1 Gbit/s some 80 full packets overtake it.
pub const REORDER_HOLD_NS: u64 = 1_000_000;

/// What becomes of one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Its last bit arrives then.
    Arrives {
        /// On the clock that `now_ns` is of.
        at_ns: u64,
        /// Later ones may overtake it.
        held_back: bool,
    },
    /// The line lost it, after the bottleneck has spent its time on it.
    Lost,
    /// The queue before the bottleneck was full.
    QueueFull,
}

/// One direction of a link.
#[derive(Debug)]
pub struct Direction {
    options: LinkOptions,
    random: SmallRng,
    /// When the bottleneck has sent all that it accepted.
    free_at_ns: u64,
    /// When the latest packet that was not held back arrives: a shorter delay lets nothing overtake.
    last_arrival_ns: u64,
}

impl Direction {
    /// An empty link. `stream` makes the two directions of one seed different.
    pub fn new(options: LinkOptions, stream: u64) -> Self {
        let random = SmallRng::seed_from_u64(options.seed ^ stream.rotate_left(32));
        Self { options, random, free_at_ns: 0, last_arrival_ns: 0 }
    }

    /// Changes the link for what comes from now on; the random decisions go on where they were.
    pub fn set(&mut self, options: LinkOptions) {
        self.options = options;
    }

    /// Decides on a packet of `wire_bytes` that reaches the link at `now_ns`.
    pub fn offer(&mut self, now_ns: u64, wire_bytes: u32) -> Verdict {
        let lost = self.happens(self.options.loss);
        let held_back = self.happens(self.options.reorder);
        let Some(sent_ns) = self.transmit(now_ns, wire_bytes) else { return Verdict::QueueFull };
        if lost { Verdict::Lost } else { self.arrive(sent_ns, held_back) }
    }

    /// Draws also where the answer is known, so that each packet has its own draws whatever the options.
    fn happens(&mut self, share: f64) -> bool {
        self.random.random::<f64>() < share
    }

    /// When the bottleneck has sent the packet; nothing if it has to wait in a queue that is full.
    fn transmit(&mut self, now_ns: u64, wire_bytes: u32) -> Option<u64> {
        let Some(rate) = self.options.rate_bits_per_s else { return Some(now_ns) };
        let bytes = u64::from(wire_bytes);
        let waiting_ns = self.free_at_ns.saturating_sub(now_ns);
        let limit_ns = transmit_ns(self.options.queue_limit_bytes().saturating_sub(bytes), rate);
        if waiting_ns > limit_ns {
            return None;
        }
        self.free_at_ns = self.free_at_ns.max(now_ns) + transmit_ns(bytes, rate);
        Some(self.free_at_ns)
    }

    fn arrive(&mut self, sent_ns: u64, held_back: bool) -> Verdict {
        let on_time_ns = sent_ns.saturating_add(self.options.one_way_ns()).max(self.last_arrival_ns);
        if held_back {
            return Verdict::Arrives { at_ns: on_time_ns.saturating_add(REORDER_HOLD_NS), held_back };
        }
        self.last_arrival_ns = on_time_ns;
        Verdict::Arrives { at_ns: on_time_ns, held_back }
    }
}
