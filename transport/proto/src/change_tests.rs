//! The frozen form of changes, and what no peer may send.

use super::*;

fn target() -> Target {
    Target { path: GlobalPath::new(b"/a").unwrap(), file: FileId { origin: 1, inode: 2 } }
}

const TARGET: &str = "020000002f6101000000000000000200000000000000";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn frame(change: &Change) -> Bytes {
    let mut w = Writer::new();
    change.encode(&mut w);
    w.finish()
}

fn decode(frame: Bytes) -> Result<Change, DecodeError> {
    let mut r = Reader::new(frame);
    let change = Change::decode(&mut r)?;
    r.finish().map(|()| change)
}

/// The bytes below are the protocol. A change here breaks every running cluster: raise the ALPN instead.
#[test]
fn changes_have_their_frozen_form() {
    let check = |change: Change, golden: &str| {
        let frame = frame(&change);
        assert_eq!(hex(&frame), golden);
        assert_eq!(decode(frame), Ok(change));
    };
    let (path, owner) = (target().path, Owner { uid: 1, gid: 2, mode: 0o755 });
    let made = "01020000002f61";
    let owned = "0100000002000000ed010000";
    let make = |new| Change::Make { path: path.clone(), new, owner };
    check(make(NewFile::Regular), &format!("{made}01{owned}"));
    check(make(NewFile::Directory), &format!("{made}02{owned}"));
    check(make(NewFile::Symlink(Bytes::from_static(b"t"))), &format!("{made}030100000074{owned}"));
    check(make(NewFile::Special(FileKind::Fifo, 7)), &format!("{made}040700000000000000{owned}"));
    check(Change::Link { target: target(), path: path.clone() }, &format!("02{TARGET}020000002f61"));
    check(Change::Remove { path: path.clone(), directory: true }, "03020000002f6101");
    let rename = |existing| Change::Rename { from: path.clone(), to: GlobalPath::root(), existing };
    check(rename(Existing::Replace), "04020000002f61010000002f00");
    check(rename(Existing::Refuse), "04020000002f61010000002f01");
    check(rename(Existing::Exchange), "04020000002f61010000002f02");
    let attr = NewAttr {
        mode: Some(0o640),
        size: Some(3),
        atime: Some(NewTime::Now),
        mtime: Some(NewTime::At(-2)),
        ..NewAttr::default()
    };
    let golden = format!(
        "05{TARGET}01a0010000000001030000000000000001\
                          02feffffffffffffff"
    );
    check(Change::SetAttr { target: target(), attr }, &golden);
    let attr = NewAttr { uid: Some(1), gid: Some(2), ..NewAttr::default() };
    check(Change::SetAttr { target: target(), attr }, &format!("05{TARGET}0001010000000102000000000000"));
    let (name, value) = (Bytes::from_static(b"user.x"), Bytes::from_static(b"v"));
    let existing = Existing::Replace;
    let set = Change::SetXattr { target: target(), name: name.clone(), value, existing };
    check(set, &format!("06{TARGET}06000000757365722e78010000007600"));
    check(Change::RemoveXattr { target: target(), name }, &format!("07{TARGET}06000000757365722e78"));
    let data = Bytes::from_static(b"xy");
    let write = |offset| Change::Write { target: target(), offset, data: data.clone() };
    check(write(None), &format!("08{TARGET}00020000007879"));
    check(write(Some(5)), &format!("08{TARGET}010500000000000000020000007879"));
    let allocation = Allocation { offset: 1, length: 2, mode: 3 };
    let golden = format!("09{TARGET}0100000000000000020000000000000003000000");
    check(Change::Allocate { target: target(), allocation }, &golden);
    check(Change::Sync { target: target(), data_only: true }, &format!("0a{TARGET}01"));
    let copied = "020000002f66010000000000000002000000000000000300000000000000\
                  04000000000000000500000000000000060000000000000007000000000000000800000000000000";
    check(copy(8), &format!("0b{TARGET}{copied}"));
    check(Change::OpenDirect { target: target() }, &format!("0c{TARGET}"));
    check(Change::LookDirect { target: target() }, &format!("0d{TARGET}"));
}

fn copy(length: u64) -> Change {
    let file = FileId { origin: 1, inode: 2 };
    let version = Version { file, size: 3, mtime_ns: 4, ctime_ns: 5 };
    let from = GlobalPath::new(b"/f").unwrap();
    Change::Copy { target: target(), range: CopiedRange { from, version, from_offset: 6, offset: 7, length } }
}

#[test]
fn what_is_outside_its_limit_is_refused() {
    let refused = |change: Change| assert!(matches!(decode(frame(&change)), Err(DecodeError::OutOfRange(_))));
    let write = |length| Change::Write { target: target(), offset: None, data: vec![0; length].into() };
    assert!(decode(frame(&write(MAX_WRITE))).is_ok());
    refused(write(MAX_WRITE + 1));
    assert!(decode(frame(&copy(MAX_COPY))).is_ok());
    refused(copy(MAX_COPY + 1));
    refused(copy(0));
    refused(write(0));
    let owner = Owner { uid: 0, gid: 0, mode: 0o10000 };
    refused(Change::Make { path: target().path, new: NewFile::Regular, owner });
    let (name, existing) = (Bytes::from_static(b"user.x"), Existing::Refuse);
    let set =
        |name, length| Change::SetXattr { target: target(), name, value: vec![0; length].into(), existing };
    assert!(decode(frame(&set(name.clone(), MAX_XATTR))).is_ok());
    refused(set(name, MAX_XATTR + 1));
    refused(set(Bytes::new(), 1));
    refused(set(vec![b'x'; MAX_NAME + 1].into(), 1));
    assert_eq!(decode(Bytes::from_static(&[99])), Err(DecodeError::Unknown("change", 99)));
    let sync = frame(&Change::Sync { target: target(), data_only: false });
    for length in 0..sync.len() {
        assert_eq!(decode(sync.slice(..length)), Err(DecodeError::Truncated));
    }
}

#[test]
fn each_change_names_what_it_concerns() {
    let (a, b) = (target().path, GlobalPath::new(b"/b").unwrap());
    let paths = |change: Change| change.paths().cloned().collect::<Vec<_>>();
    assert_eq!(paths(Change::Remove { path: b.clone(), directory: false }), std::slice::from_ref(&b));
    assert_eq!(paths(Change::Link { target: target(), path: b.clone() }), [b.clone(), a.clone()]);
    let rename = Change::Rename { from: a.clone(), to: b.clone(), existing: Existing::Replace };
    assert_eq!(paths(rename), [a.clone(), b]);
    assert_eq!(paths(Change::Sync { target: target(), data_only: false }), [a]);
}

#[test]
fn what_leaves_all_as_it_is_may_be_asked_twice() {
    let check = |change: Change, want: bool| {
        assert_eq!(change.is_without_effect(), want, "{change:?}");
        assert_eq!(crate::Request::Change(change).may_repeat(), want);
    };
    check(Change::Sync { target: target(), data_only: false }, true);
    check(Change::SetAttr { target: target(), attr: NewAttr::default() }, true);
    let attr = NewAttr { size: Some(0), ..NewAttr::default() };
    check(Change::SetAttr { target: target(), attr }, false);
    check(Change::Write { target: target(), offset: Some(0), data: Bytes::from_static(b"x") }, false);
    check(Change::Remove { path: target().path, directory: false }, false);
}
