//! What the kernel keeps of names and attributes whose changes it is told. Needs root and `/dev/fuse`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::mounted::{Mounted, inside};
use common::path;
use globalfs_proto::{ChangedDirectory, Changes};
use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::Ordering;

/// Nothing is kept but what is told to last.
const ASK_ALWAYS: &str = "attr_timeout=0,entry_timeout=0";

const FILES: usize = 2000;

fn lists(mounted: &Mounted) -> u64 {
    mounted.volume.lists.load(Ordering::Relaxed)
}

fn stats(mounted: &Mounted) -> u64 {
    mounted.volume.stats.load(Ordering::Relaxed)
}

fn names(mounted: &Mounted) -> BTreeSet<String> {
    fs::read_dir(mounted.at("d"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn many() -> BTreeSet<String> {
    (0..FILES).map(|n| format!("file-{n:04}")).collect()
}

fn start() -> Mounted {
    let mounted = Mounted::new(ASK_ALWAYS);
    mounted.volume.directory("/d");
    for name in many() {
        mounted.volume.file(&format!("/d/{name}"), "x");
    }
    mounted
}

fn tell(mounted: &Mounted, names: &[&str]) {
    let names = names.iter().map(|name| name.to_string().into()).collect();
    mounted
        .volume
        .tell(Changes { everything: false, directories: vec![ChangedDirectory { path: path("/d"), names }] });
}

#[test]
fn the_kernel_lists_what_it_would_hear_changes_of() {
    if !inside("the_kernel_lists_what_it_would_hear_changes_of") {
        return;
    }
    let mounted = start();
    let list = "find d | wc -l; ls -l d | wc -l";
    let count = format!("{}\n{}\n", FILES + 1, FILES + 1);
    for _ in 0..2 {
        assert_eq!(mounted.shell(list), count);
    }
    assert!(lists(&mounted) >= 4, "nobody would tell");
    mounted.volume.set_edition(1);
    assert_eq!(mounted.shell(list), count);
    let before = (lists(&mounted), stats(&mounted));
    for _ in 0..3 {
        assert_eq!(mounted.shell(list), count);
    }
    assert_eq!((lists(&mounted), stats(&mounted)), before, "the kernel needs nobody");
}

#[test]
fn what_changed_is_listed_anew() {
    if !inside("what_changed_is_listed_anew") {
        return;
    }
    let mounted = start();
    mounted.volume.set_edition(1);
    for _ in 0..2 {
        assert_eq!(names(&mounted), many());
    }
    mounted.volume.file("/d/new", "y");
    mounted.volume.remove("/d/file-0000");
    mounted.volume.set_edition(2);
    tell(&mounted, &["new", "file-0000"]);
    let mut want = many();
    want.remove("file-0000");
    want.insert("new".to_owned());
    assert_eq!(names(&mounted), want, "also before the kernel heard of it");
    mounted.eventually("the name is gone", |mounted| fs::metadata(mounted.at("d/file-0000")).is_err());
    mounted.volume.change("/d/new", "longer", false);
    mounted.volume.set_edition(3);
    mounted.volume.tell(Changes::everything());
    mounted.eventually("all is forgotten", |mounted| fs::metadata(mounted.at("d/new")).unwrap().len() == 6);
    mounted.volume.change("/d/new", "longer still", false);
    mounted.volume.set_edition(4);
    tell(&mounted, &[]);
    mounted.eventually("a whole directory", |mounted| fs::metadata(mounted.at("d/new")).unwrap().len() == 12);
    assert_eq!(names(&mounted), want);
}

#[test]
fn a_reader_under_way_sees_each_name_that_stays_once() {
    if !inside("a_reader_under_way_sees_each_name_that_stays_once") {
        return;
    }
    let mounted = start();
    for edition in 1..40 {
        mounted.volume.set_edition(edition);
        let mut early = fs::read_dir(mounted.at("d")).unwrap();
        let mut seen: Vec<_> =
            early.by_ref().take(edition as usize * 45).map(|e| e.unwrap().file_name()).collect();
        let (here, gone) = (format!("/d/a-{edition}"), format!("/d/a-{}", edition - 1));
        mounted.volume.file(&here, "");
        if edition > 1 {
            mounted.volume.remove(&gone);
        }
        mounted.volume.set_edition(1000 + edition);
        tell(&mounted, &[&here[3..], &gone[3..]]);
        let now = names(&mounted);
        assert!(now.contains(&here[3..]) && now.len() == FILES + 1, "{edition}: {}", now.len());
        seen.extend(early.map(|entry| entry.unwrap().file_name()));
        let stayed: Vec<_> = seen.iter().filter(|name| many().contains(name.to_str().unwrap())).collect();
        let once: BTreeSet<_> = stayed.iter().collect();
        assert_eq!((stayed.len(), once.len()), (FILES, FILES), "{edition}");
        assert_eq!(names(&mounted), now);
    }
}
