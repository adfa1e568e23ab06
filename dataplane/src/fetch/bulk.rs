//! Many small files through a hop: what is here from the cache, what is on its way joined, and the rest asked
//! for in bulk.

use super::flight::{Claim, Slot};
use super::stream::Reading;
use super::warm::Demand;
use super::{Hop, ended_early};
use crate::source::{Chunk, Deadline, FileChunks};
use futures_util::{StreamExt, stream};
use globalfs_proto::limits::DEFAULT_DEADLINE;
use globalfs_proto::{ChunkIndex, ChunkSpan, FsError, FsResult, WantedFile};
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

/// Chunks that wait for the reader: a few packs of small files.
const CHUNKS_AHEAD: usize = 64;

/// Chunks of one reader that are read from the cache or waited for at the same time.
const CHUNKS_AWAITED: usize = 512;

/// Files that are asked for in one request upstream, at most, and their bytes: enough that requests cost little,
/// little enough that room for them is soon found.
const BATCH_FILES: usize = 256;
const BATCH_BYTES: u64 = 4 * 1024 * 1024;

const _: () = assert!(BATCH_BYTES as usize * 2 <= crate::cache::MAX_BYTES_IN_FLIGHT);

/// A file, and claims on all its chunks.
pub(super) struct ClaimedFile {
    pub(super) file: WantedFile,
    pub(super) claims: Vec<Claim>,
}

/// Starts reading; all errors come through the stream.
pub(super) fn read(hop: Arc<Hop>, files: Vec<WantedFile>, deadline: Deadline) -> FileChunks {
    let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
    tokio::spawn(async move {
        let count = files.len();
        let mut left: HashSet<usize> = (0..count).collect();
        let _demand = Demand::new(&hop);
        let sent = tokio::select! {
            sent = deadline.bound(deliver(hop, files, deadline, &sender, &mut left)) => sent,
            () = sender.closed() => return,
        };
        let error = sent.err().unwrap_or_else(ended_early);
        for number in left {
            if sender.send((number, Err(error.clone()))).await.is_err() {
                return;
            }
        }
    });
    chunks
}

/// Sends every chunk; takes those files from `left` of which all was told.
async fn deliver(
    hop: Arc<Hop>,
    files: Vec<WantedFile>,
    deadline: Deadline,
    sender: &mpsc::Sender<(usize, FsResult<Chunk>)>,
    left: &mut HashSet<usize>,
) -> FsResult<()> {
    let mut missing: Vec<u64> = files.iter().map(WantedFile::chunks).collect();
    let plan = Plan { hop, files: files.into_iter().enumerate(), deadline, slots: VecDeque::new() };
    let resolve = |planned: Planned| async move {
        (planned.number, planned.reading.resolve(planned.index, planned.slot).await)
    };
    let mut told = stream::iter(plan).map(resolve).buffer_unordered(CHUNKS_AWAITED);
    while let Some((number, chunk)) = told.next().await {
        missing[number] -= 1;
        if !left.contains(&number) {
            // An error has ended this file.
            continue;
        }
        if chunk.is_err() || missing[number] == 0 {
            left.remove(&number);
        }
        if sender.send((number, chunk)).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// A chunk, and where it comes from.
struct Planned {
    number: usize,
    reading: Arc<Reading>,
    index: ChunkIndex,
    slot: Slot,
}

/// Finds the chunks of file after file, and asks for what is missing a batch at a time.
struct Plan {
    hop: Arc<Hop>,
    files: std::iter::Enumerate<std::vec::IntoIter<WantedFile>>,
    deadline: Deadline,
    slots: VecDeque<Planned>,
}

impl Plan {
    fn refill(&mut self) {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH_FILES
            && bytes < BATCH_BYTES
            && self.slots.len() < CHUNKS_AWAITED
            && let Some((number, file)) = self.files.next()
        {
            bytes += file.version.size;
            batch.extend(self.plan(number, file));
        }
        if !batch.is_empty() {
            tokio::spawn(self.hop.clone().fetch_files(batch, self.deadline, None));
        }
    }

    /// The file, if all of it is missing.
    fn plan(&mut self, number: usize, file: WantedFile) -> Option<ClaimedFile> {
        let span = ChunkSpan { first: ChunkIndex(0), count: file.chunks() };
        let WantedFile { path, version } = file.clone();
        let reading = Arc::new(Reading::new(self.hop.clone(), path, version, span, self.deadline));
        let mut claims = Vec::new();
        for index in span.iter() {
            let (slot, claim) = reading.find(index);
            claims.extend(claim);
            self.slots.push_back(Planned { number, reading: reading.clone(), index, slot });
        }
        self.hop.whole_or_parts(file, claims, self.deadline)
    }
}

impl Iterator for Plan {
    type Item = Planned;

    fn next(&mut self) -> Option<Planned> {
        if self.slots.is_empty() {
            self.refill();
        }
        self.slots.pop_front()
    }
}

impl Hop {
    /// The file, if all of it was claimed and it may be asked for in bulk; otherwise starts to fetch the parts.
    pub(super) fn whole_or_parts(
        self: &Arc<Self>,
        file: WantedFile,
        claims: Vec<Claim>,
        deadline: Deadline,
    ) -> Option<ClaimedFile> {
        if claims.len() as u64 == file.chunks() && file.is_small() {
            return Some(ClaimedFile { file, claims });
        }
        for run in runs(claims) {
            tokio::spawn(self.clone().fetch(file.path.clone(), file.version, run, deadline, None));
        }
        None
    }

    /// Fetches files and settles every claim, whatever happens to the readers.
    pub(super) async fn fetch_files(
        self: Arc<Self>,
        mut files: Vec<ClaimedFile>,
        wanted: Deadline,
        room: Option<OwnedSemaphorePermit>,
    ) {
        let deadline = wanted.max(Deadline::after(DEFAULT_DEADLINE));
        let outcome = deadline.bound(self.transfer_files(&mut files, deadline, room)).await;
        let error = outcome.err().unwrap_or_else(ended_early);
        for claim in files.into_iter().flat_map(|file| file.claims) {
            claim.failed(error.clone());
        }
    }

    /// Returns when the answer ends; claims that are left are not settled.
    async fn transfer_files(
        self: &Arc<Self>,
        files: &mut [ClaimedFile],
        deadline: Deadline,
        room: Option<OwnedSemaphorePermit>,
    ) -> FsResult<()> {
        let wanted: Vec<_> = files.iter().map(|claimed| claimed.file.clone()).collect();
        let ahead = room.is_some();
        let mut permits = self.room(wanted.iter().map(|file| file.version.size).sum(), room).await?;
        let asked = Instant::now();
        let mut told = self.upstream.read_files(wanted, deadline).await?;
        let mut first = true;
        while let Some((number, chunk)) = told.recv().await {
            let beyond = || FsError::Protocol("a file that was not asked for".to_owned());
            let claimed = files.get_mut(number).ok_or_else(beyond)?;
            if std::mem::take(&mut first) {
                self.measure_latency(claimed.file.version, asked.elapsed());
            }
            match chunk {
                Ok(chunk) => self.file_chunk_arrived(claimed, chunk, &mut permits, ahead)?,
                Err(error) => self.file_failed(claimed, &error).await,
            }
        }
        Ok(())
    }

    fn file_chunk_arrived(
        self: &Arc<Self>,
        claimed: &mut ClaimedFile,
        chunk: Chunk,
        permits: &mut OwnedSemaphorePermit,
        ahead: bool,
    ) -> FsResult<()> {
        let version = claimed.file.version;
        let length = chunk.index.bytes(version.size).map(|bytes| bytes.length());
        let place = claimed.claims.iter().position(|claim| claim.index() == chunk.index);
        match place {
            Some(place) if length == Some(chunk.data.len() as u64) => {
                let claim = claimed.claims.swap_remove(place);
                let permit = permits.split(chunk.data.len()).expect("room for each chunk was acquired");
                self.arrived(version, chunk, claim, permit, ahead);
                Ok(())
            }
            _ => Err(FsError::Protocol("a chunk that was not asked for".to_owned())),
        }
    }

    async fn file_failed(&self, claimed: &mut ClaimedFile, error: &FsError) {
        if let FsError::Stale(attr) = error {
            self.metadata.changed(&claimed.file.path, attr.as_deref()).await;
        }
        for claim in claimed.claims.drain(..) {
            claim.failed(error.clone());
        }
    }
}

/// Claims on consecutive chunks, each run as long as one request may be.
pub(super) fn runs(claims: Vec<Claim>) -> Vec<Vec<Claim>> {
    let mut runs: Vec<Vec<Claim>> = Vec::new();
    for claim in claims {
        match runs.last_mut() {
            Some(run)
                if run.len() < super::stream::WINDOW_CHUNKS
                    && run.last().is_some_and(|last| last.index().0 + 1 == claim.index().0) =>
            {
                run.push(claim);
            }
            _ => runs.push(vec![claim]),
        }
    }
    runs
}
