//! What the machine beneath a site's daemon refuses: space for its cache, and io_uring.

use crate::common::commands::{altered, eventually, free_address, globalfs, logged};
use crate::common::{Setup, noise, programs, shell, skip};
use globalfs::Client;
use globalfs::local::Process;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use tokio::runtime::Runtime;

/// A small file system of its own, which goes with this value.
struct TinyDisk(PathBuf);

impl TinyDisk {
    fn mount(at: &Path, size: &str) -> Self {
        fs::create_dir_all(at).unwrap();
        shell(Path::new("/"), &format!("mount -t tmpfs -o size={size} tiny '{}'", at.display()));
        Self(at.to_owned())
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_costs_the_cache_and_not_the_reader() {
    if !rustix::process::geteuid().is_root() {
        return skip("a_full_disk_costs_the_cache_and_not_the_reader", "root");
    }
    let content = noise(11, 20 << 20);
    let mut test = Setup::default().start(|origin| fs::write(origin.join("large"), &content).unwrap());
    assert!(test.cluster.stop("cloud").unwrap());
    let cache = test.scratch.path().join("tiny");
    let _disk = TinyDisk::mount(&cache, "6m");
    let config = test.cluster.site_config("cloud").to_owned();
    let cache_yaml = format!("{{dir: {}, size: 1GiB}}", cache.display());
    altered(&config, config.file_name().unwrap().to_str().unwrap(), &[("cache", &cache_yaml)]);
    test.cluster.start_site("cloud").unwrap();
    let started = Instant::now();
    let node = test.cluster.add_node("n1", "cloud", "64MiB", "").unwrap();
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let client = Client::connect(&node).await.unwrap();
        for _ in 0..2 {
            let file = client.open("/large").await.unwrap();
            for (n, part) in content.chunks(4 << 20).enumerate() {
                let read = file.read_at((n as u64) << 22, part.len()).await.unwrap();
                assert!(read == part, "part {n} differs");
            }
        }
    });
    let metrics = test.cluster.metrics("cloud").unwrap();
    let not_kept = metrics.sum("globalfs_cache_not_kept_chunks_total");
    assert!(not_kept >= 100.0, "{not_kept} of twice 160 chunks had no room");
    assert!(metrics.sum("globalfs_cache_hits") > 0.0, "what was kept is used");
    let log = test.cluster.log_path("cloud");
    logged(&log, &["warn", "a chunk is served without being kept in the cache", "No space left on device"]);
    let text = fs::read_to_string(&log).unwrap();
    let warnings = text.lines().filter(|line| line.contains("without being kept")).count() as u64;
    assert!(warnings <= started.elapsed().as_secs() / 10 + 1, "{warnings} warnings");
    assert!(test.cluster.stop("cloud").unwrap());
    test.cluster.start_site("cloud").expect("a full cache is no reason not to start");
}

#[test]
fn a_coordinator_on_a_full_disk_starts_once_there_is_room() {
    if !rustix::process::geteuid().is_root() {
        return skip("a_coordinator_on_a_full_disk_starts_once_there_is_room", "root");
    }
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data");
    let _disk = TinyDisk::mount(&data, "64m");
    let fill = data.join("fill");
    shell(&data, "head -c 64M /dev/zero > fill || true");
    let config = scratch.path().join("c.yaml");
    let yaml = "cluster: c\ndata_dir: data\nsites:\n  - {name: onprem, role: primary}\n";
    fs::write(&config, format!("{yaml}listen: {}\n", free_address())).unwrap();
    let start = ["coordinator", "start"];
    // Again, since the first attempt may have left something.
    for _ in 0..2 {
        globalfs(&start, &config).fails(1, &["data/store", "No space left on device"]);
    }
    fs::remove_file(&fill).unwrap();
    let mut daemon = Command::new(programs().globalfs);
    daemon.args(start).arg("--config").arg(&config);
    let process = Process::spawn(daemon, scratch.path().join("log")).unwrap();
    let token = eventually("a token", || {
        let made = globalfs(&["token", "create", "--site", "onprem"], &config);
        if made.code == 0 { Ok(made.stdout) } else { Err(made.stderr) }
    });
    assert!(token.starts_with("gfs1."), "{token}");
    assert!(process.terminate().unwrap());
}

/// The kernel forbids io_uring to everybody while this value lives.
struct NoUring(String);

const SWITCH: &str = "/proc/sys/kernel/io_uring_disabled";

impl NoUring {
    fn set() -> Option<Self> {
        let before = fs::read_to_string(SWITCH).ok()?;
        let guard = Self(before);
        fs::write(SWITCH, "2").ok().map(|()| guard)
    }
}

impl Drop for NoUring {
    fn drop(&mut self) {
        let _ = fs::write(SWITCH, self.0.trim());
    }
}

#[test]
fn a_kernel_that_forbids_io_uring() {
    let mut test = Setup::default().start(|origin| fs::write(origin.join("f"), "text").unwrap());
    assert!(test.cluster.stop("cloud").unwrap());
    let wanted = altered(test.cluster.site_config("cloud"), "uring.yaml", &[("disk", "uring")]);
    let Some(forbidden) = NoUring::set() else {
        return skip("a_kernel_that_forbids_io_uring", "the sysctl kernel.io_uring_disabled, and root");
    };
    globalfs(&["site", "start"], &wanted)
        .fails(1, &["io_uring does not work here", "sysctl kernel.io_uring_disabled to 0", "seccomp"]);
    test.cluster.start_site("cloud").unwrap();
    drop(forbidden);
    logged(&test.cluster.log_path("cloud"), &["warn", "using POSIX calls", "io_uring does not work here"]);
    let node = test.cluster.add_node("n1", "cloud", "64MiB", "").unwrap();
    let read = Runtime::new().unwrap().block_on(async {
        let client = Client::connect(&node).await.unwrap();
        client.open("/f").await.unwrap().read_at(0, 100).await.unwrap()
    });
    assert_eq!(read, "text");
}
