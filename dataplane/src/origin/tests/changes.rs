//! What is made, changed and removed in an origin, and what never is.

use super::*;
use bytes::Bytes;
use globalfs_proto::{
    Allocation, Attr, Change, Changed, Existing, FileKind, NewAttr, NewFile, NewTime, Owner, Target,
};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};

const EEXIST: FsError = FsError::Os(17);
const ENOTEMPTY: FsError = FsError::Os(39);
const EBUSY: FsError = FsError::Os(16);

impl Fixture {
    async fn change(&self, change: Change) -> FsResult<Changed> {
        self.origin.change(&change, soon()).await
    }

    async fn make(&self, path: &str, new: NewFile, mode: u32) -> FsResult<Attr> {
        let owner = Owner { uid: owner().0, gid: owner().1, mode };
        Ok(self.change(Change::Make { path: global(path), new, owner }).await?.attr.unwrap())
    }

    async fn target(&self, path: &str) -> Target {
        Target { path: global(path), file: self.version(path).await.file }
    }

    async fn write(&self, path: &str, offset: Option<u64>, data: &str) -> FsResult<Changed> {
        let data = Bytes::copy_from_slice(data.as_bytes());
        self.change(Change::Write { target: self.target(path).await, offset, data }).await
    }

    async fn remove(&self, path: &str, directory: bool) -> FsResult<Changed> {
        self.change(Change::Remove { path: global(path), directory }).await
    }

    async fn rename(&self, from: &str, to: &str, existing: Existing) -> FsResult<Changed> {
        self.change(Change::Rename { from: global(from), to: global(to), existing }).await
    }

    async fn set(&self, path: &str, attr: NewAttr) -> FsResult<Changed> {
        self.change(Change::SetAttr { target: self.target(path).await, attr }).await
    }
}

/// Root may give files away; others keep theirs.
fn owner() -> (u32, u32) {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if uid == 0 { (1234, 2345) } else { (uid, gid) }
}

#[tokio::test]
async fn what_is_made_belongs_to_who_asked() {
    let fixture = Fixture::new();
    let kinds = [
        ("file", NewFile::Regular, FileKind::Regular),
        ("directory", NewFile::Directory, FileKind::Directory),
        ("link", NewFile::Symlink(Bytes::from_static(b"../outside/secret")), FileKind::Symlink),
        ("fifo", NewFile::Special(FileKind::Fifo, 0), FileKind::Fifo),
        ("socket", NewFile::Special(FileKind::Socket, 0), FileKind::Socket),
    ];
    for (name, new, kind) in kinds {
        let path = format!("/{name}");
        let attr = fixture.make(&path, new.clone(), 0o6751).await.unwrap();
        let there = fs::symlink_metadata(fixture.at(name)).unwrap();
        assert_eq!((there.uid(), there.gid()), owner(), "{name}");
        assert_eq!((attr.kind, attr.uid, attr.gid), (kind, owner().0, owner().1), "{name}");
        if kind != FileKind::Symlink {
            assert_eq!((attr.mode, there.mode() & 0o7777), (0o6751, 0o6751), "{name}");
        }
        assert_eq!(attr, fixture.origin.stat(&global(&path), soon()).await.unwrap());
        assert_eq!(fixture.make(&path, new, 0o600).await, Err(EEXIST), "{name}");
    }
    assert!(fs::symlink_metadata(fixture.at("fifo")).unwrap().file_type().is_fifo());
    assert_eq!(fs::read_link(fixture.at("link")).unwrap(), Path::new("../outside/secret"));
    let names: Vec<_> =
        fs::read_dir(fixture.at("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 5, "nothing is left aside: {names:?}");
    assert_eq!(fixture.make("/missing/file", NewFile::Regular, 0o600).await, Err(ENOENT));
    assert_eq!(fixture.make("/file/file", NewFile::Regular, 0o600).await, Err(ENOTDIR));
    let odd = NewFile::Special(FileKind::Regular, 0);
    assert_eq!(fixture.make("/odd", odd, 0o600).await, Err(EINVAL));
}

#[tokio::test]
async fn directories_hand_down_their_group() {
    let fixture = Fixture::new();
    fs::create_dir(fixture.at("d")).unwrap();
    fs::set_permissions(fixture.at("d"), fs::Permissions::from_mode(0o2775)).unwrap();
    let group = fs::metadata(fixture.at("d")).unwrap().gid();
    let file = fixture.make("/d/file", NewFile::Regular, 0o640).await.unwrap();
    assert_eq!((file.gid, file.mode), (group, 0o640));
    let below = fixture.make("/d/below", NewFile::Directory, 0o750).await.unwrap();
    assert_eq!((below.gid, below.mode), (group, 0o2750));
}

#[tokio::test]
async fn bytes_are_written_where_they_belong() {
    let fixture = Fixture::new();
    let made = fixture.make("/f", NewFile::Regular, 0o644).await.unwrap();
    let first = fixture.write("/f", Some(3), "abc").await.unwrap();
    assert_eq!(first.before, Some(made.version()));
    let second = fixture.write("/f", None, "end").await.unwrap();
    assert_eq!(second.before, first.attr.map(|attr| attr.version()));
    assert_eq!(second.attr.unwrap().size, 9);
    assert_eq!(fs::read(fixture.at("f")).unwrap(), b"\0\0\0abcend");
    let cut = fixture.set("/f", NewAttr { size: Some(4), ..NewAttr::default() }).await.unwrap();
    assert_eq!(cut.attr.unwrap().size, 4);
    assert_eq!(fs::read(fixture.at("f")).unwrap(), b"\0\0\0a");
    let allocation = Allocation { offset: 0, length: 100, mode: 0 };
    let target = fixture.target("/f").await;
    let longer = fixture.change(Change::Allocate { target: target.clone(), allocation }).await.unwrap();
    assert_eq!(longer.attr.unwrap().size, 100);
    for data_only in [false, true] {
        let sync = Change::Sync { target: target.clone(), data_only };
        assert_eq!(fixture.change(sync).await.unwrap().attr.unwrap().size, 100);
    }
    fixture.make("/d", NewFile::Directory, 0o755).await.unwrap();
    let sync = Change::Sync { target: fixture.target("/d").await, data_only: false };
    assert!(fixture.change(sync).await.is_ok());
    assert_eq!(fixture.write("/d", Some(0), "x").await, Err(EISDIR));
}

#[tokio::test]
async fn another_file_in_the_place_is_left_alone() {
    let fixture = Fixture::new();
    fixture.make("/f", NewFile::Regular, 0o644).await.unwrap();
    let target = fixture.target("/f").await;
    fs::write(fixture.at("other"), "precious").unwrap();
    fs::rename(fixture.at("other"), fixture.at("f")).unwrap();
    let now = fixture.origin.stat(&global("/f"), soon()).await.unwrap();
    let stale = Err(FsError::Stale(Some(Box::new(Attr { no_xattrs: false, ..now }))));
    let data = Bytes::from_static(b"x");
    let write = Change::Write { target: target.clone(), offset: Some(0), data };
    assert_eq!(fixture.change(write).await, stale);
    let attr = NewAttr { size: Some(0), ..NewAttr::default() };
    assert_eq!(fixture.change(Change::SetAttr { target: target.clone(), attr }).await, stale);
    assert_eq!(fixture.change(Change::Link { target, path: global("/g") }).await, stale);
    assert_eq!(fs::read(fixture.at("f")).unwrap(), b"precious");
}

#[tokio::test]
async fn what_was_given_up_is_not_done_later() {
    let fixture = Fixture::new();
    fixture.make("/f", NewFile::Regular, 0o644).await.unwrap();
    let target = fixture.target("/f").await;
    let (origin, held) = (fixture.origin.clone(), target.clone());
    let (locked, is_locked) = std::sync::mpsc::channel();
    let holder = std::thread::spawn(move || {
        let turn = origin.0.changes.lock(&held, soon()).unwrap();
        locked.send(()).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        drop(turn);
    });
    is_locked.recv().unwrap();
    let write = Change::Write { target, offset: Some(0), data: Bytes::from_static(b"late") };
    let shortly = Deadline::after(Duration::from_millis(50));
    assert_eq!(fixture.origin.change(&write, shortly).await, Err(FsError::Deadline));
    holder.join().unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(fs::read(fixture.at("f")).unwrap(), b"");
    assert_eq!(fixture.origin.change(&write, shortly).await, Err(FsError::Deadline));
    assert!(fixture.origin.change(&write, soon()).await.is_ok());
}

#[tokio::test]
async fn attributes_are_set() {
    let fixture = Fixture::new();
    fixture.make("/f", NewFile::Regular, 0o644).await.unwrap();
    let attr = NewAttr {
        mode: Some(0o4711),
        uid: Some(owner().0),
        atime: Some(NewTime::At(-1)),
        mtime: Some(NewTime::At(1_500_000_001)),
        ..NewAttr::default()
    };
    let set = fixture.set("/f", attr).await.unwrap().attr.unwrap();
    assert_eq!((set.mode, set.atime_ns, set.mtime_ns), (0o4711, -1, 1_500_000_001));
    let now = fixture.set("/f", NewAttr { mtime: Some(NewTime::Now), ..NewAttr::default() }).await.unwrap();
    assert!(now.attr.unwrap().mtime_ns > 1_600_000_000_000_000_000 && now.attr.unwrap().atime_ns == -1);
    let nothing = fixture.set("/f", NewAttr::default()).await.unwrap();
    assert_eq!(nothing.before, nothing.attr.map(|attr| attr.version()));
    let (name, value) = (Bytes::from_static(b"user.a"), Bytes::from_static(b"1"));
    let target = fixture.target("/f").await;
    let xattr = |existing| {
        let (target, name, value) = (target.clone(), name.clone(), value.clone());
        fixture.change(Change::SetXattr { target, name, value, existing })
    };
    assert_eq!(xattr(Existing::Exchange).await, Err(FsError::Os(61)), "there is none");
    assert!(!xattr(Existing::Refuse).await.unwrap().attr.unwrap().no_xattrs);
    assert_eq!(xattr(Existing::Refuse).await, Err(EEXIST));
    assert!(xattr(Existing::Replace).await.is_ok());
    assert_eq!(fixture.origin.get_xattr(&global("/f"), b"user.a", soon()).await.unwrap(), "1");
    let gone = fixture.change(Change::RemoveXattr { target, name }).await.unwrap();
    assert!(gone.attr.unwrap().no_xattrs);
}

#[tokio::test]
async fn names_come_and_go() {
    let fixture = Fixture::new();
    fixture.make("/f", NewFile::Regular, 0o644).await.unwrap();
    fixture.make("/d", NewFile::Directory, 0o755).await.unwrap();
    let target = fixture.target("/f").await;
    let linked = fixture.change(Change::Link { target, path: global("/d/g") }).await.unwrap();
    assert_eq!(linked.attr.unwrap().nlink, 2);
    assert_eq!(fixture.remove("/d", true).await, Err(ENOTEMPTY));
    assert_eq!(fixture.remove("/d", false).await, Err(EISDIR));
    assert_eq!(fixture.remove("/f", true).await, Err(ENOTDIR));
    assert_eq!(fixture.rename("/f", "/d/h", Existing::Exchange).await, Err(ENOENT));
    fs::write(fixture.at("other"), "other").unwrap();
    assert_eq!(fixture.rename("/f", "/other", Existing::Refuse).await, Err(EEXIST));
    fixture.rename("/f", "/other", Existing::Exchange).await.unwrap();
    assert_eq!(fs::read(fixture.at("f")).unwrap(), b"other");
    fixture.rename("/f", "/d/g", Existing::Replace).await.unwrap();
    assert_eq!(fs::read(fixture.at("d/g")).unwrap(), b"other");
    fixture.remove("/d/g", false).await.unwrap();
    fixture.remove("/d", true).await.unwrap();
    assert_eq!(fixture.remove("/d", true).await, Err(ENOENT));
    assert_eq!(fixture.remove("/", true).await, Err(EBUSY), "the root has no name");
    assert_eq!(fs::read_dir(fixture.at("")).unwrap().count(), 1);
}

#[tokio::test]
async fn an_origin_may_be_for_reading_alone() {
    let scratch = tempfile::tempdir().unwrap();
    let disk = crate::disk::open(Preference::Auto).unwrap();
    let options = Options { read_only: true, ..Options::default() };
    let origin = Origin::open(scratch.path(), &site("onprem"), disk, options).unwrap();
    let owner = Owner { uid: 0, gid: 0, mode: 0o600 };
    let make = Change::Make { path: global("/f"), new: NewFile::Regular, owner };
    assert_eq!(origin.change(&make, soon()).await, Err(FsError::READ_ONLY));
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn nothing_outside_is_changed() {
    let fixture = Fixture::new();
    fs::create_dir(fixture.outside("outside")).unwrap();
    fs::write(fixture.outside("outside/secret"), "secret").unwrap();
    symlink(fixture.outside("outside"), fixture.at("way")).unwrap();
    symlink(fixture.outside("outside/secret"), fixture.at("file")).unwrap();
    assert_eq!(fixture.make("/way/new", NewFile::Regular, 0o600).await, Err(ENOTDIR));
    assert_eq!(fixture.remove("/way/secret", false).await, Err(ENOTDIR));
    fs::write(fixture.at("mine"), "mine").unwrap();
    assert_eq!(fixture.rename("/mine", "/way/secret", Existing::Replace).await, Err(ENOTDIR));
    assert_eq!(fixture.write("/file", Some(0), "x").await, Err(EINVAL));
    let mode = NewAttr { mode: Some(0o777), ..NewAttr::default() };
    assert_eq!(fixture.set("/file", mode).await, Err(FsError::Os(95)));
    let size = NewAttr { size: Some(0), ..NewAttr::default() };
    assert_eq!(fixture.set("/file", size).await, Err(EINVAL));
    let target = fixture.target("/file").await;
    fixture.change(Change::Link { target, path: global("/again") }).await.unwrap();
    assert!(fs::symlink_metadata(fixture.at("again")).unwrap().is_symlink());
    let mode = fs::metadata(fixture.outside("outside/secret")).unwrap().mode() & 0o777;
    assert!(mode != 0o777 && fs::read(fixture.outside("outside/secret")).unwrap() == b"secret");
}
