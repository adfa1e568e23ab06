//! What applications see in a mount. Needs root and `/dev/fuse`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use bytes::Bytes;
use common::mounted::{LONG, Mounted, errno, inside};
use common::path;
use globalfs_fuse::NodeId;
use globalfs_proto::{FileKind, FsError, GlobalPath};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const EROFS: i32 = 30;
const ESTALE: i32 = 116;

fn noise(length: usize) -> Bytes {
    let mut state = 1u64;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(next).collect()
}

#[test]
fn a_tree_is_shown_as_it_is() {
    if !inside("a_tree_is_shown_as_it_is") {
        return;
    }
    let mounted = Mounted::new("");
    let (volume, content) = (&mounted.volume, noise(3_000_001));
    volume.directory("/d");
    volume.directory("/d/e");
    volume.file("/d/e/big", content.clone());
    volume.file("/d/empty", "");
    volume.edit("/d/empty", |a| (a.uid, a.gid, a.mode, a.mtime_ns) = (1234, 567, 0o4751, -1_500_000_000));
    volume.symlink("/link", "d/e/big");
    volume.hard_link("/d/e/big", "/hard");
    assert_eq!(fs::read(mounted.at("d/e/big")).unwrap(), content);
    assert_eq!(fs::read(mounted.at("link")).unwrap(), content);
    assert_eq!(fs::read_link(mounted.at("link")).unwrap(), Path::new("d/e/big"));
    assert_eq!(mounted.shell("cat d/e/big | wc -c; tail -c 1 d/e/big | wc -c"), "3000001\n1\n");
    let found = mounted.shell("find . | LC_ALL=C sort | tr '\\n' ' '");
    assert_eq!(found, ". ./d ./d/e ./d/e/big ./d/empty ./hard ./link ");
    let (big, hard) =
        (fs::metadata(mounted.at("hard")).unwrap(), fs::metadata(mounted.at("d/e/big")).unwrap());
    assert_eq!((big.ino(), big.nlink(), big.len()), (hard.ino(), 2, 3_000_001));
    let empty = fs::metadata(mounted.at("d/empty")).unwrap();
    assert_eq!((empty.uid(), empty.gid(), empty.mode()), (1234, 567, 0o104751));
    assert_eq!((empty.mtime(), empty.mtime_nsec(), empty.len()), (-2, 500_000_000, 0));
    assert!(mounted.shell("ls -la d").contains("-rwsr-x--x"));
    assert_eq!(mounted.shell("ls -i d/e | cut -d' ' -f1").trim(), big.ino().to_string());
    assert_eq!(errno(fs::metadata(mounted.at("none"))), 2);
    assert_eq!(errno(fs::metadata(mounted.at("x".repeat(256)))), 36);
    assert_eq!(errno(fs::metadata(mounted.at("link/x"))), 20);
}

#[test]
fn odd_names_and_special_files() {
    if !inside("odd_names_and_special_files") {
        return;
    }
    let mounted = Mounted::new("");
    let longest = [b'l'; 255];
    let names: [&[u8]; 6] = [b"new\nline", b"\xff\xfe", b" ", b"...", b"-rf", &longest];
    for name in names {
        let at = GlobalPath::root().join(name).unwrap();
        mounted.volume.put(&at, FileKind::Regular, 0o644, Bytes::copy_from_slice(name));
    }
    let seen: BTreeSet<Vec<u8>> = fs::read_dir(mounted.session.mountpoint())
        .unwrap()
        .map(|e| e.unwrap().file_name().as_bytes().to_vec())
        .collect();
    assert_eq!(seen, names.iter().map(|n| n.to_vec()).collect());
    for name in names {
        assert_eq!(fs::read(mounted.at(std::ffi::OsStr::from_bytes(name))).unwrap(), name);
    }
    mounted.volume.put(&path("/fifo"), FileKind::Fifo, 0o600, Bytes::new());
    mounted.volume.put(&path("/socket"), FileKind::Socket, 0o600, Bytes::new());
    mounted.volume.put(&path("/null"), FileKind::CharDevice, 0o666, Bytes::new());
    mounted.volume.edit("/null", |a| a.rdev = rustix::fs::makedev(1, 3));
    let kind = |name: &str| fs::symlink_metadata(mounted.at(name)).unwrap();
    assert!(kind("fifo").file_type().is_fifo() && kind("socket").file_type().is_socket());
    assert_eq!(kind("null").rdev(), rustix::fs::makedev(1, 3));
    assert_eq!(errno(File::open(mounted.at("null"))), 13, "nodev");
}

#[test]
fn a_large_directory_is_listed_and_forgotten() {
    if !inside("a_large_directory_is_listed_and_forgotten") {
        return;
    }
    const COUNT: usize = 100_000;
    let mounted = Mounted::new(LONG);
    mounted.volume.directory("/d");
    for n in 0..COUNT {
        mounted.volume.file(&format!("/d/entry-{n:06}"), "");
    }
    let stats = || mounted.volume.stats.load(Ordering::Relaxed);
    let start = Instant::now();
    assert_eq!(mounted.shell("ls -f d | sort -u | wc -l").trim(), (COUNT + 2).to_string());
    assert_eq!(mounted.shell("find d -type f -size 0 | wc -l").trim(), COUNT.to_string());
    eprintln!("two walks over {COUNT} entries took {:?}", start.elapsed());
    assert!(stats() < COUNT as u64 / 100, "listings bring the attributes along");
    assert!(mounted.session.counts().0 > COUNT / 2, "{:?}", mounted.session.counts());
    fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
    mounted.eventually("nodes are forgotten", |m| m.session.counts().0 < COUNT / 10);
    assert_eq!(fs::read_dir(mounted.at("d")).unwrap().count(), COUNT);
    mounted.eventually("handles are closed", |m| m.session.counts().1 == 0);
}

#[test]
fn programs_run_from_the_mount() {
    if !inside("programs_run_from_the_mount") {
        return;
    }
    let mounted = Mounted::new("");
    mounted.volume.put(&path("/cat"), FileKind::Regular, 0o755, fs::read("/bin/cat").unwrap().into());
    mounted.volume.put(&path("/s"), FileKind::Regular, 0o755, "#!/bin/sh\necho hello $1\n".into());
    mounted.volume.file("/data", "mapped and read\n");
    assert_eq!(mounted.shell("./cat data; ./s you"), "mapped and read\nhello you\n");
    assert_eq!(mounted.shell("cp cat /proc/self/fd/1 | cmp - /bin/cat"), "");
    let reads = || mounted.volume.reads.load(Ordering::Relaxed);
    // A kernel that reclaims memory may have dropped some of it once.
    let kept = (0..3).any(|_| {
        let before = reads();
        mounted.shell("./cat data >/dev/null; cat data cat >/dev/null");
        reads() == before
    });
    assert!(kept, "the page cache outlives a close");
    drop(mounted);
    let mounted = Mounted::new("noexec");
    mounted.volume.put(&path("/s"), FileKind::Regular, 0o755, "#!/bin/sh\n".into());
    assert_eq!(errno(Command::new(mounted.at("s")).status()), 13);
}

#[test]
fn permissions_are_those_of_mode_and_owner() {
    if !inside("permissions_are_those_of_mode_and_owner") {
        return;
    }
    let as_user = |mounted: &Mounted, uid: u32, name: &str| {
        let ids = [format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".to_owned()];
        let mut command = Command::new("setpriv");
        command.args(ids).arg("cat").arg(mounted.at(name)).stderr(Stdio::null());
        command.status().unwrap().success()
    };
    let fill = |mounted: &Mounted| {
        mounted.volume.file("/open", "x");
        mounted.volume.put(&path("/secret"), FileKind::Regular, 0o600, "x".into());
        mounted.volume.put(&path("/mine"), FileKind::Regular, 0o600, "x".into());
        mounted.volume.edit("/mine", |a| a.uid = 4242);
        mounted.volume.put(&path("/d"), FileKind::Directory, 0o700, "".into());
        mounted.volume.file("/d/f", "x");
    };
    let shared = Mounted::new("allow_other");
    fill(&shared);
    for (uid, name, want) in [
        (4242, "open", true),
        (4242, "secret", false),
        (4242, "mine", true),
        (4243, "mine", false),
        (4242, "d/f", false),
        (0, "secret", true),
        (0, "d/f", true),
    ] {
        assert_eq!(as_user(&shared, uid, name), want, "{name} as {uid}");
    }
    let private = Mounted::new("");
    fill(&private);
    assert!(!as_user(&private, 4242, "open") && as_user(&private, 0, "open"));
}

#[test]
fn a_changed_file_is_opened_anew() {
    if !inside("a_changed_file_is_opened_anew") {
        return;
    }
    let mounted = Mounted::new(LONG);
    let (old, new) = (noise(500_000), noise(600_000).slice(1..));
    for (name, keep) in [("kept", true), ("gone", false)] {
        mounted.volume.file(&format!("/{name}"), old.clone());
        let at = mounted.at(name);
        let mut file = File::open(&at).unwrap();
        let before = file.metadata().unwrap();
        mounted.volume.change(&format!("/{name}"), new.clone(), keep);
        assert_eq!(fs::read(&at).unwrap(), new, "a new open sees the new content");
        let after = fs::metadata(&at).unwrap();
        assert_ne!(before.ino(), after.ino());
        assert_eq!(after.len(), new.len() as u64);
        assert_eq!(file.metadata().unwrap().len(), old.len() as u64, "the open file is the old one");
        let mut content = Vec::new();
        match file.read_to_end(&mut content) {
            Ok(_) => assert!(keep && content == old),
            Err(e) => assert!(!keep && e.raw_os_error() == Some(ESTALE), "{e}"),
        }
    }
}

#[test]
fn cached_pages_stay_those_of_their_version() {
    if !inside("cached_pages_stay_those_of_their_version") {
        return;
    }
    let mounted = Mounted::new("attr_timeout=0,entry_timeout=0");
    let mut expected = noise(300_000);
    mounted.volume.file("/f", expected.clone());
    for round in 0..20usize {
        let mut file = File::open(mounted.at("f")).unwrap();
        let mut head = vec![0; 10_000];
        file.read_exact(&mut head).unwrap();
        assert_eq!(head, expected[..10_000]);
        let changed: Bytes = expected.iter().map(|b| b.wrapping_add(1)).skip(round % 3).collect();
        mounted.volume.change("/f", changed.clone(), false);
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut again = Vec::new();
        match file.read_to_end(&mut again) {
            Ok(_) => assert_eq!(again, expected, "pages that were read already, of the old version"),
            Err(e) => assert_eq!(e.raw_os_error(), Some(ESTALE)),
        }
        assert_eq!(fs::read(mounted.at("f")).unwrap(), changed);
        assert_eq!(fs::metadata(mounted.at("f")).unwrap().len(), changed.len() as u64);
        expected = changed;
    }
}

/// Each version of the file is one byte over and over, in a length that goes with it.
#[test]
fn a_file_that_is_being_written_is_never_a_mix() {
    if !inside("a_file_that_is_being_written_is_never_a_mix") {
        return;
    }
    const ROUNDS: usize = 400;
    let mounted = Mounted::new("");
    let version = |n: usize| Bytes::from(vec![n as u8; 200_000 + n % 256]);
    mounted.volume.file("/f", version(0));
    let (writing, at) = (std::sync::atomic::AtomicBool::new(true), mounted.at("f"));
    let read_while_written = || {
        let (mut whole, mut stale) = (0, 0);
        while writing.load(Ordering::Relaxed) {
            match fs::read(&at) {
                Ok(content) => {
                    assert_eq!(content, version(content[0].into()));
                    whole += 1;
                }
                Err(e) => {
                    assert_eq!(e.raw_os_error(), Some(ESTALE));
                    stale += 1;
                }
            }
        }
        (whole, stale)
    };
    std::thread::scope(|scope| {
        let readers = [scope.spawn(read_while_written), scope.spawn(read_while_written)];
        for round in 0..ROUNDS {
            mounted.volume.change("/f", version(round), false);
            std::thread::sleep(Duration::from_millis(round as u64 % 7));
        }
        writing.store(false, Ordering::Relaxed);
        for reader in readers {
            let (whole, stale) = reader.join().unwrap();
            eprintln!("{whole} reads of a whole version, {stale} refused");
            assert!(whole > ROUNDS / 100, "{whole} reads, {stale} refused");
        }
    });
    assert_eq!(fs::read(&at).unwrap(), version(ROUNDS - 1));
}

#[test]
fn renames_and_new_targets_at_the_origin_are_seen() {
    if !inside("renames_and_new_targets_at_the_origin_are_seen") {
        return;
    }
    let mounted = Mounted::new("attr_timeout=0,entry_timeout=0");
    let volume = &mounted.volume;
    volume.directory("/a");
    volume.file("/a/f", "content");
    volume.symlink("/l", "a/f");
    let file = File::open(mounted.at("a/f")).unwrap();
    assert_eq!(fs::read(mounted.at("l")).unwrap(), b"content");
    volume.rename("/a", "/b");
    assert_eq!(errno(fs::read(mounted.at("a/f"))), 2);
    assert_eq!(fs::read(mounted.at("b/f")).unwrap(), b"content");
    assert_eq!(file.metadata().unwrap().ino(), fs::metadata(mounted.at("b/f")).unwrap().ino());
    volume.remove("/l");
    volume.symlink("/l", "b/f");
    assert_eq!(fs::read_link(mounted.at("l")).unwrap(), Path::new("b/f"));
    assert_eq!(fs::read(mounted.at("l")).unwrap(), b"content");
    volume.remove("/b/f");
    assert_eq!(errno(fs::metadata(mounted.at("b/f"))), 2);
    volume.directory("/b/f");
    assert!(fs::metadata(mounted.at("b/f")).unwrap().is_dir());
}

#[test]
fn every_change_is_refused() {
    if !inside("every_change_is_refused") {
        return;
    }
    for words in ["ro", "rw"] {
        let mounted = Mounted::new(words);
        mounted.volume.file("/f", "content");
        mounted.volume.directory("/d");
        let (file, other) = (mounted.at("f"), mounted.at("other"));
        let open = |options: &mut fs::OpenOptions| errno(options.open(&file));
        assert_eq!(open(File::options().write(true)), EROFS, "{words}");
        assert_eq!(open(File::options().read(true).write(true)), EROFS);
        assert_eq!(open(File::options().append(true)), EROFS);
        assert_eq!(open(File::options().write(true).truncate(true)), EROFS);
        assert_eq!(open(File::options().write(true).create_new(true)), 17);
        assert_eq!(errno(File::create(&other)), EROFS);
        assert_eq!(errno(fs::create_dir(&other)), EROFS);
        assert_eq!(errno(fs::remove_file(&file)), EROFS);
        assert_eq!(errno(fs::remove_dir(mounted.at("d"))), EROFS);
        assert_eq!(errno(fs::rename(&file, &other)), EROFS);
        assert_eq!(errno(symlink("f", &other)), EROFS);
        assert_eq!(errno(fs::hard_link(&file, &other)), EROFS);
        assert_eq!(errno(fs::set_permissions(&file, fs::Permissions::from_mode(0o600))), EROFS);
        assert_eq!(errno(std::os::unix::fs::chown(&file, Some(1), Some(1))), EROFS);
        let opened = File::open(&file).unwrap();
        assert_eq!(errno(opened.set_modified(std::time::SystemTime::now())), EROFS);
        let flags = rustix::fs::XattrFlags::empty();
        let xattr = rustix::fs::setxattr(&file, "user.a", b"1", flags);
        assert_eq!(xattr, Err(rustix::io::Errno::ROFS));
        assert_eq!(rustix::fs::removexattr(&file, "user.a"), Err(rustix::io::Errno::ROFS));
        let failing = Command::new("mkfifo").arg(&other).stderr(Stdio::null()).status().unwrap();
        assert!(!failing.success());
        let truncate = Command::new("truncate").args(["-s0"]).arg(&file).stderr(Stdio::null()).status();
        assert!(!truncate.unwrap().success());
        assert_eq!(fs::read(&file).unwrap(), b"content");
    }
}

#[test]
fn totals_and_extended_attributes_and_locks() {
    if !inside("totals_and_extended_attributes_and_locks") {
        return;
    }
    let mounted = Mounted::new("");
    mounted.volume.file("/f", "content");
    mounted.volume.set_xattr("/f", "user.a", b"value");
    mounted.volume.set_xattr("/f", "user.b", b"");
    let file = mounted.at("f");
    let get = |name: &str, room: usize| {
        let mut value = vec![0; room];
        rustix::fs::getxattr(&file, name, &mut value[..]).map(|n| {
            value.truncate(n);
            value
        })
    };
    assert_eq!(get("user.a", 100).unwrap(), b"value");
    assert_eq!(get("user.a", 4), Err(rustix::io::Errno::RANGE));
    assert_eq!(get("user.none", 100), Err(rustix::io::Errno::NODATA));
    let mut names = [0; 100];
    let length = rustix::fs::listxattr(&file, &mut names[..]).unwrap();
    assert_eq!(&names[..length], b"user.a\0user.b\0");
    let totals = rustix::fs::statvfs(&file).unwrap();
    assert_eq!((totals.f_blocks, totals.f_bfree, totals.f_bavail), (1000, 600, 500));
    assert_eq!((totals.f_bsize, totals.f_files, totals.f_namemax), (4096, 77, 255));
    let opened = File::open(&file).unwrap();
    opened.try_lock_shared().unwrap();
    opened.sync_all().unwrap();
    let exclusive = File::open(&file).unwrap();
    assert!(exclusive.try_lock().is_err(), "locks work within a node");
}

#[test]
fn errors_end_and_the_mount_carries_on() {
    if !inside("errors_end_and_the_mount_carries_on") {
        return;
    }
    let mounted = Mounted::new("attr_timeout=0,entry_timeout=0");
    mounted.volume.file("/f", "content");
    let check = |error: FsError, want| {
        mounted.volume.fail(Some(error));
        assert_eq!(errno(fs::read(mounted.at("f"))), want);
        assert_eq!(
            errno(fs::read_dir(mounted.session.mountpoint()).and_then(|mut d| d.next().unwrap())),
            want
        );
        mounted.volume.fail(None);
        assert_eq!(fs::read(mounted.at("f")).unwrap(), b"content");
    };
    check(FsError::Unreachable("no site daemon".into()), 113);
    check(FsError::Deadline, 110);
    check(FsError::Os(38), 95);
    check(FsError::Os(4000), 5);
}

#[test]
fn a_bug_costs_one_request() {
    if !inside("a_bug_costs_one_request") {
        return;
    }
    let mounted = Mounted::new("attr_timeout=0,entry_timeout=0");
    mounted.volume.file("/f", "content");
    mounted.volume.file("/large", noise(1_000_000));
    let (open, large) = (File::open(mounted.at("f")).unwrap(), File::open(mounted.at("large")).unwrap());
    mounted.volume.break_down(true);
    assert_eq!(errno(fs::read(mounted.at("f"))), 5);
    let mut buffer = [0; 10];
    // Where requests are taken, and in a task of its own.
    assert_eq!(errno(open.read_at(&mut buffer, 0)), 5);
    assert_eq!(errno(large.read_at(&mut buffer, 500_000)), 5);
    mounted.volume.break_down(false);
    assert_eq!(fs::read(mounted.at("f")).unwrap(), b"content");
    assert_eq!(large.read_at(&mut buffer, 500_000).unwrap(), 10);
}

#[test]
fn the_kernel_believes_what_it_is_told() {
    if !inside("the_kernel_believes_what_it_is_told") {
        return;
    }
    let mounted = Mounted::new(LONG);
    mounted.volume.file("/f", "content");
    let stats = || mounted.volume.stats.load(Ordering::Relaxed);
    let asked = |look: &dyn Fn()| {
        let before = stats();
        look();
        stats() - before
    };
    let look = || assert!(fs::metadata(mounted.at("f")).unwrap().is_file());
    look();
    assert_eq!(asked(&look), 0, "remembered for an hour");
    let notifier = mounted.session.notifier();
    notifier.inval_entry(NodeId::ROOT, b"f").unwrap();
    assert!(asked(&look) > 0, "this name is looked up again");
    assert_eq!(asked(&look), 0);
    let node = NodeId(fs::metadata(mounted.at("f")).unwrap().ino());
    notifier.inval_inode(node, -1, 0).unwrap();
    assert!(asked(&look) > 0, "its attributes are asked for again");
    let file = File::open(mounted.at("f")).unwrap();
    notifier.store(node, 0, b"another").unwrap();
    let reads = mounted.volume.reads.load(Ordering::Relaxed);
    let mut content = String::new();
    (&file).read_to_string(&mut content).unwrap();
    assert_eq!((content.as_str(), mounted.volume.reads.load(Ordering::Relaxed)), ("another", reads));
    notifier.inval_inode(node, 0, 0).unwrap();
    assert_eq!(fs::read(mounted.at("f")).unwrap(), b"content", "its content is read again");
    assert_eq!(notifier.inval_entry(NodeId(99), b"f").unwrap_err().raw_os_error(), Some(2));
}
