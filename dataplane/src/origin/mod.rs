//! The storage that holds a site's own files, used in place: `file://DIR` as a [`Source`].
//!
//! *Invariants:* no access leaves the origin's directory (see `tree`); a chunk is delivered only if the file
//! had the wanted version before and after it was read (see `read`); no call blocks an async thread; at most
//! [`MAX_CALLS`] threads are in the file system at a time, so storage that hangs cannot take them all.

mod change;
mod details;
mod direct;
pub(crate) mod draft;
mod files;
mod hashes;
pub(crate) mod install;
mod lease;
mod list;
mod read;
mod shared;
pub(crate) mod surroundings;
pub(crate) mod tree;
mod walk;
mod watch;

#[cfg(test)]
mod tests;

pub use direct::DirectOrigin;
pub use shared::{SharedFile, SharedLook};

use crate::changes::with_heartbeat;
use crate::disk::Disk;
use crate::model::ids::IdMap;
use crate::source::{
    ChangeStream, ChunkStream, Deadline, FileChunks, Found, HashStream, Listed, Listing, Source,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use globalfs_proto::limits::MAX_DIR_ENTRIES;
use globalfs_proto::{
    Attr, Change, Changed, ChunkSpan, Fence, FsError, FsResult, FsStat, GlobalPath, Seek, SiteName, Version,
    WantedFile,
};
use hashes::HashTable;
use install::Turn;
use list::Contents;
use read::Reading;
use rustix::fd::OwnedFd;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tree::Tree;
use watch::Watcher;

/// System calls on names and attributes at a time; who asks for more waits, up to its deadline.
pub const MAX_CALLS: usize = 64;

/// How an origin works.
#[derive(Debug, Clone)]
pub struct Options {
    /// Chunks that one stream reads at a time. It holds about twice as many in memory.
    pub read_window: usize,
    /// Nobody changes it through us.
    pub read_only: bool,
    /// Its users and groups, and those that the namespace shows.
    pub ids: IdMap,
}

impl Default for Options {
    fn default() -> Self {
        Self { read_window: 4, read_only: false, ids: IdMap::default() }
    }
}

/// Why an origin cannot be used. An administrator has to act.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// Create it, mount it, or correct the configuration.
    #[error("the origin {0:?} does not exist; make or mount it, or correct `origin` in the configuration")]
    Missing(PathBuf),
    /// Correct the configuration.
    #[error("the origin {0:?} is not a directory; correct `origin` in the configuration")]
    NotADirectory(PathBuf),
    /// Run the daemon as another user, or grant it access.
    #[error(
        "no permission to read and enter the origin {0:?}; run the daemon as another user, or grant it access"
    )]
    PermissionDenied(PathBuf),
    /// Use a newer kernel, or permit the call in the container's seccomp profile.
    #[error(
        "an origin needs the system call openat2, which this kernel or container refuses: {0}. \
             It needs Linux 5.6 or later, and in a container a seccomp profile that allows openat2"
    )]
    NoOpenat2(io::Error),
    /// Mount `/proc`.
    #[error("an origin needs /proc to be mounted: {0}")]
    NoProc(io::Error),
    /// Anything else that the kernel said.
    #[error("cannot open the origin {path:?}: {error}")]
    Other {
        /// The origin's directory.
        path: PathBuf,
        /// The kernel's answer.
        error: io::Error,
    },
}

/// The number by which files tell that they are of `site`'s origin, but for those on another file system mounted in it.
pub fn identity(site: &SiteName) -> u64 {
    tree::identity(site, None)
}

/// What an origin has done since it was opened.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes of chunks that were delivered to a stream.
    pub bytes_read: AtomicU64,
    /// Chunks that were read.
    pub reads: AtomicU64,
    /// Operations that ended in an error other than a missing name, a missing attribute or a changed file.
    pub errors: AtomicU64,
}

/// The files of one site, below one directory.
#[derive(Clone)]
pub struct Origin(Arc<Inner>);

struct Inner {
    tree: Tree,
    disk: Arc<dyn Disk>,
    options: Options,
    counters: Counters,
    calls: Arc<Semaphore>,
    hashes: HashTable,
    changes: change::Changes,
    watcher: Option<Arc<Watcher>>,
}

impl Origin {
    /// Opens `dir` as the origin of `site`, whose name becomes part of every file's identity.
    pub fn open(
        dir: &Path,
        site: &SiteName,
        disk: Arc<dyn Disk>,
        options: Options,
    ) -> Result<Self, OriginError> {
        let tree = Tree::open(dir, site)?.with_ids(options.ids.clone());
        let calls = Arc::new(Semaphore::new(MAX_CALLS));
        let (counters, hashes, watcher) = (Counters::default(), HashTable::default(), Watcher::new(dir));
        let changes = change::Changes::default();
        Ok(Self(Arc::new(Inner { tree, disk, options, counters, calls, hashes, changes, watcher })))
    }

    /// What was done so far.
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// Directories whose changes are told now.
    pub fn watched_directories(&self) -> usize {
        self.0.watcher.as_ref().map_or(0, |watcher| watcher.len())
    }

    /// Whether the storage is there: its totals, or why not.
    pub async fn probe(&self, deadline: Deadline) -> FsResult<FsStat> {
        self.call(deadline, |inner| inner.tree.probe()).await
    }

    /// Runs `work` on a thread that may block, within the deadline. A call that outlives its deadline
    /// keeps its place among [`MAX_CALLS`] until the kernel lets it go.
    async fn call<T: Send + 'static>(
        &self,
        deadline: Deadline,
        work: impl FnOnce(&Inner) -> FsResult<T> + Send + 'static,
    ) -> FsResult<T> {
        let inner = self.0.clone();
        let run = async move {
            let permit = inner.calls.clone().acquire_owned().await.map_err(io::Error::other)?;
            let call = move || {
                let _permit = permit;
                work(&inner)
            };
            tokio::task::spawn_blocking(call).await.map_err(io::Error::other)?
        };
        let outcome = deadline.bound(run).await;
        if let Err(error) = &outcome {
            self.0.counters.failed(error);
        }
        outcome
    }
}

impl Inner {
    /// Watches `path` if that is possible. Comes before it is opened: who moves it away after that is seen.
    fn watch(&self, path: &GlobalPath) -> bool {
        self.watcher.as_ref().is_some_and(|watcher| watcher.watch(&self.tree, path))
    }

    fn list(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<(Contents, OwnedFd)> {
        let limit = || FsError::Limit(format!("{path} has more than {MAX_DIR_ENTRIES} entries"));
        let watched = self.watch(path);
        let directory = self.tree.open_directory(path)?;
        let contents = self.tree.contents(&directory, MAX_DIR_ENTRIES, deadline)?.ok_or_else(limit)?;
        Ok((contents.watched(watched), directory))
    }
}

impl Counters {
    fn failed(&self, error: &FsError) {
        const ENODATA: i32 = 61;
        if !matches!(error, &FsError::NOT_FOUND | FsError::Os(ENODATA) | FsError::Stale(_)) {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Origin {
    /// Runs one step of making paths what they are at another site (see [`install`]). `turn` is kept until it has ended,
    /// also if nobody waits for that any more.
    pub(crate) async fn install<T: Send + 'static>(
        &self,
        turn: Turn,
        deadline: Deadline,
        step: impl FnOnce(&Tree) -> FsResult<T> + Send + 'static,
    ) -> FsResult<T> {
        if self.0.options.read_only {
            return Err(FsError::READ_ONLY);
        }
        let run = move |inner: &Inner| {
            let _turn = turn;
            if deadline.remaining().is_zero() { Err(FsError::Deadline) } else { step(&inner.tree) }
        };
        self.call(deadline, run).await
    }

    /// The attributes of what is at each of `paths`, if something is.
    pub(crate) async fn look(
        &self,
        paths: Vec<GlobalPath>,
        deadline: Deadline,
    ) -> FsResult<Vec<Option<Attr>>> {
        let look = |tree: &Tree, path: &GlobalPath| match tree.stat(path) {
            Ok(attr) => Ok(Some(attr)),
            Err(FsError::NOT_FOUND | FsError::NOT_A_DIRECTORY) => Ok(None),
            Err(error) => Err(error),
        };
        self.call(deadline, move |inner| paths.iter().map(|path| look(&inner.tree, path)).collect()).await
    }

    /// Gives `path` a hidden name beside it, which tells the fence: nobody sees it through a mount, and an administrator
    /// finds it. Returns the name.
    pub async fn set_aside(
        &self,
        path: &GlobalPath,
        fence: Fence,
        deadline: Deadline,
    ) -> FsResult<GlobalPath> {
        let path = path.clone();
        self.install(Arc::new(()), deadline, move |tree| tree.set_aside(&path, fence)).await
    }
}

#[async_trait]
impl Source for Origin {
    async fn stat(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Attr> {
        let path = path.clone();
        self.call(deadline, move |inner| inner.tree.stat(&path)).await
    }

    async fn list(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Listing> {
        let path = path.clone();
        self.call(deadline, move |inner| Ok(inner.list(&path, deadline)?.0.listing)).await
    }

    async fn look_up(&self, path: &GlobalPath, below: u32, deadline: Deadline) -> FsResult<Found> {
        walk::look_up(self, path, below, deadline).await
    }

    async fn list_below(&self, path: &GlobalPath, below: u32, deadline: Deadline) -> FsResult<Listed> {
        walk::list_below(self, path, below, deadline).await
    }

    fn watch(&self, heartbeat: Duration) -> ChangeStream {
        match &self.0.watcher {
            Some(watcher) => with_heartbeat(watcher.hub().subscribe(), heartbeat),
            None => stream::pending().boxed(),
        }
    }

    async fn read_link(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Bytes> {
        let path = path.clone();
        self.call(deadline, move |inner| inner.tree.read_link(&path)).await
    }

    async fn get_xattr(&self, path: &GlobalPath, name: &[u8], deadline: Deadline) -> FsResult<Bytes> {
        let (path, name) = (path.clone(), name.to_vec());
        self.call(deadline, move |inner| inner.tree.get_xattr(&path, &name)).await
    }

    async fn list_xattr(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Bytes> {
        let path = path.clone();
        self.call(deadline, move |inner| inner.tree.list_xattr(&path)).await
    }

    async fn fs_stat(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<FsStat> {
        let path = path.clone();
        self.call(deadline, move |inner| inner.tree.fs_stat(&path)).await
    }

    async fn seek(&self, seek: &Seek, deadline: Deadline) -> FsResult<u64> {
        let seek = seek.clone();
        self.call(deadline, move |inner| inner.tree.seek(&seek)).await
    }

    /// What was begun is carried out, also when its deadline passes meanwhile; nothing is begun later.
    async fn change(&self, change: &Change, deadline: Deadline) -> FsResult<Changed> {
        if self.0.options.read_only {
            return Err(FsError::READ_ONLY);
        }
        let change = change.clone();
        self.call(deadline, move |inner| inner.changes.apply(&inner.tree, &change, deadline)).await
    }

    async fn read(
        &self,
        path: &GlobalPath,
        version: Version,
        span: ChunkSpan,
        deadline: Deadline,
    ) -> FsResult<ChunkStream> {
        Ok(Reading::open(self.clone(), path, version, span, deadline).await?.start())
    }

    async fn hashes(
        &self,
        path: &GlobalPath,
        version: Version,
        span: ChunkSpan,
        deadline: Deadline,
    ) -> FsResult<HashStream> {
        Ok(Reading::open(self.clone(), path, version, span, deadline).await?.start_hashing())
    }

    /// Returns at once; all errors come through the stream.
    async fn read_files(&self, files: Vec<WantedFile>, deadline: Deadline) -> FsResult<FileChunks> {
        Ok(files::read(self.clone(), files, deadline))
    }
}
