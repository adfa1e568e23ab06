//! Small files: kept in bundles, each of what arrived while the one before it was written. So one file is made
//! on disk for many, and a lone one does not wait for others.
//!
//! *Invariants:* one bundle is written at a time; whoever waits for a file to be kept hears of it, also when the
//! bundle could not be written; what waits was verified when it arrived.

use super::bundle::{self, MAX_FILES};
use super::{NotKept, Shared, blocking, sidecar};
use crate::encoding;
use crate::model::bundles::place_of;
use crate::model::eviction::{BLOCK, FILE_COST, FileKey, Place};
use crate::source::Chunk;
use bytes::Bytes;
use globalfs_proto::{ChunkHash, ChunkIndex, Version};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Bytes of the files in one bundle, at most, where the quota is not tiny.
const MAX_BYTES: u64 = 1024 * 1024;

/// The part of the quota that one bundle may take.
const QUOTA_SHARE: u64 = 16;

/// Files on their way into bundles.
#[derive(Default)]
pub(super) struct Waiting(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    files: VecDeque<Waiter>,
    is_served: bool,
}

struct Waiter {
    version: Version,
    chunk: Chunk,
    kept: oneshot::Sender<Result<(), Arc<NotKept>>>,
}

impl Waiting {
    /// Whether somebody has to start writing.
    fn push(&self, waiter: Waiter) -> bool {
        let mut queue = self.0.lock();
        queue.files.push_back(waiter);
        !std::mem::replace(&mut queue.is_served, true)
    }

    /// The writer has died: those who wait hear of it, and the next one starts another.
    fn abandon(&self) {
        let files = {
            let mut queue = self.0.lock();
            queue.is_served = false;
            std::mem::take(&mut queue.files)
        };
        drop(files);
    }

    /// The files of the next bundle; when there are none, the writer ends.
    fn next(&self, max_bytes: u64) -> Vec<Waiter> {
        let mut queue = self.0.lock();
        let (mut count, mut bytes) = (0, 0);
        for waiter in queue.files.iter().take(MAX_FILES) {
            bytes += waiter.version.size;
            if count > 0 && bytes > max_bytes {
                break;
            }
            count += 1;
        }
        queue.is_served = count > 0;
        queue.files.drain(..count).collect()
    }
}

/// A writer at work.
struct Writing(Arc<Shared>);

impl Drop for Writing {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.waiting.abandon();
        }
    }
}

impl Writing {
    /// Lets go of the cache before the last ones hear of their files, so that they may close it.
    async fn run(self) {
        let mut files = self.0.next_files().await;
        loop {
            let outcome = self.0.write_bundle(&files).await.map_err(Arc::new);
            let next = self.0.next_files().await;
            if next.is_empty() {
                drop(self);
                return tell(files, &outcome);
            }
            tell(std::mem::replace(&mut files, next), &outcome);
        }
    }
}

impl Shared {
    /// Keeps all of a small file.
    pub(super) async fn store_small(
        self: &Arc<Self>,
        version: &Version,
        chunk: &Chunk,
    ) -> Result<(), Arc<NotKept>> {
        let (kept, told) = oneshot::channel();
        if self.waiting.push(Waiter { version: *version, chunk: chunk.clone(), kept }) {
            tokio::spawn(Writing(self.clone()).run());
        }
        let ended = |_| Err(Arc::new(NotKept::Disk(io::Error::other("the task that writes has ended"))));
        told.await.unwrap_or_else(ended)
    }

    async fn next_files(&self) -> Vec<Waiter> {
        // What arrived together is put by tasks that are just about to run.
        tokio::task::yield_now().await;
        let max_bytes = MAX_BYTES.min(self.ledger.lock().quota() / QUOTA_SHARE);
        self.waiting.next(max_bytes)
    }

    async fn write_bundle(self: &Arc<Self>, files: &[Waiter]) -> Result<(), NotKept> {
        let (table, bytes) = bundle::of(files.iter().map(|waiter| (&waiter.version, &waiter.chunk)));
        let place = place_of(table.key, 0, table.length);
        let _pin = self.reserve(&place, data_cost(table.length)).await?;
        // Entered first, so that it is known as a bundle when a part of it has to be removed; what is not
        // present in the ledger is not found.
        self.bundles.lock().enter(table.key, &table.files);
        let (shared, key) = (self.clone(), table.key);
        let make = move || shared.bundle_files.get_or_open(key, || shared.directory.create_bundle(key));
        let file = blocking(make).await?;
        self.disk.write_at(&file, 0, bytes).await?;
        self.ledger.lock().set_present(&place);
        self.remember_bundled(&table.files);
        files.iter().for_each(|waiter| self.recent.put(&waiter.version, &waiter.chunk));
        Ok(())
    }

    /// The small file, verified just now; `None` when it is absent or turned out to be damaged.
    pub(super) async fn load_small(self: &Arc<Self>, version: &Version) -> Option<Chunk> {
        let key = sidecar::key_of(version);
        let (place, hash) = self.find_small(key)?;
        let _pin = self.pin(&place)?;
        if let Some(chunk) = self.recent.get(version) {
            return Some(chunk);
        }
        match self.read_bundled(&place).await {
            Ok(data) if encoding::hash(&data) == hash => Some(Chunk { index: ChunkIndex(0), hash, data }),
            Ok(_) => self.drop_small(key, &place, "its bytes do not have their hash"),
            Err(error) => self.drop_small(key, &place, &error.to_string()),
        }
    }

    /// Where a small file lies, so far as is known without reading it.
    pub(super) fn find_small(&self, key: FileKey) -> Option<(Place, ChunkHash)> {
        let found = self.bundles.lock().find(key)?;
        self.ledger.lock().contains(&found.0).then_some(found)
    }

    pub(super) async fn read_bundled(self: &Arc<Self>, place: &Place) -> io::Result<Bytes> {
        let key = place.segment.file;
        let file = match self.bundle_files.get(key) {
            Some(file) => file,
            None => {
                let shared = self.clone();
                let open = move || shared.bundle_files.get_or_open(key, || shared.directory.open_bundle(key));
                blocking(open).await?
            }
        };
        self.disk.read_at(&file, place.offset, place.length as usize).await
    }

    /// The bundle keeps its space, and its other files, until it is evicted.
    fn drop_small(&self, key: FileKey, place: &Place, why: &str) -> Option<Chunk> {
        if self.bundles.lock().drop_damaged(key, place.segment.file) {
            self.tell_damaged(place, why);
        }
        None
    }
}

/// Nobody has to listen.
fn tell(files: Vec<Waiter>, outcome: &Result<(), Arc<NotKept>>) {
    for waiter in files {
        let _ = waiter.kept.send(outcome.clone());
    }
}

/// What a bundle takes besides its first block.
pub(super) fn data_cost(length: u64) -> u64 {
    length.next_multiple_of(BLOCK) - FILE_COST
}
