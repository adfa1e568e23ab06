//! Serves any [`Source`] to peers: a request comes in, the source is asked, frames go out.
//!
//! *Invariant:* a listing that is too large ends in an error, never in a part that looks whole.

use crate::changes::with_heartbeat;
use crate::encoding::{Encoded, Encoder, Link};
use crate::listing;
use crate::locks::LockKeeper;
use crate::model::along;
use crate::pack::Packs;
use crate::source::{
    Chunk, ChunkStream, Deadline, Directory, DirectoryStream, FileChunks, Found, HashStream, Hashes, Listed,
    Listing, Source,
};
use crate::subscriptions::{Asking, Subscriptions};
use crate::warm;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use globalfs_proto::limits::MAX_DIR_ENTRIES;
use globalfs_proto::{
    Attr, Change, Changed, ChunkEncoding, ChunkHeader, ChunkIndex, ChunkSpan, FsError, FsResult, GlobalPath,
    NodeName, PeerIdentity, Request, Response,
};
use globalfs_transport::{Handler, Reply};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Decides whether a peer may ask; if not, says why.
pub type Admission = Arc<dyn Fn(&PeerIdentity) -> Result<(), String> + Send + Sync>;

/// Changes the bytes behind a [`Response::Chunk`] or [`Response::Pack`] on their way out; their number stays. For tests
/// that show what becomes of damaged bytes.
pub type Tamper = Arc<dyn Fn(&Response, Bytes) -> Bytes + Send + Sync>;

/// A [`Handler`] over a [`Source`].
pub struct Server {
    source: Arc<dyn Source>,
    admit: Admission,
    tamper: Option<Tamper>,
    subscriptions: Subscriptions,
    locks: Option<LockKeeper>,
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
    /// Directories sent.
    pub directories: u64,
    /// Their entries.
    pub entries: u64,
    /// Chunks sent, by the number of their encoding.
    pub chunks_as: [u64; ChunkEncoding::COUNT],
    /// Messages sent that told of changes.
    pub changes: u64,
}

#[derive(Default)]
struct Live {
    chunks: AtomicU64,
    bytes: AtomicU64,
    wire_bytes: AtomicU64,
    directories: AtomicU64,
    entries: AtomicU64,
    chunks_as: [AtomicU64; ChunkEncoding::COUNT],
    changes: AtomicU64,
}

impl Server {
    /// Serves `source` to the peers that `admit` lets in.
    pub fn new(source: Arc<dyn Source>, admit: Admission) -> Self {
        let (subscriptions, live) = (Subscriptions::default(), Live::default());
        Self { source, admit, tamper: None, subscriptions, locks: None, live }
    }

    /// Keeps the locks of nodes in `keeper`.
    pub fn with_locks(self, keeper: LockKeeper) -> Self {
        Self { locks: Some(keeper), ..self }
    }

    /// Sends the bytes of each chunk and pack through `tamper`.
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
            directories: read(&self.live.directories),
            entries: read(&self.live.entries),
            chunks_as: self.live.chunks_as.each_ref().map(read),
            changes: read(&self.live.changes),
        }
    }

    /// Ends the answers to `Watch`, which otherwise go on for minutes. For a daemon that stops.
    pub fn end_watches(&self) {
        self.subscriptions.end();
    }

    /// All of the file `path`, if it is worth telling without being asked.
    async fn content_along(
        &self,
        path: &GlobalPath,
        attr: Option<Attr>,
        most: u32,
        deadline: Deadline,
    ) -> Option<Chunk> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        let now_ns = i64::try_from(now.as_nanos()).ok()?;
        let attr = attr.filter(|attr| along::is_content_told(attr, most, now_ns))?;
        let span = ChunkSpan { first: ChunkIndex(0), count: 1 };
        self.source.read(path, attr.version(), span, deadline).await.ok()?.recv().await?.ok()
    }

    /// A change that was begun is carried to its end, also when nobody waits for it any more.
    async fn change(&self, change: Change, deadline: Deadline) -> FsResult<Changed> {
        let source = self.source.clone();
        let change = tokio::spawn(async move { source.change(&change, deadline).await });
        change.await.unwrap_or_else(|_| Err(FsError::Unreachable("the daemon gave the change up".to_owned())))
    }

    async fn send_found(&self, found: Found, asking: Option<Asking>, reply: &mut Reply) -> FsResult<()> {
        if let Some(chunk) = found.content {
            self.send_chunk(&chunk, &mut Encoder::new(Link::Wan), reply).await?;
        }
        reply.send(&found.attr.map_or(Response::Missing, Response::Attr)).await?;
        self.send_directories(found.directories, asking.as_ref(), reply).await
    }

    async fn send_listed(
        &self,
        path: &GlobalPath,
        listed: Listed,
        asking: Option<Asking>,
        reply: &mut Reply,
    ) -> FsResult<()> {
        let Listed { listing, directories } = listed;
        if listing.len() > MAX_DIR_ENTRIES {
            return Err(FsError::Limit(format!("{path} has {} entries", listing.len())));
        }
        self.send_listing(path, listing, asking.as_ref(), reply).await?;
        self.send_directories(directories, asking.as_ref(), reply).await
    }

    async fn send_directories(
        &self,
        mut directories: DirectoryStream,
        asking: Option<&Asking>,
        reply: &mut Reply,
    ) -> FsResult<()> {
        while let Some(Directory { path, listing }) = directories.recv().await {
            match listing {
                Some(listing) => self.send_listing(&path, listing, asking, reply).await?,
                None => {
                    // Single names in it are asked for next.
                    asking.inspect(|asking| asking.tell(&path));
                    reply.send(&Response::LeftOut(path)).await?;
                }
            }
        }
        Ok(())
    }

    async fn send_listing(
        &self,
        path: &GlobalPath,
        mut listing: Listing,
        asking: Option<&Asking>,
        reply: &mut Reply,
    ) -> FsResult<()> {
        listing.watched &= asking.is_some();
        asking.inspect(|asking| asking.tell(path));
        for part in listing::parts(path, &listing) {
            reply.send(&Response::Directory(part)).await?;
        }
        self.live.directories.fetch_add(1, Ordering::Relaxed);
        self.live.entries.fetch_add(listing.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Tells changes until the client leaves, the deadline passes or the daemon stops.
    async fn send_changes(
        &self,
        peer: &PeerIdentity,
        subscription: u64,
        heartbeat: Duration,
        reply: &mut Reply,
    ) -> FsResult<()> {
        // Registered only after the stream was begun: from then on listings may say that they are watched.
        let all = self.source.watch(heartbeat);
        let registered = self.subscriptions.begin(peer, subscription);
        let mut changes = with_heartbeat(registered.part_of(all), heartbeat);
        while let Some(Some(told)) = registered.until_end(changes.next()).await {
            if !told.is_empty() {
                self.live.changes.fetch_add(1, Ordering::Relaxed);
            }
            for frame in crate::changes::frames(&told) {
                reply.send(&Response::Changes(frame)).await?;
            }
        }
        Err(FsError::Unreachable("the daemon no longer tells changes".to_owned()))
    }

    async fn send_chunks(&self, mut chunks: ChunkStream, link: Link, reply: &mut Reply) -> FsResult<()> {
        let mut encoder = Encoder::new(link);
        while let Some(chunk) = chunks.recv().await {
            // Some 0.3 ms at most: less than handing it to another thread and back would cost.
            self.send_chunk(&chunk?, &mut encoder, reply).await?;
        }
        Ok(())
    }

    async fn send_chunk(&self, chunk: &Chunk, encoder: &mut Encoder, reply: &mut Reply) -> FsResult<()> {
        let Encoded { header, payload } = encoder.encode(chunk);
        self.count(&header);
        let payload = self.outgoing(|| Response::Chunk(header), payload);
        reply.send_chunk(header, payload).await
    }

    async fn send_hashes(&self, mut stream: HashStream, reply: &mut Reply) -> FsResult<()> {
        while let Some(hashes) = stream.recv().await {
            let Hashes { first, hashes } = hashes?;
            reply.send(&Response::Hashes { first, hashes }).await?;
        }
        Ok(())
    }

    async fn send_packs(&self, chunks: FileChunks, compress: bool, reply: &mut Reply) -> FsResult<()> {
        let mut packs = Packs::new(chunks, compress);
        while let Some(pack) = packs.next().await {
            self.live.chunks.fetch_add(pack.chunks, Ordering::Relaxed);
            self.live.bytes.fetch_add(pack.bytes, Ordering::Relaxed);
            self.live.wire_bytes.fetch_add(pack.header.wire_length.into(), Ordering::Relaxed);
            let payload = self.outgoing(|| Response::Pack(pack.header), pack.payload);
            reply.send_pack(pack.header, payload).await?;
        }
        Ok(())
    }

    /// Locks are among the nodes of a site.
    fn locks_for<'p>(&self, peer: &'p PeerIdentity) -> FsResult<(&LockKeeper, &'p NodeName)> {
        match (&self.locks, peer) {
            (Some(keeper), PeerIdentity::Node(node, _)) => Ok((keeper, node)),
            _ => Err(FsError::Refused(format!("no locks are kept here for {peer}"))),
        }
    }

    fn outgoing(&self, header: impl FnOnce() -> Response, payload: Bytes) -> Bytes {
        match &self.tamper {
            Some(tamper) => tamper(&header(), payload),
            None => payload,
        }
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
            Request::Lookup { path, below, content, subscription } => {
                let asking = self.subscriptions.ask(peer, subscription).await;
                let mut found = source.look_up(&path, below, deadline).await?;
                found.content = self.content_along(&path, found.attr, content, deadline).await;
                return self.send_found(found, asking, reply).await;
            }
            Request::List { path, below, subscription } => {
                let asking = self.subscriptions.ask(peer, subscription).await;
                let listed = source.list_below(&path, below, deadline).await?;
                return self.send_listed(&path, listed, asking, reply).await;
            }
            Request::Watch { subscription, heartbeat_ms } => {
                let heartbeat = Duration::from_millis(heartbeat_ms.into());
                return self.send_changes(peer, subscription, heartbeat, reply).await;
            }
            Request::ReadLink(path) => Response::Bytes(source.read_link(&path, deadline).await?),
            Request::GetXattr(path, name) => Response::Bytes(source.get_xattr(&path, &name, deadline).await?),
            Request::ListXattr(path) => Response::Bytes(source.list_xattr(&path, deadline).await?),
            Request::FsStat(path) => Response::FsStat(source.fs_stat(&path, deadline).await?),
            Request::Seek(seek) => Response::Offset(source.seek(&seek, deadline).await?),
            Request::Ping => Response::Bytes(Bytes::new()),
            Request::Change(change) => Response::Changed(self.change(change, deadline).await?),
            Request::Warm(warm) => return warm::send(source.warm(warm, deadline).await?, reply).await,
            Request::PutTrace(_) | Request::GetTrace(_) | Request::ListTraces | Request::RemoveTrace(_) => {
                return Err(FsError::Refused("no traces are kept here".to_owned()));
            }
            Request::TakeOver { .. } | Request::BringHome(_) => {
                return Err(FsError::Refused("nobody's home is here".to_owned()));
            }
            Request::Replicate(..) => {
                return Err(FsError::Refused("no replicas are kept here".to_owned()));
            }
            Request::Lock(request) => {
                let (keeper, node) = self.locks_for(peer)?;
                Response::Locked(keeper.ask(node, request, deadline).await?)
            }
            Request::KeepLocks(keep) => {
                let (keeper, node) = self.locks_for(peer)?;
                Response::Locked(keeper.keep(node, keep).await?)
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
            Request::ReadFiles(files) => {
                // Within a site the network is faster than compression.
                let compress = !matches!(peer, PeerIdentity::Node(..));
                let chunks = source.read_files(files, deadline).await?;
                return self.send_packs(chunks, compress, reply).await;
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
