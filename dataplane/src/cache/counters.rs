//! What a cache counts, for metrics and tests.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Totals since the cache was opened, and its present size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheCounters {
    /// Chunks read from the cache.
    pub hits: u64,
    /// Chunks that readers wanted and that were not there.
    pub misses: u64,
    /// Bytes read from the cache.
    pub bytes_from_cache: u64,
    /// Bytes of chunks put into it.
    pub bytes_stored: u64,
    /// Segments evicted.
    pub segments_evicted: u64,
    /// Disk space that evictions freed.
    pub bytes_evicted: u64,
    /// Chunks that failed their hash or could not be read; they were fetched again when wanted.
    pub chunks_damaged: u64,
    /// Chunks served without being kept: no room, or the disk refused them.
    pub chunks_not_kept: u64,
    /// Disk space in use, now.
    pub used_bytes: u64,
    /// Disk space that may be used.
    pub quota_bytes: u64,
}

#[derive(Default)]
pub(super) struct Counts {
    hits: AtomicU64,
    misses: AtomicU64,
    bytes_from_cache: AtomicU64,
    bytes_stored: AtomicU64,
    segments_evicted: AtomicU64,
    bytes_evicted: AtomicU64,
    chunks_damaged: AtomicU64,
    chunks_not_kept: AtomicU64,
}

impl Counts {
    pub(super) fn hit(&self, bytes: usize) {
        self.hits.fetch_add(1, Relaxed);
        self.bytes_from_cache.fetch_add(bytes as u64, Relaxed);
    }

    pub(super) fn miss(&self) {
        self.misses.fetch_add(1, Relaxed);
    }

    pub(super) fn stored(&self, bytes: usize) {
        self.bytes_stored.fetch_add(bytes as u64, Relaxed);
    }

    pub(super) fn evicted(&self, bytes: u64) {
        self.segments_evicted.fetch_add(1, Relaxed);
        self.bytes_evicted.fetch_add(bytes, Relaxed);
    }

    pub(super) fn damaged(&self) {
        self.chunks_damaged.fetch_add(1, Relaxed);
    }

    pub(super) fn not_kept(&self) {
        self.chunks_not_kept.fetch_add(1, Relaxed);
    }

    pub(super) fn snapshot(&self, used_bytes: u64, quota_bytes: u64) -> CacheCounters {
        CacheCounters {
            hits: self.hits.load(Relaxed),
            misses: self.misses.load(Relaxed),
            bytes_from_cache: self.bytes_from_cache.load(Relaxed),
            bytes_stored: self.bytes_stored.load(Relaxed),
            segments_evicted: self.segments_evicted.load(Relaxed),
            bytes_evicted: self.bytes_evicted.load(Relaxed),
            chunks_damaged: self.chunks_damaged.load(Relaxed),
            chunks_not_kept: self.chunks_not_kept.load(Relaxed),
            used_bytes,
            quota_bytes,
        }
    }
}
