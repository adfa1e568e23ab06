//! Small files that several threads write with `fsync` at the site that holds their subtree, while daemons are killed again
//! and again: what was acknowledged is there with its bytes, at the site and at home.

use super::leases::{Burst, start, tree};
use super::within;
use crate::common::{can_mount, noise, setting};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// What threads write at a time.
const WRITERS: u64 = 4;

/// Files of one directory.
const OF_A_DIRECTORY: u64 = 500;

/// Who is killed, by turns.
const VICTIMS: [&str; 6] = ["cloud", "cloud", "onprem", "cloud", "coordinator", "cloud"];

/// What it may take until so many files are written as lie between two deaths.
const PROGRESS: Duration = Duration::from_secs(120);

/// One writer of a run.
struct Writer<'r> {
    number: u64,
    job: &'r Path,
    stop: &'r AtomicBool,
    acknowledged: &'r AtomicU64,
}

/// What a writer tried, by number, and whether it was acknowledged.
type Tried = Vec<(u64, bool)>;

fn place(writer: u64, file: u64) -> PathBuf {
    format!("{writer}/{}/{file}", file / OF_A_DIRECTORY).into()
}

fn content(writer: u64, file: u64) -> Vec<u8> {
    noise(writer << 32 | file, 1 + (file * 7919 % 12_000) as usize)
}

impl Writer<'_> {
    fn run(&self) -> Tried {
        let mut tried = Tried::new();
        for file in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let is_acknowledged = self.write(file).is_ok();
            self.acknowledged.fetch_add(u64::from(is_acknowledged), Ordering::Relaxed);
            tried.push((file, is_acknowledged));
        }
        tried
    }

    fn write(&self, number: u64) -> io::Result<()> {
        let path = self.job.join(place(self.number, number));
        let create = || File::options().write(true).create_new(true).open(&path);
        let mut file = match create() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                fs::create_dir_all(path.parent().unwrap())?;
                create()?
            }
            created => created?,
        };
        file.write_all(&content(self.number, number))?;
        file.sync_all()
    }
}

/// Kills a daemon whenever the next part of the files is written.
fn kill(burst: &mut Burst, (files, kills): (u64, u64), acknowledged: &AtomicU64) {
    for round in 0..=kills {
        let until = files * (round + 1) / (kills + 1);
        within(PROGRESS, || match acknowledged.load(Ordering::Relaxed) {
            enough if enough >= until => Ok(()),
            less => Err(format!("{less} of {until} files, after {round} deaths")),
        });
        if round < kills {
            let cluster = &mut burst.test.cluster;
            match VICTIMS[round as usize % VICTIMS.len()] {
                "coordinator" => {
                    cluster.kill("coordinator").unwrap();
                    cluster.start_coordinator().unwrap();
                }
                site => {
                    cluster.kill(site).unwrap();
                    cluster.start_site(site).unwrap();
                }
            }
        }
    }
}

/// What was acknowledged is there whole; of the rest nothing or a beginning.
fn check(root: &Path, writer: u64, tried: &Tried) {
    for (number, is_acknowledged) in tried {
        let path = root.join(place(writer, *number));
        let (there, wanted) = (fs::read(&path), content(writer, *number));
        let is_right = match &there {
            Ok(bytes) if *is_acknowledged => *bytes == wanted,
            Ok(bytes) => wanted.starts_with(bytes),
            Err(error) => !is_acknowledged && error.kind() == ErrorKind::NotFound,
        };
        let length = there.map(|bytes| bytes.len());
        assert!(is_right, "{}: {length:?}, acknowledged: {is_acknowledged}", path.display());
    }
}

/// Holds promise 8, promise 20 of docs/semantics.md.
#[test]
fn what_was_acknowledged_comes_home_although_daemons_are_killed() {
    if !can_mount("what_was_acknowledged_comes_home_although_daemons_are_killed") {
        return;
    }
    let limits = (setting("GLOBALFS_CRASH_FILES", 2000), setting("GLOBALFS_CRASH_KILLS", 6));
    let mut burst = start();
    let job = burst.cloud.join("results/job");
    fs::create_dir(&job).unwrap();
    let (stop, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
    let tried: Vec<Tried> = thread::scope(|scope| {
        let writer = |number| Writer { number, job: &job, stop: &stop, acknowledged: &acknowledged };
        let writers: Vec<_> =
            (0..WRITERS).map(writer).map(|writer| scope.spawn(move || writer.run())).collect();
        // Writers end although this fails.
        let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            kill(&mut burst, limits, &acknowledged);
        }));
        stop.store(true, Ordering::Relaxed);
        let tried = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        killed.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        tried
    });
    burst.test.cluster.admin(&["sync", "/results/job", "--wait", "--timeout", "60s"]).unwrap();
    let [home, cloud] = ["onprem", "cloud"].map(|site| burst.origin(site, "results/job"));
    for (writer, tried) in (0..).zip(&tried) {
        [&home, &cloud, &job].iter().for_each(|root| check(root, writer, tried));
    }
    assert_eq!(tree(&home), tree(&cloud));
    let failed = tried.iter().flatten().filter(|(_, is_acknowledged)| !is_acknowledged).count();
    eprintln!("{} files acknowledged, {failed} failed, {} deaths", acknowledged.into_inner(), limits.1);
}
