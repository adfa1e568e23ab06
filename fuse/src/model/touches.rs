//! Whose neighbourhood is worth the kernel's memory: a reader of a few KiB here and there is answered with them alone,
//! and who comes back to the same part of a file gets all of it put where the next reads find it.
//!
//! The first read of a part moves nothing but what it asks for, so one who never comes back pays nothing. After the
//! second the part is forgotten: when the kernel drops what it was given, the next two count anew.

use crate::model::NodeId;
use globalfs_proto::limits::CHUNK_SIZE;
use lru::LruCache;
use std::num::NonZeroUsize;

/// Parts that were read once and are remembered: of 2 GiB, in 1 MiB of memory.
const MAX_PARTS: NonZeroUsize = NonZeroUsize::new(16 * 1024).expect("not zero");

/// Reads of more than this move so much of a part that the rest is not worth a copy.
const MAX_READ: u64 = CHUNK_SIZE / 4;

/// A part of a file: its chunk of that number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Part {
    node: NodeId,
    chunk: u64,
}

/// Parts that were read once.
#[derive(Debug)]
pub(crate) struct Touches(LruCache<Part, ()>);

impl Default for Touches {
    fn default() -> Self {
        Self(LruCache::new(MAX_PARTS))
    }
}

impl Touches {
    /// `length` bytes at `offset` of a file of `size` are read: whether the part is worth having as a whole.
    pub(crate) fn read(&mut self, node: NodeId, offset: u64, length: u64, size: u64) -> bool {
        if length > MAX_READ || size <= MAX_READ {
            return false;
        }
        let part = Part { node, chunk: offset / CHUNK_SIZE };
        let comes_back = self.0.pop(&part).is_some();
        if !comes_back {
            self.0.put(part, ());
        }
        comes_back
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 100 * CHUNK_SIZE;

    #[test]
    fn who_comes_back_gets_all_of_a_part() {
        let (mut touches, node) = (Touches::default(), NodeId(5));
        let mut read = |node, offset| touches.read(node, offset, 4096, SIZE);
        assert!(!read(node, 0));
        assert!(!read(node, CHUNK_SIZE), "another part");
        assert!(!read(NodeId(6), 4096), "another file");
        assert!(read(node, CHUNK_SIZE - 1));
        assert!(!read(node, 0), "counted anew");
        assert!(read(node, CHUNK_SIZE + 8192));
    }

    #[test]
    fn long_reads_and_small_files_need_no_more() {
        let (mut touches, node) = (Touches::default(), NodeId(5));
        for _ in 0..3 {
            assert!(!touches.read(node, 0, MAX_READ + 1, SIZE));
            assert!(!touches.read(node, 0, 4096, MAX_READ));
        }
    }

    #[test]
    fn memory_is_bounded() {
        let mut touches = Touches::default();
        assert!((0..2 * MAX_PARTS.get() as u64).all(|n| !touches.read(NodeId(n), 0, 1, SIZE)));
        assert_eq!(touches.0.len(), MAX_PARTS.get());
    }
}
