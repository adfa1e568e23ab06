//! Chunks that were fetched before anybody asked, and have reached the cache since: a reader who comes soon takes
//! them from memory, where otherwise two reads of the disk and a hash would bring back what was just here.
//!
//! *Invariant:* at most [`MAX_CHUNKS`] chunks are held, and the cache had each of them when it came.

use super::flight::Claim;
use parking_lot::Mutex;
use std::collections::VecDeque;

/// Chunks held: 16 MiB. A reader is seldom further behind what arrives than the kernel's own read-ahead.
const MAX_CHUNKS: usize = 128;

/// The claims on what is held, the oldest first.
#[derive(Default)]
pub(super) struct Shelf(Mutex<VecDeque<Claim>>);

impl Shelf {
    /// Holds the chunk of a claim that has arrived and is in the cache; the oldest one gives way.
    pub(super) fn put(&self, claim: Claim) {
        claim.held();
        let oldest = {
            let mut claims = self.0.lock();
            claims.push_back(claim);
            if claims.len() > MAX_CHUNKS { claims.pop_front() } else { None }
        };
        if let Some(oldest) = oldest {
            oldest.kept();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::flight::{Flights, Progress, Slot};
    use super::*;
    use crate::source::Chunk;
    use globalfs_proto::{ChunkIndex, FileId, GlobalPath, Version};
    use std::sync::Arc;

    #[test]
    fn the_oldest_gives_way() {
        let (shelf, flights) = (Shelf::default(), Arc::new(Flights::default()));
        let file = FileId { origin: 1, inode: 1 };
        let version = Version { file, size: 1 << 40, mtime_ns: 0, ctime_ns: 0 };
        let path = GlobalPath::new(b"/a").unwrap();
        let find = |index| flights.find((version, ChunkIndex(index)), &path, || true).0;
        for index in 0..=MAX_CHUNKS as u64 {
            let claim = flights.find((version, ChunkIndex(index)), &path, || false).1.unwrap();
            let hash = crate::encoding::hash(b"abc");
            claim.arrived(Chunk { index: ChunkIndex(index), hash, data: "abc".into() });
            shelf.put(claim);
        }
        assert!(matches!(find(0), Slot::Cached), "its memory is free");
        for index in 1..=MAX_CHUNKS as u64 {
            let Slot::Awaited { progress, .. } = find(index) else { panic!("{index} is not held") };
            assert!(
                matches!(&*progress.borrow(), Progress::Held(_)),
                "who waits for the cache waits no more"
            );
        }
    }
}
