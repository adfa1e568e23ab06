//! What the kernel knows of names after changes that failed. Needs root and `/dev/fuse`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::mounted::{LONG, Mounted, errno, inside};
use globalfs_proto::FsError;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};
use std::sync::atomic::Ordering;
use std::time::Duration;

const ENOSPC: i32 = 28;
const EHOSTUNREACH: i32 = 113;

/// The kernel keeps names for an hour, and nobody tells of changes.
fn writable() -> Mounted {
    let mounted = Mounted::new(&format!("rw,{LONG}"));
    mounted.volume.make_writable();
    mounted
}

/// What `work` is told, whose changes are made although the answers are lost.
fn without_answer(mounted: &Mounted, work: impl FnOnce() -> std::io::Result<()>) -> i32 {
    mounted.volume.lose_answers(Some(FsError::Unreachable("a test".to_owned())));
    let told = errno(work());
    mounted.volume.lose_answers(None);
    told
}

#[test]
fn names_are_looked_up_again_when_the_answer_to_a_change_was_lost() {
    if !inside("names_are_looked_up_again_when_the_answer_to_a_change_was_lost") {
        return;
    }
    let mounted = writable();
    let at = |name: &str| mounted.at(name);
    let is_there = |name: &'static str, there: bool| {
        mounted.eventually(name, |mounted| fs::symlink_metadata(mounted.at(name)).is_ok() == there);
    };
    ["gone", "from", "replaced", "one", "two"].iter().for_each(|name| fs::write(at(name), name).unwrap());
    fs::create_dir(at("directory")).unwrap();
    ["made", "new", "link", "to"].iter().for_each(|name| assert!(fs::metadata(at(name)).is_err()));
    let lost =
        |work: &dyn Fn() -> std::io::Result<()>| assert_eq!(without_answer(&mounted, work), EHOSTUNREACH);
    lost(&|| fs::remove_file(at("gone")));
    is_there("gone", false);
    lost(&|| fs::remove_dir(at("directory")));
    is_there("directory", false);
    lost(&|| File::create_new(at("made")).map(drop));
    is_there("made", true);
    lost(&|| fs::create_dir(at("new")));
    is_there("new", true);
    lost(&|| symlink("new", at("link")));
    is_there("link", true);
    lost(&|| fs::rename(at("from"), at("to")));
    is_there("from", false);
    is_there("to", true);
    assert_eq!(fs::read(at("to")).unwrap(), b"from");
    lost(&|| fs::rename(at("to"), at("replaced")));
    is_there("to", false);
    mounted.eventually("replaced", |mounted| fs::read(mounted.at("replaced")).unwrap() == b"from");
    lost(&|| renameat_with(CWD, at("one"), CWD, at("two"), RenameFlags::EXCHANGE).map_err(Into::into));
    mounted.eventually("one", |mounted| fs::read(mounted.at("one")).unwrap() == b"two");
    lost(&|| fs::hard_link(at("one"), at("linked")));
    is_there("linked", true);
    mounted.eventually("links", |mounted| fs::metadata(mounted.at("one")).unwrap().nlink() == 2);
}

#[test]
fn names_are_kept_when_a_change_is_known_to_have_failed() {
    if !inside("names_are_kept_when_a_change_is_known_to_have_failed") {
        return;
    }
    let mounted = writable();
    fs::write(mounted.at("f"), "content").unwrap();
    fs::metadata(mounted.at("f")).unwrap();
    mounted.volume.refuse(Some(FsError::Os(ENOSPC)));
    assert_eq!(errno(fs::rename(mounted.at("f"), mounted.at("g"))), ENOSPC);
    let asked = mounted.volume.stats.load(Ordering::Relaxed);
    // The kernel would be made to forget it a second time after that.
    std::thread::sleep(Duration::from_secs(1));
    fs::metadata(mounted.at("f")).unwrap();
    assert_eq!(mounted.volume.stats.load(Ordering::Relaxed), asked);
}
