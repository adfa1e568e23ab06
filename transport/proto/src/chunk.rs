//! Ranges of bytes and of chunks, and the hashes that name chunks.

use crate::limits::CHUNK_SIZE;
use std::fmt;

/// A range of bytes that is never empty and never passes `u64::MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    start: u64,
    length: u64,
}

impl ByteRange {
    /// `None` when `length` is 0 or the end would pass `u64::MAX`.
    pub fn new(start: u64, length: u64) -> Option<Self> {
        (length > 0 && start.checked_add(length).is_some()).then_some(Self { start, length })
    }

    /// What `read(2)` of `length` bytes at `offset` covers of a file of `size` bytes; `None` at or past the end.
    pub fn of_read(offset: u64, length: u64, size: u64) -> Option<Self> {
        Self::new(offset, length.min(size.checked_sub(offset)?))
    }

    /// Offset of the first byte.
    pub fn start(self) -> u64 {
        self.start
    }

    /// Number of bytes, at least 1.
    pub fn length(self) -> u64 {
        self.length
    }

    /// Offset behind the last byte.
    pub fn end(self) -> u64 {
        self.start + self.length
    }

    /// The chunks that this range touches.
    pub fn chunks(self) -> ChunkSpan {
        let first = self.start / CHUNK_SIZE;
        ChunkSpan { first: ChunkIndex(first), count: (self.end() - 1) / CHUNK_SIZE - first + 1 }
    }
}

/// The number of a chunk within its file: it covers bytes from `index * CHUNK_SIZE` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkIndex(pub u64);

impl ChunkIndex {
    /// The bytes of this chunk in a file of `size` bytes; `None` when it lies behind the end.
    pub fn bytes(self, size: u64) -> Option<ByteRange> {
        ByteRange::of_read(self.0.checked_mul(CHUNK_SIZE)?, CHUNK_SIZE, size)
    }
}

/// Consecutive chunks, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkSpan {
    /// The first chunk.
    pub first: ChunkIndex,
    /// How many, at least 1.
    pub count: u64,
}

impl ChunkSpan {
    /// Each chunk's number in order.
    pub fn iter(self) -> impl Iterator<Item = ChunkIndex> {
        (self.first.0..self.first.0 + self.count).map(ChunkIndex)
    }
}

/// The number of chunks of a file of `size` bytes.
pub fn chunk_count(size: u64) -> u64 {
    size.div_ceil(CHUNK_SIZE)
}

/// The BLAKE3 hash of a chunk's bytes, which is its name.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkHash(pub [u8; 32]);

impl fmt::Debug for ChunkHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_cut_at_the_end_of_the_file() {
        let check = |offset, length, size, want: Option<(u64, u64)>| {
            assert_eq!(ByteRange::of_read(offset, length, size).map(|r| (r.start(), r.length())), want);
        };
        check(0, 10, 100, Some((0, 10)));
        check(95, 10, 100, Some((95, 5)));
        check(100, 1, 100, None);
        check(101, 1, 100, None);
        check(0, 0, 100, None);
        check(u64::MAX - 1, 10, u64::MAX, Some((u64::MAX - 1, 1)));
    }

    #[test]
    fn ranges_know_their_chunks() {
        let check = |start, length, first, count| {
            let span = ByteRange::new(start, length).unwrap().chunks();
            assert_eq!((span.first.0, span.count), (first, count));
        };
        check(0, 1, 0, 1);
        check(0, CHUNK_SIZE, 0, 1);
        check(0, CHUNK_SIZE + 1, 0, 2);
        check(CHUNK_SIZE - 1, 2, 0, 2);
        check(CHUNK_SIZE, 1, 1, 1);
    }

    #[test]
    fn the_last_chunk_is_short() {
        assert_eq!(ChunkIndex(1).bytes(CHUNK_SIZE + 5), ByteRange::new(CHUNK_SIZE, 5));
        assert_eq!(ChunkIndex(2).bytes(CHUNK_SIZE + 5), None);
        assert_eq!(ChunkIndex(u64::MAX).bytes(u64::MAX), None);
        assert_eq!((chunk_count(0), chunk_count(1), chunk_count(CHUNK_SIZE + 1)), (0, 1, 2));
    }
}
