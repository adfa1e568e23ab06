//! Finding what differs between replicas and their masters: by what is heard, and by walking through all of it after a start,
//! after a break, when policies change, and now and then.
//!
//! *Invariant:* a directory that cannot be read whole makes nothing in it go.

use super::looks::Names;
use super::{Asked, Masters, Replicas};
use crate::home::blocking;
use crate::model::replicas::{Record, Rule, When};
use crate::source::{Deadline, Listed, Listing, Source};
use globalfs_proto::limits::{HIDDEN_PREFIX, MAX_ENTRIES_BELOW};
use globalfs_proto::{Attr, FileKind, FsError, FsResult, GlobalPath};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// What a master is given to answer about names.
const ANSWER: Duration = Duration::from_secs(60);

/// All is looked at again after so long: what no master tells is found then.
const WALK_EVERY: Duration = Duration::from_secs(3600);

/// The first and the longest pause after a master gave no answer.
const PAUSE: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(5)];

/// How often it is looked whether there is room for more.
const ROOM_EVERY: Duration = Duration::from_millis(100);

/// Changes are gathered for so long.
const GATHER: Duration = Duration::from_millis(20);

/// Records that are gone through at a time.
const RECORDS_AT_ONCE: usize = 1000;

/// Why a path is wanted although no policy says so now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    None,
    /// Somebody has asked for it, or has read it.
    Asked,
    /// Also if it seems to be as it should.
    Suspect,
}

/// Directories that are still to be looked at, and those that came along.
#[derive(Default)]
struct Walk {
    left: VecDeque<GlobalPath>,
    known: HashMap<GlobalPath, Listing>,
}

impl Walk {
    async fn list(&mut self, source: &dyn Source, directory: &GlobalPath) -> FsResult<Listing> {
        if let Some(listing) = self.known.remove(directory) {
            return Ok(listing);
        }
        let deadline = Deadline::after(ANSWER);
        let Listed { listing, mut directories } =
            source.list_below(directory, MAX_ENTRIES_BELOW, deadline).await?;
        self.known.clear();
        while let Some(told) = directories.recv().await {
            self.known.extend(told.listing.map(|listing| (told.path, listing)));
        }
        Ok(listing)
    }
}

impl Replicas {
    /// Goes on until it is dropped.
    pub(super) async fn survey_on(self, masters: Masters) {
        let (mut walk, mut walked_at, mut pause) = (Walk::default(), Instant::now(), PAUSE[0]);
        loop {
            let outcome = self.survey(&masters, &mut walk, &mut walked_at).await;
            match outcome {
                Ok(()) => pause = PAUSE[0],
                Err(error) => {
                    self.tell_trouble(&error.to_string());
                    tokio::time::sleep(pause).await;
                    pause = PAUSE[1].min(pause * 2);
                }
            }
            while self.0.wanted.lock().is_full() {
                tokio::time::sleep(ROOM_EVERY).await;
            }
        }
    }

    /// One piece of the work, or a rest until there is some.
    async fn survey(&self, masters: &Masters, walk: &mut Walk, walked_at: &mut Instant) -> FsResult<()> {
        if self.0.walk_again.swap(false, Ordering::SeqCst) || walked_at.elapsed() > WALK_EVERY {
            self.0.surveyed.store(false, Ordering::SeqCst);
            *walked_at = Instant::now();
            let begun = self.begin_walk().await;
            *walk = begun.inspect_err(|_| self.0.walk_again.store(true, Ordering::SeqCst))?;
        }
        if let Some(asked) = self.next_asked() {
            return self.survey_asked(masters, asked).await;
        }
        let (looks, read) = self.0.looks.lock().take();
        let mut failed = Ok(());
        for (directory, names) in looks {
            if let Err(error) = self.look_in(masters, walk, &directory, &names, &read).await {
                self.0.looks.lock().put_back(directory, names, &read);
                failed = Err(error);
            }
        }
        failed?;
        match walk.left.pop_front() {
            Some(directory) => self.walk_on(masters, walk, directory).await,
            None => {
                self.0.surveyed.store(true, Ordering::SeqCst);
                let woken = self.0.look.notified();
                let is_idle = self.0.looks.lock().is_empty() && self.next_asked().is_none();
                if is_idle && !self.0.walk_again.load(Ordering::SeqCst) {
                    let _ = timeout(WALK_EVERY, woken).await;
                    tokio::time::sleep(GATHER).await;
                }
                Ok(())
            }
        }
    }

    async fn walk_on(&self, masters: &Masters, walk: &mut Walk, directory: GlobalPath) -> FsResult<()> {
        let looked = self.look_at_directory(masters, walk, &directory, Wish::None, &BTreeSet::new()).await;
        match looked {
            // Its name is looked at in the directory above, or is where a pattern begins.
            Err(FsError::NOT_FOUND | FsError::NOT_A_DIRECTORY) => self.is_gone(&directory).await,
            Err(error) => {
                // Other masters may be there.
                walk.left.push_back(directory);
                Err(error)
            }
            looked => looked,
        }
    }

    /// Where a walk begins. What no policy wants here any more is wanted away, or is no concern of ours.
    async fn begin_walk(&self) -> FsResult<Walk> {
        let mut left: BTreeSet<GlobalPath> = BTreeSet::new();
        let mut after = None;
        loop {
            let (ledger, from) = (self.0.ledger.clone(), after.take());
            let records = blocking(move || ledger.next(from.as_ref(), RECORDS_AT_ONCE)).await?;
            let Some((last, _)) = records.last() else { break };
            after = Some(last.clone());
            for (path, record) in records {
                let is_directory = record.master.kind == FileKind::Directory;
                match self.0.rules.rule(&path) {
                    Some(rule) if rule.when == When::OnceRead => left.extend(path.parent()),
                    Some(_) => {}
                    None if self.0.rules.is_own(&path) => self.forget(&path).await?,
                    None if is_directory && self.0.rules.may_hold(&path) => {}
                    None => self.0.wanted.lock().want(&path, None, departed(), self.now()),
                }
            }
        }
        for root in self.0.rules.roots() {
            match root.is_root() {
                true => _ = left.insert(root),
                false => self.0.looks.lock().add(&root),
            }
        }
        self.0.wake.notify_waiters();
        Ok(Walk { left: left.into_iter().collect(), known: HashMap::new() })
    }

    fn next_asked(&self) -> Option<Asked> {
        self.0.asked.lock().iter().find(|asked| !asked.is_surveyed).cloned()
    }

    /// To its end, or to the first directory that is not told.
    async fn survey_asked(&self, masters: &Masters, asked: Asked) -> FsResult<()> {
        let surveyed = self.walk_asked(masters, &asked.path).await;
        let mut all = self.0.asked.lock();
        if let Some(asked) = all.iter_mut().find(|one| one.number == asked.number) {
            asked.is_surveyed = surveyed.is_ok();
            asked.trouble = surveyed.as_ref().err().map(FsError::to_string);
        }
        surveyed
    }

    async fn walk_asked(&self, masters: &Masters, path: &GlobalPath) -> FsResult<()> {
        let mut walk = Walk::default();
        self.look_at_name(masters, &mut walk, path, Wish::Asked).await?;
        while let Some(directory) = walk.left.pop_front() {
            self.look_at_directory(masters, &mut walk, &directory, Wish::Asked, &BTreeSet::new()).await?;
            while self.0.wanted.lock().is_full() {
                tokio::time::sleep(ROOM_EVERY).await;
            }
        }
        Ok(())
    }

    async fn look_in(
        &self,
        masters: &Masters,
        walk: &mut Walk,
        directory: &GlobalPath,
        names: &Names,
        read: &BTreeSet<GlobalPath>,
    ) -> FsResult<()> {
        // It came along before the change was heard.
        walk.known.remove(directory);
        match names {
            Names::Some(paths) => {
                for path in paths {
                    self.look_at_name(masters, walk, path, Wish::None).await?;
                }
                Ok(())
            }
            Names::All => match self.look_at_directory(masters, walk, directory, Wish::None, read).await {
                Err(FsError::NOT_FOUND | FsError::NOT_A_DIRECTORY) => Ok(()),
                looked => looked,
            },
        }
    }

    async fn look_at_name(
        &self,
        masters: &Masters,
        walk: &mut Walk,
        path: &GlobalPath,
        wish: Wish,
    ) -> FsResult<()> {
        walk.known.remove(path);
        let attr = match masters.direct.stat(path, Deadline::after(ANSWER)).await {
            Ok(attr) => Some(attr),
            Err(FsError::NOT_FOUND | FsError::NOT_A_DIRECTORY) => None,
            Err(error) => return Err(error),
        };
        if attr.is_none() {
            return self.is_gone(path).await;
        }
        let (ledger, at) = (self.0.ledger.clone(), path.clone());
        let record = blocking(move || ledger.get(&at)).await?;
        if self.consider(path, attr, record.as_ref(), wish) {
            walk.left.push_back(path.clone());
        }
        self.0.wake.notify_waiters();
        Ok(())
    }

    async fn look_at_directory(
        &self,
        masters: &Masters,
        walk: &mut Walk,
        directory: &GlobalPath,
        wish: Wish,
        read: &BTreeSet<GlobalPath>,
    ) -> FsResult<()> {
        let listing = walk.list(&*masters.direct, directory).await?;
        let (ledger, at) = (self.0.ledger.clone(), directory.clone());
        let mut records: HashMap<GlobalPath, Record> =
            blocking(move || ledger.children(&at)).await?.into_iter().collect();
        for entry in listing.iter().filter(|entry| !entry.name.starts_with(HIDDEN_PREFIX)) {
            let Ok(path) = directory.join(&entry.name) else { continue };
            let wish = if read.contains(&path) { Wish::Suspect } else { wish };
            if self.consider(&path, Some(entry.attr), records.remove(&path).as_ref(), wish) {
                walk.left.push_back(path);
            }
        }
        if listing.complete {
            for (path, record) in &records {
                self.consider(path, None, Some(record), wish);
            }
        }
        self.0.wake.notify_waiters();
        Ok(())
    }

    async fn is_gone(&self, directory: &GlobalPath) -> FsResult<()> {
        let (ledger, at) = (self.0.ledger.clone(), directory.clone());
        let (record, children) = blocking(move || Ok((ledger.get(&at)?, ledger.children(&at)?))).await?;
        for (path, record) in record.map(|record| (directory.clone(), record)).into_iter().chain(children) {
            self.consider(&path, None, Some(&record), Wish::None);
        }
        self.0.wake.notify_waiters();
        Ok(())
    }

    /// Wants `path` if it is not what it is to be. True: what is in it is to be looked at, too.
    fn consider(&self, path: &GlobalPath, attr: Option<Attr>, record: Option<&Record>, wish: Wish) -> bool {
        let is_directory = attr.is_some_and(|attr| attr.kind == FileKind::Directory);
        let Some(rule) = self.0.rules.rule(path) else {
            return is_directory && self.0.rules.may_hold(path);
        };
        let once_read = rule.when == When::OnceRead && wish == Wish::None;
        let is_current = match (&attr, record) {
            (None, None) => true,
            (Some(_), None) => once_read,
            (None, Some(_)) => false,
            (Some(attr), Some(record)) => record.is_settled() && record.is_of(attr),
        };
        if !is_current || wish == Wish::Suspect {
            self.0.wanted.lock().want(path, attr, rule, self.now());
        }
        is_directory && !once_read
    }

    pub(super) async fn forget(&self, path: &GlobalPath) -> FsResult<()> {
        let (ledger, path) = (self.0.ledger.clone(), path.clone());
        blocking(move || ledger.forget(&path)).await
    }
}

/// No policy wants it here any more.
fn departed() -> Rule {
    let (when, priority, patience) = (When::InBackground, i32::MIN, Duration::ZERO);
    Rule { policy: "-".into(), when, priority, patience, deadline: None }
}
