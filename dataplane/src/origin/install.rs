//! Making a path of this origin what it is at another site. The calls block.
//!
//! *Invariants:* as everywhere in an origin no name leads outside. Content and attributes are complete under a hidden name
//! before a path gets them, so nobody ever sees half of a file; the hidden name follows from the path, so what an earlier
//! try has left is found, and replaced in the end.

use super::change::{Place, set_attr};
use super::tree::{EINVAL, EISDIR, Tree, os, proc_path, resolve_in};
use crate::source::Chunk;
use bytes::Bytes;
use globalfs_proto::limits::{HIDDEN_PREFIX, MAX_NAME};
use globalfs_proto::{
    Attr, ChunkHash, ChunkIndex, ChunkSpan, Fence, FileKind, FsError, FsResult, GlobalPath, NewAttr, NewTime,
};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, XattrFlags};
use rustix::io::Errno;
use std::any::Any;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Attributes that this system gives by its own policy.
const NOT_CARRIED: &[u8] = b"security.selinux";

/// Deepest directory that is removed with all that is beneath it: deeper ones have no path.
const MAX_DEPTH: usize = 2048;

/// Extended attributes with their values.
pub(crate) type Xattrs = Vec<(Bytes, Bytes)>;

/// What is kept while a step runs, so that who comes next waits for its end.
pub(crate) type Turn = Arc<dyn Any + Send + Sync>;

/// A regular file that is being made under a hidden name. Clones write to the same one.
#[derive(Clone)]
pub(crate) struct Draft {
    file: Arc<File>,
    /// Bytes that an earlier try has left.
    pub(crate) left: u64,
}

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

    /// Begins the regular file `path`, `size` bytes long.
    pub(crate) fn draft(&self, path: &GlobalPath, size: u64) -> FsResult<Draft> {
        let (hidden, place) = (hidden_name(path), Place::of(self, path)?);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(&place.directory, &hidden[..], flags, Mode::RUSR | Mode::WUSR);
        let mut file = File::from(open().map_err(os)?);
        if !file.metadata()?.is_file() || file.metadata()?.len() > size {
            rustix::fs::unlinkat(&place.directory, &hidden[..], AtFlags::empty()).map_err(os)?;
            file = File::from(open().map_err(os)?);
        }
        let left = file.metadata()?.len();
        file.set_len(size)?;
        Ok(Draft { file: Arc::new(file), left })
    }

    /// Removes the draft of `path`.
    pub(crate) fn drop_draft(&self, path: &GlobalPath) -> FsResult<()> {
        remove_at(&Place::of(self, path)?.directory, &hidden_name(path), 0)
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
        chunks.iter().try_for_each(|chunk| draft.write(chunk.index, &chunk.data))?;
        self.install_draft(path, &draft, attr, xattrs)
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
        let found = OwnedFd::from(draft.file.try_clone()?);
        dress(&found, attr, xattrs)?;
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
        dress(&found, attr, xattrs)?;
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
        self.unhide(path)
    }

    /// What is at `path` gets these attributes.
    pub(crate) fn install_attributes(&self, path: &GlobalPath, attr: &Attr, xattrs: &Xattrs) -> FsResult<()> {
        let found = self.find(path).map_err(os)?;
        if self.attr(&found)?.kind != attr.kind {
            return Err(FsError::Stale(None));
        }
        dress(&found, attr, xattrs)
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

    /// Moves `path` to a hidden name beside it.
    pub(crate) fn set_aside(&self, path: &GlobalPath, fence: Fence) -> FsResult<GlobalPath> {
        let place = Place::of(self, path)?;
        let label = format!("abandoned-{}-", fence.0);
        let kept = place.name.len().min(MAX_NAME - HIDDEN_PREFIX.len() - label.len());
        let name = [HIDDEN_PREFIX, label.as_bytes(), &place.name[..kept]].concat();
        rustix::fs::renameat(&place.directory, place.name, &place.directory, &name[..]).map_err(os)?;
        path.parent().unwrap_or_else(GlobalPath::root).join(&name).map_err(|_| os(Errno::NAMETOOLONG))
    }

    /// All that was installed survives a loss of power.
    pub(crate) fn install_durably(&self) -> FsResult<()> {
        let root = self.open_directory(&GlobalPath::root())?;
        rustix::fs::syncfs(root).map_err(os)
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
        if self.kind_at(path)? == Some(FileKind::Directory) {
            remove_at(&place.directory, path.name(), 0)?;
        }
        rustix::fs::renameat(&place.directory, &hidden[..], &place.directory, place.name).map_err(os)?;
        // Two names of one file are not made one by rename.
        remove_at(&place.directory, &hidden, 0)
    }
}

impl Draft {
    /// Writes a chunk that arrived. One of zeros needs no bytes where nothing was.
    pub(crate) fn write(&self, index: ChunkIndex, data: &[u8]) -> FsResult<()> {
        let offset = index.0 * globalfs_proto::limits::CHUNK_SIZE;
        if offset >= self.left && data.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        Ok(self.file.write_all_at(data, offset)?)
    }

    /// Takes over chunks of `old`, which has them at the same place.
    pub(crate) fn copy(&self, old: &File, span: ChunkSpan, size: u64) -> FsResult<()> {
        const CHUNK: u64 = globalfs_proto::limits::CHUNK_SIZE;
        let (mut at, end) = (span.first.0 * CHUNK, ((span.first.0 + span.count) * CHUNK).min(size));
        while at < end {
            let (mut from, mut to) = (at, at);
            let left = (end - at) as usize;
            let copied = rustix::fs::copy_file_range(old, Some(&mut from), &self.file, Some(&mut to), left);
            match copied.map_err(os)? {
                0 => return Err(FsError::Stale(None)),
                copied => at += copied as u64,
            }
        }
        Ok(())
    }

    /// The hash of the chunk that an earlier try has left, if it is whole.
    pub(crate) fn hash(&self, index: ChunkIndex, size: u64) -> Option<ChunkHash> {
        let range = index.bytes(size)?;
        (range.end() <= self.left).then(|| hash_at(&self.file, index, size)).flatten()
    }
}

/// The hash of a chunk of `file`, as if it were `size` bytes long; `None` where it has fewer or cannot be read.
pub(crate) fn hash_at(file: &File, index: ChunkIndex, size: u64) -> Option<ChunkHash> {
    let range = index.bytes(size)?;
    let mut bytes = vec![0; range.length() as usize];
    file.read_exact_at(&mut bytes, range.start()).ok()?;
    Some(ChunkHash(*blake3::hash(&bytes).as_bytes()))
}

/// The name of what is to be at `path` while it is made.
fn hidden_name(path: &GlobalPath) -> Vec<u8> {
    let hash = blake3::hash(path.as_bytes()).to_hex();
    [HIDDEN_PREFIX, b"home-", &hash.as_bytes()[..32]].concat()
}

/// Owner, extended attributes, mode and times, in the order in which none undoes another.
fn dress(found: &OwnedFd, attr: &Attr, xattrs: &Xattrs) -> FsResult<()> {
    let owner = NewAttr { uid: Some(attr.uid), gid: Some(attr.gid), ..NewAttr::default() };
    set_attr(found, attr, &owner)?;
    if attr.kind != FileKind::Symlink {
        set_xattrs(found, xattrs)?;
        set_attr(found, attr, &NewAttr { mode: Some(attr.mode), ..NewAttr::default() })?;
    }
    let times = NewAttr {
        atime: Some(NewTime::At(attr.atime_ns)),
        mtime: Some(NewTime::At(attr.mtime_ns)),
        ..NewAttr::default()
    };
    set_attr(found, attr, &times)
}

fn set_xattrs(found: &OwnedFd, wanted: &Xattrs) -> FsResult<()> {
    let path = proc_path(found);
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
        rustix::fs::setxattr(&path, &name[..], value, XattrFlags::empty()).map_err(os)?;
    }
    Ok(())
}

/// Removes `name` in `directory` with all that is beneath it; no link is followed.
fn remove_at(directory: impl AsFd, name: &[u8], depth: usize) -> FsResult<()> {
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
