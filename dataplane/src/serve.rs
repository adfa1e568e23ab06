//! Serves any [`Source`] to peers: a request comes in, the source is asked, frames go out.
//!
//! *Invariant:* a listing that is too large ends in an error, never in a part that looks whole.

use crate::encoding::{Encoded, Encoder, Link};
use crate::source::{ChunkStream, Deadline, HashStream, Hashes, Source};
use crate::warm;
use async_trait::async_trait;
use bytes::Bytes;
use globalfs_proto::limits::{LIST_FRAME_TARGET, MAX_DIR_ENTRIES};
use globalfs_proto::{
    ChunkEncoding, ChunkHeader, ChunkSpan, DirEntry, FsError, FsResult, GlobalPath, PeerIdentity, Request,
    Response,
};
use globalfs_transport::{Handler, Reply};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bytes of an entry on the wire without its name.
const ENTRY_SIZE: usize = 85;

/// Decides whether a peer may ask; if not, says why.
pub type Admission = Arc<dyn Fn(&PeerIdentity) -> Result<(), String> + Send + Sync>;

/// Changes the bytes of a chunk on their way out. For tests that show what becomes of damaged bytes.
pub type Tamper = Arc<dyn Fn(&ChunkHeader, Bytes) -> Bytes + Send + Sync>;

/// A [`Handler`] over a [`Source`].
pub struct Server {
    source: Arc<dyn Source>,
    admit: Admission,
    tamper: Option<Tamper>,
    live: Live,
}

/// What was served so far. `bytes` against `wire_bytes` is the compression ratio.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServeCounters {
    /// Chunks sent.
    pub chunks: u64,
    /// Their bytes as files have them.
    pub bytes: u64,
    /// Their bytes as they were sent.
    pub wire_bytes: u64,
    /// Directory entries sent.
    pub entries: u64,
    /// Chunks sent, by the number of their encoding.
    pub chunks_as: [u64; ChunkEncoding::COUNT],
}

#[derive(Default)]
struct Live {
    chunks: AtomicU64,
    bytes: AtomicU64,
    wire_bytes: AtomicU64,
    entries: AtomicU64,
    chunks_as: [AtomicU64; ChunkEncoding::COUNT],
}

impl Server {
    /// Serves `source` to the peers that `admit` lets in.
    pub fn new(source: Arc<dyn Source>, admit: Admission) -> Self {
        Self { source, admit, tamper: None, live: Live::default() }
    }

    /// Sends each chunk's bytes through `tamper`.
    pub fn with_tamper(self, tamper: Tamper) -> Self {
        Self { tamper: Some(tamper), ..self }
    }

    /// What was served so far.
    pub fn counters(&self) -> ServeCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ServeCounters {
            chunks: read(&self.live.chunks),
            bytes: read(&self.live.bytes),
            wire_bytes: read(&self.live.wire_bytes),
            entries: read(&self.live.entries),
            chunks_as: self.live.chunks_as.each_ref().map(read),
        }
    }

    async fn send_listing(&self, path: &GlobalPath, deadline: Deadline, reply: &mut Reply) -> FsResult<()> {
        let listing = self.source.list(path, deadline).await?;
        if listing.len() > MAX_DIR_ENTRIES {
            return Err(FsError::Limit(format!("{path} has {} entries", listing.len())));
        }
        let mut rest = &listing[..];
        loop {
            let (now, later) = rest.split_at(frame_length(rest));
            let last = later.is_empty();
            reply.send(&Response::Entries { entries: now.to_vec(), last }).await?;
            self.live.entries.fetch_add(now.len() as u64, Ordering::Relaxed);
            if last {
                return Ok(());
            }
            rest = later;
        }
    }

    async fn send_chunks(&self, mut chunks: ChunkStream, link: Link, reply: &mut Reply) -> FsResult<()> {
        let mut encoder = Encoder::new(link);
        while let Some(chunk) = chunks.recv().await {
            // Some 0.3 ms at most: less than handing it to another thread and back would cost.
            let Encoded { header, mut payload } = encoder.encode(&chunk?);
            self.count(&header);
            if let Some(tamper) = &self.tamper {
                payload = tamper(&header, payload);
            }
            reply.send_chunk(header, payload).await?;
        }
        Ok(())
    }

    async fn send_hashes(&self, mut stream: HashStream, reply: &mut Reply) -> FsResult<()> {
        while let Some(hashes) = stream.recv().await {
            let Hashes { first, hashes } = hashes?;
            reply.send(&Response::Hashes { first, hashes }).await?;
        }
        Ok(())
    }

    fn count(&self, header: &ChunkHeader) {
        self.live.chunks.fetch_add(1, Ordering::Relaxed);
        self.live.bytes.fetch_add(header.length.into(), Ordering::Relaxed);
        self.live.wire_bytes.fetch_add(header.wire_length.into(), Ordering::Relaxed);
        self.live.chunks_as[header.encoding as usize].fetch_add(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl Handler for Server {
    async fn admit(&self, peer: &PeerIdentity, _key_fingerprint: &str) -> Result<(), String> {
        (self.admit)(peer)
    }

    async fn handle(
        &self,
        peer: &PeerIdentity,
        request: Request,
        budget: Duration,
        reply: &mut Reply,
    ) -> FsResult<()> {
        let (source, deadline) = (&self.source, Deadline::after(budget));
        let response = match request {
            Request::Stat(path) => Response::Attr(source.stat(&path, deadline).await?),
            Request::List(path) => return self.send_listing(&path, deadline, reply).await,
            Request::ReadLink(path) => Response::Bytes(source.read_link(&path, deadline).await?),
            Request::GetXattr(path, name) => Response::Bytes(source.get_xattr(&path, &name, deadline).await?),
            Request::ListXattr(path) => Response::Bytes(source.list_xattr(&path, deadline).await?),
            Request::FsStat(path) => Response::FsStat(source.fs_stat(&path, deadline).await?),
            Request::Ping => Response::Bytes(Bytes::new()),
            Request::Warm(warm) => return warm::send(source.warm(warm, deadline).await?, reply).await,
            Request::PutTrace(_) | Request::GetTrace(_) | Request::ListTraces | Request::RemoveTrace(_) => {
                return Err(FsError::Refused("no traces are kept here".to_owned()));
            }
            Request::Read { path, version, first, count } => {
                let span = ChunkSpan { first, count: count.into() };
                let chunks = source.read(&path, version, span, deadline).await?;
                return self.send_chunks(chunks, link_to(peer), reply).await;
            }
            Request::Hashes { path, version, first, count } => {
                let span = ChunkSpan { first, count: count.into() };
                return self.send_hashes(source.hashes(&path, version, span, deadline).await?, reply).await;
            }
        };
        reply.send(&response).await
    }
}

/// Nodes are of this site; everybody else is far away.
fn link_to(peer: &PeerIdentity) -> Link {
    match peer {
        PeerIdentity::Node(..) => Link::Lan,
        _ => Link::Wan,
    }
}

/// How many of `entries` go into the next frame.
fn frame_length(entries: &[DirEntry]) -> usize {
    let mut size = 0;
    let fits = entries.iter().take_while(|entry| {
        let begins_below = size < LIST_FRAME_TARGET;
        size += ENTRY_SIZE + entry.name.len();
        begins_below
    });
    fits.count()
}
