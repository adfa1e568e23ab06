//! Pages that the kernel is being made to forget, so that who has to can wait for that.

use crate::model::NodeId;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::watch;

/// How many calls are under way, for each node. Clones are one.
#[derive(Debug, Clone)]
pub(super) struct Drops(Arc<watch::Sender<HashMap<NodeId, usize>>>);

impl Default for Drops {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(HashMap::new())))
    }
}

/// A call that is under way.
pub(super) struct Dropping {
    drops: Drops,
    node: NodeId,
}

impl Drops {
    /// A call begins; it ends when what is given goes.
    pub(super) fn begin(&self, node: NodeId) -> Dropping {
        self.0.send_modify(|calls| *calls.entry(node).or_default() += 1);
        Dropping { drops: self.clone(), node }
    }

    /// Returns when no call for `node` is under way.
    pub(super) async fn wait(&self, node: NodeId) {
        // The sender is here, so it does not end otherwise.
        let _ = self.0.subscribe().wait_for(|calls| !calls.contains_key(&node)).await;
    }
}

impl Drop for Dropping {
    fn drop(&mut self) {
        self.drops.0.send_modify(|calls| {
            let count = calls.get_mut(&self.node).expect("it is counted until it goes");
            *count -= 1;
            if *count == 0 {
                calls.remove(&self.node);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn who_waits_waits_for_all_of_its_node() {
        let drops = Drops::default();
        let (one, two, other) = (drops.begin(NodeId(5)), drops.begin(NodeId(5)), drops.begin(NodeId(6)));
        let mut wait = std::pin::pin!(drops.wait(NodeId(5)));
        assert!(wait.as_mut().now_or_never().is_none());
        drop(one);
        assert!(wait.as_mut().now_or_never().is_none());
        drop(two);
        wait.await;
        drop(other);
        assert!(drops.0.borrow().is_empty());
    }
}
