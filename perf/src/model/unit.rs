//! A super-packet on the link: each of its segments is decided on alone, and those that arrive together are
//! delivered together, so that one read and one write move up to 64 KiB.

use super::link::{Direction, Verdict};
use super::packet::Packet;

/// The longest time of the line that one delivery covers: its first segment arrives late by that much.
pub const MAX_UNIT_NS: u64 = 250_000;

/// Neighbouring segments of a super-packet that are delivered at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unit {
    /// The first segment, counted from 0.
    pub first: u32,
    /// How many.
    pub count: u32,
    /// When its last segment arrives.
    pub at_ns: u64,
}

/// What became of the segments of packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Segments that arrive.
    pub packets: u64,
    /// Their bytes with headers.
    pub bytes: u64,
    /// Segments lost at random.
    pub lost: u64,
    /// Segments that found the queue full.
    pub queue_full: u64,
    /// Segments among those that arrive which are held back.
    pub held_back: u64,
}

/// Offers each segment of `packet` to the link and appends what arrives to `units`.
pub fn offer(link: &mut Direction, now_ns: u64, packet: &Packet, units: &mut Vec<Unit>) -> Tally {
    let mut tally = Tally::default();
    let mut open = None;
    for segment in 0..packet.segments() {
        let wire_bytes = packet.wire_bytes(segment);
        match link.offer(now_ns, wire_bytes) {
            Verdict::Arrives { at_ns, held_back } => {
                tally.arrives(wire_bytes, held_back);
                let unit = Unit { first: segment, count: 1, at_ns };
                units.extend(join(&mut open, unit, held_back));
            }
            verdict => {
                tally.dropped(verdict);
                units.extend(open.take().map(|open: Open| open.unit));
            }
        }
    }
    units.extend(open.map(|open| open.unit));
    tally
}

/// A unit that may still grow.
struct Open {
    unit: Unit,
    first_at_ns: u64,
    held_back: bool,
}

/// Adds `next` to the open unit, or opens another one with it and gives the one that is complete.
fn join(open: &mut Option<Open>, next: Unit, held_back: bool) -> Option<Unit> {
    if let Some(open) = open
        && !held_back
        && !open.held_back
        && next.at_ns - open.first_at_ns <= MAX_UNIT_NS
    {
        open.unit.count += 1;
        open.unit.at_ns = next.at_ns;
        return None;
    }
    open.replace(Open { unit: next, first_at_ns: next.at_ns, held_back }).map(|open| open.unit)
}

impl Tally {
    fn arrives(&mut self, wire_bytes: u32, held_back: bool) {
        self.packets += 1;
        self.bytes += u64::from(wire_bytes);
        self.held_back += u64::from(held_back);
    }

    fn dropped(&mut self, verdict: Verdict) {
        self.lost += u64::from(verdict == Verdict::Lost);
        self.queue_full += u64::from(verdict == Verdict::QueueFull);
    }
}
