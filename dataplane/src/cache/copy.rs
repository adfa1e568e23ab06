//! Chunks by their hash, wherever in the cache they lie: what is here under another name or version need not
//! be fetched.

use super::bundle::is_small;
use super::sidecar::key_of;
use super::{Cache, Shared};
use crate::encoding;
use crate::model::bundles::Bundled;
use crate::model::eviction::{FileKey, Place};
use crate::model::hash_index::Whereabouts;
use bytes::Bytes;
use globalfs_proto::limits::CHUNK_SIZE;
use globalfs_proto::{ChunkHash, Version};
use std::sync::Arc;

impl Cache {
    /// Chunks that can be found by their hash.
    pub(crate) fn indexed(&self) -> u64 {
        self.0.index.lock().len() as u64
    }

    /// Whether a chunk of this hash is here, so far as is known without reading it.
    pub(crate) fn holds(&self, hash: &ChunkHash) -> bool {
        encoding::is_hash_of_zeros(hash) || self.0.whereabouts(hash).is_some()
    }

    /// The bytes of a chunk of this hash and length, verified just now; `None` when they are not here.
    pub(crate) async fn copy_of(&self, hash: &ChunkHash, length: u64) -> Option<Bytes> {
        if length == CHUNK_SIZE && encoding::is_hash_of_zeros(hash) {
            return Some(encoding::zeros());
        }
        let (at, place) = self.0.whereabouts(hash)?;
        let data = self.0.read_of_any(at, &place).await.filter(|data| data.len() as u64 == length);
        match data.filter(|data| encoding::hash(data) == *hash) {
            Some(data) => Some(data),
            None => {
                self.0.index.lock().forget(hash, at);
                None
            }
        }
    }
}

impl Shared {
    /// Remembers a chunk that was just stored.
    pub(super) fn remember(&self, hash: &ChunkHash, place: &Place) {
        if let Some(at) = whereabouts_of(place) {
            self.index.lock().put(hash, at);
        }
    }

    /// Remembers small files that were just stored.
    pub(super) fn remember_bundled(&self, files: &[Bundled]) {
        let mut index = self.index.lock();
        for bundled in files {
            index.put(&bundled.hash, whereabouts_of_bundled(bundled));
        }
    }

    fn whereabouts(&self, hash: &ChunkHash) -> Option<(Whereabouts, Place)> {
        let at = self.index.lock().find(hash)?;
        let place = match self.find_small(at.file) {
            Some((place, _)) => place,
            None => self.ledger.lock().place_of(at.file, at.chunk, at.length.into())?,
        };
        Some((at, place))
    }

    async fn read_of_any(self: &Arc<Self>, at: Whereabouts, place: &Place) -> Option<Bytes> {
        let _pin = self.pin(place)?;
        // A bundle has a name of its own.
        if at.file != place.segment.file {
            return self.read_bundled(place).await.ok();
        }
        let pair = self.pair_of_any(place.segment.file).await.ok()?;
        self.disk.read_at(&pair.data, place.offset, place.length as usize).await.ok()
    }

    /// As `pair`, for a file whose version is told by its sidecar alone.
    async fn pair_of_any(self: &Arc<Self>, key: FileKey) -> std::io::Result<Arc<super::Pair>> {
        if let Some(pair) = self.files.get(key) {
            return Ok(pair);
        }
        let shared = self.clone();
        super::blocking(move || shared.files.get_or_open(key, || shared.directory.open_known(key))).await
    }
}

/// Where a stored chunk lies.
pub(super) fn whereabouts_of(place: &Place) -> Option<Whereabouts> {
    let length = u32::try_from(place.length).ok()?;
    let chunk = u32::try_from(place.offset / CHUNK_SIZE).ok()?;
    Some(Whereabouts { file: place.segment.file, chunk, length })
}

/// Where a stored small file lies.
pub(super) fn whereabouts_of_bundled(bundled: &Bundled) -> Whereabouts {
    Whereabouts { file: bundled.file, chunk: 0, length: bundled.length }
}

impl Cache {
    /// The hashes of consecutive chunks from `first` on, at most `count`, so far as the cache has the chunks without a
    /// gap. They come from a sidecar or a bundle's table, unverified: a damaged one names no chunk that exists.
    pub(crate) async fn stored_hashes(&self, version: &Version, first: u64, count: usize) -> Vec<ChunkHash> {
        if is_small(version) {
            let held = self.0.find_small(key_of(version)).filter(|_| first == 0 && count > 0);
            return held.map(|(_, hash)| hash).into_iter().collect();
        }
        let places = (first..).map_while(|index| super::place(version, globalfs_proto::ChunkIndex(index)));
        let present: Vec<Place> = {
            let ledger = self.0.ledger.lock();
            places.take(count).take_while(|place| ledger.contains(place)).collect()
        };
        let Some(start) = present.first().copied() else { return Vec::new() };
        let same_page = present.iter().take_while(|place| place.segment == start.segment).count();
        self.0.read_hashes(version, &start, same_page).await.unwrap_or_default()
    }
}

impl Shared {
    /// `count` hashes of one page.
    async fn read_hashes(
        self: &Arc<Self>,
        version: &Version,
        start: &Place,
        count: usize,
    ) -> Option<Vec<ChunkHash>> {
        let _pin = self.pin(start)?;
        let pair = self.pair(version, start.segment.file, false).await.ok()?;
        let length = count * super::sidecar::HASH_LENGTH;
        let bytes = self.disk.read_at(&pair.side, super::sidecar::hash_offset(start), length).await.ok()?;
        Some(bytes.chunks_exact(32).filter_map(|hash| hash.try_into().ok().map(ChunkHash)).collect())
    }
}
