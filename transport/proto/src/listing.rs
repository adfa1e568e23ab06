//! Directories and their changes as they travel: parts of listings, and what became out of date.
//!
//! The attributes of neighbours are alike, so a part holds them by the byte: the first byte of each entry's
//! attributes, then the second of each, and so on, which compresses several times better than entry by entry.
//!
//! *Invariant:* decoding allocates no more than a small multiple of what it was given.

use crate::attr::{Attr, DirEntry, FileKind};
use crate::codec::{DecodeError, Reader, Writer};
use crate::hand_over::{self, HandedOver};
use crate::limits::{MAX_CHANGES, MAX_LIST_PART, MAX_LISTED_TARGET, MAX_NAMES_PER_CHANGE};
use crate::path::GlobalPath;
use bytes::Bytes;

/// Bytes of encoded attributes.
const ATTR_SIZE: usize = 82;

/// How the entries of a part travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum PartEncoding {
    /// As [`encode_entries`] makes them.
    Raw = 0,
    /// The same in one zstd frame.
    Zstd = 1,
}

/// Consecutive entries of one directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryPart {
    /// The directory.
    pub path: GlobalPath,
    /// Its own attributes.
    pub attr: Attr,
    /// No name was left out of the listing: that a name is absent is an answer.
    pub complete: bool,
    /// What changes in the directory from here on is told to the subscription that the request named.
    pub watched: bool,
    /// No further part of this directory follows.
    pub last: bool,
    /// How `body` travels.
    pub encoding: PartEncoding,
    /// Bytes of the body once it is decoded, at most [`MAX_LIST_PART`].
    pub length: u32,
    /// The entries.
    pub body: Bytes,
}

/// What became out of date at a master. Without any content it says that the master is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Anything may have changed: changes were lost.
    pub everything: bool,
    /// Directories in which something changed, at most [`MAX_CHANGES`].
    pub directories: Vec<ChangedDirectory>,
    /// Subtrees that were handed over, now or before, at most [`MAX_CHANGES`].
    pub handed_over: Vec<HandedOver>,
}

/// What became out of date in one directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedDirectory {
    /// The directory.
    pub path: GlobalPath,
    /// The names that now may mean something else or nothing, at most [`MAX_NAMES_PER_CHANGE`]; none: all of
    /// the directory, and that it is watched no more.
    pub names: Vec<Bytes>,
}

impl Changes {
    /// Anything may have changed.
    pub fn everything() -> Self {
        Self { everything: true, ..Self::default() }
    }

    /// These directories have changed.
    pub fn of(directories: Vec<ChangedDirectory>) -> Self {
        Self { directories, ..Self::default() }
    }

    /// Whether it tells of nothing.
    pub fn is_empty(&self) -> bool {
        !self.everything && self.directories.is_empty() && self.handed_over.is_empty()
    }
}

/// The body of a part: the number of entries, their names, their attributes by the byte, and where each symbolic
/// link among them points; no bytes where that is not told.
pub fn encode_entries(entries: &[DirEntry]) -> Bytes {
    let mut w = Writer::new();
    w.u32(u32::try_from(entries.len()).expect("a part has few entries"));
    for entry in entries {
        w.bytes(&entry.name);
    }
    let mut attrs = Writer::new();
    for entry in entries {
        attrs.attr(&entry.attr);
    }
    w.raw(&transposed(&attrs.finish(), ATTR_SIZE));
    for link in entries.iter().filter(|entry| entry.attr.kind == FileKind::Symlink) {
        w.bytes(link.target.as_deref().unwrap_or_default());
    }
    w.finish()
}

/// The entries in a decoded body.
pub fn decode_entries(body: Bytes) -> Result<Vec<DirEntry>, DecodeError> {
    /// The smallest entry: a length, a name of one byte, the attributes.
    const MIN_ENTRY: usize = 4 + 1 + ATTR_SIZE;
    let mut r = Reader::new(body.clone());
    let count = r.u32()? as usize;
    if count > r.remaining() / MIN_ENTRY {
        return Err(DecodeError::OutOfRange("the number of entries"));
    }
    let begin = r.remaining();
    (0..count).try_for_each(|_| r.name().map(drop))?;
    // Names are kept for long. As parts of the body they would keep all of it.
    let own = Bytes::copy_from_slice(&body[body.len() - begin..body.len() - r.remaining()]);
    let mut own = Reader::new(own);
    let names = (0..count).map(|_| own.name()).collect::<Result<Vec<_>, _>>()?;
    let mut attrs = Reader::new(transposed(&r.raw(count * ATTR_SIZE)?, count).into());
    let decode_entry = |name| {
        let attr = attrs.attr()?;
        let target = if attr.kind == FileKind::Symlink { decode_target(&mut r)? } else { None };
        Ok(DirEntry { name, attr, target })
    };
    let entries = names.into_iter().map(decode_entry).collect::<Result<_, DecodeError>>()?;
    r.finish()?;
    Ok(entries)
}

fn decode_target(r: &mut Reader) -> Result<Option<Box<[u8]>>, DecodeError> {
    let target = r.bytes()?;
    if target.len() > MAX_LISTED_TARGET {
        return Err(DecodeError::OutOfRange("the target of a link"));
    }
    Ok((!target.is_empty()).then(|| target[..].into()))
}

/// `table`, whose rows are `width` bytes long, column by column.
fn transposed(table: &[u8], width: usize) -> Vec<u8> {
    (0..width).flat_map(|column| table.iter().skip(column).step_by(width)).copied().collect()
}

const COMPLETE: u8 = 1;
const WATCHED: u8 = 2;
const LAST: u8 = 4;

pub(crate) fn encode_part<'w>(w: &'w mut Writer, part: &DirectoryPart) -> &'w mut Writer {
    let flags = [(part.complete, COMPLETE), (part.watched, WATCHED), (part.last, LAST)];
    let flags = flags.iter().filter(|(set, _)| *set).map(|(_, bit)| bit).sum();
    w.path(&part.path).attr(&part.attr).u8(flags);
    w.u8(part.encoding as u8).u32(part.length).bytes(&part.body)
}

pub(crate) fn decode_part(r: &mut Reader) -> Result<DirectoryPart, DecodeError> {
    let (path, attr, flags) = (r.path()?, r.attr()?, r.u8()?);
    if flags & !(COMPLETE | WATCHED | LAST) != 0 {
        return Err(DecodeError::Unknown("directory flags", flags));
    }
    let encoding = match r.u8()? {
        0 => PartEncoding::Raw,
        1 => PartEncoding::Zstd,
        other => return Err(DecodeError::Unknown("directory encoding", other)),
    };
    let (length, body) = (r.u32()?, r.bytes()?);
    let raw = encoding == PartEncoding::Raw;
    if length as usize > MAX_LIST_PART || (raw && body.len() != length as usize) {
        return Err(DecodeError::OutOfRange("the length of a part of a directory"));
    }
    let [complete, watched, last] = [COMPLETE, WATCHED, LAST].map(|bit| flags & bit != 0);
    Ok(DirectoryPart { path, attr, complete, watched, last, encoding, length, body })
}

pub(crate) fn encode_changes<'w>(w: &'w mut Writer, changes: &Changes) -> &'w mut Writer {
    w.u8(u8::from(changes.everything)).u32(count(changes.directories.len()));
    for directory in &changes.directories {
        w.path(&directory.path).u32(count(directory.names.len()));
        for name in &directory.names {
            w.bytes(name);
        }
    }
    hand_over::encode(w, &changes.handed_over)
}

fn count(n: usize) -> u32 {
    u32::try_from(n).expect("changes are below their limits")
}

pub(crate) fn decode_changes(r: &mut Reader) -> Result<Changes, DecodeError> {
    let everything = match r.u8()? {
        0 => false,
        1 => true,
        other => return Err(DecodeError::Unknown("change", other)),
    };
    let count = limited(r.u32()?, MAX_CHANGES)?;
    let directories = (0..count).map(|_| decode_changed(r)).collect::<Result<_, _>>()?;
    let handed_over = hand_over::decode(r)?;
    Ok(Changes { everything, directories, handed_over })
}

fn decode_changed(r: &mut Reader) -> Result<ChangedDirectory, DecodeError> {
    let path = r.path()?;
    let count = limited(r.u32()?, MAX_NAMES_PER_CHANGE)?;
    let names = (0..count).map(|_| r.name()).collect::<Result<_, _>>()?;
    Ok(ChangedDirectory { path, names })
}

fn limited(count: u32, most: usize) -> Result<usize, DecodeError> {
    let count = count as usize;
    if count > most { Err(DecodeError::OutOfRange("the number of changes")) } else { Ok(count) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attr::FileId;
    use proptest::prelude::*;

    /// Every second one is a link, every fourth one with a target.
    fn entry(name: Vec<u8>, n: u64) -> DirEntry {
        let attr = Attr {
            file: FileId { origin: n.rotate_left(7), inode: n },
            kind: if n.is_multiple_of(2) { FileKind::Symlink } else { FileKind::Regular },
            mode: 0o644,
            nlink: 1,
            uid: n as u32,
            gid: 100,
            rdev: 0,
            size: n >> 3,
            blocks: 8,
            atime_ns: 4,
            mtime_ns: -(n as i64 >> 1),
            ctime_ns: n as i64,
            no_xattrs: n.is_multiple_of(3),
        };
        let length = n as usize % MAX_LISTED_TARGET + 1;
        let target = n.is_multiple_of(4).then(|| vec![b't'; length].into());
        DirEntry { name: name.into(), attr, target }
    }

    proptest! {
        #[test]
        fn entries_come_back(seeds in proptest::collection::vec((1..40u8, any::<u64>()), 0..50)) {
            let entries: Vec<_> = seeds.iter().map(|(length, n)| entry(vec![b'a'; (*length).into()], *n)).collect();
            prop_assert_eq!(decode_entries(encode_entries(&entries)).unwrap(), entries);
        }

        #[test]
        fn never_panics_on_noise(noise in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode_entries(noise.clone().into());
            let _ = decode_part(&mut Reader::new(noise.clone().into()));
            let _ = decode_changes(&mut Reader::new(noise.into()));
        }
    }

    #[test]
    fn names_keep_nothing_of_the_body() {
        let body = encode_entries(&[entry(b"a".to_vec(), 1), entry(b"b".to_vec(), 2)]);
        let names: Vec<_> =
            decode_entries(body.clone()).unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["a", "b"]);
        assert!(names.iter().all(|name| !body.as_ptr_range().contains(&name.as_ptr())));
    }

    #[test]
    fn a_body_that_lies_is_refused() {
        let body = encode_entries(&[entry(b"a".to_vec(), 1), entry(b"b".to_vec(), 2)]);
        assert!(decode_entries(body.slice(..body.len() - 1)).is_err());
        assert!(decode_entries([&body[..], b"x"].concat().into()).is_err());
        assert!(decode_entries(vec![0xff; 64].into()).is_err());
        let mut target = entry(b"a".to_vec(), 4);
        target.target = Some(vec![b't'; MAX_LISTED_TARGET + 1].into());
        assert!(matches!(decode_entries(encode_entries(&[target])), Err(DecodeError::OutOfRange(_))));
        let mut slash = body.to_vec();
        slash[8] = b'/';
        assert!(matches!(decode_entries(slash.into()), Err(DecodeError::Path(_))));
    }
}
