//! What applications write through a mount. Needs root and `/dev/fuse`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::mounted::{LONG, Mounted, errno, inside};
use globalfs_proto::FsError;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::Ordering;

const EEXIST: i32 = 17;
const EROFS: i32 = 30;
const ENOSPC: i32 = 28;

/// A mount that can be written to, of which the kernel keeps attributes for an hour: what it shows is right at once, not
/// after a while.
fn writable() -> Mounted {
    let mounted = Mounted::new(&format!("rw,{LONG}"));
    mounted.volume.make_writable();
    mounted
}

/// Whether the volume, the mount and the attributes agree on the content of `name`.
fn assert_content(mounted: &Mounted, name: &str, want: &[u8]) {
    assert!(fs::read(mounted.at(name)).unwrap() == want, "the mount's {name}");
    assert!(mounted.volume.content(&format!("/{name}")) == want, "the volume's {name}");
    assert_eq!(fs::metadata(mounted.at(name)).unwrap().len(), want.len() as u64, "{name}");
}

#[test]
fn what_is_written_is_there_at_once() {
    if !inside("what_is_written_is_there_at_once") {
        return;
    }
    let mounted = writable();
    fs::write(mounted.at("f"), "hello").unwrap();
    assert_content(&mounted, "f", b"hello");
    let mut file = File::options().append(true).open(mounted.at("f")).unwrap();
    file.write_all(b" world").unwrap();
    assert_eq!(file.metadata().unwrap().len(), 11);
    assert_content(&mounted, "f", b"hello world");
    drop(file);
    let file = File::options().read(true).write(true).open(mounted.at("f")).unwrap();
    let before = file.metadata().unwrap();
    file.write_all_at(b"WOR", 6).unwrap();
    let after = file.metadata().unwrap();
    assert_eq!(before.ino(), after.ino());
    assert!(after.mtime() > before.mtime() && after.ctime() > before.ctime());
    assert_content(&mounted, "f", b"hello WORld");
    file.set_len(5).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 5);
    file.set_len(8).unwrap();
    assert_content(&mounted, "f", b"hello\0\0\0");
    file.write_all_at(b"end", 10).unwrap();
    assert_content(&mounted, "f", b"hello\0\0\0\0\0end");
    file.sync_all().unwrap();
    file.sync_data().unwrap();
    File::open(mounted.at("")).unwrap().sync_all().unwrap();
    drop(file);
    File::options().write(true).truncate(true).open(mounted.at("f")).unwrap();
    assert_content(&mounted, "f", b"");
    let large: Vec<u8> = (0..5_000_001u32).map(|n| ((u64::from(n) * u64::from(n)) >> 7) as u8).collect();
    fs::write(mounted.at("large"), &large).unwrap();
    assert_content(&mounted, "large", &large);
    mounted.shell("truncate -s 3000000 large");
    assert_content(&mounted, "large", &large[..3_000_000]);
    mounted.eventually("all is closed", |mounted| mounted.session.counts().1 == 0);
}

#[test]
fn a_mapped_file_is_written() {
    if !inside("a_mapped_file_is_written") {
        return;
    }
    let mounted = writable();
    fs::write(mounted.at("f"), vec![b'.'; 3_000_000]).unwrap();
    let program = "import mmap; f = open('f', 'r+b'); m = mmap.mmap(f.fileno(), 0); \
        m[0:5] = b'first'; m[2000000:2000006] = b'middle'; m.flush(); \
        print(open('f', 'rb').read(5).decode()); m[2999997:] = b'end'; m.close(); f.close()";
    assert_eq!(mounted.shell(&format!("python3 -c \"{program}\"")), "first\n");
    let mut want = vec![b'.'; 3_000_000];
    want[..5].copy_from_slice(b"first");
    want[2_000_000..2_000_006].copy_from_slice(b"middle");
    want[2_999_997..].copy_from_slice(b"end");
    assert_content(&mounted, "f", &want);
}

#[test]
fn one_of_many_makes_a_file() {
    if !inside("one_of_many_makes_a_file") {
        return;
    }
    let mounted = writable();
    for round in 0..20 {
        let path = mounted.at(format!("f{round}"));
        let makers: Vec<_> = (0..8)
            .map(|_| {
                let path = path.clone();
                std::thread::spawn(move || {
                    errno(File::options().write(true).create_new(true).open(path).map(drop))
                })
            })
            .collect();
        let mut outcomes: Vec<_> = makers.into_iter().map(|maker| maker.join().unwrap()).collect();
        outcomes.sort_unstable();
        assert_eq!(outcomes, [0, EEXIST, EEXIST, EEXIST, EEXIST, EEXIST, EEXIST, EEXIST]);
    }
    // Made elsewhere after the kernel was told that there is none.
    assert_eq!(errno(fs::metadata(mounted.at("other"))), 2);
    mounted.volume.file("/other", "content");
    let opened = File::options().append(true).create(true).open(mounted.at("other")).unwrap();
    assert_eq!(opened.metadata().unwrap().len(), 7);
}

#[test]
fn names_are_changed() {
    if !inside("names_are_changed") {
        return;
    }
    let mounted = writable();
    let (a, b, d) = (mounted.at("a"), mounted.at("b"), mounted.at("d"));
    fs::write(&a, "of a").unwrap();
    fs::write(&b, "of b").unwrap();
    let ino = fs::metadata(&a).unwrap().ino();
    fs::rename(&a, &b).unwrap();
    assert_eq!((errno(fs::metadata(&a)), fs::read(&b).unwrap()), (2, b"of a".to_vec()));
    assert_eq!(fs::metadata(&b).unwrap().ino(), ino, "it is the same file");
    fs::create_dir(&d).unwrap();
    let links = fs::metadata(mounted.at("")).unwrap().nlink();
    fs::create_dir_all(d.join("e/f")).unwrap();
    let mut open = File::options().read(true).append(true).create(true).open(d.join("e/f/file")).unwrap();
    open.write_all(b"before").unwrap();
    fs::rename(&d, mounted.at("moved")).unwrap();
    open.write_all(b" and after").unwrap();
    assert_content(&mounted, "moved/e/f/file", b"before and after");
    let mut text = String::new();
    (&open).seek(SeekFrom::Start(0)).unwrap();
    (&open).read_to_string(&mut text).unwrap();
    assert_eq!(text, "before and after");
    assert_eq!(open.metadata().unwrap().ino(), fs::metadata(mounted.at("moved/e/f/file")).unwrap().ino());
    assert_eq!(errno(fs::remove_dir(mounted.at("moved/e"))), 39);
    fs::rename(mounted.at("moved/e"), mounted.at("e")).unwrap();
    assert_eq!(fs::metadata(mounted.at("")).unwrap().nlink(), links + 1);
    fs::remove_dir(mounted.at("moved")).unwrap();
    assert_eq!(fs::metadata(mounted.at("")).unwrap().nlink(), links);
    let rename = |flags, from: &str, to: &str| {
        let outcome = rustix::fs::renameat_with(
            rustix::fs::CWD,
            mounted.at(from),
            rustix::fs::CWD,
            mounted.at(to),
            flags,
        );
        outcome.err().map_or(0, rustix::io::Errno::raw_os_error)
    };
    use rustix::fs::RenameFlags;
    fs::write(mounted.at("c"), "of c").unwrap();
    assert_eq!(rename(RenameFlags::NOREPLACE, "b", "c"), EEXIST);
    assert_eq!(rename(RenameFlags::WHITEOUT, "b", "c"), 22);
    assert_eq!(rename(RenameFlags::EXCHANGE, "b", "none"), 2);
    assert_eq!(rename(RenameFlags::EXCHANGE, "b", "e"), 0);
    assert_content(&mounted, "e", b"of a");
    assert_content(&mounted, "b/f/file", b"before and after");
    assert_eq!(rename(RenameFlags::NOREPLACE, "c", "g"), 0);
    assert_content(&mounted, "g", b"of c");
    let names = mounted.shell("find . | LC_ALL=C sort | tr '\\n' ' '");
    assert_eq!(names, ". ./b ./b/f ./b/f/file ./e ./g ");
}

#[test]
fn files_of_every_kind_are_made() {
    if !inside("files_of_every_kind_are_made") {
        return;
    }
    let mounted = writable();
    let meta = |name: &str| fs::symlink_metadata(mounted.at(name)).unwrap();
    mounted.shell("umask 027; mkfifo fifo; mkdir dir; echo x > file; mknod null c 1 3; ln -s to/it link");
    assert!(meta("fifo").file_type().is_fifo());
    assert_eq!((meta("fifo").mode() & 0o7777, meta("dir").mode() & 0o7777), (0o640, 0o750));
    assert_eq!((meta("file").mode() & 0o7777, meta("null").rdev()), (0o640, rustix::fs::makedev(1, 3)));
    assert_eq!(fs::read_link(mounted.at("link")).unwrap(), Path::new("to/it"));
    symlink("dir", mounted.at("other")).unwrap();
    assert!(fs::metadata(mounted.at("other")).unwrap().is_dir());
    fs::hard_link(mounted.at("file"), mounted.at("dir/second")).unwrap();
    assert_eq!((meta("file").nlink(), meta("dir/second").nlink()), (2, 2));
    assert_eq!(meta("file").ino(), meta("dir/second").ino());
    let mut file = File::options().append(true).open(mounted.at("file")).unwrap();
    file.write_all(b"y\n").unwrap();
    assert_content(&mounted, "dir/second", b"x\ny\n");
    fs::remove_file(mounted.at("file")).unwrap();
    assert_eq!(meta("dir/second").nlink(), 1);
    file.write_all(b"z\n").unwrap();
    assert_content(&mounted, "dir/second", b"x\ny\nz\n");
    assert_eq!(errno(fs::remove_file(mounted.at("dir"))), 21);
    assert_eq!(errno(fs::remove_dir(mounted.at("link"))), 20);
    mounted.shell("rm link other fifo null");
    assert_eq!(mounted.shell("ls"), "dir\n");
}

#[test]
fn attributes_are_set_and_seen_at_once() {
    if !inside("attributes_are_set_and_seen_at_once") {
        return;
    }
    let mounted = writable();
    let at = mounted.at("f");
    fs::write(&at, "content").unwrap();
    let meta = || fs::metadata(&at).unwrap();
    let (first, reader) = (meta(), File::open(&at).unwrap());
    fs::set_permissions(&at, fs::Permissions::from_mode(0o6751)).unwrap();
    assert_eq!(meta().mode() & 0o7777, 0o6751);
    std::os::unix::fs::chown(&at, Some(7), Some(8)).unwrap();
    assert_eq!((meta().uid(), meta().gid()), (7, 8));
    assert!(meta().ctime() > first.ctime());
    mounted.shell("touch -d '2001-02-03 04:05:06.789 UTC' f");
    assert_eq!(
        (meta().mtime(), meta().mtime_nsec(), meta().atime()),
        (981_173_106, 789_000_000, 981_173_106)
    );
    mounted.shell("touch -a f");
    assert_eq!(meta().mtime(), 981_173_106);
    assert_ne!(meta().atime(), 981_173_106);
    assert_eq!((meta().ino(), meta().len()), (first.ino(), 7));
    let mut content = String::new();
    (&reader).read_to_string(&mut content).unwrap();
    assert_eq!(content, "content", "who has it open reads on");
    mounted.shell("setfattr -n user.a -v one f; setfattr -n user.b -v two f; setfattr -x user.a f");
    assert_eq!(mounted.shell("getfattr --only-values -d f"), "two");
    let flags = rustix::fs::XattrFlags::CREATE;
    assert_eq!(rustix::fs::setxattr(&at, "user.b", b"", flags), Err(rustix::io::Errno::EXIST));
    assert_eq!(rustix::fs::removexattr(&at, "user.c"), Err(rustix::io::Errno::NODATA));
    fs::create_dir(mounted.at("d")).unwrap();
    mounted.shell("chmod 1777 d; chown 5:6 d; touch d/f; test $(stat -c %a:%u:%g d) = 1777:5:6");
    mounted
        .shell("chown -h 9 d; ln -s x l; chown -h 9:9 l; test $(stat -c %u l) = 9; test $(readlink l) = x");
}

#[test]
fn set_id_bits_go_when_others_write() {
    if !inside("set_id_bits_go_when_others_write") {
        return;
    }
    let mounted = Mounted::new(&format!("rw,allow_other,{LONG}"));
    mounted.volume.make_writable();
    let mode = || fs::metadata(mounted.at("f")).unwrap().mode() & 0o7777;
    let check = |script: &str, want: u32| {
        fs::write(mounted.at("f"), "content").unwrap();
        fs::set_permissions(mounted.at("f"), fs::Permissions::from_mode(0o6777)).unwrap();
        mounted.shell(script);
        assert_eq!(mode(), want, "{script}");
    };
    check("echo x >> f", 0o6777);
    check("setpriv --reuid 5 --regid 5 --clear-groups sh -c 'echo x >> f'", 0o777);
    check("setpriv --reuid 5 --regid 5 --clear-groups truncate -s 3 f", 0o777);
}

/// Holds promise 3, promise 9 of docs/semantics.md.
#[test]
fn processes_of_a_node_see_what_others_write() {
    if !inside("processes_of_a_node_see_what_others_write") {
        return;
    }
    let mounted = writable();
    fs::write(mounted.at("f"), vec![b'a'; 10_000]).unwrap();
    let early = File::open(mounted.at("f")).unwrap();
    let mut part = [0; 10];
    early.read_exact_at(&mut part, 5000).unwrap();
    mounted.shell("printf b | dd of=f bs=1 seek=5004 conv=notrunc status=none; printf more >> f");
    early.read_exact_at(&mut part, 5000).unwrap();
    assert_eq!(&part, b"aaaabaaaaa");
    early.read_exact_at(&mut part[..4], 10_000).unwrap();
    assert_eq!(&part[..4], b"more");
    assert_eq!(early.metadata().unwrap().len(), 10_004);
    let writer = File::options().write(true).open(mounted.at("f")).unwrap();
    let late = File::open(mounted.at("f")).unwrap();
    let mut log = String::new();
    for n in 0..50 {
        let line = format!("line {n}\n");
        writer.write_all_at(line.as_bytes(), log.len() as u64).unwrap();
        log += &line;
        let mut seen = vec![0; log.len()];
        late.read_exact_at(&mut seen, 0).unwrap();
        assert_eq!(String::from_utf8(seen).unwrap(), log);
    }
}

/// Holds promise 3, promise 11 of docs/semantics.md.
#[test]
fn who_reads_goes_on_when_a_file_is_replaced_or_removed() {
    if !inside("who_reads_goes_on_when_a_file_is_replaced_or_removed") {
        return;
    }
    let mounted = writable();
    let read = |file: &File| {
        let mut content = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut content, 0).unwrap();
        String::from_utf8(content).unwrap()
    };
    fs::write(mounted.at("f"), "old").unwrap();
    fs::write(mounted.at("new"), "newer").unwrap();
    let old = File::options().read(true).write(true).open(mounted.at("f")).unwrap();
    fs::rename(mounted.at("new"), mounted.at("f")).unwrap();
    assert_eq!((read(&old), fs::read(mounted.at("f")).unwrap()), ("old".to_owned(), b"newer".to_vec()));
    old.write_all_at(b"older", 0).unwrap();
    assert_eq!((read(&old), old.metadata().unwrap().nlink()), ("older".to_owned(), 0));
    let gone = File::options().read(true).write(true).open(mounted.at("f")).unwrap();
    fs::remove_file(mounted.at("f")).unwrap();
    gone.write_all_at(b"last", 0).unwrap();
    assert_eq!((read(&gone), gone.metadata().unwrap().nlink()), ("lastr".to_owned(), 0));
    assert_eq!(mounted.shell("ls -a | LC_ALL=C sort | tr '\\n' ' '"), ". .. ");
    assert_eq!(mounted.volume.names().len(), 3, "both are hidden");
    let hidden = mounted.volume.names().pop().unwrap();
    assert_eq!(errno(fs::metadata(mounted.at(&hidden[1..]))), 2);
    drop((old, gone));
    mounted.eventually("they go with the last close", |mounted| mounted.volume.names() == ["/"]);
}

#[test]
fn what_others_write_is_seen_by_who_writes() {
    if !inside("what_others_write_is_seen_by_who_writes") {
        return;
    }
    let mounted = writable();
    fs::write(mounted.at("f"), vec![b'a'; 20_000]).unwrap();
    let file = File::options().read(true).append(true).open(mounted.at("f")).unwrap();
    let mut all = vec![0; 20_000];
    file.read_exact_at(&mut all, 0).unwrap();
    mounted.volume.change("/f", vec![b'b'; 20_005], false);
    (&file).write_all(b"own").unwrap();
    let mut want = vec![b'b'; 20_005];
    want.extend_from_slice(b"own");
    assert!(mounted.volume.content("/f") == want, "the end is where it is for all");
    mounted.eventually("the pages are read anew", |_| {
        let mut now = vec![0; 20_008];
        file.metadata().unwrap().len() == 20_008 && file.read_exact_at(&mut now, 0).is_ok() && now == want
    });
    mounted.volume.change("/f", vec![b'c'; 30_000], false);
    let other = fs::read(mounted.at("f")).unwrap();
    assert!(other == vec![b'c'; 30_000], "an open finds out");
}

#[test]
fn a_file_that_the_kernel_reads_by_itself_is_written() {
    if !inside("a_file_that_the_kernel_reads_by_itself_is_written") {
        return;
    }
    let mounted = writable();
    mounted.volume.file("/f", vec![b'a'; 200_000]);
    mounted.volume.make_local();
    let reader = File::open(mounted.at("f")).unwrap();
    let mut part = [0; 4];
    reader.read_exact_at(&mut part, 100_000).unwrap();
    assert_eq!(&part, b"aaaa");
    let writer = File::options().read(true).write(true).open(mounted.at("f")).unwrap();
    writer.write_all_at(b"bbbb", 100_000).unwrap();
    writer.read_exact_at(&mut part, 100_000).unwrap();
    assert_eq!(&part, b"bbbb");
    let mut want = vec![b'a'; 200_000];
    want[100_000..100_004].copy_from_slice(b"bbbb");
    assert_content(&mounted, "f", &want);
    reader.read_exact_at(&mut part, 100_000).unwrap();
    assert_eq!(&part, b"aaaa", "one version for as long as it is open");
    drop((reader, writer));
    mounted.eventually("all is closed", |mounted| mounted.session.counts().1 == 0);
    let reads = || mounted.volume.reads.load(Ordering::Relaxed);
    let before = reads();
    assert_content(&mounted, "f", &want);
    assert_eq!(reads(), before, "it is local again");
    let reader = File::open(mounted.at("f")).unwrap();
    mounted.shell("truncate -s 5 f");
    assert_content(&mounted, "f", b"aaaaa");
    assert_eq!(reader.metadata().unwrap().len(), 200_000);
    fs::set_permissions(mounted.at("f"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_content(&mounted, "f", b"aaaaa");
}

/// Holds promise 12 of docs/semantics.md.
#[test]
fn refusals_reach_the_caller() {
    if !inside("refusals_reach_the_caller") {
        return;
    }
    let mounted = writable();
    fs::write(mounted.at("f"), "content").unwrap();
    let file = File::options().write(true).open(mounted.at("f")).unwrap();
    for number in [ENOSPC, 122, 5] {
        mounted.volume.refuse(Some(FsError::Os(number)));
        assert_eq!(errno(file.write_all_at(b"x", 0).and_then(|()| file.sync_all())), number);
        assert_eq!(errno(fs::write(mounted.at("new"), "")), number);
        assert_eq!(errno(fs::create_dir(mounted.at("d"))), number);
        assert_eq!(errno(fs::remove_file(mounted.at("f"))), number);
    }
    mounted.volume.refuse(None);
    file.write_all_at(b"C", 0).unwrap();
    assert_content(&mounted, "f", b"Content");
    let space = |mode| rustix::fs::fallocate(&file, mode, 2, 10);
    use rustix::fs::FallocateFlags;
    space(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE).unwrap();
    assert_content(&mounted, "f", b"Co\0\0\0\0\0");
    space(FallocateFlags::empty()).unwrap();
    assert_content(&mounted, "f", b"Co\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(space(FallocateFlags::COLLAPSE_RANGE), Err(rustix::io::Errno::OPNOTSUPP));
    let lock = "python3 -c \"import fcntl; f = open('f', 'r+b'); fcntl.lockf(f, fcntl.LOCK_EX); print(1)\"";
    assert_eq!(mounted.shell(lock), "1\n");
    assert_eq!(mounted.shell("cp f g; cat g | wc -c"), "12\n");
    drop(mounted);
    let mounted = Mounted::new("rw");
    mounted.volume.file("/f", "content");
    assert_eq!(errno(File::options().write(true).open(mounted.at("f"))), EROFS);
    File::open(mounted.at("f")).unwrap().sync_all().unwrap();
}

#[test]
fn what_is_given_to_the_kernel_early_is_never_older_than_what_was_written() {
    if !inside("what_is_given_to_the_kernel_early_is_never_older_than_what_was_written") {
        return;
    }
    let mounted = writable();
    mounted.volume.file("/f", vec![0; 100 * 131_072]);
    let reader = File::open(mounted.at("f")).unwrap();
    rustix::fs::fadvise(&reader, 0, None, rustix::fs::Advice::Random).unwrap();
    let mut part = [0; 100];
    for round in 0..100u8 {
        let chunk = u64::from(round) * 131_072;
        // Who comes back to a part of the file gets all of it.
        (0..2).for_each(|n| reader.read_exact_at(&mut part, chunk + n * 8192).unwrap());
        let writer = File::options().write(true).open(mounted.at("f")).unwrap();
        writer.write_all_at(&[round; 100], chunk + 50_000).unwrap();
        drop(writer);
        (0..3).for_each(|n| reader.read_exact_at(&mut part, chunk + 60_000 + n * 8192).unwrap());
        reader.read_exact_at(&mut part, chunk + 50_000).unwrap();
        assert_eq!(part, [round; 100]);
    }
}

#[test]
fn a_hidden_name_goes_although_the_volume_is_away_at_the_last_close() {
    if !inside("a_hidden_name_goes_although_the_volume_is_away_at_the_last_close") {
        return;
    }
    let mounted = writable();
    let file = File::create(mounted.at("f")).unwrap();
    fs::remove_file(mounted.at("f")).unwrap();
    mounted.volume.refuse(Some(FsError::Unreachable("it is started again".into())));
    drop(file);
    std::thread::sleep(std::time::Duration::from_millis(700));
    assert_eq!(mounted.volume.names().len(), 2, "{:?}", mounted.volume.names());
    mounted.volume.refuse(None);
    mounted.eventually("it is gone", |mounted| mounted.volume.names().len() == 1);
}
