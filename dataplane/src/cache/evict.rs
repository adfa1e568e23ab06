//! Makes room: carries out on disk what the ledger chose, one task at a time.

use super::directory::{self, Pair};
use super::{NotKept, Pin, Shared, blocking, sidecar};
use crate::model::eviction::{Place, SEGMENT_CHUNKS, SegmentKey, Victim};
use globalfs_proto::limits::CHUNK_SIZE;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Attempts to use the room that was made before somebody else takes it.
const MAX_RESERVE_ROUNDS: usize = 8;

impl Shared {
    /// Takes space for a chunk before it is written, evicting what is in the way.
    pub(super) async fn reserve(self: &Arc<Self>, place: &Place, bytes: u64) -> Result<Pin<'_>, NotKept> {
        if self.ledger.lock().reserve(place, bytes) {
            return Ok(Pin(self, place.segment));
        }
        let _gate = self.gate.lock().await;
        for _ in 0..MAX_RESERVE_ROUNDS {
            if self.ledger.lock().reserve(place, bytes) {
                return Ok(Pin(self, place.segment));
            }
            let victims = self.ledger.lock().make_room(place, bytes).ok_or(NotKept::NoRoom)?;
            let shared = self.clone();
            let evict = move || {
                shared.evict(victims);
                Ok(())
            };
            blocking(evict).await?;
        }
        Err(NotKept::NoRoom)
    }

    /// Removes the victims from disk and reports each to the ledger. Blocks the thread.
    pub(super) fn evict(&self, victims: Vec<Victim>) {
        for victim in victims {
            match self.remove(&victim) {
                Ok(()) => {
                    let freed = self.ledger.lock().removed(victim.segment);
                    self.counts.evicted(freed);
                }
                Err(error) => {
                    self.ledger.lock().retained(victim.segment);
                    if let Some(silent) = self.not_kept.admit() {
                        tracing::warn!(%error, silent, "a part of the cache could not be evicted");
                    }
                }
            }
        }
    }

    fn remove(&self, victim: &Victim) -> io::Result<()> {
        let key = victim.segment.file;
        if self.bundles.lock().remove(key) {
            self.bundle_files.forget(key);
            return self.directory.remove_bundle(key);
        }
        if victim.unlink {
            self.files.forget(key);
            return self.directory.remove(key);
        }
        match self.files.get(key).map_or_else(|| self.directory.open_any(key).map(Arc::new), Ok) {
            Ok(pair) => punch_segment(&pair, victim.segment),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The mask goes first: a crash in between leaves data without bits, which recovery punches.
fn punch_segment(pair: &Pair, segment: SegmentKey) -> io::Result<()> {
    let page = sidecar::page_offset(segment.number);
    if segment.number == 0 {
        pair.side.write_all_at(&sidecar::page_start(segment.file, 0), page)?;
    } else {
        directory::punch(&pair.side, page, sidecar::PAGE)?;
    }
    let length = u64::from(SEGMENT_CHUNKS) * CHUNK_SIZE;
    directory::punch(&pair.data, u64::from(segment.number) * length, length)
}
