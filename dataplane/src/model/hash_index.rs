//! Where a chunk of a given hash lies in a cache, so far as is remembered: an index that forgets.
//!
//! Entries may be stale, and two hashes may share their first eight bytes: whoever follows an entry verifies
//! the bytes that it finds. So nothing has to be removed when a file leaves the cache.
//!
//! *Invariant:* at most [`MAX_ENTRIES`] entries of [`ENTRY_BYTES`] each; once it has
//! that many, a full group of eight forgets its oldest.

use super::eviction::FileKey;
use globalfs_proto::ChunkHash;

/// Entries of a full index: it covers 128 GiB and takes 32 MiB.
pub const MAX_ENTRIES: usize = 1 << 20;

/// Memory of one entry.
pub const ENTRY_BYTES: usize = size_of::<Entry>();

/// Entries that are looked through for one hash, newest first.
const GROUP: usize = 8;

/// Entries of an empty index.
const FIRST_ENTRIES: usize = 1 << 10;

const _: () = assert!(ENTRY_BYTES == 32 && FIRST_ENTRIES.is_multiple_of(GROUP));

/// A chunk of a cached file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whereabouts {
    /// The file.
    pub file: FileKey,
    /// The chunk's number.
    pub chunk: u32,
    /// Its bytes; never 0.
    pub length: u32,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    tag: u64,
    at: Whereabouts,
}

const VACANT: Entry = Entry { tag: 0, at: Whereabouts { file: FileKey([0; 16]), chunk: 0, length: 0 } };

/// The index of one cache. Grows as it fills.
#[derive(Debug)]
pub struct HashIndex {
    entries: Vec<Entry>,
    used: usize,
}

impl Default for HashIndex {
    fn default() -> Self {
        Self { entries: vec![VACANT; FIRST_ENTRIES], used: 0 }
    }
}

impl HashIndex {
    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.used
    }

    /// Where the chunk may lie.
    pub fn find(&self, hash: &ChunkHash) -> Option<Whereabouts> {
        let tag = tag_of(hash);
        let group = &self.entries[self.group_of(tag)..][..GROUP];
        group.iter().find(|entry| entry.is_used() && entry.tag == tag).map(|entry| entry.at)
    }

    /// Remembers where the chunk lies.
    pub fn put(&mut self, hash: &ChunkHash, at: Whereabouts) {
        let tag = tag_of(hash);
        while self.entries.len() < MAX_ENTRIES && self.is_full(tag) {
            self.grow();
        }
        self.enter(Entry { tag, at });
    }

    /// Forgets the chunk, if it is remembered at this place.
    pub fn forget(&mut self, hash: &ChunkHash, at: Whereabouts) {
        let tag = tag_of(hash);
        let start = self.group_of(tag);
        let group = &mut self.entries[start..][..GROUP];
        if let Some(place) = group.iter().position(|entry| entry.tag == tag && entry.at == at) {
            group[place..].rotate_left(1);
            group[GROUP - 1] = VACANT;
            self.used -= 1;
        }
    }

    /// Newest first; the last of the group makes room when neither the hash nor a vacancy is found.
    fn enter(&mut self, new: Entry) {
        let start = self.group_of(new.tag);
        let group = &mut self.entries[start..][..GROUP];
        let old = group.iter().position(|entry| !entry.is_used() || entry.tag == new.tag);
        let place = old.unwrap_or(GROUP - 1);
        self.used += usize::from(!group[place].is_used());
        group[..=place].rotate_right(1);
        group[0] = new;
    }

    /// Whether the hash would take the place of another one.
    fn is_full(&self, tag: u64) -> bool {
        let group = &self.entries[self.group_of(tag)..][..GROUP];
        group.iter().all(|entry| entry.is_used() && entry.tag != tag)
    }

    fn grow(&mut self) {
        let entries = vec![VACANT; self.entries.len() * 2];
        let old = std::mem::replace(&mut self.entries, entries);
        self.used = 0;
        for group in old.chunks_exact(GROUP) {
            group.iter().rev().filter(|entry| entry.is_used()).for_each(|entry| self.enter(*entry));
        }
    }

    fn group_of(&self, tag: u64) -> usize {
        let groups = self.entries.len() / GROUP;
        tag as usize % groups * GROUP
    }
}

impl Entry {
    fn is_used(&self) -> bool {
        self.at.length != 0
    }
}

fn tag_of(hash: &ChunkHash) -> u64 {
    let first = hash.0.first_chunk().expect("a hash has 32 bytes");
    u64::from_le_bytes(*first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn hash(n: u64) -> ChunkHash {
        ChunkHash(*blake3::hash(&n.to_le_bytes()).as_bytes())
    }

    fn at(n: u32) -> Whereabouts {
        Whereabouts { file: FileKey([n as u8; 16]), chunk: n, length: 1 + n }
    }

    #[test]
    fn a_full_index_stays_bounded_and_forgets_the_oldest() {
        let mut index = HashIndex::default();
        let count = 3 * MAX_ENTRIES as u64;
        (0..count).for_each(|n| index.put(&hash(n), at(n as u32)));
        assert!(index.len() <= MAX_ENTRIES && index.entries.len() == MAX_ENTRIES);
        let kept = |n: &u64| index.find(&hash(*n)) == Some(at(*n as u32));
        let newest = (count - 100_000..count).filter(kept).count();
        let oldest = (0..100_000).filter(kept).count();
        assert!(newest > 99_900 && oldest < 1000, "{newest} of the newest, {oldest} of the oldest");
    }

    proptest! {
        #[test]
        fn behaves_like_a_map(steps in proptest::collection::vec((0..200_u64, 0..9_u32), 0..3000)) {
            let (mut index, mut map) = (HashIndex::default(), HashMap::new());
            for (n, place) in steps {
                if place == 0 {
                    if let Some(old) = map.remove(&n) {
                        index.forget(&hash(n), old);
                    }
                } else {
                    index.forget(&hash(n), at(100 + place));
                    index.put(&hash(n), at(place));
                    map.insert(n, at(place));
                }
                prop_assert_eq!(index.find(&hash(n)), map.get(&n).copied());
            }
            prop_assert_eq!(index.len(), map.len());
            prop_assert_eq!(index.is_empty(), map.is_empty());
            prop_assert!(map.iter().all(|(n, at)| index.find(&hash(*n)) == Some(*at)));
        }
    }
}
