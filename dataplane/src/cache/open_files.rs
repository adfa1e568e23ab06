//! The open files of a cache, bounded: the least recently used is closed for the next.

use crate::model::eviction::FileKey;
use lru::LruCache;
use parking_lot::Mutex;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;

/// What stays open: 256 bundles, and as many pairs of data file and sidecar, besides those in use at the moment.
const MAX_OPEN: NonZeroUsize = NonZeroUsize::new(256).expect("256 is not zero");

pub(super) struct OpenFiles<T> {
    open: Mutex<LruCache<FileKey, Arc<T>>>,
    /// Held while files are opened or made, so that nobody makes them twice.
    opening: Mutex<()>,
}

impl<T> OpenFiles<T> {
    pub(super) fn new() -> Self {
        Self { open: Mutex::new(LruCache::new(MAX_OPEN)), opening: Mutex::new(()) }
    }

    pub(super) fn get(&self, key: FileKey) -> Option<Arc<T>> {
        self.open.lock().get(&key).cloned()
    }

    /// Blocks while files are opened.
    pub(super) fn get_or_open(
        &self,
        key: FileKey,
        open: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<Arc<T>> {
        let _one_at_a_time = self.opening.lock();
        if let Some(file) = self.get(key) {
            return Ok(file);
        }
        let file = Arc::new(open()?);
        self.open.lock().put(key, file.clone());
        Ok(file)
    }

    /// The file is about to be removed.
    pub(super) fn forget(&self, key: FileKey) {
        self.open.lock().pop(&key);
    }
}

#[cfg(test)]
impl<T> OpenFiles<T> {
    pub(super) fn len(&self) -> usize {
        self.open.lock().len()
    }
}
