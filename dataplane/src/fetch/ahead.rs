//! Carries out what the models of read-ahead and walks decide: tells them what is read, and fetches what they
//! ask for.
//!
//! *Invariants:* what nobody asked for takes room of its own, and is given up when there is none, so no reader
//! waits behind it for memory; the models' lock is never held over a wait.

use super::bulk::{ClaimedFile, runs};
use super::flight::Claim;
use super::{Hop, WantedFile};
use crate::model::readahead::{Limits, Read, ReadAhead};
use crate::model::walk::{self, FileRead, Walks};
use crate::source::Deadline;
use globalfs_proto::limits::{CHUNK_SIZE, DEFAULT_DEADLINE};
use globalfs_proto::{ByteRange, ChunkIndex, ChunkSpan, GlobalPath, Version};
use lru::LruCache;
use parking_lot::Mutex;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Chunks fetched ahead of which is known that nobody has read them yet; older ones count as never read.
const MAX_UNREAD: NonZeroUsize = NonZeroUsize::new(65_536).expect("not zero");

/// How much is fetched before anybody asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AheadOptions {
    /// Bytes between a request and their place in the cache, over all readers. The default serves
    /// 10 Gbit/s at 80 ms.
    pub bytes: usize,
    /// The largest window of one reader of a large file.
    pub reader_bytes: u64,
    /// What one walk through directories may have under way.
    pub walk_bytes: u64,
    /// What a large first read at the start of a file asks for.
    pub first_bytes: u64,
}

impl Default for AheadOptions {
    fn default() -> Self {
        const MIB: u64 = 1024 * 1024;
        Self { bytes: 128 << 20, reader_bytes: 96 * MIB, walk_bytes: 32 * MIB, first_bytes: MIB }
    }
}

/// The models, and what they may use.
pub(super) struct Ahead {
    begun: Instant,
    room: Arc<Semaphore>,
    models: Mutex<Models>,
    bytes: AtomicU64,
    bytes_used: AtomicU64,
}

struct Models {
    readers: ReadAhead,
    walks: Walks,
    unread: LruCache<(Version, ChunkIndex), u64>,
}

/// What was decided, with the room for it.
struct Plan {
    spans: Vec<(WantedFile, ChunkSpan)>,
    files: Vec<WantedFile>,
    room: OwnedSemaphorePermit,
}

impl Ahead {
    pub(super) fn new(options: AheadOptions) -> Self {
        let limits = Limits { first_bytes: options.first_bytes, reader_bytes: options.reader_bytes };
        let models = Models {
            readers: ReadAhead::new(limits),
            walks: Walks::new(options.walk_bytes),
            unread: LruCache::new(MAX_UNREAD),
        };
        Self {
            begun: Instant::now(),
            room: Arc::new(Semaphore::new(options.bytes)),
            models: Mutex::new(models),
            bytes: AtomicU64::default(),
            bytes_used: AtomicU64::default(),
        }
    }

    /// Bytes that were fetched ahead, and those of them that were read later.
    pub(super) fn counters(&self) -> (u64, u64) {
        (self.bytes.load(Relaxed), self.bytes_used.load(Relaxed))
    }

    fn plan(&self, path: &GlobalPath, version: Version, read: Read, known: walk::Known<'_>) -> Option<Plan> {
        let mut models = self.models.lock();
        models.count_used(version, read.range.chunks(), &self.bytes_used);
        let free = self.room.available_permits() as u64;
        let spans = models.readers.read(version, read, free);
        let free = free - spans.iter().map(|span| span.count * CHUNK_SIZE).sum::<u64>();
        let length = read.range.chunks().count * CHUNK_SIZE;
        let begins_afresh = read.stalled && read.range.start() == 0;
        let asked = models.walks.read(path, FileRead { length, begins_afresh }, free, known);
        if spans.is_empty() && asked.is_empty() {
            return None;
        }
        let this = WantedFile { path: path.clone(), version };
        let mut plan = Plan {
            spans: spans.into_iter().map(|span| (this.clone(), span)).collect(),
            files: Vec::new(),
            room: self.room.clone().try_acquire_many_owned(0).ok()?,
        };
        for ahead in asked {
            match ahead {
                walk::Ahead::Whole(file) => plan.files.push(file),
                walk::Ahead::Part(file, span) => plan.spans.push((file, span)),
            }
        }
        // Room is taken under the lock alone, so what was free still is.
        let bytes = u32::try_from(plan.bytes()).ok()?;
        plan.room = self.room.clone().try_acquire_many_owned(bytes).ok()?;
        Some(plan)
    }
}

impl Plan {
    fn bytes(&self) -> u64 {
        let spans = self.spans.iter().map(|(_, span)| span.count * CHUNK_SIZE);
        spans.chain(self.files.iter().map(|file| file.version.size)).sum()
    }
}

impl Models {
    fn count_used(&mut self, version: Version, span: ChunkSpan, used: &AtomicU64) {
        if self.unread.is_empty() {
            return;
        }
        let bytes = span.iter().filter_map(|index| self.unread.pop(&(version, index)));
        used.fetch_add(bytes.sum(), Relaxed);
    }
}

impl Hop {
    /// Tells the models of a read, and starts to fetch what they expect next.
    pub(super) fn observe(
        self: &Arc<Self>,
        path: &GlobalPath,
        version: Version,
        range: ByteRange,
        stalled: bool,
    ) {
        let Some(ahead) = &self.ahead else { return };
        let known = |directory: &GlobalPath| Some(self.metadata.known_listing(directory)?.entries);
        let Some(plan) = ahead.plan(path, version, Read { range, stalled }, &known) else { return };
        let Plan { spans, files, mut room } = plan;
        for (file, span) in spans {
            self.fetch_span_ahead(ahead, file, span, &mut room);
        }
        self.fetch_files_ahead(ahead, files, room);
    }

    fn fetch_span_ahead(
        self: &Arc<Self>,
        ahead: &Ahead,
        file: WantedFile,
        span: ChunkSpan,
        room: &mut OwnedSemaphorePermit,
    ) {
        let claims = span.iter().filter_map(|index| self.claim_ahead(ahead, &file, index)).collect();
        for run in runs(claims) {
            let room = room.split(run.len() * CHUNK_SIZE as usize);
            let deadline = Deadline::after(DEFAULT_DEADLINE);
            tokio::spawn(self.clone().fetch(file.path.clone(), file.version, run, deadline, room));
        }
    }

    /// Those of which nothing is here; of others the reader fetches the rest.
    fn fetch_files_ahead(
        self: &Arc<Self>,
        ahead: &Ahead,
        files: Vec<WantedFile>,
        room: OwnedSemaphorePermit,
    ) {
        let claim = |file: WantedFile| {
            let chunks = (0..file.chunks()).map(ChunkIndex);
            let claims: Vec<Claim> =
                chunks.map_while(|index| self.claim_ahead(ahead, &file, index)).collect();
            (claims.len() as u64 == file.chunks()).then_some(ClaimedFile { file, claims })
        };
        let claimed: Vec<ClaimedFile> = files.into_iter().filter_map(claim).collect();
        if !claimed.is_empty() {
            let deadline = Deadline::after(DEFAULT_DEADLINE);
            tokio::spawn(self.clone().fetch_files(claimed, deadline, Some(room)));
        }
    }

    /// The duty to fetch a chunk, unless it is here or on its way.
    fn claim_ahead(&self, ahead: &Ahead, file: &WantedFile, index: ChunkIndex) -> Option<Claim> {
        let bytes = index.bytes(file.version.size)?.length();
        let cached = || self.cache.contains(&file.version, index);
        let claim = self.flights.find((file.version, index), &file.path, cached).1?;
        ahead.bytes.fetch_add(bytes, Relaxed);
        ahead.models.lock().unread.put((file.version, index), bytes);
        Some(claim)
    }

    pub(super) fn measure_latency(&self, version: Version, latency: Duration) {
        if let Some(ahead) = &self.ahead {
            ahead.models.lock().readers.answered(version, latency);
        }
    }

    pub(super) fn measure_rate(&self, version: Version, bytes: usize) {
        if let Some(ahead) = &self.ahead {
            ahead.models.lock().readers.delivered(version, bytes as u64, ahead.begun.elapsed());
        }
    }
}
