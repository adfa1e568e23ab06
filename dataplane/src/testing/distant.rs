//! A source behind a long link: each request takes a round trip, and all bytes share one rate.

use crate::source::{ChangeStream, Chunk, ChunkStream, Deadline, FileChunks, Found, Listed, Listing, Source};
use async_trait::async_trait;
use bytes::Bytes;
use globalfs_proto::{Attr, ChunkSpan, FsResult, FsStat, GlobalPath, Version, WantedFile};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

/// Chunks that wait at the near end of the link.
const CHUNKS_AHEAD: usize = 64;

/// Another source, far away. Clones share the link.
#[derive(Clone)]
pub struct Distant(Arc<Link>);

struct Link {
    far: Arc<dyn Source>,
    round_trip: Duration,
    bytes_per_s: f64,
    /// When the link has carried all that it was given.
    busy_until: Mutex<Instant>,
    bytes: AtomicU64,
    requests: AtomicU64,
}

impl Distant {
    /// Puts `far` behind a link.
    pub fn new(far: Arc<dyn Source>, round_trip: Duration, bytes_per_s: u64) -> Self {
        Self(Arc::new(Link {
            far,
            round_trip,
            bytes_per_s: bytes_per_s as f64,
            busy_until: Mutex::new(Instant::now()),
            bytes: AtomicU64::default(),
            requests: AtomicU64::default(),
        }))
    }

    /// Bytes of chunks that the link has carried.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Requests that the link has carried.
    pub fn requests(&self) -> u64 {
        self.0.requests.load(Ordering::Relaxed)
    }

    async fn travel(&self) -> &Arc<dyn Source> {
        self.0.requests.fetch_add(1, Ordering::Relaxed);
        sleep(self.0.round_trip).await;
        &self.0.far
    }

    /// Waits for the chunk's turn on the link.
    async fn carry(&self, chunk: &FsResult<Chunk>) {
        let length = chunk.as_ref().map_or(0, |chunk| chunk.data.len());
        self.0.bytes.fetch_add(length as u64, Ordering::Relaxed);
        let here = {
            let mut busy_until = self.0.busy_until.lock();
            let took = Duration::from_secs_f64(length as f64 / self.0.bytes_per_s);
            *busy_until = (*busy_until).max(Instant::now()) + took;
            *busy_until
        };
        // Timers have a resolution of a millisecond: do not add it to each chunk.
        if here > Instant::now() + Duration::from_millis(1) {
            sleep_until(here).await;
        }
    }
}

#[async_trait]
impl Source for Distant {
    async fn stat(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Attr> {
        self.travel().await.stat(path, deadline).await
    }

    async fn list(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Listing> {
        self.travel().await.list(path, deadline).await
    }

    async fn look_up(&self, path: &GlobalPath, below: u32, deadline: Deadline) -> FsResult<Found> {
        self.travel().await.look_up(path, below, deadline).await
    }

    async fn list_below(&self, path: &GlobalPath, below: u32, deadline: Deadline) -> FsResult<Listed> {
        self.travel().await.list_below(path, below, deadline).await
    }

    fn watch(&self, heartbeat: Duration) -> ChangeStream {
        self.0.far.watch(heartbeat)
    }

    async fn read_link(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Bytes> {
        self.travel().await.read_link(path, deadline).await
    }

    async fn get_xattr(&self, path: &GlobalPath, name: &[u8], deadline: Deadline) -> FsResult<Bytes> {
        self.travel().await.get_xattr(path, name, deadline).await
    }

    async fn list_xattr(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Bytes> {
        self.travel().await.list_xattr(path, deadline).await
    }

    async fn fs_stat(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<FsStat> {
        self.travel().await.fs_stat(path, deadline).await
    }

    async fn read(
        &self,
        path: &GlobalPath,
        version: Version,
        span: ChunkSpan,
        deadline: Deadline,
    ) -> FsResult<ChunkStream> {
        let mut far = self.travel().await.read(path, version, span, deadline).await?;
        let (sender, near) = mpsc::channel(CHUNKS_AHEAD);
        let link = self.clone();
        tokio::spawn(async move {
            while let Some(chunk) = far.recv().await {
                link.carry(&chunk).await;
                if sender.send(chunk).await.is_err() {
                    return;
                }
            }
        });
        Ok(near)
    }

    async fn read_files(&self, files: Vec<WantedFile>, deadline: Deadline) -> FsResult<FileChunks> {
        let mut far = self.travel().await.read_files(files, deadline).await?;
        let (sender, near) = mpsc::channel(CHUNKS_AHEAD);
        let link = self.clone();
        tokio::spawn(async move {
            while let Some((number, chunk)) = far.recv().await {
                link.carry(&chunk).await;
                if sender.send((number, chunk)).await.is_err() {
                    return;
                }
            }
        });
        Ok(near)
    }
}
