//! Single flight: chunks on their way, each announced once, with everybody who waits for it.
//!
//! *Invariant:* a chunk that is claimed is settled: its claim reports an outcome even when it is dropped,
//! and leaves the table only then. So nobody waits for a transfer that does not exist.

use crate::source::Chunk;
use globalfs_proto::{ChunkIndex, FsError, GlobalPath, Version};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::watch;

type ChunkName = (Version, ChunkIndex);

/// How far a transfer is.
#[derive(Debug, Clone)]
pub(super) enum Progress {
    /// On its way.
    Pending,
    /// Here, and on its way to the disk, or refused by the cache.
    Arrived(Chunk),
    /// In the cache, and in memory for a while.
    Held(Chunk),
    /// In the cache.
    Kept,
    /// The upstream said no.
    Failed(FsError),
    /// Nobody works on it any more.
    Abandoned,
}

/// All chunks on their way through one hop.
#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<ChunkName, Flight>>);

struct Flight {
    path: GlobalPath,
    progress: watch::Receiver<Progress>,
}

/// Where a reader finds a chunk.
pub(super) enum Slot {
    /// In the cache.
    Cached,
    /// Here, once the transfer is done. `same_path`: it asks by the name by which the reader asks.
    Awaited { progress: watch::Receiver<Progress>, own: bool, same_path: bool },
}

impl Slot {
    /// Whether whoever takes it has to wait for the upstream.
    pub(super) fn is_pending(&self) -> bool {
        match self {
            Self::Cached => false,
            Self::Awaited { progress, .. } => matches!(*progress.borrow(), Progress::Pending),
        }
    }
}

/// The duty to fetch one chunk.
pub(super) struct Claim {
    flights: Arc<Flights>,
    name: ChunkName,
    progress: watch::Sender<Progress>,
}

impl Flights {
    /// Joins the transfer of the chunk, or finds it in the cache, or claims it for a new transfer. `cached`
    /// is asked under the lock: a finished transfer leaves the table only after the cache has its chunk.
    pub(super) fn find(
        self: &Arc<Self>,
        name: ChunkName,
        path: &GlobalPath,
        cached: impl FnOnce() -> bool,
    ) -> (Slot, Option<Claim>) {
        let mut table = self.0.lock();
        if let Some(flight) = table.get(&name) {
            let (progress, same_path) = (flight.progress.clone(), flight.path == *path);
            return (Slot::Awaited { progress, own: false, same_path }, None);
        }
        if cached() {
            return (Slot::Cached, None);
        }
        let (sender, progress) = watch::channel(Progress::Pending);
        table.insert(name, Flight { path: path.clone(), progress: progress.clone() });
        let claim = Claim { flights: self.clone(), name, progress: sender };
        (Slot::Awaited { progress, own: true, same_path: true }, Some(claim))
    }

    /// A chunk that is on its way, whoever asked for it.
    pub(super) fn on_its_way(&self, name: &ChunkName) -> Option<watch::Receiver<Progress>> {
        self.0.lock().get(name).map(|flight| flight.progress.clone())
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }
}

/// Waits until the transfer is no longer pending.
pub(super) async fn outcome(mut progress: watch::Receiver<Progress>) -> Progress {
    match progress.wait_for(|now| !matches!(now, Progress::Pending)).await {
        Ok(now) => now.clone(),
        Err(_) => Progress::Abandoned,
    }
}

impl Claim {
    /// Which chunk.
    pub(super) fn index(&self) -> ChunkIndex {
        self.name.1
    }

    /// The chunk is here; readers get it now.
    pub(super) fn arrived(&self, chunk: Chunk) {
        self.progress.send_replace(Progress::Arrived(chunk));
    }

    /// The chunk that arrived is in the cache; readers find it in memory so long as the claim lives.
    pub(super) fn held(&self) {
        self.progress.send_if_modified(|now| {
            let Progress::Arrived(chunk) = now else { return false };
            *now = Progress::Held(chunk.clone());
            true
        });
    }

    /// The chunk is in the cache; readers find it there, and its memory is free.
    pub(super) fn kept(self) {
        self.progress.send_replace(Progress::Kept);
    }

    /// All who wait get the error.
    pub(super) fn failed(self, error: FsError) {
        self.progress.send_replace(Progress::Failed(error));
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.progress.send_if_modified(|now| {
            let pending = matches!(now, Progress::Pending);
            if pending {
                *now = Progress::Abandoned;
            }
            pending
        });
        self.flights.0.lock().remove(&self.name);
    }
}
