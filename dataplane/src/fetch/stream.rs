//! One reader: plans where each chunk comes from, a window ahead of what the reader took, and delivers the
//! chunks in order.
//!
//! Only what the reader asked for is fetched here; what is fetched beyond it `ahead` decides.

use super::flight::{Claim, Progress, Slot, outcome};
use super::{Hop, check_chunk, ended_early};
use crate::source::{Chunk, Deadline};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use globalfs_proto::limits::{CHUNK_SIZE, MAX_CHUNKS_PER_READ};
use globalfs_proto::{ByteRange, ChunkIndex, ChunkSpan, FsError, FsResult, GlobalPath, Version};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use tokio::sync::mpsc;

/// Chunks planned ahead of a reader, and the longest run in one request upstream: 4 MiB, so that a request of
/// a hop below goes on as one. With 64 readers that take nothing and a cache that keeps nothing, 256 MiB are held.
pub(super) const WINDOW_CHUNKS: usize = MAX_CHUNKS_PER_READ as usize;

/// Chunks of one reader that are read from the cache, or waited for, at the same time.
const READS_AHEAD: usize = 4;

/// Times that a chunk is looked for again: after another reader's transfer failed for a reason of its own,
/// or the chunk was evicted or found damaged before it could be read.
const MAX_TAKEOVERS: usize = 8;

const _: () = assert!(WINDOW_CHUNKS * CHUNK_SIZE as usize <= crate::cache::MAX_BYTES_IN_FLIGHT);

/// A read in progress.
pub(super) struct Reading {
    hop: Arc<Hop>,
    path: GlobalPath,
    version: Version,
    span: ChunkSpan,
    deadline: Deadline,
}

/// The slots that were planned and not yet taken up.
struct Plan<'a> {
    reading: &'a Reading,
    next: u64,
    slots: VecDeque<(ChunkIndex, Slot)>,
}

impl Reading {
    pub(super) fn new(
        hop: Arc<Hop>,
        path: GlobalPath,
        version: Version,
        span: ChunkSpan,
        deadline: Deadline,
    ) -> Self {
        Self { hop, path, version, span, deadline }
    }

    /// Sends every chunk, or chunks and then one error. Ends early when the reader is gone.
    pub(super) async fn deliver(self, sender: mpsc::Sender<FsResult<Chunk>>) {
        let sent = tokio::select! {
            sent = self.deadline.bound(self.deliver_all(&sender)) => sent,
            () = sender.closed() => return,
        };
        if let Err(error) = sent {
            // A full channel belongs to a reader that has not taken its chunks for all this time.
            let _ = tokio::time::timeout(super::LAST_WORD, sender.send(Err(error))).await;
        }
    }

    async fn deliver_all(&self, sender: &mpsc::Sender<FsResult<Chunk>>) -> FsResult<()> {
        let plan = Plan { reading: self, next: self.span.first.0, slots: VecDeque::new() };
        let mut chunks =
            stream::iter(plan).map(|(index, slot)| self.resolve(index, slot)).buffered(READS_AHEAD);
        while let Some(chunk) = chunks.next().await {
            if sender.send(Ok(chunk?)).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Plans all of a read that is no longer than a window, and starts what has to be fetched; whether the
    /// reader has to wait for some of it.
    pub(super) fn plan_whole(&self) -> (Vec<(ChunkIndex, Slot)>, bool) {
        let mut plan = Plan { reading: self, next: self.span.first.0, slots: VecDeque::new() };
        plan.refill();
        let waits = plan.slots.iter().any(|(_, slot)| slot.is_pending());
        (plan.slots.into(), waits)
    }

    /// The bytes `range` of such a plan, in pieces.
    pub(super) async fn take_range(
        &self,
        slots: Vec<(ChunkIndex, Slot)>,
        range: ByteRange,
    ) -> FsResult<Vec<Bytes>> {
        let resolve = |(index, slot)| self.resolve_part(index, slot, within(index, range));
        stream::iter(slots).map(resolve).buffered(READS_AHEAD).try_collect().await
    }

    async fn resolve_part(&self, index: ChunkIndex, slot: Slot, part: Range<u64>) -> FsResult<Bytes> {
        let mut slot = slot;
        if matches!(slot, Slot::Cached) {
            if let Some(bytes) = self.hop.cache.get_part(&self.version, index, part.clone()).await {
                return Ok(bytes);
            }
            slot = self.plan_again(index);
        }
        let chunk = self.resolve(index, slot).await?;
        Ok(chunk.data.slice(part.start as usize..part.end as usize))
    }

    pub(super) async fn resolve(&self, index: ChunkIndex, slot: Slot) -> FsResult<Chunk> {
        let mut slot = slot;
        for _ in 0..MAX_TAKEOVERS {
            if let Some(chunk) = self.take(index, slot).await? {
                return Ok(chunk);
            }
            slot = self.plan_again(index);
        }
        self.fetch_past_the_cache(index).await
    }

    /// When the cache is so small for its readers that a chunk leaves it again and again before it is read.
    async fn fetch_past_the_cache(&self, index: ChunkIndex) -> FsResult<Chunk> {
        let span = ChunkSpan { first: index, count: 1 };
        let mut stream = self.hop.upstream.read(&self.path, self.version, span, self.deadline).await?;
        let chunk = stream.recv().await.unwrap_or_else(|| Err(ended_early()))?;
        check_chunk(&self.version, index, &chunk)?;
        self.hop.counts.chunks_fetched.fetch_add(1, Relaxed);
        self.hop.counts.bytes_fetched.fetch_add(chunk.data.len() as u64, Relaxed);
        Ok(chunk)
    }

    /// `None` when the chunk has to be looked for again.
    async fn take(&self, index: ChunkIndex, slot: Slot) -> FsResult<Option<Chunk>> {
        let (progress, own, same_path) = match slot {
            Slot::Cached => return Ok(self.hop.cache.get(&self.version, index).await),
            Slot::Awaited { progress, own, same_path } => (progress, own, same_path),
        };
        let chunk = match outcome(progress).await {
            Progress::Arrived(chunk) | Progress::Held(chunk) => Some(chunk),
            Progress::Kept => self.hop.cache.load(&self.version, index).await,
            // Another reader's transfer had an earlier deadline, or asked by a name that is gone.
            Progress::Failed(error) if own || same_path && error != FsError::Deadline => return Err(error),
            Progress::Failed(_) | Progress::Abandoned | Progress::Pending => None,
        };
        if chunk.is_some() && !own {
            self.hop.counts.chunks_joined.fetch_add(1, Relaxed);
        }
        Ok(chunk)
    }

    fn plan_again(&self, index: ChunkIndex) -> Slot {
        let (slot, claim) = self.find(index);
        self.launch(claim.into_iter().collect());
        slot
    }

    pub(super) fn find(&self, index: ChunkIndex) -> (Slot, Option<Claim>) {
        let cached = || self.hop.cache.contains(&self.version, index);
        let found = self.hop.flights.find((self.version, index), &self.path, cached);
        if found.0.is_pending() {
            self.hop.cache.count_miss();
        }
        found
    }

    /// Starts the transfer of consecutive chunks.
    fn launch(&self, run: Vec<Claim>) {
        if !run.is_empty() {
            let (hop, path) = (self.hop.clone(), self.path.clone());
            tokio::spawn(hop.fetch(path, self.version, run, self.deadline, None));
        }
    }
}

/// Where the bytes of `range` lie that are in a chunk, counted from the chunk's beginning.
fn within(index: ChunkIndex, range: ByteRange) -> Range<u64> {
    let begin = index.0 * CHUNK_SIZE;
    let place = |at: u64| at.saturating_sub(begin).min(CHUNK_SIZE);
    place(range.start())..place(range.end())
}

impl Plan<'_> {
    /// Plans up to a window; the next one is started while half of the last is still to be taken.
    fn refill(&mut self) {
        let end = self.reading.span.first.0 + self.reading.span.count;
        let mut run = Vec::new();
        while self.next < end && self.slots.len() < WINDOW_CHUNKS {
            let index = ChunkIndex(self.next);
            let (slot, claim) = self.reading.find(index);
            match claim {
                Some(claim) => run.push(claim),
                None => self.reading.launch(std::mem::take(&mut run)),
            }
            self.slots.push_back((index, slot));
            self.next += 1;
        }
        self.reading.launch(run);
    }
}

impl Iterator for Plan<'_> {
    type Item = (ChunkIndex, Slot);

    fn next(&mut self) -> Option<Self::Item> {
        if self.slots.len() <= WINDOW_CHUNKS / 2 {
            self.refill();
        }
        self.slots.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{content, large_hop, whole};
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_chunk_that_no_cache_can_hold_long_enough_comes_all_the_same() {
        let hop = large_hop();
        let bytes = content(3 * CHUNK_SIZE / 2, 3);
        let version = hop.upstream.put_file("/a", bytes.clone()).version();
        let path = GlobalPath::new(b"/a").unwrap();
        let deadline = Deadline::after(Duration::from_secs(5));
        let reading = Reading::new(hop.cached.0.clone(), path, version, whole(version), deadline);
        let chunk = reading.fetch_past_the_cache(ChunkIndex(1)).await.unwrap();
        assert_eq!(chunk.data, bytes[CHUNK_SIZE as usize..]);
        hop.upstream.put_file("/a", "changed");
        assert!(matches!(reading.fetch_past_the_cache(ChunkIndex(0)).await, Err(FsError::Stale(_))));
    }
}
