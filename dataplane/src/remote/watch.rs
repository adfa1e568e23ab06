//! What changes at a peer: one subscription over any number of answers, each renewed before it ends.
//!
//! *Invariant:* between the beginning and the end of the stream no change is missed: an answer is read to its
//! end, which comes after the next one has begun; where that fails the stream ends.

use super::Remote;
use crate::source::{ChangeStream, Deadline};
use futures_util::{StreamExt, stream};
use globalfs_proto::limits::{MAX_DEADLINE, MAX_HEARTBEAT, MIN_HEARTBEAT};
use globalfs_proto::{Changes, FsError, FsResult, Request, Response};
use globalfs_transport::Answer;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

/// The last part of an answer's time, in which the next one takes over: a minute of ten.
const RENEWED_IN: u32 = 10;

/// Messages held for a reader that is slow; then the peer is slowed down, which knows how to shorten them.
const MESSAGES_AHEAD: usize = 64;

/// What a peer is given to begin.
const BEGIN_LIMIT: Duration = Duration::from_secs(30);

const _: () = assert!(BEGIN_LIMIT.as_secs() < MAX_DEADLINE.as_secs() / RENEWED_IN as u64);
const _: () = assert!(RENEWED_IN > 2);

/// Subscribes. Requests name the new subscription from now on, and no older one.
pub(super) fn watch(remote: &Remote, heartbeat: Duration) -> ChangeStream {
    let number = rand::random_range(1..=u64::MAX);
    remote.live.subscription.store(number, Ordering::Release);
    let (sender, receiver) = mpsc::channel(MESSAGES_AHEAD);
    let (remote, heartbeat) = (remote.clone(), heartbeat.clamp(MIN_HEARTBEAT, MAX_HEARTBEAT));
    tokio::spawn(async move {
        let told = tokio::select! {
            () = sender.closed() => Ok(()),
            told = tell(&remote, number, heartbeat, &sender) => told,
        };
        // No request waits for what has ended.
        let subscription = &remote.live.subscription;
        let _ = subscription.compare_exchange(number, 0, Ordering::AcqRel, Ordering::Relaxed);
        if let Err(error) = told {
            tracing::debug!(peer = %remote.peer.identity(), %error, "changes are no longer told");
        }
    });
    stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) }).boxed()
}

type Sender = mpsc::Sender<Arc<Changes>>;

async fn tell(remote: &Remote, number: u64, heartbeat: Duration, sender: &Sender) -> FsResult<()> {
    let mut readers = JoinSet::new();
    let begin = async || begin(remote, number, heartbeat).await;
    readers.spawn(hand_on(remote.clone(), begin().await?, sender.clone()));
    let mut renewal = interval(remote.watch_time - remote.watch_time / RENEWED_IN);
    renewal.tick().await;
    loop {
        tokio::select! {
            _ = renewal.tick() => {
                readers.spawn(hand_on(remote.clone(), begin().await?, sender.clone()));
            }
            Some(ended) = readers.join_next() => match ended {
                // It was replaced, and everything in it was told.
                Ok(FsError::Deadline) if !readers.is_empty() => {}
                Ok(error) => return Err(error),
                Err(_) => return Ok(()),
            },
        }
    }
}

/// Returns when the peer has begun to tell.
async fn begin(remote: &Remote, subscription: u64, heartbeat: Duration) -> FsResult<Answer> {
    let heartbeat_ms = u32::try_from(heartbeat.as_millis()).expect("a heartbeat is below its limit");
    let asked = remote.ask(Request::Watch { subscription, heartbeat_ms }, Deadline::after(remote.watch_time));
    timeout(BEGIN_LIMIT, asked).await.unwrap_or(Err(FsError::Deadline))
}

/// Reads one answer to its end, which is always an error.
async fn hand_on(remote: Remote, mut answer: Answer, sender: Sender) -> FsError {
    loop {
        match next_changes(&remote, &mut answer).await {
            Ok(changes) => {
                if sender.send(Arc::new(changes)).await.is_err() {
                    return FsError::Unreachable("nobody listens any more".to_owned());
                }
            }
            Err(error) => return error,
        }
    }
}

async fn next_changes(remote: &Remote, answer: &mut Answer) -> FsResult<Changes> {
    match answer.next().await? {
        Some(Response::Changes(changes)) => Ok(changes),
        Some(_) => Err(remote.unexpected()),
        None => Err(remote.broken("ended its answer too early")),
    }
}
