//! What the tests of the cache and of what stands on it share: caches in scratch directories, versions,
//! chunks of known content, and the space that a directory takes.

use super::{Cache, CacheError, Options, sidecar};
use crate::disk::{Disk, Faults, FaultyDisk, PosixDisk};
use crate::source::Chunk;
use bytes::Bytes;
use globalfs_proto::limits::CHUNK_SIZE;
use globalfs_proto::{ChunkHash, ChunkIndex, FileId, Version};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) const MIB: u64 = 1024 * 1024;

pub(crate) fn posix() -> Arc<dyn Disk> {
    Arc::new(PosixDisk::default())
}

pub(crate) fn faulty(faults: Faults) -> Arc<dyn Disk> {
    Arc::new(FaultyDisk::new(posix(), faults, 7))
}

pub(crate) fn try_open(dir: &Path, quota_bytes: u64) -> Result<Cache, CacheError> {
    Cache::open(Options { dir: dir.to_owned(), quota_bytes }, posix())
}

pub(crate) fn open(dir: &Path, quota_bytes: u64) -> Cache {
    try_open(dir, quota_bytes).unwrap()
}

pub(crate) fn version(inode: u64, size: u64) -> Version {
    Version { file: FileId { origin: 1, inode }, size, mtime_ns: 10, ctime_ns: 20 }
}

/// A chunk whose content tells file and position.
pub(crate) fn chunk(version: &Version, index: u64) -> Chunk {
    let length = ChunkIndex(index).bytes(version.size).unwrap().length() as usize;
    let mut data: Vec<u8> = (0..length).map(|n| (n / 512) as u8 ^ version.file.inode as u8).collect();
    data[0] = index as u8 | 0x80;
    of_data(index, data)
}

pub(crate) fn of_data(index: u64, data: impl Into<Bytes>) -> Chunk {
    let data = data.into();
    Chunk { index: ChunkIndex(index), hash: ChunkHash(*blake3::hash(&data).as_bytes()), data }
}

pub(crate) async fn fill(cache: &Cache, version: &Version) {
    for index in 0..version.size.div_ceil(CHUNK_SIZE) {
        assert!(cache.put(version, &chunk(version, index)).await);
    }
}

pub(crate) async fn assert_present(cache: &Cache, version: &Version, index: u64) {
    assert_eq!(cache.get(version, ChunkIndex(index)).await, Some(chunk(version, index)), "chunk {index}");
}

/// The data file and the sidecar.
pub(crate) fn files(dir: &Path, version: &Version) -> (PathBuf, PathBuf) {
    let stem: String = sidecar::key_of(version).0.iter().map(|b| format!("{b:02x}")).collect();
    let fan = dir.join("files").join(&stem[..2]);
    (fan.join(format!("{stem}.data")), fan.join(format!("{stem}.side")))
}

/// The files of a cache whose names end so.
pub(crate) fn of_kind(dir: &Path, kind: &str) -> Vec<PathBuf> {
    let fans = fs::read_dir(dir.join("files")).unwrap().map(|fan| fan.unwrap().path());
    let files = fans.flat_map(|fan| fs::read_dir(fan).unwrap().map(|file| file.unwrap().path()));
    files.filter(|path| path.extension().is_some_and(|e| e == kind)).collect()
}

/// Disk space of all files below `dir`, without directories and the lock.
pub(crate) fn du(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).unwrap().filter_map(Result::ok);
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => du(&entry.path()),
        Ok(meta) if !entry.path().ends_with("globalfs-cache.lock") => meta.blocks() * 512,
        _ => 0,
    });
    sizes.sum()
}

/// The same while others write and remove: one look may count what was removed after it was seen and what was
/// written in its place, three hardly will.
pub(crate) fn du_in_motion(dir: &Path) -> u64 {
    (0..3).map(|_| du(dir)).min().expect("three looks")
}
