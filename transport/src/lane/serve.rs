//! Serves lanes: one request after the other on each.

use super::{LaneError, Secure};
use crate::counters::Meter;
use crate::endpoint::BindError;
use crate::identity::Caller;
use crate::options::{
    ADDRESS_TRIES, CONNECT_TIMEOUT, GRACE, LANE_SILENCE, MAX_LANE_RECORDS, MAX_SERVED_LANES, REQUEST_TIMEOUT,
};
use crate::reply::Reply;
use crate::server::{Answered, Service, Unreadable, count, read_request};
use crate::{socket, tls};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

/// The pause after the system could not give us a connection, for which it usually lacks descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Binds UDP and TCP at the same port. A port of the system's choice is chosen anew where TCP is taken.
pub(crate) fn listen(address: SocketAddr) -> Result<(UdpSocket, TcpListener), BindError> {
    let mut tries = if address.port() == 0 { ADDRESS_TRIES } else { 1 };
    loop {
        let udp = socket::bind(address);
        let bound = udp.and_then(|udp| Ok((udp.local_addr()?, udp)));
        let (both, udp) = bound.map_err(|source| BindError::Listen { address, source })?;
        tries -= 1;
        match socket::listen(both) {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(source) if tries == 0 => return Err(BindError::ListenTcp { address: both, source }),
            Err(_) => {}
        }
    }
}

impl Service {
    /// Serves lanes until the daemon stops; returns when every task has ended.
    pub(crate) async fn serve_lanes(
        self,
        listener: tokio::net::TcpListener,
        config: Arc<rustls::ServerConfig>,
    ) {
        let tasks = TaskTracker::new();
        while let Some(accepted) = self.stop.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((socket, remote)) if tasks.len() < MAX_SERVED_LANES => {
                    tasks.spawn(self.clone().attend_lane(socket, remote, config.clone()));
                }
                Ok((_, remote)) => {
                    tracing::warn!(%remote, limit = MAX_SERVED_LANES, "too many TCP connections: one was turned away");
                    count(&self.live.lanes_refused);
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a TCP connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        tasks.close();
        tasks.wait().await;
    }

    async fn attend_lane(self, socket: TcpStream, remote: SocketAddr, config: Arc<rustls::ServerConfig>) {
        let stop = self.stop.clone();
        let welcomed = stop.run_until_cancelled(self.welcome_lane(socket, config));
        match welcomed.await {
            Some(Ok((secure, caller))) => {
                tracing::debug!(peer = %caller.identity, %remote, "connected over TCP");
                count(&self.live.lanes_accepted);
                self.serve_lane(secure, caller).await;
            }
            Some(Err(why)) => {
                tracing::warn!(%remote, %why, "a TCP connection was turned away");
                count(&self.live.lanes_refused);
            }
            None => {}
        }
    }

    async fn welcome_lane(
        &self,
        socket: TcpStream,
        config: Arc<rustls::ServerConfig>,
    ) -> Result<(Secure, Arc<Caller>), String> {
        socket.set_nodelay(true).map_err(|e| e.to_string())?;
        let secure = timeout(CONNECT_TIMEOUT, Secure::accept(socket, config)).await;
        let secure = secure.unwrap_or(Err(LaneError::Late)).map_err(|e| e.to_string())?;
        let caller = secure.certificates().and_then(tls::caller_of_chain);
        let caller = caller.ok_or("the certificate names no GlobalFS site, node or administrator")?;
        self.admit(&caller).await?;
        Ok((secure, Arc::new(caller)))
    }

    /// One request after the other, until the peer leaves, breaks a rule or is silent for too long.
    async fn serve_lane(self, mut secure: Secure, caller: Arc<Caller>) {
        let stop = self.stop.clone();
        while let Some(Ok(())) = stop.run_until_cancelled(timeout(LANE_SILENCE, secure.stirs())).await {
            match self.serve_one(secure, &caller).await {
                Some(again) if again.records_sent() < MAX_LANE_RECORDS => secure = again,
                _ => return,
            }
            secure.rest();
        }
    }

    /// The lane, if it is fit for another request.
    async fn serve_one(&self, mut secure: Secure, caller: &Caller) -> Option<Secure> {
        let peer = &caller.identity;
        let meter = Meter::new(self.live.clone(), None);
        let request = timeout(REQUEST_TIMEOUT, read_request(&mut secure, &meter)).await;
        let (budget, request) = match request.unwrap_or(Err(Unreadable::Gone)) {
            Ok(request) => request,
            Err(Unreadable::Gone) => return None,
            Err(Unreadable::Malformed(why)) => {
                tracing::warn!(%peer, why, "a TCP connection was closed");
                count(&self.live.requests_broken_off);
                return None;
            }
        };
        if let Err(why) = self.admit(caller).await {
            // Over QUIC it will be told why.
            tracing::warn!(%peer, why, "a TCP connection was closed");
            count(&self.live.requests_broken_off);
            return None;
        }
        let reply = Reply::on_lane(secure, meter, peer.to_string(), self.stop.clone());
        let answered = tokio::select! {
            answered = self.answer(peer, request, budget, reply) => answered,
            () = self.grace_is_over() => Answered { in_time: false, lane: None },
        };
        count(if answered.in_time { &self.live.requests_served } else { &self.live.requests_broken_off });
        answered.lane
    }

    async fn grace_is_over(&self) {
        self.stop.cancelled().await;
        sleep(GRACE).await;
    }
}
