//! `globalfs demo` as a user runs it: with mounts, without FUSE, kept and stopped, interrupted.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::{can_mount, programs, run, skip};
use rustix::process::{Pid, Signal, kill_process_group};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Generous, since several tests run at once.
const LIMIT: Duration = Duration::from_secs(60);

fn globalfs(args: &[&str]) -> (i32, String, String) {
    run(&programs().globalfs, args)
}

/// Everything whose command line names a path below `dir`, as `pid: command line`.
fn running_below(dir: &Path) -> Vec<String> {
    let text = dir.to_str().unwrap();
    let entries = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap());
    let lines =
        entries.filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok()).map(|entry| {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            format!("{}: {}", entry.file_name().display(), String::from_utf8_lossy(&line).replace('\0', " "))
        });
    let daemons = ["coordinator start", "site start", "mount --detached"];
    lines.filter(|line| line.contains(text) && daemons.iter().any(|daemon| line.contains(daemon))).collect()
}

fn mounted_below(dir: &Path) -> usize {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().filter(|line| line.contains(dir.to_str().unwrap())).count()
}

fn assert_gone(dir: &Path) {
    assert_eq!(running_below(dir), Vec::<String>::new());
    assert_eq!(mounted_below(dir), 0);
    assert!(!dir.exists(), "{} is left", dir.display());
}

/// The directory that the demo's first line names.
fn dir_of(output: &str) -> &Path {
    let first = output.lines().next().unwrap();
    Path::new(first.strip_prefix("GlobalFS demo in ").unwrap().split_once(';').unwrap().0)
}

#[test]
fn shows_the_tour_and_cleans_up() {
    if !can_mount("shows_the_tour_and_cleans_up") {
        return;
    }
    let (code, out, err) = globalfs(&["demo"]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}\n{err}");
    for said in [
        "$ globalfs-fuse mount globalfs --config run/node-1.yaml",
        "of the contents, nothing has moved",
        "=> from onprem to cloud: 1MiB of file content",
        "=> from onprem to cloud: 0B of file content",
        "=> from onprem to cloud: 63MiB of file content",
        "=> three equal hashes",
        "=> cloud masters /results/run-1 from the first change on",
        "=> a node of onprem reads it at once",
        "=> the results lie in onprem's own directory; cloud owes nothing",
        "cluster local: sites joined 2 of 2",
        "Everything is stopped, unmounted and removed.",
    ] {
        assert!(out.contains(said), "no '{said}' in\n{out}");
    }
    assert_gone(dir_of(&out));
}

#[test]
fn without_fuse_the_library_shows_the_same() {
    let demo = programs().globalfs;
    let (code, out, err) = match (rustix::process::geteuid().is_root(), Path::new("/dev/fuse").exists()) {
        (_, false) => run(&demo, &["demo"]),
        // In a mount namespace of its own, so that nobody else misses it.
        (true, true) => {
            let empty = tempfile::NamedTempFile::new().unwrap();
            let script = "mount --bind \"$1\" /dev/fuse && exec \"$0\" demo";
            let paths = [demo.to_str().unwrap(), empty.path().to_str().unwrap()];
            run(Path::new("unshare"), &["--mount", "sh", "-c", script, paths[0], paths[1]])
        }
        (false, true) => return skip("without_fuse_the_library_shows_the_same", "root, to hide /dev/fuse"),
    };
    assert_eq!((code, err.as_str()), (0, ""), "{out}\n{err}");
    for said in [
        "No mount is possible on this machine",
        "a container needs '--device /dev/fuse'",
        "of the contents, nothing has moved",
        "=> from onprem to cloud: 1MiB of file content",
        "=> from onprem to cloud: 0B of file content",
        "=> from onprem to cloud: 63MiB of file content",
        "Everything is stopped, unmounted and removed.",
    ] {
        assert!(out.contains(said), "no '{said}' in\n{out}");
    }
    assert_gone(dir_of(&out));
}

#[test]
fn what_is_kept_works_until_it_is_stopped() {
    if !can_mount("what_is_kept_works_until_it_is_stopped") {
        return;
    }
    let scratch = TempDir::with_prefix("globalfs-test-").unwrap();
    fs::write(scratch.path().join("mine"), "x").unwrap();
    let dir = scratch.path().to_str().unwrap();
    let _stopped = StopOnDrop(dir);
    let (code, out, err) = globalfs(&["demo", "--keep", "--dir", dir]);
    assert_eq!(code, 0, "{out}\n{err}");
    assert!(out.contains(&format!("Take it down:  globalfs demo --stop {dir}")), "{out}");
    let readme = fs::read_to_string(scratch.path().join("globalfs/README")).unwrap();
    assert_eq!(readme, fs::read_to_string(scratch.path().join("onprem/README")).unwrap());
    assert_eq!(running_below(scratch.path()).len(), 6, "{:?}", running_below(scratch.path()));

    let (code, _, err) = globalfs(&["demo", "--dir", dir]);
    assert!(code == 1 && err.contains(&format!("globalfs demo --stop {dir}")), "{err}");
    // Also with a file open below the mount.
    let open = fs::File::open(scratch.path().join("globalfs/README")).unwrap();
    let stopping = thread::spawn({
        let dir = dir.to_owned();
        move || globalfs(&["demo", "--stop", &dir])
    });
    thread::sleep(Duration::from_millis(200));
    drop(open);
    let (code, out, err) = stopping.join().unwrap();
    assert_eq!(code, 0, "{out}\n{err}");
    assert_eq!(running_below(scratch.path()), Vec::<String>::new());
    assert_eq!(mounted_below(scratch.path()), 0);
    let left: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["mine"]);
    let (code, _, err) = globalfs(&["demo", "--stop", dir]);
    assert!(code == 1 && err.contains("is not the directory of a demo"), "{err}");
}

/// Leaves nothing behind when a test fails half-way.
struct StopOnDrop<'a>(&'a str);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        globalfs(&["demo", "--stop", self.0]);
    }
}

#[test]
fn an_interrupted_demo_cleans_up() {
    let moments = ["== Two sites", "== The same tree at both sites", "== The whole file, verified"];
    for (signal, at) in [Signal::INT, Signal::TERM, Signal::INT].into_iter().zip(moments) {
        let scratch = TempDir::with_prefix("globalfs-test-").unwrap();
        let dir = scratch.path().join("demo");
        let mut demo = start(&dir, at);
        // As a terminal does: to the demo and to all that it has started.
        kill_process_group(Pid::from_child(&demo), signal).unwrap();
        let code = wait(&mut demo);
        let mut err = String::new();
        demo.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        assert_eq!((code, err.trim()), (1, "globalfs: interrupted"), "{signal:?}");
        assert_gone(&dir);
    }
}

#[test]
fn what_a_killed_demo_leaves_can_be_stopped() {
    let scratch = TempDir::with_prefix("globalfs-test-").unwrap();
    let dir = scratch.path().join("demo");
    let mut demo = start(&dir, "== The same tree at both sites");
    demo.kill().unwrap();
    demo.wait().unwrap();
    assert!(running_below(&dir).len() >= 3);
    let (code, out, err) = globalfs(&["demo", "--stop", dir.to_str().unwrap()]);
    assert_eq!(code, 0, "{out}\n{err}");
    assert_gone(&dir);
}

/// Starts a demo in `dir` and waits until it prints the line `at`.
fn start(dir: &Path, at: &str) -> Child {
    let mut command = Command::new(programs().globalfs);
    command.args(["demo", "--dir"]).arg(dir).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut demo = command.spawn().unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    assert!(lines.by_ref().map_while(Result::ok).any(|line| line == at), "the demo never said '{at}'");
    // Read on, as a terminal would.
    thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
    demo
}

fn wait(demo: &mut Child) -> i32 {
    let started = Instant::now();
    while started.elapsed() < LIMIT {
        if let Some(status) = demo.try_wait().unwrap() {
            return status.code().unwrap_or(-1);
        }
        thread::sleep(Duration::from_millis(20));
    }
    demo.kill().unwrap();
    panic!("the demo did not end within {LIMIT:?} of a signal");
}
