//! A source that gives contents no faster than is allowed; names are not waited for.
//!
//! *Invariant:* who reads is held up between two chunks, so what it has asked for waits on the other side, not here.

use crate::model::bucket::Bucket;
use crate::source::{
    ChangeStream, Chunk, ChunkStream, Deadline, FileChunks, Found, HashStream, Listed, Listing, Source,
};
use async_trait::async_trait;
use bytes::Bytes;
use globalfs_proto::{
    Attr, Change, Changed, ChunkSpan, FsResult, FsStat, GlobalPath, Seek, Version, WantedFile,
};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// One rate that many readers share.
pub struct Limit {
    bucket: Mutex<Bucket>,
    began: Instant,
}

/// Which limit there is for a path.
pub trait Limits: Send + Sync + 'static {
    /// Of the contents of `path`; `None`: there is none.
    fn limit(&self, path: &GlobalPath) -> Option<Arc<Limit>>;
}

/// A source within limits.
pub struct Paced {
    inner: Arc<dyn Source>,
    limits: Arc<dyn Limits>,
}

impl Limit {
    /// Of `bytes_per_second`.
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bucket: Mutex::new(Bucket::new(bytes_per_second)), began: Instant::now() }
    }

    /// Its rate.
    pub fn bytes_per_second(&self) -> u64 {
        self.bucket.lock().bytes_per_second()
    }

    async fn pass(&self, bytes: usize) {
        let wait = self.bucket.lock().pass(bytes as u64, self.began.elapsed());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

impl Paced {
    /// The contents of `inner` within `limits`.
    pub fn new(inner: Arc<dyn Source>, limits: Arc<dyn Limits>) -> Self {
        Self { inner, limits }
    }
}

/// Hands on what comes in `chunks`, each as `limit` of it allows.
fn slowed<T: Send + 'static>(
    mut chunks: mpsc::Receiver<T>,
    limit: impl Fn(&T) -> Option<(Arc<Limit>, usize)> + Send + 'static,
) -> mpsc::Receiver<T> {
    let (sender, stream) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(chunk) = chunks.recv().await {
            if let Some((limit, bytes)) = limit(&chunk) {
                limit.pass(bytes).await;
            }
            if sender.send(chunk).await.is_err() {
                return;
            }
        }
    });
    stream
}

#[async_trait]
impl Source for Paced {
    async fn stat(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Attr> {
        self.inner.stat(path, deadline).await
    }

    async fn list(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Listing> {
        self.inner.list(path, deadline).await
    }

    async fn look_up(&self, path: &GlobalPath, below: u32, deadline: Deadline) -> FsResult<Found> {
        self.inner.look_up(path, below, deadline).await
    }

    async fn list_below(&self, path: &GlobalPath, below: u32, deadline: Deadline) -> FsResult<Listed> {
        self.inner.list_below(path, below, deadline).await
    }

    fn watch(&self, heartbeat: Duration) -> ChangeStream {
        self.inner.watch(heartbeat)
    }

    async fn read_link(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Bytes> {
        self.inner.read_link(path, deadline).await
    }

    async fn get_xattr(&self, path: &GlobalPath, name: &[u8], deadline: Deadline) -> FsResult<Bytes> {
        self.inner.get_xattr(path, name, deadline).await
    }

    async fn list_xattr(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Bytes> {
        self.inner.list_xattr(path, deadline).await
    }

    async fn fs_stat(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<FsStat> {
        self.inner.fs_stat(path, deadline).await
    }

    async fn seek(&self, seek: &Seek, deadline: Deadline) -> FsResult<u64> {
        self.inner.seek(seek, deadline).await
    }

    async fn change(&self, change: &Change, deadline: Deadline) -> FsResult<Changed> {
        self.inner.change(change, deadline).await
    }

    async fn read(
        &self,
        path: &GlobalPath,
        version: Version,
        span: ChunkSpan,
        deadline: Deadline,
    ) -> FsResult<ChunkStream> {
        let chunks = self.inner.read(path, version, span, deadline).await?;
        let Some(limit) = self.limits.limit(path) else { return Ok(chunks) };
        let of_chunk = move |chunk: &FsResult<Chunk>| Some((limit.clone(), chunk.as_ref().ok()?.data.len()));
        Ok(slowed(chunks, of_chunk))
    }

    async fn hashes(
        &self,
        path: &GlobalPath,
        version: Version,
        span: ChunkSpan,
        deadline: Deadline,
    ) -> FsResult<HashStream> {
        self.inner.hashes(path, version, span, deadline).await
    }

    async fn read_files(&self, files: Vec<WantedFile>, deadline: Deadline) -> FsResult<FileChunks> {
        let limits: Vec<Option<Arc<Limit>>> =
            files.iter().map(|file| self.limits.limit(&file.path)).collect();
        let chunks = self.inner.read_files(files, deadline).await?;
        if limits.iter().all(Option::is_none) {
            return Ok(chunks);
        }
        let of_chunk = move |(place, chunk): &(usize, FsResult<Chunk>)| {
            Some((limits.get(*place)?.clone()?, chunk.as_ref().ok()?.data.len()))
        };
        Ok(slowed(chunks, of_chunk))
    }
}
