//! Frames on their way, the next one to arrive first.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Bytes that are on their way at most; more than the bandwidth-delay product of 10 Gbit/s and 300 ms.
pub(super) const MAX_BYTES: usize = 512 << 20;

/// Buffers that are kept for reuse at most.
const MAX_SPARE: usize = 64;

/// Smaller frames get a buffer of their own size, or acknowledgements on their way would hold 64 KiB each.
const MIN_SPARE_BYTES: usize = 16 << 10;

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
    /// A buffer to make a frame of `bytes` in.
    pub(super) fn buffer(&mut self, bytes: usize) -> Vec<u8> {
        let spare = if bytes < MIN_SPARE_BYTES { None } else { self.spare.pop() };
        spare.unwrap_or_else(|| Vec::with_capacity(bytes))
    }

    /// Takes a buffer back.
    pub(super) fn recycle(&mut self, frame: Vec<u8>) {
        if frame.capacity() >= MIN_SPARE_BYTES && self.spare.len() < MAX_SPARE {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_by_time_and_then_in_the_order_of_their_arrival() {
        let mut waiting = Waiting::default();
        for (at_ns, content) in [(20, 1), (10, 2), (20, 3), (10, 4), (15, 5)] {
            waiting.push(at_ns, vec![content]).unwrap();
        }
        assert_eq!((waiting.next_at_ns(), waiting.pop_due(9)), (Some(10), None));
        let contents: Vec<u8> =
            std::iter::from_fn(|| waiting.pop_due(20)).map(|(_, frame)| frame[0]).collect();
        assert_eq!(contents, [2, 4, 5, 1, 3]);
    }

    #[test]
    fn bytes_on_their_way_have_a_limit() {
        let mut waiting = Waiting::default();
        waiting.push(1, vec![0; MAX_BYTES]).unwrap();
        assert_eq!(waiting.push(2, vec![7]), Err(vec![7]));
        assert!(waiting.pop_due(1).is_some());
        assert_eq!(waiting.push(2, vec![7]), Ok(()));
    }

    #[test]
    fn large_buffers_alone_are_used_again() {
        let mut waiting = Waiting::default();
        waiting.recycle(Vec::with_capacity(MIN_SPARE_BYTES));
        assert_eq!(waiting.buffer(100).capacity(), 100);
        let large = waiting.buffer(MIN_SPARE_BYTES);
        waiting.recycle(large);
        (0..2 * MAX_SPARE).for_each(|_| waiting.recycle(Vec::with_capacity(MIN_SPARE_BYTES)));
        assert_eq!(waiting.spare.len(), MAX_SPARE);
    }
}
