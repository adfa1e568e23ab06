//! kill -9 of every program at random moments while files are read: what is read stays right, reads end
//! before their deadline, and whatever was killed starts again where it was.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../common/mod.rs"]
mod common;
mod coordinator;
mod load;

use common::{Setup, TestCluster, can_mount, noise, shell};
use globalfs::local::is_mounted;
use load::Load;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::io::Errno;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Programs killed in the large test.
const KILLS: usize = 50;

/// Programs that die within one outage, at most.
const MAX_KILLS_AT_ONCE: usize = 3;

const READERS_PER_MOUNT: usize = 2;

/// What a mount gives an operation.
const DEADLINE: Duration = Duration::from_secs(5);

/// How soon after the last restart everything must be readable again.
const RECOVERY_LIMIT: Duration = Duration::from_secs(15);

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

    /// What was read before the kill is read after it from the caches: of the site by a new node, of the
    /// node by itself.
    fn caches_survive_a_kill(&mut self) {
        let content = self.files.iter().max_by_key(|content| content.len()).unwrap().clone();
        let path = file_path(self.files.iter().position(|file| *file == content).unwrap());
        let old = self.test.mount("old", "cloud");
        assert_eq!(fs::read(old.join(&path)).unwrap(), content);
        for name in ["cloud", "old"] {
            self.test.cluster.kill(name).unwrap();
        }
        self.test.cluster.start_site("cloud").unwrap();
        self.test.cluster.start_mount("old", &old, &[]).unwrap();
        let new = self.test.mount("new", "cloud");
        for (name, mount) in [("cloud", new), ("old", old)] {
            assert_eq!(fs::read(mount.join(&path)).unwrap(), content);
            let metrics = self.test.cluster.metrics(name).unwrap();
            // Chunks that were on their way to the disk are lost.
            let (half, fetched) = (content.len() as f64 / 2.0, metrics.sum("globalfs_fetched_bytes_total"));
            assert!(fetched < half, "{name} fetched {fetched} bytes again");
            assert!(metrics.sum("globalfs_cache_read_bytes_total") > half, "{name}");
            assert_eq!(metrics.sum("globalfs_cache_damaged_chunks_total"), 0.0, "{name}");
        }
    }

    fn stale_mount_points_can_be_replaced(&mut self) {
        for (node, mount) in NODES.iter().zip(self.mounts.clone()) {
            self.test.cluster.kill(node).unwrap();
            // The kernel still remembers attributes, so it is told to ask.
            let asked = statx(CWD, &mount, AtFlags::STATX_FORCE_SYNC, StatxFlags::TYPE);
            assert_eq!(asked.err(), Some(Errno::NOTCONN));
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
