//! The one interface of the data plane: where names, attributes and bytes come from. The origin, a peer
//! over the network, the cache in front of either, and the route between them all implement it, so a node
//! and a site daemon are the same stack at different heights.
//!
//! *Invariant:* the bytes of a [`Chunk`] have its hash; whoever makes a `Chunk` from bytes that it did not
//! compute the hash of itself has verified them.

pub use crate::warm::WarmStream;

use crate::warm::at_home;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use globalfs_proto::{
    Attr, Change, Changed, Changes, ChunkHash, ChunkIndex, ChunkSpan, DirEntry, FsError, FsResult, FsStat,
    GlobalPath, Seek, Version, WantedFile, Warm,
};
use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// When an operation has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// `budget` from now, at most the protocol's longest.
    pub fn after(budget: Duration) -> Self {
        Self(Instant::now() + budget.min(globalfs_proto::limits::MAX_DEADLINE))
    }

    /// What is left; zero once it has passed.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Runs `work` until it ends or the deadline passes.
    pub async fn bound<T>(self, work: impl Future<Output = FsResult<T>>) -> FsResult<T> {
        tokio::time::timeout_at(self.0.into(), work).await.unwrap_or(Err(FsError::Deadline))
    }
}

/// Verified bytes of one chunk of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Which chunk of the file.
    pub index: ChunkIndex,
    /// BLAKE3 of `data`.
    pub hash: ChunkHash,
    /// The chunk's bytes: `CHUNK_SIZE`, less for a file's last chunk.
    pub data: Bytes,
}

/// Chunks as they arrive, in the order that was asked for. Ends after the last one or after an error.
pub type ChunkStream = mpsc::Receiver<FsResult<Chunk>>;

/// Hashes as they are computed, in the order that was asked for. Ends after the last one or after an error.
pub type HashStream = mpsc::Receiver<FsResult<Hashes>>;

/// The names of consecutive chunks of one version; at least one, at most `MAX_HASHES_PER_FRAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hashes {
    /// The chunk of the first hash.
    pub first: ChunkIndex,
    /// One hash for each chunk.
    pub hashes: Vec<ChunkHash>,
}

/// A directory's entries, in no particular order, without `.` and `..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The directory itself.
    pub attr: Attr,
    /// What is in it.
    pub entries: Arc<[DirEntry]>,
    /// No name was left out: that a name is absent is an answer.
    pub complete: bool,
    /// What changes in the directory from now on is told by the streams of [`Source::watch`] that were begun
    /// before the directory was asked for, or these streams end.
    pub watched: bool,
}

impl Deref for Listing {
    type Target = [DirEntry];

    fn deref(&self) -> &[DirEntry] {
        &self.entries
    }
}

/// A directory that comes along with an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// Which.
    pub path: GlobalPath,
    /// What is in it; `None`: it is not told, so nobody has to wait for it.
    pub listing: Option<Listing>,
}

/// Directories as they arrive. It may end at any time; what did not come is unknown, nothing more.
pub type DirectoryStream = mpsc::Receiver<Directory>;

/// Directories that a [`DirectoryStream`] holds for its reader.
pub const DIRECTORIES_AHEAD: usize = 8;

/// The answer to [`Source::look_up`].
pub struct Found {
    /// The attributes; `None`: there is no such name.
    pub attr: Option<Attr>,
    /// What is likely to be asked next.
    pub directories: DirectoryStream,
    /// All of a small file that was changed just now, verified; only a peer tells it.
    pub content: Option<Chunk>,
}

impl Found {
    /// Nothing but the attributes.
    pub fn alone(attr: Option<Attr>) -> Self {
        Self { attr, directories: no_directories(), content: None }
    }

    /// Nothing but what [`Source::stat`] tells.
    pub fn of(stat: FsResult<Attr>) -> FsResult<Self> {
        match stat {
            Ok(attr) => Ok(Self::alone(Some(attr))),
            Err(FsError::NOT_FOUND) => Ok(Self::alone(None)),
            Err(error) => Err(error),
        }
    }
}

/// The answer to [`Source::list_below`].
pub struct Listed {
    /// The directory, whole.
    pub listing: Listing,
    /// What is below it.
    pub directories: DirectoryStream,
}

/// What becomes out of date, as it is learned; an item without content is a sign of life. When it ends, what
/// was told as watched is watched no more.
pub type ChangeStream = BoxStream<'static, Arc<Changes>>;

/// A stream of no directories.
pub fn no_directories() -> DirectoryStream {
    mpsc::channel(1).1
}

/// Chunks of many small files as they arrive, each with the place of its file among those that were asked for.
/// A file ends with the last of its chunks or with an error; those of different files come in any order.
pub type FileChunks = mpsc::Receiver<(usize, FsResult<Chunk>)>;

/// Where names, attributes and bytes come from. No method follows a symbolic link in any component.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// Attributes of `path`.
    async fn stat(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Attr>;

    /// The whole directory `path`.
    async fn list(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Listing>;

    /// Attributes of `path` as soon as they are known and, with up to `below` entries in all, directories: the
    /// path itself if it is one, the directory that holds it, and what is below it, breadth first.
    async fn look_up(&self, path: &GlobalPath, below: u32, deadline: Deadline) -> FsResult<Found> {
        let _ = below;
        Found::of(self.stat(path, deadline).await)
    }

    /// The whole directory `path`, and with up to `below` entries the directories below it, breadth first.
    async fn list_below(&self, path: &GlobalPath, below: u32, deadline: Deadline) -> FsResult<Listed> {
        let _ = below;
        Ok(Listed { listing: self.list(path, deadline).await?, directories: no_directories() })
    }

    /// What changes from now on, with a sign of life at least every `heartbeat` while the source is there.
    /// A source that cannot tell gives no sign of life, and no listing that is watched.
    fn watch(&self, heartbeat: Duration) -> ChangeStream {
        let _ = heartbeat;
        stream::pending().boxed()
    }

    /// The target of the symbolic link `path`.
    async fn read_link(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Bytes>;

    /// The value of one extended attribute; `ENODATA` when there is none of that name.
    async fn get_xattr(&self, path: &GlobalPath, name: &[u8], deadline: Deadline) -> FsResult<Bytes>;

    /// The names of the extended attributes, each with a final NUL, as `listxattr(2)`.
    async fn list_xattr(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Bytes>;

    /// Totals of the file system that holds `path`.
    async fn fs_stat(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<FsStat>;

    /// Where data, or a hole, begins. Who does not know refuses with `EOPNOTSUPP`, and all counts as data.
    async fn seek(&self, seek: &Seek, deadline: Deadline) -> FsResult<u64> {
        let _ = (seek, deadline);
        Err(NOT_SUPPORTED)
    }

    /// Changes something. An error of the network leaves open whether it was done: it is not asked for twice.
    async fn change(&self, change: &Change, deadline: Deadline) -> FsResult<Changed> {
        let _ = (change, deadline);
        Err(FsError::READ_ONLY)
    }

    /// Starts reading the chunks `span` of content `version` of the regular file `path`.
    ///
    /// Chunks come in order. [`FsError::Stale`] when the file no longer has that version. A span may be of
    /// any length within the file; an implementation splits it as its protocol needs and keeps a bounded
    /// number of chunks in memory.
    async fn read(
        &self,
        path: &GlobalPath,
        version: Version,
        span: ChunkSpan,
        deadline: Deadline,
    ) -> FsResult<ChunkStream>;

    /// Brings chunks into the cache of this source, or of the peer that it stands for, and tells how far it
    /// is. Dropping the stream ends the work. Where the bytes are at home there is nothing to do.
    async fn warm(&self, warm: Warm, _deadline: Deadline) -> FsResult<WarmStream> {
        Ok(at_home(&warm))
    }

    /// Starts telling the hashes of the chunks `span` of content `version` of the regular file `path`. Who
    /// knows none refuses with `EOPNOTSUPP`, and the chunks are fetched without.
    ///
    /// [`FsError::Stale`] as for `read`. A span may be of any length within the file.
    async fn hashes(
        &self,
        path: &GlobalPath,
        version: Version,
        span: ChunkSpan,
        deadline: Deadline,
    ) -> FsResult<HashStream> {
        let _ = (path, version, span, deadline);
        Err(NOT_SUPPORTED)
    }

    /// Starts reading many small files, each of them whole and not empty. An error that concerns one of them is
    /// told in the stream and ends no other; a stream that ends early failed all that are missing.
    ///
    /// A source that knows no better reads them one by one.
    async fn read_files(&self, files: Vec<WantedFile>, deadline: Deadline) -> FsResult<FileChunks> {
        let begin = |file: WantedFile| async move {
            let span = ChunkSpan { first: ChunkIndex(0), count: file.chunks() };
            self.read(&file.path, file.version, span, deadline).await
        };
        let begun: Vec<_> = stream::iter(files).map(begin).buffered(FILES_AT_ONCE).collect().await;
        let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
        tokio::spawn(pass_on(begun, sender));
        Ok(chunks)
    }
}

/// Files that are opened at a time by a source that reads them one by one.
const FILES_AT_ONCE: usize = 8;

/// Chunks that wait for the reader of many files.
const CHUNKS_AHEAD: usize = 8;

async fn pass_on(begun: Vec<FsResult<ChunkStream>>, sender: mpsc::Sender<(usize, FsResult<Chunk>)>) {
    for (number, chunks) in begun.into_iter().enumerate() {
        let told = match chunks {
            Ok(chunks) => unfold(chunks).left_stream(),
            Err(error) => stream::iter([Err(error)]).right_stream(),
        };
        let mut told = std::pin::pin!(told);
        while let Some(chunk) = told.next().await {
            if sender.send((number, chunk)).await.is_err() {
                return;
            }
        }
    }
}

fn unfold(chunks: ChunkStream) -> impl Stream<Item = FsResult<Chunk>> {
    stream::unfold(chunks, |mut chunks| async move { Some((chunks.recv().await?, chunks)) })
}

/// `EOPNOTSUPP`.
const NOT_SUPPORTED: FsError = FsError::Os(95);
