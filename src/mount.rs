//! A node's tree as the `Volume` that the kernel adapter serves.

use crate::node::Node;
use crate::trace::Watch;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use globalfs_dataplane::fetch::Cached;
use globalfs_dataplane::locks::{Asked, HeldLocks};
use globalfs_dataplane::model::locks::LockPlace;
use globalfs_dataplane::origin::DirectOrigin;
use globalfs_dataplane::{Deadline, Source};
use globalfs_fuse::{LockTarget, Names, Volume, WholeFile};
use globalfs_proto::{
    Attr, ByteRange, Change, Changed, Changes, ChunkIndex, Edition, FileId, FsError, FsResult, FsStat,
    GlobalPath, Lasting, Lock, LockRange, NewAttr, Seek, Target, Version, limits,
};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Reads that hold data at a time, each a megabyte at most; further ones wait, within their deadlines.
const MAX_READS: usize = 256;

/// What an open waits for an origin that the node sees itself: storage that hangs is read through the site's daemon,
/// which tells what is wrong.
const DIRECT_LIMIT: Duration = Duration::from_secs(1);

/// Times that a directory is listed again to have its names and what they are known by together.
const LISTINGS: usize = 2;

/// Messages of changes that wait for the kernel.
const CHANGES_AHEAD: usize = 64;

/// What is waited before a site is asked again that knew of no master for a path, since it has another one now.
const TURN: Duration = Duration::from_millis(20);

/// The node's cache in front of its site's daemon, with one deadline for every kernel request.
pub struct NodeVolume {
    cached: Cached,
    direct: Option<DirectOrigin>,
    locks: HeldLocks,
    deadline: Duration,
    reads: Semaphore,
    watch: Arc<Watch>,
}

impl NodeVolume {
    /// Shows what `node` has; each request is given `deadline`; `watch` hears of opens and reads.
    pub fn new(node: &Node, deadline: Duration, watch: Arc<Watch>) -> Self {
        let (cached, direct) = (node.cached.clone(), node.direct.clone());
        let locks = HeldLocks::new(node.link.remote());
        Self { cached, direct, locks, deadline, reads: Semaphore::new(MAX_READS), watch }
    }

    /// Gives all locks back, as this mount ends.
    pub async fn end_locks(&self) {
        self.locks.end().await;
    }

    fn deadline(&self) -> Deadline {
        Deadline::after(self.deadline)
    }

    async fn read_range(
        &self,
        path: &GlobalPath,
        version: Version,
        range: ByteRange,
        deadline: Deadline,
    ) -> FsResult<Vec<Bytes>> {
        let _turn = self.reads.acquire().await.expect("the semaphore is never closed");
        self.cached.read_range(path, version, range, deadline).await
    }
}

/// `change` in parts that a request can carry.
fn parts(change: Change) -> impl Iterator<Item = Change> {
    let pieces = match &change {
        Change::Write { data, .. } => data.len().div_ceil(limits::MAX_WRITE).max(1),
        _ => 1,
    };
    (0..pieces).map(move |n| match &change {
        Change::Write { target, offset, data } => {
            let (start, end) = (n * limits::MAX_WRITE, data.len().min((n + 1) * limits::MAX_WRITE));
            let offset = offset.map(|offset| offset + start as u64);
            Change::Write { target: target.clone(), offset, data: data.slice(start..end) }
        }
        other => other.clone(),
    })
}

fn asked(target: LockTarget) -> Asked {
    let LockTarget { file, kind, owner, pid } = target;
    Asked { place: LockPlace { file, kind }, owner, pid }
}

/// The file whose content a change is of.
fn written(change: &Change) -> Option<FileId> {
    match change {
        Change::Write { target, .. } | Change::Allocate { target, .. } | Change::Copy { target, .. } => {
            Some(target.file)
        }
        Change::SetAttr { target, attr } if attr.size.is_some() => Some(target.file),
        _ => None,
    }
}

/// Asks again while a path passes from one master to another.
async fn settled<T, F>(deadline: Deadline, ask: impl Fn() -> F) -> FsResult<T>
where
    F: Future<Output = FsResult<T>>,
{
    loop {
        match deadline.bound(ask()).await {
            Err(FsError::Elsewhere(_)) if deadline.remaining() > TURN => tokio::time::sleep(TURN).await,
            other => return other,
        }
    }
}

fn is_same(one: Option<Edition>, other: Option<Edition>) -> bool {
    one.map(|edition| edition.number) == other.map(|edition| edition.number)
}

#[async_trait]
impl Volume for NodeVolume {
    async fn stat(&self, path: &GlobalPath) -> FsResult<Attr> {
        let deadline = self.deadline();
        settled(deadline, || self.cached.stat(path, deadline)).await
    }

    async fn stat_for_open(&self, path: &GlobalPath) -> FsResult<Attr> {
        let deadline = self.deadline();
        settled(deadline, || self.cached.stat_fresh(path, deadline)).await
    }

    fn lasting(&self, path: &GlobalPath, attr: &Attr) -> Lasting {
        self.cached.lasting(path, attr)
    }

    async fn list(&self, path: &GlobalPath) -> FsResult<Names> {
        let deadline = self.deadline();
        let mut before = self.cached.edition(path);
        let mut entries = settled(deadline, || self.cached.list(path, deadline)).await?.entries;
        for _ in 0..LISTINGS {
            let edition = self.cached.edition(path);
            // One that stands before and after is that of the listing; one that is new may be of a later listing.
            if edition.is_none() || is_same(before, edition) {
                return Ok(Names { entries, edition });
            }
            before = edition;
            entries = settled(deadline, || self.cached.list(path, deadline)).await?.entries;
        }
        Ok(Names { entries, edition: None })
    }

    fn known_names(&self, path: &GlobalPath) -> Option<Names> {
        let before = self.cached.edition(path)?;
        let entries = self.cached.known_listing(path)?.entries;
        is_same(self.cached.edition(path), Some(before)).then_some(Names { entries, edition: Some(before) })
    }

    async fn read_link(&self, path: &GlobalPath) -> FsResult<Bytes> {
        let deadline = self.deadline();
        settled(deadline, || self.cached.read_link(path, deadline)).await
    }

    async fn get_xattr(&self, path: &GlobalPath, name: &[u8]) -> FsResult<Bytes> {
        let deadline = self.deadline();
        settled(deadline, || self.cached.get_xattr(path, name, deadline)).await
    }

    async fn list_xattr(&self, path: &GlobalPath) -> FsResult<Bytes> {
        let deadline = self.deadline();
        settled(deadline, || self.cached.list_xattr(path, deadline)).await
    }

    async fn fs_stat(&self, path: &GlobalPath) -> FsResult<FsStat> {
        let deadline = self.deadline();
        settled(deadline, || self.cached.fs_stat(path, deadline)).await
    }

    /// Its site's daemon knows.
    async fn is_writable(&self, target: Target) -> bool {
        let question = Change::SetAttr { target, attr: NewAttr::default() };
        let deadline = self.deadline();
        deadline.bound(self.cached.change(&question, deadline)).await != Err(FsError::READ_ONLY)
    }

    async fn change(&self, change: Change) -> FsResult<Changed> {
        let deadline = self.deadline();
        if let Some(file) = written(&change) {
            self.locks.check(file, deadline).await?;
        }
        let mut all = Changed::default();
        for part in parts(change) {
            let changed = deadline.bound(self.cached.change(&part, deadline)).await?;
            all = Changed { before: all.before.or(changed.before), ..changed };
        }
        Ok(all)
    }

    async fn read(
        &self,
        path: &GlobalPath,
        version: Version,
        offset: u64,
        length: u32,
    ) -> FsResult<Vec<Bytes>> {
        let Some(range) = ByteRange::of_read(offset, length.into(), version.size) else {
            return Ok(Vec::new());
        };
        let deadline = self.deadline();
        self.locks.check(version.file, deadline).await?;
        settled(deadline, || self.read_range(path, version, range, deadline)).await
    }

    async fn seek(&self, path: &GlobalPath, version: Version, offset: u64, hole: bool) -> FsResult<u64> {
        let deadline = self.deadline();
        let seek = Seek { path: path.clone(), version, offset, hole };
        deadline.bound(self.cached.seek(&seek, deadline)).await
    }

    async fn whole_file(&self, path: &GlobalPath, version: Version) -> Option<WholeFile> {
        if version.size == 0 {
            return None;
        }
        if let Some(direct) = &self.direct
            && let Ok(file) = direct.open_file(path, version, Deadline::after(DIRECT_LIMIT)).await
        {
            return Some(WholeFile { file, is_original: true, keep: Box::new(()) });
        }
        let whole = self.cached.cache().whole_file(&version).await?;
        Some(WholeFile { file: whole.file().clone(), is_original: false, keep: Box::new(whole) })
    }

    /// Opened here before the daemon is asked, which looks whether it is.
    async fn writable_file(&self, target: Target) -> Option<WholeFile> {
        let direct = self.direct.as_ref()?;
        let opened = direct.open_to_write(&target, Deadline::after(DIRECT_LIMIT)).await.ok()?;
        self.change(Change::OpenDirect { target }).await.ok()?;
        Some(WholeFile { file: opened.file, is_original: true, keep: Box::new(opened.writer) })
    }

    async fn learn(&self, path: &GlobalPath, attr: &Attr) {
        self.cached.learn(path, attr).await;
    }

    async fn held_around(&self, version: Version, offset: u64) -> Option<(u64, Bytes)> {
        let index = ChunkIndex(offset / limits::CHUNK_SIZE);
        let chunk = self.cached.cache().get(&version, index).await?;
        Some((index.0 * limits::CHUNK_SIZE, chunk.data))
    }

    /// Under locks that may have been lost each write is told what becomes of it.
    fn may_write_behind(&self, file: FileId) -> bool {
        self.locks.is_sure_of(file)
    }

    fn has_locks(&self) -> bool {
        true
    }

    async fn test_lock(&self, target: LockTarget, lock: Lock) -> FsResult<Option<(Lock, u32)>> {
        self.locks.test(asked(target), lock, self.deadline()).await
    }

    async fn set_lock(
        &self,
        target: LockTarget,
        lock: Lock,
        waits: bool,
        interrupted: oneshot::Receiver<()>,
    ) -> FsResult<()> {
        let interrupted = async {
            // Who is gone without a word interrupts nobody.
            if interrupted.await.is_err() {
                pending::<()>().await;
            }
        };
        self.locks.set(asked(target), lock, waits, self.deadline, interrupted).await
    }

    async fn unlock(&self, target: LockTarget, range: LockRange) -> FsResult<()> {
        self.locks.unlock(asked(target), range, self.deadline()).await
    }

    fn changes(&self) -> Option<mpsc::Receiver<Arc<Changes>>> {
        let mut changes = self.cached.watch(limits::MAX_HEARTBEAT);
        let (sender, receiver) = mpsc::channel(CHANGES_AHEAD);
        tokio::spawn(async move {
            // A kernel that is slow slows this task down, and is told less precisely.
            while let Some(told) = changes.next().await {
                if !told.is_empty() && sender.send(told).await.is_err() {
                    return;
                }
            }
        });
        Some(receiver)
    }

    async fn opened(&self, handle: u64, tid: u32, path: &GlobalPath, size: u64) {
        self.watch.opened(handle, tid, path, size).await;
    }

    fn reading(&self, handle: u64, offset: u64, length: u32) {
        self.watch.reading(handle, offset, length);
    }

    fn closed(&self, handle: u64) {
        self.watch.closed(handle);
    }
}
