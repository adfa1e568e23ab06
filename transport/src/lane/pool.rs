//! The lanes to one peer: opened in the background when large answers are asked for, used again, and closed when
//! nobody needs them.
//!
//! *Invariants:* at most [`MAX_LANES`] are open; requests get them in the order in which they asked; all lanes end
//! with the QUIC connection beside which they were opened, which notices when the peer is dead.

use super::{LaneError, Secure};
use crate::endpoint::Endpoint;
use crate::options::{
    CONNECT_TIMEOUT, LANE_IDLE, LANE_PATIENCE, LANE_RETRY, MAX_LANE_RECORDS, MAX_LANES, NEAR_RTT,
    UNCERTAIN_RTT,
};
use globalfs_proto::PeerIdentity;
use parking_lot::Mutex;
use quinn::Connection;
use rustls::pki_types::ServerName;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// All lanes to one peer.
#[derive(Default)]
pub(crate) struct Lanes(Mutex<State>);

#[derive(Default)]
struct State {
    /// The one used last is at the back.
    idle: Vec<Idle>,
    /// Those that are idle, in use, or being opened.
    open: usize,
    opening: usize,
    waiting: VecDeque<oneshot::Sender<Lease>>,
    /// Ends with the connection beside which lanes are opened.
    era: CancellationToken,
    not_before: Option<Instant>,
    /// A lane was opened in this era, so the peer is nearby.
    is_near: bool,
    /// Somebody waited in vain and no lane was given back since: their readers do not read.
    is_stuck: bool,
    /// The administrator knows that there are none.
    is_told: bool,
}

struct Idle {
    secure: Secure,
    era: CancellationToken,
    since: Instant,
}

/// A lane while one request uses it. Dropped before its answer was read to the end it closes the lane.
pub(crate) struct Lease {
    lanes: Arc<Lanes>,
    secure: Option<Secure>,
    era: CancellationToken,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// Which lane a request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// One for which it waits a while: much travels, and others should not wait for it.
    Any,
    /// One that nobody else uses now: it is short.
    Idle,
}

/// What a request finds.
enum Found {
    Lane(Lease),
    Wait(oneshot::Receiver<Lease>),
    Nothing,
}

impl Lanes {
    /// Lanes belong to a new connection from now on, until [`Lanes::end`] is told of this era; those of the last
    /// one end.
    pub(crate) fn begin(&self) -> CancellationToken {
        let era = CancellationToken::new();
        let last = {
            let mut state = self.0.lock();
            (state.not_before, state.is_told, state.is_near) = (None, false, false);
            std::mem::replace(&mut state.era, era.clone())
        };
        self.end(&last);
        era
    }

    /// Closes the lanes of a connection that has ended; requests that use them fail.
    pub(crate) fn end(&self, era: &CancellationToken) {
        era.cancel();
        self.0.lock().drop_idle(|lane| lane.era.is_cancelled());
    }

    /// A lane to the peer at the other end of `connection`, if the way there is short and one is open; more are opened for
    /// the next requests.
    pub(crate) async fn lease(
        self: &Arc<Self>,
        endpoint: &Endpoint,
        expect: &PeerIdentity,
        connection: &Connection,
        wanted: Wanted,
    ) -> Option<Lease> {
        if connection.rtt() > UNCERTAIN_RTT {
            return None;
        }
        let (found, open_one) = self.find(wanted);
        if let Some(era) = open_one {
            let (lanes, endpoint, expect) = (self.clone(), endpoint.clone(), expect.clone());
            tokio::spawn(lanes.open(endpoint, expect, connection.remote_address(), era));
        }
        match found {
            Found::Lane(lease) => Some(lease),
            Found::Wait(lane) => self.wait(lane).await,
            Found::Nothing => None,
        }
    }

    /// What there is, and whether another one shall be opened.
    fn find(self: &Arc<Self>, wanted: Wanted) -> (Found, Option<CancellationToken>) {
        let mut state = self.0.lock();
        if let Some((secure, era)) = state.take_idle() {
            return (Found::Lane(Lease::new(self, secure, era)), None);
        }
        let was_open = state.open > state.opening;
        let may_open = wanted == Wanted::Any || state.open == 0;
        let open_one = if may_open { state.begin_to_open() } else { None };
        if wanted == Wanted::Idle || !was_open || state.is_stuck {
            return (Found::Nothing, open_one);
        }
        let (sender, lane) = oneshot::channel();
        state.waiting.push_back(sender);
        (Found::Wait(lane), open_one)
    }

    /// Who waits too long takes QUIC, and so does everybody until a lane is given back.
    async fn wait(&self, mut lane: oneshot::Receiver<Lease>) -> Option<Lease> {
        if let Ok(lane) = timeout(LANE_PATIENCE, &mut lane).await {
            return lane.ok();
        }
        lane.close();
        let late = lane.try_recv().ok();
        self.0.lock().is_stuck |= late.is_none();
        late
    }

    async fn open(
        self: Arc<Self>,
        endpoint: Endpoint,
        expect: PeerIdentity,
        address: SocketAddr,
        era: CancellationToken,
    ) {
        let is_near = self.0.lock().is_near;
        let opened = timeout(CONNECT_TIMEOUT, connect(&endpoint, &expect, address, is_near));
        let opened = opened.await.unwrap_or(Err(LaneError::Late));
        {
            let mut state = self.0.lock();
            state.opening -= 1;
            state.is_near |= opened.is_ok();
        }
        match opened {
            Ok(secure) => {
                endpoint.live().lanes_opened.fetch_add(1, Relaxed);
                self.give_back(secure, era);
            }
            Err(error) => self.failed(&error, &expect, address),
        }
    }

    fn failed(&self, error: &LaneError, expect: &PeerIdentity, address: SocketAddr) {
        let is_news = {
            let mut state = self.0.lock();
            state.not_before = Some(Instant::now() + LANE_RETRY);
            state.lost();
            let is_news = !state.is_told && !matches!(error, LaneError::Far);
            state.is_told |= is_news;
            is_news
        };
        if is_news {
            tracing::warn!(
                peer = %expect, %address, %error,
                "large reads from this peer go over QUIC, which costs more CPU time: is its TCP port closed?"
            );
        } else {
            tracing::debug!(peer = %expect, %address, %error, "no TCP connection beside QUIC");
        }
    }

    /// For the next request, the one that has waited longest first.
    fn give_back(self: &Arc<Self>, secure: Secure, era: CancellationToken) {
        let mut lease = Lease::new(self, secure, era);
        loop {
            let next = {
                let mut state = self.0.lock();
                state.is_stuck = false;
                let next = state.waiting.pop_front();
                if next.is_none() {
                    state.keep(&mut lease);
                }
                next
            };
            let Some(next) = next else { return };
            match next.send(lease) {
                Ok(()) => return,
                // Who no longer waits gives it back.
                Err(unwanted) => lease = unwanted,
            }
        }
    }

    /// Closes what nobody has used for a while.
    pub(crate) fn close_idle(&self) {
        self.0.lock().drop_idle(|lane| lane.since.elapsed() > LANE_IDLE);
    }
}

impl State {
    fn take_idle(&mut self) -> Option<(Secure, CancellationToken)> {
        while let Some(Idle { secure, era, .. }) = self.idle.pop() {
            if !era.is_cancelled() && secure.is_quiet() {
                return Some((secure, era));
            }
            self.open -= 1;
        }
        None
    }

    /// The era of a lane that shall be opened now, if there may be one more.
    fn begin_to_open(&mut self) -> Option<CancellationToken> {
        let is_due = self.not_before.is_none_or(|at| Instant::now() >= at);
        (self.open < MAX_LANES && is_due).then(|| {
            self.open += 1;
            self.opening += 1;
            self.era.clone()
        })
    }

    fn keep(&mut self, lease: &mut Lease) {
        let Some(secure) = lease.secure.take() else { return };
        if lease.era.is_cancelled() {
            self.lost();
        } else {
            self.idle.push(Idle { secure, era: lease.era.clone(), since: Instant::now() });
        }
    }

    fn drop_idle(&mut self, which: impl Fn(&Idle) -> bool) {
        let before = self.idle.len();
        self.idle.retain(|lane| !which(lane));
        self.open -= before - self.idle.len();
    }

    /// One is gone; who waits for the last one waits for nothing.
    fn lost(&mut self) {
        self.open -= 1;
        if self.open <= self.opening {
            self.waiting.clear();
        }
    }
}

impl Lease {
    fn new(lanes: &Arc<Lanes>, secure: Secure, era: CancellationToken) -> Self {
        let ended = Box::pin(era.clone().cancelled_owned());
        Self { lanes: lanes.clone(), secure: Some(secure), era, ended }
    }

    /// Sends the request.
    pub(crate) async fn send(&mut self, parts: &[bytes::Bytes]) -> Result<(), LaneError> {
        let secure = self.secure.as_mut().ok_or(LaneError::Closed)?;
        tokio::select! {
            biased;
            sent = secure.send(parts) => sent,
            () = &mut self.ended => Err(LaneError::Closed),
        }
    }

    /// Fills `room` with what the peer sends.
    pub(crate) async fn fill(&mut self, room: &mut [u8]) -> Result<(), LaneError> {
        let secure = self.secure.as_mut().ok_or(LaneError::Closed)?;
        tokio::select! {
            biased;
            filled = secure.fill(room) => filled,
            () = &mut self.ended => Err(LaneError::Closed),
        }
    }

    /// The answer was read to its end: the next request may have the lane.
    pub(crate) fn finish(mut self) {
        let Some(mut secure) = self.secure.take() else { return };
        secure.rest();
        if secure.records_sent() < MAX_LANE_RECORDS {
            self.lanes.give_back(secure, self.era.clone());
        } else {
            self.lanes.0.lock().lost();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.secure.take().is_some() {
            self.lanes.0.lock().lost();
        }
    }
}

async fn connect(
    endpoint: &Endpoint,
    expect: &PeerIdentity,
    address: SocketAddr,
    is_near: bool,
) -> Result<Secure, LaneError> {
    // On a thread that does nothing else: the kernels alone have a part in this round trip, where that of QUIC has
    // the work of both programs in it.
    let connecting = spawn_blocking(move || {
        let begun = Instant::now();
        let socket = std::net::TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
        Ok::<_, LaneError>((socket, begun.elapsed()))
    });
    let (socket, round_trip) = connecting.await.map_err(|_| LaneError::Late)??;
    if !is_near && round_trip > NEAR_RTT {
        return Err(LaneError::Far);
    }
    socket.set_nonblocking(true)?;
    let socket = TcpStream::from_std(socket)?;
    crate::socket::watch_over(&socket)?;
    let host =
        ServerName::try_from(expect.host()).map_err(|_| LaneError::Protocol("its name is no host's"))?;
    Secure::connect(socket, endpoint.lane_client(), host).await
}
