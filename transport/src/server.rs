//! Accepts connections and hands their requests to a [`Handler`].
//!
//! *Invariants:* a request is seen only of a peer that was admitted; its handler ends at its deadline, or
//! when the peer loses interest; what a peer sends can end its own connection and nothing else.

use crate::counters::{Live, Meter};
use crate::endpoint::Endpoint;
use crate::failure::{self, code};
use crate::frame::{self, FrameError};
use crate::identity::Caller;
use crate::lane::Secure;
use crate::options::{
    ADMISSION_TIMEOUT, CONNECT_TIMEOUT, GRACE, MAX_CONNECTIONS, MAX_SEND_WINDOW, REQUEST_TIMEOUT,
    SEND_WINDOW, SMALL_READ,
};
use crate::receive::Receive;
use crate::reply::Reply;
use crate::tls;
use async_trait::async_trait;
use globalfs_proto::limits::{MAX_DEADLINE, MAX_REQUEST_FRAME};
use globalfs_proto::{FsError, FsResult, PeerIdentity, Request};
use quinn::{Connection, Incoming, RecvStream, SendStream, ServerConfig};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What answers requests.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Whether `peer`, whose certificate is good, may ask at all; if not, why, in words for its
    /// administrator. `key_fingerprint` is the BLAKE3 hash of its public key, hexadecimal. Asked again before
    /// each request, so call off a right and it is gone.
    async fn admit(&self, peer: &PeerIdentity, key_fingerprint: &str) -> Result<(), String>;

    /// Answers `request` through `reply` within `budget`. An error becomes the answer's last frame. The
    /// future is dropped when the budget is used up or the peer has lost interest.
    async fn handle(
        &self,
        peer: &PeerIdentity,
        request: Request,
        budget: Duration,
        reply: &mut Reply,
    ) -> FsResult<()>;
}

impl Endpoint {
    /// Serves until `stop`; returns when every task has ended, at most [`GRACE`] and a little later.
    pub async fn serve(&self, handler: Arc<dyn Handler>, stop: CancellationToken) {
        let service = Service { handler, live: self.live().clone(), stop: stop.clone() };
        let lanes = self
            .take_lanes()
            .map(|(listener, config)| tokio::spawn(service.clone().serve_lanes(listener, config)));
        let config = self.server_config();
        self.quinn().set_server_config(Some(config.clone()));
        let tasks = TaskTracker::new();
        while let Some(Some(incoming)) = stop.run_until_cancelled(self.quinn().accept()).await {
            let remote = incoming.remote_address();
            if tasks.len() >= MAX_CONNECTIONS {
                tracing::warn!(%remote, limit = MAX_CONNECTIONS, "too many connections: one was turned away");
                count(&self.live().connections_refused);
                incoming.refuse();
                continue;
            }
            let mut config = config.clone();
            config.transport_config(self.transport_config(remote));
            tasks.spawn(service.clone().attend(incoming, Arc::new(config)));
        }
        self.quinn().set_server_config(None);
        tasks.close();
        tasks.wait().await;
        if let Some(lanes) = lanes {
            let _ = lanes.await;
        }
    }
}

/// What each connection's task needs.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) live: Arc<Live>,
    pub(crate) stop: CancellationToken,
}

impl Service {
    pub(crate) async fn admit(&self, caller: &Caller) -> Result<(), String> {
        let asked = self.handler.admit(&caller.identity, &caller.key_fingerprint);
        let late = Err("the daemon cannot tell in time whether this peer may ask".to_owned());
        timeout(ADMISSION_TIMEOUT, asked).await.unwrap_or(late)
    }

    async fn attend(self, incoming: Incoming, config: Arc<ServerConfig>) {
        let remote = incoming.remote_address();
        match self.welcome(incoming, config).await {
            Ok((connection, caller)) => {
                tracing::debug!(peer = %caller.identity, %remote, "connected");
                count(&self.live.connections_accepted);
                self.serve_requests(connection, caller).await;
            }
            Err(why) => {
                tracing::warn!(%remote, %why, "a connection was turned away");
                count(&self.live.connections_refused);
            }
        }
    }

    /// Shakes hands and asks the handler whether this peer may come in.
    async fn welcome(
        &self,
        incoming: Incoming,
        config: Arc<ServerConfig>,
    ) -> Result<(Connection, Arc<Caller>), FsError> {
        let whom = format!("the peer at {}", incoming.remote_address());
        let explain = |e: &quinn::ConnectionError| failure::of_connection(&whom, e);
        let connecting = incoming.accept_with(config).map_err(|e| explain(&e))?;
        let connection = timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| FsError::Deadline)?;
        let connection = connection.map_err(|e| explain(&e))?;
        let admitted = match tls::caller_of(&connection) {
            Some(caller) => self.admit(&caller).await.map(|()| Arc::new(caller)),
            None => Err("the certificate names no GlobalFS site, node or administrator".to_owned()),
        };
        match admitted {
            Ok(caller) => Ok((connection, caller)),
            Err(why) => {
                connection.close(code::REFUSED, why.as_bytes());
                Err(FsError::Refused(why))
            }
        }
    }

    async fn serve_requests(&self, connection: Connection, caller: Arc<Caller>) {
        let requests = TaskTracker::new();
        // Their number is limited by the streams that QUIC lets the peer open.
        while let Some(Ok((send, receive))) = self.stop.run_until_cancelled(connection.accept_bi()).await {
            requests.spawn(self.clone().serve_request(connection.clone(), caller.clone(), send, receive));
        }
        requests.close();
        let _ = timeout(GRACE, requests.wait()).await;
        // Breaks off what is left: each request waits for its connection's end as well.
        connection.close(code::STOPPING, b"");
        requests.wait().await;
    }

    async fn serve_request(
        self,
        connection: Connection,
        caller: Arc<Caller>,
        send: SendStream,
        mut receive: RecvStream,
    ) {
        let peer = &caller.identity;
        let meter = Meter::new(self.live.clone(), None);
        let reply = Reply::new(send, meter.clone(), peer.to_string(), self.stop.clone());
        let request = timeout(REQUEST_TIMEOUT, read_request(&mut receive, &meter)).await;
        let served = match request.unwrap_or(Err(Unreadable::Gone)) {
            Ok((budget, request)) => match self.admit(&caller).await {
                Ok(()) => {
                    let bulk = is_bulk(&request);
                    reply.queue(bulk);
                    if bulk {
                        widen(&connection);
                    }
                    self.answer(peer, request, budget, reply).await.in_time
                }
                Err(why) => hang_up(&connection, code::REFUSED, peer, &why),
            },
            Err(Unreadable::Malformed(why)) => hang_up(&connection, code::PROTOCOL, peer, &why),
            Err(Unreadable::Gone) => false,
        };
        count(if served { &self.live.requests_served } else { &self.live.requests_broken_off });
    }

    pub(crate) async fn answer(
        &self,
        peer: &PeerIdentity,
        request: Request,
        budget: Duration,
        mut reply: Reply,
    ) -> Answered {
        let (begun, cancelled) = (Instant::now(), reply.cancelled());
        let outcome = tokio::select! {
            biased;
            () = cancelled => return Answered { in_time: false, lane: None },
            outcome = timeout(budget, self.handler.handle(peer, request, budget, &mut reply)) => outcome,
        };
        let in_time = outcome.is_ok();
        let error = outcome.unwrap_or(Err(FsError::Deadline)).err();
        if let Some(error) = &error {
            tracing::debug!(%peer, %error, "a request failed");
        }
        let lane = reply.end(error, budget.saturating_sub(begun.elapsed())).await;
        Answered { in_time, lane }
    }
}

/// How a request ended.
pub(crate) struct Answered {
    /// The answer was given to its end.
    pub(crate) in_time: bool,
    /// The lane that it took, fit for another request.
    pub(crate) lane: Option<Secure>,
}

/// Why there is no request to answer.
pub(crate) enum Unreadable {
    /// The peer went away or took too long.
    Gone,
    /// The peer sent something else.
    Malformed(String),
}

pub(crate) async fn read_request(
    receive: &mut impl Receive,
    meter: &Meter,
) -> Result<(Duration, Request), Unreadable> {
    let message = match frame::read(receive, MAX_REQUEST_FRAME).await {
        Ok(Some(message)) => message,
        Err(FrameError::TooLong(length)) => {
            return Err(Unreadable::Malformed(format!("a request of {length} bytes")));
        }
        // A caller that gave up before its request was on the way leaves a stream like this.
        Ok(None) | Err(FrameError::Stream(_)) => return Err(Unreadable::Gone),
    };
    meter.add(|live| &live.bytes_received, frame::PREFIX + message.len());
    let (header, request) = Request::decode(message).map_err(|e| Unreadable::Malformed(e.to_string()))?;
    Ok((Duration::from_millis(header.deadline_ms.into()).min(MAX_DEADLINE), request))
}

/// Whether the answer is so long that others should not wait for it.
pub(crate) fn is_bulk(request: &Request) -> bool {
    match request {
        Request::Read { count, .. } => *count > SMALL_READ,
        Request::ReadFiles(files) => {
            files.iter().map(|file| file.chunks()).sum::<u64>() > u64::from(SMALL_READ)
        }
        _ => false,
    }
}

/// Lets as much wait for acknowledgement as the path has shown to hold.
fn widen(connection: &Connection) {
    let window = connection.stats().path.cwnd.saturating_mul(2);
    connection.set_send_window(window.clamp(SEND_WINDOW, MAX_SEND_WINDOW));
}

fn hang_up(connection: &Connection, code: quinn::VarInt, peer: &PeerIdentity, why: &str) -> bool {
    tracing::warn!(%peer, why, "a connection was closed");
    connection.close(code, why.as_bytes());
    false
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
