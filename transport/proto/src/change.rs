//! Changes of names, attributes and content, as the site that masters them is asked for.
//!
//! *Invariant:* what is decoded is within the limits: names of attributes and their values, bytes of one write.

use crate::attr::{FileId, FileKind, Version};
use crate::codec::{DecodeError, Reader, Writer};
use crate::limits::{MAX_COPY, MAX_NAME, MAX_PATH, MAX_WRITE, MAX_XATTR};
use crate::path::GlobalPath;
use bytes::Bytes;

/// A file by its place and, so that nothing else is changed that has taken the place, by what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where it was last seen.
    pub path: GlobalPath,
    /// Which it is.
    pub file: FileId,
}

/// To whom a new file will belong and who may do what with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The user who makes it.
    pub uid: u32,
    /// The group of who makes it. In a directory with the set-group-ID bit the directory's group counts.
    pub gid: u32,
    /// Permission, set-id and sticky bits.
    pub mode: u32,
}

/// What a new name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewFile {
    /// An empty regular file.
    Regular,
    /// An empty directory.
    Directory,
    /// A symbolic link that points there, 1 to `MAX_PATH` bytes.
    Symlink(Bytes),
    /// A named pipe, a socket or a device with this number.
    Special(FileKind, u64),
}

/// What becomes of a name that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Existing {
    /// It is replaced. Of attributes: set anyway.
    Replace = 0,
    /// The change fails with `EEXIST`.
    Refuse = 1,
    /// Both files change places. Of attributes: only one that is there is set.
    Exchange = 2,
}

/// A point in time to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewTime {
    /// That of the master's clock.
    Now,
    /// ns since 1970.
    At(i64),
}

/// Attributes to set; what is `None` stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NewAttr {
    /// Permission, set-id and sticky bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes: cut off, or continued with zeros.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<NewTime>,
    /// Last change of the content.
    pub mtime: Option<NewTime>,
}

/// What is to be changed in a file's allocation, as `fallocate(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allocation {
    /// The first byte.
    pub offset: u64,
    /// The number of bytes, not 0.
    pub length: u64,
    /// `FALLOC_FL_*` bits. What the origin cannot do it refuses.
    pub mode: u32,
}

/// Bytes to be copied from one file into another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopiedRange {
    /// The file that they are of.
    pub from: GlobalPath,
    /// Its content; if it is no longer that the change fails with `EOPNOTSUPP`, and who asked reads and writes.
    pub version: Version,
    /// The first byte of it.
    pub from_offset: u64,
    /// Where it comes to lie.
    pub offset: u64,
    /// How many, 1 to [`MAX_COPY`], and no more than there are.
    pub length: u64,
}

/// A change. No final symbolic link is followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A new name and what it stands for; `EEXIST` when there is one. Answer: its attributes.
    Make {
        /// The name.
        path: GlobalPath,
        /// What it stands for.
        new: NewFile,
        /// Of what is made.
        owner: Owner,
    },
    /// Another name for a file. Answer: its attributes.
    Link {
        /// The file.
        target: Target,
        /// The name.
        path: GlobalPath,
    },
    /// A name is taken away, and with the last one the file. Answer: nothing.
    Remove {
        /// The name.
        path: GlobalPath,
        /// Whether it must be that of an empty directory, or must not.
        directory: bool,
    },
    /// A file gets another name. Answer: nothing.
    Rename {
        /// The name that it has.
        from: GlobalPath,
        /// The name that it gets.
        to: GlobalPath,
        /// If that is there already.
        existing: Existing,
    },
    /// Attributes are set: owner, mode, length, times, in this order. Answer: those of the file afterwards.
    SetAttr {
        /// The file.
        target: Target,
        /// The attributes.
        attr: NewAttr,
    },
    /// An extended attribute is set. Answer: the file's attributes afterwards.
    SetXattr {
        /// The file.
        target: Target,
        /// Its name, 1 to `MAX_NAME` bytes.
        name: Bytes,
        /// Its value, at most `MAX_XATTR` bytes.
        value: Bytes,
        /// Whether one may be there already, or must be.
        existing: Existing,
    },
    /// An extended attribute is taken away. Answer: the file's attributes afterwards.
    RemoveXattr {
        /// The file.
        target: Target,
        /// Its name.
        name: Bytes,
    },
    /// Bytes are written into a regular file, all or an error. Answer: its attributes afterwards.
    Write {
        /// The file.
        target: Target,
        /// Where; `None`: at the end.
        offset: Option<u64>,
        /// 1 to `MAX_WRITE` bytes.
        data: Bytes,
    },
    /// Space is allocated or freed. Answer: the file's attributes afterwards.
    Allocate {
        /// The file.
        target: Target,
        /// What.
        allocation: Allocation,
    },
    /// What was changed in a file or directory survives a crash of the master once this is answered. Answer: its
    /// attributes.
    Sync {
        /// The file.
        target: Target,
        /// Only its content and what is needed to read it.
        data_only: bool,
    },
    /// Bytes of another file are copied into a regular file, all or an error. Answer: its attributes afterwards.
    Copy {
        /// The file that they are copied to.
        target: Target,
        /// What.
        range: CopiedRange,
    },
    /// The node that asks sees the origin by itself, has the file open there to write, and its kernel is about to write to
    /// it; refused with `EOPNOTSUPP` where that may not be. Counts until nobody has it open. Answer: its attributes.
    OpenDirect {
        /// The file.
        target: Target,
    },
    /// It has been written to that way: whoever is told of changes hears of it. Answer: its attributes.
    LookDirect {
        /// The file.
        target: Target,
    },
}

impl Change {
    /// The names that stand for something else afterwards, or for something with other attributes.
    pub fn paths(&self) -> impl Iterator<Item = &GlobalPath> {
        let (one, other) = match self {
            Self::Make { path, .. } | Self::Remove { path, .. } => (path, None),
            Self::Link { target, path } => (path, Some(&target.path)),
            Self::Rename { from, to, .. } => (from, Some(to)),
            Self::SetAttr { target, .. }
            | Self::SetXattr { target, .. }
            | Self::RemoveXattr { target, .. }
            | Self::Write { target, .. }
            | Self::Allocate { target, .. }
            | Self::Sync { target, .. }
            | Self::Copy { target, .. }
            | Self::OpenDirect { target }
            | Self::LookDirect { target } => (&target.path, None),
        };
        std::iter::once(one).chain(other)
    }

    /// A file that is read for it, by the same site.
    pub fn source(&self) -> Option<&GlobalPath> {
        match self {
            Self::Copy { range, .. } => Some(&range.from),
            _ => None,
        }
    }

    /// Whether names are made or taken away, so that their directories change.
    pub fn is_of_names(&self) -> bool {
        matches!(self, Self::Make { .. } | Self::Link { .. } | Self::Remove { .. } | Self::Rename { .. })
    }

    /// The one directory in which a name is made or taken away.
    pub fn directory(&self) -> Option<GlobalPath> {
        match self {
            Self::Make { path, .. } | Self::Link { path, .. } | Self::Remove { path, .. } => path.parent(),
            Self::Rename { from, to, .. } => {
                to.parent().filter(|parent| from.parent().as_ref() == Some(parent))
            }
            _ => None,
        }
    }

    /// Bytes of content that it brings.
    pub fn carries(&self) -> usize {
        match self {
            Self::Write { data, .. } => data.len(),
            _ => 0,
        }
    }

    /// Whether everything is as it was before: it asks whether something could be changed, or for what was to be kept.
    pub fn is_without_effect(&self) -> bool {
        match self {
            Self::SetAttr { attr, .. } => *attr == NewAttr::default(),
            Self::Sync { .. } => true,
            _ => false,
        }
    }

    pub(crate) fn encode<'w>(&self, w: &'w mut Writer) -> &'w mut Writer {
        match self {
            Self::Make { path, new, owner } => {
                new.encode(w.u8(1).path(path)).u32(owner.uid).u32(owner.gid).u32(owner.mode)
            }
            Self::Link { target, path } => target.encode(w.u8(2)).path(path),
            Self::Remove { path, directory } => w.u8(3).path(path).u8((*directory).into()),
            Self::Rename { from, to, existing } => w.u8(4).path(from).path(to).u8(*existing as u8),
            Self::SetAttr { target, attr } => attr.encode(target.encode(w.u8(5))),
            Self::SetXattr { target, name, value, existing } => {
                target.encode(w.u8(6)).bytes(name).bytes(value).u8(*existing as u8)
            }
            Self::RemoveXattr { target, name } => target.encode(w.u8(7)).bytes(name),
            Self::Write { target, offset, data } => {
                option(target.encode(w.u8(8)), *offset, |w, offset| w.u64(offset)).last_bytes(data)
            }
            Self::Allocate { target, allocation: Allocation { offset, length, mode } } => {
                target.encode(w.u8(9)).u64(*offset).u64(*length).u32(*mode)
            }
            Self::Sync { target, data_only } => target.encode(w.u8(10)).u8((*data_only).into()),
            Self::Copy { target, range: CopiedRange { from, version, from_offset, offset, length } } => {
                let w = target.encode(w.u8(11)).path(from).version(version);
                w.u64(*from_offset).u64(*offset).u64(*length)
            }
            Self::OpenDirect { target } => target.encode(w.u8(12)),
            Self::LookDirect { target } => target.encode(w.u8(13)),
        }
    }

    pub(crate) fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        Ok(match r.u8()? {
            1 => Self::Make { path: r.path()?, new: NewFile::decode(r)?, owner: Owner::decode(r)? },
            2 => Self::Link { target: Target::decode(r)?, path: r.path()? },
            3 => Self::Remove { path: r.path()?, directory: decode_bool(r)? },
            4 => Self::Rename { from: r.path()?, to: r.path()?, existing: Existing::decode(r)? },
            5 => Self::SetAttr { target: Target::decode(r)?, attr: NewAttr::decode(r)? },
            6 => Self::SetXattr {
                target: Target::decode(r)?,
                name: decode_name(r)?,
                value: within(r.bytes()?, 0, MAX_XATTR)?,
                existing: Existing::decode(r)?,
            },
            7 => Self::RemoveXattr { target: Target::decode(r)?, name: decode_name(r)? },
            8 => Self::Write {
                target: Target::decode(r)?,
                offset: decode_option(r, Reader::u64)?,
                data: within(r.bytes()?, 1, MAX_WRITE)?,
            },
            9 => {
                let target = Target::decode(r)?;
                let allocation = Allocation { offset: r.u64()?, length: r.u64()?, mode: r.u32()? };
                Self::Allocate { target, allocation }
            }
            10 => Self::Sync { target: Target::decode(r)?, data_only: decode_bool(r)? },
            11 => Self::Copy { target: Target::decode(r)?, range: CopiedRange::decode(r)? },
            12 => Self::OpenDirect { target: Target::decode(r)? },
            13 => Self::LookDirect { target: Target::decode(r)? },
            other => return Err(DecodeError::Unknown("change", other)),
        })
    }
}

impl Target {
    fn encode<'w>(&self, w: &'w mut Writer) -> &'w mut Writer {
        w.path(&self.path).u64(self.file.origin).u64(self.file.inode)
    }

    fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self { path: r.path()?, file: FileId { origin: r.u64()?, inode: r.u64()? } })
    }
}

impl CopiedRange {
    fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        let (from, version) = (r.path()?, r.version()?);
        let (from_offset, offset, length) = (r.u64()?, r.u64()?, r.u64()?);
        let is_within = |offset: u64| offset.checked_add(length).is_some_and(|end| end <= i64::MAX as u64);
        if !(1..=MAX_COPY).contains(&length) || !is_within(from_offset) || !is_within(offset) {
            return Err(DecodeError::OutOfRange("a range to copy"));
        }
        Ok(Self { from, version, from_offset, offset, length })
    }
}

impl Owner {
    fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        let (uid, gid, mode) = (r.u32()?, r.u32()?, r.u32()?);
        if mode > 0o7777 { Err(DecodeError::OutOfRange("a mode")) } else { Ok(Self { uid, gid, mode }) }
    }
}

impl NewFile {
    /// What kind of file it will be.
    pub fn kind(&self) -> FileKind {
        match self {
            Self::Regular => FileKind::Regular,
            Self::Directory => FileKind::Directory,
            Self::Symlink(_) => FileKind::Symlink,
            Self::Special(kind, _) => *kind,
        }
    }

    fn encode<'w>(&self, w: &'w mut Writer) -> &'w mut Writer {
        w.u8(self.kind() as u8);
        match self {
            Self::Regular | Self::Directory => w,
            Self::Symlink(target) => w.bytes(target),
            Self::Special(_, device) => w.u64(*device),
        }
    }

    fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        let number = r.u8()?;
        Ok(match FileKind::from_wire(number).ok_or(DecodeError::Unknown("kind of file", number))? {
            FileKind::Regular => Self::Regular,
            FileKind::Directory => Self::Directory,
            FileKind::Symlink => Self::Symlink(within(r.bytes()?, 1, MAX_PATH)?),
            special => Self::Special(special, r.u64()?),
        })
    }
}

impl Existing {
    fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        match r.u8()? {
            0 => Ok(Self::Replace),
            1 => Ok(Self::Refuse),
            2 => Ok(Self::Exchange),
            other => Err(DecodeError::Unknown("way with what exists", other)),
        }
    }
}

impl NewAttr {
    fn encode<'w>(&self, w: &'w mut Writer) -> &'w mut Writer {
        let w = option(w, self.mode, |w, mode| w.u32(mode));
        let w = option(w, self.uid, |w, uid| w.u32(uid));
        let w = option(w, self.gid, |w, gid| w.u32(gid));
        let w = option(w, self.size, |w, size| w.u64(size));
        NewTime::encode(NewTime::encode(w, self.atime), self.mtime)
    }

    fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        let mode = decode_option(r, Reader::u32)?;
        if mode.is_some_and(|mode| mode > 0o7777) {
            return Err(DecodeError::OutOfRange("a mode"));
        }
        Ok(Self {
            mode,
            uid: decode_option(r, Reader::u32)?,
            gid: decode_option(r, Reader::u32)?,
            size: decode_option(r, Reader::u64)?,
            atime: NewTime::decode(r)?,
            mtime: NewTime::decode(r)?,
        })
    }
}

impl NewTime {
    fn encode(w: &mut Writer, time: Option<Self>) -> &mut Writer {
        match time {
            None => w.u8(0),
            Some(Self::Now) => w.u8(1),
            Some(Self::At(ns)) => w.u8(2).i64(ns),
        }
    }

    fn decode(r: &mut Reader) -> Result<Option<Self>, DecodeError> {
        Ok(match r.u8()? {
            0 => None,
            1 => Some(Self::Now),
            2 => Some(Self::At(r.i64()?)),
            other => return Err(DecodeError::Unknown("time", other)),
        })
    }
}

pub(crate) fn option<T>(
    w: &mut Writer,
    value: Option<T>,
    some: impl FnOnce(&mut Writer, T) -> &mut Writer,
) -> &mut Writer {
    match value {
        None => w.u8(0),
        Some(value) => some(w.u8(1), value),
    }
}

pub(crate) fn decode_option<T>(
    r: &mut Reader,
    some: impl FnOnce(&mut Reader) -> Result<T, DecodeError>,
) -> Result<Option<T>, DecodeError> {
    if decode_bool(r)? { some(r).map(Some) } else { Ok(None) }
}

pub(crate) fn decode_bool(r: &mut Reader) -> Result<bool, DecodeError> {
    match r.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(DecodeError::Unknown("yes or no", other)),
    }
}

fn decode_name(r: &mut Reader) -> Result<Bytes, DecodeError> {
    within(r.bytes()?, 1, MAX_NAME)
}

fn within(bytes: Bytes, least: usize, most: usize) -> Result<Bytes, DecodeError> {
    if (least..=most).contains(&bytes.len()) {
        Ok(bytes)
    } else {
        Err(DecodeError::OutOfRange("a number of bytes"))
    }
}

#[cfg(test)]
#[path = "change_tests.rs"]
mod tests;
