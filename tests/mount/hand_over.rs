//! One file that two mounts change by turns, with close and open in between, against a model of its bytes: two nodes of a
//! site, two sites of which one sends changes on, and two sites of which one takes the file by a lease and gives it back.
//! And directories of a subtree that goes from site to site while processes are in them.

use super::within;
use crate::common::{Setup, TestCluster, can_mount, setting, shell};
use crate::steps::Random;
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Operations of each way in the suite.
const STEPS: u64 = 700;

/// Operations at most between open and close.
const OF_A_TURN: u64 = 8;

/// The file is never longer: some chunks, the last one begun.
const MAX_SIZE: u64 = 600_000;

/// Bytes of one operation at most.
const MAX_LENGTH: u64 = 150_000;

/// What the other mount may take to hear of a change.
const MOMENTS: Duration = Duration::from_secs(5);

/// Stores bytes into a mapping of a file and flushes it, and gives what the mapping shows then.
const MAPPED: &str = "import mmap, sys
path, offset, length, byte = sys.argv[1], *map(int, sys.argv[2:])
with open(path, 'r+b') as f, mmap.mmap(f.fileno(), 0) as m:
    m[offset:offset + length] = bytes([byte]) * length
    m.flush()
    sys.stdout.buffer.write(m[:])
";

const POLICIES: &str = "\
policies:
  - {name: results, pattern: /results/**, primary: onprem, sync_mode: async}
";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Two nodes of the home.
    OneSite,
    /// The cloud sends its changes home.
    Forwarded,
    /// The cloud masters the file, home sends changes on; now and then it goes home.
    Leased,
}

struct Shared {
    test: TestCluster,
    files: [PathBuf; 2],
    model: Vec<u8>,
    random: Random,
    /// What is said when something differs.
    at: String,
    /// Turns in which the other mount had not heard yet.
    late: u64,
}

impl Shared {
    fn start(way: Way, seed: u64) -> Self {
        let policy_yaml = if way == Way::Leased { POLICIES.into() } else { String::new() };
        let mut test = Setup { policy_yaml, ..Setup::default() }.start(|origin| {
            fs::create_dir_all(origin.join("results/job")).unwrap();
            fs::write(origin.join("results/job/file"), "").unwrap();
        });
        let second = if way == Way::OneSite { "onprem" } else { "cloud" };
        let mounts = [test.mount("node-1", "onprem"), test.mount("node-2", second)];
        let files = mounts.map(|mount| mount.join("results/job/file"));
        Self { test, files, model: Vec::new(), random: Random(seed), at: String::new(), late: 0 }
    }

    /// Opens, changes and reads, and closes: how many operations that were.
    fn turn(&mut self, way: Way, seed: u64, number: u64) -> u64 {
        let mount = self.random.below(2) as usize;
        self.at = format!("{way:?}, seed {seed}, operation {number} at mount {mount}");
        self.is_seen_at(mount);
        let path = &self.files[mount];
        let file = File::options().read(true).write(true).open(path).unwrap();
        let operations = 1 + self.random.below(OF_A_TURN);
        (0..operations).for_each(|_| self.operate(mount, &file));
        drop(file);
        operations
    }

    /// What the last turn left is what this mount shows now.
    fn is_seen_at(&mut self, mount: usize) {
        let is_same = |found: &[u8], model: &[u8]| found == model;
        if is_same(&fs::read(&self.files[mount]).unwrap(), &self.model) {
            return;
        }
        self.late += 1;
        within(MOMENTS, || {
            let found = fs::read(&self.files[mount]).map_err(|error| error.to_string())?;
            if is_same(&found, &self.model) { Ok(()) } else { Err(self.differs(0, &found, &self.model)) }
        });
    }

    fn operate(&mut self, mount: usize, file: &File) {
        let (offset, length) = (self.random.below(MAX_SIZE - MAX_LENGTH), 1 + self.random.below(MAX_LENGTH));
        let byte = 1 + self.random.below(255) as u8;
        match self.random.below(16) {
            0..=4 => self.write(file, offset, length, byte),
            5 | 6 => {
                self.write(file, self.model.len().min((MAX_SIZE - MAX_LENGTH) as usize) as u64, length, byte)
            }
            7..=10 => self.read(file, offset, length),
            11 | 12 => self.truncate(file, offset),
            13 => self.punch(file, offset, length),
            14 => self.read(file, 0, MAX_SIZE),
            _ => self.map(mount, offset, length, byte),
        }
        assert_eq!(file.metadata().unwrap().len(), self.model.len() as u64, "{}: size", self.at);
    }

    fn write(&mut self, file: &File, offset: u64, length: u64, byte: u8) {
        let bytes: Vec<u8> = (0..length).map(|n| (n % 251) as u8 ^ byte).collect();
        file.write_all_at(&bytes, offset).unwrap();
        let (start, end) = (offset as usize, (offset + length) as usize);
        self.model.resize(self.model.len().max(end), 0);
        self.model[start..end].copy_from_slice(&bytes);
    }

    fn read(&self, file: &File, offset: u64, length: u64) {
        let mut found = vec![0; length as usize];
        let mut read = 0;
        while let more @ 1.. = file.read_at(&mut found[read..], offset + read as u64).unwrap() {
            read += more;
        }
        let end = self.model.len().min((offset + length) as usize);
        let wanted = self.model.get(offset as usize..end).unwrap_or_default();
        assert!(found[..read] == *wanted, "{}", self.differs(offset, &found[..read], wanted));
    }

    fn truncate(&mut self, file: &File, size: u64) {
        file.set_len(size).unwrap();
        self.model.resize(size as usize, 0);
    }

    fn punch(&mut self, file: &File, offset: u64, length: u64) {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(file, flags, offset, length).unwrap();
        let end = self.model.len().min((offset + length) as usize);
        if let Some(hole) = self.model.get_mut(offset as usize..end) {
            hole.fill(0);
        }
    }

    /// By another process of the same node, while the file is open here.
    fn map(&mut self, mount: usize, offset: u64, length: u64, byte: u8) {
        let end = self.model.len().min((offset + length) as usize);
        let Some(stored) = self.model.get_mut(offset as usize..end).filter(|stored| !stored.is_empty())
        else {
            return;
        };
        stored.fill(byte);
        let (offset, length) = (offset.to_string(), stored.len().to_string());
        let mut command = Command::new("python3");
        command.args(["-c", MAPPED]).arg(&self.files[mount]).args([offset, length, byte.to_string()]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}: {}", self.at, String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout == self.model, "{}", self.differs(0, &output.stdout, &self.model));
    }

    fn differs(&self, offset: u64, found: &[u8], wanted: &[u8]) -> String {
        let first = found.iter().zip(wanted).position(|(found, wanted)| found != wanted);
        let first = first.map(|at| offset + at as u64);
        format!("{}: {} bytes instead of {}, first other {first:?}", self.at, found.len(), wanted.len())
    }

    /// The subtree goes home.
    fn give_back(&self) {
        self.test.cluster.admin(&["drain", "cloud", "--timeout", "20s"]).unwrap();
    }
}

fn run(way: Way) {
    let (seed, steps) = (setting("GLOBALFS_MODEL_SEED", 41), setting("GLOBALFS_MODEL_STEPS", STEPS));
    let mut shared = Shared::start(way, seed);
    let mut number = 0;
    for turn in 1.. {
        number += shared.turn(way, seed, number);
        if way == Way::Leased && turn % 40 == 0 {
            shared.give_back();
        }
        if number >= steps {
            eprintln!("{way:?}, seed {seed}: {number} operations in {turn} turns, {} late", shared.late);
            break;
        }
    }
    (0..2).for_each(|mount| shared.is_seen_at(mount));
    if way == Way::Leased {
        shared.give_back();
    }
    let home = fs::read(shared.test.origin("onprem").join("results/job/file")).unwrap();
    assert!(home == shared.model, "{}", shared.differs(0, &home, &shared.model));
}

/// Holds promise 9, promise 10 of docs/semantics.md.
#[test]
fn two_nodes_of_a_site_hand_a_file_over_byte_by_byte() {
    if can_mount("two_nodes_of_a_site_hand_a_file_over_byte_by_byte") {
        run(Way::OneSite);
    }
}

/// Holds promise 10, promise 14 of docs/semantics.md.
#[test]
fn two_sites_hand_a_file_over_whose_changes_are_sent_on() {
    if can_mount("two_sites_hand_a_file_over_whose_changes_are_sent_on") {
        run(Way::Forwarded);
    }
}

/// Holds promise 10, promise 18 of docs/semantics.md.
#[test]
fn two_sites_hand_a_file_over_that_a_lease_moves() {
    if can_mount("two_sites_hand_a_file_over_that_a_lease_moves") {
        run(Way::Leased);
    }
}

/// A subtree that the cloud takes and gives back, and a directory in it where processes of one of its nodes are.
struct Working {
    test: TestCluster,
    /// A node that looks there only by what it has open.
    here: PathBuf,
    beside: PathBuf,
    directory: File,
    /// The directory, however it is called now.
    inside: PathBuf,
}

impl Working {
    fn start() -> Self {
        let mut test = Setup { policy_yaml: POLICIES.into(), ..Setup::default() }
            .start(|origin| fs::create_dir_all(origin.join("results/job/a/b")).unwrap());
        let (here, beside) = (test.mount("node-1", "cloud"), test.mount("node-2", "cloud"));
        shell(&beside, "echo taken > results/job/first");
        let directory = File::open(here.join("results/job/a/b")).unwrap();
        let inside = format!("/proc/self/fd/{}", directory.as_raw_fd()).into();
        Self { test, here, beside, directory, inside }
    }

    /// Writes `name` into its working directory when it is told to go on.
    fn worker(&self, name: &str) -> Child {
        let mut sh = Command::new("sh");
        sh.args(["-c", &format!("read go && echo worked > {name} && cat {name} && ls")]);
        sh.current_dir(&self.inside).stdin(Stdio::piped()).stdout(Stdio::piped());
        sh.spawn().unwrap()
    }

    fn number(&self) -> u64 {
        fs::metadata(self.test.origin("cloud").join("results/job/a/b")).unwrap().ino()
    }

    /// The subtree goes home, and others get the numbers that its directories had at the cloud.
    fn give_back(&self, round: u32) {
        self.test.cluster.admin(&["drain", "cloud", "--timeout", "20s"]).unwrap();
        let left = self.test.origin("cloud").join("results/job");
        within(MOMENTS, || if left.exists() { Err(format!("{} is there", left.display())) } else { Ok(()) });
        let taken = self.test.scratch.path().join(format!("taken-{round}"));
        (0..64).for_each(|n| fs::create_dir_all(taken.join(n.to_string())).unwrap());
    }
}

/// Holds promise 18 of docs/semantics.md.
#[test]
fn who_works_in_a_subtree_that_goes_home_and_is_taken_again_goes_on() {
    if !can_mount("who_works_in_a_subtree_that_goes_home_and_is_taken_again_goes_on") {
        return;
    }
    let working = Working::start();
    for round in 0..6 {
        let at = format!("round {round}");
        let (before, mut worker) = (working.number(), working.worker(&format!("worker-{round}")));
        working.give_back(round);
        // By another node, or by what is done there.
        if round % 2 == 0 {
            shell(&working.beside, &format!("echo again > results/job/again-{round}"));
            assert_ne!(working.number(), before, "{at}: it is the same file, which shows nothing");
        }
        match round / 2 {
            0 => fs::write(working.inside.join(format!("made-{round}")), "made").expect(&at),
            1 => working.directory.set_permissions(fs::Permissions::from_mode(0o750)).expect(&at),
            _ => working.directory.sync_all().expect(&at),
        }
        worker.stdin.take().unwrap().write_all(b"go\n").unwrap();
        let said = worker.wait_with_output().unwrap();
        assert!(said.status.success(), "{at}: {said:?}");
        assert!(String::from_utf8_lossy(&said.stdout).contains(&format!("worker-{round}")), "{at}: {said:?}");
        assert!(fs::metadata(&working.inside).is_ok(), "{at}");
        assert_eq!(
            shell(&working.beside, &format!("cat results/job/a/b/worker-{round}")),
            "worked\n",
            "{at}"
        );
    }
    assert_eq!(
        shell(&working.here, "stat -c %a results/job/a/b; cat results/job/a/b/made-*"),
        "750\nmademade"
    );
}

/// Holds promise 4 of docs/semantics.md.
#[test]
fn a_directory_that_is_replaced_where_subtrees_are_handed_over_is_another_one() {
    if !can_mount("a_directory_that_is_replaced_where_subtrees_are_handed_over_is_another_one") {
        return;
    }
    let working = Working::start();
    working.give_back(0);
    shell(&working.beside, "echo again > results/job/again");
    fs::write(working.inside.join("made"), "made").unwrap();
    // Answers of before the hand-over may be on their way for a moment.
    std::thread::sleep(Duration::from_secs(1));
    fs::metadata(&working.inside).unwrap();
    shell(
        &working.beside,
        "cd results/job/a && mkdir new && rm b/made && rmdir b && mv new b && echo new > b/file",
    );
    within(MOMENTS, || match fs::metadata(&working.inside).map_err(|error| error.raw_os_error()) {
        Err(Some(116)) => Ok(()),
        found => Err(format!("{found:?}")),
    });
    within(MOMENTS, || match fs::read_to_string(working.here.join("results/job/a/b/file")) {
        Ok(text) if text == "new\n" => Ok(()),
        found => Err(format!("{found:?}")),
    });
}
