//! Changes of names that may have been carried out although they failed: the answer was lost. The kernel keeps what it knew
//! of the names, and nobody need tell it otherwise.

use super::Operations;
use crate::model::{Doubted, NodeId, Place};
use crate::volume::Volume;
use globalfs_proto::FsResult;

impl<V: Volume + ?Sized> Operations<V> {
    /// Passes on what came of a change of `names`. If nobody knows, the kernel is made to forget them, after it has heard of the error:
    /// until then it holds their directories.
    pub(super) fn doubt_if_lost<T>(&self, outcome: FsResult<T>, names: &[Place<'_>]) -> FsResult<T> {
        if outcome.as_ref().is_err_and(|error| error.leaves_open()) {
            let mut doubts = self.doubts.lock();
            names.iter().for_each(|place| doubts.add((place.parent, place.name.into())));
            drop(doubts);
            self.doubted.notify_one();
        }
        outcome
    }

    /// The next names that the kernel is to forget. To be asked by one.
    pub(crate) async fn doubted(&self) -> Doubted {
        loop {
            let next = self.doubted.notified();
            if let Some(doubted) = self.doubts.lock().take() {
                return doubted;
            }
            next.await;
        }
    }

    /// Nodes that were last seen as `name` in `directory`.
    pub(crate) fn nodes_at(&self, directory: NodeId, name: &[u8]) -> Vec<NodeId> {
        self.inodes.lock().named_in(directory, name)
    }
}
