//! The frozen form of every message, and what no peer may send.

use super::*;
use crate::attr::{DirEntry, FileId, FileKind};
use crate::hand_over::HandedOver;
use crate::listing::{ChangedDirectory, PartEncoding, encode_entries};

fn attr() -> Attr {
    Attr {
        file: FileId { origin: 1, inode: 2 },
        kind: FileKind::Regular,
        mode: 0o644,
        nlink: 1,
        uid: 1000,
        gid: 100,
        rdev: 0,
        size: 3,
        blocks: 8,
        atime_ns: 4,
        mtime_ns: 5,
        ctime_ns: -6,
        no_xattrs: true,
    }
}

fn path() -> GlobalPath {
    GlobalPath::new(b"/a/\xff").unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The bytes below are the protocol. A change here breaks every running cluster: raise the ALPN instead.
/// [`attr`] as it travels.
const ATTR_HEX: &str = "01000000000000000200000000000000030000000000000005000000000000\
                        00faffffffffffffff01a401000001000000e80300006400000000000000000\
                        000000800000000000000040000000000000001";

#[test]
fn requests_have_their_frozen_form() {
    let check = |request: Request, golden: &str| {
        let frame = request.encode(RequestHeader { deadline_ms: 30_000 });
        assert_eq!(hex(&frame), format!("30750000{golden}"));
        assert_eq!(Request::decode(frame).unwrap(), (RequestHeader { deadline_ms: 30_000 }, request));
    };
    check(Request::Stat(path()), "01040000002f612fff");
    check(
        Request::List { path: GlobalPath::root(), below: 5, subscription: 6 },
        "02010000002f050000000600000000000000",
    );
    let remove = Change::Remove { path: path(), directory: false };
    check(Request::Change(remove), "1203040000002f612fff00");
    check(Request::ReadLink(path()), "03040000002f612fff");
    check(Request::GetXattr(path(), Bytes::from_static(b"user.x")), "04040000002f612fff06000000757365722e78");
    check(Request::ListXattr(path()), "05040000002f612fff");
    check(Request::FsStat(GlobalPath::root()), "06010000002f");
    check(
        Request::Read { path: path(), version: attr().version(), first: ChunkIndex(7), count: 2 },
        "07040000002f612fff010000000000000002000000000000000300000000000000\
         0500000000000000faffffffffffffff070000000000000002000000",
    );
    check(Request::Ping, "08");
    check(
        Request::Hashes { path: path(), version: attr().version(), first: ChunkIndex(7), count: 4096 },
        "0c040000002f612fff010000000000000002000000000000000300000000000000\
         0500000000000000faffffffffffffff070000000000000000100000",
    );
    check(
        Request::Lookup { path: path(), below: 5, content: 7, subscription: 6 },
        "09040000002f612fff05000000070000000600000000000000",
    );
    check(
        Request::Seek(Seek { path: path(), version: attr().version(), offset: 7, hole: true }),
        "17040000002f612fff010000000000000002000000000000000300000000000000\
         0500000000000000faffffffffffffff070000000000000001",
    );
    check(Request::Watch { subscription: 6, heartbeat_ms: 250 }, "0a0600000000000000fa000000");
    check(Request::Replicate(path(), attr()), &format!("18040000002f612fff{ATTR_HEX}"));
}

#[test]
fn responses_have_their_frozen_form() {
    let check = |response: Response, golden: &str| {
        assert_eq!(hex(&response.encode()), golden);
        assert_eq!(Response::decode(response.encode()).unwrap(), response);
    };
    let attr_hex = ATTR_HEX;
    check(Response::Attr(attr()), &format!("01{attr_hex}"));
    let body = encode_entries(&[DirEntry::new(Bytes::from_static(b"f\n"), attr())]);
    assert_eq!(hex(&body), format!("0100000002000000660a{attr_hex}"), "of one entry the order stays");
    let part = DirectoryPart {
        path: path(),
        attr: attr(),
        complete: true,
        watched: false,
        last: true,
        encoding: PartEncoding::Raw,
        length: body.len() as u32,
        body: body.clone(),
    };
    let golden = format!("02040000002f612fff{attr_hex}05005c0000005c000000{}", hex(&body));
    check(Response::Directory(part), &golden);
    let link = Attr { kind: FileKind::Symlink, no_xattrs: false, ..attr() };
    let link = DirEntry { target: Some(b"to"[..].into()), ..DirEntry::new(Bytes::from_static(b"l"), link) };
    let untold = DirEntry { target: None, ..link.clone() };
    let link_hex = format!("{}03{}00", &attr_hex[..80], &attr_hex[82..162]);
    let golden = format!("01000000010000006c{link_hex}");
    assert_eq!(hex(&encode_entries(&[link])), format!("{golden}02000000746f"));
    assert_eq!(hex(&encode_entries(&[untold])), format!("{golden}00000000"));
    check(Response::Bytes(Bytes::from_static(b"xy")), "03020000007879");
    let hash = ChunkHash([0xab; 32]);
    let encodings = [
        (ChunkEncoding::Raw, "00"),
        (ChunkEncoding::Zstd, "01"),
        (ChunkEncoding::Zero, "02"),
        (ChunkEncoding::Shuffle4, "03"),
        (ChunkEncoding::Shuffle8, "04"),
    ];
    for (encoding, number) in encodings {
        let header = ChunkHeader { index: ChunkIndex(1), encoding, wire_length: 10, length: 20, hash };
        let golden = format!("050100000000000000{number}0a00000014000000{}", "ab".repeat(32));
        check(Response::Chunk(header), &golden);
    }
    let hashes = vec![hash, ChunkHash([1; 32])];
    let golden = format!("0a070000000000000002000000{}{}", "ab".repeat(32), "01".repeat(32));
    check(Response::Hashes { first: ChunkIndex(7), hashes }, &golden);
    check(Response::Changed(Changed::default()), "0d0000");
    let changed = Changed { before: Some(attr().version()), attr: Some(attr()), ..Changed::default() };
    check(Response::Changed(changed), &format!("0d01{}01{attr_hex}", &attr_hex[..80]));
    let changed = Changed { directory: Some(attr()), ..Changed::default() };
    check(Response::Changed(changed), &format!("0d0000{attr_hex}"));
    check(Response::Changed(Changed { sync_at_close: true, ..changed }), &format!("0d0000{attr_hex}01"));
    check(Response::Changed(Changed { sync_at_close: true, ..Changed::default() }), "0d000001");
    check(Response::Error(FsError::NOT_FOUND), "06010200000000000000");
    check(Response::Error(FsError::Stale(None)), "0602");
    check(Response::Error(FsError::Stale(Some(Box::new(attr())))), &format!("0603{attr_hex}"));
    check(Response::Error(FsError::Deadline), "0605");
    check(Response::Error(FsError::Unreachable("x".into())), "06040100000078");
    check(Response::Missing, "07");
    check(Response::Changes(Changes::everything()), "080100000000");
    let changed = ChangedDirectory { path: path(), names: vec![Bytes::from_static(b"n")] };
    let changes = Changes::of(vec![changed]);
    let golden = "080001000000040000002f612fff01000000010000006e";
    check(Response::Changes(changes.clone()), golden);
    let handed_over = vec![HandedOver { scope: path(), fence: Fence(7) }];
    let golden = format!("{golden}01000000040000002f612fff0700000000000000");
    check(Response::Changes(Changes { handed_over, ..changes }), &golden);
    check(Response::Offset(258), "100201000000000000");
    check(Response::LeftOut(path()), "0c040000002f612fff");
}

#[test]
fn refuses_what_no_peer_may_send() {
    let read = |count| {
        let version = attr().version();
        Request::Read { path: path(), version, first: ChunkIndex(0), count }
            .encode(RequestHeader { deadline_ms: 1 })
    };
    assert!(Request::decode(read(MAX_CHUNKS_PER_READ)).is_ok());
    assert!(Request::decode(read(0)).is_err());
    assert!(Request::decode(read(MAX_CHUNKS_PER_READ + 1)).is_err());
    assert_eq!(
        Request::decode(Bytes::from_static(b"\0\0\0\0\xff")),
        Err(DecodeError::Unknown("request", 255))
    );
    let hashes = |count| {
        let version = attr().version();
        Request::Hashes { path: path(), version, first: ChunkIndex(0), count }
            .encode(RequestHeader { deadline_ms: 1 })
    };
    assert!(Request::decode(hashes(MAX_HASHES_PER_REQUEST)).is_ok());
    assert!(Request::decode(hashes(0)).is_err());
    assert!(Request::decode(hashes(MAX_HASHES_PER_REQUEST + 1)).is_err());
    let told = |count| {
        let hashes = vec![ChunkHash([1; 32]); count];
        Response::decode(Response::Hashes { first: ChunkIndex(0), hashes }.encode())
    };
    assert!(told(MAX_HASHES_PER_FRAME).is_ok());
    assert!(told(0).is_err());
    assert!(told(MAX_HASHES_PER_FRAME + 1).is_err());
    let mut dots = Writer::new();
    dots.u32(1).u8(1).bytes(b"/a/../b");
    assert!(matches!(Request::decode(dots.finish()), Err(DecodeError::Path(_))));
    let refused = |request: Request| {
        assert!(Request::decode(request.encode(RequestHeader { deadline_ms: 1 })).is_err(), "{request:?}");
    };
    refused(Request::List { path: path(), below: MAX_ENTRIES_BELOW + 1, subscription: 0 });
    refused(Request::Lookup { path: path(), below: u32::MAX, content: 0, subscription: 0 });
    refused(Request::Lookup { path: path(), below: 0, content: MAX_CONTENT_ALONG + 1, subscription: 0 });
    refused(Request::Watch { subscription: 0, heartbeat_ms: 250 });
    refused(Request::Watch { subscription: 1, heartbeat_ms: 1 });
    refused(Request::Watch { subscription: 1, heartbeat_ms: 60_000 });
    let mut bomb = Writer::new();
    bomb.u8(2).path(&path()).attr(&attr()).u8(0).u8(1).u32(u32::MAX).bytes(b"");
    assert!(matches!(Response::decode(bomb.finish()), Err(DecodeError::OutOfRange(_))));
    let mut many = Writer::new();
    many.u8(8).u8(0).u32(u32::MAX);
    assert_eq!(Response::decode(many.finish()), Err(DecodeError::OutOfRange("the number of changes")));
    for count in [0, u32::MAX] {
        let mut many = Writer::new();
        many.u8(8).u8(0).u32(0).u32(count);
        let refused = Err(DecodeError::OutOfRange("the number of hand-overs"));
        assert_eq!(Response::decode(many.finish()), refused);
    }
}

proptest::proptest! {
    #[test]
    fn never_panics_on_noise(noise in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
        let _ = Request::decode(noise.clone().into());
        let _ = Response::decode(noise.into());
    }
}
