//! Warming: chunks are brought into the cache for nobody in particular.
//!
//! It claims chunks as readers do, so what is here is skipped, what is on its way is joined, and a reader
//! who comes meanwhile joins it. It takes a part of the chunks in flight, a quarter of that part while
//! somebody waits for data, so that readers go first.
//!
//! *Invariants:* at most [`WARM_CHUNKS_IN_FLIGHT`] chunks are under way for it; bytes are told as fetched only
//! when the cache has them.

use super::Hop;
use super::flight::{Progress, Slot};
use crate::source::{Deadline, WarmStream};
use crate::warm::{STEPS_AHEAD, step_of};
use futures_util::{StreamExt, stream};
use globalfs_proto::limits::CHUNK_SIZE;
use globalfs_proto::{ChunkIndex, ChunkSpan, FsError, FsResult, Warm, WarmFile, Warmed};
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

/// Files that are warmed together: small ones take a round trip each.
const FILES_AT_ONCE: usize = 64;

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
        let Warm { fetch, files } = warm;
        let each = |(number, file)| {
            let part = Part { hop: &hop, number, file, fetch, deadline, sender: &sender };
            async move { part.warm().await }
        };
        let parts = (0..).zip(files);
        tokio::select! {
            () = sender.closed() => {}
            () = stream::iter(parts).for_each_concurrent(FILES_AT_ONCE, each) => {}
        }
    });
    stream
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

    async fn fetch_chunks(&self, mut wanted: Vec<ChunkIndex>, step: &mut Warmed) -> FsResult<()> {
        let chunks = u32::try_from(wanted.len()).expect("a run is short");
        let _turn = self.hop.turns.take(chunks).await?;
        for _ in 0..MAX_TAKEOVERS {
            wanted = self.attempt(wanted, step).await?;
            if wanted.is_empty() {
                return Ok(());
            }
        }
        Err(FsError::Limit("transfers of a chunk came to nothing again and again".to_owned()))
    }

    /// Claims what nobody fetches and waits for all; gives what has to be looked for again.
    async fn attempt(&self, wanted: Vec<ChunkIndex>, step: &mut Warmed) -> FsResult<Vec<ChunkIndex>> {
        let (mut awaited, mut run, mut again) = (Vec::new(), Vec::new(), Vec::new());
        for index in wanted {
            let name = (self.file.version, index);
            match self.hop.flights.find(name, &self.file.path, || self.is_here(index)) {
                (Slot::Cached, _) => step.here_bytes += self.bytes(index),
                (Slot::Awaited { progress, own, same_path }, claim) => {
                    run.extend(claim);
                    awaited.push((index, progress, own, same_path));
                }
            }
        }
        // Consecutive claims make one request.
        for claims in consecutive(run) {
            let (path, version) = (self.file.path.clone(), self.file.version);
            tokio::spawn(self.hop.clone().fetch(path, version, claims, self.deadline, None));
        }
        let mut failed = Ok(());
        for (index, progress, own, same_path) in awaited {
            match settled(progress, own, same_path).await {
                Ok(Outcome::Kept) => step.fetched_bytes += self.bytes(index),
                Ok(Outcome::Refused) => step.missing_bytes += self.bytes(index),
                Ok(Outcome::Again) => again.push(index),
                Err(error) => failed = Err(error),
            }
        }
        failed.map(|()| again)
    }
}

/// Waits until the cache has the chunk or it is known that it will not have it.
async fn settled(mut progress: watch::Receiver<Progress>, own: bool, same_path: bool) -> FsResult<Outcome> {
    let open = |now: &Progress| matches!(now, Progress::Pending | Progress::Arrived(_));
    // The claim of a chunk that the cache refused goes without another word.
    let _ = progress.wait_for(|now| !open(now)).await;
    let now = progress.borrow();
    match &*now {
        Progress::Kept => Ok(Outcome::Kept),
        Progress::Arrived(_) => Ok(Outcome::Refused),
        Progress::Failed(error) if own || same_path && *error != FsError::Deadline => Err(error.clone()),
        Progress::Failed(_) | Progress::Abandoned | Progress::Pending => Ok(Outcome::Again),
    }
}

fn consecutive(claims: Vec<super::Claim>) -> Vec<Vec<super::Claim>> {
    let mut runs: Vec<Vec<super::Claim>> = Vec::new();
    for claim in claims {
        let follows =
            |run: &Vec<super::Claim>| run.last().is_some_and(|l| l.index().0 + 1 == claim.index().0);
        match runs.last_mut().filter(|run| follows(run)) {
            Some(run) => run.push(claim),
            None => runs.push(vec![claim]),
        }
    }
    runs
}

fn runs(span: ChunkSpan) -> impl Iterator<Item = ChunkSpan> {
    (0..span.count.div_ceil(RUN_CHUNKS)).map(move |n| ChunkSpan {
        first: ChunkIndex(span.first.0 + n * RUN_CHUNKS),
        count: RUN_CHUNKS.min(span.count - n * RUN_CHUNKS),
    })
}
