//! Parts of files that the kernel should have before it asks for them, as the volume has them here.

use super::{Operations, Turn};
use crate::model::NodeId;
use crate::volume::Volume;
use bytes::Bytes;

/// A part of a file that the kernel should have.
pub(crate) struct HeldPart {
    /// The node.
    pub(crate) node: NodeId,
    /// Where the part begins.
    pub(crate) start: u64,
    /// The part.
    pub(crate) bytes: Bytes,
    _turn: Turn,
}

impl<V: Volume + ?Sized> Operations<V> {
    /// `length` bytes at `offset` were just read through the page cache. Who comes back to a part of a file may find all
    /// of it there soon.
    pub(crate) fn come_by(&self, handle: u64, offset: u64, length: u32) {
        let Some(pushes) = self.pushes.get() else { return };
        let Ok((node, version)) = self.opened(handle) else { return };
        if self.inodes.lock().is_live(node) {
            return;
        }
        if self.touches.lock().read(node, offset, length.into(), version.size) {
            // When too many wait it is left out.
            let _ = pushes.try_send((handle, offset));
        }
    }

    /// The part around `offset` that the volume has here. While it is held nobody begins to write to the node, of whose
    /// pages it may only become one as long as they are all of that version.
    pub(crate) async fn held_around(&self, handle: u64, offset: u64) -> Option<HeldPart> {
        let (node, _) = self.opened(handle).ok()?;
        let turn = self.turns.take(node).await.ok()?;
        if self.inodes.lock().is_live(node) {
            return None;
        }
        let (_, version) = self.opened(handle).ok()?;
        let (start, bytes) = self.volume.held_around(version, offset).await?;
        Some(HeldPart { node, start, bytes, _turn: turn })
    }
}
