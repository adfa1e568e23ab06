//! What the home of subtrees does for those that hold them.
//!
//! *Invariant:* of one place one batch is carried out at a time, whichever subtree it is of, and none after one that was said
//! later: a late one never brings back what has gone since.

use super::receive::Receiver;
use crate::model::batches::{Batches, overlap};
use crate::source::{Deadline, Source};
use globalfs_proto::{BringHome, FsError, FsResult, GlobalPath, Response, Settled};
use globalfs_transport::Reply;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::{Notify, mpsc};

/// The home's side.
pub struct HomeSide {
    receiver: Receiver,
    batches: Mutex<Batches>,
    turns: Arc<Turns>,
}

/// The subtrees of which a batch is being carried out.
#[derive(Default)]
struct Turns {
    taken: Mutex<Vec<GlobalPath>>,
    ended: Notify,
}

/// A subtree's turn, until it is dropped.
struct Taken {
    turns: Arc<Turns>,
    scope: GlobalPath,
}

impl HomeSide {
    /// Brings into what `receiver` receives.
    pub fn new(receiver: Receiver) -> Self {
        Self { receiver, batches: Mutex::default(), turns: Arc::default() }
    }

    /// Brings home what the holder of a subtree says, from the holder. Whoever calls has seen that it holds it.
    pub async fn bring_home(
        &self,
        bring: BringHome,
        from: Arc<dyn Source>,
        deadline: Deadline,
    ) -> FsResult<mpsc::Receiver<Settled>> {
        let BringHome { scope, fence, batch, items } = bring;
        let turn = deadline.bound(async { Ok(self.turns.take(&scope).await) }).await?;
        if !self.batches.lock().admit(&scope, fence, batch) {
            return Err(FsError::Refused(format!("something was said of {scope} since")));
        }
        Ok(self.receiver.bring_in_turn(items, from, deadline, Arc::new(turn)))
    }
}

impl Turns {
    async fn take(self: &Arc<Self>, scope: &GlobalPath) -> Taken {
        loop {
            // Heard from before the look on, so that no end is missed.
            let ended = self.ended.notified();
            if self.try_take(scope) {
                return Taken { turns: self.clone(), scope: scope.clone() };
            }
            ended.await;
        }
    }

    /// Takes the turn, unless another one has it that is in the same place.
    fn try_take(&self, scope: &GlobalPath) -> bool {
        let mut taken = self.taken.lock();
        let is_free = !taken.iter().any(|other| overlap(other, scope));
        if is_free {
            taken.push(scope.clone());
        }
        is_free
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.turns.taken.lock().retain(|scope| *scope != self.scope);
        self.turns.ended.notify_waiters();
    }
}

/// Tells who asked how each path ended.
pub async fn send(mut settled: mpsc::Receiver<Settled>, reply: &mut Reply) -> FsResult<()> {
    while let Some(one) = settled.recv().await {
        reply.send(&Response::Settled(one)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn path(text: &str) -> GlobalPath {
        GlobalPath::new(text.as_bytes()).unwrap()
    }

    #[tokio::test]
    async fn what_lies_in_another_waits_for_its_end() {
        let turns = Arc::new(Turns::default());
        let (first, beside) = (turns.take(&path("/r")).await, turns.take(&path("/s")).await);
        for scope in ["/", "/r", "/r/1"] {
            let scope = path(scope);
            let second = tokio::time::timeout(Duration::from_millis(5), turns.take(&scope)).await;
            assert!(second.is_err(), "{scope}");
        }
        let waiting = tokio::spawn({
            let turns = turns.clone();
            async move { turns.take(&path("/")).await }
        });
        tokio::task::yield_now().await;
        drop((first, beside));
        drop(waiting.await.unwrap());
        assert!(turns.taken.lock().is_empty());
    }
}
