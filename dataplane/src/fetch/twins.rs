//! Chunks on their way whose hashes are known: one that is wanted under another name meanwhile waits for the first
//! instead of being fetched as well.
//!
//! *Invariant:* who fetches a chunk waits for no other, so nobody waits in a circle; a twin that fails costs a fetch.

use super::flight::{Flights, Progress, outcome};
use bytes::Bytes;
use globalfs_proto::{ChunkHash, ChunkIndex, Version};
use lru::LruCache;
use parking_lot::Mutex;
use std::num::NonZeroUsize;
use tokio::sync::watch;

/// Chunks that are remembered: 512 MiB on their way.
const MAX_CHUNKS: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

type ChunkName = (Version, ChunkIndex);

/// Who fetches a chunk of a hash, or did last.
pub(super) struct Twins(Mutex<LruCache<ChunkHash, ChunkName>>);

/// A chunk of the same bytes that is on its way.
pub(super) type Twin = watch::Receiver<Progress>;

impl Twins {
    pub(super) fn new() -> Self {
        Self(Mutex::new(LruCache::new(MAX_CHUNKS)))
    }

    /// The transfer of a chunk of this hash under another name; if there is none, `name` will be fetched.
    pub(super) fn find(&self, flights: &Flights, hash: ChunkHash, name: ChunkName) -> Option<Twin> {
        let mut fetched = self.0.lock();
        let other = fetched.get(&hash).copied().filter(|other| *other != name);
        let twin = other.and_then(|other| flights.on_its_way(&other));
        if twin.is_none() {
            fetched.put(hash, name);
        }
        twin
    }
}

/// The bytes of a chunk of this hash that was on its way, unless it failed or is in the cache alone by now.
pub(super) async fn twin_of(twin: Option<Twin>, hash: &ChunkHash) -> Option<Bytes> {
    match outcome(twin?).await {
        Progress::Arrived(chunk) | Progress::Held(chunk) if chunk.hash == *hash => Some(chunk.data),
        _ => None,
    }
}
