//! Telling the hashes of chunks without their bytes.
//!
//! *Invariant:* a hash leaves only if it is that of the wanted version, by the argument of `read`: the file is
//! looked at after the bytes were hashed, or after the hash was remembered, and still has the version. Bytes
//! that are sent are hashed again; what is remembered serves hashes alone.

use super::read::Reading;
use super::{Inner, Origin};
use crate::source::{HashStream, Hashes};
use futures_util::{StreamExt, stream};
use globalfs_proto::limits::CHUNK_SIZE;
use globalfs_proto::{ChunkHash, ChunkIndex, ChunkSpan, FsError, FsResult, Version};
use lru::LruCache;
use parking_lot::Mutex;
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};

/// Chunks that are hashed in one go, at multiples of this: 4 MiB, 1 ms when the kernel has them.
const BATCH: u64 = 32;

/// Batches of one request that are hashed at the same time.
const BATCHES_AT_ONCE: usize = 4;

/// Batches that are hashed at the same time for all requests, so that hashing leaves room for reading.
const MAX_HASHING: usize = 8;

/// Batches whose hashes are remembered: 32 GiB of content in 10 MB.
const MAX_BATCHES: NonZeroUsize = NonZeroUsize::new(8192).expect("8192 is not zero");

/// A batch of one version, by its number.
type BatchName = (Version, u64);

/// The hashes that an origin remembers.
pub(super) struct HashTable {
    batches: Mutex<LruCache<BatchName, Arc<[ChunkHash]>>>,
    hashing: Semaphore,
}

impl Default for HashTable {
    fn default() -> Self {
        Self { batches: Mutex::new(LruCache::new(MAX_BATCHES)), hashing: Semaphore::new(MAX_HASHING) }
    }
}

impl Reading {
    /// Hashes on until the span is done, an error, the deadline, or until nobody listens any more.
    pub(super) fn start_hashing(self) -> HashStream {
        let (sender, told) = mpsc::channel(BATCHES_AT_ONCE + 1);
        // The last place is kept for an error, so that a stream never ends early without one.
        let last = sender.clone().try_reserve_owned();
        tokio::spawn(async move {
            let outcome = self.deadline.bound(self.tell_all(sender)).await;
            if let (Err(error), Ok(last)) = (outcome, last) {
                last.send(Err(error));
            }
        });
        told
    }

    async fn tell_all(&self, sender: mpsc::Sender<FsResult<Hashes>>) -> FsResult<()> {
        let batches = stream::iter(batches(self.span)).map(|batch| self.batch(batch));
        let mut batches = batches.buffered(BATCHES_AT_ONCE);
        while let Some(hashes) = batches.next().await {
            if sender.send(Ok(hashes?)).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    async fn batch(&self, span: ChunkSpan) -> FsResult<Hashes> {
        let origin: &Origin = &self.origin;
        let _permit = origin.0.hashes.hashing.acquire().await.map_err(std::io::Error::other)?;
        let (file, version) = (self.file.clone(), self.version);
        let work = move |inner: &Inner| {
            let hashes = match inner.hashes.find(version, span) {
                Some(hashes) => hashes,
                None => hash_all(&file, version, span)?,
            };
            let attr = inner.tree.attr(&*file)?;
            if attr.version() != version {
                return Err(FsError::Stale(Some(Box::new(attr))));
            }
            inner.hashes.remember(version, span, &hashes);
            Ok(Hashes { first: span.first, hashes })
        };
        origin.call(self.deadline, work).await
    }
}

impl HashTable {
    fn find(&self, version: Version, span: ChunkSpan) -> Option<Vec<ChunkHash>> {
        let mut batches = self.batches.lock();
        let batch = batches.get(&(version, span.first.0 / BATCH))?;
        let start = (span.first.0 % BATCH) as usize;
        batch.get(start..start + span.count as usize).map(<[_]>::to_vec)
    }

    /// Remembers a batch from its start on.
    fn remember(&self, version: Version, span: ChunkSpan, hashes: &[ChunkHash]) {
        if span.first.0.is_multiple_of(BATCH) {
            let mut batches = self.batches.lock();
            let name = (version, span.first.0 / BATCH);
            if batches.peek(&name).is_none_or(|known| known.len() < hashes.len()) {
                batches.put(name, hashes.into());
            }
        }
    }
}

/// Parts of `span` that each lie in one batch.
fn batches(span: ChunkSpan) -> impl Iterator<Item = ChunkSpan> + Send {
    let end = span.first.0 + span.count;
    let mut next = span.first.0;
    std::iter::from_fn(move || {
        let first = next;
        next = end.min((first / BATCH + 1) * BATCH);
        (first < end).then(|| ChunkSpan { first: ChunkIndex(first), count: next - first })
    })
}

/// Reads and hashes chunks. Blocks the thread.
fn hash_all(file: &File, version: Version, span: ChunkSpan) -> FsResult<Vec<ChunkHash>> {
    let mut buffer = vec![0; CHUNK_SIZE as usize];
    let hash = |index: ChunkIndex| {
        let range = index.bytes(version.size).ok_or(FsError::Os(22))?;
        let bytes = &mut buffer[..range.length() as usize];
        match file.read_exact_at(bytes, range.start()) {
            Ok(()) => Ok(ChunkHash(*blake3::hash(bytes).as_bytes())),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(FsError::Stale(None)),
            Err(error) => Err(error.into()),
        }
    };
    span.iter().map(hash).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_lie_at_their_multiples_and_cover_the_span() {
        let check = |first, count, want: &[(u64, u64)]| {
            let span = ChunkSpan { first: ChunkIndex(first), count };
            let found: Vec<_> = batches(span).map(|batch| (batch.first.0, batch.count)).collect();
            assert_eq!(found, want);
        };
        check(0, 1, &[(0, 1)]);
        check(0, 32, &[(0, 32)]);
        check(30, 40, &[(30, 2), (32, 32), (64, 6)]);
    }
}
