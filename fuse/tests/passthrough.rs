//! Local files that the kernel reads by itself. Needs root and `/dev/fuse`; where the kernel passes nothing through, it
//! must not show.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::mounted::{LONG, Mounted, inside, skip};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const LENGTH: usize = 3_000_001;

fn content(seed: usize) -> Vec<u8> {
    (0..LENGTH).map(|n| (n * n / 4096 + n + seed) as u8).collect()
}

fn reads(mounted: &Mounted) -> u64 {
    mounted.volume.reads.load(Ordering::Relaxed)
}

/// Local files that the kernel has.
fn handed_out(mounted: &Mounted) -> usize {
    Arc::strong_count(&mounted.volume.handed_out) - 1
}

/// Whether this kernel can do it at all: from Linux 6.9 on.
fn kernel_can(test: &str) -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (6, 9) || skip(test, "Linux 6.9")
}

#[test]
fn a_local_file_is_read_without_asking() {
    let test = "a_local_file_is_read_without_asking";
    if !inside(test) || !kernel_can(test) {
        return;
    }
    let mounted = Mounted::new("");
    mounted.volume.file("/file", content(1));
    mounted.volume.file("/empty", "");
    mounted.volume.make_local();
    assert!(fs::read(mounted.at("file")).unwrap() == content(1));
    assert_eq!(fs::read(mounted.at("empty")).unwrap(), b"");
    let file = File::open(mounted.at("file")).unwrap();
    let mut part = vec![0; 5000];
    file.read_exact_at(&mut part, 2_000_000).unwrap();
    assert!(part == content(1)[2_000_000..2_005_000]);
    assert_eq!((&file).seek(SeekFrom::End(-1)).unwrap(), LENGTH as u64 - 1);
    assert_eq!((&file).read(&mut part).unwrap(), 1);
    let map = "import mmap; f = open('file', 'rb'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); \
               f.close(); import hashlib; print(hashlib.md5(m).hexdigest() == hashlib.md5(open('file', 'rb').read()).hexdigest())";
    assert_eq!(mounted.shell(&format!("python3 -c \"{map}\"")), "True\n");
    let direct = "dd if=file bs=4096 iflag=direct status=none | cmp - file && echo same";
    assert_eq!(mounted.shell(direct), "same\n");
    assert_eq!(reads(&mounted), 0);
    assert_eq!(handed_out(&mounted), 1, "one file for all who have it open");
    drop(file);
    mounted.eventually("the kernel gives it back", |mounted| handed_out(mounted) == 0);
}

#[test]
fn a_file_that_becomes_local_while_it_is_open_is_so_for_its_next_first_reader() {
    let test = "a_file_that_becomes_local_while_it_is_open_is_so_for_its_next_first_reader";
    if !inside(test) || !kernel_can(test) {
        return;
    }
    let mounted = Mounted::new("");
    mounted.volume.file("/file", content(2));
    let early = File::open(mounted.at("file")).unwrap();
    mounted.volume.make_local();
    let mut late = File::open(mounted.at("file")).unwrap();
    let mut bytes = Vec::new();
    late.read_to_end(&mut bytes).unwrap();
    assert!(bytes == content(2));
    let before = reads(&mounted);
    assert!(before > 0, "the file was open through us");
    let mut part = [0; 10];
    early.read_exact_at(&mut part, 77).unwrap();
    assert_eq!(part, content(2)[77..87]);
    drop((early, late));
    mounted.eventually("all is closed", |mounted| mounted.session.counts().1 == 0);
    assert!(fs::read(mounted.at("file")).unwrap() == content(2));
    assert_eq!(reads(&mounted), before);
}

#[test]
fn another_version_is_another_file() {
    let test = "another_version_is_another_file";
    if !inside(test) || !kernel_can(test) {
        return;
    }
    let mounted = Mounted::new(LONG);
    mounted.volume.file("/file", content(3));
    mounted.volume.make_local();
    let old = File::open(mounted.at("file")).unwrap();
    mounted.volume.change("/file", content(4), true);
    let new = File::open(mounted.at("file")).unwrap();
    let (mut old_bytes, mut new_bytes) = (vec![0; LENGTH], vec![0; LENGTH]);
    old.read_exact_at(&mut old_bytes, 0).unwrap();
    new.read_exact_at(&mut new_bytes, 0).unwrap();
    assert!(old_bytes == content(3) && new_bytes == content(4));
    assert_eq!((reads(&mounted), handed_out(&mounted)), (0, 2));
}

#[test]
fn many_open_and_close_at_once() {
    let test = "many_open_and_close_at_once";
    if !inside(test) || !kernel_can(test) {
        return;
    }
    let mounted = Mounted::new("");
    let content = Arc::new(content(5));
    mounted.volume.file("/file", (*content).clone());
    let readers: Vec<_> = (0..16)
        .map(|seed| {
            let (path, content) = (mounted.at("file"), content.clone());
            std::thread::spawn(move || {
                for round in 0..200 {
                    let file = File::open(&path).unwrap();
                    let (mut part, at) = ([0; 100], (round * 7919 + seed * 104_729) % (LENGTH - 100));
                    file.read_exact_at(&mut part, at as u64).unwrap();
                    assert!(part[..] == content[at..][..100]);
                }
            })
        })
        .collect();
    std::thread::sleep(std::time::Duration::from_millis(50));
    mounted.volume.make_local();
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    mounted.eventually("the kernel gives all back", |mounted| handed_out(mounted) == 0);
}

#[test]
fn where_the_kernel_refuses_all_is_read_through_us() {
    let test = "where_the_kernel_refuses_all_is_read_through_us";
    if !inside(test) {
        return;
    }
    let scratch = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let at = |name: &str| scratch.path().join(name);
    ["lower", "upper", "work", "merged"].iter().for_each(|name| fs::create_dir(at(name)).unwrap());
    let layers = ["lower", "upper", "work"].map(|name| format!("{name}dir={}", at(name).display())).join(",");
    let stacked = Command::new("mount")
        .args(["-t", "overlay", "overlay", "-o", &layers])
        .arg(at("merged"))
        .status()
        .unwrap();
    for (words, local) in [("passthrough=off", Path::new(env!("CARGO_MANIFEST_DIR"))), ("", &at("merged"))] {
        if words.is_empty() && !stacked.success() {
            skip(test, "overlayfs");
            continue;
        }
        let mounted = Mounted::new(words);
        mounted.volume.file("/file", content(6));
        *mounted.volume.local.lock() = Some(local.to_owned());
        for _ in 0..2 {
            assert!(fs::read(mounted.at("file")).unwrap() == content(6), "{words}");
        }
        assert!(reads(&mounted) > 0);
        assert_eq!(handed_out(&mounted), 0);
    }
    if stacked.success() {
        rustix::mount::unmount(at("merged"), rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}
