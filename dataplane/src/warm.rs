//! Warming caches, between the [`Source`]s: who has the bytes at home, a peer over the network, several
//! sources that share one request.

use crate::remote::Remote;
use crate::source::{Deadline, Source};
use bytes::Bytes;
use futures_util::future::join_all;
use globalfs_proto::trace::decode_summaries;
use globalfs_proto::{
    FsError, FsResult, PutTrace, Request, Response, TraceName, TraceSummary, Warm, WarmFile, Warmed,
};
use globalfs_transport::{Answer, Reply};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Steps of warming as they happen; complete when every part has ended. An error ends all that had not.
pub type WarmStream = mpsc::Receiver<FsResult<Warmed>>;

/// Steps that wait for who asked.
pub(crate) const STEPS_AHEAD: usize = 16;

/// The answer of a source that has its bytes itself.
pub(crate) fn at_home(warm: &Warm) -> WarmStream {
    let (sender, stream) = mpsc::channel(warm.files.len().max(1));
    for (number, file) in (0..).zip(&warm.files) {
        let step = Warmed { here_bytes: file.bytes(), end: Some(Ok(())), ..step_of(number, u64::MAX) };
        sender.try_send(Ok(step)).expect("there is room for each part");
    }
    stream
}

/// A step in which nothing has happened yet.
pub(crate) fn step_of(file: u32, quota_bytes: u64) -> Warmed {
    Warmed { file, here_bytes: 0, fetched_bytes: 0, missing_bytes: 0, quota_bytes, end: None }
}

/// The parts of one request that one source answers.
pub(crate) struct Group {
    source: FsResult<Arc<dyn Source>>,
    numbers: Vec<u32>,
    warm: Warm,
}

impl Group {
    /// No parts yet; without a source all of them will fail.
    pub(crate) fn new(source: FsResult<Arc<dyn Source>>, fetch: bool) -> Self {
        Self { source, numbers: Vec::new(), warm: Warm { fetch, files: Vec::new() } }
    }

    /// Takes the part `number` of the request.
    pub(crate) fn add(&mut self, number: u32, file: WarmFile) {
        self.numbers.push(number);
        self.warm.files.push(file);
    }

    /// Whether it has no parts.
    pub(crate) fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    async fn forward(self, sender: mpsc::Sender<FsResult<Warmed>>, deadline: Deadline) {
        let Self { source, numbers, warm } = self;
        let mut ended = vec![false; numbers.len()];
        let steps = async { source?.warm(warm, deadline).await };
        let failed = match steps.await {
            Err(error) => Some(error),
            Ok(mut steps) => loop {
                match steps.recv().await {
                    None => break None,
                    Some(Err(error)) => break Some(error),
                    Some(Ok(step)) => {
                        let place = step.file as usize;
                        let Some(&number) = numbers.get(place) else { continue };
                        ended[place] |= step.end.is_some();
                        if sender.send(Ok(Warmed { file: number, ..step })).await.is_err() {
                            return;
                        }
                    }
                }
            },
        };
        let error = failed.unwrap_or_else(|| FsError::Protocol("warming ended early".to_owned()));
        for (number, _) in numbers.iter().zip(ended).filter(|(_, ended)| !ended) {
            let step = Warmed { end: Some(Err(error.clone())), ..step_of(*number, 0) };
            let _ = sender.send(Ok(step)).await;
        }
    }
}

/// Works on all groups at a time. A group that fails ends its own parts alone.
pub(crate) fn merge(groups: Vec<Group>, deadline: Deadline) -> WarmStream {
    let (sender, stream) = mpsc::channel(STEPS_AHEAD);
    tokio::spawn(async move {
        let work = join_all(groups.into_iter().map(|group| group.forward(sender.clone(), deadline)));
        tokio::select! {
            () = sender.closed() => {}
            _ = work => {}
        }
    });
    stream
}

/// Sends the steps to who asked.
pub(crate) async fn send(mut steps: WarmStream, reply: &mut Reply) -> FsResult<()> {
    while let Some(step) = steps.recv().await {
        reply.send(&Response::Warmed(step?)).await?;
    }
    Ok(())
}

impl Remote {
    /// The peer warms its own cache.
    pub(crate) async fn ask_to_warm(&self, warm: Warm, deadline: Deadline) -> FsResult<WarmStream> {
        let open = warm.files.len();
        let answer = self.ask(Request::Warm(warm), deadline).await?;
        let (sender, stream) = mpsc::channel(STEPS_AHEAD);
        let remote = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = sender.closed() => {}
                done = remote.take_steps(answer, open, &sender) => {
                    if let Err(error) = done {
                        let _ = sender.send(Err(error)).await;
                    }
                }
            }
        });
        Ok(stream)
    }

    async fn take_steps(
        &self,
        mut answer: Answer,
        files: usize,
        sender: &mpsc::Sender<FsResult<Warmed>>,
    ) -> FsResult<()> {
        let mut open = vec![true; files];
        while open.contains(&true) {
            let Some(response) = answer.next().await? else {
                return Err(self.broken("ended its answer too early"));
            };
            let Response::Warmed(step) = response else { return Err(self.unexpected()) };
            match open.get_mut(step.file as usize) {
                Some(open) if *open => *open = step.end.is_none(),
                _ => return Err(self.broken("warmed what it was not asked for")),
            }
            if sender.send(Ok(step)).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Gives the peer a trace to keep, in its stored form.
    pub async fn put_trace(&self, put: PutTrace, deadline: Deadline) -> FsResult<()> {
        self.ask_bytes(Request::PutTrace(put), deadline).await.map(drop)
    }

    /// The trace that the peer keeps under `name`, in its stored form; `ENOENT` when there is none.
    pub async fn get_trace(&self, name: TraceName, deadline: Deadline) -> FsResult<Bytes> {
        self.ask_bytes(Request::GetTrace(name), deadline).await
    }

    /// The traces that the peer knows.
    pub async fn list_traces(&self, deadline: Deadline) -> FsResult<Vec<TraceSummary>> {
        let bytes = self.ask_bytes(Request::ListTraces, deadline).await?;
        decode_summaries(bytes).map_err(|_| self.unexpected())
    }

    /// The peer forgets a trace; `ENOENT` when there is none.
    pub async fn remove_trace(&self, name: TraceName, deadline: Deadline) -> FsResult<()> {
        self.ask_bytes(Request::RemoveTrace(name), deadline).await.map(drop)
    }
}
