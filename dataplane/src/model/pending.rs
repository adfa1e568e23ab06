//! What a site that holds a subtree has changed there and not brought home yet.
//!
//! It is a set of paths, not a log: whoever brings one home makes it there what it is here by then. So a path that is
//! changed a thousand times travels once, and nothing has to be undone after a crash.
//!
//! *Invariants:* a path leaves the set only when what was brought home is what is here: no change of it was under way
//! or made since it was looked at. A directory leads the paths beneath it. What is gone goes at home only when all that
//! was changed before, and is not gone, is home: what was moved is there under its new name before it leaves its old one.

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
}

#[derive(Debug, Clone, Default)]
struct Mark {
    changed: Moment,
    since: Duration,
    last_change: Duration,
    /// Changes under way.
    busy: u32,
    bytes: u64,
    failures: u32,
    not_before: Duration,
    /// What is beneath it is in the set as long as it is.
    whole: bool,
    /// Nothing was there when it was looked at, and it has not changed since.
    gone: bool,
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

    /// `path` is not what it is at home, whatever made it so.
    pub fn add(&mut self, path: &GlobalPath, now: Duration) {
        self.touch(path, now);
    }

    /// So is all that is beneath it: it stays until that is home.
    pub fn add_whole(&mut self, path: &GlobalPath, now: Duration) {
        self.touch(path, now).whole = true;
    }

    /// Nothing is there that was due. False: it has changed since.
    pub fn gone(&mut self, due: &Due) -> bool {
        let mark = self.marks.get_mut(&due.path).filter(|mark| mark.changed == due.changed);
        mark.map(|mark| mark.gone = true).is_some()
    }

    /// What is gone and was due before this goes at home; nothing stands in its way if this is `None`.
    pub fn first_present(&self) -> Option<Moment> {
        self.order.iter().find(|(_, path)| !self.marks[path].gone).map(|(changed, _)| *changed)
    }

    /// At most `most` paths that are due, in the order in which they were changed, and with each the directories above it
    /// that are not home yet. `hurry`: nothing is waited for but changes under way.
    pub fn due(&self, most: usize, hurry: bool, now: Duration) -> Vec<Due> {
        let mut picked = BTreeSet::new();
        for (_, path) in &self.order {
            if picked.len() >= most {
                break;
            }
            if self.marks[path].is_due(hurry, now) {
                picked.extend(self.with_directories(path));
            }
        }
        let due = |path: &GlobalPath| {
            let Mark { changed, whole, .. } = self.marks[path];
            Due { path: path.clone(), changed, whole }
        };
        picked.into_iter().map(due).collect()
    }

    /// What was due is home. False: it has changed since and stays, as if it had been home before.
    pub fn settle(&mut self, due: &Due) -> bool {
        let Some(mark) = self.marks.get_mut(&due.path) else { return false };
        if mark.changed != due.changed || mark.busy > 0 {
            (mark.since, mark.failures) = (mark.last_change, 0);
            return false;
        }
        let mark = &self.marks[&due.path];
        if mark.whole && self.has_below(&due.path) {
            return false;
        }
        self.bytes -= mark.bytes;
        self.order.remove(&(mark.changed, due.path.clone()));
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
        self.marks.values().filter(|mark| mark.busy == 0).map(at).min()
    }

    /// What is owed.
    pub fn debt(&self) -> Debt {
        let oldest = self.marks.values().map(|mark| mark.since).min();
        Debt { paths: self.marks.len() as u64, bytes: self.bytes, oldest }
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
        self.busy == 0 && (hurry || self.due_at() <= now)
    }

    fn due_at(&self) -> Duration {
        (self.last_change + QUIET).min(self.since + PATIENCE).max(self.not_before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn path(text: &str) -> GlobalPath {
        GlobalPath::new(text.as_bytes()).unwrap()
    }

    fn changed(pending: &mut Pending, at: &str, now: Duration) -> bool {
        let is_new = pending.begin(&path(at), now);
        pending.end(&path(at), Some(10), now);
        is_new
    }

    fn names(due: &[Due]) -> Vec<String> {
        due.iter().map(|due| String::from_utf8_lossy(due.path.as_bytes()).into_owned()).collect()
    }

    #[test]
    fn a_path_is_new_once_and_due_when_it_is_quiet() {
        let mut pending = Pending::default();
        assert!(changed(&mut pending, "/r/a", ms(0)));
        assert!(!changed(&mut pending, "/r/a", ms(60)));
        assert!(pending.due(9, false, ms(120)).is_empty());
        assert_eq!(pending.next_due(ms(120)), Some(ms(160)));
        assert_eq!(names(&pending.due(9, false, ms(160))), ["/r/a"]);
        assert_eq!(names(&pending.due(9, true, ms(60))), ["/r/a"]);
        assert_eq!(pending.debt(), Debt { paths: 1, bytes: 10, oldest: Some(ms(0)) });
    }

    #[test]
    fn what_never_rests_is_due_when_patience_is_over() {
        let mut pending = Pending::default();
        for n in 0..=100 {
            changed(&mut pending, "/r/a", ms(50 * n));
        }
        assert_eq!(pending.due(9, false, PATIENCE).len(), 1);
    }

    #[test]
    fn only_what_did_not_change_meanwhile_is_settled() {
        let mut pending = Pending::default();
        changed(&mut pending, "/r/a", ms(0));
        let due = pending.due(9, true, ms(0)).remove(0);
        pending.begin(&path("/r/a"), ms(1));
        assert!(!pending.settle(&due), "a change is under way");
        pending.end(&path("/r/a"), Some(20), ms(2));
        assert!(!pending.settle(&due), "it has changed");
        assert_eq!(pending.debt().bytes, 20);
        let due = pending.due(9, true, ms(2)).remove(0);
        assert!(pending.settle(&due) && pending.is_empty());
        assert!(!pending.settle(&due));
        assert_eq!(pending.debt(), Debt::default());
    }

    #[test]
    fn what_is_being_changed_is_never_due() {
        let mut pending = Pending::default();
        pending.begin(&path("/r/a"), ms(0));
        assert!(pending.due(9, true, PATIENCE * 2).is_empty());
        assert_eq!(pending.next_due(ms(0)), None);
    }

    #[test]
    fn directories_lead_and_come_along_although_they_are_busy() {
        let mut pending = Pending::default();
        changed(&mut pending, "/r/d/e/f", ms(0));
        changed(&mut pending, "/r/d", ms(0));
        pending.begin(&path("/r/d/e"), ms(0));
        let due = pending.due(1, true, ms(0));
        assert_eq!(names(&due), ["/r/d", "/r/d/e", "/r/d/e/f"]);
        assert!(!pending.settle(&due[1]), "the directory is told again once it rests");
    }

    #[test]
    fn who_was_changed_first_comes_first() {
        let mut pending = Pending::default();
        changed(&mut pending, "/r/b", ms(0));
        changed(&mut pending, "/r/a", ms(1));
        changed(&mut pending, "/r/b", ms(2));
        assert_eq!(names(&pending.due(1, true, ms(2))), ["/r/a"]);
    }

    #[test]
    fn failures_wait_longer_each_time_until_they_are_forgiven() {
        let mut pending = Pending::default();
        changed(&mut pending, "/r/a", ms(0));
        let due = pending.due(9, true, ms(0)).remove(0);
        pending.fail(&due, ms(1000));
        assert_eq!(pending.next_due(ms(1000)), Some(ms(1200)));
        pending.fail(&due, ms(2000));
        assert_eq!(pending.next_due(ms(2000)), Some(ms(2400)));
        (0..20).for_each(|_| pending.fail(&due, ms(3000)));
        assert_eq!(pending.next_due(ms(3000)), Some(ms(3000) + RETRY[1]));
        pending.forgive();
        assert_eq!(pending.next_due(ms(3000)), Some(ms(3000)));
    }

    fn goes(pending: &mut Pending, due: &Due) -> bool {
        pending.gone(due) && pending.first_present().is_none_or(|first| due.changed < first)
    }

    #[test]
    fn what_is_gone_goes_after_what_was_changed_before() {
        let mut pending = Pending::default();
        changed(&mut pending, "/r/new", ms(0));
        changed(&mut pending, "/r/old", ms(0));
        changed(&mut pending, "/r", ms(0));
        let due = pending.due(9, true, ms(0));
        let at = |name: &str| due.iter().find(|due| due.path == path(name)).unwrap();
        assert!(!goes(&mut pending, at("/r/old")), "the other name is not home yet");
        assert!(pending.settle(at("/r/new")));
        assert!(goes(&mut pending, at("/r/old")), "the directory was changed later");
        changed(&mut pending, "/r/old", ms(1));
        assert!(!goes(&mut pending, at("/r/old")), "it is there again");
    }

    /// A start adds what is gone last: it is not known what it was changed after.
    #[test]
    fn what_was_moved_does_not_wait_for_what_is_gone_beneath_it() {
        let mut pending = Pending::default();
        pending.add_whole(&path("/r/to"), ms(0));
        pending.add(&path("/r/to/a"), ms(0));
        let due = pending.due(9, true, ms(0));
        assert!(!goes(&mut pending, &due[1]), "what is above it was changed before");
        assert!(pending.settle(&due[0]) && goes(&mut pending, &due[1]));
        assert!(pending.settle(&due[1]) && pending.is_empty());
    }

    #[test]
    fn what_was_moved_stays_until_all_beneath_it_is_home() {
        let mut pending = Pending::default();
        pending.add_whole(&path("/r/to"), ms(0));
        changed(&mut pending, "/r/from", ms(0));
        let due = pending.due(9, true, ms(0));
        assert_eq!(due.iter().map(|due| due.whole).collect::<Vec<_>>(), [false, true]);
        pending.add(&path("/r/to/a"), ms(0));
        pending.add(&path("/r/to-b"), ms(0));
        assert!(!pending.settle(&due[1]) && !goes(&mut pending, &due[0]));
        let below = pending.due(9, true, ms(0)).into_iter().find(|due| due.path == path("/r/to/a")).unwrap();
        assert!(pending.settle(&below) && pending.settle(&due[1]) && goes(&mut pending, &due[0]));
    }

    #[test]
    fn debts_are_of_subtrees() {
        let mut pending = Pending::default();
        for at in ["/r/a", "/r/a-b", "/r/a/c", "/r/b"] {
            changed(&mut pending, at, ms(5));
        }
        assert_eq!(pending.debt_below(&path("/r/a")), Debt { paths: 2, bytes: 20, oldest: Some(ms(5)) });
        assert_eq!(pending.debt_below(&path("/r")).paths, 4);
    }
}
