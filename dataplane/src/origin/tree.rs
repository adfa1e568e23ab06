//! The system calls of an origin on names, attributes and directories. They block.
//!
//! *Invariants:* every name is resolved by `openat2` beneath the origin's directory, with symbolic and magic
//! links refused, so neither a link nor a rename race leads outside; mount points inside are crossed. A file
//! is found by an `O_PATH` handle first, and opened for data through that handle only when it is regular:
//! devices and pipes, whose opening alone can have effects, are never opened.
//!
//! A client's kernel follows links itself. So a link in the middle of a path that arrives here was a
//! directory when the client looked, and is answered like any other component that is no directory: ENOTDIR.

use super::OriginError;
use super::details::{has_no_xattrs, read_link};
use crate::model::ids::IdMap;
use bytes::Bytes;
use globalfs_proto::limits::MAX_XATTR;
use globalfs_proto::{Attr, FileId, FileKind, FsError, FsResult, FsStat, GlobalPath, Seek, SiteName};
use rustix::buffer::spare_capacity;
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, SeekFrom, Statx, StatxFlags, StatxTimestamp};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// How often a resolution is repeated that the kernel gave up because of a rename meanwhile.
const MAX_RESOLVE_REPEATS: u32 = 32;

pub(super) const EINVAL: FsError = FsError::Os(22);
const EIO: FsError = FsError::Os(5);
pub(super) const EISDIR: FsError = FsError::Os(21);

/// One origin's directory.
#[derive(Debug)]
pub(crate) struct Tree {
    dir: PathBuf,
    root: OwnedFd,
    device: (u32, u32),
    site: SiteName,
    identity: u64,
    ids: IdMap,
}

impl Tree {
    /// Opens `dir`, and proves that the kernel can do what an origin needs.
    pub(super) fn open(dir: &Path, site: &SiteName) -> Result<Self, OriginError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(dir, flags, Mode::empty()).map_err(|e| open_error(dir, e))?;
        let (dir_name, identity) = (dir.to_owned(), identity(site, None));
        let mut tree =
            Self { dir: dir_name, root, device: (0, 0), site: site.clone(), identity, ids: IdMap::default() };
        let found = tree.find(&GlobalPath::root()).map_err(|e| confine_error(dir, e))?;
        let stat = statx(&found).map_err(|e| open_error(dir, e))?;
        tree.device = device(&stat);
        reopen(&found, OFlags::DIRECTORY).map_err(|e| OriginError::NoProc(e.into()))?;
        Ok(tree)
    }

    /// Shows users and groups as `ids` says.
    pub(super) fn with_ids(self, ids: IdMap) -> Self {
        Self { ids, ..self }
    }

    /// Whose ids are shown as whose.
    pub(super) fn ids(&self) -> &IdMap {
        &self.ids
    }

    pub(super) fn stat(&self, path: &GlobalPath) -> FsResult<Attr> {
        let found = self.find(path).map_err(os)?;
        let attr = self.attr(&found)?;
        Ok(Attr { no_xattrs: has_no_xattrs(&found), ..attr })
    }

    /// The attributes of what `handle` refers to.
    pub(crate) fn attr(&self, handle: impl AsFd) -> FsResult<Attr> {
        self.attr_of(&statx(handle).map_err(os)?)
    }

    /// The same with the users and groups that the origin has.
    pub(super) fn stored_attr(&self, handle: impl AsFd) -> FsResult<Attr> {
        let stat = statx(handle).map_err(os)?;
        Ok(Attr { uid: stat.stx_uid, gid: stat.stx_gid, ..self.attr_of(&stat)? })
    }

    /// Opens the regular file `path` for reading.
    pub(super) fn open_regular(&self, path: &GlobalPath) -> FsResult<(File, Attr)> {
        let found = self.find(path).map_err(os)?;
        let attr = self.attr(&found)?;
        match attr.kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(EISDIR),
            _ => return Err(EINVAL),
        }
        // Only a file's owner may spare its access time.
        let file = match reopen(&found, OFlags::NOATIME) {
            Err(Errno::PERM) => reopen(&found, OFlags::empty()),
            other => other,
        };
        Ok((file.map_err(os)?.into(), attr))
    }

    /// Opens the regular file that `file` is open on once more, to write.
    pub(super) fn open_to_write(&self, file: &File) -> FsResult<File> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let opened =
            rustix::fs::openat(CWD, format!("/proc/self/fd/{}", file.as_raw_fd()), flags, Mode::empty());
        opened.map(File::from).map_err(os)
    }

    /// Where data or a hole begins in a version, which the file has before and afterwards.
    pub(super) fn seek(&self, seek: &Seek) -> FsResult<u64> {
        let (file, before) = self.open_regular(&seek.path)?;
        let wanted = if seek.hole { SeekFrom::Hole(seek.offset) } else { SeekFrom::Data(seek.offset) };
        let found = rustix::fs::seek(&file, wanted);
        let after = self.attr(&file)?;
        if (before.version(), after.version()) != (seek.version, seek.version) {
            return Err(FsError::Stale(Some(Box::new(after))));
        }
        found.map_err(os)
    }

    pub(super) fn read_link(&self, path: &GlobalPath) -> FsResult<Bytes> {
        let found = self.find(path).map_err(os)?;
        if self.attr(&found)?.kind != FileKind::Symlink {
            return Err(EINVAL);
        }
        Ok(read_link(&found, c"")?.into())
    }

    /// What the kernel gives to this process: `trusted.*` only to root, `security.*` as its policy says.
    pub(super) fn get_xattr(&self, path: &GlobalPath, name: &[u8]) -> FsResult<Bytes> {
        let found = self.find(path).map_err(os)?;
        let mut value = Vec::with_capacity(MAX_XATTR);
        rustix::fs::getxattr(proc_path(&found), name, spare_capacity(&mut value)).map_err(os)?;
        Ok(self.ids.shown_xattr(name, Bytes::copy_from_slice(&value)))
    }

    pub(super) fn list_xattr(&self, path: &GlobalPath) -> FsResult<Bytes> {
        let found = self.find(path).map_err(os)?;
        let mut names = Vec::with_capacity(MAX_XATTR);
        rustix::fs::listxattr(proc_path(&found), spare_capacity(&mut names)).map_err(os)?;
        Ok(Bytes::copy_from_slice(&names))
    }

    pub(super) fn fs_stat(&self, path: &GlobalPath) -> FsResult<FsStat> {
        let totals = rustix::fs::fstatvfs(self.find(path).map_err(os)?).map_err(os)?;
        Ok(FsStat {
            block_size: totals.f_frsize,
            blocks: totals.f_blocks,
            blocks_free: totals.f_bfree,
            blocks_available: totals.f_bavail,
            files: totals.f_files,
            files_free: totals.f_ffree,
        })
    }

    /// The file system's totals, if the origin's directory has kept its place: a storage that was unmounted,
    /// removed or mounted anew leaves behind a directory that still answers.
    pub(super) fn probe(&self) -> FsResult<FsStat> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let named = rustix::fs::open(&self.dir, flags, Mode::empty()).and_then(statx).map_err(os)?;
        let opened = statx(&self.root).map_err(os)?;
        if (device(&named), named.stx_ino) == (device(&opened), opened.stx_ino) {
            return self.fs_stat(&GlobalPath::root());
        }
        let dir = self.dir.display();
        Err(FsError::Unreachable(format!("another directory is at {dir} now: restart the daemon to use it")))
    }

    /// A handle that names what is at `path`, of any kind, without opening it.
    pub(super) fn find(&self, path: &GlobalPath) -> rustix::io::Result<OwnedFd> {
        self.resolve(path, OFlags::PATH | OFlags::NOFOLLOW)
    }

    pub(super) fn resolve(&self, path: &GlobalPath, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let relative = if path.is_root() { b"." } else { path.relative() };
        resolve_in(&self.root, relative, flags, ResolveFlags::empty())
    }

    /// Attributes that say nothing of extended ones.
    pub(super) fn attr_of(&self, stat: &Statx) -> FsResult<Attr> {
        let mode = u32::from(stat.stx_mode);
        Ok(Attr {
            file: FileId { origin: self.identity_on(device(stat)), inode: stat.stx_ino },
            kind: FileKind::from_mode(mode).ok_or(EIO)?,
            mode: mode & 0o7777,
            nlink: stat.stx_nlink,
            uid: self.ids.shown_uid(stat.stx_uid),
            gid: self.ids.shown_gid(stat.stx_gid),
            rdev: rustix::fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
            size: stat.stx_size,
            blocks: stat.stx_blocks,
            atime_ns: nanoseconds(&stat.stx_atime),
            mtime_ns: nanoseconds(&stat.stx_mtime),
            ctime_ns: nanoseconds(&stat.stx_ctime),
            no_xattrs: false,
        })
    }

    /// Inode numbers are unique per device only. Device numbers may change at a reboot, so the origin's own
    /// is left out: a restart then does not empty every cache.
    fn identity_on(&self, device: (u32, u32)) -> u64 {
        if device == self.device { self.identity } else { identity(&self.site, Some(device)) }
    }
}

/// Opens `relative` beneath `directory`, by no link, with whatever else `extra` forbids.
pub(super) fn resolve_in(
    directory: impl AsFd,
    relative: &[u8],
    flags: OFlags,
    extra: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    let confined = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | extra;
    let (flags, directory) = (flags | OFlags::CLOEXEC, directory.as_fd());
    for _ in 0..MAX_RESOLVE_REPEATS {
        match rustix::fs::openat2(directory, relative, flags, Mode::empty(), confined) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::LOOP) => return Err(Errno::NOTDIR),
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

pub(super) fn identity(site: &SiteName, device: Option<(u32, u32)>) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(site.as_str().as_bytes());
    if let Some((major, minor)) = device {
        // A NUL keeps the name and the numbers apart.
        hasher.update(&[0]).update(&major.to_le_bytes()).update(&minor.to_le_bytes());
    }
    u64::from_le_bytes(*hasher.finalize().as_bytes().first_chunk().expect("a hash has 32 bytes"))
}

/// Opens for reading exactly the file that `found` refers to, whatever its name means by now.
fn reopen(found: &OwnedFd, extra: OFlags) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(CWD, proc_path(found), OFlags::RDONLY | OFlags::CLOEXEC | extra, Mode::empty())
}

/// The name of an open handle. `fgetxattr` refuses `O_PATH` handles; by this name it works for any kind.
pub(super) fn proc_path(found: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", found.as_raw_fd())
}

pub(super) fn statx(handle: impl AsFd) -> rustix::io::Result<Statx> {
    rustix::fs::statx(handle, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
}

pub(super) fn device(stat: &Statx) -> (u32, u32) {
    (stat.stx_dev_major, stat.stx_dev_minor)
}

fn nanoseconds(time: &StatxTimestamp) -> i64 {
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(i64::from(time.tv_nsec))
}

pub(super) fn os(error: Errno) -> FsError {
    FsError::Os(error.raw_os_error())
}

fn open_error(dir: &Path, error: Errno) -> OriginError {
    let path = dir.to_owned();
    match error {
        Errno::NOENT => OriginError::Missing(path),
        Errno::NOTDIR => OriginError::NotADirectory(path),
        Errno::ACCESS => OriginError::PermissionDenied(path),
        other => OriginError::Other { path, error: io::Error::from(other) },
    }
}

/// What the first `openat2` says: old kernels do not know it, and old seccomp profiles forbid it.
fn confine_error(dir: &Path, error: Errno) -> OriginError {
    match error {
        Errno::NOSYS | Errno::PERM => OriginError::NoOpenat2(error.into()),
        other => open_error(dir, other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_openat2_is_told() {
        for error in [Errno::NOSYS, Errno::PERM] {
            let text = confine_error(Path::new("/data"), error).to_string();
            assert!(text.contains("openat2") && text.contains("Linux 5.6"), "{text}");
        }
        let refused = confine_error(Path::new("/data"), Errno::ACCESS);
        assert!(matches!(refused, OriginError::PermissionDenied(_)));
        let text = open_error(Path::new("/data"), Errno::IO).to_string();
        assert!(text.contains("/data") && text.contains("os error 5"), "{text}");
    }

    #[test]
    fn an_origin_that_lost_its_place_is_told() {
        let scratch = tempfile::tempdir().unwrap();
        let (dir, aside) = (scratch.path().join("origin"), scratch.path().join("aside"));
        std::fs::create_dir(&dir).unwrap();
        let tree = Tree::open(&dir, &SiteName::new("onprem").unwrap()).unwrap();
        assert!(tree.probe().unwrap().blocks > 0);
        std::fs::rename(&dir, &aside).unwrap();
        assert_eq!(tree.probe(), Err(FsError::NOT_FOUND));
        std::fs::create_dir(&dir).unwrap();
        let error = tree.probe().unwrap_err().to_string();
        assert!(error.contains("another directory is at") && error.contains("restart"), "{error}");
        std::fs::remove_dir(&dir).unwrap();
        std::fs::rename(&aside, &dir).unwrap();
        assert!(tree.probe().is_ok(), "back in its place");
    }
}
