//! Makes paths of an origin what they are at another site, which is read as any reader would read it.
//!
//! *Invariants:* what is answered as done is on disk here; an error of one path ends no other; a path never shows half of a
//! file. Directories come first, and their attributes last, since what is made in them moves their times.

use super::content;
use super::small::{Come, SmallFile, complete_files};
use crate::model::batch_order::BatchOrder;
use crate::origin::Origin;
use crate::origin::install::{Turn, Xattrs};
use crate::origin::surroundings::Surroundings;
use crate::origin::tree::Tree;
use crate::source::{Deadline, Source};
use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use globalfs_proto::bulk::requests;
use globalfs_proto::limits::MAX_HOME_ITEMS;
use globalfs_proto::{Attr, FileKind, FsError, FsResult, GlobalPath, HomeItem, Settled, WantedFile};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

const EISDIR: i32 = 21;
const EINVAL: i32 = 22;
const EFBIG: i32 = 27;
const ENOSPC: i32 = 28;
const EDQUOT: i32 = 122;

/// Paths of one batch that are worked on at a time: some take a round trip or two.
const PATHS_AT_ONCE: usize = 64;

/// Small files that one step places: what one takes is not much more than what a step costs beside it.
const FILES_A_STEP: usize = 16;

/// Such steps at a time.
const STEPS_AT_ONCE: usize = 8;

/// Larger files of one batch whose content is read at a time.
const FILES_AT_ONCE: usize = 2;

/// What is kept of the time for flushing and answering: this part of it, and this at most. What had no time to be begun is
/// said again, and what was done is not done twice.
const FLUSH_TIME: (u32, Duration) = (8, Duration::from_secs(10));

/// Receives into one origin. Clones are one.
#[derive(Clone)]
pub struct Receiver {
    origin: Origin,
}

/// The way to one origin for one batch.
#[derive(Clone)]
pub(super) struct Steps {
    origin: Origin,
    turn: Turn,
    pub(super) deadline: Deadline,
}

/// One batch on its way.
struct Batch {
    steps: Steps,
    /// When the answers must be out; steps end earlier.
    deadline: Deadline,
    from: Arc<dyn Source>,
    items: Vec<HomeItem>,
    outcomes: Vec<FsResult<()>>,
    answers: mpsc::Sender<Settled>,
}

impl Receiver {
    /// Into `origin`.
    pub fn new(origin: Origin) -> Self {
        Self { origin }
    }

    /// Makes the items in this origin what they are at `from`. Answers each once, when it is on disk here. If the answers
    /// are dropped nothing more is begun.
    pub fn bring(
        &self,
        items: Vec<HomeItem>,
        from: Arc<dyn Source>,
        deadline: Deadline,
    ) -> mpsc::Receiver<Settled> {
        self.bring_in_turn(items, from, deadline, Arc::new(()))
    }

    /// The same; `turn` is dropped when all that was begun has ended.
    pub(super) fn bring_in_turn(
        &self,
        items: Vec<HomeItem>,
        from: Arc<dyn Source>,
        deadline: Deadline,
        turn: Turn,
    ) -> mpsc::Receiver<Settled> {
        let (answers, receiver) = mpsc::channel(MAX_HOME_ITEMS);
        let outcomes = vec![Ok(()); items.len()];
        let steps = Steps { origin: self.origin.clone(), turn, deadline: time_to_work(deadline) };
        tokio::spawn(Batch { steps, deadline, from, items, outcomes, answers }.run());
        receiver
    }

    /// The same, when nobody needs to hear of single paths: the first failure.
    pub async fn bring_all(
        &self,
        items: Vec<HomeItem>,
        from: Arc<dyn Source>,
        deadline: Deadline,
    ) -> FsResult<()> {
        let mut answers = self.bring(items, from, deadline);
        let mut result = Ok(());
        while let Some(settled) = answers.recv().await {
            result = result.and(settled.outcome);
        }
        result
    }
}

impl Steps {
    /// One step, on a thread that may block.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        step: impl FnOnce(&Tree) -> FsResult<T> + Send + 'static,
    ) -> FsResult<T> {
        self.origin.install(self.turn.clone(), self.deadline, step).await
    }
}

impl Batch {
    async fn run(mut self) {
        let answers = self.answers.clone();
        tokio::select! {
            () = answers.closed() => {}
            () = self.work() => {}
        }
    }

    async fn work(&mut self) {
        self.refuse_misfits();
        let durable = match self.surroundings().await {
            Ok(before) => {
                self.carry_out().await;
                self.end(before).await
            }
            Err(error) => Err(error),
        };
        self.outcomes.iter_mut().for_each(|outcome| *outcome = outcome.clone().and(durable.clone()));
        for (item, outcome) in (0..).zip(std::mem::take(&mut self.outcomes)) {
            let _ = self.answers.send(Settled { item, outcome }).await;
        }
    }

    async fn carry_out(&mut self) {
        self.make_directories().await;
        self.place_small_files().await;
        self.place_others().await;
        self.link().await;
        self.remove().await;
        self.dress_directories().await;
    }

    /// What the batch says against itself has changed while it was made.
    fn refuse_misfits(&mut self) {
        let order = BatchOrder::of(&self.items);
        let misfits = (0..self.items.len()).filter(|place| !order.fits(*place));
        misfits.for_each(|place| self.outcomes[place] = Err(FsError::Stale(None)));
    }

    /// Directories that are not told of lose no time stamps by what is made in them.
    async fn surroundings(&self) -> FsResult<Arc<Surroundings>> {
        let is_directory = |item: &&HomeItem| item.attr.is_some_and(|attr| attr.kind == FileKind::Directory);
        let told: BTreeSet<_> =
            self.items.iter().filter(is_directory).map(|item| item.path.clone()).collect();
        let parents: BTreeSet<_> = self.items.iter().filter_map(|item| item.path.parent()).collect();
        let bystanders = &parents - &told;
        let around = &parents | &told;
        self.steps.run(move |tree| tree.surroundings(&around, &bystanders).map(Arc::new)).await
    }

    async fn end(&self, before: Arc<Surroundings>) -> FsResult<()> {
        let steps = Steps { deadline: self.deadline, ..self.steps.clone() };
        let end = move |tree: &Tree| {
            tree.restore_times(&before);
            before.flush()
        };
        steps.run(end).await
    }

    /// The places of the items that have not failed, are there and of a kind that `choose` takes.
    fn present(&self, choose: impl Fn(&HomeItem, &Attr) -> bool) -> Vec<(usize, GlobalPath, Attr)> {
        let all = self.items.iter().enumerate().filter(|(at, _)| self.outcomes[*at].is_ok());
        let chosen = all.filter_map(|(at, item)| {
            let attr = item.attr.as_ref().filter(|attr| choose(item, attr))?;
            Some((at, item.path.clone(), *attr))
        });
        chosen.collect()
    }

    fn tell(&mut self, outcomes: Vec<(usize, FsResult<()>)>) {
        for (at, outcome) in outcomes {
            self.outcomes[at] = outcome;
        }
    }

    /// From the top: the shorter path first.
    async fn make_directories(&mut self) {
        let mut directories = self.present(|_, attr| attr.kind == FileKind::Directory);
        directories.sort_by_key(|(_, path, _)| path.as_bytes().len());
        for (at, path, _) in directories {
            self.outcomes[at] = self.steps.run(move |tree| tree.install_directory(&path)).await;
        }
    }

    /// Small files come many at a time, and are placed as they are complete.
    async fn place_small_files(&mut self) {
        let small = self.present(|item, attr| {
            attr.kind == FileKind::Regular && item.same_as.is_none() && wanted(&item.path, attr).is_small()
        });
        let files: Vec<WantedFile> = small.iter().map(|(_, path, attr)| wanted(path, attr)).collect();
        for part in requests(&files) {
            let outcomes = self.place_part(&small[part.clone()], files[part].to_vec()).await;
            self.tell(outcomes);
        }
    }

    async fn place_part(
        &self,
        part: &[(usize, GlobalPath, Attr)],
        files: Vec<WantedFile>,
    ) -> Vec<(usize, FsResult<()>)> {
        let missing = FsError::Unreachable("the files ended too early".to_owned());
        let mut outcomes: HashMap<usize, FsResult<()>> =
            part.iter().map(|(at, ..)| (*at, Err(missing.clone()))).collect();
        let complete = match self.from.read_files(files, self.steps.deadline).await {
            Ok(chunks) => {
                complete_files(chunks, part.iter().map(|(_, path, attr)| wanted(path, attr)).collect())
            }
            Err(error) => {
                return part.iter().map(|(at, ..)| (*at, Err(error.clone()))).collect();
            }
        };
        let place = |group| self.place_group(part, group);
        let groups = complete.ready_chunks(FILES_A_STEP).map(place);
        let mut placed = std::pin::pin!(groups.buffer_unordered(STEPS_AT_ONCE));
        while let Some(some) = placed.next().await {
            outcomes.extend(some);
        }
        outcomes.into_iter().collect()
    }

    /// Places small files that have come, those of one step by one thread.
    async fn place_group(
        &self,
        part: &[(usize, GlobalPath, Attr)],
        group: Vec<Come>,
    ) -> Vec<(usize, FsResult<()>)> {
        let dressed = |(number, chunks): Come| async move {
            let (at, path, attr) = &part[number];
            let file = async {
                let (path, attr, chunks) = (path.clone(), *attr, chunks?);
                let xattrs = self.xattrs(&path, &attr).await?;
                Ok(SmallFile { path, attr, chunks, xattrs })
            };
            (*at, file.await)
        };
        let dressed: Vec<_> = join_all(group.into_iter().map(dressed)).await;
        let places: Vec<usize> = dressed.iter().map(|(at, _)| *at).collect();
        let deadline = self.steps.deadline;
        let install = move |tree: &Tree| {
            let install = |(at, file): (usize, FsResult<SmallFile>)| {
                (at, file.and_then(|file| file.install(tree, deadline)))
            };
            Ok(dressed.into_iter().map(install).collect())
        };
        let installed = self.steps.run(install).await;
        installed.unwrap_or_else(|error| places.into_iter().map(|at| (at, Err(error.clone()))).collect())
    }

    /// Larger files, empty ones, links and special files.
    async fn place_others(&mut self) {
        let others = self.present(|item, attr| {
            let small = attr.kind == FileKind::Regular && wanted(&item.path, attr).is_small();
            attr.kind != FileKind::Directory && item.same_as.is_none() && !small
        });
        let (large, light): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|(_, _, attr)| attr.kind == FileKind::Regular && attr.size > 0);
        for (paths, at_once) in [(light, PATHS_AT_ONCE), (large, FILES_AT_ONCE)] {
            let batch = &*self;
            let place = |(at, path, attr)| async move { (at, batch.place(path, attr).await) };
            let outcomes = stream::iter(paths).map(place).buffer_unordered(at_once).collect().await;
            self.tell(outcomes);
        }
    }

    async fn place(&self, path: GlobalPath, attr: Attr) -> FsResult<()> {
        let xattrs = self.xattrs(&path, &attr).await?;
        match attr.kind {
            FileKind::Regular if attr.size == 0 => {
                self.steps.run(move |tree| tree.install_file(&path, &[], &attr, &xattrs)).await
            }
            FileKind::Regular => self.place_large(path, attr, xattrs).await,
            kind => {
                let target = match kind {
                    FileKind::Symlink => {
                        Some(self.from.read_link(&path, self.steps.deadline).await.map_err(stale)?)
                    }
                    _ => None,
                };
                let install =
                    move |tree: &Tree| tree.install_special(&path, &attr, target.as_deref(), &xattrs);
                self.steps.run(install).await
            }
        }
    }

    async fn place_large(&self, path: GlobalPath, attr: Attr, xattrs: Xattrs) -> FsResult<()> {
        let placed = content::place(&self.steps, &*self.from, path.clone(), (attr, xattrs)).await;
        if let Err(FsError::Os(EFBIG | ENOSPC | EDQUOT)) = placed {
            // What is left of it would only stand in the way of others. If it cannot be removed either, the first error
            // says more.
            let _ = self.steps.run(move |tree| tree.drop_draft(&path)).await;
        }
        placed
    }

    /// Further names of files.
    async fn link(&mut self) {
        let order = BatchOrder::of(&self.items);
        let links = self.present(|item, _| item.same_as.is_some()).into_iter().filter_map(|(at, path, _)| {
            let first = order.first_name(at)?;
            Some((at, path, first.clone(), order.place(first)))
        });
        for (at, path, first, place) in links.collect::<Vec<_>>() {
            let file = place.map_or(Ok(()), |place| self.outcomes[place].clone());
            self.outcomes[at] = match file {
                Ok(()) => self.steps.run(move |tree| tree.install_link(&path, &first)).await,
                Err(error) => Err(error),
            };
        }
    }

    /// From the bottom: the longer path first.
    async fn remove(&mut self) {
        let absent = self
            .items
            .iter()
            .enumerate()
            .filter(|(at, item)| item.attr.is_none() && self.outcomes[*at].is_ok());
        let mut absent: Vec<_> = absent.map(|(at, item)| (at, item.path.clone())).collect();
        absent.sort_by_key(|(_, path)| std::cmp::Reverse(path.as_bytes().len()));
        for (at, path) in absent {
            self.outcomes[at] = self.steps.run(move |tree| tree.install_absence(&path)).await;
        }
    }

    async fn dress_directories(&mut self) {
        let mut directories = self.present(|_, attr| attr.kind == FileKind::Directory);
        directories.sort_by_key(|(_, path, _)| std::cmp::Reverse(path.as_bytes().len()));
        for (at, path, attr) in directories {
            self.outcomes[at] = match self.xattrs(&path, &attr).await {
                Ok(xattrs) => {
                    self.steps.run(move |tree| tree.install_attributes(&path, &attr, &xattrs)).await
                }
                Err(error) => Err(error),
            };
        }
    }

    async fn xattrs(&self, path: &GlobalPath, attr: &Attr) -> FsResult<Xattrs> {
        if attr.no_xattrs || attr.kind == FileKind::Symlink {
            return Ok(Vec::new());
        }
        let names = self.from.list_xattr(path, self.steps.deadline).await.map_err(stale)?;
        let mut xattrs = Vec::new();
        for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            match self.from.get_xattr(path, name, self.steps.deadline).await {
                Ok(value) => xattrs.push((Bytes::copy_from_slice(name), value)),
                // `ENODATA`: it has gone since.
                Err(FsError::Os(61)) => {}
                Err(error) => return Err(stale(error)),
            }
        }
        Ok(xattrs)
    }
}

fn wanted(path: &GlobalPath, attr: &Attr) -> WantedFile {
    WantedFile { path: path.clone(), version: attr.version() }
}

/// Nothing is begun in the last part of the time.
fn time_to_work(deadline: Deadline) -> Deadline {
    let left = deadline.remaining();
    deadline.min(Deadline::after(left - FLUSH_TIME.1.min(left / FLUSH_TIME.0)))
}

/// What is no longer there, or of another kind, has changed since it was told of.
pub(super) fn stale(error: FsError) -> FsError {
    match error {
        FsError::NOT_FOUND | FsError::NOT_A_DIRECTORY | FsError::Os(EISDIR | EINVAL) => FsError::Stale(None),
        other => other,
    }
}

#[cfg(test)]
#[path = "receive_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "receive_fault_tests.rs"]
mod fault_tests;
