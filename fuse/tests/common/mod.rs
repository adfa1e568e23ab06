//! A volume in memory that tests change under the feet of its readers.
#![allow(dead_code, reason = "each test program uses a part")]

pub(crate) mod mounted;
pub(crate) mod steps;
pub(crate) mod ways;
mod writable;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt;
use globalfs_fuse::{Names, Volume, WholeFile};
use globalfs_proto::limits::CHUNK_SIZE;
use globalfs_proto::{
    Attr, ByteRange, Change, Changed, Changes, DirEntry, Edition, FileId, FileKind, FsError, FsResult,
    FsStat, GlobalPath, Lasting, Target, Version,
};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

pub(crate) const ENODATA: i32 = 61;

/// How long what is watched counts.
const LASTING: Duration = Duration::from_secs(3600);

/// Where a read is cut in two, so that joining is tested.
const CUT: usize = 70_001;

#[derive(Default)]
pub(crate) struct MemoryVolume {
    tree: Mutex<Tree>,
    /// Calls of `read`.
    pub(crate) reads: AtomicU64,
    /// Calls of `stat` and `stat_for_open`.
    pub(crate) stats: AtomicU64,
    /// Calls of `list`.
    pub(crate) lists: AtomicU64,
    /// Where the mount hears of changes.
    pub(crate) changes: Mutex<Option<mpsc::Sender<Arc<Changes>>>>,
    /// Where contents lie in local files, if they do.
    pub(crate) local: Mutex<Option<PathBuf>>,
    /// What a read takes until it looks at the file, in milliseconds.
    pub(crate) read_ms: AtomicU64,
    /// What a write takes, in milliseconds.
    pub(crate) write_ms: AtomicU64,
    /// When set, changes are to be synced at close, which comes to this.
    pub(crate) confirmed: Mutex<Option<FsResult<()>>>,
    /// Offset and length of each write.
    pub(crate) writes: Mutex<Vec<(u64, usize)>>,
    /// Counts, beside itself, the local files that the kernel has.
    pub(crate) handed_out: Arc<()>,
}

#[derive(Default)]
struct Tree {
    entries: BTreeMap<GlobalPath, (Attr, Bytes)>,
    xattrs: HashMap<FileId, BTreeMap<Vec<u8>, Bytes>>,
    /// Contents that are still served after a change, as from a cache.
    kept: HashMap<Version, Bytes>,
    clock: i64,
    /// When set, every call fails with it.
    failure: Option<FsError>,
    /// When set, it is the edition of every directory's names, of whose changes the test tells.
    edition: Option<u64>,
    /// For how long it counts; `None`: for long.
    lasting: Option<Duration>,
    /// When set, every call panics.
    is_broken: bool,
    /// When set, reads return this many bytes too few.
    cut_short: usize,
    /// Whether changes are taken.
    is_writable: bool,
    /// When set, changes fail with it.
    refusal: Option<FsError>,
    /// When set, writes fail with it.
    write_refusal: Option<FsError>,
    /// When set, changes are made and fail with it.
    lost_answer: Option<FsError>,
}

pub(crate) fn path(text: &str) -> GlobalPath {
    GlobalPath::new(text.as_bytes()).unwrap()
}

impl MemoryVolume {
    pub(crate) fn new() -> Arc<Self> {
        let volume = Self::default();
        volume.put(&GlobalPath::root(), FileKind::Directory, 0o755, Bytes::new());
        Arc::new(volume)
    }

    pub(crate) fn put(&self, path: &GlobalPath, kind: FileKind, mode: u32, content: Bytes) -> Attr {
        let mut tree = self.tree.lock();
        tree.clock += 1_000_000_000;
        let time = tree.clock;
        let attr = Attr {
            file: FileId { origin: 1, inode: time as u64 },
            kind,
            mode,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: content.len() as u64,
            blocks: (content.len() as u64).div_ceil(512),
            atime_ns: time,
            mtime_ns: time,
            ctime_ns: time,
            no_xattrs: false,
        };
        tree.entries.insert(path.clone(), (attr, content));
        attr
    }

    pub(crate) fn file(&self, at: &str, content: impl Into<Bytes>) -> Attr {
        self.put(&path(at), FileKind::Regular, 0o644, content.into())
    }

    pub(crate) fn directory(&self, at: &str) -> Attr {
        self.put(&path(at), FileKind::Directory, 0o755, Bytes::new())
    }

    pub(crate) fn symlink(&self, at: &str, target: &str) -> Attr {
        self.put(&path(at), FileKind::Symlink, 0o777, Bytes::copy_from_slice(target.as_bytes()))
    }

    pub(crate) fn edit(&self, at: &str, change: impl FnOnce(&mut Attr)) {
        change(&mut self.tree.lock().entries.get_mut(&path(at)).unwrap().0);
    }

    /// Gives a file new content; the old version stays readable if `keep`.
    pub(crate) fn change(&self, at: &str, content: impl Into<Bytes>, keep: bool) {
        let (content, mut tree) = (content.into(), self.tree.lock());
        tree.clock += 1_000_000_000;
        let time = tree.clock;
        let (attr, old) = tree.entries.get_mut(&path(at)).unwrap();
        let version = attr.version();
        (attr.size, attr.mtime_ns, attr.ctime_ns) = (content.len() as u64, time, time);
        let old = std::mem::replace(old, content);
        if keep {
            tree.kept.insert(version, old);
        }
    }

    pub(crate) fn hard_link(&self, old: &str, new: &str) {
        let mut tree = self.tree.lock();
        let mut entry = tree.entries[&path(old)].clone();
        entry.0.nlink = 2;
        tree.entries.insert(path(old), entry.clone());
        tree.entries.insert(path(new), entry);
    }

    pub(crate) fn rename(&self, old: &str, new: &str) {
        let mut tree = self.tree.lock();
        let moved: Vec<_> = tree.entries.keys().filter(|p| p.starts_with(&path(old))).cloned().collect();
        for from in moved {
            let entry = tree.entries.remove(&from).unwrap();
            let to = [new.as_bytes(), &from.as_bytes()[old.len()..]].concat();
            tree.entries.insert(GlobalPath::new(&to).unwrap(), entry);
        }
    }

    pub(crate) fn remove(&self, at: &str) {
        self.tree.lock().entries.remove(&path(at)).unwrap();
    }

    pub(crate) fn set_xattr(&self, at: &str, name: &str, value: &'static [u8]) {
        let mut tree = self.tree.lock();
        let file = tree.entries[&path(at)].0.file;
        tree.xattrs.entry(file).or_default().insert(name.into(), Bytes::from_static(value));
    }

    pub(crate) fn fail(&self, error: Option<FsError>) {
        self.tree.lock().failure = error;
    }

    /// From now on changes are taken.
    pub(crate) fn make_writable(&self) {
        self.tree.lock().is_writable = true;
    }

    /// From now on changes fail with it.
    pub(crate) fn refuse(&self, error: Option<FsError>) {
        self.tree.lock().refusal = error;
    }

    /// From now on changes are made and fail with it.
    pub(crate) fn lose_answers(&self, error: Option<FsError>) {
        self.tree.lock().lost_answer = error;
    }

    /// From now on writes fail with it, and nothing else does.
    pub(crate) fn refuse_writes(&self, error: Option<FsError>) {
        self.tree.lock().write_refusal = error;
    }

    /// The present content of a file.
    pub(crate) fn content(&self, at: &str) -> Bytes {
        self.tree.lock().entries[&path(at)].1.clone()
    }

    /// The present attributes.
    pub(crate) fn attr(&self, at: &str) -> Attr {
        self.tree.lock().entries[&path(at)].0
    }

    /// All names in the volume.
    pub(crate) fn names(&self) -> Vec<String> {
        self.tree.lock().entries.keys().map(ToString::to_string).collect()
    }

    pub(crate) fn break_down(&self, broken: bool) {
        self.tree.lock().is_broken = broken;
    }

    /// Contents lie in local files from now on, on a disk: a file system in memory may know no direct reads.
    pub(crate) fn make_local(&self) {
        *self.local.lock() = Some(Path::new(env!("CARGO_MANIFEST_DIR")).to_owned());
    }

    /// From now on names are of `edition`, and count for long.
    pub(crate) fn set_edition(&self, edition: u64) {
        self.tree.lock().edition = Some(edition);
    }

    /// From now on names count for so long.
    pub(crate) fn set_lasting(&self, lasting: Duration) {
        self.tree.lock().lasting = Some(lasting);
    }

    pub(crate) fn tell(&self, changes: Changes) {
        self.changes.lock().as_ref().unwrap().blocking_send(Arc::new(changes)).unwrap();
    }

    pub(crate) fn cut_short(&self, bytes: usize) {
        self.tree.lock().cut_short = bytes;
    }

    fn entry(&self, path: &GlobalPath) -> FsResult<(Attr, Bytes)> {
        let tree = self.tree.lock();
        assert!(!tree.is_broken, "a test breaks the volume");
        tree.failure.clone().map_or(Ok(()), Err)?;
        tree.entries.get(path).cloned().ok_or(FsError::NOT_FOUND)
    }
}

#[async_trait]
impl Volume for MemoryVolume {
    async fn stat(&self, path: &GlobalPath) -> FsResult<Attr> {
        self.stats.fetch_add(1, Ordering::Relaxed);
        Ok(self.entry(path)?.0)
    }

    async fn stat_for_open(&self, path: &GlobalPath) -> FsResult<Attr> {
        self.stat(path).await
    }

    async fn list(&self, path: &GlobalPath) -> FsResult<Names> {
        self.entry(path)?;
        self.lists.fetch_add(1, Ordering::Relaxed);
        let tree = self.tree.lock();
        let children = tree.entries.range(path.clone()..).filter(|(p, _)| p.parent().as_ref() == Some(path));
        let entry = |p: &GlobalPath, attr| DirEntry::new(Bytes::copy_from_slice(p.name()), attr);
        let entries = children.map(|(p, (attr, _))| entry(p, *attr)).collect();
        let lasting = tree.lasting.unwrap_or(LASTING);
        let edition = tree.edition.map(|number| Edition { number, lasting });
        Ok(Names { entries, edition })
    }

    fn known_names(&self, path: &GlobalPath) -> Option<Names> {
        self.tree.lock().edition?;
        let names = self.list(path).now_or_never()?.ok()?;
        self.lists.fetch_sub(1, Ordering::Relaxed);
        Some(names)
    }

    fn lasting(&self, _path: &GlobalPath, _attr: &Attr) -> Lasting {
        let tree = self.tree.lock();
        let lasting = tree.edition.and(tree.lasting.or(Some(LASTING))).unwrap_or_default();
        Lasting { name: lasting, attr: lasting }
    }

    fn changes(&self) -> Option<mpsc::Receiver<Arc<Changes>>> {
        let (sender, receiver) = mpsc::channel(8);
        *self.changes.lock() = Some(sender);
        Some(receiver)
    }

    async fn read_link(&self, path: &GlobalPath) -> FsResult<Bytes> {
        Ok(self.entry(path)?.1)
    }

    async fn get_xattr(&self, path: &GlobalPath, name: &[u8]) -> FsResult<Bytes> {
        let file = self.entry(path)?.0.file;
        let tree = self.tree.lock();
        tree.xattrs.get(&file).and_then(|x| x.get(name)).cloned().ok_or(FsError::Os(ENODATA))
    }

    async fn list_xattr(&self, path: &GlobalPath) -> FsResult<Bytes> {
        let file = self.entry(path)?.0.file;
        let tree = self.tree.lock();
        let names = tree.xattrs.get(&file).into_iter().flat_map(|x| x.keys());
        Ok(names.flat_map(|n| n.iter().copied().chain([0])).collect())
    }

    async fn fs_stat(&self, path: &GlobalPath) -> FsResult<FsStat> {
        self.entry(path)?;
        let (blocks, blocks_free, blocks_available) = (1000, 600, 500);
        Ok(FsStat { block_size: 4096, blocks, blocks_free, blocks_available, files: 77, files_free: 33 })
    }

    async fn whole_file(&self, path: &GlobalPath, version: Version) -> Option<WholeFile> {
        let (attr, content) = self.entry(path).ok()?;
        let directory = self.local.lock().clone().filter(|_| attr.version() == version)?;
        let mut file = tempfile::tempfile_in(directory).unwrap();
        file.write_all(&content).unwrap();
        Some(WholeFile { file: Arc::new(file), is_original: false, keep: Box::new(self.handed_out.clone()) })
    }

    async fn held_around(&self, version: Version, offset: u64) -> Option<(u64, Bytes)> {
        let tree = self.tree.lock();
        let (_, content) = tree.entries.values().find(|(attr, _)| attr.version() == version)?;
        let start = offset / CHUNK_SIZE * CHUNK_SIZE;
        let end = (start + CHUNK_SIZE).min(version.size);
        Some((start, content.slice(start as usize..end as usize)))
    }

    async fn is_writable(&self, _target: Target) -> bool {
        self.tree.lock().is_writable
    }

    async fn change(&self, change: Change) -> FsResult<Changed> {
        let written = match &change {
            Change::Write { offset, data, .. } => Some((offset.unwrap_or(u64::MAX), data.len())),
            _ => None,
        };
        let delay = Duration::from_millis(self.write_ms.load(Ordering::Relaxed));
        if written.is_some() && !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        self.writes.lock().extend(written);
        let mut tree = self.tree.lock();
        tree.write_refusal.clone().filter(|_| written.is_some()).map_or(Ok(()), Err)?;
        assert!(!tree.is_broken, "a test breaks the volume");
        let failure = tree.failure.clone().or(tree.refusal.clone());
        failure.map_or(Ok(()), Err)?;
        let confirmed = self.confirmed.lock().clone();
        if let (Some(Err(error)), Change::Sync { .. }) = (&confirmed, &change) {
            return Err(error.clone());
        }
        let changed = if tree.is_writable { tree.change(change) } else { Err(FsError::READ_ONLY) };
        let lost = tree.lost_answer.clone();
        let changed = changed.and_then(|changed| lost.map_or(Ok(changed), Err));
        changed.map(|changed| Changed { sync_at_close: confirmed.is_some(), ..changed })
    }

    async fn read(
        &self,
        path: &GlobalPath,
        version: Version,
        offset: u64,
        length: u32,
    ) -> FsResult<Vec<Bytes>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let delay = Duration::from_millis(self.read_ms.load(Ordering::Relaxed));
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let present = self.entry(path);
        let tree = self.tree.lock();
        let content = match (tree.kept.get(&version), present) {
            (Some(kept), _) => kept.clone(),
            (None, Ok((attr, content))) if attr.version() == version => content,
            (None, Ok((attr, _))) => return Err(FsError::Stale(Some(Box::new(attr)))),
            (None, Err(error)) => return Err(error),
        };
        let Some(range) = ByteRange::of_read(offset, length.into(), version.size) else { return Ok(vec![]) };
        let end = (range.end() as usize).saturating_sub(tree.cut_short);
        let mut first = content.slice(range.start() as usize..end);
        let second = first.split_off(CUT.min(first.len()));
        Ok([first, second].into_iter().filter(|p| !p.is_empty()).collect())
    }
}
