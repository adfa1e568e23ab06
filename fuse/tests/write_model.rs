//! Random operations by seed, on a mount and on a plain directory: every outcome is compared, and at the end all of both
//! trees. Needs root and `/dev/fuse`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::mounted::{LONG, Mounted, inside};
use common::steps::{Random, Side, Step, all};
use std::fs;
use std::os::unix::fs::MetadataExt;

/// Operations of each seed.
const STEPS: usize = 2500;

fn compare(seed: u64, words: &str, is_local: bool) {
    let mounted = Mounted::new(&format!("rw,{words}"));
    mounted.volume.make_writable();
    if is_local {
        mounted.volume.make_local();
    }
    let plain = tempfile::tempdir().unwrap();
    let [mut ours, mut theirs] = [&mounted.at(""), plain.path()].map(Side::new);
    let mut random = Random(seed);
    for number in 0..STEPS {
        let step = Step::next(&mut random);
        let (our, their) = (ours.apply(&step, number), theirs.apply(&step, number));
        assert!(our == their, "seed {seed}, step {number} {step:?}: {our:.200} instead of {their:.200}");
    }
    assert_eq!(all(&ours.root, true), all(&theirs.root, true), "seed {seed}");
    drop(ours);
    let is_clean = |mounted: &Mounted| !mounted.volume.names().iter().any(|name| name.contains("/."));
    mounted.eventually("nothing hidden stays", is_clean);
    mounted.eventually("all is closed", |mounted| mounted.session.counts().1 == 0);
}

#[test]
fn a_mount_does_what_a_local_directory_does() {
    if !inside("a_mount_does_what_a_local_directory_does") {
        return;
    }
    for seed in 1..4 {
        compare(seed, LONG, false);
    }
    compare(4, "attr_timeout=0,entry_timeout=0", false);
    compare(5, LONG, true);
}

#[test]
fn many_at_once_leave_what_the_volume_has() {
    if !inside("many_at_once_leave_what_the_volume_has") {
        return;
    }
    let mounted = Mounted::new(&format!("rw,{LONG}"));
    mounted.volume.make_writable();
    let workers: Vec<_> = (0..8)
        .map(|seed| {
            let mut side = Side::new(&mounted.at(""));
            std::thread::spawn(move || {
                let mut random = Random(seed);
                for number in 0..STEPS {
                    // Whatever comes of it: others do the same.
                    side.apply(&Step::next(&mut random), number);
                }
            })
        })
        .collect();
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    mounted.eventually("all is closed", |mounted| mounted.session.counts().1 == 0);
    let is_clean = |mounted: &Mounted| !mounted.volume.names().iter().any(|name| name.contains("/."));
    mounted.eventually("nothing hidden stays", is_clean);
    for name in mounted.volume.names().iter().filter(|name| *name != "/") {
        let meta = || fs::symlink_metadata(mounted.at(&name[1..])).unwrap();
        let (attr, seen) = (mounted.volume.attr(name), meta());
        assert_eq!((seen.mode() & 0o7777, seen.nlink()), (attr.mode, attr.nlink.into()), "{name}");
        // The kernel hears a moment later of what it did not ask for.
        mounted.eventually(name, |_| meta().mtime() == attr.mtime_ns / 1_000_000_000);
        if seen.is_file() {
            assert!(fs::read(mounted.at(&name[1..])).unwrap() == mounted.volume.content(name), "{name}");
        }
    }
    assert_eq!(mounted.shell("find . | wc -l").trim(), mounted.volume.names().len().to_string());
}
