//! Reading of open files, while others and this mount change them.
//!
//! *Invariant:* a read of what only this mount writes to never fails because of that.

use super::turns::Turn;
use super::{MAX_TRIES, Operations, is_gone};
use crate::model::{NodeId, Pages};
use crate::volume::Volume;
use bytes::Bytes;
use globalfs_proto::{ByteRange, FsError, FsResult, GlobalPath, Version};

impl<V: Volume + ?Sized> Operations<V> {
    /// Up to `length` bytes at `offset` of the version of what `handle` is open on; fewer only at the end.
    pub async fn read(&self, handle: u64, offset: u64, length: u32) -> FsResult<Vec<Bytes>> {
        self.volume.reading(handle, offset, length);
        self.write_out(self.opened(handle)?.0).await;
        let (mut tries, mut turn) = (1..MAX_TRIES, None);
        loop {
            let (node, version) = self.opened(handle)?;
            let Some(range) = ByteRange::of_read(offset, length.into(), version.size) else {
                return Ok(Vec::new());
            };
            let path = self.path(node)?;
            let outcome = self.read_range(&path, version, range).await;
            drop(turn.take());
            match outcome {
                Err(error) if is_gone(&error) => {
                    if !self.is_overtaken(node, &path, version, &error).await || tries.next().is_none() {
                        return Err(self.gone_is_stale(node, error));
                    }
                    turn = self.turn_to_read(node).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Keeps those off `id` who write to it: one who writes all the time would overtake a read each time. Of a node that
    /// is written to nobody puts pages into the kernel, who would wait for the page that is read.
    async fn turn_to_read(&self, id: NodeId) -> Option<Turn> {
        let is_live = self.inodes.lock().is_live(id);
        if is_live { self.turns.take(id).await.ok() } else { None }
    }

    async fn read_range(
        &self,
        path: &GlobalPath,
        version: Version,
        range: ByteRange,
    ) -> FsResult<Vec<Bytes>> {
        let (offset, wanted) = (range.start(), range.length());
        let length = u32::try_from(wanted).expect("a read is no longer than was asked");
        let pieces = self.volume.read(path, version, offset, length).await?;
        let got: u64 = pieces.iter().map(|p| p.len() as u64).sum();
        if got != wanted {
            return Err(FsError::Protocol(format!("{got} bytes instead of {wanted} at {offset} of {path}")));
        }
        Ok(pieces)
    }

    /// Content `version` of `id` was not found at `path`: whether it is worth to look again, as this mount has changed or
    /// moved it meanwhile, or others have changed what this mount writes to, too.
    async fn is_overtaken(&self, id: NodeId, path: &GlobalPath, version: Version, error: &FsError) -> bool {
        if self.has_moved(id, path).await {
            return true;
        }
        // Not for any turn: one who puts pages into the kernel may have it, and wait for the page that this is to fill.
        let is_changing = self.inodes.lock().is_changing(id);
        if is_changing && self.turns.take(id).await.is_err() {
            return false;
        }
        let mut inodes = self.inodes.lock();
        if inodes.version(id).is_ok_and(|now| now != version) {
            return true;
        }
        let FsError::Stale(Some(attr)) = error else { return false };
        let keeps = inodes.keeps_content(id, attr);
        let is_corrected = inodes.correct(id, attr);
        drop(inodes);
        if is_corrected && !keeps {
            self.settle(id, Pages::Drop);
        }
        is_corrected
    }
}
