//! Frames on their way, the next one to arrive first.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Bytes that are on their way at most; more than the bandwidth-delay product of 10 Gbit/s and 300 ms.
pub(super) const MAX_BYTES: usize = 512 << 20;

/// Buffers that are kept for reuse at most.
const MAX_SPARE: usize = 64;

/// Frames on their way.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    heap: BinaryHeap<Parcel>,
    bytes: usize,
    next_number: u64,
    spare: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct Parcel {
    at_ns: u64,
    number: u64,
    frame: Vec<u8>,
}

impl Waiting {
    /// A buffer to make a frame in.
    pub(super) fn buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    /// Takes a buffer back.
    pub(super) fn recycle(&mut self, frame: Vec<u8>) {
        if self.spare.len() < MAX_SPARE {
            self.spare.push(frame);
        }
    }

    /// Adds a frame; gives it back where [`MAX_BYTES`] are on their way.
    pub(super) fn push(&mut self, at_ns: u64, frame: Vec<u8>) -> Result<(), Vec<u8>> {
        if self.bytes + frame.len() > MAX_BYTES {
            return Err(frame);
        }
        self.bytes += frame.len();
        self.next_number += 1;
        self.heap.push(Parcel { at_ns, number: self.next_number, frame });
        Ok(())
    }

    /// Takes a frame that is due by `now_ns`, with the time when it was.
    pub(super) fn pop_due(&mut self, now_ns: u64) -> Option<(u64, Vec<u8>)> {
        if self.next_at_ns()? > now_ns {
            return None;
        }
        let parcel = self.heap.pop()?;
        self.bytes -= parcel.frame.len();
        Some((parcel.at_ns, parcel.frame))
    }

    /// When the next frame arrives.
    pub(super) fn next_at_ns(&self) -> Option<u64> {
        self.heap.peek().map(|parcel| parcel.at_ns)
    }
}

impl Ord for Parcel {
    /// The greatest is the one that arrives first, as a heap gives its greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at_ns, other.number).cmp(&(self.at_ns, self.number))
    }
}

impl PartialOrd for Parcel {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Parcel {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Parcel {}
