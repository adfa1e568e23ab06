//! Requests as the kernel writes them, and bytes that it would not write.

use super::*;
use proptest::prelude::*;
use zerocopy::IntoBytes;

fn header(opcode: u32, length: usize) -> InHeader {
    InHeader {
        length: 40 + length as u32,
        opcode,
        unique: 9,
        node: 7,
        pid: 42,
        uid: 3,
        gid: 4,
        ..InHeader::default()
    }
}

fn bytes(opcode: u32, body: &[u8]) -> Vec<u8> {
    [header(opcode, body.len()).as_bytes(), body].concat()
}

/// Both ways in which a request can arrive.
fn parsed<'a>(opcode: u32, joined: &'a [u8], argument: &'a [u8], data: &'a [u8]) -> Operation<'a> {
    let request = parse(joined).unwrap();
    assert_eq!((request.unique, request.node, request.tid), (9, NodeId(7), 42));
    assert_eq!((request.uid, request.gid), (3, 4));
    let mut longer = [0xff; 128];
    longer[..argument.len()].copy_from_slice(argument);
    let longer: &'static [u8] = Vec::leak(longer.to_vec());
    let apart = parse_parts(&header(opcode, 0), Body::Apart { argument: longer, data });
    assert_eq!(apart.unwrap(), request, "both ways agree");
    request.operation
}

#[test]
fn requests_are_understood_from_device_and_ring() {
    let check = |opcode: u32, argument: &[u8], data: &[u8], want: Operation<'_>| {
        let joined = bytes(opcode, &[argument, data].concat());
        assert_eq!(parsed(opcode, &joined, argument, data), want);
    };
    let read = abi::ReadIn { handle: 1, offset: 2, size: 3, ..Default::default() };
    let read = read.as_bytes();
    let xattr = abi::GetxattrIn { size: 5, padding: 0 };
    check(opcode::LOOKUP, b"", b"name\0", Operation::LookUp { name: b"name" });
    check(opcode::FORGET, abi::ForgetIn { lookups: 3 }.as_bytes(), b"", Operation::Forget { lookups: 3 });
    check(opcode::GETATTR, abi::GetattrIn::default().as_bytes(), b"", Operation::GetAttr);
    check(opcode::READLINK, b"", b"", Operation::ReadLink);
    check(
        opcode::OPEN,
        abi::OpenIn { flags: 2, open_flags: 0 }.as_bytes(),
        b"",
        Operation::Open { flags: 2 },
    );
    check(opcode::READ, read, b"", Operation::Read { handle: 1, offset: 2, length: 3, is_direct: false });
    let direct = abi::ReadIn { flags: OFlags::DIRECT.bits() | 1, ..Default::default() };
    let want = Operation::Read { handle: 0, offset: 0, length: 0, is_direct: true };
    check(opcode::READ, direct.as_bytes(), b"", want);
    check(opcode::READDIR, read, b"", Operation::ReadDir { offset: 2, size: 3 });
    check(opcode::READDIRPLUS, read, b"", Operation::ReadDirPlus { offset: 2, size: 3 });
    let release = abi::ReleaseIn { handle: 8, ..Default::default() };
    check(opcode::RELEASE, release.as_bytes(), b"", Operation::Release { handle: 8, unlocks: None });
    check(opcode::STATFS, b"", b"", Operation::StatFs);
    check(opcode::GETXATTR, xattr.as_bytes(), b"user.a\0", Operation::GetXattr { name: b"user.a", size: 5 });
    check(opcode::LISTXATTR, xattr.as_bytes(), b"", Operation::ListXattr { size: 5 });
    check(opcode::DESTROY, b"", b"", Operation::Destroy);
    check(opcode::IOCTL, &[0; 32], b"", Operation::Ioctl);
    check(999, &[1, 2, 3], b"", Operation::Other { opcode: 999 });
    let unlink = Operation::Change(ChangeRequest::Remove { name: b"name", directory: false });
    check(opcode::UNLINK, b"", b"name\0", unlink);
}

#[test]
fn many_nodes_are_forgotten_at_once() {
    let nodes = [abi::ForgetOne { node: 5, lookups: 1 }, abi::ForgetOne { node: 6, lookups: 9 }];
    let body = [abi::BatchForgetIn { count: 2, padding: 0 }.as_bytes(), nodes.as_bytes()].concat();
    let request = bytes(opcode::BATCH_FORGET, &body);
    let Operation::BatchForget { nodes } = parse(&request).unwrap().operation else { panic!("{request:?}") };
    assert_eq!(forgotten(nodes).collect::<Vec<_>>(), [(NodeId(5), 1), (NodeId(6), 9)]);
}

#[test]
fn what_is_malformed_is_told_and_answered() {
    let check = |opcode: u32, body: &[u8], want: &str| {
        let error = parse(&bytes(opcode, body)).unwrap_err();
        assert!(error.to_string().contains(want), "{error}");
        let forget = matches!(opcode, opcode::FORGET | opcode::BATCH_FORGET);
        assert_eq!(error.unique(), (!forget).then_some(9), "{error}");
    };
    for body in [&b""[..], b"\0", b"name", b"na\0me\0"] {
        check(opcode::LOOKUP, body, "name");
    }
    check(opcode::READ, &[0; 39], "cut short");
    check(opcode::OPEN, &[0; 7], "cut short");
    check(opcode::RELEASE, &[0; 8], "cut short");
    check(opcode::GETATTR, b"", "cut short");
    check(opcode::GETXATTR, &[0; 8], "name");
    check(opcode::FORGET, &[0; 4], "cut short");
    check(opcode::BATCH_FORGET, &[2, 0, 0, 0, 0, 0, 0, 0, 1], "another number of nodes");
    check(opcode::BATCH_FORGET, &[0xff; 8], "another number of nodes");
    let mut longer = bytes(opcode::READLINK, b"");
    longer.push(0);
    assert!(parse(&longer).unwrap_err().to_string().contains("length"));
    assert_eq!(parse(&[0; 39]), Err(RequestError::NoHeader(39)));
    assert_eq!(RequestError::NoHeader(39).unique(), None);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(opcode in 0u32..60, body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&body);
        let _ = parse(&bytes(opcode, &body));
        let (argument, data) = body.split_at(body.len() / 2);
        let _ = parse_parts(&header(opcode, 0), Body::Apart { argument, data });
    }
}
