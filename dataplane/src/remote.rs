//! A peer's files: [`Source`] over the network.
//!
//! *Invariants:* every chunk that is handed on has the index, length and hash that it must have; a chunk
//! that fails its hash is asked for again, a limited number of times, and then the read fails. A read has
//! at most [`STREAMS_IN_FLIGHT`] requests under way, each with one window of the transport.

mod home;
mod locks;
mod names;
mod watch;

use crate::encoding;
use crate::remote_files;
use crate::source::{
    ChangeStream, Chunk, ChunkStream, Deadline, FileChunks, Found, HashStream, Hashes, Listed, Listing,
    Source, WarmStream,
};
use async_trait::async_trait;
use bytes::Bytes;
use globalfs_proto::limits::{MAX_CHUNKS_PER_READ, MAX_CONTENT_ALONG, MAX_DEADLINE, MAX_HASHES_PER_REQUEST};
use globalfs_proto::{
    Attr, Change, Changed, ChunkHeader, ChunkIndex, ChunkSpan, FsError, FsResult, FsStat, GlobalPath,
    Request, Response, Seek, Version, WantedFile, Warm,
};
use globalfs_transport::options::SMALL_READ;
use globalfs_transport::{Answer, Peer};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Requests that one read has under way, so that the next one's bytes are on the line when one ends.
pub const STREAMS_IN_FLIGHT: usize = 4;

/// Verified chunks that each of these holds for the reader.
const CHUNKS_AHEAD: usize = 4;

const _: () = assert!(SMALL_READ as usize <= CHUNKS_AHEAD && SMALL_READ < MAX_CHUNKS_PER_READ);

/// Frames of hashes that wait for the reader.
const HASH_FRAMES_AHEAD: usize = 16;

/// How long the beginning of a long read is fetched alone: nearby it is here by then, and from afar that is little.
const HEAD_START: Duration = Duration::from_millis(10);

/// How often a damaged chunk is asked for again.
pub const MAX_REFETCHES: u32 = 3;

/// A peer as a source. Cheap to clone: clones share connection and counters.
#[derive(Clone)]
pub struct Remote {
    peer: Peer,
    live: Arc<Live>,
    /// What one answer to `Watch` is given.
    watch_time: Duration,
    /// Bytes of the content of a file that may come along with its attributes.
    content: u32,
}

/// What was fetched so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RemoteCounters {
    /// Chunks received and verified.
    pub chunks: u64,
    /// Their bytes as files have them.
    pub bytes: u64,
    /// Their bytes as they came over the wire.
    pub wire_bytes: u64,
    /// Chunks received that failed their hash, and packs that did not come apart; none of it was handed on.
    pub chunks_damaged: u64,
    /// Directories received.
    pub directories: u64,
}

#[derive(Default)]
struct Live {
    chunks: AtomicU64,
    bytes: AtomicU64,
    wire_bytes: AtomicU64,
    chunks_damaged: AtomicU64,
    directories: AtomicU64,
    /// The subscription that requests name; 0: none.
    subscription: AtomicU64,
}

/// What one call of [`Source::read`] asks for.
struct Wanted {
    remote: Remote,
    path: GlobalPath,
    version: Version,
    deadline: Deadline,
}

type Sender = mpsc::Sender<FsResult<Chunk>>;

impl Remote {
    /// The files of `peer`.
    pub fn new(peer: Peer) -> Self {
        Self { peer, live: Arc::default(), watch_time: MAX_DEADLINE, content: 0 }
    }

    /// Has the content of small files that were changed just now told along with their attributes: for a peer that is far away.
    pub fn with_content(self) -> Self {
        Self { content: MAX_CONTENT_ALONG, ..self }
    }

    /// Renews its subscription to changes before each `time`, at most the protocol's longest, is over. For tests
    /// that see it renewed.
    pub fn with_watch_time(self, time: Duration) -> Self {
        Self { watch_time: time.min(MAX_DEADLINE), ..self }
    }

    /// The peer.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// What was fetched so far.
    pub fn counters(&self) -> RemoteCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RemoteCounters {
            chunks: read(&self.live.chunks),
            bytes: read(&self.live.bytes),
            wire_bytes: read(&self.live.wire_bytes),
            chunks_damaged: read(&self.live.chunks_damaged),
            directories: read(&self.live.directories),
        }
    }

    /// Asks for nothing and waits for the answer: the peer is there and lets us in.
    pub async fn ping(&self, deadline: Deadline) -> FsResult<()> {
        self.ask_bytes(Request::Ping, deadline).await.map(drop)
    }

    pub(crate) async fn ask(&self, request: Request, deadline: Deadline) -> FsResult<Answer> {
        match deadline.remaining() {
            Duration::ZERO => Err(FsError::Deadline),
            budget => self.peer.request(&request, budget).await,
        }
    }

    /// A request whose answer is one frame.
    async fn ask_one(&self, request: Request, deadline: Deadline) -> FsResult<Response> {
        let mut answer = self.ask(request, deadline).await?;
        let response = answer.next().await?.ok_or_else(|| self.broken("ended its answer too early"))?;
        answer.end().await;
        Ok(response)
    }

    pub(crate) async fn ask_bytes(&self, request: Request, deadline: Deadline) -> FsResult<Bytes> {
        match self.ask_one(request, deadline).await? {
            Response::Bytes(bytes) => Ok(bytes),
            _ => Err(self.unexpected()),
        }
    }

    pub(crate) fn unexpected(&self) -> FsError {
        self.broken("gave another kind of answer than was asked for")
    }

    /// `error`, and whose nonsense it is.
    fn blame(&self, error: FsError) -> FsError {
        match error {
            FsError::Protocol(what) => self.broken(&format!("sent {what}")),
            other => other,
        }
    }

    pub(crate) fn broken(&self, what: &str) -> FsError {
        FsError::Protocol(format!("{} {what}", self.peer.identity()))
    }
}

/// What was received, noted.
impl Remote {
    pub(crate) fn count_wire_bytes(&self, length: u32) {
        self.live.wire_bytes.fetch_add(length.into(), Ordering::Relaxed);
    }

    pub(crate) fn count_chunk(&self, length: usize) {
        self.live.chunks.fetch_add(1, Ordering::Relaxed);
        self.live.bytes.fetch_add(length as u64, Ordering::Relaxed);
    }

    pub(crate) fn count_damaged(&self) {
        self.live.chunks_damaged.fetch_add(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl Source for Remote {
    async fn stat(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Attr> {
        match self.ask_one(Request::Stat(path.clone()), deadline).await? {
            Response::Attr(attr) => Ok(attr),
            _ => Err(self.unexpected()),
        }
    }

    async fn list(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Listing> {
        Ok(self.list_below(path, 0, deadline).await?.listing)
    }

    async fn look_up(&self, path: &GlobalPath, below: u32, deadline: Deadline) -> FsResult<Found> {
        if below == 0 && self.content == 0 {
            return Found::of(self.stat(path, deadline).await);
        }
        names::look_up(self, path, below, deadline).await
    }

    async fn list_below(&self, path: &GlobalPath, below: u32, deadline: Deadline) -> FsResult<Listed> {
        names::list_below(self, path, below, deadline).await
    }

    fn watch(&self, heartbeat: Duration) -> ChangeStream {
        watch::watch(self, heartbeat)
    }

    async fn read_link(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Bytes> {
        self.ask_bytes(Request::ReadLink(path.clone()), deadline).await
    }

    async fn get_xattr(&self, path: &GlobalPath, name: &[u8], deadline: Deadline) -> FsResult<Bytes> {
        self.ask_bytes(Request::GetXattr(path.clone(), Bytes::copy_from_slice(name)), deadline).await
    }

    async fn list_xattr(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Bytes> {
        self.ask_bytes(Request::ListXattr(path.clone()), deadline).await
    }

    async fn fs_stat(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<FsStat> {
        match self.ask_one(Request::FsStat(path.clone()), deadline).await? {
            Response::FsStat(stat) => Ok(stat),
            _ => Err(self.unexpected()),
        }
    }

    async fn seek(&self, seek: &Seek, deadline: Deadline) -> FsResult<u64> {
        match self.ask_one(Request::Seek(seek.clone()), deadline).await? {
            Response::Offset(offset) => Ok(offset),
            _ => Err(self.unexpected()),
        }
    }

    async fn change(&self, change: &Change, deadline: Deadline) -> FsResult<Changed> {
        match self.ask_one(Request::Change(change.clone()), deadline).await? {
            Response::Changed(changed) => Ok(changed),
            _ => Err(self.unexpected()),
        }
    }

    /// Returns at once; all errors come through the stream.
    async fn read(
        &self,
        path: &GlobalPath,
        version: Version,
        span: ChunkSpan,
        deadline: Deadline,
    ) -> FsResult<ChunkStream> {
        let (sender, stream) = mpsc::channel(CHUNKS_AHEAD);
        let wanted = Wanted { remote: self.clone(), path: path.clone(), version, deadline };
        tokio::spawn(async move {
            tokio::select! {
                () = sender.closed() => {}
                () = Arc::new(wanted).fetch(span, &sender) => {}
            }
        });
        Ok(stream)
    }

    async fn warm(&self, warm: Warm, deadline: Deadline) -> FsResult<WarmStream> {
        self.ask_to_warm(warm, deadline).await
    }

    async fn hashes(
        &self,
        path: &GlobalPath,
        version: Version,
        span: ChunkSpan,
        deadline: Deadline,
    ) -> FsResult<HashStream> {
        let (sender, stream) = mpsc::channel(HASH_FRAMES_AHEAD);
        let wanted = Wanted { remote: self.clone(), path: path.clone(), version, deadline };
        tokio::spawn(async move {
            let told = tokio::select! {
                () = sender.closed() => return,
                told = wanted.pass_hashes(span, &sender) => told,
            };
            if let Err(error) = told {
                let _ = sender.send(Err(error)).await;
            }
        });
        Ok(stream)
    }

    /// Returns at once; all errors come through the stream.
    async fn read_files(&self, files: Vec<WantedFile>, deadline: Deadline) -> FsResult<FileChunks> {
        Ok(remote_files::fetch(self, files, deadline))
    }
}

impl Wanted {
    async fn pass_hashes(&self, span: ChunkSpan, sender: &mpsc::Sender<FsResult<Hashes>>) -> FsResult<()> {
        for piece in pieces(span, MAX_HASHES_PER_REQUEST) {
            let (path, version, mut next) = (self.path.clone(), self.version, piece.first.0);
            let request = Request::Hashes { path, version, first: piece.first, count: piece.count as u32 };
            let mut answer = self.remote.ask(request, self.deadline).await?;
            while next < piece.first.0 + piece.count {
                let told = match answer.next().await? {
                    Some(Response::Hashes { first, hashes }) => Hashes { first, hashes },
                    Some(_) => return Err(self.remote.unexpected()),
                    None => return Err(self.remote.broken("ended its hashes too early")),
                };
                let count = told.hashes.len() as u64;
                if told.first.0 != next || count > piece.first.0 + piece.count - next {
                    return Err(self.remote.broken("told other hashes than were asked for"));
                }
                next += count;
                if sender.send(Ok(told)).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Fetches `span` in pieces, several at a time, and hands their chunks on in order. Dropping the future
    /// ends the pieces.
    async fn fetch(self: Arc<Self>, span: ChunkSpan, reader: &Sender) {
        if span.count <= MAX_CHUNKS_PER_READ.into() {
            return self.fetch_piece(span, reader.clone()).await;
        }
        let (head, rest) = split_long(span);
        let mut tasks = JoinSet::new();
        let mut pieces = pieces(rest, MAX_CHUNKS_PER_READ);
        let mut streams = VecDeque::from([self.start(head, &mut tasks)]);
        // Nearby, work on the rest would keep both ends from the head.
        let _ = timeout(HEAD_START, tasks.join_next()).await;
        loop {
            while streams.len() < STREAMS_IN_FLIGHT
                && let Some(piece) = pieces.next()
            {
                while tasks.try_join_next().is_some() {}
                streams.push_back(self.start(piece, &mut tasks));
            }
            let Some(mut stream) = streams.pop_front() else { return };
            while let Some(chunk) = stream.recv().await {
                let failed = chunk.is_err();
                if reader.send(chunk).await.is_err() || failed {
                    return;
                }
            }
        }
    }

    fn start(self: &Arc<Self>, piece: ChunkSpan, tasks: &mut JoinSet<()>) -> ChunkStream {
        let (sender, stream) = mpsc::channel(CHUNKS_AHEAD);
        tasks.spawn(self.clone().fetch_piece(piece, sender));
        stream
    }

    async fn fetch_piece(self: Arc<Self>, mut piece: ChunkSpan, sender: Sender) {
        loop {
            let begun_at = piece.first;
            match self.fetch_some(&mut piece, &sender).await {
                Ok(()) => return,
                // The connection broke inside the answer: ask for the rest, so long as that gets further.
                Err(FsError::Unreachable(_)) if piece.first > begun_at => {}
                Err(error) => return drop(sender.send(Err(error)).await),
            }
        }
    }

    /// One request; `piece` shrinks with each chunk that was handed on.
    async fn fetch_some(&self, piece: &mut ChunkSpan, sender: &Sender) -> FsResult<()> {
        let mut answer = self.request(piece.first, piece.count as u32).await?;
        while piece.count > 0 {
            let chunk = match self.next_chunk(&mut answer, piece.first).await {
                Err(FsError::Damaged(what)) => self.refetch(piece.first, what).await?,
                other => other?,
            };
            if sender.send(Ok(chunk)).await.is_err() {
                return Ok(());
            }
            *piece = ChunkSpan { first: ChunkIndex(piece.first.0 + 1), count: piece.count - 1 };
        }
        match answer.next().await? {
            None => Ok(()),
            Some(_) => Err(self.remote.broken("sent more chunks than were asked for")),
        }
    }

    async fn request(&self, first: ChunkIndex, count: u32) -> FsResult<Answer> {
        let request = Request::Read { path: self.path.clone(), version: self.version, first, count };
        self.remote.ask(request, self.deadline).await
    }

    async fn next_chunk(&self, answer: &mut Answer, expect: ChunkIndex) -> FsResult<Chunk> {
        let header = match answer.next().await? {
            Some(Response::Chunk(header)) => header,
            Some(_) => return Err(self.remote.unexpected()),
            None => return Err(self.remote.broken("ended its answer too early")),
        };
        self.check(&header, expect)?;
        let payload = answer.payload(header.wire_length).await?;
        self.remote.count_wire_bytes(header.wire_length);
        let chunk = encoding::decode(&header, payload).inspect_err(|_| self.remote.count_damaged())?;
        self.remote.count_chunk(chunk.data.len());
        Ok(chunk)
    }

    fn check(&self, header: &ChunkHeader, expect: ChunkIndex) -> FsResult<()> {
        let bytes = expect.bytes(self.version.size);
        if header.index == expect && bytes.is_some_and(|b| b.length() == u64::from(header.length)) {
            return Ok(());
        }
        Err(self.remote.broken("sent a chunk of another index or length than was asked for"))
    }

    /// Asks for one chunk again until it is whole.
    async fn refetch(&self, index: ChunkIndex, mut what: String) -> FsResult<Chunk> {
        for _ in 0..MAX_REFETCHES {
            let peer = self.remote.peer.identity();
            tracing::warn!(path = %self.path, %peer, what, "damaged on arrival: fetching again");
            let mut answer = self.request(index, 1).await?;
            match self.next_chunk(&mut answer, index).await {
                Err(FsError::Damaged(again)) => what = again,
                other => return other,
            }
        }
        Err(FsError::Damaged(format!("{} from {}: {what}", self.path, self.remote.peer.identity())))
    }
}

/// The beginning of a span that one request may not ask for, and what is behind it. The beginning is small, for small
/// answers go before large ones at both ends: who has just begun does not wait behind what others have asked for ahead.
fn split_long(span: ChunkSpan) -> (ChunkSpan, ChunkSpan) {
    let head = ChunkSpan { first: span.first, count: SMALL_READ.into() };
    let rest = ChunkSpan { first: ChunkIndex(span.first.0 + head.count), count: span.count - head.count };
    (head, rest)
}

/// `span` in parts that one request may ask for.
fn pieces(span: ChunkSpan, most: u32) -> impl Iterator<Item = ChunkSpan> + Send {
    let most = u64::from(most);
    (0..span.count.div_ceil(most)).map(move |n| ChunkSpan {
        first: ChunkIndex(span.first.0 + n * most),
        count: most.min(span.count - n * most),
    })
}
