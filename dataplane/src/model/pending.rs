//! What a site that holds a subtree has changed there and not brought home yet.
//!
//! It is a set of paths, not a log: whoever brings one home makes it there what it is here by then. So a path that is
//! changed a thousand times travels once, and nothing has to be undone after a crash.
//!
//! *Invariants:* a path leaves the set only when what was brought home is what is here: no change of it was under way
//! or made since it was looked at. A directory leads the paths beneath it. What is gone goes at home only when all that
//! was changed before, and is not gone, is home: what was moved is there under its new name before it leaves its old one.
//! What somebody waits for goes first, and nothing waits for it longer than [`PATIENCE`].

use globalfs_proto::GlobalPath;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A path is left alone until it was not changed for so long: what is being written would only be stale on arrival.
pub const QUIET: Duration = Duration::from_millis(100);

/// After so long a path is brought home although it is still being changed.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The first and the longest pause after a failure.
const RETRY: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(30)];

/// Orders changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

/// The set of one subtree. Times are of one monotonic clock.
#[derive(Debug, Default)]
pub struct Pending {
    marks: BTreeMap<GlobalPath, Mark>,
    /// The paths by their last change.
    order: BTreeSet<(Moment, GlobalPath)>,
    last: Moment,
    bytes: u64,
    /// Those that somebody waits for.
    wanted: BTreeSet<GlobalPath>,
}

#[derive(Debug, Clone, Default)]
struct Mark {
    changed: Moment,
    since: Duration,
    last_change: Duration,
    /// Changes under way.
    busy: u32,
    /// Nodes that write to it by themselves: each change of theirs is told late, so it stays.
    open: u32,
    bytes: u64,
    failures: u32,
    not_before: Duration,
    /// What is beneath it is in the set as long as it is.
    whole: bool,
    /// Nothing was there when it was looked at, and it has not changed since.
    gone: bool,
    /// Until it is home as it was then, somebody waits.
    wanted: Option<Moment>,
    /// It was home as it was then, or later.
    home: Moment,
}

/// A path to bring home, as of a moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Due {
    /// Which.
    pub path: GlobalPath,
    /// To be told when it is home.
    pub changed: Moment,
    /// It was moved here: what is beneath it is to be added.
    pub whole: bool,
}

/// What is owed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Debt {
    /// Paths.
    pub paths: u64,
    /// Bytes of the files among them, as far as known.
    pub bytes: u64,
    /// When the oldest of them was first changed.
    pub oldest: Option<Duration>,
}

impl Pending {
    /// A change of `path` begins; true: it is new in the set, so keep it durably first. It must end.
    pub fn begin(&mut self, path: &GlobalPath, now: Duration) -> bool {
        let is_new = !self.marks.contains_key(path);
        self.touch(path, now).busy += 1;
        is_new
    }

    /// The change is over; `bytes` is the file's length if it is known.
    pub fn end(&mut self, path: &GlobalPath, bytes: Option<u64>, now: Duration) {
        let mark = self.touch(path, now);
        mark.busy = mark.busy.saturating_sub(1);
        let before = mark.bytes;
        mark.bytes = bytes.unwrap_or(before);
        self.bytes = self.bytes - before + bytes.unwrap_or(before);
    }

    /// Nodes begin to write to `path` by themselves; true: it is new in the set, so keep it durably first. It stays until
    /// [`Self::close`], and is brought home meanwhile whenever it was told to have changed.
    pub fn open(&mut self, path: &GlobalPath, now: Duration) -> bool {
        let is_new = !self.marks.contains_key(path);
        self.touch(path, now).open += 1;
        is_new
    }

    /// The file at `path` has so many bytes.
    pub fn sized(&mut self, path: &GlobalPath, bytes: u64) {
        if let Some(mark) = self.marks.get_mut(path) {
            self.bytes = self.bytes - mark.bytes + bytes;
            mark.bytes = bytes;
        }
    }

    /// They do no more, and may have written until now.
    pub fn close(&mut self, path: &GlobalPath, now: Duration) {
        let mark = self.touch(path, now);
        mark.open = mark.open.saturating_sub(1);
    }

    /// `path` is not what it is at home, whatever made it so.
    pub fn add(&mut self, path: &GlobalPath, now: Duration) {
        self.touch(path, now);
    }

    /// So is all that is beneath it: it stays until that is home.
    pub fn add_whole(&mut self, path: &GlobalPath, now: Duration) {
        self.touch(path, now).whole = true;
    }

    /// Whether `path` is in the set.
    pub fn owes(&self, path: &GlobalPath) -> bool {
        self.marks.contains_key(path)
    }

    /// Nothing is there that was due. False: it has changed since.
    pub fn gone(&mut self, due: &Due) -> bool {
        let mark = self.marks.get_mut(&due.path).filter(|mark| mark.changed == due.changed);
        mark.map(|mark| mark.gone = true).is_some()
    }

    /// What is gone and was due before this goes at home; nothing stands in its way if this is `None`.
    pub fn first_present(&self) -> Option<Moment> {
        self.order
            .iter()
            .find(|(_, path)| !self.marks[path].gone && !self.marks[path].is_home())
            .map(|(changed, _)| *changed)
    }

    /// At most `most` paths that are due, in the order in which they were changed, and with each the directories above it
    /// that are not home yet. What somebody waits for comes alone, so that it does not wait for others. `hurry`: nothing is
    /// waited for but changes under way.
    pub fn due(&self, most: usize, hurry: bool, now: Duration) -> Vec<Due> {
        let others =
            || self.order.iter().map(|(_, path)| path).filter(|path| self.marks[path].is_due(hurry, now));
        let have_patience = others().next().is_none_or(|path| now < self.marks[path].since + PATIENCE);
        let wanted = self.wanted.iter().filter(|path| have_patience && self.goes_first(path, now));
        let mut picked = self.pick(wanted, most);
        if picked.is_empty() {
            picked = self.pick(others(), most);
        }
        let due = |path: &GlobalPath| {
            let Mark { changed, whole, .. } = self.marks[path];
            Due { path: path.clone(), changed, whole }
        };
        picked.into_iter().map(due).collect()
    }

    fn pick<'a>(
        &'a self,
        paths: impl Iterator<Item = &'a GlobalPath>,
        most: usize,
    ) -> BTreeSet<&'a GlobalPath> {
        let mut picked = BTreeSet::new();
        for path in paths {
            if picked.len() >= most {
                break;
            }
            picked.extend(self.with_directories(path));
        }
        picked
    }

    /// Whether it may come without all that was changed before it.
    fn goes_first(&self, path: &GlobalPath, now: Duration) -> bool {
        let mark = &self.marks[path];
        mark.is_due(false, now) && !mark.gone && !(mark.whole && self.has_below(path))
    }

    /// Somebody waits until `path` is home as it is now: the moment to ask [`Self::is_home`] for; `None`: it is.
    pub fn want_home(&mut self, path: &GlobalPath) -> Option<Moment> {
        let mark = self.marks.get_mut(path)?;
        (mark.wanted, mark.failures, mark.not_before) = (Some(mark.changed), 0, Duration::ZERO);
        self.wanted.insert(path.clone());
        Some(mark.changed)
    }

    /// Whether home has of `path` what it was at `moment`, or later.
    pub fn is_home(&self, path: &GlobalPath, moment: Moment) -> bool {
        self.marks.get(path).is_none_or(|mark| mark.home >= moment)
    }

    /// The names in `directory` that are owed.
    pub fn names_in(&self, directory: &GlobalPath) -> Vec<GlobalPath> {
        let below = self.marks.range(directory.clone()..).map(|(path, _)| path);
        let below = below.take_while(|path| path.as_bytes().starts_with(directory.as_bytes()));
        below.filter(|path| path.parent().as_ref() == Some(directory)).cloned().collect()
    }

    /// Whether `path` came here with a directory that was moved, so that it may be owed without being in the set.
    pub fn was_moved(&self, path: &GlobalPath) -> bool {
        let mut above = std::iter::successors(path.parent(), GlobalPath::parent);
        above.any(|path| self.marks.get(&path).is_some_and(|mark| mark.whole))
    }

    /// What was due is home. False: it has changed since and stays, as if it had been home before.
    pub fn settle(&mut self, due: &Due) -> bool {
        let Some(mark) = self.marks.get_mut(&due.path) else { return false };
        if mark.changed != due.changed || mark.busy > 0 || mark.open > 0 {
            (mark.since, mark.failures, mark.home) = (mark.last_change, 0, mark.home.max(due.changed));
            if mark.wanted.is_some_and(|moment| moment <= mark.home) {
                mark.wanted = None;
                self.wanted.remove(&due.path);
            }
            return false;
        }
        let mark = &self.marks[&due.path];
        if mark.whole && self.has_below(&due.path) {
            return false;
        }
        self.bytes -= mark.bytes;
        self.order.remove(&(mark.changed, due.path.clone()));
        self.wanted.remove(&due.path);
        self.marks.remove(&due.path);
        true
    }

    /// What was due could not be brought home: it is tried again after a while, longer each time.
    pub fn fail(&mut self, due: &Due, now: Duration) {
        if let Some(mark) = self.marks.get_mut(&due.path) {
            let pause = RETRY[0] * 2u32.pow(mark.failures.min(10));
            mark.failures += 1;
            mark.not_before = now + pause.min(RETRY[1]);
        }
    }

    /// Failures are forgotten: home is there again, or somebody waits.
    pub fn forgive(&mut self) {
        for mark in self.marks.values_mut() {
            (mark.failures, mark.not_before) = (0, Duration::ZERO);
        }
    }

    /// When something will be due if nothing more happens; changes under way end by themselves.
    pub fn next_due(&self, now: Duration) -> Option<Duration> {
        let at = |mark: &Mark| mark.due_at().max(now);
        self.marks.values().filter(|mark| mark.busy == 0 && !mark.is_home()).map(at).min()
    }

    /// What is owed.
    pub fn debt(&self) -> Debt {
        let oldest = self.marks.values().map(|mark| mark.since).min();
        Debt { paths: self.marks.len() as u64, bytes: self.bytes, oldest }
    }

    /// How many paths were first changed before `then`.
    pub fn owed_before(&self, then: Duration) -> u64 {
        self.marks.values().filter(|mark| mark.since < then).count() as u64
    }

    /// What is owed at `path` and beneath it.
    pub fn debt_below(&self, path: &GlobalPath) -> Debt {
        let marks = self.marks.range(path.clone()..).filter(|(at, _)| at.starts_with(path));
        marks.fold(Debt::default(), |debt, (_, mark)| Debt {
            paths: debt.paths + 1,
            bytes: debt.bytes + mark.bytes,
            oldest: Some(debt.oldest.map_or(mark.since, |oldest| oldest.min(mark.since))),
        })
    }

    /// The paths, in no order that matters.
    pub fn paths(&self) -> impl Iterator<Item = &GlobalPath> {
        self.marks.keys()
    }

    /// Whether somebody waits for something.
    pub fn is_awaited(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// Whether nothing is owed.
    pub fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// What is gone beneath does not count: it stays in the set by itself, and may wait for what was changed before it.
    fn has_below(&self, path: &GlobalPath) -> bool {
        // Names with bytes below the slash lie between a path and what is beneath it.
        let prefix = [path.as_bytes(), b"/"].concat();
        let Ok(first) = path.join(b"\x01") else { return false };
        let mut below = self.marks.range(first..).take_while(|(at, _)| at.as_bytes().starts_with(&prefix));
        below.any(|(_, mark)| !mark.gone)
    }

    fn with_directories<'a>(&'a self, path: &'a GlobalPath) -> impl Iterator<Item = &'a GlobalPath> {
        let above = std::iter::successors(path.parent(), GlobalPath::parent);
        let owed = above.filter_map(|path| self.marks.get_key_value(&path).map(|(path, _)| path));
        std::iter::once(path).chain(owed)
    }

    fn touch(&mut self, path: &GlobalPath, now: Duration) -> &mut Mark {
        self.last.0 += 1;
        let (changed, fresh) = (self.last, Mark { since: now, ..Mark::default() });
        let mark = self.marks.entry(path.clone()).or_insert(fresh);
        self.order.remove(&(mark.changed, path.clone()));
        self.order.insert((changed, path.clone()));
        (mark.changed, mark.last_change, mark.gone) = (changed, now, false);
        (mark.failures, mark.not_before) = (0, Duration::ZERO);
        mark
    }
}

impl Mark {
    fn is_due(&self, hurry: bool, now: Duration) -> bool {
        self.busy == 0 && !self.is_home() && (hurry || self.due_at() <= now)
    }

    /// It is at home as it was told last, and stays only since it is open.
    fn is_home(&self) -> bool {
        self.open > 0 && self.home >= self.changed
    }

    fn due_at(&self) -> Duration {
        if self.wanted.is_some() {
            return self.not_before;
        }
        (self.last_change + QUIET).min(self.since + PATIENCE).max(self.not_before)
    }
}

#[cfg(test)]
#[path = "pending_tests.rs"]
mod tests;
