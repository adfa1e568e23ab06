//! Directories of subtrees that went from one site to another: they stay what they are to who is in them.

use super::Operations;
use crate::model::{NodeId, Pages};
use crate::volume::Volume;
use globalfs_proto::{Attr, FileId, FileKind, FsResult, GlobalPath, HandedOver};
use std::time::Duration;
use tokio::time::timeout;

/// How much later than what is found after a hand-over the word of it may come: both are on their way at the same time.
const WORD_LIMIT: Duration = Duration::from_millis(200);

impl<V: Volume + ?Sized> Operations<V> {
    /// Subtrees were handed over. Gives back those of which that is news.
    pub fn hear(&self, told: &[HandedOver]) -> Vec<GlobalPath> {
        if told.is_empty() {
            return Vec::new();
        }
        let news = self.inodes.lock().hear(told);
        self.heard.send_modify(|heard| *heard += 1);
        news
    }

    /// An answer that was on its way when the hand-over of `scope` was heard of has arrived. Gives back the directories there.
    pub fn settle_hand_over(&self, scope: &GlobalPath) -> Vec<NodeId> {
        self.inodes.lock().outdate_numbers(scope)
    }

    /// Takes over fresh attributes of `id`; `Stale` when they describe something else.
    pub(super) async fn refresh(&self, id: NodeId, attr: &Attr) -> FsResult<Pages> {
        let mut heard = self.heard.subscribe();
        let word =
            async { while self.inodes.lock().awaits_word(id, attr) && heard.changed().await.is_ok() {} };
        // Without it this is what has taken the place.
        let _ = timeout(WORD_LIMIT, word).await;
        self.inodes.lock().refresh(id, attr)
    }

    /// The master did not find `file`, which `id` is or was, at `path`: whether `id` is a directory and another file there
    /// since a hand-over.
    pub(super) async fn was_handed_over(&self, id: NodeId, path: &GlobalPath, file: FileId) -> bool {
        let is_directory = |attr: &Attr| attr.kind == FileKind::Directory;
        if !self.inodes.lock().attr(id).is_ok_and(|attr| is_directory(&attr)) {
            return false;
        }
        let Ok(attr) = self.volume.stat_for_open(path).await else { return false };
        self.refresh(id, &attr).await.is_ok() && attr.file != file
    }
}
