//! The open files of a cache, bounded: the least recently used pair is closed for the next.

use super::directory::Pair;
use crate::model::eviction::FileKey;
use lru::LruCache;
use parking_lot::Mutex;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;

/// Pairs of data file and sidecar that stay open: 512 descriptors, besides those in use at the moment.
const MAX_OPEN_PAIRS: NonZeroUsize = NonZeroUsize::new(256).expect("256 is not zero");

pub(super) struct OpenFiles {
    pairs: Mutex<LruCache<FileKey, Arc<Pair>>>,
    /// Held while files are opened or made, so that nobody makes them twice.
    opening: Mutex<()>,
}

impl OpenFiles {
    pub(super) fn new() -> Self {
        Self { pairs: Mutex::new(LruCache::new(MAX_OPEN_PAIRS)), opening: Mutex::new(()) }
    }

    pub(super) fn get(&self, key: FileKey) -> Option<Arc<Pair>> {
        self.pairs.lock().get(&key).cloned()
    }

    /// Blocks while files are opened.
    pub(super) fn get_or_open(
        &self,
        key: FileKey,
        open: impl FnOnce() -> io::Result<Pair>,
    ) -> io::Result<Arc<Pair>> {
        let _one_at_a_time = self.opening.lock();
        if let Some(pair) = self.get(key) {
            return Ok(pair);
        }
        let pair = Arc::new(open()?);
        self.pairs.lock().put(key, pair.clone());
        Ok(pair)
    }

    /// The file is about to be removed.
    pub(super) fn forget(&self, key: FileKey) {
        self.pairs.lock().pop(&key);
    }
}

#[cfg(test)]
impl OpenFiles {
    pub(super) fn len(&self) -> usize {
        self.pairs.lock().len()
    }
}
