//! Small files that were kept just now, in memory as well: whoever fetches ahead reads them soon, and to open
//! a file for each would take longer than all the rest of such a read.
//!
//! *Invariants:* at most [`MAX_BYTES`] of content are held; what is here was verified when it arrived.

use crate::source::Chunk;
use bytes::Bytes;
use globalfs_proto::Version;
use lru::LruCache;
use parking_lot::Mutex;

/// The content of some thousand small files.
const MAX_BYTES: usize = 32 * 1024 * 1024;

pub(super) struct Recent(Mutex<Held>);

struct Held {
    chunks: LruCache<Version, Chunk>,
    bytes: usize,
}

impl Recent {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Held { chunks: LruCache::unbounded(), bytes: 0 }))
    }

    /// Holds all of a small file. A copy, for what arrived together shares its memory.
    pub(super) fn put(&self, version: &Version, chunk: &Chunk) {
        let chunk = Chunk { data: Bytes::copy_from_slice(&chunk.data), ..chunk.clone() };
        let mut held = self.0.lock();
        held.bytes += chunk.data.len();
        if let Some(before) = held.chunks.put(*version, chunk) {
            held.bytes -= before.data.len();
        }
        while held.bytes > MAX_BYTES
            && let Some((_, oldest)) = held.chunks.pop_lru()
        {
            held.bytes -= oldest.data.len();
        }
    }

    pub(super) fn get(&self, version: &Version) -> Option<Chunk> {
        self.0.lock().chunks.get(version).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use globalfs_proto::limits::CHUNK_SIZE;
    use globalfs_proto::{ChunkIndex, FileId};

    fn version(inode: u64, size: u64) -> Version {
        Version { file: FileId { origin: 1, inode }, size, mtime_ns: 0, ctime_ns: 0 }
    }

    fn chunk(length: usize) -> Chunk {
        let data = vec![7; length];
        Chunk { index: ChunkIndex(0), hash: crate::encoding::hash(&data), data: data.into() }
    }

    #[test]
    fn holds_small_files_and_no_more_than_its_share() {
        let recent = Recent::new();
        let size = CHUNK_SIZE - 1;
        let count = 2 * MAX_BYTES as u64 / size;
        for inode in 0..count {
            recent.put(&version(inode, size), &chunk(size as usize));
        }
        recent.put(&version(count - 1, size), &chunk(size as usize));
        assert!(recent.0.lock().bytes <= MAX_BYTES);
        assert!(recent.get(&version(0, size)).is_none(), "the oldest are gone");
        assert_eq!(recent.get(&version(count - 1, size)), Some(chunk(size as usize)));
    }
}
