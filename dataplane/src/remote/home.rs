//! Asking the home of a subtree: to hand it over, and to come and get what has changed.

use super::Remote;
use crate::home::syncer::Home;
use crate::source::Deadline;
use async_trait::async_trait;
use globalfs_proto::{Attr, BringHome, Fence, FsError, FsResult, GlobalPath, Request, Response, Settled};
use globalfs_transport::Answer;
use tokio::sync::mpsc;

/// Answers that wait for who asked.
const ANSWERS_AHEAD: usize = 64;

impl Remote {
    /// From the answer on the peer changes nothing in `scope` by itself.
    pub async fn take_over(&self, scope: &GlobalPath, fence: Fence, deadline: Deadline) -> FsResult<()> {
        self.ask_bytes(Request::TakeOver { scope: scope.clone(), fence }, deadline).await.map(drop)
    }

    /// Returns when the peer's replica of `path`, which is mastered here, is what `attr` tells.
    pub async fn replicate(&self, path: &GlobalPath, attr: Attr, deadline: Deadline) -> FsResult<()> {
        self.ask_bytes(Request::Replicate(path.clone(), attr), deadline).await.map(drop)
    }

    async fn next_settled(&self, answer: &mut Answer, told: &mut [bool]) -> FsResult<Settled> {
        let settled = match answer.next().await? {
            Some(Response::Settled(settled)) => settled,
            Some(_) => return Err(self.unexpected()),
            None => return Err(self.broken("ended its answer too early")),
        };
        match told.get_mut(settled.item as usize) {
            Some(told) if !*told => *told = true,
            _ => return Err(self.broken("told of another path than was asked for, or twice")),
        }
        Ok(settled)
    }
}

#[async_trait]
impl Home for Remote {
    async fn bring_home(
        &self,
        bring: BringHome,
        deadline: Deadline,
    ) -> FsResult<mpsc::Receiver<FsResult<Settled>>> {
        let mut told = vec![false; bring.items.len()];
        let mut answer = self.ask(Request::BringHome(bring), deadline).await?;
        let (sender, receiver) = mpsc::channel(ANSWERS_AHEAD);
        let remote = self.clone();
        tokio::spawn(async move {
            for _ in 0..told.len() {
                let settled: Result<Settled, FsError> = remote.next_settled(&mut answer, &mut told).await;
                let failed = settled.is_err();
                if sender.send(settled).await.is_err() || failed {
                    return;
                }
            }
        });
        Ok(receiver)
    }
}
