//! What crossed the link and what did not.

use crate::model::Tally;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts of both directions since the link came up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// What the near side sent.
    pub near_to_far: DirectionCounters,
    /// What the far side sent.
    pub far_to_near: DirectionCounters,
}

/// Counts of one direction, in packets as they are on the wire: a super-packet counts as its segments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DirectionCounters {
    /// Packets that arrived or are on their way.
    pub packets: u64,
    /// Their bytes, IP headers included.
    pub bytes: u64,
    /// Packets lost at random.
    pub lost: u64,
    /// Packets that found the queue full.
    pub queue_full: u64,
    /// Packets held back so that others overtake them.
    pub held_back: u64,
    /// Frames for which the memory of the link did not suffice, or that the other side's kernel refused.
    pub failed: u64,
    /// Frames that were delivered more than 1 ms late: the machine was too busy to be a link.
    pub late: u64,
}

impl fmt::Display for LinkCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "near to far: {}", self.near_to_far)?;
        write!(f, "far to near: {}", self.far_to_near)
    }
}

impl fmt::Display for DirectionCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { packets, bytes, lost, queue_full, held_back, failed, late } = self;
        write!(f, "{packets} packets, {bytes} bytes; {lost} lost, {queue_full} found the queue full, ")?;
        write!(f, "{held_back} held back, {failed} failed, {late} late")
    }
}

/// The same, while threads count.
#[derive(Debug, Default)]
pub(super) struct Counting {
    packets: AtomicU64,
    bytes: AtomicU64,
    lost: AtomicU64,
    queue_full: AtomicU64,
    held_back: AtomicU64,
    failed: AtomicU64,
    late: AtomicU64,
}

impl Counting {
    pub(super) fn add(&self, tally: Tally) {
        self.packets.fetch_add(tally.packets, Relaxed);
        self.bytes.fetch_add(tally.bytes, Relaxed);
        self.lost.fetch_add(tally.lost, Relaxed);
        self.queue_full.fetch_add(tally.queue_full, Relaxed);
        self.held_back.fetch_add(tally.held_back, Relaxed);
    }

    pub(super) fn fail(&self) {
        self.failed.fetch_add(1, Relaxed);
    }

    pub(super) fn add_late(&self, is_late: bool) {
        self.late.fetch_add(u64::from(is_late), Relaxed);
    }

    pub(super) fn read(&self) -> DirectionCounters {
        DirectionCounters {
            packets: self.packets.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            lost: self.lost.load(Relaxed),
            queue_full: self.queue_full.load(Relaxed),
            held_back: self.held_back.load(Relaxed),
            failed: self.failed.load(Relaxed),
            late: self.late.load(Relaxed),
        }
    }
}
