//! Random operations by seed in a subtree that two sites change by turns, and in a plain directory, while daemons are killed,
//! stay away, and the WAN is cut. The subtree is taken by the cloud, goes home and is taken again. Whatever happened: when
//! all is whole again and brought home, every tree is the plain one.

use super::snapshot::Snapshot;
use super::within;
use crate::common::wan::Wan;
use crate::common::{Setup, TestCluster, can_mount, setting, shell};
use crate::steps::{Random, Side, Step};
use std::collections::HashSet;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Operations of a seed in the suite.
const STEPS: u64 = 2500;

/// Operations between two checks of all trees.
const BETWEEN_CHECKS: u64 = 250;

/// Operations between two events.
const BETWEEN_EVENTS: u64 = 25;

/// What programs are told when a daemon dies: `EIO`, `ETIMEDOUT`, `EHOSTUNREACH`.
const LOST: [&str; 3] = ["error Some(5)", "error Some(110)", "error Some(113)"];

/// What another site or a restarted daemon may take until it is where the first one is.
const SOON: Duration = Duration::from_secs(20);

const SUBTREE: &str = "results/job";

const POLICIES: &str = "\
policies:
  - {name: results, pattern: /results/**, primary: onprem, sync_mode: async}
";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Site {
    Home,
    Cloud,
}

/// What is away until it is called back.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Away {
    home: bool,
    coordinator: bool,
    wan: bool,
}

/// How often something happened.
#[derive(Debug, Default)]
struct Tally {
    kills: u64,
    lost: u64,
    homes_away: u64,
    coordinators_away: u64,
    cuts: u64,
    steps_away: u64,
    checks: u64,
    drains: u64,
    moves: u64,
}

struct Run {
    seed: u64,
    events: Random,
    ours: Side,
    /// Where our paths begin, as those of a job that works in its directory: what is above is not held, and home is asked
    /// for it.
    working: File,
    theirs: Side,
    writer: Site,
    /// The cloud masters the subtree, as far as the coordinator last told.
    is_held: bool,
    away: Away,
    /// Kills a daemon soon and starts it again.
    killer: Option<JoinHandle<()>>,
    /// Operations may fail: a daemon was killed lately.
    is_excused: bool,
    /// Also what [`Self::is_left_out`] names.
    leaves_nothing_out: bool,
    /// Where directories were until they were moved, since all was home last.
    left: HashSet<PathBuf>,
    tally: Tally,
    test: Arc<Mutex<TestCluster>>,
    scratch: PathBuf,
    wan: Wan,
}

impl Site {
    fn name(self) -> &'static str {
        match self {
            Self::Home => "onprem",
            Self::Cloud => "cloud",
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Home => Self::Cloud,
            Self::Cloud => Self::Home,
        }
    }
}

impl Run {
    fn begin(seed: u64) -> Self {
        let wan = Wan::new();
        let setup = Setup { policy_yaml: POLICIES.into(), ..Setup::default() };
        let mut test =
            setup.start_at(wan.places(), |origin| fs::create_dir_all(origin.join(SUBTREE)).unwrap());
        for site in [Site::Home, Site::Cloud] {
            test.mount(&format!("node-{}", site.name()), site.name());
        }
        let scratch = test.scratch.path().to_owned();
        let plain = scratch.join("plain");
        fs::create_dir(&plain).unwrap();
        let theirs = Side { counts_links: false, ..Side::new(&plain) };
        let (working, root) = enter(&mount(&scratch, Site::Cloud));
        let ours = Side { counts_links: false, syncs: true, ..Side::new(&root) };
        Self {
            seed,
            events: Random(seed + 1000),
            ours,
            working,
            theirs,
            writer: Site::Cloud,
            is_held: false,
            away: Away::default(),
            killer: None,
            is_excused: false,
            leaves_nothing_out: setting("GLOBALFS_MODEL_ALL", 0) == 1,
            left: HashSet::new(),
            tally: Tally::default(),
            test: Arc::new(Mutex::new(test)),
            scratch,
            wan,
        }
    }

    fn admin(&self, args: &[&str]) -> Result<String, String> {
        self.test.lock().unwrap().cluster.admin(args).map_err(|error| format!("{error:#}"))
    }

    /// What does not pass with each seed yet, and has tests of its own in `leases.rs`: a directory that takes the name of one
    /// that was moved away and is not home yet, and a file that is written by a name which it has lost, while it has another.
    fn is_left_out(&mut self, step: &Step) -> bool {
        let meta = |path: &PathBuf| fs::symlink_metadata(self.theirs.root.join(path)).ok();
        let is_directory = |path: &PathBuf| meta(path).is_some_and(|meta| meta.is_dir());
        match step {
            Step::MakeDirectory(path) => self.left.contains(path),
            Step::Exchange(one, other) => is_directory(one) || is_directory(other),
            Step::Rename(from, to) if is_directory(from) => {
                let is_left_out = self.left.contains(to);
                self.left.extend((!is_left_out).then(|| from.clone()));
                is_left_out
            }
            Step::Link(from, _) => meta(from).is_some_and(|meta| self.is_open(meta.ino())),
            Step::Open(path, _) => meta(path).is_some_and(|meta| meta.nlink() > 1),
            _ => false,
        }
    }

    fn is_open(&self, file: u64) -> bool {
        self.theirs.open.iter().flatten().any(|open| open.metadata().unwrap().ino() == file)
    }

    fn step(&mut self, step: &Step, number: u64) {
        if !self.leaves_nothing_out && self.is_left_out(step) {
            return;
        }
        self.tally.steps_away += u64::from(self.away != Away::default());
        let our = self.ours.apply(step, number as usize);
        if LOST.contains(&&our[..]) {
            assert!(self.is_excused, "{}: {our}, and nothing died that it needs", self.at(step, number));
            return self.settle(step, number);
        }
        // The daemon that was killed is found again.
        let is_back = self.killer.as_ref().is_none_or(JoinHandle::is_finished);
        self.is_excused &= !(is_back && our == "done");
        let their = self.theirs.apply(step, number as usize);
        assert!(our == their, "{}: {our:.200} instead of {their:.200}", self.at(step, number));
    }

    fn at(&self, step: &Step, number: u64) -> String {
        format!(
            "seed {}, step {number} {step:?} at {:?}, held: {}, {:?}, {:?}",
            self.seed, self.writer, self.is_held, self.away, self.tally
        )
    }

    /// The step was carried out or was not; the plain directory follows. What was open is closed.
    fn settle(&mut self, step: &Step, number: u64) {
        self.tally.lost += 1;
        self.join_killer();
        self.ask_who_holds();
        let plain = |run: &Self| Snapshot::of(&run.theirs.root).unwrap().without_times().without_links();
        let before = plain(self);
        self.theirs.apply(step, number as usize);
        let after = plain(self);
        self.close_all();
        let origin = self.origin(if self.is_held { Site::Cloud } else { Site::Home });
        let there = Snapshot::of(&origin).unwrap().without_times().without_links();
        let done = there.compare(&after).err();
        assert!(
            there.is_between(&before, &after),
            "{}: neither done nor not: {done:?}",
            self.at(step, number)
        );
        let copy = format!(
            "cd {} && find . -mindepth 1 -delete && cp -a {}/. . && find . -name '.globalfs-*' -delete",
            self.theirs.root.display(),
            origin.display()
        );
        shell(Path::new("/"), &copy);
        self.is_like(&self.ours.root, &Snapshot::of(&self.theirs.root).unwrap());
        // What is gone stands in no listing, and the kernel may know it for some moments.
        for name in names_in(step) {
            let kind =
                |side: &Side| fs::symlink_metadata(side.root.join(name)).ok().map(|meta| meta.file_type());
            within(SOON, || match kind(&self.ours) == kind(&self.theirs) {
                true => Ok(()),
                false => Err(format!("{}: {}", self.at(step, number), name.display())),
            });
        }
    }

    fn close_all(&mut self) {
        (self.ours.open, self.theirs.open) = Default::default();
    }

    fn origin(&self, site: Site) -> PathBuf {
        self.scratch.join(format!("{}-origin", site.name())).join(SUBTREE)
    }

    /// Something may happen now.
    fn event(&mut self) {
        self.join_killer();
        self.ask_who_holds();
        let goes_on_alone = self.writer == Site::Cloud && self.is_held;
        match self.events.below(8) {
            0 | 1 => self.kill_soon(Site::Cloud),
            2 if !self.away.home => self.kill_soon(Site::Home),
            3 if goes_on_alone && !self.away.home => {
                self.kill("onprem");
                self.away.home = true;
                self.tally.homes_away += 1;
            }
            4 if !self.away.coordinator => {
                self.kill("coordinator");
                self.away.coordinator = true;
                self.tally.coordinators_away += 1;
            }
            5 if goes_on_alone && !self.away.wan => {
                self.wan.cut();
                self.away.wan = true;
                self.tally.cuts += 1;
            }
            6 => self.heal(),
            _ => {}
        }
    }

    /// Only who reaches the coordinator takes or gives up a lease, so what it told last holds while it is away.
    fn ask_who_holds(&mut self) {
        if self.away.coordinator {
            return;
        }
        let told = within(SOON, || self.admin(&["lease", "list", "--json"]));
        let leases: Vec<serde_json::Value> = serde_json::from_str(&told).unwrap();
        self.is_held = leases.iter().any(|lease| lease["ready"] == true && lease["master"] == "cloud");
    }

    fn kill(&mut self, name: &str) {
        self.test.lock().unwrap().cluster.kill(name).unwrap();
        self.tally.kills += 1;
    }

    /// The daemon dies within some operations from now on, and comes back by itself.
    fn kill_soon(&mut self, site: Site) {
        let (test, delay) = (self.test.clone(), Duration::from_micros(self.events.below(10_000)));
        self.is_excused |= site == Site::Cloud || self.writer == Site::Home || !self.is_held;
        self.tally.kills += 1;
        self.killer = Some(thread::spawn(move || {
            thread::sleep(delay);
            let cluster = &mut test.lock().unwrap().cluster;
            cluster.kill(site.name()).unwrap();
            cluster.start_site(site.name()).unwrap();
        }));
    }

    fn join_killer(&mut self) {
        if let Some(killer) = self.killer.take() {
            killer.join().unwrap();
        }
    }

    /// All that is away comes back.
    fn heal(&mut self) {
        self.join_killer();
        let away = std::mem::take(&mut self.away);
        let cluster = &mut self.test.lock().unwrap().cluster;
        if away.wan {
            self.wan.heal();
        }
        if away.coordinator {
            cluster.start_coordinator().unwrap();
        }
        if away.home {
            cluster.start_site("onprem").unwrap();
        }
    }

    /// When all is whole and brought home, all trees are the plain one.
    fn check(&mut self) {
        self.tally.checks += 1;
        self.heal();
        self.close_all();
        within(SOON, || self.admin(&["sync", "/results", "--wait", "--timeout", "60s"]));
        self.left.clear();
        self.ask_who_holds();
        let plain = Snapshot::of(&self.theirs.root).unwrap();
        self.is_like(&self.origin(Site::Home), &plain);
        if self.is_held {
            let home = || Snapshot::of(&self.origin(Site::Home)).map_err(|error| error.to_string());
            within(SOON, || home()?.compare(&Snapshot::of(&self.origin(Site::Cloud)).unwrap()));
        }
        [Site::Home, Site::Cloud].iter().for_each(|site| self.is_like(&mount(&self.scratch, *site), &plain));
        within(SOON, || self.nothing_is_hidden());
    }

    /// What differs after a while is told with the seed.
    fn is_like(&self, root: &Path, plain: &Snapshot) {
        let plain = plain.clone().without_times();
        let look = || {
            let found = Snapshot::of(root).map_err(|error| error.to_string())?.without_times();
            found.compare(&plain).map_err(|why| format!("seed {}, {}: {why}", self.seed, root.display()))
        };
        within(SOON, look);
    }

    fn nothing_is_hidden(&self) -> Result<(), String> {
        let hidden = shell(&self.scratch, "find onprem-origin cloud-origin -name '.globalfs-*'");
        if hidden.is_empty() { Ok(()) } else { Err(format!("seed {}, hidden: {hidden}", self.seed)) }
    }

    /// Who writes from now on, and whether the subtree goes home before.
    fn hand_over(&mut self) {
        let choice = self.events.below(4);
        if choice & 1 > 0 {
            self.tally.drains += 1;
            within(SOON, || self.admin(&["drain", "cloud", "--timeout", "60s"]));
            let left = self.origin(Site::Cloud);
            within(SOON, || if left.exists() { Err(format!("{} is there", left.display())) } else { Ok(()) });
            self.is_held = false;
            self.check();
        }
        if choice & 2 > 0 {
            self.tally.moves += 1;
            self.writer = self.writer.other();
            (self.working, self.ours.root) = enter(&mount(&self.scratch, self.writer));
        }
    }
}

impl Drop for Run {
    /// What daemons said and which leases there are says why it failed.
    fn drop(&mut self) {
        if thread::panicking() {
            let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("two-sites-{}", self.seed));
            let copy = format!("mkdir -p {0} && cp cluster/*.log {0}", kept.display());
            shell(&self.scratch, &copy);
            let differs = "for site in onprem cloud; do diff -rq $site-origin/results/job plain; done 2>&1; \
                 find onprem-origin/results/job cloud-origin/results/job plain -links +1 ! -type d -printf '%p %i %n\\n' || true";
            eprintln!("what differs from the plain directory:\n{}", shell(&self.scratch, differs));
            eprintln!(
                "seed {}: logs in {}\n{:?}",
                self.seed,
                kept.display(),
                self.admin(&["lease", "list", "--json"])
            );
        }
    }
}

/// Opens a directory, and gives the path by which this process finds it.
fn enter(directory: &Path) -> (File, PathBuf) {
    let working = File::open(directory).unwrap();
    let path = format!("/proc/self/fd/{}", working.as_raw_fd());
    (working, path.into())
}

fn mount(scratch: &Path, site: Site) -> PathBuf {
    scratch.join(format!("mnt-node-{}", site.name())).join(SUBTREE)
}

fn run(seed: u64, steps: u64) -> Tally {
    let mut run = Run::begin(seed);
    let mut random = Random(seed);
    for number in 0..steps {
        if run.events.below(BETWEEN_EVENTS) == 0 {
            run.event();
        }
        run.step(&Step::next(&mut random), number);
        if (number + 1) % BETWEEN_CHECKS == 0 {
            run.check();
            run.hand_over();
        }
    }
    run.check();
    std::mem::take(&mut run.tally)
}

/// The names that `step` makes, moves or takes away.
fn names_in(step: &Step) -> Vec<&PathBuf> {
    match step {
        Step::Rename(one, other) | Step::Exchange(one, other) | Step::Link(one, other) => vec![one, other],
        Step::Create(name)
        | Step::Symlink(name)
        | Step::Remove(name)
        | Step::MakeDirectory(name)
        | Step::RemoveDirectory(name) => vec![name],
        _ => Vec::new(),
    }
}

/// Holds promise 13, promise 18, promise 19, promise 20 of docs/semantics.md.
#[test]
fn two_sites_that_write_by_turns_lose_and_mix_nothing() {
    if !can_mount("two_sites_that_write_by_turns_lose_and_mix_nothing") {
        return;
    }
    let (seed, steps) = (setting("GLOBALFS_MODEL_SEED", 33), setting("GLOBALFS_MODEL_STEPS", STEPS));
    let tally = run(seed, steps);
    eprintln!("seed {seed}, {steps} steps: {tally:?}");
    let Tally { kills, homes_away, coordinators_away, cuts, steps_away, drains, moves, .. } = tally;
    let happened = [kills, homes_away + cuts, coordinators_away, steps_away, drains, moves];
    assert!(steps < STEPS || happened.iter().all(|times| *times > 0), "seed {seed}: {happened:?}");
}
