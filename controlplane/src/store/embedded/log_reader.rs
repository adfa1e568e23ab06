//! A watch: follows the event log on disk from a revision onwards.
//!
//! *Invariant:* the log has every revision, so the next record read is the next revision or the log has been
//! compacted past it; there is no third way to lose an event.

use std::collections::VecDeque;

use fjall::Readable;
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::{
    blocking,
    disk::{Disk, broken},
    record::{decode_changes, decode_u64},
};
use crate::store::{Event, Key, Result, Revision, StoreError, WatchStream};

/// Bytes of log read at once; one record may be larger.
const READ_BYTES: usize = 1024 * 1024;

/// The state of one watch between two events.
pub(super) struct LogReader {
    disk: Disk,
    prefix: Key,
    next: u64,
    revision: watch::Receiver<Revision>,
    pending: VecDeque<Event>,
    ended: bool,
    _permit: OwnedSemaphorePermit,
}

/// What one read of the log gave.
struct Batch {
    events: VecDeque<Event>,
    next: u64,
}

impl LogReader {
    pub(super) fn new(
        disk: Disk,
        prefix: Key,
        after: Revision,
        revision: watch::Receiver<Revision>,
        permit: OwnedSemaphorePermit,
    ) -> LogReader {
        let next = after.0.saturating_add(1);
        LogReader { disk, prefix, next, revision, pending: VecDeque::new(), ended: false, _permit: permit }
    }

    pub(super) fn into_stream(self) -> WatchStream {
        Box::pin(stream::unfold(self, |mut reader| async move {
            let item = reader.next_event().await?;
            reader.ended = item.is_err();
            Some((item, reader))
        }))
    }

    /// The next event; none when the store has closed or after an error.
    async fn next_event(&mut self) -> Option<Result<Event>> {
        while !self.ended {
            if let Some(event) = self.pending.pop_front() {
                return Some(Ok(event));
            }
            let next = self.next;
            self.revision.wait_for(|revision| revision.0 >= next).await.ok()?;
            if let Err(error) = self.read_more().await {
                return Some(Err(error));
            }
        }
        None
    }

    async fn read_more(&mut self) -> Result<()> {
        let (disk, prefix, next) = (self.disk.clone(), self.prefix.clone(), self.next);
        let batch = blocking(move || read_log(&disk, &prefix, next)).await?;
        self.next = batch.next;
        self.pending = batch.events;
        Ok(())
    }
}

fn read_log(disk: &Disk, prefix: &Key, next: u64) -> Result<Batch> {
    let mut batch = Batch { events: VecDeque::new(), next };
    let mut size_bytes = 0;
    for item in disk.snapshot().range(&disk.log, next.to_be_bytes()..) {
        let (key, record) = item.into_inner().map_err(broken)?;
        if decode_u64(&key)? != batch.next {
            return Err(StoreError::Compacted);
        }
        let events = decode_changes(Revision(batch.next), &record)?;
        batch
            .events
            .extend(events.into_iter().filter(|e| e.change.key().as_str().starts_with(prefix.as_str())));
        batch.next += 1;
        size_bytes += record.len();
        if size_bytes >= READ_BYTES {
            break;
        }
    }
    Ok(batch)
}
