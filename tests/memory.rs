//! What the programs may take of a machine: memory with many streams and with a million names, descriptors
//! with thousands of open files.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::{Setup, TestCluster, can_mount, noise};
use globalfs::Client;
use globalfs_proto::limits::CHUNK_SIZE;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::Instant;
use tempfile::TempDir;
use tokio::runtime::Runtime;

const MIB: u64 = 1024 * 1024;

/// What a site daemon may take while it serves [`STREAMS`].
const SITE_LIMIT: u64 = 256 * MIB;

/// What a mount may take that has seen [`DIRECTORIES`] with [`FILES_PER_DIRECTORY`].
const MOUNT_LIMIT: u64 = 1024 * MIB;

const STREAMS: usize = 64;
const STREAM_LENGTH: u64 = 16 * MIB;

/// Each of them has its own windows at the daemon.
const CONNECTIONS: usize = 8;

const DIRECTORIES: usize = 1000;
const FILES_PER_DIRECTORY: usize = 1000;

const OPEN_FILES: usize = 10_000;

/// Who read a file each through one mount at the same time.
const READERS: usize = 64;
const READ_LENGTH: u64 = 4 * MIB;

/// Descriptors that a program may use at once, whatever users have open.
const DESCRIPTOR_LIMIT: usize = 1000;

/// One at a time: each of these tests wants the machine for itself.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[test]
fn sixty_four_streams_stay_below_256_mb() {
    let _turn = turn();
    let bytes = noise(64, (STREAM_LENGTH + STREAMS as u64) as usize);
    let mut test = Setup::default().start(|origin| {
        for n in 0..STREAMS {
            fs::write(origin.join(format!("{n}")), &bytes[n..n + STREAM_LENGTH as usize]).unwrap();
        }
    });
    let config = test.cluster.add_node("reader", "cloud", "1GiB", "").unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for round in ["cold", "warm"] {
        let begun = Instant::now();
        read_streams(&runtime, &config, &bytes);
        let seconds = begun.elapsed().as_secs_f64();
        let [cloud, onprem] = ["cloud", "onprem"].map(|site| peak_bytes(&test, site));
        let rate = STREAMS as f64 * STREAM_LENGTH as f64 / MIB as f64 / seconds;
        eprintln!("{round}: {rate:.0} MiB/s; peaks: cloud {} MiB, onprem {} MiB", cloud / MIB, onprem / MIB);
        assert!(cloud < SITE_LIMIT && onprem < SITE_LIMIT, "{round}: {cloud} and {onprem} bytes");
    }
    assert!(test.wan_bytes("cloud") < STREAMS as u64 * STREAM_LENGTH * 11 / 10, "warm reads move nothing");
}

/// Reads every file in a stream of its own, through several connections, all at the same time.
fn read_streams(runtime: &Runtime, config: &Path, bytes: &[u8]) {
    thread::scope(|scope| {
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            clients.push(runtime.block_on(Client::connect(config)).unwrap());
        }
        for n in 0..STREAMS {
            let (client, handle) = (clients[n % CONNECTIONS].clone(), runtime.handle().clone());
            let wanted = &bytes[n..n + STREAM_LENGTH as usize];
            scope.spawn(move || handle.block_on(read_stream(&client, n, wanted)));
        }
    });
}

async fn read_stream(client: &Client, n: usize, wanted: &[u8]) {
    let file = client.open(format!("/{n}")).await.unwrap();
    let step = 8 * CHUNK_SIZE as usize;
    for (at, part) in wanted.chunks(step).enumerate() {
        let got = file.read_at((at * step) as u64, step).await.unwrap();
        assert!(got == part, "stream {n} at {}", at * step);
    }
}

#[test]
fn a_million_names_ten_thousand_open_files_and_64_readers_stay_below_1_gb() {
    if !can_mount("a_million_names_ten_thousand_open_files_and_64_readers_stay_below_1_gb") {
        return;
    }
    let _turn = turn();
    let names = names_directory();
    let begun = Instant::now();
    make_names(names.path());
    make_large(names.path());
    eprintln!("made in {:.1} s", begun.elapsed().as_secs_f64());
    let mut test = Setup::default().start(|origin| {
        fs::remove_dir(origin).unwrap();
        std::os::unix::fs::symlink(names.path(), origin).unwrap();
    });
    let mount = test.mount("walker", "cloud");
    let begun = Instant::now();
    let seen = walk(&mount);
    let seconds = begun.elapsed().as_secs_f64();
    let [walker, cloud, onprem] = ["walker", "cloud", "onprem"].map(|name| peak_bytes(&test, name) / MIB);
    eprintln!("walked in {seconds:.1} s; peaks: mount {walker} MiB, cloud {cloud} MiB, onprem {onprem} MiB");
    assert_eq!(seen, DIRECTORIES * (FILES_PER_DIRECTORY + 1) + 1 + READERS);
    let _own_limit = Limit::set(getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX));
    let begun = Instant::now();
    let open = open_many(&mount);
    read_at_once(&mount);
    let seconds = begun.elapsed().as_secs_f64();
    let [peak, now] = [peak_bytes(&test, "walker"), resident_bytes(&test, "walker")].map(|bytes| bytes / MIB);
    eprintln!(
        "{} files opened and {READERS} read at once in {seconds:.1} s; peak {peak} MiB, now {now}",
        open.len()
    );
    let [cloud, onprem] = ["cloud", "onprem"].map(|name| peak_bytes(&test, name) / MIB);
    assert!(peak < MOUNT_LIMIT / MIB, "the mount took {peak} MiB");
    assert!(cloud < SITE_LIMIT / MIB && onprem < SITE_LIMIT / MIB, "sites took {cloud} and {onprem} MiB");
}

/// Opens the first thousand files of the first directories.
fn open_many(mount: &Path) -> Vec<File> {
    let open = |directory: usize| {
        let path = mount.join(format!("d{directory:03}"));
        (0..1000).map(move |file| File::open(path.join(format!("file-{file:04}.dat"))).unwrap())
    };
    let wanted = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX).saturating_sub(500);
    (0..OPEN_FILES / 1000).flat_map(open).take(usize::try_from(wanted).unwrap_or(usize::MAX)).collect()
}

/// Cold, and once more from the node's cache, by readers of small parts.
fn read_at_once(mount: &Path) {
    for step in [MIB as usize, 64 * 1024] {
        thread::scope(|scope| {
            for n in 0..READERS {
                scope.spawn(move || {
                    let file = File::open(mount.join(format!("large/{n}"))).unwrap();
                    let mut part = vec![0; step];
                    for at in (0..READ_LENGTH).step_by(step) {
                        file.read_exact_at(&mut part, at).unwrap();
                        assert!(part.iter().all(|byte| *byte == n as u8), "{n} at {at}");
                    }
                });
            }
        });
    }
}

fn make_large(top: &Path) {
    fs::create_dir(top.join("large")).unwrap();
    for n in 0..READERS {
        fs::write(top.join(format!("large/{n}")), vec![n as u8; READ_LENGTH as usize]).unwrap();
    }
}

/// In memory where that is possible, for a million files take long on a disk.
fn names_directory() -> TempDir {
    let prefix = "globalfs-test-";
    TempDir::with_prefix_in(prefix, "/dev/shm").unwrap_or_else(|_| TempDir::with_prefix(prefix).unwrap())
}

fn make_names(top: &Path) {
    thread::scope(|scope| {
        for part in 0..2 {
            scope.spawn(move || {
                for directory in (part..DIRECTORIES).step_by(2) {
                    make_directory(&top.join(format!("d{directory:03}")));
                }
            });
        }
    });
}

fn make_directory(path: &Path) {
    fs::create_dir(path).unwrap();
    for file in 0..FILES_PER_DIRECTORY {
        File::create(path.join(format!("file-{file:04}.dat"))).unwrap();
    }
}

/// Looks at every name and its attributes, as `ls -lR` does, and counts them.
fn walk(top: &Path) -> usize {
    let mut seen = 0;
    let mut todo = vec![top.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            seen += 1;
            if entry.metadata().unwrap().is_dir() {
                todo.push(entry.path());
            }
        }
    }
    seen
}

#[test]
fn ten_thousand_open_files_exhaust_nothing() {
    if !can_mount("ten_thousand_open_files_exhaust_nothing") {
        return;
    }
    let _turn = turn();
    let hard = getrlimit(Resource::Nofile).maximum;
    if hard.is_some_and(|hard| hard < OPEN_FILES as u64 + 500) {
        return common::skip("ten_thousand_open_files_exhaust_nothing", "a limit of 10,500 open files");
    }
    let content = |n: usize| format!("content of file {n}");
    let daemon_limit = Limit::set(1024);
    let mut test = Setup::default().start(|origin| {
        (0..OPEN_FILES).for_each(|n| fs::write(origin.join(format!("{n}")), content(n)).unwrap());
    });
    let mount = test.mount("opener", "cloud");
    drop(daemon_limit);
    let _own_limit = Limit::set(hard.unwrap_or(OPEN_FILES as u64 + 500));
    let begun = Instant::now();
    let files = in_parallel(|n| File::open(mount.join(format!("{n}"))).unwrap());
    check_descriptors(&test);
    // More than a cache keeps open.
    in_parallel(|n| {
        if n % 4 != 0 {
            return;
        }
        let mut bytes = [0; 100];
        let length = files[n].read_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes[..length], *content(n).as_bytes());
    });
    eprintln!("{} files opened, a quarter read, in {:.1} s", files.len(), begun.elapsed().as_secs_f64());
    check_descriptors(&test);
}

/// Does `work` for every file, with several threads, and gives the results in the order of the files.
fn in_parallel<T: Send>(work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    const THREADS: usize = 16;
    let share = |n: usize| n * OPEN_FILES / THREADS..(n + 1) * OPEN_FILES / THREADS;
    thread::scope(|scope| {
        let work = &work;
        let parts: Vec<_> =
            (0..THREADS).map(|n| scope.spawn(move || share(n).map(work).collect::<Vec<T>>())).collect();
        parts.into_iter().flat_map(|part| part.join().unwrap()).collect()
    })
}

/// Few are in use, and all that the system grants may be used.
fn check_descriptors(test: &TestCluster) {
    for name in ["opener", "cloud", "onprem"] {
        let entry = proc_entry(test, name);
        let used = fs::read_dir(entry.join("fd")).unwrap().count();
        eprintln!("{name} uses {used} descriptors");
        assert!(used < DESCRIPTOR_LIMIT, "{name} uses {used} descriptors");
        let limits = fs::read_to_string(entry.join("limits")).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        let columns: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(columns[3], columns[4], "{name} raises its limit: {line}");
    }
}

/// A soft limit of open files of this process and those it starts, until it is dropped.
struct Limit(Rlimit);

impl Limit {
    fn set(files: u64) -> Self {
        let before = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(files), maximum: before.maximum }).unwrap();
        Self(before)
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        // Files that are open stay open.
        setrlimit(Resource::Nofile, self.0).unwrap();
    }
}

fn proc_entry(test: &TestCluster, name: &str) -> PathBuf {
    format!("/proc/{}", test.cluster.pid(name).unwrap()).into()
}

/// The most memory that a program has had at once.
fn peak_bytes(test: &TestCluster, name: &str) -> u64 {
    memory_bytes(test, name, "VmHWM:")
}

/// The memory that it has now.
fn resident_bytes(test: &TestCluster, name: &str) -> u64 {
    memory_bytes(test, name, "VmRSS:")
}

fn memory_bytes(test: &TestCluster, name: &str, line: &str) -> u64 {
    let status = fs::read_to_string(proc_entry(test, name).join("status")).unwrap();
    let bytes = status.lines().find_map(|text| text.strip_prefix(line)).unwrap();
    bytes.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
