//! Random operations by seed on a mount of a whole cluster and on a plain directory, while the site's daemon is killed and
//! started again. Where it died nobody knows whether an operation was done: then it was, or it was not.

use super::{mount_with, within};
use crate::common::{Setup, TestCluster, can_mount, setting, shell};
use crate::steps::{Random, Side, Step, all};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Operations of a seed while nobody dies, and while daemons do.
const STEPS: [usize; 2] = [4000, 10_000];

/// Seeds at a time of which daemons die: each waits most of the time.
const AT_ONCE: u64 = 8;

/// Operations between two deaths.
const BETWEEN: u64 = 500;

/// What programs are told when a daemon dies: `EIO`, `ETIMEDOUT`, `EHOSTUNREACH`.
const LOST: [&str; 3] = ["error Some(5)", "error Some(110)", "error Some(113)"];

struct Run {
    test: TestCluster,
    origin: PathBuf,
    ours: Side,
    theirs: Side,
    /// What kills the daemon, soon.
    killer: Option<JoinHandle<()>>,
    lost: usize,
    /// The last operation that met a death.
    last_lost: String,
}

impl Run {
    fn step(&mut self, step: &Step, number: usize, seed: u64) {
        let our = self.ours.apply(step, number);
        if LOST.contains(&&our[..]) {
            return self.settle(step, number, seed);
        }
        let their = self.theirs.apply(step, number);
        assert!(
            our == their,
            "seed {seed}, step {number} {step:?}: {our:.200} instead of {their:.200}; last lost: {}",
            self.last_lost
        );
    }

    /// The step was carried out or was not; the plain directory follows. What was open is closed.
    fn settle(&mut self, step: &Step, number: usize, seed: u64) {
        self.lost += 1;
        self.last_lost = format!("step {number} {step:?}");
        self.start_daemon();
        let before = all(&self.theirs.root, false);
        self.theirs.apply(step, number);
        let after = all(&self.theirs.root, false);
        (self.ours.open, self.theirs.open) = Default::default();
        let root = self.ours.root.clone();
        within(Duration::from_secs(20), || std::fs::read_dir(&root).map(drop).map_err(|e| e.to_string()));
        let there = all(&self.origin, false);
        // A write may have come half way, as on any file system whose machine dies.
        let is_write = matches!(step, Step::Write(..) | Step::Append(..) | Step::WriteOpen(..));
        let is_one = is_write || there == before || there == after;
        assert!(is_one, "seed {seed}, step {number} {step:?}: neither done nor not");
        let plain = &self.theirs.root;
        let copy = format!(
            "cd {} && find . -mindepth 1 -delete && cp -a {}/. . && find . -name '.globalfs-*' -delete",
            plain.display(),
            self.origin.display()
        );
        shell(Path::new("/"), &copy);
    }

    /// The daemon dies within some operations from now on.
    fn kill_daemon(&mut self, delay: Duration) {
        let pid = self.test.cluster.pid("onprem").unwrap().to_string();
        self.killer = Some(thread::spawn(move || {
            thread::sleep(delay);
            assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
        }));
    }

    fn start_daemon(&mut self) {
        if let Some(killer) = self.killer.take() {
            killer.join().unwrap();
            self.test.cluster.kill("onprem").unwrap();
            self.test.cluster.start_site("onprem").unwrap();
        }
    }
}

fn run(seed: u64, dies: bool) -> usize {
    let mut test = Setup::default().start(|_| {});
    let mount = mount_with(&mut test, "node-1", "onprem", "", &[]);
    let (plain, origin) = (test.scratch.path().join("plain"), test.origin("onprem"));
    std::fs::create_dir(&plain).unwrap();
    let [mut ours, mut theirs] = [&mount, &plain].map(|root| Side::new(root));
    (ours.counts_links, theirs.counts_links) = (!dies, !dies);
    // A write alone does not tell whether it survives.
    ours.syncs = dies;
    let mut run = Run { test, origin, ours, theirs, killer: None, lost: 0, last_lost: String::new() };
    let (mut random, mut deaths) = (Random(seed), Random(seed + 1000));
    for number in 0..STEPS[usize::from(dies)] {
        if dies && run.killer.is_none() && deaths.below(BETWEEN) == 0 {
            run.kill_daemon(Duration::from_micros(deaths.below(10_000)));
        }
        run.step(&Step::next(&mut random), number, seed);
    }
    run.start_daemon();
    let Run { ours, theirs, origin, lost, .. } = run;
    assert!(all(&ours.root, !dies) == all(&theirs.root, !dies), "seed {seed}: at the end");
    assert!(all(&origin, false) == all(&theirs.root, false), "seed {seed}: in the origin");
    lost
}

#[test]
fn a_mount_of_a_cluster_does_what_a_local_directory_does() {
    if can_mount("a_mount_of_a_cluster_does_what_a_local_directory_does") {
        (1..3).for_each(|seed| assert_eq!(run(seed, false), 0, "nobody died"));
    }
}

/// Holds promise 7, promise 13 of docs/semantics.md.
#[test]
fn deaths_of_the_daemon_leave_nothing_half_done() {
    if can_mount("deaths_of_the_daemon_leave_nothing_half_done") {
        let first = setting("GLOBALFS_MODEL_SEED", 11);
        let lost: usize = thread::scope(|scope| {
            let runs: Vec<_> =
                (first..first + AT_ONCE).map(|seed| scope.spawn(move || run(seed, true))).collect();
            runs.into_iter().map(|run| run.join().unwrap()).sum()
        });
        eprintln!("seeds from {first}: {lost} operations of {} met a death", STEPS[1] as u64 * AT_ONCE);
        assert!(lost > 2 * AT_ONCE as usize, "{lost} operations met a death");
    }
}
