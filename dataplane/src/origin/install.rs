//! Making a path of this origin what it is at another site. The calls block.
//!
//! *Invariants:* as everywhere in an origin no name leads outside. Content and attributes are complete under a hidden name
//! before a path gets them, so nobody ever sees half of a file; the hidden name follows from the path, so what an earlier
//! try has left is found, and replaced in the end.

use super::change::{NO_SUCH_ID, Place, set_attr};
use super::draft::{Draft, undress};
use super::tree::{EINVAL, EISDIR, Tree, os, proc_path, resolve_in, statx};
use crate::model::ids::IdMap;
use crate::source::Chunk;
use bytes::Bytes;
use globalfs_proto::limits::{HIDDEN_PREFIX, MAX_NAME};
use globalfs_proto::{Attr, Fence, FileKind, FsError, FsResult, GlobalPath, NewAttr, NewTime};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, XattrFlags};
use rustix::io::Errno;
use std::any::Any;
use std::fs::File;
use std::sync::Arc;

/// Attributes that this system gives by its own policy.
const NOT_CARRIED: &[u8] = b"security.selinux";

/// Deepest directory that is removed with all that is beneath it: deeper ones have no path.
const MAX_DEPTH: usize = 2048;

/// Extended attributes with their values.
pub(crate) type Xattrs = Vec<(Bytes, Bytes)>;

/// What is kept while a step runs, so that who comes next waits for its end.
pub(crate) type Turn = Arc<dyn Any + Send + Sync>;

impl Tree {
    /// The directory `path` is there; what else was there is not.
    pub(crate) fn install_directory(&self, path: &GlobalPath) -> FsResult<()> {
        if path.is_root() {
            return Ok(());
        }
        let place = Place::of(self, path)?;
        let make = || rustix::fs::mkdirat(&place.directory, place.name, Mode::RWXU).map_err(os);
        match self.kind_at(path)? {
            Some(FileKind::Directory) => Ok(()),
            Some(_) => place.remove(false).map_err(os).and_then(|()| make()),
            None => make(),
        }
    }

    /// A small file, its content included.
    pub(crate) fn install_file(
        &self,
        path: &GlobalPath,
        chunks: &[Chunk],
        attr: &Attr,
        xattrs: &Xattrs,
    ) -> FsResult<()> {
        let draft = self.draft(path, attr.size)?;
        let write = || {
            chunks.iter().try_for_each(|chunk| draft.write(chunk.index, &chunk.data))?;
            self.install_draft(path, &draft, attr, xattrs)
        };
        // To get a small file again costs less than what is left of it.
        write().inspect_err(|_| drop(self.drop_draft(path)))
    }

    /// The regular file that is at `path` now, if there is one.
    pub(crate) fn old_file(&self, path: &GlobalPath) -> FsResult<Option<(File, Attr)>> {
        match self.open_regular(path) {
            Ok(found) => Ok(Some(found)),
            Err(FsError::NOT_FOUND | FsError::NOT_A_DIRECTORY | EINVAL | EISDIR) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The draft of `path` takes its place, with these attributes.
    pub(crate) fn install_draft(
        &self,
        path: &GlobalPath,
        draft: &Draft,
        attr: &Attr,
        xattrs: &Xattrs,
    ) -> FsResult<()> {
        if draft.file.metadata()?.len() != attr.size {
            draft.file.set_len(attr.size)?;
        }
        let found = OwnedFd::from(draft.file.try_clone()?);
        // What is left is gone on with only if it is ours.
        dress(self.ids(), &found, attr, xattrs).inspect_err(|_| undress(&found))?;
        self.unhide(path)
    }

    /// A link, a pipe, a socket or a device takes its place at `path`.
    pub(crate) fn install_special(
        &self,
        path: &GlobalPath,
        attr: &Attr,
        target: Option<&[u8]>,
        xattrs: &Xattrs,
    ) -> FsResult<()> {
        let (hidden, place) = (hidden_name(path), Place::of(self, path)?);
        remove_at(&place.directory, &hidden, 0)?;
        let kind = match attr.kind {
            FileKind::Symlink => None,
            FileKind::Fifo => Some(FileType::Fifo),
            FileKind::Socket => Some(FileType::Socket),
            FileKind::CharDevice => Some(FileType::CharacterDevice),
            FileKind::BlockDevice => Some(FileType::BlockDevice),
            FileKind::Regular | FileKind::Directory => return Err(os(Errno::INVAL)),
        };
        match (kind, target) {
            (None, Some(target)) => {
                rustix::fs::symlinkat(target, &place.directory, &hidden[..]).map_err(os)?
            }
            (None, None) => return Err(os(Errno::INVAL)),
            (Some(kind), _) => {
                let mode = Mode::RUSR | Mode::WUSR;
                rustix::fs::mknodat(&place.directory, &hidden[..], kind, mode, attr.rdev).map_err(os)?;
            }
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let found = resolve_in(&place.directory, &hidden, flags, ResolveFlags::empty()).map_err(os)?;
        dress(self.ids(), &found, attr, xattrs)?;
        self.unhide(path)
    }

    /// `path` becomes another name of the file at `same_as`.
    pub(crate) fn install_link(&self, path: &GlobalPath, same_as: &GlobalPath) -> FsResult<()> {
        let (from, place, hidden) =
            (self.find(same_as).map_err(os)?, Place::of(self, path)?, hidden_name(path));
        if let Ok(there) = self.find(path)
            && self.attr(&there)?.file == self.attr(&from)?.file
        {
            return Ok(());
        }
        remove_at(&place.directory, &hidden, 0)?;
        let flags = AtFlags::SYMLINK_FOLLOW;
        rustix::fs::linkat(CWD, proc_path(&from), &place.directory, &hidden[..], flags).map_err(os)?;
        self.unhide(path)?;
        // Two names of one file are not made one by rename.
        remove_at(&place.directory, &hidden, 0)
    }

    /// What is at `path` gets these attributes.
    pub(crate) fn install_attributes(&self, path: &GlobalPath, attr: &Attr, xattrs: &Xattrs) -> FsResult<()> {
        let found = self.find(path).map_err(os)?;
        if self.attr(&found)?.kind != attr.kind {
            return Err(FsError::Stale(None));
        }
        dress(self.ids(), &found, attr, xattrs)
    }

    /// Nothing is at `path`, nor beneath it.
    pub(crate) fn install_absence(&self, path: &GlobalPath) -> FsResult<()> {
        let place = match Place::of(self, path) {
            Err(FsError::NOT_FOUND | FsError::NOT_A_DIRECTORY) => return Ok(()),
            place => place?,
        };
        remove_at(&place.directory, path.name(), 0)?;
        remove_at(&place.directory, &hidden_name(path), 0)
    }

    /// Removes a file, or a directory with nothing in it.
    pub(crate) fn remove_alone(&self, path: &GlobalPath, directory: bool) -> FsResult<()> {
        let place = Place::of(self, path)?;
        remove_at(&place.directory, &hidden_name(path), 0)?;
        place.remove(directory).map_err(os)
    }

    /// Moves `path` to a hidden name beside it.
    pub(crate) fn set_aside(&self, path: &GlobalPath, fence: Fence) -> FsResult<GlobalPath> {
        let place = Place::of(self, path)?;
        let label = format!("abandoned-{}-", fence.0);
        let kept = place.name.len().min(MAX_NAME - HIDDEN_PREFIX.len() - label.len());
        let name = [HIDDEN_PREFIX, label.as_bytes(), &place.name[..kept]].concat();
        rustix::fs::renameat(&place.directory, place.name, &place.directory, &name[..]).map_err(os)?;
        path.parent().unwrap_or_else(GlobalPath::root).join(&name).map_err(|_| os(Errno::NAMETOOLONG))
    }

    /// The kind of what is at `path`.
    pub(crate) fn kind_at(&self, path: &GlobalPath) -> FsResult<Option<FileKind>> {
        match self.find(path) {
            Ok(found) => Ok(Some(self.attr(&found)?.kind)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(os(error)),
        }
    }

    /// What has the hidden name of `path` takes its place.
    fn unhide(&self, path: &GlobalPath) -> FsResult<()> {
        let (hidden, place) = (hidden_name(path), Place::of(self, path)?);
        let rename = || rustix::fs::renameat(&place.directory, &hidden[..], &place.directory, place.name);
        match rename() {
            Err(Errno::ISDIR | Errno::EXIST | Errno::NOTEMPTY) => {
                remove_at(&place.directory, place.name, 0)?;
                rename().map_err(os)
            }
            renamed => renamed.map_err(os),
        }
    }
}

/// The name of what is to be at `path` while it is made.
pub(super) fn hidden_name(path: &GlobalPath) -> Vec<u8> {
    let hash = blake3::hash(path.as_bytes()).to_hex();
    [HIDDEN_PREFIX, b"home-", &hash.as_bytes()[..32]].concat()
}

/// Owner, extended attributes, mode and times, in the order in which none undoes another.
fn dress(ids: &IdMap, found: &OwnedFd, attr: &Attr, xattrs: &Xattrs) -> FsResult<()> {
    let (uid, gid) = (ids.stored_uid(attr.uid), ids.stored_gid(attr.gid));
    let (uid, gid) = (uid.ok_or(NO_SUCH_ID)?, gid.ok_or(NO_SUCH_ID)?);
    let now = statx(found).map_err(os)?;
    if (now.stx_uid, now.stx_gid) != (uid, gid) {
        let owner = NewAttr { uid: Some(uid), gid: Some(gid), ..NewAttr::default() };
        set_attr(found, attr, &owner)?;
    }
    if attr.kind != FileKind::Symlink {
        set_xattrs(ids, found, xattrs)?;
        set_attr(found, attr, &NewAttr { mode: Some(attr.mode), ..NewAttr::default() })?;
    }
    let times = NewAttr {
        atime: Some(NewTime::At(attr.atime_ns)),
        mtime: Some(NewTime::At(attr.mtime_ns)),
        ..NewAttr::default()
    };
    set_attr(found, attr, &times)
}

fn set_xattrs(ids: &IdMap, found: &OwnedFd, wanted: &Xattrs) -> FsResult<()> {
    let path = proc_path(found);
    if wanted.is_empty() && rustix::fs::listxattr_query(&path) == Ok(0) {
        return Ok(());
    }
    let mut names = Vec::with_capacity(globalfs_proto::limits::MAX_XATTR);
    match rustix::fs::listxattr(&path, rustix::buffer::spare_capacity(&mut names)) {
        Ok(_) | Err(Errno::OPNOTSUPP) => {}
        Err(error) => return Err(os(error)),
    }
    let here = names.split(|byte| *byte == 0).filter(|name| !name.is_empty() && *name != NOT_CARRIED);
    for name in here.filter(|name| !wanted.iter().any(|(other, _)| other == name)) {
        match rustix::fs::removexattr(&path, name) {
            Ok(()) | Err(Errno::NODATA) => {}
            Err(error) => return Err(os(error)),
        }
    }
    for (name, value) in wanted.iter().filter(|(name, _)| *name != NOT_CARRIED) {
        let value = ids.stored_xattr(name, value).ok_or(NO_SUCH_ID)?;
        rustix::fs::setxattr(&path, &name[..], &value, XattrFlags::empty()).map_err(os)?;
    }
    Ok(())
}

/// Removes `name` in `directory` with all that is beneath it; no link is followed.
pub(super) fn remove_at(directory: impl AsFd, name: &[u8], depth: usize) -> FsResult<()> {
    let directory = directory.as_fd();
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // Linux says the one, POSIX the other.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(os(error)),
    }
    if depth == MAX_DEPTH {
        return Err(os(Errno::NAMETOOLONG));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let below = resolve_in(directory, name, flags, ResolveFlags::NO_XDEV).map_err(os)?;
    for entry in Dir::read_from(&below).map_err(os)? {
        let entry = entry.map_err(os)?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            remove_at(&below, name, depth + 1)?;
        }
    }
    match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(os(error)),
    }
}
