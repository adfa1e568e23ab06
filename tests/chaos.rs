//! kill -9 of every program at random moments while files are read: what is read stays right, reads end
//! before their deadline, and whatever was killed starts again where it was.

mod common;

use common::{Setup, TestCluster, can_mount, noise, shell};
use globalfs::local::is_mounted;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Programs killed in the large test.
const KILLS: usize = 50;

/// Programs that die within one outage, at most.
const MAX_KILLS_AT_ONCE: usize = 3;

const READERS_PER_MOUNT: usize = 2;

/// What a mount gives an operation.
const DEADLINE: Duration = Duration::from_secs(5);

/// What one system call may take: an `open` is several operations, and the machine may be busy.
const CALL_LIMIT: Duration = Duration::from_secs(15);

/// How soon after the last restart everything must be readable again.
const RECOVERY_LIMIT: Duration = Duration::from_secs(15);

/// Bytes asked for by one read.
const READ_LENGTH: usize = 256 * 1024;

const MIB: usize = 1024 * 1024;
const FILES: usize = 24;
const NODES: [&str; 2] = ["node-1", "node-2"];

#[test]
fn reads_stay_right_while_everything_is_killed() {
    if !can_mount("reads_stay_right_while_everything_is_killed") {
        return;
    }
    let seed = rand::random();
    eprintln!("seed {seed}: set GLOBALFS_CHAOS_SEED to it to repeat the order of events");
    let seed = std::env::var("GLOBALFS_CHAOS_SEED").map_or(seed, |text| text.parse().unwrap());
    let mut chaos = Chaos::start(seed);
    let load = Load::new(&chaos);
    thread::scope(|scope| {
        let _stop = Stop(&load.stop);
        for (n, mount) in chaos.mounts.clone().into_iter().cycle().take(READERS_PER_MOUNT * 2).enumerate() {
            let load = &load;
            scope.spawn(move || load.read_until_stopped(&mount, seed ^ n as u64));
        }
        let mut kills = 0;
        while kills < KILLS {
            kills += chaos.outage(&load, KILLS - kills);
        }
    });
    load.check();
    eprintln!("{}", load.summary());
    assert_eq!(chaos.damaged, 0, "no kill leaves a damaged chunk");
    chaos.everything_equals_the_origin();
    chaos.caches_survive_a_kill();
    chaos.stale_mount_points_can_be_replaced();
}

/// A cluster with a mount on two nodes of `cloud`, its files, and the order of events.
struct Chaos {
    test: TestCluster,
    mounts: Vec<PathBuf>,
    files: Vec<Vec<u8>>,
    random: SmallRng,
    damaged: u64,
}

impl Chaos {
    /// The caches hold less than the files, so that reads go all the way at all times.
    fn start(seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let files: Vec<Vec<u8>> =
            (0..FILES as u64).map(|n| noise(seed ^ n, random.random_range(0..3 * MIB))).collect();
        let limits = format!("deadline: {}s\n", DEADLINE.as_secs());
        let site_yaml = format!("{limits}metadata_ttl: 100ms\n");
        let setup = Setup { cache_size: "24MiB".into(), site_yaml, ..Setup::default() };
        let mut test = setup.start(|origin| write_files(origin, &files));
        let mounts = NODES.map(|node| test.scratch.path().join(format!("mnt-{node}"))).to_vec();
        for (node, mount) in NODES.iter().zip(&mounts) {
            let extra = format!("{limits}attribute_ttl: 100ms\n");
            test.cluster.add_node(node, "cloud", "12MiB", &extra).unwrap();
            test.cluster.start_mount(node, mount, &[]).unwrap();
        }
        Self { test, mounts, files, random, damaged: 0 }
    }

    /// Kills up to `most` programs, starts them again, and waits until everything reads right.
    fn outage(&mut self, load: &Load, most: usize) -> usize {
        self.rest(300);
        let victims = self.choose_victims(most);
        self.note_damage();
        load.outages.fetch_add(1, Ordering::SeqCst);
        for victim in &victims {
            self.test.cluster.kill(victim).unwrap();
            self.rest(150);
        }
        self.rest(600);
        // A mount counts as started when its tree can be looked at, which needs its site.
        let (nodes, daemons): (Vec<_>, Vec<_>) = victims.iter().partition(|name| NODES.contains(name));
        for victim in daemons.into_iter().chain(nodes) {
            let begun = Instant::now();
            self.restart(victim);
            load.longest_restart.note(begun.elapsed());
        }
        let begun = Instant::now();
        for mount in self.mounts.clone() {
            self.recover(load, &mount);
        }
        load.longest_recovery.note(begun.elapsed());
        load.outages.fetch_add(1, Ordering::SeqCst);
        load.check();
        victims.len()
    }

    fn rest(&mut self, most_ms: u64) {
        thread::sleep(Duration::from_millis(self.random.random_range(0..most_ms)));
    }

    /// In the order in which they die.
    fn choose_victims(&mut self, most: usize) -> Vec<&'static str> {
        let mut all = vec!["coordinator", "onprem", "cloud", NODES[0], NODES[1]];
        let count = self.random.random_range(1..=MAX_KILLS_AT_ONCE.min(most));
        (0..count).map(|_| all.swap_remove(self.random.random_range(0..all.len()))).collect()
    }

    fn restart(&mut self, name: &str) {
        let cluster = &mut self.test.cluster;
        let restarted = match name {
            "coordinator" => cluster.start_coordinator(),
            "onprem" | "cloud" => cluster.start_site(name),
            node => {
                cluster.start_mount(node, &self.mounts[NODES.iter().position(|n| *n == node).unwrap()], &[])
            }
        };
        restarted.unwrap();
    }

    /// Some of every file, until all of it can be read; a wrong byte fails at once.
    fn recover(&mut self, load: &Load, mount: &Path) {
        let begun = Instant::now();
        for file in 0..FILES {
            while let Err(error) = load.read_part(mount, file, &mut self.random) {
                load.check();
                assert!(begun.elapsed() < RECOVERY_LIMIT, "{} is not back: {error}", mount.display());
                thread::sleep(Duration::from_millis(20));
            }
        }
    }

    fn note_damage(&mut self) {
        for name in ["cloud", NODES[0], NODES[1]] {
            let metrics = self.test.cluster.metrics(name).unwrap();
            self.damaged += metrics.sum("globalfs_cache_damaged_chunks_total") as u64;
        }
    }

    fn everything_equals_the_origin(&self) {
        let sums = "find . -type f -print0 | sort -z | xargs -0 sha256sum";
        let wanted = shell(&self.test.origin("onprem"), sums);
        assert_eq!(wanted.lines().count(), FILES);
        for mount in &self.mounts {
            assert_eq!(shell(mount, sums), wanted);
        }
    }

    fn caches_survive_a_kill(&mut self) {
        let used =
            |chaos: &Self| chaos.test.cluster.metrics("cloud").unwrap().sum("globalfs_cache_used_bytes");
        let before = used(self);
        self.test.cluster.kill("cloud").unwrap();
        self.restart("cloud");
        let after = used(self);
        assert!(before > 8e6 && after > before * 0.75, "{before} bytes in the cache, {after} after the kill");
        self.everything_equals_the_origin();
        let metrics = self.test.cluster.metrics("cloud").unwrap();
        assert!(metrics.sum("globalfs_cache_hits") > 0.0);
        assert_eq!(metrics.sum("globalfs_cache_damaged_chunks_total"), 0.0);
    }

    fn stale_mount_points_can_be_replaced(&mut self) {
        for (node, mount) in NODES.iter().zip(self.mounts.clone()) {
            self.test.cluster.kill(node).unwrap();
            let dead = fs::metadata(&mount).unwrap_err();
            assert_eq!(dead.raw_os_error(), Some(Errno::NOTCONN.raw_os_error()), "{dead}");
            self.restart(node);
            assert_eq!(mounts_at(&mount), 1, "the stale mount is gone");
        }
        self.everything_equals_the_origin();
        for (node, mount) in NODES.iter().zip(&self.mounts) {
            assert!(self.test.cluster.stop(node).unwrap());
            assert!(!is_mounted(mount) && fs::read_dir(mount).unwrap().next().is_none());
        }
    }
}

fn file_path(file: usize) -> PathBuf {
    format!("data/{}/{file}", file % 3).into()
}

fn write_files(origin: &Path, files: &[Vec<u8>]) {
    for (n, content) in files.iter().enumerate() {
        let path = origin.join(file_path(n));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

fn mounts_at(path: &Path) -> usize {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    text.lines().filter(|line| line.split(' ').nth(4).is_some_and(|at| Path::new(at) == path)).count()
}

/// Ends the readers, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The longest of many times.
#[derive(Default)]
struct Longest(AtomicU64);

impl Longest {
    fn note(&self, time: Duration) {
        self.0.fetch_max(time.as_millis() as u64, Ordering::SeqCst);
    }
}

impl std::fmt::Display for Longest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ms", self.0.load(Ordering::SeqCst))
    }
}

/// Readers and what they saw.
struct Load {
    files: Vec<Vec<u8>>,
    stop: AtomicBool,
    /// Odd while something is down.
    outages: AtomicU64,
    read_bytes: AtomicU64,
    errors: AtomicU64,
    faults: std::sync::Mutex<Vec<String>>,
    longest_call: Longest,
    longest_restart: Longest,
    longest_recovery: Longest,
}

impl Load {
    fn new(chaos: &Chaos) -> Self {
        Self {
            files: chaos.files.clone(),
            stop: AtomicBool::default(),
            outages: AtomicU64::default(),
            read_bytes: AtomicU64::default(),
            errors: AtomicU64::default(),
            faults: std::sync::Mutex::default(),
            longest_call: Longest::default(),
            longest_restart: Longest::default(),
            longest_recovery: Longest::default(),
        }
    }

    /// Errors are fine while something is down, and only then.
    fn read_until_stopped(&self, mount: &Path, seed: u64) {
        let mut random = SmallRng::seed_from_u64(seed);
        while !self.stop.load(Ordering::SeqCst) {
            let before = self.outages.load(Ordering::SeqCst);
            let outcome = match random.random_range(0..6) {
                0 => self.list(mount),
                1..3 => self.read_whole(mount, &mut random),
                _ => self.read_part(mount, random.random_range(0..FILES), &mut random),
            };
            let Err(error) = outcome else { continue };
            self.errors.fetch_add(1, Ordering::SeqCst);
            if before % 2 == 0 && before == self.outages.load(Ordering::SeqCst) {
                self.fault(format!("{}: nothing is down, and yet: {error}", mount.display()));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn read_whole(&self, mount: &Path, random: &mut SmallRng) -> io::Result<()> {
        let file = random.random_range(0..FILES);
        let opened = self.open(mount, file, random)?;
        self.compare(&opened, file, 0, usize::MAX)
    }

    fn read_part(&self, mount: &Path, file: usize, random: &mut SmallRng) -> io::Result<()> {
        let opened = self.open(mount, file, random)?;
        let offset = random.random_range(0..=self.files[file].len());
        self.compare(&opened, file, offset, random.random_range(1..MIB))
    }

    /// Half of the readers go past the kernel's page cache, to the mount itself.
    fn open(&self, mount: &Path, file: usize, random: &mut SmallRng) -> io::Result<File> {
        let flags = if random.random() { OFlags::DIRECT } else { OFlags::empty() };
        let path = mount.join(file_path(file));
        self.timed("open", || File::options().read(true).custom_flags(flags.bits() as i32).open(path))
    }

    /// A call may give fewer bytes than asked for, and none at the end alone.
    fn compare(&self, opened: &File, file: usize, offset: usize, length: usize) -> io::Result<()> {
        let rest = &self.files[file][offset..];
        let mut rest = &rest[..length.min(rest.len())];
        let (mut buffer, mut at) = (vec![0; READ_LENGTH], offset as u64);
        while !rest.is_empty() {
            let wanted = rest.len().min(READ_LENGTH);
            let got = self.timed("read", || opened.read_at(&mut buffer[..wanted], at))?;
            if got == 0 || buffer[..got] != rest[..got] {
                self.fault(format!("file {file}: {got} bytes at {at} are not those of the origin"));
                return Ok(());
            }
            self.read_bytes.fetch_add(got as u64, Ordering::SeqCst);
            (rest, at) = (&rest[got..], at + got as u64);
        }
        Ok(())
    }

    fn list(&self, mount: &Path) -> io::Result<()> {
        let listed =
            self.timed("readdir", || fs::read_dir(mount.join("data/1"))?.collect::<io::Result<Vec<_>>>())?;
        let mut found: Vec<usize> =
            listed.iter().map(|entry| entry.file_name().to_str().unwrap().parse().unwrap()).collect();
        found.sort_unstable();
        if !found.iter().copied().eq((0..FILES).filter(|n| n % 3 == 1)) {
            self.fault(format!("a wrong listing: {found:?}"));
        }
        Ok(())
    }

    fn timed<T>(&self, what: &str, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let begun = Instant::now();
        let outcome = call();
        self.longest_call.note(begun.elapsed());
        if begun.elapsed() > CALL_LIMIT {
            self.fault(format!("{what} took {:?}", begun.elapsed()));
        }
        outcome
    }

    fn fault(&self, what: String) {
        self.faults.lock().unwrap().push(what);
    }

    /// Nothing that must never happen has happened.
    fn check(&self) {
        let faults = self.faults.lock().unwrap();
        assert!(faults.is_empty(), "{faults:#?}");
    }

    fn summary(&self) -> String {
        format!(
            "{} outages, {} MiB read, {} errors meanwhile; the longest call {}, restart {}, recovery {}",
            self.outages.load(Ordering::SeqCst) / 2,
            self.read_bytes.load(Ordering::SeqCst) / MIB as u64,
            self.errors.load(Ordering::SeqCst),
            self.longest_call,
            self.longest_restart,
            self.longest_recovery,
        )
    }
}
