//! What is known of a replica's paths at the site that has it, and what is to be done about one of them.
//!
//! *Invariants:* what this site did not bring is neither changed nor removed; a copy that others changed is theirs. A path
//! whose bringing was begun is this site's own as long as it looks as it was left, so that a crash in between does not turn
//! own copies into strangers.

use globalfs_proto::{Attr, DecodeError, FileKind, Reader, Version, Writer};
use std::sync::Arc;
use std::time::Duration;

/// When a replica's file is brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// When it is there.
    AtOnce,
    /// When it has been quiet for a moment.
    InBackground,
    /// When it was read here.
    OnceRead,
}

/// How a path that this site is to have is brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The policy that says so.
    pub policy: Arc<str>,
    /// When it is brought.
    pub when: When,
    /// Higher goes first.
    pub priority: i32,
    /// After so long it is brought although it still changes.
    pub patience: Duration,
    /// What is missing for longer is late.
    pub deadline: Option<Duration>,
}

/// What is kept of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its attributes at its master, as they were when it was brought.
    pub master: Attr,
    /// What it is here.
    pub here: Here,
}

/// What a path is at the replica's site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Here {
    /// Brought, as of this version in this site's origin.
    Copy(Version),
    /// Being brought; until then it is what it was before.
    Bringing(Option<Before>),
    /// A directory that was there before.
    Shared,
}

/// A copy that is to be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Before {
    /// What it is of.
    pub master: Attr,
    /// Its version in this site's origin.
    pub copy: Version,
}

/// What to do about a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is as it should be.
    Keep,
    /// A directory that others made serves as it is.
    Share,
    /// It is made what it is at the master.
    Bring,
    /// It is removed.
    Remove,
    /// There is nothing to remember.
    Forget,
    /// Something is there that this site did not bring, or that others changed since.
    Obstructed,
}

/// What to do about a path that is `master` at its master, `here` in this site's origin, with what is kept of it.
pub fn decide(record: Option<&Record>, master: Option<&Attr>, here: Option<&Attr>) -> Step {
    let (Some(record), Some(found)) = (record, here) else {
        return match (record, master, here) {
            (_, None, None) => Step::Forget,
            (_, Some(_), None) => Step::Bring,
            (_, Some(master), Some(here)) if are_directories(master, here) => Step::Share,
            (_, Some(_), Some(_)) => Step::Obstructed,
            (_, None, Some(_)) => Step::Forget,
        };
    };
    match (record.here, master) {
        (Here::Shared, Some(master)) if are_directories(master, found) => {
            if record.is_of(master) {
                Step::Keep
            } else {
                Step::Share
            }
        }
        (Here::Shared, None) => Step::Forget,
        (Here::Shared, Some(_)) => Step::Obstructed,
        _ if !record.is_own(found) => Step::Obstructed,
        (_, None) => Step::Remove,
        (Here::Copy(copy), Some(master)) if record.is_of(master) && is_same(&copy, found) => Step::Keep,
        (_, Some(_)) => Step::Bring,
    }
}

/// Whether what was brought with the attributes `master` is still as it was made.
pub fn is_as_brought(master: &Attr, here: &Attr) -> bool {
    let looks = |attr: &Attr| (attr.kind, attr.size, attr.mtime_ns);
    match master.kind {
        FileKind::Directory => here.kind == FileKind::Directory,
        FileKind::Symlink => (here.kind, here.size) == (master.kind, master.size),
        _ => looks(here) == looks(master),
    }
}

/// What is in a directory has its own records.
fn is_same(copy: &Version, found: &Attr) -> bool {
    found.kind == FileKind::Directory || *copy == found.version()
}

fn are_directories(one: &Attr, other: &Attr) -> bool {
    (one.kind, other.kind) == (FileKind::Directory, FileKind::Directory)
}

impl Record {
    /// Whether it tells of what has these attributes at the master.
    pub fn is_of(&self, master: &Attr) -> bool {
        (self.master.kind, self.master.version()) == (master.kind, master.version())
    }

    /// Whether the master had another content after this one, of the same file or in its place.
    pub fn is_older_than(&self, master: &Attr) -> bool {
        !self.is_of(master) && self.master.ctime_ns <= master.ctime_ns
    }

    /// Whether nothing is under way.
    pub fn is_settled(&self) -> bool {
        !matches!(self.here, Here::Bringing(_))
    }

    /// The copy of the content `version`, if there is one.
    pub fn copy_of(&self, version: &Version) -> Option<Version> {
        let (master, copy) = self.copy()?;
        (master.version() == *version).then_some(copy)
    }

    /// What is to be told of the path while its master is away.
    pub fn told(&self) -> Option<Attr> {
        match self.here {
            Here::Shared => Some(self.master),
            _ => self.copy().map(|(master, _)| master),
        }
    }

    /// This record while the path becomes `master`.
    pub fn bringing(record: Option<&Self>, master: Attr) -> Self {
        let before = record.and_then(Self::copy).map(|(master, copy)| Before { master, copy });
        Self { master, here: Here::Bringing(before) }
    }

    fn copy(&self) -> Option<(Attr, Version)> {
        match self.here {
            Here::Copy(copy) => Some((self.master, copy)),
            Here::Bringing(before) => before.map(|before| (before.master, before.copy)),
            Here::Shared => None,
        }
    }

    /// Whether `found` is what this site made. Where its content cannot have been changed but by who set the time back, it
    /// is brought again and not given away.
    fn is_own(&self, found: &Attr) -> bool {
        let is_copy = |master: &Attr, copy: &Version| copy.file == found.file && is_as_brought(master, found);
        let is_before = self.copy().is_some_and(|(master, copy)| is_copy(&master, &copy));
        match self.here {
            Here::Shared => false,
            _ if found.kind == FileKind::Directory => self.master.kind == FileKind::Directory || is_before,
            Here::Copy(_) => is_before,
            Here::Bringing(_) => is_before || is_as_brought(&self.master, found),
        }
    }

    /// Its stored form.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.attr(&self.master);
        match &self.here {
            Here::Shared => w.u8(0),
            Here::Copy(version) => w.u8(1).version(version),
            Here::Bringing(None) => w.u8(2),
            Here::Bringing(Some(before)) => w.u8(3).attr(&before.master).version(&before.copy),
        };
        w.finish().to_vec()
    }

    /// What was stored.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes::Bytes::copy_from_slice(bytes));
        let master = r.attr()?;
        let here = match r.u8()? {
            0 => Here::Shared,
            1 => Here::Copy(r.version()?),
            2 => Here::Bringing(None),
            3 => Here::Bringing(Some(Before { master: r.attr()?, copy: r.version()? })),
            other => return Err(DecodeError::Unknown("state of a replica", other)),
        };
        r.finish().map(|()| Self { master, here })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use globalfs_proto::FileId;

    fn attr(origin: u64, kind: FileKind, size: u64, mtime_ns: i64) -> Attr {
        let file = FileId { origin, inode: 7 };
        Attr {
            file,
            kind,
            mode: 0o644,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            size,
            blocks: 8,
            atime_ns: 0,
            mtime_ns,
            ctime_ns: mtime_ns + 1,
            no_xattrs: true,
        }
    }

    fn file(origin: u64, mtime_ns: i64) -> Attr {
        attr(origin, FileKind::Regular, 3, mtime_ns)
    }

    fn directory(origin: u64) -> Attr {
        attr(origin, FileKind::Directory, 4096, 1)
    }

    fn record(master: Attr, here: Here) -> Record {
        Record { master, here }
    }

    #[test]
    fn what_was_not_brought_is_left_alone() {
        let (master, here) = (file(1, 5), file(2, 5));
        assert_eq!(decide(None, Some(&master), Some(&here)), Step::Obstructed);
        assert_eq!(decide(None, None, Some(&here)), Step::Forget);
        assert_eq!(decide(None, Some(&master), None), Step::Bring);
        assert_eq!(decide(None, Some(&directory(1)), Some(&directory(2))), Step::Share);
        assert_eq!(decide(None, Some(&directory(1)), Some(&here)), Step::Obstructed);
        let shared = record(directory(1), Here::Shared);
        assert_eq!(decide(Some(&shared), None, Some(&directory(2))), Step::Forget);
        assert_eq!(decide(Some(&shared), Some(&master), Some(&directory(2))), Step::Obstructed);
        assert_eq!(decide(Some(&shared), Some(&directory(1)), Some(&directory(2))), Step::Keep);
    }

    #[test]
    fn a_copy_follows_its_master_until_others_change_it() {
        let (master, here) = (file(1, 5), file(2, 5));
        let copy = record(master, Here::Copy(here.version()));
        assert_eq!(decide(Some(&copy), Some(&master), Some(&here)), Step::Keep);
        assert_eq!(decide(Some(&copy), Some(&file(1, 6)), Some(&here)), Step::Bring);
        assert_eq!(decide(Some(&copy), None, Some(&here)), Step::Remove);
        assert_eq!(decide(Some(&copy), Some(&master), None), Step::Bring, "others removed it");
        let touched = Attr { ctime_ns: 99, ..here };
        assert_eq!(decide(Some(&copy), Some(&master), Some(&touched)), Step::Bring, "its content may differ");
        let changed = Attr { mtime_ns: 98, ..touched };
        for master in [Some(&master), None] {
            assert_eq!(decide(Some(&copy), master, Some(&changed)), Step::Obstructed);
        }
        assert_eq!(copy.copy_of(&master.version()), Some(here.version()));
        assert_eq!(copy.copy_of(&file(1, 6).version()), None);
    }

    #[test]
    fn what_a_crash_has_left_is_own() {
        let (before, after) = (file(2, 5), Attr { ctime_ns: 77, ..file(3, 6) });
        let copy = record(file(1, 5), Here::Copy(before.version()));
        let begun = Record::bringing(Some(&copy), file(1, 6));
        for here in [&before, &after] {
            assert_eq!(decide(Some(&begun), Some(&file(1, 6)), Some(here)), Step::Bring);
            assert_eq!(decide(Some(&begun), None, Some(here)), Step::Remove);
        }
        assert_eq!(decide(Some(&begun), Some(&file(1, 6)), Some(&file(2, 8))), Step::Obstructed);
        assert_eq!(begun.copy_of(&file(1, 6).version()), None, "nobody reads what is not complete");
        assert_eq!(begun.copy_of(&file(1, 5).version()), Some(before.version()));
        assert_eq!(begun.told(), Some(file(1, 5)));
        assert_eq!(Record::bringing(None, file(1, 6)).told(), None);
    }

    #[test]
    fn a_record_is_kept_as_it_is() {
        let version = file(2, 5).version();
        let before = Some(Before { master: file(1, 4), copy: version });
        for here in [Here::Shared, Here::Copy(version), Here::Bringing(None), Here::Bringing(before)] {
            let record = record(file(1, 5), here);
            assert_eq!(Record::decode(&record.encode()), Ok(record));
        }
        assert!(Record::decode(b"").is_err());
    }
}
