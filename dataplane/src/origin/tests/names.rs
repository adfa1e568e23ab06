//! Names, attributes, listings, extended attributes.

use super::*;
use globalfs_proto::limits::{MAX_LISTED_TARGET, MAX_PATH};
use globalfs_proto::{Attr, FileKind};
use rustix::fs::{Mode, OFlags, XattrFlags};
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::Instant;

#[tokio::test]
async fn odd_names_are_names() {
    let fixture = Fixture::new();
    let long = vec![b'x'; 255];
    let names: [&[u8]; 6] = [b"new\nline", b"\xff\xfe", b" ", b"...", b"-rf", &long];
    for name in names {
        fs::write(fixture.at("").join(OsStr::from_bytes(name)), name).unwrap();
        let path = GlobalPath::root().join(name).unwrap();
        let attr = fixture.origin.stat(&path, soon()).await.unwrap();
        assert_eq!(attr.size, name.len() as u64, "{path}");
    }
    let listing = fixture.origin.list(&GlobalPath::root(), soon()).await.unwrap();
    let listed: HashSet<&[u8]> = listing.iter().map(|entry| &entry.name[..]).collect();
    assert_eq!(listed, HashSet::from(names));
}

#[tokio::test]
async fn the_longest_path_works() {
    let fixture = Fixture::new();
    let directory_flags = OFlags::DIRECTORY | OFlags::RDONLY;
    let mut directory = rustix::fs::open(fixture.at(""), directory_flags, Mode::empty()).unwrap();
    let mut path = GlobalPath::root();
    while path.as_bytes().len() < MAX_PATH {
        let room = MAX_PATH - path.as_bytes().len() - 1;
        let name = vec![b'd'; if room > 255 { 250 } else { room }];
        rustix::fs::mkdirat(&directory, &name[..], Mode::RWXU).unwrap();
        directory = rustix::fs::openat(&directory, &name[..], directory_flags, Mode::empty()).unwrap();
        path = path.join(&name).unwrap();
    }
    assert_eq!(fixture.origin.stat(&path, soon()).await.unwrap().kind, FileKind::Directory);
    assert_eq!(fixture.origin.list(&path, soon()).await.unwrap().len(), 0);
}

#[tokio::test]
async fn attributes_are_those_of_stat() {
    let fixture = Fixture::new();
    fs::write(fixture.at("file"), vec![1; 5000]).unwrap();
    fs::set_permissions(fixture.at("file"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::hard_link(fixture.at("file"), fixture.at("twin")).unwrap();
    let attr = fixture.origin.stat(&global("/file"), soon()).await.unwrap();
    let want = fs::metadata(fixture.at("file")).unwrap();
    assert_eq!((attr.kind, attr.mode, attr.nlink), (FileKind::Regular, 0o4751, 2));
    assert_eq!((attr.size, attr.blocks, attr.file.inode), (5000, want.blocks(), want.ino()));
    assert_eq!((attr.uid, attr.gid), (want.uid(), want.gid()));
    assert_eq!(attr.mtime_ns, want.mtime() * 1_000_000_000 + want.mtime_nsec());
    assert_eq!(attr.ctime_ns, want.ctime() * 1_000_000_000 + want.ctime_nsec());
    let twin = fixture.origin.stat(&global("/twin"), soon()).await.unwrap();
    assert_eq!(twin, attr, "hard links are one file");
}

#[tokio::test]
async fn a_files_identity_names_the_site_and_not_the_device() {
    let fixture = Fixture::new();
    let of = async |name| {
        let disk = Arc::new(PosixDisk::default());
        let origin = Origin::open(&fixture.at(""), &site(name), disk, Options::default()).unwrap();
        origin.stat(&GlobalPath::root(), soon()).await.unwrap().file
    };
    let want = blake3::hash(b"onprem");
    assert_eq!(of("onprem").await.origin.to_le_bytes(), want.as_bytes()[..8]);
    assert_ne!(of("onprem").await.origin, of("cloud").await.origin);
    assert_eq!(of("onprem").await.inode, of("cloud").await.inode);
}

#[tokio::test]
async fn a_mount_point_is_crossed_and_has_an_identity_of_its_own() {
    let origin = open(Path::new("/")).unwrap();
    let (root, proc) =
        (origin.stat(&GlobalPath::root(), soon()).await, origin.stat(&global("/proc"), soon()).await);
    assert_ne!(root.unwrap().file.origin, proc.unwrap().file.origin);
    assert!(origin.list(&global("/proc/self"), soon()).await.is_err(), "that is a link");
    assert!(origin.list(&global("/proc/sys"), soon()).await.unwrap().len() > 1);
}

#[tokio::test]
async fn missing_names_have_their_errors() {
    let fixture = Fixture::new();
    fs::write(fixture.at("file"), b"").unwrap();
    let stat = async |path| fixture.origin.stat(&global(path), soon()).await;
    assert_eq!(stat("/missing").await, Err(ENOENT));
    assert_eq!(stat("/missing/below").await, Err(ENOENT));
    assert_eq!(stat("/file/below").await, Err(ENOTDIR));
    assert_eq!(fixture.origin.list(&global("/file"), soon()).await, Err(ENOTDIR));
    assert_eq!(fixture.origin.list(&global("/missing"), soon()).await, Err(ENOENT));
}

#[tokio::test]
async fn special_files_are_shown_and_never_opened() {
    let fixture = Fixture::new();
    rustix::fs::mkfifoat(rustix::fs::CWD, fixture.at("fifo"), Mode::RWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(fixture.at("socket")).unwrap();
    fs::create_dir(fixture.at("directory")).unwrap();
    for (path, kind, why) in [
        ("/fifo", FileKind::Fifo, EINVAL),
        ("/socket", FileKind::Socket, EINVAL),
        ("/directory", FileKind::Directory, EISDIR),
    ] {
        let attr = fixture.origin.stat(&global(path), soon()).await.unwrap();
        assert_eq!(attr.kind, kind);
        assert_eq!(fixture.read(path, attr.version(), 0, 1).await, Err(why));
    }
    let devices = open(Path::new("/dev")).unwrap();
    let null = devices.stat(&global("/null"), soon()).await.unwrap();
    assert_eq!((null.kind, null.rdev), (FileKind::CharDevice, rustix::fs::makedev(1, 3)));
    let span = ChunkSpan { first: ChunkIndex(0), count: 1 };
    assert_eq!(devices.read(&global("/null"), null.version(), span, soon()).await.err(), Some(EINVAL));
}

#[tokio::test]
async fn a_listing_has_the_attributes_of_stat() {
    let fixture = Fixture::new();
    fs::write(fixture.at("file"), b"content").unwrap();
    fs::create_dir(fixture.at("directory")).unwrap();
    symlink("nowhere", fixture.at("link")).unwrap();
    let listing = fixture.origin.list(&GlobalPath::root(), soon()).await.unwrap();
    assert_eq!(listing.len(), 3);
    for entry in listing.iter() {
        let path = GlobalPath::root().join(&entry.name).unwrap();
        let alone = fixture.origin.stat(&path, soon()).await.unwrap();
        // That of a link moves when the listing looks where it points.
        let atime_ns = if alone.kind == FileKind::Symlink { entry.attr.atime_ns } else { alone.atime_ns };
        assert_eq!(Attr { atime_ns, ..alone }, entry.attr, "{path}");
    }
}

#[tokio::test]
async fn a_hundred_thousand_entries_are_listed_quickly() {
    const ENTRIES: usize = 100_000;
    let fixture = Fixture::new();
    for i in 0..ENTRIES {
        fs::File::create(fixture.at(&format!("f{i}"))).unwrap();
    }
    let start = Instant::now();
    let listing = fixture.origin.list(&GlobalPath::root(), soon()).await.unwrap();
    let names: HashMap<_, _> = listing.iter().map(|entry| (&entry.name, entry.attr.file.inode)).collect();
    assert_eq!(names.len(), ENTRIES);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    let passed = Deadline::after(Duration::ZERO);
    assert_eq!(fixture.origin.list(&GlobalPath::root(), passed).await, Err(FsError::Deadline));
}

#[tokio::test]
async fn extended_attributes_are_passed_on() {
    const ENODATA: FsError = FsError::Os(61);
    let fixture = Fixture::new();
    fs::write(fixture.at("file"), b"").unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, fixture.at("fifo"), Mode::RWXU).unwrap();
    symlink("file", fixture.at("link")).unwrap();
    let set = rustix::fs::setxattr(fixture.at("file"), "user.key", b"a\0value", XattrFlags::empty());
    if set == Err(rustix::io::Errno::OPNOTSUPP) {
        return skip("the file system has no extended attributes");
    }
    set.unwrap();
    let (file, origin) = (global("/file"), &fixture.origin);
    assert_eq!(origin.get_xattr(&file, b"user.key", soon()).await.unwrap(), b"a\0value"[..]);
    let names = origin.list_xattr(&file, soon()).await.unwrap();
    assert!(names.split(|&b| b == 0).any(|name| name == b"user.key") && names.ends_with(b"\0"));
    assert_eq!(origin.get_xattr(&file, b"user.none", soon()).await, Err(ENODATA));
    assert_eq!(origin.get_xattr(&file, b"user.a\0b", soon()).await, Err(EINVAL));
    for special in ["/fifo", "/link"] {
        let names = origin.list_xattr(&global(special), soon()).await.unwrap();
        assert!(!names.split(|&b| b == 0).any(|name| name == b"user.key"), "{special} has none of its own");
        origin.get_xattr(&global(special), b"user.key", soon()).await.unwrap_err();
    }
}

/// An access control list of three entries in the kernel's form: owner rw-, one user r--, and so on.
fn access_list() -> Vec<u8> {
    let entries =
        [(0x01, 6, u32::MAX), (0x02, 4, 1), (0x04, 4, u32::MAX), (0x10, 4, u32::MAX), (0x20, 4, u32::MAX)];
    let bytes = entries.iter().flat_map(|&(tag, may, id): &(u16, u16, u32)| {
        [&tag.to_le_bytes()[..], &may.to_le_bytes(), &id.to_le_bytes()].concat()
    });
    2_u32.to_le_bytes().into_iter().chain(bytes).collect()
}

#[tokio::test]
async fn that_there_are_no_extended_attributes_is_told_of_what_has_none() {
    let fixture = Fixture::new();
    for name in ["plain", "user", "list", "once"] {
        fs::write(fixture.at(name), b"").unwrap();
    }
    fs::create_dir(fixture.at("directory")).unwrap();
    fs::create_dir(fixture.at("inheriting")).unwrap();
    symlink("user", fixture.at("link")).unwrap();
    let set = |name: &str, key: &str, value: &[u8]| {
        rustix::fs::setxattr(fixture.at(name), key, value, XattrFlags::empty())
    };
    let list = access_list();
    let attributes = [
        ("user", "user.key", &b"value"[..]),
        ("list", "system.posix_acl_access", &list),
        ("inheriting", "system.posix_acl_default", &list),
        ("once", "user.key", b""),
    ];
    for (name, key, value) in attributes {
        match set(name, key, value) {
            Err(rustix::io::Errno::OPNOTSUPP) => return skip("the file system has no extended attributes"),
            done => done.unwrap(),
        }
    }
    rustix::fs::removexattr(fixture.at("once"), "user.key").unwrap();
    fs::write(fixture.at("inheriting/inside"), b"").unwrap();
    let expected = HashMap::from([
        ("plain", true),
        ("user", false),
        ("list", false),
        ("once", true),
        ("directory", true),
        ("inheriting", false),
        ("link", true),
        ("inside", false),
    ]);
    let mut seen = 0;
    for directory in ["/", "/inheriting"] {
        for entry in fixture.origin.list(&global(directory), soon()).await.unwrap().iter() {
            let path = global(directory).join(&entry.name).unwrap();
            let names = fixture.origin.list_xattr(&path, soon()).await.unwrap();
            let alone = fixture.origin.stat(&path, soon()).await.unwrap();
            let name = std::str::from_utf8(&entry.name).unwrap();
            assert_eq!(entry.attr.no_xattrs, expected[name], "{path}");
            assert_eq!((alone.no_xattrs, names.is_empty()), (expected[name], expected[name]), "{path}");
            seen += 1;
        }
    }
    assert_eq!(seen, expected.len());
}

#[tokio::test]
async fn where_files_of_others_are_shown_nothing_is_said_of_extended_attributes() {
    let origin = open(Path::new("/")).unwrap();
    let inside = origin.list(&global("/proc/sys"), soon()).await.unwrap();
    assert!(inside.iter().all(|entry| !entry.attr.no_xattrs), "no file system of ours");
    assert!(!origin.stat(&global("/proc/sys"), soon()).await.unwrap().no_xattrs);
    let root = origin.list(&global("/"), soon()).await.unwrap();
    let proc = root.iter().find(|entry| entry.name == "proc").unwrap();
    assert!(!proc.attr.no_xattrs, "it is another file system's root");
}

#[tokio::test]
async fn a_listing_tells_where_links_point_unless_that_is_long() {
    let fixture = Fixture::new();
    fs::write(fixture.at("file"), b"").unwrap();
    let (short, long) = ("s".repeat(MAX_LISTED_TARGET), "l".repeat(MAX_LISTED_TARGET + 1));
    for (name, target) in [("dangling", "../no where\n"), ("short", &short), ("long", &long)] {
        symlink(target, fixture.at(name)).unwrap();
    }
    let listing = fixture.origin.list(&GlobalPath::root(), soon()).await.unwrap();
    assert_eq!(listing.len(), 4);
    for entry in listing.iter() {
        let path = GlobalPath::root().join(&entry.name).unwrap();
        let told = entry.target.as_deref();
        match &entry.name[..] {
            b"file" | b"long" => assert_eq!(told, None, "{path}"),
            _ => assert_eq!(told, Some(&fixture.origin.read_link(&path, soon()).await.unwrap()[..])),
        }
    }
}

#[tokio::test]
async fn totals_are_those_of_the_file_system() {
    let fixture = Fixture::new();
    let totals = fixture.origin.fs_stat(&GlobalPath::root(), soon()).await.unwrap();
    let want = rustix::fs::statvfs(fixture.at("")).unwrap();
    assert_eq!(
        (totals.block_size, totals.blocks, totals.files),
        (want.f_frsize, want.f_blocks, want.f_files)
    );
    assert!(totals.blocks_available <= totals.blocks_free && totals.blocks_free <= totals.blocks);
}
