//! Warming: chunks are brought into the cache for nobody in particular.
//!
//! It claims chunks as readers do, so what is here is skipped, what is on its way is joined, and a reader
//! who comes meanwhile joins it. It takes a part of the chunks in flight, a quarter of that part while
//! somebody waits for data, so that readers go first.
//!
//! *Invariants:* at most [`WARM_CHUNKS_IN_FLIGHT`] chunks are under way for it; bytes are told as fetched only
//! when the cache has them.

use super::Hop;
use super::bulk;
use super::flight::{Claim, Progress, Slot};
use crate::source::{Deadline, WarmStream};
use crate::warm::{STEPS_AHEAD, step_of};
use futures_util::{StreamExt, stream};
use globalfs_proto::chunk::chunk_count;
use globalfs_proto::limits::CHUNK_SIZE;
use globalfs_proto::{ChunkIndex, ChunkSpan, FsError, FsResult, WantedFile, Warm, WarmFile, Warmed};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, watch};

/// Chunks under way for warming: 16 MiB, which fill 1 Gbit/s at 120 ms, and a third of all.
const WARM_CHUNKS_IN_FLIGHT: usize = 128;

/// What a chunk counts while readers wait for data.
const WEIGHT_BESIDE_READERS: u32 = 4;

/// Chunks in one request upstream: 2 MiB.
const RUN_CHUNKS: u64 = 16;

/// Runs of one file that are under way together.
const RUNS_AT_ONCE: usize = 8;

/// Small files in one request upstream, at most, and their bytes.
const BATCH_FILES: usize = 256;
const BATCH_BYTES: u64 = RUN_CHUNKS * CHUNK_SIZE;

/// Files, and batches of small files, that are warmed together.
const UNITS_AT_ONCE: usize = 32;

/// Times that a chunk is looked for again when a reader's transfer of it came to nothing.
const MAX_TAKEOVERS: usize = 8;

const _: () = assert!(WARM_CHUNKS_IN_FLIGHT * 2 * CHUNK_SIZE as usize <= crate::cache::MAX_BYTES_IN_FLIGHT);
const _: () = assert!(RUN_CHUNKS as usize * WEIGHT_BESIDE_READERS as usize <= WARM_CHUNKS_IN_FLIGHT);

/// Who may fetch next.
pub(super) struct Turns {
    free: Semaphore,
    readers: AtomicUsize,
}

impl Default for Turns {
    fn default() -> Self {
        Self { free: Semaphore::new(WARM_CHUNKS_IN_FLIGHT), readers: AtomicUsize::new(0) }
    }
}

impl Turns {
    async fn take(&self, chunks: u32) -> FsResult<SemaphorePermit<'_>> {
        let busy = self.readers.load(Ordering::Relaxed) > 0;
        let weight = if busy { WEIGHT_BESIDE_READERS } else { 1 };
        let stopping = |_| FsError::Unreachable("the daemon is stopping".to_owned());
        self.free.acquire_many(chunks * weight).await.map_err(stopping)
    }
}

/// A reader waits for data as long as this lives.
pub(super) struct Demand(Arc<Hop>);

impl Demand {
    pub(super) fn new(hop: &Arc<Hop>) -> Self {
        hop.turns.readers.fetch_add(1, Ordering::Relaxed);
        Self(hop.clone())
    }
}

impl Drop for Demand {
    fn drop(&mut self) {
        self.0.turns.readers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Begins to warm; the work ends with the stream.
pub(super) fn start(hop: &Arc<Hop>, warm: Warm, deadline: Deadline) -> WarmStream {
    let (sender, stream) = mpsc::channel(STEPS_AHEAD);
    let hop = hop.clone();
    tokio::spawn(async move {
        let fetch = warm.fetch;
        let part = |(number, file)| Part { hop: &hop, number, file, fetch, deadline, sender: &sender };
        let parts: Vec<Part<'_>> = (0..).zip(warm.files).map(part).collect();
        tokio::select! {
            () = sender.closed() => {}
            () = stream::iter(units(parts)).for_each_concurrent(UNITS_AT_ONCE, Unit::warm) => {}
        }
    });
    stream
}

/// What is asked for together: a part of a file, or several small files.
enum Unit<'a> {
    Part(Part<'a>),
    Batch(Batch<'a>),
}

impl<'a> Unit<'a> {
    async fn warm(self) {
        match self {
            Self::Part(part) => part.warm().await,
            Self::Batch(batch) => batch.warm().await,
        }
    }

    /// Ends the batch that was begun.
    fn close(units: &mut Vec<Self>, batch: &mut Vec<Part<'a>>) {
        if !batch.is_empty() {
            units.push(Self::Batch(Batch(std::mem::take(batch))));
        }
    }
}

/// Neighbours that are small become batches; the order stays.
fn units(parts: Vec<Part<'_>>) -> Vec<Unit<'_>> {
    let (mut units, mut batch, mut bytes) = (Vec::new(), Vec::new(), 0);
    for part in parts {
        let size = part.file.version.size;
        if !part.is_small() {
            Unit::close(&mut units, &mut batch);
            units.push(Unit::Part(part));
            continue;
        }
        if batch.is_empty() || bytes + size > BATCH_BYTES || batch.len() >= BATCH_FILES {
            Unit::close(&mut units, &mut batch);
            bytes = 0;
        }
        bytes += size;
        batch.push(part);
    }
    Unit::close(&mut units, &mut batch);
    units
}

/// One part of a request.
struct Part<'a> {
    hop: &'a Arc<Hop>,
    number: u32,
    file: WarmFile,
    fetch: bool,
    deadline: Deadline,
    sender: &'a mpsc::Sender<FsResult<Warmed>>,
}

/// How one chunk ended.
enum Outcome {
    Kept,
    Refused,
    /// Somebody else's transfer came to nothing: look again.
    Again,
}

impl Part<'_> {
    async fn warm(self) {
        let end = if self.file.is_inside() {
            self.deadline.bound(self.warm_runs()).await
        } else {
            Err(FsError::Limit("chunks behind the end of the file".to_owned()))
        };
        self.tell(Warmed { end: Some(end), ..self.step() }).await;
    }

    fn step(&self) -> Warmed {
        step_of(self.number, self.hop.cache.counters().quota_bytes)
    }

    /// Nobody who listens is no error here: the whole work is dropped then.
    async fn tell(&self, step: Warmed) {
        let _ = self.sender.send(Ok(step)).await;
    }

    async fn warm_runs(&self) -> FsResult<()> {
        let mut runs =
            stream::iter(runs(self.file.span)).map(|run| self.warm_run(run)).buffered(RUNS_AT_ONCE);
        while let Some((step, ended)) = runs.next().await {
            self.tell(step).await;
            ended?;
        }
        Ok(())
    }

    /// What was done, and how it ended.
    async fn warm_run(&self, run: ChunkSpan) -> (Warmed, FsResult<()>) {
        let mut step = self.step();
        let (here, absent): (Vec<_>, Vec<_>) = run.iter().partition(|index| self.is_here(*index));
        step.here_bytes = here.iter().map(|index| self.bytes(*index)).sum();
        let ended = match (absent.is_empty(), self.fetch) {
            (true, _) => Ok(()),
            (false, true) => self.fetch_chunks(absent, &mut step).await,
            (false, false) => {
                step.missing_bytes = absent.iter().map(|index| self.bytes(*index)).sum();
                Ok(())
            }
        };
        (step, ended)
    }

    fn is_here(&self, index: ChunkIndex) -> bool {
        self.hop.cache.contains(&self.file.version, index)
    }

    fn bytes(&self, index: ChunkIndex) -> u64 {
        index.bytes(self.file.version.size).map_or(0, |bytes| bytes.length())
    }

    async fn fetch_chunks(&self, wanted: Vec<ChunkIndex>, step: &mut Warmed) -> FsResult<()> {
        let chunks = u32::try_from(wanted.len()).expect("a run is short");
        let _turn = self.hop.turns.take(chunks).await?;
        self.fetch_again(wanted, step).await
    }

    async fn fetch_again(&self, mut wanted: Vec<ChunkIndex>, step: &mut Warmed) -> FsResult<()> {
        for _ in 0..MAX_TAKEOVERS {
            if wanted.is_empty() {
                break;
            }
            wanted = self.attempt(wanted, step).await?;
        }
        if wanted.is_empty() {
            return Ok(());
        }
        Err(FsError::Limit("transfers of a chunk came to nothing again and again".to_owned()))
    }

    /// Claims what nobody fetches and waits for all; gives what has to be looked for again.
    async fn attempt(&self, wanted: Vec<ChunkIndex>, step: &mut Warmed) -> FsResult<Vec<ChunkIndex>> {
        let (awaited, claims) = self.find(wanted, step);
        for run in bulk::runs(claims) {
            let (path, version) = (self.file.path.clone(), self.file.version);
            tokio::spawn(self.hop.clone().fetch(path, version, run, self.deadline, None));
        }
        self.settle(awaited, step).await
    }

    /// Who brings each chunk that is not here: others, or the claims.
    fn find(&self, wanted: Vec<ChunkIndex>, step: &mut Warmed) -> (Vec<Awaited>, Vec<Claim>) {
        let (mut awaited, mut claims) = (Vec::new(), Vec::new());
        for index in wanted {
            let name = (self.file.version, index);
            match self.hop.flights.find(name, &self.file.path, || self.is_here(index)) {
                (Slot::Cached, _) => step.here_bytes += self.bytes(index),
                (Slot::Awaited { progress, own, same_path }, claim) => {
                    claims.extend(claim);
                    awaited.push(Awaited { index, progress, own, same_path });
                }
            }
        }
        (awaited, claims)
    }

    /// Waits for all, also after an error; gives what has to be looked for again.
    async fn settle(&self, awaited: Vec<Awaited>, step: &mut Warmed) -> FsResult<Vec<ChunkIndex>> {
        let (mut again, mut failed) = (Vec::new(), Ok(()));
        for chunk in awaited {
            let index = chunk.index;
            match chunk.settled().await {
                Ok(Outcome::Kept) => step.fetched_bytes += self.bytes(index),
                Ok(Outcome::Refused) => step.missing_bytes += self.bytes(index),
                Ok(Outcome::Again) => again.push(index),
                Err(error) => failed = Err(error),
            }
        }
        failed.map(|()| again)
    }

    /// Whether it is a whole small file, which may be asked for with others.
    fn is_small(&self) -> bool {
        let span = self.file.span;
        span.first.0 == 0 && span.count == chunk_count(self.file.version.size) && self.wanted().is_small()
    }

    fn wanted(&self) -> WantedFile {
        WantedFile { path: self.file.path.clone(), version: self.file.version }
    }

    fn absent(&self) -> Vec<ChunkIndex> {
        self.file.span.iter().filter(|index| !self.is_here(*index)).collect()
    }
}

/// Small files that are asked for together.
struct Batch<'a>(Vec<Part<'a>>);

impl Batch<'_> {
    async fn warm(self) {
        let (absent, here): (Vec<_>, Vec<_>) =
            self.0.into_iter().partition(|part| part.fetch && !part.absent().is_empty());
        for part in here {
            part.warm().await;
        }
        let Some(first) = absent.first() else { return };
        let bytes: u64 = absent.iter().map(|part| part.file.version.size).sum();
        let chunks = u32::try_from(bytes.div_ceil(CHUNK_SIZE)).expect("a batch is small");
        match first.deadline.bound(first.hop.turns.take(chunks)).await {
            Ok(_turn) => Self::fetch(absent).await,
            Err(error) => {
                for part in absent {
                    part.tell(Warmed { end: Some(Err(error.clone())), ..part.step() }).await;
                }
            }
        }
    }

    /// One request for all that nobody fetches yet.
    async fn fetch(parts: Vec<Part<'_>>) {
        let (mut files, mut found) = (Vec::new(), Vec::new());
        for part in parts {
            let mut step = part.step();
            let (awaited, claims) = part.find(part.file.span.iter().collect(), &mut step);
            files.extend(part.hop.whole_or_parts(part.wanted(), claims, part.deadline));
            found.push((part, awaited, step));
        }
        if let Some((part, ..)) = found.first().filter(|_| !files.is_empty()) {
            tokio::spawn(part.hop.clone().fetch_files(files, part.deadline, None));
        }
        for (part, awaited, mut step) in found {
            match part.deadline.bound(part.settle(awaited, &mut step)).await {
                Ok(again) => {
                    let ended = part.deadline.bound(part.fetch_again(again, &mut step)).await;
                    part.tell(Warmed { end: Some(ended), ..step }).await;
                }
                Err(error) => part.tell(Warmed { end: Some(Err(error)), ..step }).await,
            }
        }
    }
}

/// A chunk that is on its way.
struct Awaited {
    index: ChunkIndex,
    progress: watch::Receiver<Progress>,
    own: bool,
    same_path: bool,
}

impl Awaited {
    /// Waits until the cache has the chunk or it is known that it will not have it.
    async fn settled(mut self) -> FsResult<Outcome> {
        let open = |now: &Progress| matches!(now, Progress::Pending | Progress::Arrived(_));
        // The claim of a chunk that the cache refused goes without another word.
        let _ = self.progress.wait_for(|now| !open(now)).await;
        let ours = |error: &FsError| self.own || self.same_path && *error != FsError::Deadline;
        match &*self.progress.borrow() {
            Progress::Kept | Progress::Held(_) => Ok(Outcome::Kept),
            Progress::Arrived(_) => Ok(Outcome::Refused),
            Progress::Failed(error) if ours(error) => Err(error.clone()),
            Progress::Failed(_) | Progress::Abandoned | Progress::Pending => Ok(Outcome::Again),
        }
    }
}

fn runs(span: ChunkSpan) -> impl Iterator<Item = ChunkSpan> {
    (0..span.count.div_ceil(RUN_CHUNKS)).map(move |n| ChunkSpan {
        first: ChunkIndex(span.first.0 + n * RUN_CHUNKS),
        count: RUN_CHUNKS.min(span.count - n * RUN_CHUNKS),
    })
}
