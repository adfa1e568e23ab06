//! Makes the kernel forget names that have changed, long before their time to live ends.
//!
//! A node stands for one version, so the page cache needs nothing: a changed file is another node, and a name
//! that is forgotten is looked up again. A name is forgotten twice, since an answer that was on its way to the
//! kernel at the first time may tell of what was before. When changes were lost, all names are forgotten: the kernel
//! was told to keep them for as long as it hears of their changes. Names of which nobody knows what a change of this mount made
//! of them are forgotten, too, although nobody tells of them.
//!
//! *Invariant:* the calls are made by one thread that holds no lock and serves no request: the kernel may make
//! them wait for a directory's lock, whose holder waits for an answer of ours.

use crate::model::{Doubted, NodeId};
use crate::operations::{OVERDUE, Operations};
use crate::transport::Notifier;
use crate::volume::Volume;
use globalfs_proto::{ChangedDirectory, Changes, GlobalPath};
use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

/// When a name is forgotten once more: longer than an answer takes that was asked for before the change.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Messages of changes that wait for that; beyond, the oldest are taken up early.
const MAX_WAITING: usize = 1024;

/// The offset of no content: attributes alone are forgotten.
const KEEP_CONTENT: i64 = -1;

/// What the thread does.
struct Invalidator {
    /// `None` when nobody tells of any, or no longer.
    changes: Option<mpsc::Receiver<Arc<Changes>>>,
    notifier: Notifier,
    operations: Arc<Operations<dyn Volume>>,
    ended: watch::Receiver<bool>,
    again: VecDeque<(Instant, Forgotten)>,
    /// When what the kernel keeps was last looked through.
    looked: Instant,
}

/// What the kernel is to forget.
enum Forgotten {
    /// What has changed, and the subtrees of whose hand-over that was the first word.
    Changes(Arc<Changes>, Vec<GlobalPath>),
    Doubted(Doubted),
}

/// What comes next.
enum Event {
    Heard(Arc<Changes>),
    Doubted(Doubted),
    Again,
    /// Nothing, for a while.
    Silence,
    End,
}

/// Passes `changes`, if there are any, on to the kernel until the mount ends.
pub(crate) fn start(
    changes: Option<mpsc::Receiver<Arc<Changes>>>,
    notifier: Notifier,
    operations: Arc<Operations<dyn Volume>>,
    ended: watch::Receiver<bool>,
) -> io::Result<()> {
    let (again, looked) = (VecDeque::new(), Instant::now());
    let mut invalidator = Invalidator { changes, notifier, operations, ended, again, looked };
    // Its own clock: that of the mount's runtime may end before it.
    let clock = Builder::new_current_thread().enable_time().build()?;
    let run = move || while invalidator.step(&clock) {};
    thread::Builder::new().name("globalfs-invalidate".to_owned()).spawn(run).map(drop)
}

impl Invalidator {
    /// Whether there is more to come.
    fn step(&mut self, clock: &Runtime) -> bool {
        if self.looked.elapsed() >= OVERDUE {
            self.operations.outlasted().into_iter().for_each(|directory| self.forget_listing(directory));
            self.looked = Instant::now();
        }
        match clock.block_on(self.next()) {
            Event::Heard(changes) => {
                // Before anything is looked up again that is of after it.
                let handed_over = self.operations.hear(&changes.handed_over);
                self.forget_twice(Forgotten::Changes(changes, handed_over));
            }
            Event::Doubted(names) => self.forget_twice(Forgotten::Doubted(names)),
            Event::Again => self.forget_oldest(),
            Event::Silence => {}
            Event::End => return false,
        }
        true
    }

    async fn next(&mut self) -> Event {
        let due = self.again.front().map(|(due, _)| *due);
        let again = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.ended.wait_for(|ended| *ended) => Event::End,
            () = again => Event::Again,
            () = sleep(OVERDUE) => Event::Silence,
            doubted = self.operations.doubted() => Event::Doubted(doubted),
            heard = hear(&mut self.changes) => Event::Heard(heard),
        }
    }

    fn forget_twice(&mut self, forgotten: Forgotten) {
        self.forget_now(&forgotten);
        self.again.push_back((Instant::now() + AGAIN_AFTER, forgotten));
        if self.again.len() > MAX_WAITING {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, forgotten)) = self.again.pop_front() {
            self.forget_now(&forgotten);
        }
    }

    fn forget_now(&self, forgotten: &Forgotten) {
        match forgotten {
            Forgotten::Changes(changes, handed_over) => {
                self.forget_all(changes);
                handed_over.iter().for_each(|scope| self.forget_below(scope));
            }
            Forgotten::Doubted(Doubted::All) => self.forget_names(None),
            Forgotten::Doubted(Doubted::Names(names)) => {
                names.iter().for_each(|(directory, name)| self.forget_name(*directory, name));
            }
        }
    }

    /// A name, its directory, and the attributes of what has it, which may have other names.
    fn forget_name(&self, directory: NodeId, name: &[u8]) {
        let _ = self.notifier.inval_entry(directory, name);
        for node in self.operations.nodes_at(directory, name) {
            let _ = self.notifier.inval_inode(node, KEEP_CONTENT, 0);
        }
        self.forget_listing(directory);
    }

    /// All names in a subtree that was handed over, also where somebody is in it: its new master tells of no change of what
    /// it was not asked for.
    fn forget_below(&self, scope: &GlobalPath) {
        let directories = self.operations.settle_hand_over(scope);
        directories.into_iter().for_each(|directory| self.forget_names(Some(directory)));
    }

    fn forget_all(&self, changes: &Changes) {
        if changes.everything {
            return self.forget_names(None);
        }
        changes.directories.iter().for_each(|changed| self.forget(changed));
    }

    /// The kernel refuses what it does not know, which is as well.
    fn forget(&self, changed: &ChangedDirectory) {
        let Some(directory) = self.operations.directory_at(&changed.path) else { return };
        if changed.names.is_empty() {
            self.forget_names(Some(directory));
        }
        for name in &changed.names {
            let _ = self.notifier.inval_entry(directory, name);
        }
        self.forget_listing(directory);
    }

    /// All names in `directory`, or anywhere.
    fn forget_names(&self, directory: Option<NodeId>) {
        let kept = if directory.is_none() { self.operations.all_kept() } else { Vec::new() };
        let mut parents: HashSet<_> = kept.into_iter().collect();
        self.operations.each_place(directory, |parent, name| {
            let _ = self.notifier.inval_entry(parent, name);
            parents.insert(parent);
        });
        parents.into_iter().for_each(|parent| self.forget_listing(parent));
    }

    /// The directory's own times and link count, and the names that the kernel keeps of it.
    fn forget_listing(&self, directory: NodeId) {
        self.operations.forget_names(directory);
        let _ = self.notifier.inval_inode(directory, 0, 0);
    }
}

/// The next change that is told. Who no longer tells any leaves it at that.
async fn hear(changes: &mut Option<mpsc::Receiver<Arc<Changes>>>) -> Arc<Changes> {
    if let Some(told) = changes {
        if let Some(heard) = told.recv().await {
            return heard;
        }
        *changes = None;
    }
    std::future::pending().await
}
