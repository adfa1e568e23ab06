//! The one live connection to a peer: made when needed, shared by all requests, given up when dead.
//!
//! *Invariants:* at most one attempt to connect is under way for a peer, and everybody waits for that one;
//! no lock is held while waiting.

use crate::counters::{Live, Meter};
use crate::endpoint::Endpoint;
use crate::failure::{self, code};
use crate::lane::Lanes;
use crate::options::{CONNECT_TIMEOUT, MAX_ADDRESSES, MAX_RECONNECT_PAUSE, RECONNECT_PAUSE, SUSPICION};
use globalfs_proto::{FsError, FsResult, PeerIdentity};
use parking_lot::Mutex;
use quinn::Connection;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// How often a host is asked again whether nobody listens.
const PROBE_INTERVAL: Duration = Duration::from_millis(200);

/// How to reach a peer, and the connection if there is one.
pub(crate) struct Link {
    pub(crate) endpoint: Endpoint,
    pub(crate) expect: PeerIdentity,
    pub(crate) address: String,
    pub(crate) counters: Arc<Live>,
    pub(crate) lanes: Arc<Lanes>,
    state: Mutex<State>,
    /// Whether somebody sees to it that there is always a connection.
    kept: AtomicBool,
}

type Outcome = Option<FsResult<Connection>>;

enum State {
    /// Nothing known.
    Idle,
    /// An attempt is under way; its outcome will be here.
    Connecting(watch::Receiver<Outcome>),
    /// Connected when last looked at.
    Open(Connection),
    /// The last attempt failed.
    Failed(FsError, Instant),
}

impl Link {
    pub(crate) fn new(endpoint: Endpoint, address: String, expect: PeerIdentity) -> Self {
        Self {
            endpoint,
            expect,
            address,
            counters: Arc::default(),
            lanes: Arc::default(),
            state: Mutex::new(State::Idle),
            kept: AtomicBool::new(false),
        }
    }

    /// The peer in words.
    pub(crate) fn whom(&self) -> String {
        format!("{} at {}", self.expect, self.address)
    }

    pub(crate) fn meter(&self) -> Meter {
        Meter::new(self.endpoint.live().clone(), Some(self.counters.clone()))
    }

    /// The live connection, or a new one. Safe to drop while waiting: the attempt goes on for others.
    pub(crate) async fn connection(self: &Arc<Self>) -> FsResult<Connection> {
        let mut outcome = {
            let mut state = self.state.lock();
            match &*state {
                State::Open(connection) if connection.close_reason().is_none() => {
                    return Ok(connection.clone());
                }
                State::Failed(error, at) if at.elapsed() < RECONNECT_PAUSE => return Err(error.clone()),
                State::Connecting(outcome) if outcome.has_changed().is_ok() => outcome.clone(),
                _ => {
                    let outcome = self.start();
                    *state = State::Connecting(outcome.clone());
                    outcome
                }
            }
        };
        match outcome.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(outcome)) => outcome.clone(),
            _ => Err(FsError::Unreachable(format!("{}: the attempt to connect was given up", self.whom()))),
        }
    }

    /// Notes that the peer refuses us, so that a crowd of requests does not ask again and again.
    pub(crate) fn remember(&self, error: &FsError) {
        *self.state.lock() = State::Failed(error.clone(), Instant::now());
    }

    /// Connects now, and again whenever the connection is lost, until nobody uses the link any more.
    pub(crate) fn keep(self: &Arc<Self>) {
        if !self.kept.swap(true, Ordering::Relaxed) {
            tokio::spawn(keep(Arc::downgrade(self)));
        }
    }

    fn start(self: &Arc<Self>) -> watch::Receiver<Outcome> {
        let (sender, outcome) = watch::channel(None);
        let link = self.clone();
        tokio::spawn(async move {
            let result = link.connect().await;
            *link.state.lock() = match &result {
                Ok(connection) => State::Open(connection.clone()),
                Err(error) => State::Failed(error.clone(), Instant::now()),
            };
            sender.send_replace(Some(result));
        });
        outcome
    }

    /// Tries the addresses of the host one after the other.
    async fn connect(self: &Arc<Self>) -> FsResult<Connection> {
        let mut error = FsError::Unreachable(format!("{}: the name has no usable address", self.whom()));
        for address in self.resolve().await? {
            match self.connect_to(address).await {
                Ok(connection) => {
                    self.meter().add(|live| &live.connections_opened, 1);
                    let (lanes, era) = (self.lanes.clone(), self.lanes.begin());
                    let watching = watch_over(Arc::downgrade(self), connection.clone());
                    tokio::spawn(async move {
                        watching.await;
                        lanes.end(&era);
                    });
                    return Ok(connection);
                }
                Err(e) => error = e,
            }
        }
        Err(error)
    }

    async fn resolve(&self) -> FsResult<Vec<SocketAddr>> {
        let unknown =
            |why: String| FsError::Unreachable(format!("{}: cannot resolve the name: {why}", self.whom()));
        let found = timeout(CONNECT_TIMEOUT, tokio::net::lookup_host(&self.address)).await;
        let found = found.map_err(|_| unknown("no answer".into()))?.map_err(|e| unknown(e.to_string()))?;
        let ours = self.endpoint.local_addr();
        Ok(found.filter(|address| ours.is_ipv6() || address.is_ipv4()).take(MAX_ADDRESSES).collect())
    }

    async fn connect_to(&self, address: SocketAddr) -> FsResult<Connection> {
        let gone = |why: &str| FsError::Unreachable(format!("{} ({address}) {why}", self.whom()));
        let config = self.endpoint.client_config(address);
        let connecting = self
            .endpoint
            .quinn()
            .connect_with(config, address, &self.expect.host())
            .map_err(|e| gone(&format!("cannot be connected to: {e}")))?;
        tokio::select! {
            done = timeout(CONNECT_TIMEOUT, connecting) => match done {
                Ok(done) => done.map_err(|e| failure::of_connection(&self.whom(), &e)),
                Err(_) => Err(gone("does not answer")),
            },
            () = refused(address) => Err(gone("refuses the connection: no daemon listens there")),
        }
    }
}

/// Holds the link only while it connects, so that dropping the last user ends it.
async fn keep(link: Weak<Link>) {
    let mut pause = RECONNECT_PAUSE;
    while let Some(held) = link.upgrade() {
        let outcome = held.connection().await;
        drop(held);
        match outcome {
            Ok(connection) => {
                let begun = Instant::now();
                connection.closed().await;
                // Who is turned away is so after the handshake: that is no connection to begin anew at once.
                if begun.elapsed() > MAX_RECONNECT_PAUSE {
                    pause = RECONNECT_PAUSE;
                }
            }
            Err(error) => tracing::debug!(%error, ?pause, "no connection yet"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(MAX_RECONNECT_PAUSE);
    }
}

/// Ends the connection when nobody uses the link any more, or as soon as the peer's host says that the
/// daemon is gone: a process that was killed says nothing itself.
async fn watch_over(link: Weak<Link>, connection: Connection) {
    let mut heard = 0;
    loop {
        tokio::select! {
            _ = connection.closed() => return,
            () = sleep(SUSPICION) => {}
        }
        match link.upgrade() {
            Some(link) => link.lanes.close_idle(),
            None => return connection.close(code::DONE, b""),
        }
        let packets = connection.stats().udp_rx.datagrams;
        // A live peer acknowledges each keep-alive.
        let silent = packets == heard;
        heard = packets;
        if silent && timeout(SUSPICION, refused(connection.remote_address())).await.is_ok() {
            return connection.close(code::DONE, b"no daemon listens there any more");
        }
    }
}

/// Ends only when the host of `address` says that nobody listens there, which it does in an ICMP message
/// that a socket sees only if it is connected, unlike the one below QUIC.
async fn refused(address: SocketAddr) {
    if hear_refusal(address).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn hear_refusal(address: SocketAddr) -> io::Result<()> {
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(address).await?;
    loop {
        // One byte that is no QUIC packet: a daemon drops it.
        let sent = socket.send(&[0]).await;
        let heard = timeout(PROBE_INTERVAL, socket.recv(&mut [0])).await;
        for result in [Some(sent), heard.ok()].into_iter().flatten() {
            match result {
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => return Ok(()),
                Err(e) => return Err(e),
                Ok(_) => {}
            }
        }
    }
}
