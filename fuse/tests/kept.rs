//! What the kernel keeps of names and attributes whose changes it is told. Needs root and `/dev/fuse`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::mounted::{Mounted, inside};
use common::path;
use globalfs_proto::{ChangedDirectory, Changes};
use rustix::fs::{Advice, fadvise};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

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
    mounted.volume.tell(Changes::of(vec![ChangedDirectory { path: path("/d"), names }]));
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
    mounted.eventually("the directory is listed anew", |mounted| names(mounted) == want);
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
fn who_works_in_a_directory_keeps_its_place() {
    if !inside("who_works_in_a_directory_keeps_its_place") {
        return;
    }
    let mounted = start();
    mounted.volume.set_edition(1);
    let worker = Command::new("sh")
        .args(["-c", "sleep 1; exec /bin/pwd"])
        .current_dir(mounted.at("d"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let directories = vec![ChangedDirectory { path: path("/"), names: vec!["d".into()] }];
    mounted.volume.tell(Changes::of(directories));
    mounted.volume.tell(Changes::everything());
    assert!(fs::metadata(mounted.at("d")).unwrap().is_dir());
    let said = worker.wait_with_output().unwrap();
    assert!(said.status.success() && said.stdout.ends_with(b"/d\n"), "{said:?}");
}

#[test]
fn names_are_asked_for_again_when_they_have_lasted() {
    if !inside("names_are_asked_for_again_when_they_have_lasted") {
        return;
    }
    let mounted = start();
    mounted.volume.set_edition(1);
    mounted.volume.set_lasting(Duration::from_secs(3));
    for _ in 0..3 {
        assert_eq!(names(&mounted), many());
    }
    let before = lists(&mounted);
    assert_eq!(names(&mounted), many());
    assert_eq!(lists(&mounted), before, "the kernel needs nobody");
    mounted.volume.file("/d/new", "told to nobody");
    mounted.eventually("the new name is there", |mounted| names(mounted).contains("new"));
}

/// Holds promise 6 of docs/semantics.md.
#[test]
fn lists_of_who_may_are_obeyed_and_kept() {
    if !inside("lists_of_who_may_are_obeyed_and_kept") {
        return;
    }
    let mounted = Mounted::new("allow_other");
    let attr = mounted.volume.file("/f", "content");
    mounted.volume.edit("/f", |attr| (attr.uid, attr.gid, attr.mode) = (1001, 1001, 0o640));
    // Version 2, then tag, permissions and id: the owner rw-, user 1002 r--, the group ---, the mask r--, others ---.
    let entry = |tag: u16, may: u16, id: u32| {
        [&tag.to_le_bytes()[..], &may.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    let nobody = u32::MAX;
    let entries = [
        entry(1, 6, nobody),
        entry(2, 4, 1002),
        entry(4, 0, nobody),
        entry(16, 4, nobody),
        entry(32, 0, nobody),
    ];
    let list: &'static [u8] = [&2u32.to_le_bytes()[..], &entries.concat()].concat().leak();
    mounted.volume.set_xattr("/f", "system.posix_acl_access", list);
    assert_eq!(attr.mode & 0o40, 0o40, "by its mode alone the group could read");
    let read = |user: u32, group: u32| {
        let command = format!("setpriv --reuid {user} --regid {group} --clear-groups cat f 2>&1 || true");
        mounted.shell(&command)
    };
    assert_eq!(read(1001, 1001), "content");
    assert_eq!(read(1002, 1002), "content", "who is named");
    assert!(read(1003, 1001).contains("Permission denied"), "the group");
    assert!(read(1003, 1003).contains("Permission denied"));
}

#[test]
fn who_comes_back_to_a_part_of_a_file_finds_all_of_it() {
    if !inside("who_comes_back_to_a_part_of_a_file_finds_all_of_it") {
        return;
    }
    let mounted = Mounted::new("");
    let content: Vec<u8> = (0..1_000_001u64).map(|n| ((n * n) >> 9) as u8).collect();
    mounted.volume.file("/file", content.clone());
    let file = File::open(mounted.at("file")).unwrap();
    fadvise(&file, 0, None, Advice::Random).unwrap();
    let read = |at: u64| {
        let mut part = [0; 100];
        file.read_exact_at(&mut part, at).unwrap();
        assert_eq!(part, content[at as usize..at as usize + 100]);
    };
    let reads = || mounted.volume.reads.load(Ordering::Relaxed);
    read(200_000);
    let once = reads();
    std::thread::sleep(Duration::from_millis(100));
    read(250_000);
    assert!(reads() > once, "who never comes back pays nothing");
    mounted.eventually("all of the part is there", |_| {
        let before = reads();
        (0..32).for_each(|page| read(131_072 + page * 4096 + 7));
        reads() == before
    });
    (0..2).for_each(|_| read(999_000));
    mounted.eventually("the end of the file, too", |_| {
        let before = reads();
        (983_040..999_900).step_by(777).for_each(&read);
        reads() == before
    });
    assert!(fs::read(mounted.at("file")).unwrap() == content);
}

/// Holds promise 5 of docs/semantics.md.
#[test]
fn a_reader_under_way_sees_each_name_that_stays_once() {
    if !inside("a_reader_under_way_sees_each_name_that_stays_once") {
        return;
    }
    let mounted = start();
    for edition in 1..11 {
        mounted.volume.set_edition(edition);
        let mut early = fs::read_dir(mounted.at("d")).unwrap();
        let mut seen: Vec<_> =
            early.by_ref().take(edition as usize * 180).map(|e| e.unwrap().file_name()).collect();
        let (here, gone) = (format!("/d/a-{edition}"), format!("/d/a-{}", edition - 1));
        mounted.volume.file(&here, "");
        if edition > 1 {
            mounted.volume.remove(&gone);
        }
        mounted.volume.set_edition(1000 + edition);
        tell(&mounted, &[&here[3..], &gone[3..]]);
        mounted.eventually("the new name is there", |mounted| names(mounted).contains(&here[3..]));
        let now = names(&mounted);
        assert_eq!(now.len(), FILES + 1, "{edition}");
        seen.extend(early.map(|entry| entry.unwrap().file_name()));
        let stayed: Vec<_> = seen.iter().filter(|name| many().contains(name.to_str().unwrap())).collect();
        let once: BTreeSet<_> = stayed.iter().collect();
        assert_eq!((stayed.len(), once.len()), (FILES, FILES), "{edition}");
        assert_eq!(names(&mounted), now);
    }
}
