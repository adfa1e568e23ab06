//! From answers to the kernel's structures.

use crate::kernel::abi;
use crate::operations::{Filled, Line, Node};
use globalfs_proto::limits::{CHUNK_SIZE, MAX_NAME};
use globalfs_proto::{Attr, FileKind, FsStat};
use std::time::Duration;
use zerocopy::{Immutable, IntoBytes};

/// What `st_blksize` advises programs to read at once: a chunk, the unit of transfer.
const ADVISED_BLOCK_SIZE: u32 = CHUNK_SIZE as u32;

/// Node numbers are never given to another file while the kernel may remember them.
const GENERATION: u64 = 0;

/// Names in a listing are followed by zeros up to the next multiple of this.
const ALIGNMENT: usize = 8;

/// How long the kernel may answer by itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lifetimes {
    pub(crate) attr: Duration,
    pub(crate) entry: Duration,
    pub(crate) negative: Duration,
}

impl Lifetimes {
    /// Of the node's name and of its attributes.
    fn of(&self, node: &Node) -> (Duration, Duration) {
        if !node.is_settled {
            return (Duration::ZERO, Duration::ZERO);
        }
        (self.entry.max(node.lasting.name), self.attr.max(node.lasting.attr))
    }
}

/// The answer that `node` was found.
pub(crate) fn entry(node: &Node, lifetimes: &Lifetimes) -> abi::EntryOut {
    let (for_name, for_attr) = lifetimes.of(node);
    entry_for(node, for_name, for_attr)
}

fn entry_for(node: &Node, for_name: Duration, for_attr: Duration) -> abi::EntryOut {
    abi::EntryOut {
        node: node.id.0,
        generation: GENERATION,
        entry_valid: for_name.as_secs(),
        attr_valid: for_attr.as_secs(),
        entry_valid_ns: for_name.subsec_nanos(),
        attr_valid_ns: for_attr.subsec_nanos(),
        attr: attr(node),
    }
}

/// The answer that there is no such file, and for how long the kernel may remember it.
pub(crate) fn no_entry(lifetime: Duration) -> abi::EntryOut {
    let (entry_valid, entry_valid_ns) = (lifetime.as_secs(), lifetime.subsec_nanos());
    abi::EntryOut { entry_valid, entry_valid_ns, ..Default::default() }
}

/// The answer that `node` was made, and is open.
pub(crate) fn created(node: &Node, lifetimes: &Lifetimes, open: abi::OpenOut) -> abi::CreateOut {
    abi::CreateOut { entry: entry(node, lifetimes), open }
}

/// The answer to a question for attributes.
pub(crate) fn attributes(node: &Node, lifetimes: &Lifetimes) -> abi::AttrOut {
    let (_, lifetime) = lifetimes.of(node);
    let (valid, valid_ns) = (lifetime.as_secs(), lifetime.subsec_nanos());
    abi::AttrOut { valid, valid_ns, padding: 0, attr: attr(node) }
}

fn attr(node: &Node) -> abi::Attr {
    let Node { id, attr, .. } = node;
    let Attr { kind, nlink, uid, gid, size, blocks, .. } = *attr;
    let ((atime, atime_ns), (mtime, mtime_ns)) = (time(attr.atime_ns), time(attr.mtime_ns));
    let (ctime, ctime_ns) = time(attr.ctime_ns);
    abi::Attr {
        ino: id.0,
        size,
        blocks,
        atime,
        mtime,
        ctime,
        atime_ns,
        mtime_ns,
        ctime_ns,
        mode: type_bits(kind) | (attr.mode & 0o7777),
        nlink,
        uid,
        gid,
        // Below major 4096 and minor 2^20 the low half of a `dev_t` is the form that the kernel takes.
        rdev: attr.rdev as u32,
        block_size: ADVISED_BLOCK_SIZE,
        flags: 0,
    }
}

/// Seconds since 1970, which may be before it, and nanoseconds behind them.
fn time(ns: i64) -> (i64, u32) {
    const SECOND: i64 = 1_000_000_000;
    (ns.div_euclid(SECOND), ns.rem_euclid(SECOND) as u32)
}

/// The type in the form of `st_mode`.
fn type_bits(kind: FileKind) -> u32 {
    match kind {
        FileKind::Fifo => 0o010_000,
        FileKind::CharDevice => 0o020_000,
        FileKind::Directory => 0o040_000,
        FileKind::BlockDevice => 0o060_000,
        FileKind::Regular => 0o100_000,
        FileKind::Symlink => 0o120_000,
        FileKind::Socket => 0o140_000,
    }
}

/// The answer to a question for totals.
pub(crate) fn totals(stat: &FsStat) -> abi::StatfsOut {
    let block_size = u32::try_from(stat.block_size).unwrap_or(u32::MAX);
    abi::StatfsOut {
        blocks: stat.blocks,
        blocks_free: stat.blocks_free,
        blocks_available: stat.blocks_available,
        files: stat.files,
        files_free: stat.files_free,
        block_size,
        name_length: MAX_NAME as u32,
        fragment_size: block_size,
        ..Default::default()
    }
}

/// Lines of a directory, as many as the kernel has room for.
pub(crate) struct Listing {
    bytes: Vec<u8>,
    room: usize,
}

impl Listing {
    /// An empty one that may grow to `room` bytes.
    pub(crate) fn new(room: u32) -> Self {
        Self { bytes: Vec::new(), room: room as usize }
    }

    /// What was taken, in the kernel's form.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes a name, if it has room.
    pub(crate) fn take(&mut self, line: &Line<'_>) -> Filled {
        self.push(&dirent(line), line.name)
    }

    /// Takes a name with what a lookup of it would answer, for the shorter of both times.
    pub(crate) fn take_plus(&mut self, line: &Line<'_>, lifetimes: &Lifetimes) -> Filled {
        let (for_name, for_attr) = lifetimes.of(&line.node);
        let lifetime = for_name.min(for_attr);
        let (entry, dirent) = (entry_for(&line.node, lifetime, lifetime), dirent(line));
        self.push(&abi::DirentPlus { entry, dirent }, line.name)
    }

    fn push(&mut self, head: &(impl IntoBytes + Immutable), name: &[u8]) -> Filled {
        let head = head.as_bytes();
        let length = (head.len() + name.len()).next_multiple_of(ALIGNMENT);
        let end = self.bytes.len() + length;
        if end > self.room {
            return Filled::Full;
        }
        self.bytes.extend_from_slice(head);
        self.bytes.extend_from_slice(name);
        self.bytes.resize(end, 0);
        Filled::Taken
    }
}

fn dirent(line: &Line<'_>) -> abi::Dirent {
    let kind = type_bits(line.node.attr.kind) >> 12;
    let name_length = u32::try_from(line.name.len()).expect("names are bounded");
    abi::Dirent { ino: line.node.id.0, offset: line.offset_after, name_length, kind }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::NodeId;
    use globalfs_proto::FileId;
    use globalfs_proto::Lasting;

    fn node(kind: FileKind, mtime_ns: i64) -> Node {
        let file = FileId { origin: 1, inode: 2 };
        let attr = Attr {
            file,
            kind,
            mode: 0o4751,
            nlink: 3,
            uid: 4,
            gid: 5,
            rdev: 0x103,
            size: 6,
            blocks: 7,
            atime_ns: i64::MIN,
            mtime_ns,
            ctime_ns: i64::MAX,
            no_xattrs: false,
        };
        Node { id: NodeId(77), attr, lasting: Lasting::default(), is_settled: true }
    }

    #[test]
    fn attributes_are_in_the_kernels_terms() {
        let check = |kind, mode| assert_eq!(attr(&node(kind, 0)).mode, mode);
        check(FileKind::Regular, 0o104751);
        check(FileKind::Directory, 0o044751);
        check(FileKind::Symlink, 0o124751);
        check(FileKind::Socket, 0o144751);
        check(FileKind::BlockDevice, 0o064751);
        let attr = attr(&node(FileKind::CharDevice, -1_500_000_000));
        assert_eq!((attr.mtime, attr.mtime_ns), (-2, 500_000_000), "times before 1970 are kept");
        assert!(attr.atime < -9_000_000_000 && attr.ctime > 9_000_000_000);
        assert_eq!((attr.ino, attr.nlink, attr.uid, attr.gid, attr.rdev), (77, 3, 4, 5, 0x103));
    }

    #[test]
    fn lifetimes_are_told() {
        let ms = Duration::from_millis;
        let lifetimes = Lifetimes { attr: ms(1500), entry: ms(2250), negative: ms(3125) };
        let entry = entry(&node(FileKind::Regular, 0), &lifetimes);
        assert_eq!((entry.attr_valid, entry.attr_valid_ns), (1, 500_000_000));
        assert_eq!((entry.entry_valid, entry.entry_valid_ns), (2, 250_000_000));
        let none = no_entry(lifetimes.negative);
        assert_eq!((none.node, none.entry_valid, none.entry_valid_ns), (0, 3, 125_000_000));
        let attr = attributes(&node(FileKind::Regular, 0), &lifetimes);
        assert_eq!((attr.valid, attr.valid_ns), (1, 500_000_000));
        let lasting = Lasting { name: ms(1000), attr: ms(3000) };
        let lasting = super::entry(&Node { lasting, ..node(FileKind::Regular, 0) }, &lifetimes);
        assert_eq!((lasting.attr_valid, lasting.entry_valid), (3, 2), "the longer of both");
        let overtaken = super::entry(&Node { is_settled: false, ..node(FileKind::Regular, 0) }, &lifetimes);
        assert_eq!((overtaken.attr_valid, overtaken.attr_valid_ns, overtaken.entry_valid), (0, 0, 0));
    }

    #[test]
    fn a_listing_takes_what_it_has_room_for() {
        let line = |name| Line { node: node(FileKind::Regular, 0), offset_after: 3, name };
        let mut listing = Listing::new(32 + 40);
        assert_eq!(listing.take(&line(b"12345678")), Filled::Taken);
        assert_eq!(listing.bytes().len(), 32, "no zeros behind a name that needs none");
        assert_eq!(listing.take(&line(&[b'x'; 17])), Filled::Full);
        assert_eq!(listing.take(&line(b"9")), Filled::Taken);
        assert_eq!(listing.bytes().len(), 64);
        assert_eq!(listing.bytes()[56..], *b"9\0\0\0\0\0\0\0");
        assert_eq!(listing.bytes()[20..24], 8u32.to_ne_bytes(), "DT_REG");
        let lifetimes = Lifetimes { attr: Duration::ZERO, entry: Duration::ZERO, negative: Duration::ZERO };
        let mut plus = Listing::new(160);
        assert_eq!(plus.take_plus(&line(b"name"), &lifetimes), Filled::Taken);
        assert_eq!(plus.take_plus(&line(b"n"), &lifetimes), Filled::Full);
        assert_eq!(plus.bytes()[..8], 77u64.to_ne_bytes());
    }
}
