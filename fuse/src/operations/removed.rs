//! Files whose names were taken away while they were open: each has a hidden one until its last close.
//!
//! *Invariant:* nobody sees that a file has a hidden name: it does not count among its links, neither while it goes nor in
//! an answer from before it went.

use super::{MAX_TRIES, Operations, is_gone};
use crate::model::NodeId;
use crate::volume::Volume;
use globalfs_proto::{Attr, FileKind, FsError, FsResult, GlobalPath};
use std::time::Duration;
use tokio::time::sleep;

/// After this it is tried again to remove a hidden name, when the volume was not reached.
const AGAIN: Duration = Duration::from_millis(500);

impl<V: Volume + ?Sized> Operations<V> {
    /// What is at `path`. Whether the answer counts a hidden name is not known while that goes: then it is asked again.
    pub(super) async fn stat(&self, path: &GlobalPath) -> FsResult<Attr> {
        let mut tries = 1..MAX_TRIES;
        loop {
            let mut gone = self.gone.subscribe();
            let attr = self.volume.stat(path).await?;
            let is_file = attr.kind == FileKind::Regular;
            if is_file && self.inodes.lock().is_going(&attr) {
                // It ends with the volume's deadline.
                let _ = gone.changed().await;
            } else if !is_file || attr.nlink < 2 || !gone.has_changed().unwrap_or(false) {
                return Ok(attr);
            }
            if tries.next().is_none() {
                return Ok(attr);
            }
        }
    }

    /// Closes a file. Gives back a node whose hidden name has to go with this last close, by [`Self::remove_hidden`].
    pub fn release(&self, handle: u64) -> FsResult<Option<NodeId>> {
        let node = self.handles.lock().node(handle)?;
        self.close_untold(node, handle);
        let writes = self.handles.lock().writes(handle);
        self.handles.lock().close(handle)?;
        if writes {
            self.end_direct(node);
        }
        self.volume.closed(handle);
        let mut inodes = self.inodes.lock();
        if inodes.begin_going(node) {
            return Ok(Some(node));
        }
        inodes.unpin(node);
        self.forget_dead(&inodes, node);
        Ok(None)
    }

    /// Removes the hidden name of what [`Self::release`] gave back, wherever this mount moves it meanwhile, and closes it.
    pub async fn remove_hidden(&self, id: NodeId) -> FsResult<()> {
        let _change = self.name_changes.begin();
        let (mut tries, mut was_away) = (1..MAX_TRIES, false);
        let outcome = loop {
            let path = match self.path(id) {
                Ok(path) => path,
                Err(error) => break Err(error),
            };
            match self.remove_file(path.clone()).await {
                Err(error)
                    if is_gone(&error) && self.has_moved(id, &path).await && tries.next().is_some() => {}
                // It may have gone, and the answer was lost.
                Err(FsError::NOT_FOUND) if was_away => break Ok(()),
                Err(error) if !is_answer(&error) && tries.next().is_some() => {
                    was_away = true;
                    sleep(AGAIN).await;
                }
                outcome => break outcome,
            }
        };
        let parent = self.inodes.lock().parent(id);
        parent.into_iter().for_each(|parent| self.changed_unasked(parent));
        self.end_removed(id);
        outcome
    }

    fn end_removed(&self, id: NodeId) {
        let mut inodes = self.inodes.lock();
        inodes.end_removed(id);
        inodes.unpin(id);
        self.forget_dead(&inodes, id);
        self.gone.send_modify(|gone| *gone += 1);
    }
}

/// Whether the volume has answered; else a site is being started again, perhaps.
fn is_answer(error: &FsError) -> bool {
    matches!(error, FsError::Os(_) | FsError::Stale(_))
}
