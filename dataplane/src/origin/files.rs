//! Reading many small files: one call on a thread that may block does all that a file needs.
//!
//! *Invariant:* that of `read`, by the same steps in the same order: the version is looked at when the file is
//! opened, is old enough, writes that began under it are waited for, the bytes are read, and the version is
//! looked at again before they are let out.

use super::read::{outwait_writer, time_to_settle};
use super::{Inner, Origin};
use crate::source::{Chunk, Deadline, FileChunks, Source};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use globalfs_proto::limits::{CHUNK_SIZE, PACK_TARGET};
use globalfs_proto::{ChunkIndex, ChunkSpan, FsError, FsResult, Version, WantedFile};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::time::SystemTime;
use tokio::sync::mpsc;

/// Files of one call: what one takes from a page cache is less than what a call costs beside it.
const FILES_PER_CALL: usize = 16;

/// Calls of one stream at the same time. Each holds about a pack in memory.
const CALLS_AT_ONCE: usize = 4;

/// Chunks that wait for the reader: a few packs of small files.
const CHUNKS_AHEAD: usize = 64;

type Sender = mpsc::Sender<(usize, FsResult<Chunk>)>;

/// What a call found out about a file.
#[derive(Clone)]
enum Found {
    /// All its chunks.
    Whole(Vec<Chunk>),
    /// Its version is too young: it is read by itself, after a wait.
    Young,
}

/// Files with their places, read together.
type Batch = Vec<(usize, WantedFile)>;

/// Starts reading; all errors come through the stream.
pub(super) fn read(origin: Origin, files: Vec<WantedFile>, deadline: Deadline) -> FileChunks {
    let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
    tokio::spawn(async move {
        tokio::select! {
            () = sender.closed() => {}
            () = send_all(&origin, files, deadline, &sender) => {}
        }
    });
    chunks
}

async fn send_all(origin: &Origin, files: Vec<WantedFile>, deadline: Deadline, sender: &Sender) {
    let read = |batch: Batch| async move { (batch.clone(), read_batch(origin, batch, deadline).await) };
    let mut batches = stream::iter(batches(files)).map(read).buffered(CALLS_AT_ONCE);
    while let Some((batch, found)) = batches.next().await {
        for ((number, file), found) in batch.into_iter().zip(found) {
            if send(origin, deadline, sender, number, file, found).await.is_err() {
                return;
            }
        }
    }
}

/// An error says that nobody listens.
async fn send(
    origin: &Origin,
    deadline: Deadline,
    sender: &Sender,
    number: usize,
    file: WantedFile,
    found: FsResult<Found>,
) -> Result<(), mpsc::error::SendError<(usize, FsResult<Chunk>)>> {
    match found {
        Ok(Found::Whole(chunks)) => {
            for chunk in chunks {
                sender.send((number, Ok(chunk))).await?;
            }
        }
        Ok(Found::Young) => {
            let (origin, sender) = (origin.clone(), sender.clone());
            // By itself, so that the others need not wait until it has settled.
            tokio::spawn(async move { send_alone(&origin, deadline, &sender, number, file).await });
        }
        Err(error) => sender.send((number, Err(error))).await?,
    }
    Ok(())
}

async fn send_alone(origin: &Origin, deadline: Deadline, sender: &Sender, number: usize, file: WantedFile) {
    let span = ChunkSpan { first: ChunkIndex(0), count: file.chunks() };
    let mut chunks = match origin.read(&file.path, file.version, span, deadline).await {
        Ok(chunks) => chunks,
        Err(error) => return drop(sender.send((number, Err(error))).await),
    };
    while let Some(chunk) = chunks.recv().await {
        if sender.send((number, chunk)).await.is_err() {
            return;
        }
    }
}

/// Parts of about the size of a pack.
fn batches(files: Vec<WantedFile>) -> Vec<Batch> {
    let (mut batches, mut bytes) = (Vec::<Batch>::new(), 0);
    for (number, file) in files.into_iter().enumerate() {
        bytes += file.version.size;
        match batches.last_mut() {
            Some(batch) if batch.len() < FILES_PER_CALL && bytes <= PACK_TARGET as u64 => {
                batch.push((number, file));
            }
            _ => {
                bytes = file.version.size;
                batches.push(vec![(number, file)]);
            }
        }
    }
    batches
}

/// An answer for each file; when the call itself fails, that error for all.
async fn read_batch(origin: &Origin, batch: Batch, deadline: Deadline) -> Vec<FsResult<Found>> {
    let count = batch.len();
    let work = move |inner: &Inner| {
        let read = |(_, file): &(usize, WantedFile)| match deadline.remaining().is_zero() {
            true => Err(FsError::Deadline),
            false => inner.read_small(file).inspect_err(|error| inner.counters.failed(error)),
        };
        Ok(batch.iter().map(read).collect())
    };
    origin.call(deadline, work).await.unwrap_or_else(|error| vec![Err(error); count])
}

impl Inner {
    fn read_small(&self, wanted: &WantedFile) -> FsResult<Found> {
        let (file, attr) = self.tree.open_regular(&wanted.path)?;
        if attr.version() != wanted.version {
            return Err(FsError::Stale(Some(Box::new(attr))));
        }
        if !time_to_settle(wanted.version.ctime_ns, SystemTime::now()).is_zero() {
            return Ok(Found::Young);
        }
        outwait_writer(&file);
        let chunks = chunks_of(&read_whole(&file, wanted.version.size)?);
        self.check_version(&file, wanted.version)?;
        self.counters.reads.fetch_add(chunks.len() as u64, Ordering::Relaxed);
        self.counters.bytes_read.fetch_add(wanted.version.size, Ordering::Relaxed);
        Ok(Found::Whole(chunks))
    }

    /// [`FsError::Stale`] when the file has another version.
    pub(super) fn check_version(&self, file: &File, version: Version) -> FsResult<()> {
        let attr = self.tree.attr(file)?;
        if attr.version() == version { Ok(()) } else { Err(FsError::Stale(Some(Box::new(attr)))) }
    }
}

/// A file that has become shorter has changed.
fn read_whole(file: &File, size: u64) -> FsResult<Bytes> {
    let mut bytes = vec![0; usize::try_from(size).map_err(|_| FsError::Stale(None))?];
    match file.read_exact_at(&mut bytes, 0) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(FsError::Stale(None)),
        read => Ok(read.map(|()| bytes.into())?),
    }
}

fn chunks_of(bytes: &Bytes) -> Vec<Chunk> {
    let starts = (0..bytes.len()).step_by(CHUNK_SIZE as usize);
    let cut = |(index, start): (usize, usize)| {
        let data = bytes.slice(start..bytes.len().min(start + CHUNK_SIZE as usize));
        Chunk { index: ChunkIndex(index as u64), hash: crate::encoding::hash(&data), data }
    };
    starts.enumerate().map(cut).collect()
}
