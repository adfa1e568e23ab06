//! Many small files of a peer: requests in bulk, packs taken apart, and what came damaged asked for again alone.

use crate::pack;
use crate::remote::{Remote, STREAMS_IN_FLIGHT};
use crate::source::{Chunk, Deadline, FileChunks, Source};
use globalfs_proto::limits::CHUNK_SIZE;
use globalfs_proto::{
    ChunkIndex, ChunkSpan, FsError, FsResult, PackedChunk, Record, Request, Response, WantedFile, bulk,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Verified chunks that wait for the reader: with small files, a few packs of them.
const CHUNKS_AHEAD: usize = 128;

type Sender = mpsc::Sender<(usize, FsResult<Chunk>)>;

/// What is still to come of a file.
struct Waiting {
    file: WantedFile,
    /// Its place among those that the caller asked for.
    number: usize,
    /// Chunks that have not come, a bit each.
    missing: u32,
}

const _: () = assert!(globalfs_proto::limits::MAX_PACKED_FILE / CHUNK_SIZE <= u32::BITS as u64);

/// Starts fetching; all errors come through the stream.
pub(crate) fn fetch(remote: &Remote, files: Vec<WantedFile>, deadline: Deadline) -> FileChunks {
    let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
    let remote = remote.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = sender.closed() => {}
            () = fetch_all(remote, files, deadline, &sender) => {}
        }
    });
    chunks
}

async fn fetch_all(remote: Remote, files: Vec<WantedFile>, deadline: Deadline, sender: &Sender) {
    let mut tasks = JoinSet::new();
    for part in bulk::requests(&files) {
        while tasks.len() >= STREAMS_IN_FLIGHT {
            tasks.join_next().await;
        }
        let waiting = part.map(|number| Waiting::new(files[number].clone(), number)).collect();
        tasks.spawn(Batch { remote: remote.clone(), waiting, deadline, sender: sender.clone() }.fetch());
    }
    while tasks.join_next().await.is_some() {}
}

impl Waiting {
    fn new(file: WantedFile, number: usize) -> Self {
        let missing = u32::MAX >> (u32::BITS as u64 - file.chunks().clamp(1, u32::BITS.into()));
        Self { file, number, missing }
    }

    /// Whether the chunk is one that has not come yet, of the right length. Notes it as here.
    fn take(&mut self, chunk: &PackedChunk) -> bool {
        let Some(bytes) = chunk.index.bytes(self.file.version.size) else { return false };
        let bit = 1 << chunk.index.0;
        let wanted = self.missing & bit != 0 && bytes.length() == chunk.data.len() as u64;
        self.missing &= !bit;
        wanted
    }

    fn missing_chunks(&self) -> impl Iterator<Item = ChunkIndex> + use<> {
        let missing = self.missing;
        (0..u32::BITS).filter(move |n| missing >> n & 1 == 1).map(|n| ChunkIndex(n.into()))
    }
}

/// The files of one request.
struct Batch {
    remote: Remote,
    waiting: Vec<Waiting>,
    deadline: Deadline,
    sender: Sender,
}

impl Batch {
    /// Asks again for the rest, so long as that gets further; what then is missing came damaged.
    async fn fetch(mut self) {
        loop {
            let before = self.left();
            let asked = self.fetch_some().await;
            self.waiting.retain(|waiting| waiting.missing != 0);
            match asked {
                Ok(()) => return self.fetch_singly().await,
                Err(FsError::Unreachable(_)) if self.left() < before && !self.waiting.is_empty() => {}
                Err(error) => return self.fail(&error).await,
            }
        }
    }

    fn left(&self) -> u32 {
        self.waiting.iter().map(|waiting| waiting.missing.count_ones()).sum()
    }

    /// One request.
    async fn fetch_some(&mut self) -> FsResult<()> {
        let files = self.waiting.iter().map(|waiting| waiting.file.clone()).collect();
        let mut answer = self.remote.ask(Request::ReadFiles(files), self.deadline).await?;
        while let Some(response) = answer.next().await? {
            let Response::Pack(header) = response else { return Err(self.remote.unexpected()) };
            let payload = answer.payload(header.wire_length).await?;
            self.remote.count_wire_bytes(header.wire_length);
            // A damaged pack costs its chunks, which are asked for again alone.
            match pack::open(&header, payload) {
                Ok(records) => self.take_all(records).await?,
                Err(_) => self.remote.count_damaged(),
            }
        }
        Ok(())
    }

    async fn take_all(&mut self, records: Vec<Record>) -> FsResult<()> {
        for record in records {
            self.take(record).await?;
        }
        Ok(())
    }

    async fn take(&mut self, record: Record) -> FsResult<()> {
        let broken = || self.remote.broken("told of a file or chunk that was not asked for");
        let waiting = self.waiting.get(record.file as usize).ok_or_else(broken)?;
        let number = waiting.number;
        let told = match record.told {
            Ok(packed) => match self.verified(record.file as usize, packed)? {
                Some(chunk) => Ok(chunk),
                None => return Ok(()),
            },
            Err(error) => {
                self.waiting[record.file as usize].missing = 0;
                Err(error)
            }
        };
        // When nobody listens any more, the task is about to be ended.
        let _ = self.sender.send((number, told)).await;
        Ok(())
    }

    /// `None` when it is damaged: then it stays missing.
    fn verified(&mut self, file: usize, packed: PackedChunk) -> FsResult<Option<Chunk>> {
        let before = self.waiting[file].missing;
        if !self.waiting[file].take(&packed) {
            return Err(self.remote.broken("sent a chunk of a small file that was not asked for"));
        }
        let chunk = pack::verify(packed);
        match &chunk {
            Some(chunk) => self.remote.count_chunk(chunk.data.len()),
            None => {
                self.remote.count_damaged();
                self.waiting[file].missing = before;
            }
        }
        Ok(chunk)
    }

    /// Each chunk by a request of its own, which knows how often to try.
    async fn fetch_singly(self) {
        for waiting in &self.waiting {
            for first in waiting.missing_chunks() {
                let told = self.fetch_one(&waiting.file, first).await;
                let failed = told.is_err();
                if self.sender.send((waiting.number, told)).await.is_err() {
                    return;
                }
                if failed {
                    break;
                }
            }
        }
    }

    async fn fetch_one(&self, file: &WantedFile, first: ChunkIndex) -> FsResult<Chunk> {
        let span = ChunkSpan { first, count: 1 };
        let mut chunks = self.remote.read(&file.path, file.version, span, self.deadline).await?;
        chunks.recv().await.unwrap_or_else(|| Err(self.remote.broken("ended its answer too early")))
    }

    async fn fail(self, error: &FsError) {
        for waiting in &self.waiting {
            if self.sender.send((waiting.number, Err(error.clone()))).await.is_err() {
                return;
            }
        }
    }
}
