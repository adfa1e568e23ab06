//! Replicas: whole copies of other sites' files in this site's origin, at the same relative paths, used for reading here.
//! They are not subject to the cache's quota, and are there when the other sites are not.
//!
//! `ledger.rs` keeps what is here of what, `copies.rs` reads it, `survey.rs` finds what differs from the master and `bring.rs`
//! makes it the same; `model/replicas.rs` decides about one path, `model/wanted.rs` which of them goes first.
//!
//! *Invariants:* a copy is read only for the version that it is of, and only while nobody has changed it since it was
//! brought; so bytes of two versions never meet. What this site masters, and what it did not bring, is not touched.

mod bring;
mod copies;
mod hear;
mod kept;
mod ledger;
mod looks;
mod survey;

pub use copies::Copies;
pub use ledger::Totals;

use crate::home::blocking;
use crate::home::receive::Receiver;
use crate::model::pending::Debt;
use crate::model::replicas::{Rule, When};
use crate::model::wanted::Wanted;
use crate::origin::Origin;
use crate::route::Sites;
use crate::source::{Deadline, Source};
use globalfs_proto::{Attr, FsError, FsResult, GlobalPath, Version};
use ledger::Ledger;
use looks::Looks;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, RwLock};
use tokio_util::sync::CancellationToken;

/// Paths in the way that are remembered; further ones are left alone, too.
const MAX_OBSTRUCTED: usize = 4096;

/// How often it is looked whether what somebody waits for is here.
const BROUGHT_EVERY: Duration = Duration::from_millis(5);

/// Requests to bring something that are remembered.
const MAX_ASKED: usize = 64;

/// What policies say about replicas at this site.
pub trait Rules: Send + Sync + 'static {
    /// How this site is to have `path`; `None`: it is not, or it masters it.
    fn rule(&self, path: &GlobalPath) -> Option<Rule>;

    /// Where all begins that this site is to have before it is read.
    fn roots(&self) -> Vec<GlobalPath>;

    /// Whether this site may be to have something beneath the directory.
    fn may_hold(&self, directory: &GlobalPath) -> bool;

    /// Whether this site masters `path`, or is about to.
    fn is_own(&self, path: &GlobalPath) -> bool;

    /// Whether what is here is read, names too, while the master of `path` is away.
    fn reads_on(&self, path: &GlobalPath) -> bool;
}

/// Where a replicator gets what it brings: the whole namespace, each path from its master.
#[derive(Clone)]
pub struct Masters {
    /// By no cache.
    pub direct: Arc<dyn Source>,
    /// By this site's cache, which has what was read here.
    pub cached: Arc<dyn Source>,
    /// Where it is told what changes at the sites that were asked by no cache.
    pub sites: Arc<dyn Sites>,
}

/// The replicas of one site. Clones are the same.
#[derive(Clone)]
pub struct Replicas(Arc<Inner>);

struct Inner {
    origin: Origin,
    receiver: Receiver,
    ledger: Ledger,
    rules: Arc<dyn Rules>,
    wanted: Mutex<Wanted>,
    looks: Mutex<Looks>,
    /// Wakes who brings.
    wake: Notify,
    /// Wakes who looks.
    look: Notify,
    walk_again: AtomicBool,
    /// The last walk was to the end.
    surveyed: AtomicBool,
    obstructed: Mutex<BTreeSet<GlobalPath>>,
    asked: Mutex<VecDeque<Asked>>,
    trouble: Mutex<Option<String>>,
    /// Held for reading while something is brought.
    turn: RwLock<()>,
    /// Nothing is brought there.
    reserved: Mutex<Vec<GlobalPath>>,
    began: Instant,
}

/// Somebody has asked for a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Chosen by who asked.
    pub number: u64,
    /// Of this path and all beneath it.
    pub path: GlobalPath,
    /// All that is missing is known.
    pub is_surveyed: bool,
    /// Why it does not go on.
    pub trouble: Option<String>,
}

/// Nothing is brought beneath it until this is dropped.
pub struct Reserved {
    replicas: Replicas,
    scope: GlobalPath,
}

impl Replicas {
    /// Goes on from what `dir` keeps.
    pub fn open(dir: &Path, origin: Origin, rules: Arc<dyn Rules>) -> FsResult<Self> {
        Ok(Self(Arc::new(Inner {
            receiver: Receiver::new(origin.clone()),
            origin,
            ledger: Ledger::open(dir)?,
            rules,
            wanted: Mutex::default(),
            looks: Mutex::default(),
            wake: Notify::new(),
            look: Notify::new(),
            walk_again: AtomicBool::new(true),
            surveyed: AtomicBool::new(false),
            obstructed: Mutex::default(),
            asked: Mutex::default(),
            trouble: Mutex::default(),
            turn: RwLock::new(()),
            reserved: Mutex::default(),
            began: Instant::now(),
        })))
    }

    /// Keeps the replicas what they are at `masters`, until `stop`.
    pub async fn run(self, masters: Masters, stop: CancellationToken) {
        let small = self.clone().bring_on(masters.clone(), bring::SMALL);
        let large = self.clone().bring_on(masters.clone(), u64::MAX);
        let survey = self.clone().survey_on(masters.clone());
        let hear = self.clone().hear(masters);
        let all = async { tokio::join!(small, large, survey, hear) };
        stop.run_until_cancelled(all).await;
    }

    /// The policies have changed, or something that was not heard: all of it is looked at again.
    pub fn look_again(&self) {
        self.0.walk_again.store(true, Ordering::SeqCst);
        self.0.wanted.lock().forgive();
        self.0.look.notify_one();
        self.0.wake.notify_waiters();
    }

    /// Makes `path` and all beneath it a replica now. Asked for again under the same number it goes on.
    pub fn ask(&self, path: &GlobalPath, number: u64) {
        let mut asked = self.0.asked.lock();
        if asked.iter().any(|one| one.number == number) {
            return;
        }
        if asked.len() == MAX_ASKED {
            asked.pop_front();
        }
        asked.push_back(Asked { number, path: path.clone(), is_surveyed: false, trouble: None });
        self.0.wanted.lock().forgive();
        self.0.look.notify_one();
        self.0.wake.notify_waiters();
    }

    /// Returns when what is here of `path` is what its master says, or newer.
    pub async fn bring_now(&self, path: &GlobalPath, master: Attr, deadline: Deadline) -> FsResult<()> {
        let no_replica = || FsError::Refused(format!("this site is to have no replica of {path}"));
        let rule = self.0.rules.rule(path).ok_or_else(no_replica)?;
        let rule = Rule { priority: i32::MAX, patience: Duration::ZERO, ..rule };
        let now = self.now();
        self.0.wanted.lock().want(path, Some(master), rule, now);
        self.0.wake.notify_waiters();
        let brought = async {
            while !self.is_here(path, &master).await? {
                if self.0.obstructed.lock().contains(path) {
                    return Err(FsError::Refused(format!("something else is in the way of {path}")));
                }
                tokio::time::sleep(BROUGHT_EVERY).await;
            }
            Ok(())
        };
        deadline.bound(brought).await
    }

    async fn is_here(&self, path: &GlobalPath, master: &Attr) -> FsResult<bool> {
        let (ledger, path) = (self.0.ledger.clone(), path.clone());
        let record = blocking(move || ledger.get(&path)).await?;
        Ok(record.is_some_and(|record| record.is_settled() && !record.is_older_than(master)))
    }

    /// What was asked for, and what is missing of it.
    pub fn asked(&self) -> Vec<(Asked, Debt)> {
        let asked: Vec<Asked> = self.0.asked.lock().iter().cloned().collect();
        let wanted = self.0.wanted.lock();
        asked.into_iter().map(|one| (one.clone(), self.aged(wanted.debt_below(&one.path)))).collect()
    }

    /// What is missing, by policy; `oldest` is an age.
    pub fn missing(&self) -> BTreeMap<Arc<str>, Debt> {
        let debts = self.0.wanted.lock().debts();
        debts.into_iter().map(|(policy, debt)| (policy, self.aged(debt))).collect()
    }

    /// Paths of a policy that are missing for longer than it permits.
    pub fn late(&self, policy: &str) -> u64 {
        self.0.wanted.lock().late(policy, self.now())
    }

    /// What is here.
    pub fn totals(&self) -> Totals {
        self.0.ledger.totals()
    }

    /// Paths at which something is in the way that this site did not bring.
    pub fn obstructed(&self) -> usize {
        self.0.obstructed.lock().len()
    }

    /// Why something is not brought.
    pub fn trouble(&self) -> Option<String> {
        self.0.trouble.lock().clone()
    }

    /// Whether all was looked at since the policies were learned, and since changes are heard.
    pub fn is_surveyed(&self) -> bool {
        !self.0.walk_again.load(Ordering::SeqCst)
            && self.0.surveyed.load(Ordering::SeqCst)
            && self.0.looks.lock().is_empty()
    }

    /// Removes what was brought of `scope`, which this site is about to master; nothing is brought there meanwhile.
    pub async fn give_up(&self, scope: &GlobalPath) -> FsResult<Reserved> {
        self.0.reserved.lock().push(scope.clone());
        let reserved = Reserved { replicas: self.clone(), scope: scope.clone() };
        // What is under way ends first.
        drop(self.0.turn.write().await);
        self.remove_tree(scope).await?;
        Ok(reserved)
    }

    /// The version in this site's origin of the copy of `version` of `path`, if there is one.
    async fn copy_of(&self, path: &GlobalPath, version: &Version) -> Option<Version> {
        if self.0.ledger.is_empty() {
            return None;
        }
        let (ledger, path, version) = (self.0.ledger.clone(), path.clone(), *version);
        let found = blocking(move || Ok(ledger.get(&path)?.and_then(|record| record.copy_of(&version))));
        found.await.ok().flatten()
    }

    /// The copy of `path` is not what it was: it is looked at, and brought again if it is still this site's.
    fn suspect(&self, path: &GlobalPath) {
        if self.0.looks.lock().add_read(path) {
            self.0.look.notify_one();
        }
    }

    /// `path` is read here from elsewhere.
    fn was_read(&self, path: &GlobalPath) {
        if self.0.rules.rule(path).is_some_and(|rule| rule.when == When::OnceRead) {
            self.suspect(path);
        }
    }

    /// Whether nothing may be brought to `path`.
    fn is_reserved(&self, path: &GlobalPath) -> bool {
        let inside = |scope: &GlobalPath| path.starts_with(scope) || scope.starts_with(path);
        self.0.reserved.lock().iter().any(inside) || self.0.rules.is_own(path)
    }

    /// Something may have changed at `path`.
    pub fn look_at(&self, path: &GlobalPath) {
        self.0.looks.lock().add(path);
        self.0.look.notify_one();
    }

    fn tell_trouble(&self, text: &str) {
        let mut trouble = self.0.trouble.lock();
        if trouble.as_deref() != Some(text) {
            tracing::warn!(reason = text, "replicas_not_current");
        }
        *trouble = Some(text.to_owned());
    }

    fn obstruct(&self, path: &GlobalPath) {
        let mut obstructed = self.0.obstructed.lock();
        if obstructed.len() < MAX_OBSTRUCTED && obstructed.insert(path.clone()) {
            tracing::warn!(%path, "replica_obstructed: a file that is not from its master is in the way, and stays");
        }
    }

    fn now(&self) -> Duration {
        self.0.began.elapsed()
    }

    fn aged(&self, debt: Debt) -> Debt {
        Debt { oldest: debt.oldest.map(|at| self.now().saturating_sub(at)), ..debt }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut reserved = self.replicas.0.reserved.lock();
        if let Some(place) = reserved.iter().position(|scope| *scope == self.scope) {
            reserved.remove(place);
        }
        drop(reserved);
        self.replicas.look_at(&self.scope);
    }
}

#[cfg(test)]
mod tests;
