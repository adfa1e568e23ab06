//! The subtrees that this site holds under write leases, and what it has changed there.
//!
//! *Invariants:* that a path differs from home is kept before it is changed, so a crash of the daemon forgets none; it is
//! forgotten only when it is home. What is not kept cannot be changed.

use super::links::{Links, is_linked};
use crate::model::pending::{Debt, Due, Pending};
use crate::model::urgency::{Urgency, yields};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use globalfs_proto::limits::HIDDEN_PREFIX;
use globalfs_proto::{Change, Changed, Existing, Fence, FsError, FsResult, GlobalPath, Target, Version};
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Paths that one site may owe, some 300 bytes of memory each. Beyond, changes of further ones fail.
pub const MAX_OWED: u64 = 1_000_000;

/// `EDQUOT`.
const TOO_MANY: FsError = FsError::Os(122);

/// `EXDEV`: programs then copy.
const OTHER_DEVICE: FsError = FsError::Os(18);

/// Bits of a batch's number that count within one start of the daemon.
const BATCH_BITS: u32 = 40;

/// What is beneath a path in the set belongs to it.
const WHOLE: &[u8] = b"whole";

/// All subtrees that are held here. Clones are the same.
#[derive(Clone)]
pub struct Holdings(Arc<Inner>);

struct Inner {
    database: Database,
    /// Paths that differ from home.
    changed: Keyspace,
    /// Subtrees with their fences and the starts since.
    scopes: Keyspace,
    held: RwLock<BTreeMap<GlobalPath, Arc<Holding>>>,
    owed: AtomicU64,
    /// Those which bring changes home now, or want to.
    urgent: Mutex<BTreeMap<GlobalPath, Urgency>>,
    began: Instant,
}

/// One subtree that is held here.
pub struct Holding {
    /// Its topmost path.
    pub scope: GlobalPath,
    /// Of the lease.
    pub fence: Fence,
    pub(super) pending: Mutex<Pending>,
    pub(super) links: Mutex<Links>,
    /// Wakes who brings home.
    pub(super) wake: Notify,
    /// Tells that some came home, or that it was tried.
    pub(super) tried: Notify,
    /// No change begins.
    closed: AtomicBool,
    next_batch: AtomicU64,
    /// Why something is not brought home.
    pub(super) trouble: Mutex<Option<String>>,
}

/// Changes that are under way; they end when this is dropped.
#[must_use]
pub struct Noted {
    holdings: Holdings,
    holding: Arc<Holding>,
    paths: Vec<GlobalPath>,
    moved: Vec<GlobalPath>,
    /// Names of the file that is changed.
    named: Vec<GlobalPath>,
    bytes: Option<u64>,
}

impl Holdings {
    /// Goes on from what `dir` keeps; makes it if it is not there.
    pub fn open(dir: &Path) -> FsResult<Self> {
        let database = Database::builder(dir).open().map_err(broken)?;
        let keyspace = |name| database.keyspace(name, KeyspaceCreateOptions::default).map_err(broken);
        let (changed, scopes) = (keyspace("changed")?, keyspace("scopes")?);
        let (held, owed, began) = (RwLock::default(), AtomicU64::new(0), Instant::now());
        let urgent = Mutex::default();
        let holdings = Self(Arc::new(Inner { database, changed, scopes, held, owed, urgent, began }));
        holdings.recover()?;
        Ok(holdings)
    }

    fn recover(&self) -> FsResult<()> {
        let (inner, now) = (&self.0, self.now());
        let scopes: Vec<_> =
            inner.scopes.iter().map(|item| item.into_inner().map_err(broken)).collect::<FsResult<_>>()?;
        for (scope, value) in scopes {
            let (scope, (fence, starts)) = (path(&scope)?, decode_scope(&value)?);
            self.keep_scope(&scope, fence, starts + 1)?;
        }
        inner.database.persist(PersistMode::SyncAll).map_err(broken)?;
        for item in inner.changed.iter() {
            let (key, value) = item.into_inner().map_err(broken)?;
            let at = path(&key)?;
            let Some(holding) = self.at(&at) else { continue };
            let mut pending = holding.pending.lock();
            if value == WHOLE {
                pending.add_whole(&at, now)
            } else {
                pending.add(&at, now)
            }
            inner.owed.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The subtree `scope` is held from now on; durable when this returns. What it owed under another fence is forgotten.
    pub fn hold(&self, scope: &GlobalPath, fence: Fence) -> FsResult<Arc<Holding>> {
        let holding = self.keep_scope(scope, fence, 1)?;
        self.0.database.persist(PersistMode::SyncAll).map_err(broken)?;
        Ok(holding)
    }

    fn keep_scope(&self, scope: &GlobalPath, fence: Fence, starts: u64) -> FsResult<Arc<Holding>> {
        let value = [fence.0.to_be_bytes(), starts.to_be_bytes()].concat();
        self.0.scopes.insert(scope.as_bytes(), value).map_err(broken)?;
        let holding = Arc::new(Holding {
            scope: scope.clone(),
            fence,
            pending: Mutex::default(),
            links: Mutex::default(),
            wake: Notify::new(),
            tried: Notify::new(),
            closed: AtomicBool::new(false),
            next_batch: AtomicU64::new(starts << BATCH_BITS),
            trouble: Mutex::default(),
        });
        self.0.held.write().insert(scope.clone(), holding.clone());
        Ok(holding)
    }

    /// The subtree is no longer held; durable when this returns. What it owes is forgotten, which only who gave it up may do.
    pub fn forget(&self, scope: &GlobalPath) -> FsResult<()> {
        let Some(holding) = self.0.held.write().remove(scope) else { return Ok(()) };
        self.rests(&holding);
        let paths: Vec<GlobalPath> = holding.pending.lock().paths().cloned().collect();
        let mut batch = self.0.database.batch().durability(Some(PersistMode::SyncAll));
        for path in &paths {
            batch.remove(&self.0.changed, path.as_bytes());
        }
        batch.remove(&self.0.scopes, scope.as_bytes());
        self.0.owed.fetch_sub(paths.len() as u64, Ordering::Relaxed);
        batch.commit().map_err(broken)
    }

    /// The subtree that `path` lies in, if it is held here.
    pub fn at(&self, path: &GlobalPath) -> Option<Arc<Holding>> {
        let held = self.0.held.read();
        if held.is_empty() {
            return None;
        }
        std::iter::successors(Some(path.clone()), GlobalPath::parent).find_map(|at| held.get(&at).cloned())
    }

    /// Whether a subtree is held whose topmost path is as `wanted`.
    pub fn any(&self, wanted: impl Fn(&GlobalPath) -> bool) -> bool {
        self.0.held.read().keys().any(wanted)
    }

    /// All subtrees that are held.
    pub fn all(&self) -> Vec<Arc<Holding>> {
        self.0.held.read().values().cloned().collect()
    }

    /// `change` is about to be made: what it will make differ from home is kept first, and so is `below`, names that it takes
    /// away with a directory. `None`: none of it is held.
    pub fn note(&self, change: &Change, below: Vec<GlobalPath>) -> FsResult<Option<Noted>> {
        if change.is_without_effect() {
            return Ok(None);
        }
        let mut holdings = change.paths().map(|path| self.at(path));
        let first = holdings.next().flatten();
        let same = |other: Option<Arc<Holding>>| scope(other.as_ref()) == scope(first.as_ref());
        if !holdings.all(same) {
            return Err(OTHER_DEVICE);
        }
        let Some(holding) = first else { return Ok(None) };
        let (mut paths, moved) = (touched(change, &holding.scope), moved(change));
        paths.extend(other_names(change, &holding));
        paths.extend(below);
        self.begin(&holding, &paths, &moved)?;
        let named = change.paths().filter(|path| !is_hidden(path)).cloned().collect();
        Ok(Some(Noted { holdings: self.clone(), holding, paths, moved, named, bytes: None }))
    }

    fn begin(&self, holding: &Holding, paths: &[GlobalPath], moved: &[GlobalPath]) -> FsResult<()> {
        let now = self.now();
        let mut pending = holding.pending.lock();
        let mut begun = Vec::with_capacity(paths.len());
        let mut keep = |path: &GlobalPath| -> FsResult<()> {
            let is_new = pending.begin(path, now);
            begun.push(path.clone());
            if is_new && self.0.owed.fetch_add(1, Ordering::Relaxed) >= MAX_OWED {
                return Err(TOO_MANY);
            }
            match (moved.contains(path), is_new) {
                (true, _) => self.0.changed.insert(path.as_bytes(), WHOLE),
                (_, true) => self.0.changed.insert(path.as_bytes(), b""),
                _ => Ok(()),
            }
            .map_err(broken)
        };
        let kept = paths.iter().try_for_each(&mut keep);
        if kept.is_err() {
            // They stay in the set, which does no harm.
            begun.iter().for_each(|path| pending.end(path, None, now));
        }
        kept
    }

    /// These paths are home unless they have changed since: true for those which left the set.
    pub(super) fn settle(&self, holding: &Holding, due: &[Due]) -> FsResult<usize> {
        let mut pending = holding.pending.lock();
        let mut settled = 0;
        // Under the lock: else a change that begins meanwhile would be forgotten with what was before.
        for due in due {
            if pending.settle(due) {
                self.0.changed.remove(due.path.as_bytes()).map_err(broken)?;
                settled += 1;
            }
        }
        self.0.owed.fetch_sub(settled as u64, Ordering::Relaxed);
        Ok(settled)
    }

    /// `paths` differ from home, too.
    pub(super) fn add(&self, holding: &Holding, paths: &[GlobalPath]) -> FsResult<()> {
        let now = self.now();
        let mut pending = holding.pending.lock();
        for path in paths {
            if pending.begin(path, now) {
                self.0.owed.fetch_add(1, Ordering::Relaxed);
                self.0.changed.insert(path.as_bytes(), b"").map_err(broken)?;
            }
            pending.end(path, None, now);
        }
        Ok(())
    }

    /// Nodes write to `path` by themselves from now on: it stays owed, whatever comes home, until [`Self::close_direct`].
    pub(crate) fn open_direct(&self, path: &GlobalPath) -> FsResult<()> {
        let Some(holding) = self.at(path).filter(|_| !is_hidden(path)) else { return Ok(()) };
        let mut pending = holding.pending.lock();
        if pending.open(path, self.now()) {
            self.0.owed.fetch_add(1, Ordering::Relaxed);
            self.0.changed.insert(path.as_bytes(), b"").map_err(broken)?;
        }
        Ok(())
    }

    /// They do so no more.
    pub(crate) fn close_direct(&self, path: &GlobalPath) {
        let Some(holding) = self.at(path).filter(|_| !is_hidden(path)) else { return };
        holding.pending.lock().close(path, self.now());
        holding.wake.notify_one();
    }

    /// They have changed a file, which is at `path`, or at its other names if that is one that nobody sees.
    pub(crate) fn changed_direct(&self, path: &GlobalPath, seen: Version) -> FsResult<()> {
        let Some(holding) = self.at(path) else { return Ok(()) };
        let paths = match is_hidden(path) {
            true => holding.links.lock().names(seen.file),
            false => vec![path.clone()],
        };
        self.add(&holding, &paths)?;
        let mut pending = holding.pending.lock();
        paths.iter().for_each(|path| pending.sized(path, seen.size));
        holding.wake.notify_one();
        Ok(())
    }

    /// What was noted survives a loss of power when this returns.
    pub fn sync(&self) -> FsResult<()> {
        if self.0.held.read().is_empty() {
            return Ok(());
        }
        self.0.database.persist(PersistMode::SyncData).map_err(broken)
    }

    /// `holding` has something to bring home that is as urgent as `own`. False: others go first.
    pub(super) fn may_go(&self, holding: &Holding, own: Urgency, waited: Duration) -> bool {
        let mut urgent = self.0.urgent.lock();
        urgent.insert(holding.scope.clone(), own);
        !yields(own, urgent.values().copied(), waited)
    }

    /// `holding` brings nothing home for now.
    pub(super) fn rests(&self, holding: &Holding) {
        self.0.urgent.lock().remove(&holding.scope);
    }

    /// Time of the clock that all of it counts by.
    pub(super) fn now(&self) -> Duration {
        self.0.began.elapsed()
    }
}

impl Holding {
    /// What it owes; `oldest` is an age.
    pub fn debt(&self, holdings: &Holdings) -> Debt {
        let debt = self.pending.lock().debt();
        Debt { oldest: debt.oldest.map(|at| holdings.now().saturating_sub(at)), ..debt }
    }

    /// Paths that are owed for longer than `deadline`.
    pub fn late(&self, deadline: Duration, holdings: &Holdings) -> u64 {
        self.pending.lock().owed_before(holdings.now().saturating_sub(deadline))
    }

    /// What it owes at `path` and beneath.
    pub fn debt_below(&self, path: &GlobalPath, holdings: &Holdings) -> Debt {
        let debt = self.pending.lock().debt_below(path);
        Debt { oldest: debt.oldest.map(|at| holdings.now().saturating_sub(at)), ..debt }
    }

    /// Whether all is home.
    pub fn owes_nothing(&self) -> bool {
        self.pending.lock().is_empty()
    }

    /// Failures are forgotten and what is due is tried at once.
    pub fn hurry(&self) {
        self.pending.lock().forgive();
        self.wake.notify_one();
    }

    /// Some of the paths that it owes.
    pub fn some_paths(&self, most: usize) -> Vec<GlobalPath> {
        self.pending.lock().paths().take(most).cloned().collect()
    }

    /// Why something is not brought home.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    /// Why it does not go home.
    pub fn tell_trouble(&self, text: String) {
        *self.trouble.lock() = Some(text);
    }

    /// From now on no change begins here, or changes do again.
    pub fn close(&self, closed: bool) {
        self.closed.store(closed, Ordering::SeqCst);
    }

    /// Whether no change may begin.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// The number of the next batch that is brought home.
    pub(super) fn next_batch(&self) -> u64 {
        self.next_batch.fetch_add(1, Ordering::Relaxed)
    }
}

impl Noted {
    /// What came of it.
    pub fn done(mut self, changed: &Changed) {
        self.bytes = changed.attr.map(|attr| attr.size);
        let Some(attr) = changed.attr.filter(is_linked) else { return };
        let mut links = self.holding.links.lock();
        self.named.iter().for_each(|path| links.see(path, &attr));
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        let now = self.holdings.now();
        let mut pending = self.holding.pending.lock();
        for (at, path) in self.paths.iter().enumerate() {
            pending.end(path, self.bytes.filter(|_| at == 0), now);
        }
        self.moved.iter().for_each(|path| pending.add_whole(path, now));
        if !self.moved.is_empty() {
            // They come before the name that was left, and before the directories.
            let others = self.paths.iter().filter(|path| !self.moved.contains(path));
            others.for_each(|path| pending.add(path, now));
        }
        drop(pending);
        self.holding.wake.notify_one();
    }
}

fn scope(holding: Option<&Arc<Holding>>) -> Option<&GlobalPath> {
    holding.map(|holding| &holding.scope)
}

/// The paths beneath `scope` that `change` makes differ from home: what is there first, then what is there no more, then
/// the directories, whose times change.
fn touched(change: &Change, scope: &GlobalPath) -> Vec<GlobalPath> {
    let mut paths: Vec<GlobalPath> = match change {
        Change::Rename { from, to, .. } => vec![to.clone(), from.clone()],
        other => other.paths().cloned().collect(),
    };
    if changes_names(change) {
        let directories: Vec<_> = paths.iter().filter_map(GlobalPath::parent).collect();
        paths.extend(directories.into_iter().filter(|directory| directory.starts_with(scope)));
    }
    let mut seen = std::collections::BTreeSet::new();
    paths.retain(|path| !is_hidden(path) && seen.insert(path.clone()));
    paths
}

/// The names that are left to a file which is changed by one that was taken away while it was open, or which loses one by
/// which it was changed and is not home yet.
fn other_names(change: &Change, holding: &Holding) -> Vec<GlobalPath> {
    if matches!(change, Change::Remove { .. } | Change::Rename { .. }) {
        let pending = holding.pending.lock();
        let owed: Vec<_> = change.paths().filter(|path| pending.owes(path)).collect();
        drop(pending);
        let links = holding.links.lock();
        return owed.into_iter().flat_map(|path| links.beside(path)).collect();
    }
    match target(change) {
        Some(target) if is_hidden(&target.path) => holding.links.lock().names(target.file),
        _ => Vec::new(),
    }
}

fn target(change: &Change) -> Option<&Target> {
    match change {
        Change::SetAttr { target, .. }
        | Change::SetXattr { target, .. }
        | Change::RemoveXattr { target, .. }
        | Change::Write { target, .. }
        | Change::Allocate { target, .. }
        | Change::Copy { target, .. }
        | Change::OpenDirect { target }
        | Change::LookDirect { target } => Some(target),
        _ => None,
    }
}

fn changes_names(change: &Change) -> bool {
    matches!(
        change,
        Change::Make { .. } | Change::Link { .. } | Change::Remove { .. } | Change::Rename { .. }
    )
}

/// The names that something else has afterwards, with all that is beneath it.
fn moved(change: &Change) -> Vec<GlobalPath> {
    let mut paths = match change {
        Change::Rename { from, to, existing: Existing::Exchange } => vec![to.clone(), from.clone()],
        Change::Rename { to, .. } => vec![to.clone()],
        _ => Vec::new(),
    };
    paths.retain(|path| !is_hidden(path));
    paths
}

/// What is half made, or removed while it is open, is nobody's but the holder's.
pub(crate) fn is_hidden(path: &GlobalPath) -> bool {
    path.components().any(|name| name.starts_with(HIDDEN_PREFIX))
}

fn path(bytes: &[u8]) -> FsResult<GlobalPath> {
    GlobalPath::new(bytes).map_err(|error| FsError::Damaged(format!("the set of changed paths: {error}")))
}

fn decode_scope(value: &[u8]) -> FsResult<(Fence, u64)> {
    let numbers: Option<[[u8; 8]; 2]> =
        value.as_chunks::<8>().0.try_into().ok().filter(|_| value.len() == 16);
    let [fence, starts] =
        numbers.ok_or_else(|| FsError::Damaged("the record of a held subtree".to_owned()))?;
    Ok((Fence(u64::from_be_bytes(fence)), u64::from_be_bytes(starts)))
}

fn broken(error: fjall::Error) -> FsError {
    match error {
        fjall::Error::Io(error) if error.kind() == io::ErrorKind::StorageFull => FsError::Os(28),
        fjall::Error::Io(error) => FsError::from(error),
        other => FsError::Damaged(format!("the set of changed paths cannot be used: {other:?}")),
    }
}

#[cfg(test)]
#[path = "holdings_tests.rs"]
mod tests;
