//! The cache of a hop: for each content of a file one sparse data file with the bytes at their own offsets,
//! and one sidecar that says which chunks are there and what they hash to. Files of less than a chunk lie
//! together in bundles instead.
//!
//! # On disk
//! ```text
//! DIR/globalfs-cache.lock      locked while a daemon uses DIR; tells its process id; marks DIR as a cache
//! DIR/files/HH/KEY.data        as long as the file itself; absent chunks are holes
//! DIR/files/HH/KEY.side        pages of 4,096 bytes, one for each segment of 64 chunks, absent ones are holes
//! DIR/files/HH/KEY.bundle      a table and then, end to end, the bytes of some files of less than a chunk
//! ```
//! Of a pair `KEY` is the first 16 bytes of the BLAKE3 hash of the version's wire form, in hex; `HH` its first two
//! digits. A page (integers little-endian):
//! ```text
//!    0  16   KEY of the file to which the page belongs
//!   16   8   present mask: bit i is chunk 64 * page + i
//!   64  88   first page only, the header: magic "GLFSSIDE", format u32, chunk size u32,
//!            version 40 bytes (wire form), BLAKE3 of the 56 bytes before
//! 2048  32i  BLAKE3 of chunk i
//! ```
//! The table of a bundle of n files (1 to 512); `KEY` is the first 16 bytes of its hash:
//! ```text
//!    0   8   magic "GLFSBNDL"
//!    8   4   format u32
//!   12   4   n u32
//!   16  72i  version 40 bytes (wire form) and BLAKE3 of file i
//! 16+72n 32  BLAKE3 of all before
//! ```
//!
//! # Order of writes, and what a crash leaves
//! Creating: the data file at its full length, then the header. Storing a chunk: data and hash, then key
//! and mask. Evicting a segment: mask, then the holes; the last one of a file: sidecar, then data. A bundle is
//! written once, and evicted as a whole.
//! Nothing is synced, so a crash of the machine may keep any subset of these writes in any order:
//! - *a sidecar that is missing, short, or has a header that fails its hash, names another format, chunk size
//!   or version; a data file that is missing or has another length*: recovery removes both files;
//! - *a page of another file* (blocks that the file system reused): its key differs, so its mask counts as 0;
//! - *a bit without its data or hash, either of them torn, a flipped bit later*: the bytes do not have the
//!   hash when they are read; the bit is cleared and the chunk fetched again. A wrong pair that matches
//!   itself would need a foreign page, which the key excludes;
//! - *data without its bit*: recovery punches what no bit covers, so the space is not lost;
//! - *a bundle with a torn table, or of another length than its table tells*: recovery removes it. *A whole table
//!   without the bytes*: they do not have their hash when they are read, and the file is fetched again;
//! - *files of any other name* below `files/`: recovery removes them.
//!
//! A kill of the process alone loses no write, and the same argument holds for it.
//!
//! Small files that were kept just now are held in memory as well (see `recent`).
//!
//! *Invariants:* no bytes leave that did not match their hash since the cache was opened: when they arrived or were
//! read, each time for other hops and once for readers here (see `whole`); the files never take more space than the quota (directories, and what the file system adds to unusually
//! fragmented files, are not counted: some 200 bytes a file); a segment in use is never evicted; open files are bounded.

mod bundle;
mod copy;
mod counters;
mod directory;
mod evict;
mod open_files;
mod recent;
mod recovery;
mod sidecar;
mod small;
pub(crate) mod throttle;
mod whole;

pub use counters::CacheCounters;
pub use whole::WholeFile;

use crate::disk::Disk;
use crate::model::bundles::Bundles;
use crate::model::eviction::{FileKey, Ledger, Place, SegmentKey};
use crate::model::hash_index::HashIndex;
use crate::source::Chunk;
use bytes::Bytes;
use counters::Counts;
use directory::{Directory, Pair};
use globalfs_proto::limits::CHUNK_SIZE;
use globalfs_proto::{ChunkHash, ChunkIndex, Version};
use open_files::OpenFiles;
use parking_lot::Mutex;
use recent::Recent;
use small::Waiting;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use throttle::Throttle;
use tokio::sync::Semaphore;
use whole::Verifying;

/// The smallest quota: room for a few chunks, so that what is in use never fills it alone.
pub const MIN_QUOTA_BYTES: u64 = 4 * 1024 * 1024;

/// Bytes between a request to an upstream and their place in the cache, over all that share the cache; what is
/// read ahead at this hop has a budget of its own.
pub const MAX_BYTES_IN_FLIGHT: usize = 64 * 1024 * 1024;

/// Where a cache lies and how large it may grow.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its directory; made when it is missing, used by one daemon at a time.
    pub dir: PathBuf,
    /// Disk space that it may take, sidecars included.
    pub quota_bytes: u64,
}

/// Why a cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Another daemon uses it: stop that one, or choose another directory.
    #[error("the cache directory {} is in use by {holder}", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// Who holds it, as its lock file tells.
        holder: String,
    },
    /// It holds files that are not a cache's: choose an empty directory.
    #[error("{} is neither empty nor a cache: it holds '{found}'", dir.display())]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// A name in it.
        found: String,
    },
    /// The quota is below [`MIN_QUOTA_BYTES`]: raise it.
    #[error("a cache quota of {0} bytes is below the least of {MIN_QUOTA_BYTES}")]
    QuotaTooSmall(u64),
    /// The file system said no: an administrator has to look.
    #[error("the cache directory {} cannot be used: {source}", dir.display())]
    Disk {
        /// The directory, or a file in it.
        dir: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// Chunks of files kept on a local disk, within a quota. Clones share it.
#[derive(Clone)]
pub struct Cache(Arc<Shared>);

struct Shared {
    directory: Directory,
    disk: Arc<dyn Disk>,
    ledger: Mutex<Ledger>,
    /// Where chunks lie by their hashes. Never locked together with the ledger.
    index: Mutex<HashIndex>,
    files: OpenFiles<Pair>,
    /// Never locked together with the ledger.
    bundles: Mutex<Bundles>,
    bundle_files: OpenFiles<File>,
    waiting: Waiting,
    recent: Recent,
    verifying: Verifying,
    /// Held by the one task that evicts.
    gate: tokio::sync::Mutex<()>,
    in_flight: Arc<Semaphore>,
    counts: Counts,
    not_kept: Throttle,
    damaged: Throttle,
}

/// Why a chunk was not kept; its reader has it all the same.
#[derive(Debug, thiserror::Error)]
enum NotKept {
    #[error("everything in the cache is in use")]
    NoRoom,
    #[error("the file is too large")]
    TooLarge,
    #[error("{0}")]
    Disk(#[from] io::Error),
}

/// Keeps a segment from eviction.
struct Pin<'a>(&'a Shared, SegmentKey);

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        self.0.ledger.lock().unpin(self.1);
    }
}

impl Cache {
    /// Opens the cache, recovers what an earlier run left, and evicts down to the quota. Blocks the thread.
    pub fn open(options: Options, disk: Arc<dyn Disk>) -> Result<Self, CacheError> {
        if options.quota_bytes < MIN_QUOTA_BYTES {
            return Err(CacheError::QuotaTooSmall(options.quota_bytes));
        }
        let directory = Directory::open(&options.dir)?;
        let disk_error = |source| CacheError::Disk { dir: options.dir.clone(), source };
        Self::recover(directory, options.quota_bytes, disk).map_err(disk_error)
    }

    fn recover(directory: Directory, quota_bytes: u64, disk: Arc<dyn Disk>) -> io::Result<Self> {
        let mut ledger = Ledger::new(quota_bytes, !directory.can_punch());
        let (index, mut bundles) = (Mutex::new(HashIndex::default()), Bundles::default());
        recovery::recover(&directory, &mut ledger, &mut bundles, &index)?;
        let shared = Shared {
            directory,
            disk,
            ledger: Mutex::new(ledger),
            index,
            files: OpenFiles::new(),
            bundles: Mutex::new(bundles),
            bundle_files: OpenFiles::new(),
            waiting: Waiting::default(),
            recent: Recent::new(),
            verifying: Verifying::default(),
            gate: tokio::sync::Mutex::new(()),
            in_flight: Arc::new(Semaphore::new(MAX_BYTES_IN_FLIGHT)),
            counts: Counts::default(),
            not_kept: Throttle::new(),
            damaged: Throttle::new(),
        };
        let overflow = shared.ledger.lock().overflow();
        shared.evict(overflow);
        Ok(Self(Arc::new(shared)))
    }

    /// Whether the chunk is there, unless reading it shows that it is damaged.
    pub fn contains(&self, version: &Version, index: ChunkIndex) -> bool {
        if bundle::is_small(version) {
            return index.0 == 0 && self.is_whole(version);
        }
        place(version, index).is_some_and(|place| self.0.ledger.lock().contains(&place))
    }

    /// Whether every chunk of the file is there. The empty file never is: there is nothing to keep of it.
    pub fn is_whole(&self, version: &Version) -> bool {
        let key = sidecar::key_of(version);
        if bundle::is_small(version) {
            return self.0.find_small(key).is_some();
        }
        self.0.ledger.lock().is_whole(key)
    }

    /// The chunk, verified just now; `None` when it is absent or turned out to be damaged.
    pub async fn get(&self, version: &Version, index: ChunkIndex) -> Option<Chunk> {
        let chunk = self.load(version, index).await;
        if let Some(chunk) = &chunk {
            self.0.counts.hit(chunk.data.len());
        }
        chunk
    }

    /// As `get`, uncounted.
    pub(crate) async fn load(&self, version: &Version, index: ChunkIndex) -> Option<Chunk> {
        let place = place(version, index)?;
        if bundle::is_small(version) {
            return self.0.load_small(version).await;
        }
        let _pin = self.0.pin(&place)?;
        match self.0.read(version, &place).await {
            Ok((hash, data)) if blake3::hash(&data).as_bytes() == &hash.0 => {
                self.0.ledger.lock().set_verified(&place);
                Some(Chunk { index, hash, data })
            }
            Ok(_) => self.0.drop_damaged(version, &place, "its bytes do not have their hash").await,
            Err(error) => self.0.drop_damaged(version, &place, &error.to_string()).await,
        }
    }

    /// Keeps the chunk if there is room; whether it did. Failing to keep it is counted and logged here and
    /// is no concern of the reader. Not cancel-safe: run it to its end.
    pub async fn put(&self, version: &Version, chunk: &Chunk) -> bool {
        let stored = match place(version, chunk.index) {
            None => Err(Arc::new(NotKept::TooLarge)),
            Some(_) if bundle::is_small(version) => self.0.store_small(version, chunk).await,
            Some(place) => self.0.store(version, &place, chunk).await.map_err(Arc::new),
        };
        match stored {
            Ok(()) => {
                self.0.counts.stored(chunk.data.len());
                true
            }
            Err(why) => {
                self.0.counts.not_kept();
                if let Some(silent) = self.0.not_kept.admit() {
                    tracing::warn!(%why, silent, "a chunk is served without being kept in the cache");
                }
                false
            }
        }
    }

    /// What happened since it was opened, and how full it is.
    pub fn counters(&self) -> CacheCounters {
        let (used, quota) = {
            let ledger = self.0.ledger.lock();
            (ledger.used(), ledger.quota())
        };
        self.0.counts.snapshot(used, quota)
    }

    /// A reader wanted a chunk that has to come from upstream.
    pub(crate) fn count_miss(&self) {
        self.0.counts.miss();
    }

    /// A chunk was served and not offered to the cache, because the disk is too slow.
    pub(crate) fn count_not_kept(&self) {
        self.0.counts.not_kept();
    }

    /// One permit for each byte that is on its way into the cache.
    pub(crate) fn in_flight(&self) -> Arc<Semaphore> {
        self.0.in_flight.clone()
    }
}

impl Shared {
    fn pin(&self, place: &Place) -> Option<Pin<'_>> {
        self.ledger.lock().pin(place).then(|| Pin(self, place.segment))
    }

    async fn read(self: &Arc<Self>, version: &Version, place: &Place) -> io::Result<(ChunkHash, Bytes)> {
        let pair = self.pair(version, place.segment.file, false).await?;
        let hash = self.disk.read_at(&pair.side, sidecar::hash_offset(place), sidecar::HASH_LENGTH);
        let data = self.disk.read_at(&pair.data, place.offset, place.length as usize);
        let (hash, data) = tokio::try_join!(hash, data)?;
        let hash = hash[..].try_into().map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        Ok((ChunkHash(hash), data))
    }

    async fn store(self: &Arc<Self>, version: &Version, place: &Place, chunk: &Chunk) -> Result<(), NotKept> {
        let hole = self.directory.can_punch() && is_hole(&chunk.data);
        let cost = if hole { 0 } else { place.data_cost() };
        let _pin = self.reserve(place, cost).await?;
        let pair = self.pair(version, place.segment.file, true).await?;
        let hash = Bytes::copy_from_slice(&chunk.hash.0);
        let hash = self.disk.write_at(&pair.side, sidecar::hash_offset(place), hash);
        if hole {
            tokio::try_join!(self.punch(pair.clone(), place), hash)?;
        } else {
            tokio::try_join!(self.disk.write_at(&pair.data, place.offset, chunk.data.clone()), hash)?;
        }
        let present = self.ledger.lock().set_present(place);
        if !hole {
            self.remember(&chunk.hash, place);
        }
        Ok(self.write_mask(&pair, place, present).await?)
    }

    /// A later crash may undo the write or let an older mask win: then bits are missing, or set for chunks
    /// that fail their hash; both are harmless.
    async fn write_mask(&self, pair: &Pair, place: &Place, present: u64) -> io::Result<()> {
        let start = sidecar::page_start(place.segment.file, present);
        self.disk.write_at(&pair.side, sidecar::page_offset(place.segment.number), start).await
    }

    async fn drop_damaged(self: &Arc<Self>, version: &Version, place: &Place, why: &str) -> Option<Chunk> {
        let present = self.ledger.lock().clear_present(place)?;
        self.tell_damaged(place, why);
        if let Ok(pair) = self.pair(version, place.segment.file, false).await
            && let Err(error) = self.write_mask(&pair, place, present).await
        {
            tracing::debug!(%error, "the mask of a damaged chunk was not written; its hash still guards it");
        }
        None
    }

    fn tell_damaged(&self, place: &Place, why: &str) {
        self.counts.damaged();
        if let Some(silent) = self.damaged.admit() {
            tracing::warn!(offset = place.offset, why, silent, "a damaged chunk leaves the cache");
        }
    }

    async fn punch(&self, pair: Arc<Pair>, place: &Place) -> io::Result<()> {
        let (offset, length) = (place.offset, place.length);
        blocking(move || directory::punch(&pair.data, offset, length)).await
    }

    /// The open files of a version; opened when they are not, made or made anew when `create`.
    async fn pair(self: &Arc<Self>, version: &Version, key: FileKey, create: bool) -> io::Result<Arc<Pair>> {
        if let Some(pair) = self.files.get(key) {
            return Ok(pair);
        }
        let (shared, version) = (self.clone(), *version);
        blocking(move || {
            shared.files.get_or_open(key, || {
                if create {
                    shared.directory.create(key, &version)
                } else {
                    shared.directory.open_pair(key, &version)
                }
            })
        })
        .await
    }
}

fn place(version: &Version, index: ChunkIndex) -> Option<Place> {
    Place::new(sidecar::key_of(version), version.size, index)
}

/// Only full chunks become holes, so that recovery knows them by one hash.
fn is_hole(data: &[u8]) -> bool {
    data.len() as u64 == CHUNK_SIZE && data.iter().all(|&byte| byte == 0)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(io::Error::other("the runtime is stopping")))
}

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod small_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod whole_tests;
