//! Which small files a cache has, and in which bundle each of them lies. The bundles themselves are entered in
//! the ledger, each as a file of one chunk.
//!
//! *Invariant:* a file is found in the bundle that was entered last of those that hold it, until that bundle
//! goes or the file is found damaged there.

use super::eviction::{FileKey, Place, SegmentKey};
use globalfs_proto::ChunkHash;
use std::collections::HashMap;

/// A file of a bundle, as its table tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bundled {
    /// The file.
    pub file: FileKey,
    /// Where its bytes begin in the bundle.
    pub offset: u32,
    /// Number of its bytes.
    pub length: u32,
    /// What they hash to.
    pub hash: ChunkHash,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    bundle: FileKey,
    bundled: Bundled,
}

/// Some 150 bytes for each small file.
#[derive(Debug, Default)]
pub struct Bundles {
    files: HashMap<FileKey, Entry>,
    contents: HashMap<FileKey, Box<[FileKey]>>,
}

impl Bundles {
    /// A bundle is on disk.
    pub fn enter(&mut self, bundle: FileKey, files: &[Bundled]) {
        self.contents.insert(bundle, files.iter().map(|bundled| bundled.file).collect());
        self.files.extend(files.iter().map(|bundled| (bundled.file, Entry { bundle, bundled: *bundled })));
    }

    /// Where the bytes of the file lie in its bundle, and what they hash to.
    pub fn find(&self, file: FileKey) -> Option<(Place, ChunkHash)> {
        let Entry { bundle, bundled } = self.files.get(&file)?;
        let place = place_of(*bundle, bundled.offset.into(), bundled.length.into());
        Some((place, bundled.hash))
    }

    /// The file's bytes in `bundle` do not have their hash. False when it is no longer found there.
    pub fn drop_damaged(&mut self, file: FileKey, bundle: FileKey) -> bool {
        let found = self.files.get(&file).is_some_and(|entry| entry.bundle == bundle);
        if found {
            self.files.remove(&file);
        }
        found
    }

    /// The bundle goes, and with it what is found in it. False when it is no bundle.
    pub fn remove(&mut self, bundle: FileKey) -> bool {
        let Some(files) = self.contents.remove(&bundle) else { return false };
        for file in files {
            self.drop_damaged(file, bundle);
        }
        true
    }
}

/// A part of a bundle, as the ledger knows it.
pub fn place_of(bundle: FileKey, offset: u64, length: u64) -> Place {
    let segment = SegmentKey { file: bundle, number: 0 };
    Place::only(segment, offset, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> FileKey {
        FileKey([n; 16])
    }

    fn bundled(n: u8, offset: u32) -> Bundled {
        Bundled { file: key(n), offset, length: 10, hash: ChunkHash([n; 32]) }
    }

    #[test]
    fn a_file_is_found_where_it_was_entered_last() {
        let mut bundles = Bundles::default();
        bundles.enter(key(100), &[bundled(1, 0), bundled(2, 10)]);
        bundles.enter(key(101), &[bundled(2, 50)]);
        let place = |bundles: &Bundles, n| bundles.find(key(n)).map(|(p, _)| (p.segment.file, p.offset));
        assert_eq!(place(&bundles, 1), Some((key(100), 0)));
        assert_eq!(place(&bundles, 2), Some((key(101), 50)));
        assert!(bundles.remove(key(100)), "an older bundle");
        assert_eq!((place(&bundles, 1), place(&bundles, 2)), (None, Some((key(101), 50))));
        assert!(!bundles.drop_damaged(key(2), key(100)), "it is not there");
        assert!(bundles.drop_damaged(key(2), key(101)));
        assert_eq!(bundles.find(key(2)), None);
        assert!(bundles.remove(key(101)) && !bundles.remove(key(101)));
        assert!(bundles.files.is_empty() && bundles.contents.is_empty());
    }
}
