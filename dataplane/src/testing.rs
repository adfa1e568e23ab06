//! A source in memory, for tests of whatever stands on a [`Source`]: it can change, delay, fail and count.

mod distant;

pub use distant::Distant;

use crate::changes::{Hub, with_heartbeat};
use crate::source::{
    ChangeStream, Chunk, ChunkStream, DIRECTORIES_AHEAD, Deadline, Directory, DirectoryStream, Found,
    HashStream, Hashes, Listed, Listing, Source,
};
use async_trait::async_trait;
use bytes::Bytes;
use globalfs_proto::{
    Attr, Change, Changed, ChunkHash, ChunkIndex, ChunkSpan, DirEntry, FileId, FileKind, FsError, FsResult,
    FsStat, GlobalPath, Version,
};
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// Chunks that a read holds ahead of its reader.
const CHUNKS_AHEAD: usize = 4;
const ENODATA: i32 = 61;
const EINVAL: i32 = 22;
const EOPNOTSUPP: i32 = 95;

/// A tree of files in memory. Cheap to clone: clones share the tree.
#[derive(Clone, Default)]
pub struct MemorySource(Arc<Shared>);

#[derive(Default)]
struct Shared {
    tree: Mutex<BTreeMap<GlobalPath, Node>>,
    behaviour: Mutex<Behaviour>,
    ticks: AtomicU64,
    calls: AtomicU64,
    chunks_read: AtomicU64,
    hashes_told: AtomicU64,
    hub: Hub,
}

#[derive(Clone, Default)]
struct Behaviour {
    delay: Duration,
    directory_delay: Duration,
    answer_delay: Duration,
    watched: bool,
    details: bool,
    failure: Option<FsError>,
}

#[derive(Clone)]
struct Node {
    attr: Attr,
    /// A file's bytes or a link's target.
    content: Bytes,
    xattrs: BTreeMap<Bytes, Bytes>,
}

impl MemorySource {
    /// A tree that has an empty root directory.
    pub fn new() -> Self {
        let source = Self::default();
        source.put(&GlobalPath::root(), FileKind::Directory, Bytes::new());
        source
    }

    /// Makes the regular file `path`, or gives it new content and thereby a new version.
    pub fn put_file(&self, path: &str, content: impl Into<Bytes>) -> Attr {
        self.put(&parse(path), FileKind::Regular, content.into())
    }

    /// Makes the directory `path`.
    pub fn put_directory(&self, path: &str) -> Attr {
        self.put(&parse(path), FileKind::Directory, Bytes::new())
    }

    /// Makes the symbolic link `path`.
    pub fn put_symlink(&self, path: &str, target: &str) -> Attr {
        self.put(&parse(path), FileKind::Symlink, Bytes::copy_from_slice(target.as_bytes()))
    }

    /// Makes an entry of any name and kind.
    pub fn put(&self, path: &GlobalPath, kind: FileKind, content: Bytes) -> Attr {
        let tick = self.0.ticks.fetch_add(1, Ordering::Relaxed) + 1;
        let mut tree = self.0.tree.lock();
        let inode = tree.get(path).map_or(tick, |node| node.attr.file.inode);
        let attr = new_attr(inode, kind, content.len() as u64, tick as i64);
        tree.insert(path.clone(), Node { attr, content, xattrs: BTreeMap::new() });
        attr
    }

    /// Gives an existing entry an extended attribute.
    pub fn put_xattr(&self, path: &str, name: &str, value: &[u8]) {
        let (name, value) = (Bytes::copy_from_slice(name.as_bytes()), Bytes::copy_from_slice(value));
        let mut tree = self.0.tree.lock();
        tree.get_mut(&parse(path)).expect("the entry was put before").xattrs.insert(name, value);
    }

    /// Removes an entry.
    pub fn remove(&self, path: &str) {
        self.0.tree.lock().remove(&parse(path));
    }

    /// Makes each later call, and each chunk of a read, take at least this long.
    pub fn set_delay(&self, delay: Duration) {
        self.0.behaviour.lock().delay = delay;
    }

    /// Makes each directory that comes along with a later answer take at least this long.
    pub fn set_directory_delay(&self, delay: Duration) {
        self.0.behaviour.lock().directory_delay = delay;
    }

    /// Makes each later listing that is asked for be on its way for so long after it was made.
    pub fn set_answer_delay(&self, delay: Duration) {
        self.0.behaviour.lock().answer_delay = delay;
    }

    /// Listings are watched from now on, or no more.
    pub fn set_watched(&self, watched: bool) {
        self.0.behaviour.lock().watched = watched;
    }

    /// Attributes and listings tell from now on who has no extended attributes and where links point.
    pub fn set_details(&self, details: bool) {
        self.0.behaviour.lock().details = details;
    }

    /// Where changes are told: by the test, since changing the tree tells nothing by itself.
    pub fn hub(&self) -> &Hub {
        &self.0.hub
    }

    /// Makes each later call fail with `failure`, or work again.
    pub fn set_failure(&self, failure: Option<FsError>) {
        self.0.behaviour.lock().failure = failure;
    }

    /// Calls of any method so far.
    pub fn calls(&self) -> u64 {
        self.0.calls.load(Ordering::Relaxed)
    }

    /// Chunks handed out by reads so far.
    pub fn chunks_read(&self) -> u64 {
        self.0.chunks_read.load(Ordering::Relaxed)
    }

    /// Hashes told so far.
    pub fn hashes_told(&self) -> u64 {
        self.0.hashes_told.load(Ordering::Relaxed)
    }

    async fn find(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Node> {
        self.0.calls.fetch_add(1, Ordering::Relaxed);
        let behaviour = self.0.behaviour.lock().clone();
        deadline.bound(pause(behaviour.delay)).await?;
        behaviour.failure.map_or(Ok(()), Err)?;
        let mut node = self.0.tree.lock().get(path).cloned().ok_or(FsError::NOT_FOUND)?;
        node.attr = self.told(&node);
        Ok(node)
    }

    fn told(&self, node: &Node) -> Attr {
        Attr { no_xattrs: self.0.behaviour.lock().details && node.xattrs.is_empty(), ..node.attr }
    }

    fn entry(&self, path: &GlobalPath, node: &Node) -> DirEntry {
        let link = self.0.behaviour.lock().details && node.attr.kind == FileKind::Symlink;
        let target = link.then(|| node.content[..].into());
        DirEntry { target, ..DirEntry::new(Bytes::copy_from_slice(path.name()), self.told(node)) }
    }

    fn listing(&self, path: &GlobalPath) -> FsResult<Listing> {
        let tree = self.0.tree.lock();
        let attr = self.told(tree.get(path).ok_or(FsError::NOT_FOUND)?);
        if attr.kind != FileKind::Directory {
            return Err(FsError::NOT_A_DIRECTORY);
        }
        let children = tree.iter().filter(|(child, _)| child.parent().as_ref() == Some(path));
        let entries = children.map(|(child, node)| self.entry(child, node)).collect();
        Ok(Listing { attr, entries, complete: true, watched: self.0.behaviour.lock().watched })
    }

    /// Breadth first, as far as the budget goes; a directory with more entries than are left is left out.
    fn walk(&self, mut queue: VecDeque<(GlobalPath, bool)>, mut budget: u32) -> DirectoryStream {
        let (sender, stream) = mpsc::channel(DIRECTORIES_AHEAD);
        let (source, delay) = (self.clone(), self.0.behaviour.lock().directory_delay);
        tokio::spawn(async move {
            while let Some((path, descend)) = queue.pop_front() {
                tokio::time::sleep(delay).await;
                let listing = source.listing(&path).ok().filter(|listing| listing.len() < budget as usize);
                if let Some(listing) = &listing {
                    budget -= listing.len() as u32 + 1;
                    let below = directories_in(&path, listing).map(|path| (path, true));
                    queue.extend(below.filter(|_| descend));
                }
                if sender.send(Directory { path, listing }).await.is_err() {
                    return;
                }
            }
        });
        stream
    }

    async fn read_chunk(
        &self,
        path: &GlobalPath,
        version: Version,
        index: ChunkIndex,
        deadline: Deadline,
    ) -> FsResult<Chunk> {
        let behaviour = self.0.behaviour.lock().clone();
        deadline.bound(pause(behaviour.delay)).await?;
        let node = self.0.tree.lock().get(path).cloned().ok_or(FsError::Stale(None))?;
        let range = index.bytes(version.size).ok_or(FsError::Os(EINVAL))?;
        check_version(&node, version)?;
        self.0.chunks_read.fetch_add(1, Ordering::Relaxed);
        let data = node.content.slice(range.start() as usize..range.end() as usize);
        Ok(Chunk { index, hash: ChunkHash(*blake3::hash(&data).as_bytes()), data })
    }
}

#[async_trait]
impl Source for MemorySource {
    async fn stat(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Attr> {
        Ok(self.find(path, deadline).await?.attr)
    }

    async fn list(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Listing> {
        self.find(path, deadline).await?;
        let (listing, delay) = (self.listing(path), self.0.behaviour.lock().answer_delay);
        deadline.bound(pause(delay)).await?;
        listing
    }

    async fn look_up(&self, path: &GlobalPath, below: u32, deadline: Deadline) -> FsResult<Found> {
        let attr = match self.stat(path, deadline).await {
            Ok(attr) => Some(attr),
            Err(FsError::NOT_FOUND) => None,
            Err(error) => return Err(error),
        };
        let first = attr.filter(|attr| attr.kind == FileKind::Directory).map(|_| path.clone());
        let starts =
            first.into_iter().map(|path| (path, true)).chain(path.parent().map(|path| (path, false)));
        Ok(Found { directories: self.walk(starts.collect(), below), ..Found::alone(attr) })
    }

    async fn list_below(&self, path: &GlobalPath, below: u32, deadline: Deadline) -> FsResult<Listed> {
        let listing = self.list(path, deadline).await?;
        let starts = directories_in(path, &listing).map(|path| (path, true));
        Ok(Listed { directories: self.walk(starts.collect(), below), listing })
    }

    fn watch(&self, heartbeat: Duration) -> ChangeStream {
        with_heartbeat(self.0.hub.subscribe(), heartbeat)
    }

    async fn read_link(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Bytes> {
        let node = self.find(path, deadline).await?;
        if node.attr.kind == FileKind::Symlink { Ok(node.content) } else { Err(FsError::Os(EINVAL)) }
    }

    async fn get_xattr(&self, path: &GlobalPath, name: &[u8], deadline: Deadline) -> FsResult<Bytes> {
        self.find(path, deadline).await?.xattrs.get(name).cloned().ok_or(FsError::Os(ENODATA))
    }

    async fn list_xattr(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Bytes> {
        let node = self.find(path, deadline).await?;
        Ok(node.xattrs.keys().flat_map(|name| [&name[..], b"\0"]).collect::<Vec<_>>().concat().into())
    }

    async fn fs_stat(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<FsStat> {
        self.find(path, deadline).await?;
        let files = self.0.tree.lock().len() as u64;
        Ok(FsStat { block_size: 4096, blocks: 1000, blocks_free: 400, files, ..FsStat::default() })
    }

    /// Removes and writes whole files; other changes are refused as unsupported.
    async fn change(&self, change: &Change, deadline: Deadline) -> FsResult<Changed> {
        match change {
            Change::Remove { path, .. } => {
                self.find(path, deadline).await?;
                self.0.tree.lock().remove(path);
                Ok(Changed::default())
            }
            Change::Write { target, data, .. } => {
                let before = self.find(&target.path, deadline).await?.attr.version();
                let attr = self.put(&target.path, FileKind::Regular, data.clone());
                Ok(Changed { before: Some(before), attr: Some(attr), ..Changed::default() })
            }
            _ => Err(FsError::Os(EOPNOTSUPP)),
        }
    }

    async fn read(
        &self,
        path: &GlobalPath,
        version: Version,
        span: ChunkSpan,
        deadline: Deadline,
    ) -> FsResult<ChunkStream> {
        check_version(&self.find(path, deadline).await?, version)?;
        let (sender, stream) = mpsc::channel(CHUNKS_AHEAD);
        let (source, path) = (self.clone(), path.clone());
        tokio::spawn(async move {
            for index in span.iter() {
                let chunk = source.read_chunk(&path, version, index, deadline).await;
                let failed = chunk.is_err();
                if sender.send(chunk).await.is_err() || failed {
                    return;
                }
            }
        });
        Ok(stream)
    }

    /// All in one piece after one delay.
    async fn hashes(
        &self,
        path: &GlobalPath,
        version: Version,
        span: ChunkSpan,
        deadline: Deadline,
    ) -> FsResult<HashStream> {
        let node = self.find(path, deadline).await?;
        check_version(&node, version)?;
        let (sender, stream) = mpsc::channel(span.count.max(1) as usize);
        for index in span.iter() {
            let range = index.bytes(version.size).ok_or(FsError::Os(EINVAL))?;
            let hash = blake3::hash(&node.content[range.start() as usize..range.end() as usize]);
            let hashes = vec![ChunkHash(*hash.as_bytes())];
            self.0.hashes_told.fetch_add(1, Ordering::Relaxed);
            let _ = sender.try_send(Ok(Hashes { first: index, hashes }));
        }
        Ok(stream)
    }
}

fn directories_in<'a>(path: &'a GlobalPath, listing: &'a Listing) -> impl Iterator<Item = GlobalPath> + 'a {
    let directories = listing.iter().filter(|entry| entry.attr.kind == FileKind::Directory);
    directories.filter_map(|entry| path.join(&entry.name).ok())
}

/// Attributes of a regular file, which differ by `n`.
pub fn some_attr(n: u64) -> Attr {
    new_attr(n, FileKind::Regular, n, n as i64)
}

fn parse(path: &str) -> GlobalPath {
    GlobalPath::new(path.as_bytes()).expect("a test's path is absolute and normal")
}

async fn pause(delay: Duration) -> FsResult<()> {
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    Ok(())
}

fn check_version(node: &Node, wanted: Version) -> FsResult<()> {
    if node.attr.version() == wanted { Ok(()) } else { Err(FsError::Stale(Some(Box::new(node.attr)))) }
}

fn new_attr(inode: u64, kind: FileKind, size: u64, time_ns: i64) -> Attr {
    Attr {
        file: FileId { origin: 1, inode },
        kind,
        mode: if kind == FileKind::Directory { 0o755 } else { 0o644 },
        nlink: 1,
        uid: 1000,
        gid: 1000,
        rdev: 0,
        size,
        blocks: size.div_ceil(512),
        atime_ns: time_ns,
        mtime_ns: time_ns,
        ctime_ns: time_ns,
        no_xattrs: false,
    }
}
