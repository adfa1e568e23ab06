//! Making paths of this origin what they are at their master, and removing what is gone there.
//!
//! *Invariants:* what is here is looked at first, and what is not this site's own stays. That a path is being brought is
//! durable before it is made, and that it is a copy is kept only when it is on disk and as it was brought.

use super::{Masters, Replicas};
use crate::home::blocking;
use crate::model::replicas::{Here, Record, Step, When, decide, is_as_brought};
use crate::model::wanted::Task;
use crate::source::{Deadline, Source};
use globalfs_proto::limits::MAX_DEADLINE;
use globalfs_proto::{Attr, FileKind, FsError, FsResult, GlobalPath, HomeItem};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Larger files have a lane of their own, so that others need not wait behind them.
pub(super) const SMALL: u64 = 64 << 20;

/// Paths and bytes of one batch, but for one larger file.
const BATCH: (usize, u64) = (512, 64 << 20);

/// What looking at own files may take.
const LOOK: Duration = Duration::from_secs(30);

/// What is waited at most before it is looked whether something is due.
const REST: Duration = Duration::from_secs(1);

/// Records that are removed at a time.
pub(super) const REMOVED_AT_ONCE: usize = 1000;

/// `ENOTEMPTY`.
const NOT_EMPTY: FsError = FsError::Os(39);

/// A path, what is kept of it, and what is at its place.
type Found = (Option<Record>, Option<Attr>);

/// What to do about the paths of one batch.
#[derive(Default)]
struct Plan {
    bring: Vec<(Task, Option<Record>)>,
    remove: Vec<Task>,
    done: Vec<Task>,
}

impl Replicas {
    /// Brings what is wanted, but for files above `largest` bytes; goes on until it is dropped.
    pub(super) async fn bring_on(self, masters: Masters, largest: u64) {
        loop {
            let woken = self.0.wake.notified();
            tokio::pin!(woken);
            // Before it is looked: else what is wanted in between would not wake this.
            woken.as_mut().enable();
            let now = self.now();
            let tasks = self.0.wanted.lock().due(now, BATCH.0, BATCH.1, largest);
            if !tasks.is_empty() {
                self.bring_batch(&masters, tasks).await;
                continue;
            }
            let next = self.0.wanted.lock().next_due(largest).map_or(REST, |at| at.saturating_sub(now));
            let _ = timeout(next.min(REST), woken).await;
        }
    }

    async fn bring_batch(&self, masters: &Masters, tasks: Vec<Task>) {
        let _turn = self.0.turn.read().await;
        let (reserved, tasks): (Vec<Task>, Vec<Task>) =
            tasks.into_iter().partition(|task| self.is_reserved(&task.path));
        self.settle(&reserved);
        let outcome = self.carry_out(masters, &tasks).await;
        if let Err(error) = outcome {
            self.tell_trouble(&error.to_string());
            let mut wanted = self.0.wanted.lock();
            // Those which were settled are not in it any more.
            tasks.iter().for_each(|task| wanted.fail(task, self.now()));
        }
    }

    async fn carry_out(&self, masters: &Masters, tasks: &[Task]) -> FsResult<()> {
        let Plan { bring, remove, done } = self.plan(tasks).await?;
        self.settle(&done);
        for task in remove {
            self.remove_tree(&task.path).await?;
            self.settle(&[task]);
        }
        let (read, wanted): (Vec<_>, Vec<_>) =
            bring.into_iter().partition(|(task, _)| task.rule.when == When::OnceRead);
        for (part, from) in [(wanted, &masters.direct), (read, &masters.cached)] {
            if !part.is_empty() {
                self.ensure_above(masters, &part).await?;
                self.bring_part(from.clone(), part).await?;
            }
        }
        Ok(())
    }

    async fn plan(&self, tasks: &[Task]) -> FsResult<Plan> {
        let found = self.look_here(tasks.iter().map(|task| task.path.clone()).collect()).await?;
        let mut plan = Plan::default();
        for (task, (record, here)) in tasks.iter().zip(found) {
            let step = decide(record.as_ref(), task.master.as_ref(), here.as_ref());
            if step != Step::Obstructed {
                self.0.obstructed.lock().remove(&task.path);
            }
            match step {
                Step::Bring => {
                    if self.make_room(task, here.as_ref()).await? {
                        plan.bring.push((task.clone(), record));
                        continue;
                    }
                    self.obstruct(&task.path);
                }
                Step::Remove => {
                    plan.remove.push(task.clone());
                    continue;
                }
                Step::Share => self.keep(&task.path, task.master, Here::Shared).await?,
                Step::Forget => self.forget(&task.path).await?,
                Step::Obstructed => {
                    self.forget(&task.path).await?;
                    self.obstruct(&task.path);
                }
                Step::Keep => {}
            }
            plan.done.push(task.clone());
        }
        Ok(plan)
    }

    /// A directory that becomes something else goes first, if all in it is own.
    async fn make_room(&self, task: &Task, here: Option<&Attr>) -> FsResult<bool> {
        let is_directory = |attr: Option<&Attr>| attr.is_some_and(|attr| attr.kind == FileKind::Directory);
        if !is_directory(here) || is_directory(task.master.as_ref()) {
            return Ok(true);
        }
        self.remove_tree(&task.path).await?;
        Ok(self.look_here(vec![task.path.clone()]).await?.iter().all(|(_, here)| here.is_none()))
    }

    /// The directories above are here, and known.
    async fn ensure_above(&self, masters: &Masters, part: &[(Task, Option<Record>)]) -> FsResult<()> {
        let mut above: BTreeMap<usize, Vec<GlobalPath>> = BTreeMap::new();
        for (task, _) in part {
            for path in std::iter::successors(task.path.parent(), GlobalPath::parent) {
                let depth = path.components().count();
                let same = above.entry(depth).or_default();
                if same.contains(&path) {
                    break;
                }
                same.push(path);
            }
        }
        let paths: Vec<GlobalPath> = above.into_values().flatten().collect();
        let found = self.look_here(paths.clone()).await?;
        for (path, (record, here)) in paths.into_iter().zip(found) {
            if record.as_ref().is_some_and(Record::is_settled) && here.is_some() {
                continue;
            }
            let attr = masters.direct.stat(&path, Deadline::after(LOOK)).await?;
            match decide(record.as_ref(), Some(&attr), here.as_ref()) {
                Step::Share => self.keep(&path, Some(attr), Here::Shared).await?,
                // Also one that is being made at this moment beside us: it is no stranger's.
                Step::Bring => self.make_directory(masters, path, attr).await?,
                // What is beneath fails, and says why.
                Step::Keep | Step::Remove | Step::Forget | Step::Obstructed => {}
            }
        }
        Ok(())
    }

    async fn make_directory(&self, masters: &Masters, path: GlobalPath, attr: Attr) -> FsResult<()> {
        self.keep(&path, Some(attr), Here::Bringing(None)).await?;
        let item = HomeItem { path: path.clone(), attr: Some(attr), same_as: None };
        self.0.receiver.bring_all(vec![item], masters.direct.clone(), Deadline::after(LOOK)).await?;
        self.keep(&path, Some(attr), Here::Copy(attr.version())).await
    }

    async fn bring_part(&self, from: Arc<dyn Source>, part: Vec<(Task, Option<Record>)>) -> FsResult<()> {
        let begun = part.iter().filter_map(|(task, record)| {
            Some((task.path.clone(), Record::bringing(record.as_ref(), task.master?)))
        });
        let (ledger, begun) = (self.0.ledger.clone(), begun.collect::<Vec<_>>());
        blocking(move || ledger.put(&begun, true)).await?;
        let item =
            |(task, _): &(Task, _)| HomeItem { path: task.path.clone(), attr: task.master, same_as: None };
        let items = part.iter().map(item).collect();
        let mut answers = self.0.receiver.bring(items, from, Deadline::after(MAX_DEADLINE));
        let mut open: Vec<Option<Task>> = part.into_iter().map(|(task, _)| Some(task)).collect();
        let (mut brought, mut trouble) = (Vec::new(), None);
        while let Some(settled) = answers.recv().await {
            let Some(task) = open.get_mut(settled.item as usize).and_then(Option::take) else { continue };
            match settled.outcome {
                Ok(()) => brought.push(task),
                Err(FsError::Stale(_)) => {
                    self.settle(std::slice::from_ref(&task));
                    self.look_at(&task.path);
                }
                Err(error) => {
                    trouble = Some(format!("{}: {error}", task.path));
                    self.0.wanted.lock().fail(&task, self.now());
                }
            }
        }
        open.into_iter().flatten().for_each(|task| self.0.wanted.lock().fail(&task, self.now()));
        self.confirm(brought).await?;
        match trouble {
            Some(trouble) => self.tell_trouble(&trouble),
            None => *self.0.trouble.lock() = None,
        }
        Ok(())
    }

    /// What was brought is a copy if it is still as it was made.
    async fn confirm(&self, brought: Vec<Task>) -> FsResult<()> {
        let found = self.look_here(brought.iter().map(|task| task.path.clone()).collect()).await?;
        let mut copies = Vec::new();
        for (task, (_, here)) in brought.iter().zip(found) {
            match (task.master, here) {
                (Some(master), Some(here)) if is_as_brought(&master, &here) => {
                    copies.push((task.path.clone(), Record { master, here: Here::Copy(here.version()) }));
                }
                _ => self.suspect(&task.path),
            }
        }
        let ledger = self.0.ledger.clone();
        blocking(move || ledger.put(&copies, false)).await?;
        self.settle(&brought);
        Ok(())
    }

    /// Removes what was brought of `path` and beneath it. What was not brought stays, with the directories that it is in.
    pub(super) async fn remove_tree(&self, path: &GlobalPath) -> FsResult<()> {
        loop {
            let (ledger, at) = (self.0.ledger.clone(), path.clone());
            let below = blocking(move || ledger.below(&at, REMOVED_AT_ONCE)).await?;
            if below.is_empty() {
                break;
            }
            for path in below {
                self.remove_one(&path).await?;
            }
        }
        self.remove_one(path).await
    }

    async fn remove_one(&self, path: &GlobalPath) -> FsResult<()> {
        let found = self.look_here(vec![path.clone()]).await?.pop();
        let Some((Some(record), here)) = found else { return Ok(()) };
        if let (Step::Remove, Some(here)) = (decide(Some(&record), None, here.as_ref()), here) {
            let (at, is_directory) = (path.clone(), here.kind == FileKind::Directory);
            let remove = self.0.origin.install(Arc::new(()), Deadline::after(LOOK), move |tree| {
                tree.remove_alone(&at, is_directory)
            });
            match remove.await {
                Ok(()) | Err(FsError::NOT_FOUND) => {}
                Err(NOT_EMPTY) if self.has_below(path).await? => return Ok(()),
                Err(NOT_EMPTY) => {}
                Err(error) => return Err(error),
            }
        } else if here.is_some_and(|here| here.kind == FileKind::Directory) && self.has_below(path).await? {
            return Ok(());
        }
        self.forget(path).await
    }

    async fn has_below(&self, path: &GlobalPath) -> FsResult<bool> {
        let (ledger, at) = (self.0.ledger.clone(), path.clone());
        blocking(move || Ok(!ledger.children(&at)?.is_empty())).await
    }

    /// What is kept of paths, and what is at their places.
    async fn look_here(&self, paths: Vec<GlobalPath>) -> FsResult<Vec<Found>> {
        let here = self.0.origin.look(paths.clone(), Deadline::after(LOOK)).await?;
        let ledger = self.0.ledger.clone();
        let records = move || paths.iter().map(|path| ledger.get(path)).collect::<FsResult<Vec<_>>>();
        Ok(blocking(records).await?.into_iter().zip(here).collect())
    }

    async fn keep(&self, path: &GlobalPath, master: Option<Attr>, here: Here) -> FsResult<()> {
        let Some(master) = master else { return Ok(()) };
        let (ledger, path) = (self.0.ledger.clone(), path.clone());
        blocking(move || ledger.put(&[(path, Record { master, here })], true)).await
    }

    fn settle(&self, tasks: &[Task]) {
        let mut wanted = self.0.wanted.lock();
        tasks.iter().for_each(|task| wanted.settle(task));
    }
}
