//! The paths of replicas that are to be made what they are at their master, and in which order.
//!
//! *Invariants:* what has a higher priority goes first, and of the same priority what waits longest; a path is worked on once
//! at a time; it leaves the set only when what was made is what was wanted last.

use super::pending::Debt;
use super::replicas::{Rule, When};
use globalfs_proto::{Attr, FileKind, GlobalPath};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Paths that may be wanted; who finds more waits.
pub const MAX_WANTED: usize = 100_000;

/// A path is left alone until it was not changed for so long, by when it is to be brought.
const QUIET: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];

/// The first and the longest pause after a failure.
const RETRY: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(30)];

/// The set. Times are of one monotonic clock.
#[derive(Debug, Default)]
pub struct Wanted {
    marks: BTreeMap<GlobalPath, Mark>,
    order: BTreeSet<Place>,
    last: u64,
}

type Place = (Reverse<i32>, Duration, GlobalPath);

#[derive(Debug)]
struct Mark {
    task: Task,
    since: Duration,
    last_change: Duration,
    is_busy: bool,
    failures: u32,
    not_before: Duration,
}

/// A path to be made what it is at its master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Which.
    pub path: GlobalPath,
    /// What it is there; `None`: nothing.
    pub master: Option<Attr>,
    /// Why it is wanted.
    pub rule: Rule,
    moment: u64,
}

impl Task {
    /// Bytes of the file that is to come.
    pub fn bytes(&self) -> u64 {
        self.master.filter(|attr| attr.kind == FileKind::Regular).map_or(0, |attr| attr.size)
    }
}

impl Wanted {
    /// `path` is to be `master`.
    pub fn want(&mut self, path: &GlobalPath, master: Option<Attr>, rule: Rule, now: Duration) {
        self.last += 1;
        let task = Task { path: path.clone(), master, rule, moment: self.last };
        let before = self.marks.remove(path);
        if let Some(before) = &before {
            self.order.remove(&before.place());
        }
        let fresh = |task| Mark {
            task,
            since: now,
            last_change: now,
            is_busy: false,
            failures: 0,
            not_before: Duration::ZERO,
        };
        let mark = match before {
            Some(before) => Mark { task, last_change: now, ..before },
            None => fresh(task),
        };
        self.order.insert(mark.place());
        self.marks.insert(path.clone(), mark);
    }

    /// What is due now: of at most `most` paths and `bytes` in all but for the first, each no larger than `largest`. It has
    /// to be settled, to fail, or to be dropped.
    pub fn due(&mut self, now: Duration, most: usize, bytes: u64, largest: u64) -> Vec<Task> {
        let (mut due, mut sum) = (Vec::new(), 0u64);
        for (_, _, path) in &self.order {
            let mark = &self.marks[path];
            if mark.is_busy || mark.due_at() > now || mark.task.bytes() > largest {
                continue;
            }
            sum = sum.saturating_add(mark.task.bytes());
            if !due.is_empty() && sum > bytes {
                break;
            }
            due.push(mark.task.clone());
            if due.len() == most {
                break;
            }
        }
        for task in &due {
            self.marks.get_mut(&task.path).expect("it was just looked at").is_busy = true;
        }
        due
    }

    /// It is done, or not wanted any more, unless it was wanted otherwise since.
    pub fn settle(&mut self, task: &Task) {
        let Some(mark) = self.marks.get_mut(&task.path) else { return };
        mark.is_busy = false;
        if mark.task.moment == task.moment {
            let place = mark.place();
            self.order.remove(&place);
            self.marks.remove(&task.path);
        }
    }

    /// It could not be done: it is tried again after a while, longer each time.
    pub fn fail(&mut self, task: &Task, now: Duration) {
        let Some(mark) = self.marks.get_mut(&task.path) else { return };
        mark.is_busy = false;
        let pause = RETRY[0] * 2u32.pow(mark.failures.min(10));
        mark.failures += 1;
        mark.not_before = now + pause.min(RETRY[1]);
    }

    /// Failures are forgotten: somebody waits, or the master is back.
    pub fn forgive(&mut self) {
        for mark in self.marks.values_mut() {
            (mark.failures, mark.not_before) = (0, Duration::ZERO);
        }
    }

    /// When something of at most `largest` bytes will be due if nothing more happens.
    pub fn next_due(&self, largest: u64) -> Option<Duration> {
        let marks = self.marks.values().filter(|mark| !mark.is_busy && mark.task.bytes() <= largest);
        marks.map(Mark::due_at).min()
    }

    /// Whether who finds more has to wait.
    pub fn is_full(&self) -> bool {
        self.marks.len() >= MAX_WANTED
    }

    /// What is wanted at `path` and beneath it; times are of when the oldest was wanted first.
    pub fn debt_below(&self, path: &GlobalPath) -> Debt {
        sum(self.marks.range(path.clone()..).filter(|(at, _)| at.starts_with(path)).map(|(_, mark)| mark))
    }

    /// How many paths of a policy are wanted for longer than it permits.
    pub fn late(&self, policy: &str, now: Duration) -> u64 {
        let is_late = |mark: &&Mark| {
            let deadline = mark.task.rule.deadline;
            *mark.task.rule.policy == *policy && deadline.is_some_and(|deadline| mark.since + deadline < now)
        };
        self.marks.values().filter(is_late).count() as u64
    }

    /// What is wanted, by policy.
    pub fn debts(&self) -> BTreeMap<Arc<str>, Debt> {
        let mut by_policy: BTreeMap<Arc<str>, Vec<&Mark>> = BTreeMap::new();
        for mark in self.marks.values() {
            by_policy.entry(mark.task.rule.policy.clone()).or_default().push(mark);
        }
        by_policy.into_iter().map(|(policy, marks)| (policy, sum(marks.into_iter()))).collect()
    }
}

fn sum<'m>(marks: impl Iterator<Item = &'m Mark>) -> Debt {
    marks.fold(Debt::default(), |debt, mark| Debt {
        paths: debt.paths + 1,
        bytes: debt.bytes + mark.task.bytes(),
        oldest: Some(debt.oldest.map_or(mark.since, |oldest| oldest.min(mark.since))),
    })
}

impl Mark {
    fn place(&self) -> Place {
        (Reverse(self.task.rule.priority), self.since, self.task.path.clone())
    }

    fn due_at(&self) -> Duration {
        let quiet = if self.task.rule.when == When::InBackground { QUIET[1] } else { QUIET[0] };
        (self.last_change + quiet).min(self.since + self.task.rule.patience).max(self.not_before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> GlobalPath {
        GlobalPath::new(text.as_bytes()).unwrap()
    }

    fn rule(when: When, priority: i32) -> Rule {
        let (patience, deadline) = (Duration::from_secs(5), Some(Duration::from_secs(7)));
        Rule { policy: "p".into(), when, priority, patience, deadline }
    }

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn paths(tasks: &[Task]) -> Vec<String> {
        tasks.iter().map(|task| task.path.to_string()).collect()
    }

    fn due(wanted: &mut Wanted, now: Duration) -> Vec<Task> {
        wanted.due(now, 10, u64::MAX, u64::MAX)
    }

    #[test]
    fn priority_goes_first_and_then_age() {
        let mut wanted = Wanted::default();
        wanted.want(&path("/c"), None, rule(When::AtOnce, 0), at(0));
        wanted.want(&path("/a"), None, rule(When::AtOnce, 0), at(1));
        wanted.want(&path("/b"), None, rule(When::AtOnce, 5), at(2));
        assert!(due(&mut wanted, at(3)).is_empty(), "not quiet yet");
        assert_eq!(wanted.next_due(0), Some(at(50)));
        let tasks = due(&mut wanted, at(100));
        assert_eq!(paths(&tasks), ["/b", "/c", "/a"]);
        assert!(due(&mut wanted, at(100)).is_empty(), "each once at a time");
        wanted.fail(&tasks[0], at(100));
        assert!(due(&mut wanted, at(200)).is_empty() && paths(&due(&mut wanted, at(300))) == ["/b"]);
        tasks.iter().for_each(|task| wanted.settle(task));
        assert!(wanted.marks.is_empty() && wanted.order.is_empty());
    }

    #[test]
    fn what_was_wanted_otherwise_meanwhile_stays() {
        let mut wanted = Wanted::default();
        wanted.want(&path("/a"), None, rule(When::AtOnce, 0), at(0));
        let first = due(&mut wanted, at(100));
        wanted.want(&path("/a"), None, rule(When::AtOnce, 0), at(100));
        wanted.settle(&first[0]);
        assert_eq!(wanted.debt_below(&path("/a")).paths, 1);
        let second = due(&mut wanted, at(200));
        wanted.settle(&second[0]);
        assert_eq!(wanted.debt_below(&GlobalPath::root()).paths, 0);
    }

    #[test]
    fn in_the_background_it_waits_for_quiet_and_not_for_ever() {
        let mut wanted = Wanted::default();
        for ms in (0..6000).step_by(500) {
            let is_due = !due(&mut wanted, at(ms)).is_empty();
            assert_eq!(is_due, ms == 5000, "{ms}");
            wanted.want(&path("/a"), None, rule(When::InBackground, 0), at(ms));
        }
    }

    #[test]
    fn a_batch_is_bounded_and_large_files_have_their_own_lane() {
        let mut wanted = Wanted::default();
        let file = |size| {
            let file = globalfs_proto::FileId { origin: 1, inode: 1 };
            let (kind, no_xattrs) = (FileKind::Regular, true);
            let times = 1;
            Attr {
                file,
                kind,
                mode: 0,
                nlink: 1,
                uid: 0,
                gid: 0,
                rdev: 0,
                size,
                blocks: 0,
                atime_ns: times,
                mtime_ns: times,
                ctime_ns: times,
                no_xattrs,
            }
        };
        for (name, size) in [("/a", 100), ("/b", 3), ("/c", 3), ("/d", 3)] {
            wanted.want(&path(name), Some(file(size)), rule(When::AtOnce, 0), at(0));
        }
        assert_eq!(paths(&wanted.due(at(100), 10, 7, 10)), ["/b", "/c"]);
        assert_eq!(paths(&wanted.due(at(100), 10, 7, u64::MAX)), ["/a"]);
        assert_eq!(
            (wanted.late("p", at(7000)), wanted.late("p", at(7001)), wanted.late("q", at(9000))),
            (0, 4, 0)
        );
        assert_eq!(wanted.debts()["p"], Debt { paths: 4, bytes: 109, oldest: Some(at(0)) });
    }
}
