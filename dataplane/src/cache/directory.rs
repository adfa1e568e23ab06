//! The directory of a cache: its lock, the names of its files, and the calls that make, open, punch and
//! remove them. All of it blocks the calling thread.

use super::{CacheError, sidecar};
use crate::model::eviction::FileKey;
use globalfs_proto::Version;
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const LOCK_NAME: &str = "globalfs-cache.lock";
const FILES_NAME: &str = "files";
/// What a fresh file system puts into its root.
const TOLERATED: &str = "lost+found";

/// The two open files of one version.
pub(super) struct Pair {
    pub(super) data: Arc<File>,
    pub(super) side: Arc<File>,
}

/// A locked cache directory.
pub(super) struct Directory {
    files: PathBuf,
    can_punch: bool,
    /// The lock ends with this descriptor.
    _lock: File,
}

impl Directory {
    /// Makes what is missing and takes the lock.
    pub(super) fn open(dir: &Path) -> Result<Self, CacheError> {
        let disk = |source| CacheError::Disk { dir: dir.to_owned(), source };
        fs::create_dir_all(dir).map_err(disk)?;
        refuse_foreign(dir)?;
        let lock = lock(dir)?;
        let files = dir.join(FILES_NAME);
        fs::create_dir_all(&files).map_err(disk)?;
        let can_punch = probe_punch(&lock);
        if !can_punch {
            tracing::info!(dir = %dir.display(), "no hole punching here: cached files are evicted as a whole");
        }
        Ok(Self { files, can_punch, _lock: lock })
    }

    /// Whether a segment can be punched out of a file.
    pub(super) fn can_punch(&self) -> bool {
        self.can_punch
    }

    /// The directory of all files whose key begins with `fan`.
    pub(super) fn fan(&self, fan: u8) -> PathBuf {
        self.files.join(format!("{fan:02x}"))
    }

    /// The data file and the sidecar of a key.
    pub(super) fn paths(&self, key: FileKey) -> (PathBuf, PathBuf) {
        (self.path(key, "data"), self.path(key, "side"))
    }

    fn path(&self, key: FileKey, kind: &str) -> PathBuf {
        let stem: String = key.0.iter().map(|byte| format!("{byte:02x}")).collect();
        self.fan(key.0[0]).join(format!("{stem}.{kind}"))
    }

    /// Opens both files and checks that they are this version's.
    pub(super) fn open_pair(&self, key: FileKey, version: &Version) -> io::Result<Pair> {
        let pair = self.open_any(key)?;
        let mut first = [0; sidecar::FIRST_LENGTH];
        pair.side.read_exact_at(&mut first, 0)?;
        if sidecar::version_in(&first) == Some(*version) && pair.data.metadata()?.len() == version.size {
            Ok(pair)
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidData, "the files are not of this version"))
        }
    }

    /// Opens both files of whatever version their sidecar names, if that is the key's.
    pub(super) fn open_known(&self, key: FileKey) -> io::Result<Pair> {
        let pair = self.open_any(key)?;
        let mut first = [0; sidecar::FIRST_LENGTH];
        pair.side.read_exact_at(&mut first, 0)?;
        let version = sidecar::version_in(&first).filter(|version| sidecar::key_of(version) == key);
        match version {
            Some(version) if pair.data.metadata()?.len() == version.size => Ok(pair),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the files are not of this key")),
        }
    }

    /// Opens both files unseen.
    pub(super) fn open_any(&self, key: FileKey) -> io::Result<Pair> {
        let (data, side) = self.paths(key);
        let open = |path| OpenOptions::new().read(true).write(true).open(path).map(Arc::new);
        Ok(Pair { side: open(side)?, data: open(data)? })
    }

    /// Opens both files, or makes them anew when they are not good.
    pub(super) fn create(&self, key: FileKey, version: &Version) -> io::Result<Pair> {
        if let Ok(pair) = self.open_pair(key, version) {
            return Ok(pair);
        }
        let (data, side) = self.paths(key);
        let data = self.create_file(key, &data)?;
        data.set_len(version.size)?;
        let side = self.create_file(key, &side)?;
        side.write_all_at(&sidecar::first_bytes(key, version), 0)?;
        Ok(Pair { data: Arc::new(data), side: Arc::new(side) })
    }

    /// An empty file of that key.
    fn create_file(&self, key: FileKey, path: &Path) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        match options.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(self.fan(key.0[0]))?;
                options.open(path)
            }
            opened => opened,
        }
    }

    /// Removes both files; it is fine when they are gone.
    pub(super) fn remove(&self, key: FileKey) -> io::Result<()> {
        let (data, side) = self.paths(key);
        remove_file(&side)?;
        remove_file(&data)
    }

    /// Opens a bundle unseen: each of its files is verified when it is read. Also for writing: a bundle that was
    /// damaged is made again under the same name, perhaps through the file that is open.
    pub(super) fn open_bundle(&self, key: FileKey) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(self.path(key, "bundle"))
    }

    /// Makes an empty bundle.
    pub(super) fn create_bundle(&self, key: FileKey) -> io::Result<File> {
        self.create_file(key, &self.path(key, "bundle"))
    }

    /// Removes a bundle; it is fine when it is gone.
    pub(super) fn remove_bundle(&self, key: FileKey) -> io::Result<()> {
        remove_file(&self.path(key, "bundle"))
    }
}

/// Removes a file; it is fine when it is gone.
pub(super) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Gives the space of a range back; it reads as zeros then.
pub(super) fn punch(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(fallocate(file, flags, offset, length)?)
}

/// Tried on the lock file, behind its text.
fn probe_punch(lock: &File) -> bool {
    punch(lock, sidecar::PAGE, sidecar::PAGE).is_ok()
}

/// Recovery removes files that it does not know, so it must never see a directory of somebody else.
fn refuse_foreign(dir: &Path) -> Result<(), CacheError> {
    let disk = |source| CacheError::Disk { dir: dir.to_owned(), source };
    if dir.join(LOCK_NAME).exists() {
        return Ok(());
    }
    for entry in fs::read_dir(dir).map_err(disk)? {
        let found = entry.map_err(disk)?.file_name().to_string_lossy().into_owned();
        if found != TOLERATED && found != LOCK_NAME {
            return Err(CacheError::Foreign { dir: dir.to_owned(), found });
        }
    }
    Ok(())
}

fn lock(dir: &Path) -> Result<File, CacheError> {
    let path = dir.join(LOCK_NAME);
    let disk = |source| CacheError::Disk { dir: path.clone(), source };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let mut lock = options.open(&path).map_err(disk)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            return Err(CacheError::InUse { dir: dir.to_owned(), holder: holder(&lock) });
        }
        Err(errno) => return Err(disk(errno.into())),
    }
    lock.set_len(0).map_err(disk)?;
    writeln!(lock, "process {}", std::process::id()).map_err(disk)?;
    Ok(lock)
}

fn holder(lock: &File) -> String {
    let mut text = String::new();
    let read = lock.take(64).read_to_string(&mut text);
    match text.trim() {
        name if read.is_ok() && !name.is_empty() => name.to_owned(),
        _ => "another process".to_owned(),
    }
}

#[cfg(test)]
impl Directory {
    /// As on a file system without hole punching.
    pub(super) fn without_punch(mut self) -> Self {
        self.can_punch = false;
        self
    }
}
