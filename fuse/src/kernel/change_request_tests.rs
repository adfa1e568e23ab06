//! Changes as the kernel asks for them, and bytes that it would not write.

use super::*;
use proptest::prelude::*;
use zerocopy::IntoBytes;

/// From the device and over a ring, which agree.
fn parsed(opcode: u32, argument: &[u8], data: &[u8]) -> Result<Option<ChangeRequest<'static>>, &'static str> {
    let joined: &'static [u8] = Vec::leak([argument, data].concat());
    let (argument, data) = joined.split_at(argument.len());
    let mut longer = [0xff; 128];
    longer[..argument.len()].copy_from_slice(argument);
    let argument: &'static [u8] = Vec::leak(longer.to_vec());
    let (one, other) = (parse(opcode, Body::Joined(joined)), parse(opcode, Body::Apart { argument, data }));
    assert_eq!(one, other);
    one
}

fn check(opcode: u32, argument: &[u8], data: &[u8], want: ChangeRequest<'_>) {
    assert_eq!(parsed(opcode, argument, data), Ok(Some(want)));
}

#[test]
fn what_is_made_is_understood() {
    let made = abi::CreateIn { flags: 0o102, mode: 0o100_644, ..Default::default() };
    let want = ChangeRequest::Create { name: b"f", mode: 0o644, flags: 0o102 };
    check(opcode::CREATE, made.as_bytes(), b"f\0", want);
    let made = abi::MknodIn { mode: 0o010_600, device: 7, ..Default::default() };
    let kind = Some(FileKind::Fifo);
    let want = ChangeRequest::MakeNode { name: b"p", kind, mode: 0o600, device: 7 };
    check(opcode::MKNOD, made.as_bytes(), b"p\0", want);
    let made = abi::MkdirIn { mode: 0o1777, umask: 0 };
    check(opcode::MKDIR, made.as_bytes(), b"d\0", ChangeRequest::MakeDirectory { name: b"d", mode: 0o1777 });
    let want = ChangeRequest::MakeSymlink { name: b"l", target: b"to/it" };
    check(opcode::SYMLINK, b"", b"l\0to/it\0", want);
    let want = ChangeRequest::Link { node: NodeId(5), name: b"g" };
    check(opcode::LINK, abi::LinkIn { node: 5 }.as_bytes(), b"g\0", want);
}

#[test]
fn names_that_move_or_go_are_understood() {
    check(opcode::UNLINK, b"", b"f\0", ChangeRequest::Remove { name: b"f", directory: false });
    check(opcode::RMDIR, b"", b"d\0", ChangeRequest::Remove { name: b"d", directory: true });
    let rename =
        |existing| ChangeRequest::Rename { name: b"a", new_parent: NodeId(9), new_name: b"b", existing };
    let plain = abi::RenameIn { new_parent: 9 };
    check(opcode::RENAME, plain.as_bytes(), b"a\0b\0", rename(Some(Existing::Replace)));
    let ways = [
        (0, Some(Existing::Replace)),
        (1, Some(Existing::Refuse)),
        (2, Some(Existing::Exchange)),
        (4, None),
        (3, None),
    ];
    for (flags, existing) in ways {
        let flagged = abi::Rename2In { new_parent: 9, flags, padding: 0 };
        check(opcode::RENAME2, flagged.as_bytes(), b"a\0b\0", rename(existing));
    }
}

#[test]
fn attributes_are_understood() {
    let all = abi::SetattrIn {
        valid: 0xfff,
        size: 1,
        mode: 0o104_755,
        uid: 2,
        gid: 3,
        atime: 4,
        ..Default::default()
    };
    let now = Some(NewTime::Now);
    let attr =
        NewAttr { mode: Some(0o4755), uid: Some(2), gid: Some(3), size: Some(1), atime: now, mtime: now };
    check(opcode::SETATTR, all.as_bytes(), b"", ChangeRequest::SetAttr { attr, drops_set_id: true });
    let valid = set_flag::ATIME | set_flag::MTIME;
    let times =
        abi::SetattrIn { valid, atime: -2, atime_ns: 5, mtime: i64::MAX, mtime_ns: 1, ..Default::default() };
    let (atime, mtime) = (Some(NewTime::At(-1_999_999_995)), Some(NewTime::At(i64::MAX)));
    let attr = NewAttr { atime, mtime, ..Default::default() };
    check(opcode::SETATTR, times.as_bytes(), b"", ChangeRequest::SetAttr { attr, drops_set_id: false });
    let set = |flags| abi::SetxattrIn { size: 3, flags };
    for (flags, existing) in
        [(0, Some(Existing::Replace)), (1, Some(Existing::Refuse)), (2, Some(Existing::Exchange)), (3, None)]
    {
        let want = ChangeRequest::SetXattr { name: b"user.a", value: b"x\0y", existing };
        check(opcode::SETXATTR, set(flags).as_bytes(), b"user.a\0x\0y", want);
    }
    check(opcode::REMOVEXATTR, b"", b"user.a\0", ChangeRequest::RemoveXattr { name: b"user.a" });
}

#[test]
fn content_is_understood() {
    let write = |flags, write_flags| abi::WriteIn {
        handle: 1,
        offset: 2,
        size: 3,
        flags,
        write_flags,
        ..Default::default()
    };
    let want = |offset, drops_set_id| {
        ChangeRequest::Write(WriteRequest { handle: 1, offset, data: b"abc", drops_set_id, is_sync: false })
    };
    let append = OFlags::APPEND.bits() | 1;
    check(opcode::WRITE, write(1, 0).as_bytes(), b"abc", want(Some(2), false));
    check(opcode::WRITE, write(append, write_flag::KILL_SUIDGID).as_bytes(), b"abc", want(None, true));
    check(opcode::WRITE, write(append, write_flag::CACHE).as_bytes(), b"abc", want(Some(2), false));
    let space = abi::FallocateIn { handle: 1, offset: 2, length: 3, mode: 4, padding: 0 };
    let allocation = Allocation { offset: 2, length: 3, mode: 4 };
    check(opcode::FALLOCATE, space.as_bytes(), b"", ChangeRequest::Allocate { allocation });
    let sync = abi::FsyncIn { fsync_flags: 1, ..Default::default() };
    check(opcode::FSYNC, sync.as_bytes(), b"", ChangeRequest::Sync { handle: 0, data_only: true });
    check(opcode::FSYNCDIR, &[0; 16], b"", ChangeRequest::Sync { handle: 0, data_only: false });
}

#[test]
fn what_does_not_fit_together_is_no_change() {
    let bad = |opcode, argument: &[u8], data: &[u8]| assert!(parsed(opcode, argument, data).is_err());
    bad(opcode::WRITE, abi::WriteIn { size: 4, ..Default::default() }.as_bytes(), b"abc");
    bad(opcode::SETXATTR, abi::SetxattrIn { size: 2, flags: 0 }.as_bytes(), b"user.a\0x");
    for data in [&b""[..], b"a", b"a\0", b"a\0b", b"\0b\0", b"a\0b\0c\0"] {
        bad(opcode::SYMLINK, b"", data);
        bad(opcode::RENAME, &[0; 8], data);
    }
    assert_eq!(parsed(opcode::READ, &[0; 64], b""), Ok(None));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(opcode in 0u32..60, body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(opcode, Body::Joined(&body));
        let (argument, data) = body.split_at(body.len() / 2);
        let _ = parse(opcode, Body::Apart { argument, data });
    }
}
