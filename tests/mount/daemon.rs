//! A mount whose site's daemon restarts, is gone, or loses the other site: it goes on, or says so in time.

use crate::common::{Setup, TestCluster, can_mount, noise};
use crate::{mount_with, within};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What an operation is given in the node's configuration.
const DEADLINE: Duration = Duration::from_secs(3);

/// Tools look at more than one thing, and the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(7);

const BACK_LIMIT: Duration = Duration::from_secs(20);

fn content() -> Vec<u8> {
    noise(1, 24_000_000)
}

fn cluster(site_yaml: &str) -> (TestCluster, PathBuf) {
    let setup = Setup { site_yaml: site_yaml.into(), ..Setup::default() };
    let mut test = setup.start(|origin| {
        fs::create_dir(origin.join("dir")).unwrap();
        for name in ["file", "dir/other", "dir/third"] {
            fs::write(origin.join(name), content()).unwrap();
        }
    });
    let mount = mount_with(&mut test, "node", "cloud", "deadline: 3s\nattribute_ttl: 0s\n", &[]);
    (test, mount)
}

/// Runs `operation`, which must fail within the deadline.
fn fails_in_time<T>(what: &str, operation: impl FnOnce() -> io::Result<T>) {
    let started = Instant::now();
    let outcome = operation().map(drop);
    let took = started.elapsed();
    assert!(outcome.is_err(), "{what} works without the daemon");
    assert!(took < DEADLINE + PATIENCE, "{what} took {took:?}");
}

fn works_again(mount: &Path) {
    within(BACK_LIMIT, || match fs::read(mount.join("dir/other")) {
        Ok(bytes) if bytes == content() => Ok(()),
        Ok(_) => panic!("wrong bytes"),
        Err(error) => Err(error.to_string()),
    });
}

/// Holds promise 16 of docs/semantics.md.
#[test]
fn a_restart_of_the_daemon_is_survived() {
    if !can_mount("a_restart_of_the_daemon_is_survived") {
        return;
    }
    let (mut test, mount) = cluster("");
    let open = File::open(mount.join("file")).unwrap();
    let mut part = vec![0; 100_000];
    for round in 0..4 {
        let at = round * 5_000_000;
        open.read_exact_at(&mut part, at).unwrap();
        assert_eq!(part, content()[at as usize..][..100_000]);
        if round % 2 == 0 {
            assert!(test.cluster.stop("cloud").unwrap());
        } else {
            test.cluster.kill("cloud").unwrap();
        }
        test.cluster.start_site("cloud").unwrap();
        works_again(&mount);
    }
    assert_eq!(fs::read(mount.join("dir/third")).unwrap(), content());
}

/// Holds promise 15 of docs/semantics.md.
#[test]
fn without_the_daemon_operations_end_in_an_error() {
    if !can_mount("without_the_daemon_operations_end_in_an_error") {
        return;
    }
    let (mut test, mount) = cluster("");
    let open = File::open(mount.join("file")).unwrap();
    let mut part = vec![0; 100_000];
    open.read_exact_at(&mut part, 0).unwrap();
    test.cluster.kill("cloud").unwrap();
    fails_in_time("a read of what is not cached", || open.read_exact_at(&mut [0; 1000], 20_000_000));
    fails_in_time("an open", || File::open(mount.join("dir/other")));
    fails_in_time("a stat", || fs::metadata(mount.join("dir/third")));
    fails_in_time("a lookup of nothing", || fs::metadata(mount.join("none")));
    fails_in_time("a listing", || fs::read_dir(mount.join("dir"))?.collect::<io::Result<Vec<_>>>());
    open.read_exact_at(&mut part, 0).unwrap();
    assert_eq!(part, content()[..100_000], "what is here is still given");
    test.cluster.start_site("cloud").unwrap();
    works_again(&mount);
    assert_eq!(fs::read(mount.join("file")).unwrap(), content());
    assert!(test.cluster.stop("node").unwrap());
}

#[test]
fn without_the_other_site_operations_end_in_an_error() {
    if !can_mount("without_the_other_site_operations_end_in_an_error") {
        return;
    }
    let (mut test, mount) = cluster("metadata_ttl: 0s\ndeadline: 2s\n");
    assert_eq!(fs::read(mount.join("file")).unwrap(), content());
    test.cluster.kill("onprem").unwrap();
    fails_in_time("an open", || File::open(mount.join("dir/other")));
    fails_in_time("a listing", || fs::read_dir(mount.join("dir"))?.collect::<io::Result<Vec<_>>>());
    test.cluster.start_site("onprem").unwrap();
    works_again(&mount);
}

#[test]
fn a_mount_ends_cleanly_while_the_daemon_is_gone() {
    if !can_mount("a_mount_ends_cleanly_while_the_daemon_is_gone") {
        return;
    }
    let (mut test, mount) = cluster("");
    test.cluster.kill("cloud").unwrap();
    fails_in_time("a stat", || fs::metadata(mount.join("file")));
    assert!(test.cluster.stop("node").unwrap());
    assert!(!globalfs::local::is_mounted(&mount));
}

/// A daemon that hangs says nothing at all, and a crowd of callers must not wait for one another.
/// Holds promise 15 of docs/semantics.md.
#[test]
fn a_crowd_before_a_frozen_daemon_is_let_go_in_time() {
    const CALLERS: usize = 600;
    if !can_mount("a_crowd_before_a_frozen_daemon_is_let_go_in_time") {
        return;
    }
    let (test, mount) = cluster("");
    let daemon = Pid::from_raw(test.cluster.pid("cloud").unwrap() as i32).unwrap();
    kill_process(daemon, Signal::STOP).unwrap();
    std::thread::scope(|threads| {
        for caller in 0..CALLERS {
            let path = mount.join(format!("name-{caller}"));
            threads.spawn(move || fails_in_time("a lookup in a crowd", || fs::metadata(path)));
        }
    });
    kill_process(daemon, Signal::CONT).unwrap();
    works_again(&mount);
}
