//! A hop of the data plane: a source that answers from its cache and asks its upstream for the rest.
//!
//! Readers of the same chunk share one transfer. A transfer belongs to nobody: it is a task with its own
//! deadline that goes on when the reader that caused it leaves, and its chunk stays announced until it is
//! in the cache or given up, so that no later reader fetches it again.
//!
//! *Invariants:* chunks reach a reader in order and verified; between upstream and cache there are at most
//! [`MAX_BYTES_IN_FLIGHT`](crate::cache::MAX_BYTES_IN_FLIGHT) that somebody asked for and
//! [`AheadOptions::bytes`] that nobody did, and a reader that does not take its chunks holds at most a window
//! of them; every wait ends with the reader's deadline.

mod ahead;
mod along;
mod bulk;
mod flight;
mod known;
mod metadata;
mod question;
mod shelf;
mod small;
mod stream;
mod twins;
mod warm;
mod watching;

pub use metadata::NameCounters;

use crate::cache::Cache;
use crate::changes::Hub;
use crate::model::names::Bounds;
use crate::source::{
    ChangeStream, Chunk, ChunkStream, Deadline, FileChunks, Found, HashStream, Listed, Listing, Source,
    WarmStream,
};
use ahead::Ahead;
pub use ahead::AheadOptions;
use async_trait::async_trait;
use bytes::Bytes;
use flight::{Claim, Flights};
use globalfs_proto::limits::{CHUNK_SIZE, DEFAULT_DEADLINE};
use globalfs_proto::{
    Attr, ByteRange, Change, Changed, ChunkIndex, ChunkSpan, Edition, FileKind, FsError, FsResult, FsStat,
    GlobalPath, Lasting, Seek, Version, WantedFile, Warm,
};
use known::Known;
use metadata::Metadata;
use shelf::Shelf;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use stream::Reading;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

/// Chunks that wait in a reader's stream until it takes them.
const STREAM_CHUNKS: usize = 2;

/// How long a reader that was too slow for its deadline may take to hear of it.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Bytes that were asked for and have not reached the cache: above this a chunk is served without being kept, so
/// that no reader waits for a disk that is slow or stuck.
const MAX_UNKEPT_BYTES: u64 = 32 * 1024 * 1024;

const _: () = assert!(MAX_UNKEPT_BYTES as usize * 2 <= crate::cache::MAX_BYTES_IN_FLIGHT);

/// How a hop caches names and attributes.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How long an answer about a name is repeated without asking again.
    pub metadata_ttl: Duration,
    /// Memory for such answers.
    pub metadata_bytes: u64,
    /// What is fetched before anybody asks for it. `None` for a hop that serves other hops: only the topmost
    /// one sees what applications read.
    pub ahead: Option<AheadOptions>,
}

impl Default for Options {
    fn default() -> Self {
        Self { metadata_ttl: Duration::from_secs(1), metadata_bytes: 64 * 1024 * 1024, ahead: None }
    }
}

/// What a hop took from its upstream since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FetchCounters {
    /// Chunks that arrived.
    pub chunks_fetched: u64,
    /// Their bytes.
    pub bytes_fetched: u64,
    /// Chunks that a reader got from a transfer that another one had caused.
    pub chunks_joined: u64,
    /// Chunks that were copied from elsewhere in the cache instead of fetched.
    pub chunks_deduplicated: u64,
    /// Their bytes.
    pub bytes_deduplicated: u64,
    /// Bytes that were asked for before anybody wanted them.
    pub bytes_ahead: u64,
    /// Bytes of these that were read later.
    pub bytes_ahead_used: u64,
}

#[derive(Default)]
struct Counts {
    chunks_fetched: AtomicU64,
    bytes_fetched: AtomicU64,
    chunks_joined: AtomicU64,
    chunks_deduplicated: AtomicU64,
    bytes_deduplicated: AtomicU64,
    /// Bytes that were asked for and are on their way to the disk.
    unkept_bytes: AtomicU64,
}

/// A source with a cache before it. Clones share both.
#[derive(Clone)]
pub struct Cached(Arc<Hop>);

struct Hop {
    upstream: Arc<dyn Source>,
    cache: Cache,
    metadata: Metadata,
    flights: Arc<Flights>,
    known: Known,
    counts: Counts,
    ahead: Option<Ahead>,
    shelf: Shelf,
    turns: warm::Turns,
}

impl Cached {
    /// Caches what `upstream` tells; `cache` may be shared with hops to other upstreams.
    pub fn new(upstream: Arc<dyn Source>, cache: Cache, options: Options) -> Self {
        Self::with_hub(upstream, cache, options, Hub::default())
    }

    /// The same, and what becomes out of date is told at `hub`, which may be shared with other hops.
    pub fn with_hub(upstream: Arc<dyn Source>, cache: Cache, options: Options, hub: Hub) -> Self {
        let metadata = Metadata::new(upstream.clone(), cache.clone(), hub, options);
        let (flights, known, counts) = (Arc::default(), Known::new(), Counts::default());
        let (ahead, turns) = (options.ahead.map(Ahead::new), warm::Turns::default());
        let shelf = Shelf::default();
        Self(Arc::new(Hop { upstream, cache, metadata, flights, known, counts, ahead, shelf, turns }))
    }

    /// What is learned of names from now on counts for no longer than `bounds` say, where no change is told.
    pub fn bound_names(&self, bounds: Bounds) {
        self.0.metadata.0.state.lock().names.bound(bounds);
    }

    /// Attributes as `open(2)` promises them: what the upstream tells now, past the time to live, unless each
    /// change of the name is heard here.
    pub async fn stat_fresh(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Attr> {
        self.0.metadata.stat_fresh(path, deadline).await
    }

    /// `path` was changed beside this hop, and has the attributes `attr` now.
    pub async fn learn(&self, path: &GlobalPath, attr: &Attr) {
        self.0.metadata.changed(path, Some(attr)).await;
    }

    /// The listing of `directory` if it is known here. Asks nobody; names may have changed meanwhile.
    pub fn known_listing(&self, directory: &GlobalPath) -> Option<Listing> {
        self.0.metadata.known_listing(directory)
    }

    /// What the names in `directory` are known by here, if all of them are and their changes are heard.
    pub fn edition(&self, directory: &GlobalPath) -> Option<Edition> {
        self.0.metadata.edition(directory)
    }

    /// How long it counts that `path` has the attributes `attr`, so long as [`Source::watch`] tells no change.
    pub fn lasting(&self, path: &GlobalPath, attr: &Attr) -> Lasting {
        self.0.metadata.lasting(path, attr)
    }

    /// What it learned of names.
    pub fn name_counters(&self) -> NameCounters {
        self.0.metadata.counters()
    }

    /// What it took from upstream.
    pub fn counters(&self) -> FetchCounters {
        let counts = &self.0.counts;
        let (bytes_ahead, bytes_ahead_used) = self.0.ahead.as_ref().map(Ahead::counters).unwrap_or_default();
        FetchCounters {
            chunks_fetched: counts.chunks_fetched.load(Relaxed),
            bytes_fetched: counts.bytes_fetched.load(Relaxed),
            chunks_joined: counts.chunks_joined.load(Relaxed),
            chunks_deduplicated: counts.chunks_deduplicated.load(Relaxed),
            bytes_deduplicated: counts.bytes_deduplicated.load(Relaxed),
            bytes_ahead,
            bytes_ahead_used,
        }
    }

    /// The bytes `range`, which lies within the file, as pieces in order: what a mount's `read(2)` wants. Tells
    /// those who fetch ahead what applications read.
    ///
    /// Needs no task and no channel when all of it is here.
    pub async fn read_range(
        &self,
        path: &GlobalPath,
        version: Version,
        range: ByteRange,
        deadline: Deadline,
    ) -> FsResult<Vec<Bytes>> {
        let span = range.chunks();
        if span.count > stream::WINDOW_CHUNKS as u64 || range.end() > version.size {
            return Err(FsError::Limit("a read is too long or lies behind the end of the file".to_owned()));
        }
        let reading = Reading::new(self.0.clone(), path.clone(), version, span, deadline);
        // What is asked for goes before what may be.
        let (slots, waits) = reading.plan_whole();
        self.0.observe(path, version, range, waits);
        deadline.bound(reading.take_range(slots, range)).await
    }

    /// The cache before the upstream.
    pub fn cache(&self) -> &Cache {
        &self.0.cache
    }
}

#[async_trait]
impl Source for Cached {
    async fn stat(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Attr> {
        self.0.metadata.stat(path, deadline).await
    }

    async fn list(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Listing> {
        self.0.metadata.list(path, deadline).await
    }

    async fn look_up(&self, path: &GlobalPath, below: u32, deadline: Deadline) -> FsResult<Found> {
        let metadata = &self.0.metadata;
        let attr = metadata.find(path, deadline).await?;
        let is_directory = attr.is_some_and(|attr| attr.kind == FileKind::Directory);
        let directories = along::around(metadata, path, is_directory, below, deadline);
        Ok(Found { directories, ..Found::alone(attr) })
    }

    async fn list_below(&self, path: &GlobalPath, below: u32, deadline: Deadline) -> FsResult<Listed> {
        let metadata = &self.0.metadata;
        let listing = metadata.list(path, deadline).await?;
        Ok(Listed { directories: along::below(metadata, path, &listing, below, deadline), listing })
    }

    fn watch(&self, _heartbeat: Duration) -> ChangeStream {
        self.0.metadata.watch()
    }

    async fn read_link(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Bytes> {
        self.0.metadata.read_link(path, deadline).await
    }

    async fn get_xattr(&self, path: &GlobalPath, name: &[u8], deadline: Deadline) -> FsResult<Bytes> {
        self.0.metadata.get_xattr(path, name, deadline).await
    }

    async fn list_xattr(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Bytes> {
        self.0.metadata.list_xattr(path, deadline).await
    }

    async fn fs_stat(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<FsStat> {
        deadline.bound(self.0.upstream.fs_stat(path, deadline)).await
    }

    /// What it concerns is asked for anew from then on, however it ended.
    async fn seek(&self, seek: &Seek, deadline: Deadline) -> FsResult<u64> {
        self.0.metadata.0.upstream.seek(seek, deadline).await
    }

    async fn change(&self, change: &Change, deadline: Deadline) -> FsResult<Changed> {
        self.0.metadata.change(change, deadline).await
    }

    async fn read(
        &self,
        path: &GlobalPath,
        version: Version,
        span: ChunkSpan,
        deadline: Deadline,
    ) -> FsResult<ChunkStream> {
        check_span(version, span)?;
        let (sender, stream) = mpsc::channel(STREAM_CHUNKS);
        let reading = Reading::new(self.0.clone(), path.clone(), version, span, deadline);
        let demand = warm::Demand::new(&self.0);
        tokio::spawn(async move {
            reading.deliver(sender).await;
            drop(demand);
        });
        Ok(stream)
    }

    async fn warm(&self, warm: Warm, deadline: Deadline) -> FsResult<WarmStream> {
        Ok(warm::start(&self.0, warm, deadline))
    }

    async fn hashes(
        &self,
        path: &GlobalPath,
        version: Version,
        span: ChunkSpan,
        deadline: Deadline,
    ) -> FsResult<HashStream> {
        check_span(version, span)?;
        Ok(self.0.tell(path, version, span, deadline))
    }

    /// Returns at once; all errors come through the stream.
    async fn read_files(&self, files: Vec<WantedFile>, deadline: Deadline) -> FsResult<FileChunks> {
        Ok(bulk::read(self.0.clone(), files, deadline))
    }
}

impl Hop {
    /// Brings chunks here and settles every claim, whatever happens to the readers.
    async fn fetch(
        self: Arc<Self>,
        path: GlobalPath,
        version: Version,
        claims: Vec<Claim>,
        wanted: Deadline,
        room: Option<OwnedSemaphorePermit>,
    ) {
        let deadline = wanted.max(Deadline::after(DEFAULT_DEADLINE));
        self.settle(&path, version, claims, deadline, room).await;
    }

    /// Fetches consecutive chunks.
    async fn fetch_run(
        self: &Arc<Self>,
        path: &GlobalPath,
        version: Version,
        claims: Vec<Claim>,
        deadline: Deadline,
        room: Option<OwnedSemaphorePermit>,
    ) {
        let mut claims = VecDeque::from(claims);
        let outcome = deadline.bound(self.transfer(path, version, &mut claims, deadline, room)).await;
        let Err(error) = outcome else {
            return self.settle_again(path, version, claims.into(), deadline).await;
        };
        if let FsError::Stale(attr) = &error {
            self.metadata.changed(path, attr.as_deref()).await;
        }
        for claim in claims {
            claim.failed(error.clone());
        }
    }

    /// Takes what the upstream sends. Leaves claims when hash-ahead has overtaken the transfer.
    async fn transfer(
        self: &Arc<Self>,
        path: &GlobalPath,
        version: Version,
        claims: &mut VecDeque<Claim>,
        deadline: Deadline,
        room: Option<OwnedSemaphorePermit>,
    ) -> FsResult<()> {
        let Some(first) = claims.front().map(Claim::index) else { return Ok(()) };
        let span = ChunkSpan { first, count: claims.len() as u64 };
        let ahead = room.is_some();
        let mut permits = self.room(claims.len() as u64 * CHUNK_SIZE, room).await?;
        let asked = Instant::now();
        let mut stream = self.upstream.read(path, version, span, deadline).await?;
        while let Some(index) = claims.front().map(Claim::index) {
            // Data that is nearby waits at each turn, so what has overtaken it is looked at first.
            let chunk = tokio::select! {
                biased;
                () = self.overtaken(&version, claims) => return Ok(()),
                chunk = stream.recv() => chunk.unwrap_or_else(|| Err(ended_early()))?,
            };
            check_chunk(&version, index, &chunk)?;
            self.known.check(&version, &chunk)?;
            if index == first {
                self.measure_latency(version, asked.elapsed());
            }
            let claim = claims.pop_front().expect("its front was just looked at");
            let permit = permits.split(CHUNK_SIZE as usize).expect("room for each chunk was acquired");
            self.arrived(version, chunk, claim, permit, ahead);
        }
        Ok(())
    }

    /// The room that was given, or as much as is needed, once it is free.
    async fn room(&self, bytes: u64, given: Option<OwnedSemaphorePermit>) -> FsResult<OwnedSemaphorePermit> {
        if let Some(given) = given {
            return Ok(given);
        }
        let stopping = |_| FsError::Unreachable("the daemon is stopping".to_owned());
        let bytes = u32::try_from(bytes).expect("a request is much smaller");
        self.cache.in_flight().acquire_many_owned(bytes).await.map_err(stopping)
    }

    /// Hands the chunk to its readers at once, and keeps it in the background. The claim ends when the cache
    /// has the chunk or refused it. `ahead`: nobody has asked for it yet, so not to keep it would lose it.
    fn arrived(
        self: &Arc<Self>,
        version: Version,
        chunk: Chunk,
        claim: Claim,
        permit: OwnedSemaphorePermit,
        ahead: bool,
    ) {
        let length = chunk.data.len() as u64;
        self.counts.chunks_fetched.fetch_add(1, Relaxed);
        self.counts.bytes_fetched.fetch_add(length, Relaxed);
        self.measure_rate(version, chunk.data.len());
        if self.cache.holds(&chunk.hash) {
            self.known.hope();
        }
        claim.arrived(chunk.clone());
        let unkept = if ahead { 0 } else { length };
        if self.counts.unkept_bytes.fetch_add(unkept, Relaxed) + unkept > MAX_UNKEPT_BYTES && !ahead {
            self.counts.unkept_bytes.fetch_sub(unkept, Relaxed);
            self.cache.count_not_kept();
            return;
        }
        let hop = self.clone();
        tokio::spawn(async move {
            if hop.cache.put(&version, &chunk).await {
                // A small file shares the memory of all that came with it, and is found in memory as it is.
                if ahead && length == CHUNK_SIZE { hop.shelf.put(claim) } else { claim.kept() }
            }
            hop.counts.unkept_bytes.fetch_sub(unkept, Relaxed);
            drop(permit);
        });
    }
}

fn check_span(version: Version, span: ChunkSpan) -> FsResult<()> {
    let last = span.first.0.checked_add(span.count.saturating_sub(1));
    let inside = last.and_then(|last| globalfs_proto::ChunkIndex(last).bytes(version.size)).is_some();
    if span.count > 0 && inside {
        return Ok(());
    }
    Err(FsError::Limit("a read lies behind the end of the file".to_owned()))
}

/// Whether the chunk is the one that was asked for.
fn check_chunk(version: &Version, index: ChunkIndex, chunk: &Chunk) -> FsResult<()> {
    let length = index.bytes(version.size).map(|bytes| bytes.length());
    if chunk.index == index && Some(chunk.data.len() as u64) == length {
        return Ok(());
    }
    Err(FsError::Protocol("a chunk that was not asked for".to_owned()))
}

fn ended_early() -> FsError {
    FsError::Protocol("the answer ended before its last chunk".to_owned())
}

#[cfg(test)]
mod ahead_tests;
#[cfg(test)]
mod known_tests;
#[cfg(test)]
mod metadata_tests;
#[cfg(test)]
mod slow_disk_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod warm_tests;
