//! The system calls of an origin that change it. They block.
//!
//! Who asks is a node of this site, whose kernel has checked that the user may; what is made is given to the user.
//!
//! *Invariants:* as for the rest of the origin no name leads outside; a file whose content or attributes are changed is the
//! one that was meant, whatever has taken its place; changes of one file that tell its content before and after come one
//! after another.

use super::details::has_no_xattrs;
use super::tree::{EINVAL, EISDIR, Tree, os, proc_path, resolve_in};
use crate::source::Deadline;
use globalfs_proto::limits::HIDDEN_PREFIX;
use globalfs_proto::{
    Allocation, Attr, Change, Changed, CopiedRange, Existing, FileKind, FsError, FsResult, GlobalPath,
    NewAttr, NewFile, NewTime, Owner, Target, Version,
};
use parking_lot::{Mutex, MutexGuard};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Timespec,
    Timestamps, UTIME_NOW, UTIME_OMIT, Uid, XattrFlags,
};
use rustix::io::{Errno, Result};
use std::sync::OnceLock;

/// Locks that the files share.
const LOCKS: usize = 64;

/// Of directories: what is made in them gets their group.
const SET_GID: u32 = 0o2000;

const DEFAULT_LIST: &str = "system.posix_acl_default";

/// `EOVERFLOW`, as the kernel says it where ids are mapped: a user or a group that the origin cannot have.
pub(super) const NO_SUCH_ID: FsError = FsError::Os(75);

/// Who changes a file waits for who does so before.
#[derive(Debug)]
pub(super) struct Changes([Mutex<()>; LOCKS]);

impl Default for Changes {
    fn default() -> Self {
        Self([const { Mutex::new(()) }; LOCKS])
    }
}

impl Changes {
    /// The turn to change `target`, if it comes before `deadline`.
    pub(super) fn lock(&self, target: &Target, deadline: Deadline) -> FsResult<MutexGuard<'_, ()>> {
        let lock = &self.0[target.file.inode as usize % LOCKS];
        let turn = lock.try_lock_for(deadline.remaining()).ok_or(FsError::Deadline)?;
        if deadline.remaining().is_zero() { Err(FsError::Deadline) } else { Ok(turn) }
    }

    /// Nothing is begun after `deadline`: who asked was told then that it failed, and may have changed something else.
    pub(super) fn apply(&self, tree: &Tree, change: &Change, deadline: Deadline) -> FsResult<Changed> {
        if deadline.remaining().is_zero() {
            return Err(FsError::Deadline);
        }
        match change {
            Change::Make { path, new, owner } => make(tree, path, new, stored_owner(tree, *owner)?),
            Change::Link { target, path } => link(tree, target, path),
            Change::Remove { path, directory } => remove(tree, path, *directory),
            Change::Rename { from, to, existing } => rename(tree, from, to, *existing),
            Change::SetAttr { target, attr } => self.within(tree, target, deadline, |found, before| {
                set_attr(found, before, &stored_attr(tree, found, before, attr)?)
            }),
            Change::SetXattr { target, name, value, existing } => {
                let value = tree.ids().stored_xattr(name, value).ok_or(NO_SUCH_ID)?;
                self.within(tree, target, deadline, |found, _| {
                    let flags = match existing {
                        Existing::Replace => XattrFlags::empty(),
                        Existing::Refuse => XattrFlags::CREATE,
                        Existing::Exchange => XattrFlags::REPLACE,
                    };
                    rustix::fs::setxattr(proc_path(found), &name[..], &value, flags).map_err(os)
                })
            }
            Change::RemoveXattr { target, name } => self.within(tree, target, deadline, |found, _| {
                rustix::fs::removexattr(proc_path(found), &name[..]).map_err(os)
            }),
            Change::Write { target, offset, data } => {
                self.within(tree, target, deadline, |found, before| write(found, before, *offset, data))
            }
            Change::Allocate { target, allocation } => {
                self.within(tree, target, deadline, |found, before| allocate(found, before, *allocation))
            }
            Change::Copy { target, range } => {
                self.within(tree, target, deadline, |found, before| copy(tree, found, before, range))
            }
            Change::Sync { target, data_only } => {
                self.within(tree, target, deadline, |found, before| sync(found, before, *data_only))
            }
            Change::OpenDirect { target } | Change::LookDirect { target } => {
                self.within(tree, target, deadline, |_, _| Ok(()))
            }
        }
    }

    /// Does `work` with the file that is meant, and tells what it was before and is afterwards.
    fn within(
        &self,
        tree: &Tree,
        target: &Target,
        deadline: Deadline,
        work: impl FnOnce(&OwnedFd, &Attr) -> FsResult<()>,
    ) -> FsResult<Changed> {
        let _turn = self.lock(target, deadline)?;
        let (found, before) = find(tree, target)?;
        work(&found, &before)?;
        Ok(Changed {
            before: Some(before.version()),
            attr: Some(attr_of(tree, &found)?),
            ..Changed::default()
        })
    }
}

/// Who makes something, as the origin has them.
fn stored_owner(tree: &Tree, owner: Owner) -> FsResult<Owner> {
    let uid = tree.ids().maker_uid(owner.uid).ok_or(NO_SUCH_ID)?;
    let gid = tree.ids().maker_gid(owner.gid).ok_or(NO_SUCH_ID)?;
    Ok(Owner { uid, gid, ..owner })
}

/// What is to be set, as the origin has it. Who is shown as the owner already stays it, whoever that is.
fn stored_attr(tree: &Tree, found: &OwnedFd, before: &Attr, new: &NewAttr) -> FsResult<NewAttr> {
    if tree.ids().is_plain() || (new.uid, new.gid) == (None, None) {
        return Ok(*new);
    }
    let (here, ids) = (tree.stored_attr(found)?, tree.ids());
    let uid = |uid| if uid == before.uid { Some(here.uid) } else { ids.maker_uid(uid) };
    let gid = |gid| if gid == before.gid { Some(here.gid) } else { ids.maker_gid(gid) };
    let uid = new.uid.map(|new| uid(new).ok_or(NO_SUCH_ID)).transpose()?;
    let gid = new.gid.map(|new| gid(new).ok_or(NO_SUCH_ID)).transpose()?;
    Ok(NewAttr { uid, gid, ..*new })
}

/// What was made, and the directory in which it was.
fn told(tree: &Tree, attr: Attr, place: &Place<'_>) -> Changed {
    Changed { attr: Some(attr), ..left(tree, place) }
}

/// The directory in which a name was changed. Nothing has failed if that is not to be had.
fn left(tree: &Tree, place: &Place<'_>) -> Changed {
    Changed { directory: attr_of(tree, &place.directory).ok(), ..Changed::default() }
}

fn attr_of(tree: &Tree, found: &OwnedFd) -> FsResult<Attr> {
    Ok(Attr { no_xattrs: has_no_xattrs(found), ..tree.attr(found)? })
}

fn find(tree: &Tree, target: &Target) -> FsResult<(OwnedFd, Attr)> {
    let found = tree.find(&target.path).map_err(os)?;
    let attr = tree.attr(&found)?;
    if attr.file == target.file { Ok((found, attr)) } else { Err(FsError::Stale(Some(Box::new(attr)))) }
}

/// A name in a directory that is open.
pub(super) struct Place<'p> {
    pub(super) directory: OwnedFd,
    pub(super) name: &'p [u8],
}

impl<'p> Place<'p> {
    /// The root has no name that could be changed.
    pub(super) fn of(tree: &Tree, path: &'p GlobalPath) -> FsResult<Self> {
        const EBUSY: FsError = FsError::Os(16);
        let parent = path.parent().ok_or(EBUSY)?;
        let directory = tree.resolve(&parent, OFlags::PATH | OFlags::DIRECTORY).map_err(os)?;
        Ok(Self { directory, name: path.name() })
    }

    fn find(&self) -> Result<OwnedFd> {
        resolve_in(&self.directory, self.name, OFlags::PATH | OFlags::NOFOLLOW, ResolveFlags::empty())
    }

    /// Renames it to a `name` that must be free. Not every file system can say so; there a second link is made first,
    /// but for directories, whose name is looked for before.
    fn give_name(&self, name: &Place<'_>, directory: bool) -> Result<()> {
        let (from, to) = ((&self.directory, self.name), (&name.directory, name.name));
        match rustix::fs::renameat_with(from.0, from.1, to.0, to.1, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS) if directory => match name.find() {
                Ok(_) => Err(Errno::EXIST),
                Err(Errno::NOENT) => rustix::fs::renameat(from.0, from.1, to.0, to.1),
                Err(error) => Err(error),
            },
            Err(Errno::INVAL | Errno::NOSYS) => {
                rustix::fs::linkat(from.0, from.1, to.0, to.1, AtFlags::empty())?;
                self.remove(false)
            }
            renamed => renamed,
        }
    }

    pub(super) fn remove(&self, directory: bool) -> Result<()> {
        let flags = if directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        rustix::fs::unlinkat(&self.directory, self.name, flags)
    }
}

fn make(tree: &Tree, path: &GlobalPath, new: &NewFile, owner: Owner) -> FsResult<Changed> {
    let place = Place::of(tree, path)?;
    let parent = tree.stored_attr(&place.directory)?;
    let found = match is_born_right(&place, new, &parent, owner) {
        true => make_node(&place, new, owner.mode).and_then(|()| place.find()),
        false => make_aside(&place, new, &parent, owner),
    };
    Ok(told(tree, attr_of(tree, &found.map_err(os)?)?, &place))
}

/// Whether what this process makes there belongs to `owner` from the beginning, with the right permissions.
fn is_born_right(place: &Place<'_>, new: &NewFile, parent: &Attr, owner: Owner) -> bool {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let gid = if parent.mode & SET_GID != 0 { parent.gid } else { gid };
    let keeps_mode = || owner.mode & (umask() | 0o7000) == 0 || has_default_list(&place.directory);
    (owner.uid, owner.gid) == (uid, gid) && (matches!(new, NewFile::Symlink(_)) || keeps_mode())
}

/// Permissions that the kernel takes from what this process makes.
fn umask() -> u32 {
    static UMASK: OnceLock<u32> = OnceLock::new();
    *UMASK.get_or_init(|| {
        // It can only be asked for by setting it.
        let umask = rustix::process::umask(Mode::RWXG | Mode::RWXO);
        rustix::process::umask(umask);
        umask.bits()
    })
}

/// Makes it under a name that nobody sees until it is what it will be, so that who dies here leaves nothing half made.
fn make_aside(place: &Place<'_>, new: &NewFile, parent: &Attr, owner: Owner) -> Result<OwnedFd> {
    let name = [HIDDEN_PREFIX, format!("made-{:032x}", rand::random::<u128>()).as_bytes()].concat();
    let aside = Place { directory: place.directory.try_clone().map_err(|_| Errno::MFILE)?, name: &name };
    make_node(&aside, new, owner.mode & 0o700)?;
    let finish = || {
        let found = aside.find()?;
        give(&found, new, parent, &aside, owner)?;
        aside.give_name(place, *new == NewFile::Directory)?;
        Ok(found)
    };
    finish().inspect_err(|_| {
        // If that fails, too, the first error says more.
        let _ = aside.remove(*new == NewFile::Directory);
    })
}

fn make_node(place: &Place<'_>, new: &NewFile, mode: u32) -> Result<()> {
    let (directory, name, mode) = (&place.directory, place.name, Mode::from_raw_mode(mode));
    match new {
        NewFile::Regular => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(directory, name, flags, mode).map(drop)
        }
        NewFile::Directory => rustix::fs::mkdirat(directory, name, mode),
        NewFile::Symlink(target) => rustix::fs::symlinkat(&target[..], directory, name),
        NewFile::Special(kind, device) => {
            let kind = match kind {
                FileKind::Fifo => FileType::Fifo,
                FileKind::Socket => FileType::Socket,
                FileKind::CharDevice => FileType::CharacterDevice,
                FileKind::BlockDevice => FileType::BlockDevice,
                _ => return Err(Errno::INVAL),
            };
            rustix::fs::mknodat(directory, name, kind, mode, *device)
        }
    }
}

/// Makes what is new that of who asked for it, with the permissions that it would have had there.
fn give(found: &OwnedFd, new: &NewFile, parent: &Attr, place: &Place<'_>, owner: Owner) -> Result<()> {
    let by_directory = parent.mode & SET_GID != 0;
    let gid = if by_directory { parent.gid } else { owner.gid };
    set_owner(found, Some(owner.uid), Some(gid))?;
    if matches!(new, NewFile::Symlink(_)) {
        return Ok(());
    }
    let directory_bit = if by_directory && *new == NewFile::Directory { SET_GID } else { 0 };
    let mut mode = owner.mode | directory_bit;
    if has_default_list(&place.directory) {
        // The list that was inherited grants what both it and the mode do.
        let inherited = rustix::fs::fstat(found)?.st_mode;
        mode = (mode & !0o070) | (mode & inherited & 0o070);
    }
    rustix::fs::chmod(proc_path(found), Mode::from_raw_mode(mode))
}

fn has_default_list(directory: &OwnedFd) -> bool {
    let mut nothing: [u8; 0] = [];
    rustix::fs::getxattr(proc_path(directory), DEFAULT_LIST, &mut nothing).is_ok_and(|length| length > 0)
}

fn set_owner(found: &OwnedFd, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
    rustix::fs::chownat(found, c"", uid, gid, AtFlags::EMPTY_PATH)
}

fn link(tree: &Tree, target: &Target, path: &GlobalPath) -> FsResult<Changed> {
    let ((found, _), place) = (find(tree, target)?, Place::of(tree, path)?);
    // By its handle's name: the one that is meant, be it a symbolic link.
    let from = proc_path(&found);
    rustix::fs::linkat(CWD, from, &place.directory, place.name, AtFlags::SYMLINK_FOLLOW).map_err(os)?;
    Ok(told(tree, attr_of(tree, &found)?, &place))
}

fn remove(tree: &Tree, path: &GlobalPath, directory: bool) -> FsResult<Changed> {
    let place = Place::of(tree, path)?;
    let before = if directory { None } else { linked(tree, &place) };
    place.remove(directory).map_err(os)?;
    Ok(Changed { before, ..left(tree, &place) })
}

/// The file at `place`, if it has further names: their attributes change with what happens to this one.
fn linked(tree: &Tree, place: &Place<'_>) -> Option<Version> {
    let attr = place.find().ok().and_then(|found| tree.attr(&found).ok())?;
    (attr.kind != FileKind::Directory && attr.nlink > 1).then(|| attr.version())
}

fn rename(tree: &Tree, from: &GlobalPath, to: &GlobalPath, existing: Existing) -> FsResult<Changed> {
    let is_within = from.parent() == to.parent();
    let (from, to) = (Place::of(tree, from)?, Place::of(tree, to)?);
    let flags = match existing {
        Existing::Replace => RenameFlags::empty(),
        Existing::Refuse => RenameFlags::NOREPLACE,
        Existing::Exchange => RenameFlags::EXCHANGE,
    };
    let before = if existing == Existing::Replace { linked(tree, &to) } else { None };
    rustix::fs::renameat_with(&from.directory, from.name, &to.directory, to.name, flags).map_err(os)?;
    let changed = if is_within { left(tree, &to) } else { Changed::default() };
    Ok(Changed { before, ..changed })
}

/// The owner first, which takes set-id bits away; the length before the times, which it moves.
pub(super) fn set_attr(found: &OwnedFd, before: &Attr, new: &NewAttr) -> FsResult<()> {
    if new.uid.is_some() || new.gid.is_some() {
        set_owner(found, new.uid, new.gid).map_err(os)?;
    }
    if let Some(mode) = new.mode {
        if before.kind == FileKind::Symlink {
            return Err(FsError::Os(Errno::OPNOTSUPP.raw_os_error()));
        }
        rustix::fs::chmod(proc_path(found), Mode::from_raw_mode(mode)).map_err(os)?;
    }
    if let Some(size) = new.size {
        rustix::fs::ftruncate(open(found, before, OFlags::WRONLY)?, size).map_err(os)?;
    }
    if new.atime.is_some() || new.mtime.is_some() {
        let times = Timestamps { last_access: timespec(new.atime), last_modification: timespec(new.mtime) };
        rustix::fs::utimensat(found, c"", &times, AtFlags::EMPTY_PATH).map_err(os)?;
    }
    Ok(())
}

fn timespec(time: Option<NewTime>) -> Timespec {
    const SECOND: i64 = 1_000_000_000;
    match time {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(NewTime::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Some(NewTime::At(ns)) => Timespec { tv_sec: ns.div_euclid(SECOND), tv_nsec: ns.rem_euclid(SECOND) },
    }
}

/// Opens the regular file that `found` refers to.
fn open(found: &OwnedFd, attr: &Attr, flags: OFlags) -> FsResult<OwnedFd> {
    match attr.kind {
        FileKind::Regular => {}
        FileKind::Directory => return Err(EISDIR),
        _ => return Err(EINVAL),
    }
    rustix::fs::openat(CWD, proc_path(found), flags | OFlags::CLOEXEC, Mode::empty()).map_err(os)
}

fn write(found: &OwnedFd, before: &Attr, offset: Option<u64>, data: &[u8]) -> FsResult<()> {
    let append = if offset.is_none() { OFlags::APPEND } else { OFlags::empty() };
    let file = open(found, before, OFlags::WRONLY | append)?;
    let mut written = 0;
    while written < data.len() {
        let rest = &data[written..];
        let some = match offset {
            Some(offset) => rustix::io::pwrite(&file, rest, offset + written as u64),
            None => rustix::io::write(&file, rest),
        };
        written += match some {
            Ok(0) => return Err(FsError::Os(Errno::IO.raw_os_error())),
            Err(Errno::INTR) => 0,
            other => other.map_err(os)?,
        };
    }
    Ok(())
}

fn allocate(found: &OwnedFd, before: &Attr, allocation: Allocation) -> FsResult<()> {
    let Allocation { offset, length, mode } = allocation;
    let flags = FallocateFlags::from_bits_retain(mode);
    rustix::fs::fallocate(open(found, before, OFlags::RDWR)?, flags, offset, length).map_err(os)
}

/// Shares the bytes where the file system can. A source that is another one by now is for who asked to read.
fn copy(tree: &Tree, found: &OwnedFd, before: &Attr, range: &CopiedRange) -> FsResult<()> {
    let (source, attr) = tree.open_regular(&range.from).map_err(|_| FsError::NOT_SUPPORTED)?;
    if attr.version() != range.version {
        return Err(FsError::NOT_SUPPORTED);
    }
    let file = open(found, before, OFlags::WRONLY)?;
    let (mut from, mut to, mut left) = (range.from_offset, range.offset, range.length as usize);
    while left > 0 {
        left -= match rustix::fs::copy_file_range(&source, Some(&mut from), &file, Some(&mut to), left) {
            Ok(0) => return Err(FsError::Os(Errno::IO.raw_os_error())),
            Err(Errno::INTR) => 0,
            other => other.map_err(os)?,
        };
    }
    Ok(())
}

/// What is neither file nor directory has nothing to be kept but its name, which is its directory's.
fn sync(found: &OwnedFd, before: &Attr, data_only: bool) -> FsResult<()> {
    let kind = match before.kind {
        FileKind::Regular => OFlags::empty(),
        FileKind::Directory => OFlags::DIRECTORY,
        _ => return Ok(()),
    };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | kind;
    let file = rustix::fs::openat(CWD, proc_path(found), flags, Mode::empty()).map_err(os)?;
    let file = file.as_fd();
    if data_only { rustix::fs::fdatasync(file) } else { rustix::fs::fsync(file) }.map_err(os)
}
