//! A file is changed once at a time by a mount, so that the versions which changes tell of form a chain.
//!
//! *Invariant:* what is remembered of a node's turns is forgotten with the last who waits for one.

use crate::model::NodeId;
use globalfs_proto::limits::DEFAULT_DEADLINE;
use globalfs_proto::{FsError, FsResult};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{Mutex as Gate, OwnedMutexGuard};
use tokio::time::timeout;

type Gates = Arc<Mutex<HashMap<NodeId, Arc<Gate<()>>>>>;

/// Who may change which node.
#[derive(Debug, Default)]
pub(super) struct Turns(Gates);

/// The right to change a node, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _gate: OwnedMutexGuard<()>,
    _waiting: Waiting,
}

/// Somebody who waits for a turn, or has it.
#[derive(Debug)]
struct Waiting {
    gates: Gates,
    node: NodeId,
    gate: Arc<Gate<()>>,
}

impl Turns {
    /// Waits for the turn to change `node`, no longer than a change may take.
    pub(super) async fn take(&self, node: NodeId) -> FsResult<Turn> {
        let waiting = self.wait(node);
        let gate = timeout(DEFAULT_DEADLINE, waiting.gate.clone().lock_owned()).await;
        Ok(Turn { _gate: gate.map_err(|_| FsError::Deadline)?, _waiting: waiting })
    }

    /// The turn, if nobody has it.
    pub(super) fn try_take(&self, node: NodeId) -> Option<Turn> {
        let waiting = self.wait(node);
        let gate = waiting.gate.clone().try_lock_owned().ok()?;
        Some(Turn { _gate: gate, _waiting: waiting })
    }

    fn wait(&self, node: NodeId) -> Waiting {
        let gate = self.0.lock().entry(node).or_default().clone();
        Waiting { gates: self.0.clone(), node, gate }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut gates = self.gates.lock();
        // The table's and this one.
        if Arc::strong_count(&self.gate) == 2 {
            gates.remove(&self.node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn a_node_is_changed_once_at_a_time_and_then_forgotten() {
        let (turns, node) = (Turns::default(), NodeId(7));
        let first = turns.take(node).await.unwrap();
        assert!(turns.try_take(node).is_none() && turns.try_take(NodeId(8)).is_some());
        let mut second = std::pin::pin!(turns.take(node));
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        drop(second.await.unwrap());
        assert_eq!(turns.0.lock().len(), 0);
    }
}
