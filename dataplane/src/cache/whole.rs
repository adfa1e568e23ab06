//! Whole files, and parts of chunks, as they lie on the disk: for a kernel that reads by itself, and for readers who
//! want a few KiB of a chunk that was verified already.
//!
//! *Invariants:* what is handed out had its hash when it was stored or read since the cache was opened, and is as good
//! since then as the local file system keeps it; a file that is handed out is not evicted before it is given back.

use super::bundle::is_small;
use super::{Cache, Pair, Shared, place, sidecar};
use crate::model::eviction::{FileKey, Place};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use globalfs_proto::chunk::chunk_count;
use globalfs_proto::{ChunkIndex, Version};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::Mutex;

/// Chunks that are verified at a time for a file that was found whole at the start.
const VERIFIED_AT_ONCE: usize = 4;

/// A file of which every byte is in the cache; it stays there until this is dropped.
pub struct WholeFile {
    pair: Arc<Pair>,
    _pin: FilePin,
}

impl WholeFile {
    /// The bytes at their own offsets. Not to be written.
    pub fn file(&self) -> &Arc<File> {
        &self.pair.data
    }
}

/// A file that is kept from eviction.
struct FilePin(Arc<Shared>, FileKey);

impl Drop for FilePin {
    fn drop(&mut self) {
        self.0.ledger.lock().unpin_file(self.1);
    }
}

/// Held by the one task that verifies what was found at the start.
#[derive(Default)]
pub(super) struct Verifying(Arc<Mutex<()>>);

impl Cache {
    /// The file of a content of which every chunk is here and was verified since the cache was opened. `None` for
    /// files of less than a chunk, which have no file of their own.
    ///
    /// A file that was found at the start is verified in the background when it is asked for, and handed out later.
    pub async fn whole_file(&self, version: &Version) -> Option<WholeFile> {
        if is_small(version) {
            return None;
        }
        let key = sidecar::key_of(version);
        if !self.0.ledger.lock().pin_file(key) {
            self.verify_soon(version, key);
            return None;
        }
        let pin = FilePin(self.0.clone(), key);
        let pair = self.0.pair(version, key, false).await.ok()?;
        Some(WholeFile { pair, _pin: pin })
    }

    /// Reads a whole file of which nobody knows since the start whether it is good. One file at a time: who comes
    /// meanwhile is served when it comes again.
    fn verify_soon(&self, version: &Version, key: FileKey) {
        if !self.0.ledger.lock().is_whole(key) {
            return;
        }
        let Ok(turn) = self.0.verifying.0.clone().try_lock_owned() else { return };
        let (cache, version) = (self.clone(), *version);
        tokio::spawn(async move {
            let load = |index| {
                let cache = &cache;
                async move { cache.verify(&version, ChunkIndex(index)).await }
            };
            let mut all = std::pin::pin!(stream::iter(0..chunk_count(version.size)).map(load));
            let mut all = all.as_mut().buffered(VERIFIED_AT_ONCE);
            while all.next().await == Some(true) {}
            drop(turn);
        });
    }

    /// Whether the chunk is there and has its hash.
    async fn verify(&self, version: &Version, index: ChunkIndex) -> bool {
        let Some(place) = place(version, index) else { return false };
        self.0.ledger.lock().is_verified(&place) || self.load(version, index).await.is_some()
    }

    /// The bytes `within` a chunk; `None` when the chunk is absent or turned out to be damaged. A part is read alone if
    /// the chunk was verified since the cache was opened: to read and hash all of it costs a reader of 4 KiB more than
    /// everything else. Otherwise, and for whoever wants the whole chunk, all of it is read and verified.
    pub(crate) async fn get_part(
        &self,
        version: &Version,
        index: ChunkIndex,
        within: Range<u64>,
    ) -> Option<Bytes> {
        let part = self.load_part(version, index, within).await;
        if let Some(part) = &part {
            self.0.counts.hit(part.len());
        }
        part
    }

    async fn load_part(&self, version: &Version, index: ChunkIndex, within: Range<u64>) -> Option<Bytes> {
        let place = place(version, index)?;
        let is_part = within.end - within.start < place.length;
        if !is_part || is_small(version) || !self.0.ledger.lock().is_verified(&place) {
            let chunk = self.load(version, index).await?;
            return Some(chunk.data.slice(within.start as usize..within.end as usize));
        }
        let _pin = self.0.pin(&place)?;
        match self.0.read_part(version, &place, within).await {
            Ok(part) => Some(part),
            Err(error) => {
                self.0.drop_damaged(version, &place, &error.to_string()).await;
                None
            }
        }
    }
}

impl Shared {
    async fn read_part(
        self: &Arc<Self>,
        version: &Version,
        place: &Place,
        within: Range<u64>,
    ) -> io::Result<Bytes> {
        let pair = self.pair(version, place.segment.file, false).await?;
        let length = (within.end - within.start) as usize;
        let part = self.disk.read_at(&pair.data, place.offset + within.start, length).await?;
        if part.len() == length { Ok(part) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}
