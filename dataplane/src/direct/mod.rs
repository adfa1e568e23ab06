//! Files that nodes of this site write to by themselves, in the origin that they see: who is told that, and when it ends.
//!
//! Nothing here hears of single writes. A file is looked at when its node says so, else every second; and the kernel of
//! this machine, which is the node's as well, knows whether anybody has it open to write. So neither a node that is killed
//! nor a mapping that outlives its descriptor is forgotten, and nobody has to be believed.
//!
//! *Invariants:* before a node is told that it may write, the path is kept as owed and this file as open, so that a crash of
//! the daemon forgets neither; a file counts as open until the kernel has said that nobody writes to it.

mod records;

use crate::home::blocking;
use crate::home::holdings::{Holdings, is_hidden};
use crate::model::direct::{DirectFiles, DueLook};
use crate::origin::{Origin, SharedFile, SharedLook};
use crate::source::Deadline;
use globalfs_proto::{Existing, FileId, FsError, FsResult, GlobalPath, Target, Version};
use parking_lot::Mutex;
use records::Records;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::time::timeout;

/// Files that are written to that way at a time: as many descriptors. Further ones are written to through the daemon.
pub const MAX_FILES: usize = 4096;

/// What looking at all of them may take.
const LOOK: Duration = Duration::from_secs(30);

/// All of them. Clones are one.
#[derive(Clone)]
pub struct DirectWrites(Arc<Inner>);

struct Inner {
    origin: Origin,
    holdings: Holdings,
    records: Records,
    files: Mutex<DirectFiles<SharedFile>>,
    began: Instant,
    /// Something is to be looked at sooner than before.
    wake: Notify,
}

impl DirectWrites {
    /// Goes on with what `dir` tells of; makes it if it is not there.
    pub async fn open(dir: &Path, origin: Origin, holdings: Holdings) -> FsResult<Self> {
        let (records, found) = Records::open(dir)?;
        let (files, began, wake) = (Mutex::default(), Instant::now(), Notify::new());
        let writes = Self(Arc::new(Inner { origin, holdings, records, files, began, wake }));
        for (file, path) in found {
            writes.recover(file, path).await?;
        }
        Ok(writes)
    }

    /// Of a file that was open when the daemon ended, and may have been written to since.
    async fn recover(&self, file: FileId, path: GlobalPath) -> FsResult<()> {
        let inner = &self.0;
        let target = Target { path, file };
        match inner.origin.share(&target, Deadline::after(LOOK)).await {
            Ok((handle, _)) => {
                inner.holdings.open_direct(&target.path)?;
                inner.files.lock().begin(file, &target.path, handle, None, self.now());
            }
            // Nobody writes to it any more, or it is not there. How long it is will be seen when it is looked at.
            Err(_) => {
                let unknown = Version { file, size: 0, mtime_ns: 0, ctime_ns: 0 };
                inner.holdings.changed_direct(&target.path, unknown)?;
                inner.records.remove(file);
            }
        }
        Ok(())
    }

    /// A node is about to write to `target`, whose path is being kept as owed.
    pub(crate) async fn begin(&self, target: &Target, deadline: Deadline) -> FsResult<()> {
        let inner = &self.0;
        let (handle, attr) = inner.origin.share(target, deadline).await?;
        if inner.files.lock().len() >= MAX_FILES {
            return Err(FsError::NOT_SUPPORTED);
        }
        let (writes, target) = (self.clone(), target.clone());
        blocking(move || writes.keep(&target, handle, attr.version())).await?;
        inner.wake.notify_one();
        Ok(())
    }

    fn keep(&self, target: &Target, handle: SharedFile, seen: Version) -> FsResult<()> {
        let inner = &self.0;
        // Under the lock, as who ends it is.
        let mut files = inner.files.lock();
        if !files.contains(target.file) {
            inner.records.put(target.file, &target.path)?;
            inner.holdings.open_direct(&target.path)?;
        }
        files.begin(target.file, &target.path, handle, Some(seen), self.now());
        Ok(())
    }

    /// A node has told what it wrote until `seen`.
    pub(crate) fn told(&self, seen: Version) {
        self.0.files.lock().told(seen.file, seen, self.now());
        self.0.wake.notify_one();
    }

    /// Whether nodes may write to `file` at this moment.
    pub(crate) fn contains(&self, file: FileId) -> bool {
        self.0.files.lock().contains(file)
    }

    /// Files that are open that way.
    pub fn len(&self) -> usize {
        self.0.files.lock().len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.0.files.lock().is_empty()
    }

    /// `from` was renamed to `to`.
    pub(crate) async fn renamed(
        &self,
        from: &GlobalPath,
        to: &GlobalPath,
        existing: Existing,
    ) -> FsResult<()> {
        if self.is_empty() {
            return Ok(());
        }
        let (writes, from, to) = (self.clone(), from.clone(), to.clone());
        blocking(move || {
            let inner = &writes.0;
            let mut files = inner.files.lock();
            for (file, before, now) in files.renamed(&from, &to, existing) {
                inner.holdings.open_direct(&now)?;
                inner.holdings.close_direct(&before);
                inner.records.put(file, &now)?;
            }
            Ok(())
        })
        .await
    }

    /// A file at or beneath `top` that a node has open to write, as of now.
    pub async fn open_below(&self, top: &GlobalPath) -> Option<GlobalPath> {
        let due = self.0.files.lock().below(top);
        if !due.is_empty() {
            self.look(due).await;
        }
        self.0.files.lock().named_below(top, is_hidden)
    }

    /// Looks after all of them, and calls `changed` with each path that has changed. Goes on until it is dropped.
    pub(crate) async fn run(&self, changed: impl Fn(GlobalPath)) {
        loop {
            let woken = self.0.wake.notified();
            let next = self.0.files.lock().next_due();
            match next.map(|at| at.saturating_sub(self.now())) {
                Some(Duration::ZERO) => {}
                Some(left) => {
                    let _ = timeout(left, woken).await;
                    continue;
                }
                None => {
                    woken.await;
                    continue;
                }
            }
            let due = self.0.files.lock().due(self.now());
            self.look(due).await.into_iter().for_each(&changed);
        }
    }

    /// Looks at `due`, and gives the paths of those that have changed.
    async fn look(&self, due: Vec<DueLook<SharedFile>>) -> Vec<GlobalPath> {
        let handles = due.iter().map(|due| due.handle.clone()).collect();
        let looks = match self.0.origin.look_at(handles, Deadline::after(LOOK)).await {
            Ok(looks) => looks,
            Err(error) => due.iter().map(|_| Err(error.clone())).collect(),
        };
        let writes = self.clone();
        let noted = blocking(move || {
            let noted = due.iter().zip(looks).map(|(due, look)| writes.note(due, look));
            Ok(noted.collect::<Vec<_>>())
        });
        noted.await.unwrap_or_default().into_iter().flatten().collect()
    }

    /// The path, if the file has changed.
    fn note(&self, due: &DueLook<SharedFile>, look: FsResult<SharedLook>) -> Option<GlobalPath> {
        let inner = &self.0;
        // What cannot be looked at is open, for all that is known.
        let (seen, is_written) = match &look {
            Ok(look) => (Some(look.attr.version()), look.is_written && look.attr.nlink > 0),
            Err(_) => (None, true),
        };
        let mut files = inner.files.lock();
        let looked = files.looked(due, seen, is_written, self.now())?;
        let kept = match seen.filter(|_| looked.has_changed) {
            Some(seen) => inner.holdings.changed_direct(&looked.path, seen),
            None => Ok(()),
        };
        if let Err(error) = look.map(drop).and(kept) {
            tracing::warn!(path = %looked.path, %error, "a file that a node writes to is not looked after");
        }
        if looked.has_ended {
            inner.holdings.close_direct(&looked.path);
            inner.records.remove(due.file);
        }
        looked.has_changed.then_some(looked.path)
    }

    fn now(&self) -> Duration {
        self.0.began.elapsed()
    }
}
