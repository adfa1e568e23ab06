//! Asks a peer. A request that met a dead connection is sent again, unless it is a change that may have been made.

use crate::answer::{Answer, Way};
use crate::connect::Link;
use crate::counters::Counters;
use crate::endpoint::Endpoint;
use crate::lane::Wanted;
use crate::server::is_bulk;
use crate::{failure, frame};
use bytes::Bytes;
use globalfs_proto::limits::MAX_DEADLINE;
use globalfs_proto::{Change, FsError, FsResult, PeerIdentity, Request, RequestHeader};
use quinn::{Connection, RecvStream, SendStream};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Bytes of a change that takes so long to send that it waits for a lane.
const LARGE_CHANGE: usize = 64 * 1024;

/// A daemon that can be asked. Cheap to clone: clones share one connection, made when it is needed.
#[derive(Clone)]
pub struct Peer(Arc<Link>);

/// Why an attempt failed, by what to do next.
enum Failure {
    /// The connection had died before the request was sent: once more on a new one.
    NotSent(FsError),
    /// The connection died before anything was answered: once more on a new one, if the request may be repeated.
    ConnectionLost(FsError),
    /// Tell the caller.
    Final(FsError),
}

impl Peer {
    /// The daemon at `address` (`host:port`, resolved at each connect), which must prove to be `expect`.
    pub fn new(endpoint: Endpoint, address: String, expect: PeerIdentity) -> Self {
        Self(Arc::new(Link::new(endpoint, address, expect)))
    }

    /// Who the peer has to be.
    pub fn identity(&self) -> &PeerIdentity {
        &self.0.expect
    }

    /// Its address as it was given.
    pub fn address(&self) -> &str {
        &self.0.address
    }

    /// What went over the wire with this peer so far, on our connections.
    pub fn counters(&self) -> Counters {
        self.0.counters.snapshot()
    }

    /// Connects in the background at once, and again with growing pauses whenever the connection is lost, so
    /// that no request pays for a handshake. Ends with the last clone of this peer. Call it inside a tokio
    /// runtime; further calls change nothing.
    pub fn keep_connected(&self) {
        self.0.keep();
    }

    /// Sends `request` and waits for the first frame of the answer; an error frame is returned as `Err`.
    ///
    /// All waits, also those of the [`Answer`], end after `budget` in [`FsError::Deadline`].
    pub async fn request(&self, request: &Request, budget: Duration) -> FsResult<Answer> {
        let deadline = Instant::now() + budget.min(MAX_DEADLINE);
        let meter = self.0.meter();
        meter.add(|live| &live.requests_started, 1);
        let answer = timeout_at(deadline, self.try_twice(request, deadline)).await;
        let answer = answer.unwrap_or(Err(FsError::Deadline));
        if answer.is_err() {
            meter.add(|live| &live.requests_failed, 1);
        }
        answer?.check_first()
    }

    async fn try_twice(&self, request: &Request, deadline: Instant) -> FsResult<Answer> {
        let attempt = match self.attempt(request, deadline).await {
            Err(Failure::NotSent(error)) => self.try_again(request, deadline, error).await,
            Err(Failure::ConnectionLost(error)) if request.may_repeat() => {
                self.try_again(request, deadline, error).await
            }
            other => other,
        };
        attempt.map_err(|failure| match failure {
            Failure::NotSent(error) | Failure::ConnectionLost(error) | Failure::Final(error) => error,
        })
    }

    async fn try_again(
        &self,
        request: &Request,
        deadline: Instant,
        error: FsError,
    ) -> Result<Answer, Failure> {
        tracing::debug!(peer = %self.0.whom(), %error, "asking again on a new connection");
        self.attempt(request, deadline).await
    }

    async fn attempt(&self, request: &Request, deadline: Instant) -> Result<Answer, Failure> {
        let connection = self.0.connection().await.map_err(Failure::Final)?;
        if let Some(answer) = self.ask_on_lane(&connection, request, deadline).await {
            return answer;
        }
        let whom = self.0.whom();
        let opened = connection.open_bi().await.map_err(|e| failure::of_connection(&whom, &e));
        let stream = opened.map_err(|error| match self.judge(&connection, error) {
            Failure::ConnectionLost(error) => Failure::NotSent(error),
            other => other,
        })?;
        self.ask(stream, request, deadline).await.map_err(|error| self.judge(&connection, error))
    }

    /// Nothing if there is no lane, or it fails before the whole request was sent, or before the answer to one that may be
    /// repeated has begun: then QUIC is asked, which also knows why.
    async fn ask_on_lane(
        &self,
        connection: &Connection,
        request: &Request,
        deadline: Instant,
    ) -> Option<Result<Answer, Failure>> {
        let link = &self.0;
        let wanted = wanted_lane(request)?;
        let mut lane = link.lanes.lease(&link.endpoint, &link.expect, connection, wanted).await?;
        let (message, meter) = (sealed(request, deadline), link.meter());
        let length = message.iter().map(Bytes::len).sum();
        let (is_sent, begun) = match lane.send(&message).await {
            Ok(()) => {
                (true, Answer::begin(Way::Lane(Some(lane)), deadline, meter.clone(), link.clone()).await)
            }
            // Half a request is none.
            Err(error) => (false, Err(FsError::Unreachable(error.to_string()))),
        };
        match begun {
            Ok(answer) => {
                meter.add(|live| &live.bytes_sent, length);
                meter.add(|live| &live.requests_on_lanes, 1);
                Some(Ok(answer))
            }
            Err(error) if is_sent && !request.may_repeat() => Some(Err(Failure::Final(error))),
            Err(error) => {
                tracing::debug!(peer = %link.whom(), %error, "a TCP connection failed: asking over QUIC");
                None
            }
        }
    }

    async fn ask(
        &self,
        (mut send, receive): (SendStream, RecvStream),
        request: &Request,
        deadline: Instant,
    ) -> FsResult<Answer> {
        let whom = self.0.whom();
        let mut message = sealed(request, deadline);
        let meter = self.0.meter();
        meter.add(|live| &live.bytes_sent, message.iter().map(Bytes::len).sum());
        send.write_all_chunks(&mut message).await.map_err(|e| failure::of_write(&whom, &e))?;
        let _ = send.finish();
        Answer::begin(Way::Stream(receive), deadline, meter, self.0.clone()).await
    }

    fn judge(&self, connection: &Connection, error: FsError) -> Failure {
        match error {
            FsError::Refused(_) => {
                self.0.remember(&error);
                Failure::Final(error)
            }
            FsError::Unreachable(_) if connection.close_reason().is_some() => Failure::ConnectionLost(error),
            _ => Failure::Final(error),
        }
    }
}

fn wanted_lane(request: &Request) -> Option<Wanted> {
    match request {
        Request::Change(change) if change.carries() >= LARGE_CHANGE => Some(Wanted::Any),
        Request::Change(Change::Sync { .. }) => None,
        Request::Change(_)
        | Request::Stat(_)
        | Request::GetXattr(..)
        | Request::ListXattr(_)
        | Request::ReadLink(_)
        | Request::FsStat(_) => Some(Wanted::Idle),
        request => is_bulk(request).then_some(Wanted::Any),
    }
}

/// The request as it is sent, with what is left of its time.
fn sealed(request: &Request, deadline: Instant) -> [Bytes; 2] {
    let left = deadline.saturating_duration_since(Instant::now());
    let header = RequestHeader { deadline_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX) };
    frame::seal_apart(request.encode_apart(header))
}
