//! What the home of subtrees does for those that hold them.
//!
//! *Invariant:* of one subtree one batch is carried out at a time, and none after one that was said later: a late one never
//! brings back what has gone since.

use super::receive::Receiver;
use crate::model::batches::Batches;
use crate::source::{Deadline, Source};
use globalfs_proto::{BringHome, FsError, FsResult, GlobalPath, Response, Settled};
use globalfs_transport::Reply;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use tokio::sync::mpsc;

/// The home's side.
pub struct HomeSide {
    receiver: Receiver,
    batches: Mutex<Batches>,
    turns: Mutex<HashMap<GlobalPath, Weak<tokio::sync::Mutex<()>>>>,
}

impl HomeSide {
    /// Brings into what `receiver` receives.
    pub fn new(receiver: Receiver) -> Self {
        Self { receiver, batches: Mutex::default(), turns: Mutex::default() }
    }

    /// Brings home what the holder of a subtree says, from the holder. Whoever calls has seen that it holds it.
    pub async fn bring_home(
        &self,
        bring: BringHome,
        from: Arc<dyn Source>,
        deadline: Deadline,
    ) -> FsResult<mpsc::Receiver<Settled>> {
        let BringHome { scope, fence, batch, items } = bring;
        let turn = self.turn(&scope);
        let turn = deadline.bound(async { Ok(turn.lock_owned().await) }).await?;
        if !self.batches.lock().admit(&scope, fence, batch) {
            return Err(FsError::Refused(format!("something was said of {scope} since")));
        }
        Ok(self.receiver.bring_in_turn(items, from, deadline, Arc::new(turn)))
    }

    fn turn(&self, scope: &GlobalPath) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock();
        if let Some(turn) = turns.get(scope).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::default();
        turns.insert(scope.clone(), Arc::downgrade(&turn));
        turn
    }
}

/// Tells who asked how each path ended.
pub async fn send(mut settled: mpsc::Receiver<Settled>, reply: &mut Reply) -> FsResult<()> {
    while let Some(one) = settled.recv().await {
        reply.send(&Response::Settled(one)).await?;
    }
    Ok(())
}
