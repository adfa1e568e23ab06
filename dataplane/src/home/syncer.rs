//! Brings home what one held subtree owes, in the background: says which paths have changed, and home comes and gets them.
//!
//! *Invariant:* a path that has changed since it was looked at stays owed, whatever home has answered.

use super::blocking;
use super::holdings::{Holding, Holdings};
use super::links::is_linked;
use crate::model::pending::Due;
use crate::model::urgency::Rank;
use crate::source::{Deadline, Source};
use async_trait::async_trait;
use globalfs_proto::limits::{HIDDEN_PREFIX, MAX_DEADLINE, MAX_HOME_ITEMS};
use globalfs_proto::{Attr, BringHome, FileKind, FsError, FsResult, GlobalPath, HomeItem, Settled};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Bytes of files that one request brings home, but for a single larger file.
const BATCH_BYTES: u64 = 64 << 20;

/// What looking at own files may take.
const LOOK: Duration = Duration::from_secs(30);

/// The first and the longest pause after home did not answer at all.
const PAUSE: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(5)];

/// What is waited when nothing could be brought home that is due: what is gone waits for what is being changed.
const REST: Duration = Duration::from_millis(20);

/// How often it is looked whether others are done that go first.
const LET_GO: Duration = Duration::from_millis(50);

/// The way to the site that a subtree comes home to.
#[async_trait]
pub trait Home: Send + Sync + 'static {
    /// Asks it to come and get what has changed.
    async fn bring_home(
        &self,
        bring: BringHome,
        deadline: Deadline,
    ) -> FsResult<mpsc::Receiver<FsResult<Settled>>>;

    /// What policy says of the way home of `scope`.
    fn rank(&self, scope: &GlobalPath) -> Rank {
        let _ = scope;
        Rank::default()
    }
}

/// What brings home the changes of one subtree.
pub struct Syncer {
    holdings: Holdings,
    holding: Arc<Holding>,
    origin: Arc<dyn Source>,
    home: Arc<dyn Home>,
    /// Subtrees that were moved, and whose paths were added since.
    expanded: HashSet<Due>,
}

/// What one request says, and what was due of it.
#[derive(Default)]
struct Batch {
    items: Vec<HomeItem>,
    due: Vec<Option<Due>>,
    places: HashMap<GlobalPath, usize>,
    bytes: u64,
}

impl Syncer {
    /// For `holding`, whose files are in `origin`.
    pub fn new(
        holdings: Holdings,
        holding: Arc<Holding>,
        origin: Arc<dyn Source>,
        home: Arc<dyn Home>,
    ) -> Self {
        Self { holdings, holding, origin, home, expanded: HashSet::new() }
    }

    /// Goes on until it is dropped.
    pub async fn run(mut self) {
        let mut pause = PAUSE[0];
        while let Err(error) = self.look_around().await {
            self.tell_trouble(&error.to_string());
            tokio::time::sleep(pause).await;
            pause = PAUSE[1].min(pause * 2);
        }
        pause = PAUSE[0];
        loop {
            self.wait().await;
            self.let_others_go().await;
            let outcome = self.round().await;
            self.holding.tried.notify_waiters();
            self.holdings.rests(&self.holding);
            match outcome {
                Ok(0) => tokio::time::sleep(REST).await,
                Ok(_) => pause = PAUSE[0],
                Err(error) => {
                    self.tell_trouble(&error.to_string());
                    tokio::time::sleep(pause).await;
                    pause = PAUSE[1].min(pause * 2);
                }
            }
        }
    }

    /// While others have something more urgent; who is waited for goes at once.
    async fn let_others_go(&self) {
        let began = Instant::now();
        let own = self.home.rank(&self.holding.scope).urgency(self.holding.debt(&self.holdings).oldest);
        let is_awaited = || self.holding.is_closed() || self.holding.pending.lock().is_awaited();
        while !self.holdings.may_go(&self.holding, own, began.elapsed()) && !is_awaited() {
            let _ = timeout(LET_GO, self.holding.wake.notified()).await;
        }
    }

    /// Until something is due.
    async fn wait(&self) {
        loop {
            let now = self.holdings.now();
            let hurry = self.holding.is_closed();
            let due = {
                let pending = self.holding.pending.lock();
                if hurry && !pending.is_empty() { Some(now) } else { pending.next_due(now) }
            };
            let woken = self.holding.wake.notified();
            match due.map(|due| due.saturating_sub(now)) {
                Some(Duration::ZERO) => return,
                Some(left) => drop(timeout(left, woken).await),
                None => woken.await,
            }
        }
    }

    /// What a start does not know: which files have several names, and what was removed.
    async fn look_around(&self) -> FsResult<()> {
        self.add_below(&self.holding.scope, false).await?;
        let paths = self.holding.some_paths(usize::MAX);
        for path in paths {
            if self.look_at(&path).await?.is_none() {
                // After all else: it is not known what it was changed after.
                self.holding.pending.lock().add(&path, self.holdings.now());
            }
        }
        Ok(())
    }

    /// Brings some home: how many paths left the set.
    async fn round(&mut self) -> FsResult<usize> {
        let hurry = self.holding.is_closed();
        let due = self.holding.pending.lock().due(MAX_HOME_ITEMS, hurry, self.holdings.now());
        self.expand(&due).await?;
        let Batch { items, due, .. } = self.batch(due).await?;
        if items.is_empty() {
            return Ok(0);
        }
        let paths = items.iter().map(|item| item.path.clone()).zip(due).collect();
        let bring = BringHome {
            scope: self.holding.scope.clone(),
            fence: self.holding.fence,
            batch: self.holding.next_batch(),
            items,
        };
        let answers = self.home.bring_home(bring, Deadline::after(MAX_DEADLINE)).await?;
        let settled = self.settle(paths, answers).await?;
        if self.holding.pending.lock().is_empty() {
            self.expanded.clear();
        }
        Ok(settled)
    }

    /// Adds what is beneath the subtrees that were moved.
    async fn expand(&mut self, due: &[Due]) -> FsResult<()> {
        for whole in due.iter().filter(|due| due.whole) {
            if !self.expanded.contains(whole) {
                let is_directory = |attr: &Attr| attr.kind == FileKind::Directory;
                if self.look_at(&whole.path).await?.as_ref().is_some_and(is_directory) {
                    self.add_below(&whole.path, true).await?;
                }
                self.expanded.insert(whole.clone());
            }
        }
        Ok(())
    }

    /// Looks at all that is beneath `top`; `owed`: it is not home.
    async fn add_below(&self, top: &GlobalPath, owed: bool) -> FsResult<()> {
        let mut directories = vec![top.clone()];
        while let Some(directory) = directories.pop() {
            let listing = match self.origin.list(&directory, Deadline::after(LOOK)).await {
                Err(FsError::NOT_FOUND | FsError::NOT_A_DIRECTORY) => continue,
                listing => listing?,
            };
            let mut paths = Vec::with_capacity(listing.len());
            for entry in listing.iter().filter(|entry| !entry.name.starts_with(HIDDEN_PREFIX)) {
                let path = directory.join(&entry.name).map_err(|_| FsError::Os(36))?;
                self.holding.links.lock().see(&path, &entry.attr);
                if entry.attr.kind == FileKind::Directory {
                    directories.push(path.clone());
                }
                paths.push(path);
            }
            if owed {
                self.add(paths).await?;
            }
        }
        Ok(())
    }

    async fn add(&self, paths: Vec<GlobalPath>) -> FsResult<()> {
        let (holdings, holding) = (self.holdings.clone(), self.holding.clone());
        blocking(move || holdings.add(&holding, &paths)).await
    }

    async fn look_at(&self, path: &GlobalPath) -> FsResult<Option<Attr>> {
        match self.origin.stat(path, Deadline::after(LOOK)).await {
            Ok(attr) => Ok(Some(attr)),
            Err(FsError::NOT_FOUND | FsError::NOT_A_DIRECTORY) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What is said of those that are due: as much as one request takes.
    async fn batch(&self, due: Vec<Due>) -> FsResult<Batch> {
        let (mut batch, mut gone) = (Batch::default(), Vec::new());
        for due in due {
            match self.look_at(&due.path).await? {
                Some(attr) if batch.has_room(&attr) => self.take(&mut batch, due, attr).await?,
                Some(_) => {}
                None => gone.push(due),
            }
        }
        for due in self.may_go(gone) {
            batch.push(HomeItem { path: due.path.clone(), attr: None, same_as: None }, Some(due));
        }
        self.take_directories(&mut batch).await?;
        let left = batch.cut();
        self.add(left).await?;
        Ok(batch)
    }

    /// Takes the directories of what is taken, too: they may be home already, and a batch that was cut off has left them
    /// with other times.
    async fn take_directories(&self, batch: &mut Batch) -> FsResult<()> {
        let scope = &self.holding.scope;
        let parents = batch.items.iter().filter_map(|item| item.path.parent());
        let parents: BTreeSet<_> = parents.filter(|path| path.starts_with(scope)).collect();
        for path in parents.into_iter().filter(|path| !batch.places.contains_key(path)).collect::<Vec<_>>() {
            if let Some(attr) = self.look_at(&path).await?.filter(|attr| attr.kind == FileKind::Directory) {
                batch.push(HomeItem { path, attr: Some(attr), same_as: None }, None);
            }
        }
        Ok(())
    }

    /// Those of `gone` that nothing stands in the way of.
    fn may_go(&self, mut gone: Vec<Due>) -> Vec<Due> {
        let mut pending = self.holding.pending.lock();
        gone.retain(|due| pending.gone(due));
        let first = pending.first_present();
        gone.retain(|due| first.is_none_or(|first| due.changed < first));
        gone
    }

    /// Takes a path, and with it the other names of its file. One of them may be in already, by itself, if the name was given
    /// since: then this is another name of that.
    async fn take(&self, batch: &mut Batch, due: Due, attr: Attr) -> FsResult<()> {
        let path = due.path.clone();
        let names = if is_linked(&attr) { self.other_names(&path, &attr).await? } else { Vec::new() };
        let same_as = names.iter().find(|name| batch.places.contains_key(name)).cloned();
        batch.push(HomeItem { path: path.clone(), attr: Some(attr), same_as }, Some(due));
        for name in names {
            batch.push(HomeItem { path: name, attr: Some(attr), same_as: Some(path.clone()) }, None);
        }
        Ok(())
    }

    async fn other_names(&self, path: &GlobalPath, attr: &Attr) -> FsResult<Vec<GlobalPath>> {
        self.holding.links.lock().see(path, attr);
        let known = self.holding.links.lock().names(attr.file);
        let mut names = Vec::with_capacity(known.len());
        for name in known.into_iter().filter(|name| name != path) {
            match self.look_at(&name).await? {
                Some(other) if other.file == attr.file => names.push(name),
                _ => self.holding.links.lock().forget(&name, attr.file),
            }
        }
        Ok(names)
    }

    /// Takes what home answers: how many paths left the set.
    async fn settle(
        &self,
        said: Vec<(GlobalPath, Option<Due>)>,
        mut answers: mpsc::Receiver<FsResult<Settled>>,
    ) -> FsResult<usize> {
        let (mut home, mut trouble, mut broken) = (Vec::new(), None, None);
        // What was said with others and is not known to be home is owed by itself: they may be, and leave the set.
        let mut missed: BTreeSet<_> =
            said.iter().filter(|(_, due)| due.is_none()).map(|(path, _)| path).collect();
        while let Some(answer) = answers.recv().await {
            let Settled { item, outcome } = match answer {
                Ok(settled) => settled,
                Err(error) => {
                    broken = Some(error);
                    break;
                }
            };
            let Some((path, due)) = said.get(item as usize) else { continue };
            if let Err(error) = &outcome
                && !matches!(error, FsError::Stale(_))
            {
                trouble = Some(format!("{path}: {error}"));
            }
            match (due, outcome) {
                (Some(due), Ok(())) => home.push(due.clone()),
                (Some(due), Err(_)) => self.holding.pending.lock().fail(due, self.holdings.now()),
                (None, Err(_)) => {}
                (None, Ok(())) => drop(missed.remove(path)),
            }
        }
        if !home.is_empty() {
            self.add(missed.into_iter().cloned().collect()).await?;
        }
        let (holdings, holding) = (self.holdings.clone(), self.holding.clone());
        let settled = blocking(move || holdings.settle(&holding, &home)).await?;
        match (broken, trouble) {
            (Some(error), _) => return Err(error),
            (None, Some(trouble)) => self.tell_trouble(&trouble),
            (None, None) => *self.holding.trouble.lock() = None,
        }
        Ok(settled)
    }

    fn tell_trouble(&self, text: &str) {
        let mut trouble = self.holding.trouble.lock();
        if trouble.as_deref() != Some(text) {
            tracing::warn!(scope = %self.holding.scope, reason = text, "changes_not_home");
        }
        *trouble = Some(text.to_owned());
    }
}

impl Batch {
    fn has_room(&self, attr: &Attr) -> bool {
        self.items.is_empty() || self.bytes.saturating_add(attr.size) <= BATCH_BYTES
    }

    /// A path that is in already only becomes due.
    fn push(&mut self, item: HomeItem, due: Option<Due>) {
        if let Some(place) = self.places.get(&item.path) {
            self.due[*place] = self.due[*place].take().or(due);
            return;
        }
        self.places.insert(item.path.clone(), self.items.len());
        if item.same_as.is_none() {
            self.bytes += item.attr.filter(|attr| attr.kind == FileKind::Regular).map_or(0, |attr| attr.size);
        }
        self.items.push(item);
        self.due.push(due);
    }

    /// What does not fit into a request is left for the next one: returns those paths that were not due by themselves.
    fn cut(&mut self) -> Vec<GlobalPath> {
        if self.items.is_empty() {
            return Vec::new();
        }
        let fits = BringHome::batch(&self.items);
        let left = self.items.drain(fits..).zip(self.due.drain(fits..));
        left.filter(|(_, due)| due.is_none()).map(|(item, _)| item.path).collect()
    }
}

#[cfg(test)]
#[path = "syncer_tests.rs"]
mod tests;
