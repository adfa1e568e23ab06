//! Writes that are answered before the volume has them. Needs root and `/dev/fuse`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::mounted::{LONG, Mounted, errno, inside};
use globalfs_fuse::Detach;
use globalfs_proto::FsError;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const ENOSPC: i32 = 28;
const EDQUOT: i32 = 122;
const MEBIBYTE: usize = 1 << 20;

/// A mount whose volume takes `write_ms` for each write.
fn slow(write_ms: u64, words: &str) -> Mounted {
    let mounted = Mounted::new(&format!("rw,{LONG},{words}"));
    mounted.volume.make_writable();
    mounted.volume.write_ms.store(write_ms, Ordering::Relaxed);
    mounted
}

fn open(mounted: &Mounted, name: &str) -> File {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false).open(mounted.at(name)).unwrap()
}

fn refuse(mounted: &Mounted, error: Option<i32>) {
    mounted.volume.refuse_writes(error.map(FsError::Os));
}

#[test]
fn small_writes_travel_together_and_in_order() {
    if !inside("small_writes_travel_together_and_in_order") {
        return;
    }
    let mounted = slow(20, "");
    let (mut file, mut want) = (open(&mounted, "f"), Vec::new());
    let begun = Instant::now();
    for n in 0..1000u32 {
        let line = format!("{n:>9}\n").repeat(20);
        file.write_all(line.as_bytes()).unwrap();
        want.extend_from_slice(line.as_bytes());
    }
    for n in 0..100usize {
        file.write_all_at(&[b'x'; 3000], n as u64 * 1000).unwrap();
        want[n * 1000..n * 1000 + 3000].fill(b'x');
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "nobody waits 20 ms for each");
    file.sync_all().unwrap();
    assert!(mounted.volume.content("/f") == want);
    let writes = mounted.volume.writes.lock().len();
    assert!(writes < 200, "1100 writes became {writes}");
    mounted.volume.writes.lock().clear();
    file.write_all(b"alone").unwrap();
    mounted.eventually("nobody has to ask for it", |mounted| mounted.volume.writes.lock().len() == 1);
}

#[test]
fn what_is_kept_is_bounded_and_what_is_closed_is_there() {
    if !inside("what_is_kept_is_bounded_and_what_is_closed_is_there") {
        return;
    }
    let mounted = slow(5, "");
    let (mut file, block) = (open(&mounted, "f"), vec![7; MEBIBYTE]);
    let mut most = 0;
    for n in 1..=40 {
        file.write_all(&block).unwrap();
        most = most.max(n * MEBIBYTE - mounted.volume.content("/f").len());
    }
    assert!((2..=9).contains(&(most / MEBIBYTE)), "{most}");
    drop(file);
    assert_eq!(mounted.volume.content("/f").len(), 40 * MEBIBYTE);
}

/// Holds promise 9 of docs/semantics.md.
#[test]
fn who_looks_sees_what_was_written() {
    if !inside("who_looks_sees_what_was_written") {
        return;
    }
    let mounted = slow(30, "");
    let file = open(&mounted, "f");
    let size = || fs::metadata(mounted.at("f")).unwrap().len();
    file.write_all_at(b"12345", 0).unwrap();
    assert_eq!((size(), file.metadata().unwrap().len()), (5, 5));
    file.write_all_at(b"678", 5).unwrap();
    assert_eq!(mounted.shell("stat -c %s f; cat f; ls -l | grep -c ' 8 '"), "8\n123456781\n");
    file.write_all_at(b"9", 8).unwrap();
    assert_eq!(mounted.shell("ls -l | grep -c ' 9 '"), "1\n");
    file.write_all_at(b"at the end", 100_000).unwrap();
    let mut part = [0; 10];
    file.read_exact_at(&mut part, 100_000).unwrap();
    assert_eq!(&part, b"at the end");
    file.write_all_at(b"MIDDLE", 50_000).unwrap();
    let other = File::open(mounted.at("f")).unwrap();
    other.read_exact_at(&mut part[..6], 50_000).unwrap();
    assert_eq!(&part[..6], b"MIDDLE");
    file.write_all_at(b"x", 200_000).unwrap();
    fs::rename(mounted.at("f"), mounted.at("g")).unwrap();
    assert_eq!(mounted.volume.content("/g").len(), 200_001, "what gets a name is whole");
    file.write_all_at(b"y", 200_001).unwrap();
    fs::hard_link(mounted.at("g"), mounted.at("h")).unwrap();
    assert_eq!(mounted.volume.content("/h").len(), 200_002);
    file.write_all_at(b"gone", 300_000).unwrap();
    fs::remove_file(mounted.at("g")).unwrap();
    fs::remove_file(mounted.at("h")).unwrap();
    assert_eq!((file.metadata().unwrap().len(), file.metadata().unwrap().nlink()), (300_004, 0));
    file.read_exact_at(&mut part[..4], 300_000).unwrap();
    assert_eq!(&part[..4], b"gone");
}

#[test]
fn other_changes_keep_their_place() {
    if !inside("other_changes_keep_their_place") {
        return;
    }
    let mounted = slow(10, "");
    let (file, mut end) = (open(&mounted, "f"), File::options().append(true).open(mounted.at("f")).unwrap());
    file.write_all_at(&[b'a'; 100], 0).unwrap();
    end.write_all(b"end").unwrap();
    file.write_all_at(b"b", 0).unwrap();
    file.set_len(50).unwrap();
    file.write_all_at(b"c", 60).unwrap();
    end.write_all(b"END").unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 70).unwrap();
    file.write_all_at(b"d", 1).unwrap();
    let mut want = vec![b'a'; 50];
    (want[0], want[1]) = (b'b', b'd');
    want.extend_from_slice(&[0; 10]);
    want.extend_from_slice(b"cEND");
    want.resize(70, 0);
    assert!(fs::read(mounted.at("f")).unwrap() == want);
    drop((file, end));
    assert!(mounted.volume.content("/f") == want);
}

#[test]
fn a_mapping_outlives_its_handle() {
    if !inside("a_mapping_outlives_its_handle") {
        return;
    }
    let mounted = slow(30, "");
    fs::write(mounted.at("f"), vec![b'.'; 100_000]).unwrap();
    let program = "import mmap, os; f = os.open('f', os.O_RDWR); m = mmap.mmap(f, 100000); \
        os.pwrite(f, b'plain', 5000); m[0:5] = b'first'; os.close(f); m[9000:9003] = b'end'; m.close(); \
        print(open('f', 'rb').read()[5000:9003].strip(b'.').decode())";
    assert!(mounted.shell(&format!("python3 -c \"{program}\"")).starts_with("plain..."));
    mounted.eventually("the volume has it", |mounted| {
        let content = mounted.volume.content("/f");
        content.starts_with(b"first") && &content[9000..9003] == b"end"
    });
    mounted.eventually("all is closed", |mounted| mounted.session.counts().1 == 0);
}

/// Holds promise 12, promise 13 of docs/semantics.md.
#[test]
fn what_is_lost_is_told_once_to_each_who_has_the_file_open() {
    if !inside("what_is_lost_is_told_once_to_each_who_has_the_file_open") {
        return;
    }
    let mounted = slow(5, "");
    fs::write(mounted.at("f"), "content").unwrap();
    let [one, two, three] = [0; 3].map(|_| open(&mounted, "f"));
    refuse(&mounted, Some(ENOSPC));
    one.write_all_at(b"C", 0).unwrap();
    one.write_all_at(b"lost with it", 100).unwrap();
    assert_eq!(errno(one.sync_all()), ENOSPC);
    refuse(&mounted, None);
    assert_eq!(errno(one.sync_all()), 0, "once");
    assert_eq!(errno(two.write_all_at(b"X", 0)), ENOSPC, "others who write are told as well");
    assert_eq!(one.metadata().unwrap().len(), 7);
    let mut content = [0; 7];
    one.read_exact_at(&mut content, 0).unwrap();
    assert_eq!(&content, b"content", "what is not there is not seen");
    assert_eq!(errno(three.sync_all()), ENOSPC);
    two.write_all_at(b"CON", 0).unwrap();
    assert_eq!(errno(two.sync_all()), 0, "it goes on");
    assert_eq!(mounted.volume.content("/f"), "CONtent");
    refuse(&mounted, Some(EDQUOT));
    let close = "import os; f = os.open('f', os.O_WRONLY); os.write(f, b'x')
try: os.close(os.dup(f)); print('closed')
except OSError as error: print(error.errno)
try: os.close(f); print('closed')
except OSError as error: print(error.errno)
os.close(os.open('f', os.O_RDONLY))";
    assert_eq!(mounted.shell(&format!("python3 -c \"{close}\"")), "122\n122\n", "each close");
    assert_eq!(errno(two.sync_all()), EDQUOT);
    two.write_all_at(b"lost", 0).unwrap();
    // Its copies of what is open here are closed by its exec, which tells nobody what came of that.
    assert!(Command::new("true").status().unwrap().success());
    assert_eq!(errno(two.sync_all()), EDQUOT, "a process that was started meanwhile changes nothing");
    refuse(&mounted, None);
    assert_eq!(mounted.volume.content("/f"), "CONtent");
}

#[test]
fn who_asks_for_it_waits_for_each_write() {
    if !inside("who_asks_for_it_waits_for_each_write") {
        return;
    }
    let check = |mounted: &Mounted, flags: rustix::fs::OFlags| {
        let mut options = File::options();
        let options = options.write(true).create(true).custom_flags(flags.bits() as i32);
        let file = options.open(mounted.at("f")).unwrap();
        let other = open(mounted, "f");
        for n in 0..20u8 {
            other.write_all_at(&[n; 10], 0).unwrap();
            file.write_all_at(&[n; 5], 3).unwrap();
            assert_eq!(mounted.volume.content("/f")[..], [n; 10]);
        }
        refuse(mounted, Some(ENOSPC));
        assert_eq!(errno(file.write_all_at(b"x", 0)), ENOSPC);
        assert_eq!(errno(file.sync_all()), 0);
        refuse(mounted, None);
    };
    let mounted = slow(3, "");
    check(&mounted, rustix::fs::OFlags::DSYNC);
    check(&mounted, rustix::fs::OFlags::SYNC);
    drop(mounted);
    check(&slow(3, "sync"), rustix::fs::OFlags::empty());
}

#[test]
fn an_unmount_waits_for_what_was_written() {
    if !inside("an_unmount_waits_for_what_was_written") {
        return;
    }
    let mounted = slow(100, "");
    let file = open(&mounted, "f");
    (0..8).for_each(|n| file.write_all_at(b"piece", n * 10_000).unwrap());
    assert!(mounted.volume.content("/f").len() < 70_000);
    mounted.runtime.block_on(mounted.session.write_out());
    assert_eq!(mounted.volume.content("/f").len(), 70_005);
    file.write_all_at(b"last", 80_000).unwrap();
    assert_eq!(mounted.volume.content("/f").len(), 80_004, "from then on nothing is kept");
    mounted.session.unmount(Detach::Now).unwrap();
    drop(file);
    mounted.runtime.block_on(mounted.session.wait());
}

#[test]
fn many_files_at_a_time_share_what_is_kept() {
    if !inside("many_files_at_a_time_share_what_is_kept") {
        return;
    }
    let mounted = slow(2, "");
    let write = |n: usize| {
        let path = mounted.at(format!("f{n}"));
        move || {
            let mut file = File::create(path).unwrap();
            (0..16).for_each(|k| file.write_all(&vec![k; MEBIBYTE]).unwrap());
            file.sync_all().unwrap();
        }
    };
    std::thread::scope(|scope| (0..12).for_each(|n| drop(scope.spawn(write(n)))));
    for n in 0..12 {
        let content = mounted.volume.content(&format!("/f{n}"));
        assert!(content.len() == 16 * MEBIBYTE && (0..16).all(|k| content[k * MEBIBYTE + 5] == k as u8));
    }
}

/// Holds promise 9 of docs/semantics.md.
#[test]
fn who_writes_all_the_time_overtakes_no_reader_for_ever() {
    if !inside("who_writes_all_the_time_overtakes_no_reader_for_ever") {
        return;
    }
    let mounted = slow(0, "");
    mounted.volume.file("/f", vec![1; MEBIBYTE]);
    let (writer, reader) = (open(&mounted, "f"), open(&mounted, "f"));
    mounted.volume.read_ms.store(10, Ordering::Relaxed);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in (0..u64::MAX).take_while(|_| !stop.load(Ordering::Relaxed)) {
                writer.write_all_at(&[2], n % 1000).and_then(|()| writer.sync_data()).unwrap();
            }
        });
        let read = |part| errno(reader.read_exact_at(&mut [0; 4096], part * MEBIBYTE as u64 / 16));
        let reads: Vec<i32> = (1..16).map(read).collect();
        stop.store(true, Ordering::Relaxed);
        assert_eq!(reads, [0; 15]);
    });
}
