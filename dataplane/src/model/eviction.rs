//! What the cache holds and what leaves it: presence, space accounting, pins and the order of eviction.
//! The driver in `cache/` asks, carries out the removals on disk, and reports them here.
//!
//! Space is counted in blocks of the file system, sidecars included, and is taken before a byte is written.
//! A file is kept and dropped by segments of 64 chunks, least recently used first.
//!
//! *Invariants:* `used` never passes the quota while reservations are granted; a pinned segment, or one of a pinned
//! file, is never a victim; space of a victim stays counted until its removal is reported; a file that is losing a
//! segment takes no new chunk before that; a chunk is verified only while it is present.

use globalfs_proto::ChunkIndex;
use globalfs_proto::chunk::chunk_count;
use globalfs_proto::limits::CHUNK_SIZE;
use lru::LruCache;
use std::collections::HashMap;

/// Chunks in one segment, the unit of eviction: 8 MiB, and a presence mask of one word.
pub const SEGMENT_CHUNKS: u32 = 64;

/// Bytes in which disk space is counted: the block size of common file systems.
pub const BLOCK: u64 = 4096;

/// Chunks in the largest file that is cached (512 TiB), so that counts fit 32 bits.
pub const MAX_FILE_CHUNKS: u64 = u32::MAX as u64;

/// What a file takes besides its segments: the first page of its sidecar, or the first block of a bundle.
pub const FILE_COST: u64 = BLOCK;

/// Up to this many chunks the extents of a data file fit its inode.
const INLINE_EXTENTS: u32 = 4;

/// The short name of a version's files: a truncated hash; the sidecar holds the version itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileKey(pub [u8; 16]);

/// One segment of one cached file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SegmentKey {
    /// The file.
    pub file: FileKey,
    /// The segment covers chunks from `number * SEGMENT_CHUNKS` on.
    pub number: u32,
}

/// Where a chunk of a cached file lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The segment that holds it.
    pub segment: SegmentKey,
    /// Its bit in the segment's mask.
    pub bit: u64,
    /// Offset of its first byte in the data file.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    file_chunks: u32,
}

impl Place {
    /// `None` when the chunk lies behind the end of a file of `size` bytes, or the file is too large to cache.
    pub fn new(file: FileKey, size: u64, index: ChunkIndex) -> Option<Self> {
        let bytes = index.bytes(size)?;
        let file_chunks = u32::try_from(chunk_count(size)).ok()?;
        let chunk = u32::try_from(index.0).ok()?;
        Some(Self {
            segment: SegmentKey { file, number: chunk / SEGMENT_CHUNKS },
            bit: 1 << (chunk % SEGMENT_CHUNKS),
            offset: bytes.start(),
            length: bytes.length(),
            file_chunks,
        })
    }

    /// A part of a cached file that comes and goes as a whole.
    pub fn only(segment: SegmentKey, offset: u64, length: u64) -> Self {
        Self { segment, bit: 1, offset, length, file_chunks: 1 }
    }

    /// Disk space of the chunk's bytes.
    pub fn data_cost(&self) -> u64 {
        self.length.next_multiple_of(BLOCK)
    }
}

/// A segment that has to be removed from disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Victim {
    /// Which segment.
    pub segment: SegmentKey,
    /// Nothing of the file remains after this batch: remove its files instead of punching holes.
    pub unlink: bool,
}

#[derive(Debug, Default)]
struct FileEntry {
    chunks: u32,
    present: u32,
    /// Of those present: chunks whose bytes had their hash when they were stored or read in this run.
    verified: u32,
    resident: u32,
    leaving: u32,
    pins: u32,
}

#[derive(Debug, Default)]
struct Segment {
    present: u64,
    verified: u64,
    charged: u64,
    bytes: u32,
    pins: u32,
    leaving: bool,
}

/// The index and the accounts of a cache. Some 150 bytes for a small file.
#[derive(Debug)]
pub struct Ledger {
    quota: u64,
    used: u64,
    whole_files: bool,
    files: HashMap<FileKey, FileEntry>,
    segments: LruCache<SegmentKey, Segment>,
}

impl Ledger {
    /// An empty cache of `quota` bytes. `whole_files`: segments cannot be punched out of a file, so a file
    /// goes as a whole.
    pub fn new(quota: u64, whole_files: bool) -> Self {
        Self { quota, used: 0, whole_files, files: HashMap::new(), segments: LruCache::unbounded() }
    }

    /// Bytes of disk space taken or reserved.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// The most that may be used.
    pub fn quota(&self) -> u64 {
        self.quota
    }

    /// Whether the chunk can be read from the cache.
    pub fn contains(&self, place: &Place) -> bool {
        let segment = self.segments.peek(&place.segment);
        segment.is_some_and(|s| !s.leaving && s.present & place.bit != 0)
    }

    /// The place of a present chunk of a file that is known by its key alone.
    pub fn place_of(&self, file: FileKey, chunk: u32, length: u64) -> Option<Place> {
        let place = Place {
            segment: SegmentKey { file, number: chunk / SEGMENT_CHUNKS },
            bit: 1 << (chunk % SEGMENT_CHUNKS),
            offset: u64::from(chunk) * CHUNK_SIZE,
            length,
            file_chunks: self.files.get(&file)?.chunks,
        };
        self.contains(&place).then_some(place)
    }

    /// Whether every chunk of the file is present.
    pub fn is_whole(&self, file: FileKey) -> bool {
        self.files.get(&file).is_some_and(|f| f.leaving == 0 && f.present == f.chunks)
    }

    /// Whether the chunk can be read, and its bytes had their hash since the cache was opened.
    pub fn is_verified(&self, place: &Place) -> bool {
        let segment = self.segments.peek(&place.segment);
        segment.is_some_and(|s| !s.leaving && s.verified & place.bit != 0)
    }

    /// Keeps all of a file from eviction, if every chunk of it is present and verified.
    pub fn pin_file(&mut self, file: FileKey) -> bool {
        let entry = self.files.get_mut(&file);
        let Some(entry) = entry.filter(|f| f.leaving == 0 && f.verified == f.chunks) else { return false };
        entry.pins += 1;
        true
    }

    /// Ends one `pin_file`. All of the file becomes the most recent: nobody saw what was read of it.
    pub fn unpin_file(&mut self, file: FileKey) {
        let entry = self.files.get_mut(&file).expect("a pinned file stays in the ledger");
        entry.pins = entry.pins.checked_sub(1).expect("each pin ends once");
        if entry.pins == 0 {
            let count = entry.chunks.div_ceil(SEGMENT_CHUNKS);
            for number in 0..count {
                self.segments.promote(&SegmentKey { file, number });
            }
        }
    }

    /// Pins the chunk's segment and makes it the most recent, if the chunk is present.
    pub fn pin(&mut self, place: &Place) -> bool {
        if !self.contains(place) {
            return false;
        }
        self.segments.get_mut(&place.segment).expect("a present chunk has a segment").pins += 1;
        true
    }

    /// Ends one pin, whether from `pin` or from `reserve`.
    pub fn unpin(&mut self, key: SegmentKey) {
        let segment = self.segments.peek_mut(&key).expect("a pinned segment stays in the ledger");
        segment.pins = segment.pins.checked_sub(1).expect("each pin ends once");
    }

    /// Takes `data_bytes` of space for the chunk, plus what its segment and file need when they are new,
    /// and pins the segment. False when the quota has no room, or the file is just losing a segment.
    pub fn reserve(&mut self, place: &Place, data_bytes: u64) -> bool {
        let cost = self.cost(place, data_bytes);
        if self.used + cost > self.quota || self.files.get(&place.segment.file).is_some_and(|f| f.leaving > 0)
        {
            return false;
        }
        self.charge(place, data_bytes).pins += 1;
        assert!(self.used <= self.quota, "a reservation never passes the quota");
        true
    }

    /// Chooses what has to go so that `reserve` of the same chunk succeeds. `None` when pins make that
    /// impossible. Each victim is answered by `removed` or `retained`.
    pub fn make_room(&mut self, place: &Place, data_bytes: u64) -> Option<Vec<Victim>> {
        let need = (self.used + self.cost(place, data_bytes)).saturating_sub(self.quota);
        let victims = self.choose(need, Some(place.segment))?;
        self.mark(&victims);
        Some(victims)
    }

    /// What has to go after recovery under a smaller quota.
    pub fn overflow(&mut self) -> Vec<Victim> {
        let victims = self.choose(self.used.saturating_sub(self.quota), None).unwrap_or_default();
        self.mark(&victims);
        victims
    }

    /// A victim is gone from disk: its space is free. Gives the bytes freed.
    pub fn removed(&mut self, key: SegmentKey) -> u64 {
        let before = self.used;
        let segment = self.segments.pop(&key).expect("a victim stays in the ledger until it is removed");
        assert!(segment.leaving && segment.pins == 0, "only victims are removed");
        self.used -= u64::from(segment.bytes);
        let file = self.files.get_mut(&key.file).expect("a segment has a file");
        file.resident -= 1;
        file.leaving -= 1;
        file.present -= segment.present.count_ones();
        file.verified -= segment.verified.count_ones();
        if file.resident == 0 {
            self.files.remove(&key.file);
            self.used -= FILE_COST;
        }
        before - self.used
    }

    /// A victim could not be removed from disk: it stays, as the most recent.
    pub fn retained(&mut self, key: SegmentKey) {
        let segment = self.segments.get_mut(&key).expect("a victim stays in the ledger until it is removed");
        segment.leaving = false;
        self.files.get_mut(&key.file).expect("a segment has a file").leaving -= 1;
    }

    /// The chunk's data and hash are in place, and were verified just now: it can be read. Gives the segment's mask.
    pub fn set_present(&mut self, place: &Place) -> u64 {
        let present = self.enter(place);
        self.set_verified(place);
        present
    }

    /// The chunk's bytes had their hash just now. Nothing, when it is no longer present.
    pub fn set_verified(&mut self, place: &Place) {
        let segment = self.segments.peek_mut(&place.segment).filter(|s| s.present & place.bit != 0);
        let Some(segment) = segment.filter(|s| s.verified & place.bit == 0) else { return };
        segment.verified |= place.bit;
        self.files.get_mut(&place.segment.file).expect("a segment has a file").verified += 1;
    }

    fn enter(&mut self, place: &Place) -> u64 {
        let segment = self.segments.peek_mut(&place.segment).expect("a reserved segment is pinned");
        let new = segment.present & place.bit == 0;
        segment.present |= place.bit;
        let file = self.files.get_mut(&place.segment.file).expect("a segment has a file");
        file.present += u32::from(new);
        segment.present
    }

    /// The chunk failed its hash: it is no longer offered; its space stays taken for the next attempt.
    /// Gives the segment's mask, or `None` when somebody else was first.
    pub fn clear_present(&mut self, place: &Place) -> Option<u64> {
        let segment = self.segments.peek_mut(&place.segment).filter(|s| s.present & place.bit != 0)?;
        let was_verified = segment.verified & place.bit != 0;
        segment.present &= !place.bit;
        segment.verified &= !place.bit;
        let file = self.files.get_mut(&place.segment.file).expect("a segment has a file");
        file.present -= 1;
        file.verified -= u32::from(was_verified);
        Some(segment.present)
    }

    /// Enters a chunk found by recovery, unverified; may pass the quota until `overflow` is carried out.
    pub fn restore(&mut self, place: &Place, data_bytes: u64) {
        self.charge(place, data_bytes);
        self.enter(place);
    }

    fn cost(&self, place: &Place, data_bytes: u64) -> u64 {
        let file = if self.files.contains_key(&place.segment.file) { 0 } else { FILE_COST };
        match self.segments.peek(&place.segment) {
            None => file + segment_cost(place) + data_bytes,
            Some(s) if s.charged & place.bit == 0 => file + data_bytes,
            Some(_) => file,
        }
    }

    /// Enters the cost of a chunk; its segment becomes the most recent.
    fn charge(&mut self, place: &Place, data_bytes: u64) -> &mut Segment {
        let cost = self.cost(place, data_bytes);
        let new_file = FileEntry { chunks: place.file_chunks, ..FileEntry::default() };
        let file_is_new = !self.files.contains_key(&place.segment.file);
        let file = self.files.entry(place.segment.file).or_insert(new_file);
        file.resident += u32::from(!self.segments.contains(&place.segment));
        self.used += cost;
        let segment = self.segments.get_or_insert_mut(place.segment, Segment::default);
        let own = cost - if file_is_new { FILE_COST } else { 0 };
        segment.bytes += u32::try_from(own).expect("a segment is far below 4 GiB");
        segment.charged |= if data_bytes > 0 { place.bit } else { 0 };
        segment
    }

    /// The least recent segments that free `need` bytes, or `None` when all that may go is not enough.
    fn choose(&self, need: u64, target: Option<SegmentKey>) -> Option<Vec<Victim>> {
        let (mut freed, mut victims) = (0, Vec::new());
        let mut going: HashMap<FileKey, u32> = HashMap::new();
        for (key, _) in self.segments.iter().rev() {
            if freed >= need {
                break;
            }
            if self.whole_files && going.contains_key(&key.file) {
                continue;
            }
            for victim in self.group(*key, target) {
                let count = going.entry(key.file).or_default();
                *count += 1;
                let last = *count == self.files[&key.file].resident;
                // The file of the chunk that is to come pays for its first page again.
                let page_is_freed = last && target.is_none_or(|t| t.file != key.file);
                freed += self.freed_by(victim) + if page_is_freed { FILE_COST } else { 0 };
                victims.push(Victim { segment: victim, unlink: last || self.whole_files });
            }
        }
        (freed >= need).then_some(victims)
    }

    /// What goes together with `key`: itself, or its whole file; empty when a part of it may not go.
    fn group(&self, key: SegmentKey, target: Option<SegmentKey>) -> Vec<SegmentKey> {
        let group = if self.whole_files { self.segments_of(key.file) } else { vec![key] };
        if self.files[&key.file].pins > 0 {
            return Vec::new();
        }
        let free = |k: &SegmentKey| self.segments.peek(k).is_some_and(|s| s.pins == 0 && !s.leaving);
        let wanted = |k: &SegmentKey| match target {
            Some(t) => *k == t || self.whole_files && k.file == t.file,
            None => false,
        };
        if group.iter().all(|k| free(k) && !wanted(k)) { group } else { Vec::new() }
    }

    fn segments_of(&self, file: FileKey) -> Vec<SegmentKey> {
        let count = self.files[&file].chunks.div_ceil(SEGMENT_CHUNKS);
        let keys = (0..count).map(|number| SegmentKey { file, number });
        keys.filter(|k| self.segments.contains(k)).collect()
    }

    fn freed_by(&self, key: SegmentKey) -> u64 {
        self.segments.peek(&key).map_or(0, |s| s.bytes.into())
    }

    fn mark(&mut self, victims: &[Victim]) {
        for victim in victims {
            let segment = self.segments.peek_mut(&victim.segment).expect("a victim is in the ledger");
            assert!(segment.pins == 0, "a pinned segment is never a victim");
            segment.leaving = true;
            self.files.get_mut(&victim.segment.file).expect("a segment has a file").leaving += 1;
        }
    }
}

/// What a segment takes besides data: its sidecar page (the first is the file's) and a block of extents.
fn segment_cost(place: &Place) -> u64 {
    let page = if place.segment.number > 0 { BLOCK } else { 0 };
    let extents = if place.file_chunks > INLINE_EXTENTS { BLOCK } else { 0 };
    page + extents
}

#[cfg(test)]
#[path = "eviction_tests.rs"]
mod tests;
