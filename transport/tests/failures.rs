//! Daemons that die, lie, or are not there.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use async_trait::async_trait;
use common::*;
use globalfs_proto::{Change, FsError, FsResult, GlobalPath, PeerIdentity, Request, Response};
use globalfs_transport::{Endpoint, Handler, Peer, Reply};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// A daemon in a runtime of its own, which can die without a word.
struct Daemon {
    runtime: Runtime,
    address: SocketAddr,
    _endpoint: Endpoint,
}

impl Daemon {
    fn start(listen: SocketAddr, identity: globalfs_transport::Identity) -> Self {
        Self::start_with(listen, identity, Arc::new(Scripted::default()))
    }

    fn start_with(
        listen: SocketAddr,
        identity: globalfs_transport::Identity,
        handler: Arc<impl Handler>,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let entered = runtime.enter();
        let endpoint = endpoint_at(listen, identity);
        common::serve(&endpoint, handler, &CancellationToken::new());
        drop(entered);
        Self { runtime, address: endpoint.local_addr(), _endpoint: endpoint }
    }

    /// What kill -9 does: no farewell, and the port is free again.
    fn kill(self) -> SocketAddr {
        drop(self._endpoint);
        self.runtime.shutdown_timeout(Duration::from_secs(5));
        self.address
    }
}

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

#[tokio::test]
async fn nobody_listens() {
    let ca = Ca::new();
    let free = std::net::UdpSocket::bind(any_port()).unwrap().local_addr().unwrap();
    let client = endpoint(ca.identity(&site("cloud")));
    let begun = Instant::now();
    let Some(FsError::Unreachable(why)) =
        peer(&client, free, "onprem").request(&Request::Ping, BUDGET).await.err()
    else {
        panic!("not unreachable")
    };
    assert!(why.contains("site onprem") && why.contains(&free.to_string()), "{why}");
    assert!(begun.elapsed() < Duration::from_secs(1), "the host says so at once");
}

#[tokio::test]
async fn nobody_answers() {
    let ca = Ca::new();
    let silent = std::net::UdpSocket::bind(any_port()).unwrap();
    let client = endpoint(ca.identity(&site("cloud")));
    let peer = peer(&client, silent.local_addr().unwrap(), "onprem");
    let begun = Instant::now();
    let error = peer.request(&Request::Ping, Duration::from_millis(200)).await.err();
    assert_eq!(error, Some(FsError::Deadline));
    assert!(begun.elapsed() < Duration::from_secs(2));
    let error = peer.request(&Request::Ping, BUDGET).await.err();
    assert!(matches!(error, Some(FsError::Unreachable(_))), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(6));
}

#[tokio::test]
async fn a_name_that_does_not_exist() {
    let client = endpoint(Ca::new().identity(&site("cloud")));
    let peer = globalfs_transport::Peer::new(client, "no port".to_owned(), site("onprem"));
    let error = peer.request(&Request::Ping, BUDGET).await.err();
    assert!(matches!(&error, Some(FsError::Unreachable(why)) if why.contains("no port")), "{error:?}");
}

#[tokio::test]
async fn a_daemon_killed_inside_an_answer() {
    let ca = Ca::new();
    let daemon = Daemon::start(any_port(), ca.identity(&site("onprem")));
    let client = endpoint(ca.identity(&site("cloud")));
    let mut answer =
        peer(&client, daemon.address, "onprem").request(&read_request("/part", 2), BUDGET).await.unwrap();
    let Some(Response::Chunk(header)) = answer.next().await.unwrap() else { panic!("no chunk") };
    answer.payload(header.wire_length).await.unwrap();
    let begun = Instant::now();
    tokio::task::spawn_blocking(|| daemon.kill()).await.unwrap();
    let error = answer.next().await;
    assert!(matches!(error, Err(FsError::Unreachable(_))), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(5), "took {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_daemon_killed_and_started_again_is_found_again() {
    let ca = Ca::new();
    let credentials = ca.identity(&site("onprem"));
    let mut daemon = Daemon::start(any_port(), credentials.clone());
    let client = endpoint(ca.identity(&site("cloud")));
    let peer = peer(&client, daemon.address, "onprem");
    for round in 0..3 {
        echo(&peer, &Request::Ping, BUDGET).await.unwrap();
        let address = tokio::task::spawn_blocking(|| daemon.kill()).await.unwrap();
        daemon = Daemon::start(address, credentials.clone());
        let begun = Instant::now();
        echo(&peer, &Request::Ping, BUDGET).await.unwrap();
        // The new daemon answers what it does not know with a stateless reset.
        assert!(begun.elapsed() < Duration::from_secs(2), "round {round} took {:?}", begun.elapsed());
    }
    tokio::task::spawn_blocking(|| daemon.kill()).await.unwrap();
}

/// Counts what it is asked, and leaves the first question without an answer.
struct Forgetful(Arc<AtomicUsize>);

#[async_trait]
impl Handler for Forgetful {
    async fn admit(&self, _: &PeerIdentity, _: &str) -> Result<(), String> {
        Ok(())
    }

    async fn handle(
        &self,
        _: &PeerIdentity,
        request: Request,
        _: Duration,
        reply: &mut Reply,
    ) -> FsResult<()> {
        let is_counted = !matches!(&request, Request::Stat(path) if path.name() == b"other");
        if is_counted && self.0.fetch_add(1, Ordering::SeqCst) == 0 {
            return std::future::pending().await;
        }
        reply.send(&Response::Missing).await
    }
}

/// Short requests find a lane that is idle; the first ones have one opened.
async fn open_lane(peer: &Peer, client: &Endpoint) {
    let request = Request::Stat(GlobalPath::new(b"/other").unwrap());
    while peer.counters().requests_on_lanes == 0 {
        peer.request(&request, BUDGET).await.unwrap().end().await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(client.counters().lanes_opened, 1);
}

#[tokio::test]
async fn a_change_is_not_asked_for_twice() {
    let path = GlobalPath::new(b"/f").unwrap();
    let change = Request::Change(Change::Remove { path: path.clone(), directory: false });
    let all = [(Request::Stat(path.clone()), 2), (change.clone(), 1)];
    for ((request, times), on_lane) in all.into_iter().flat_map(|each| [(each.clone(), false), (each, true)])
    {
        let (ca, asked) = (Ca::new(), Arc::new(AtomicUsize::new(0)));
        let credentials = ca.identity(&site("onprem"));
        let start = |at| Daemon::start_with(at, credentials.clone(), Arc::new(Forgetful(asked.clone())));
        let daemon = start(any_port());
        let client = endpoint(ca.identity(&site("cloud")));
        let peer = peer(&client, daemon.address, "onprem");
        if on_lane {
            open_lane(&peer, &client).await;
        }
        let before = peer.counters().requests_on_lanes;
        let (asker, asked_for) = (peer.clone(), request.clone());
        let asking = tokio::spawn(async move { asker.request(&asked_for, BUDGET).await.map(drop) });
        eventually("it was asked", || asked.load(Ordering::SeqCst) == 1).await;
        let address = tokio::task::spawn_blocking(|| daemon.kill()).await.unwrap();
        let again = start(address);
        let outcome = asking.await.unwrap();
        assert_eq!((asked.load(Ordering::SeqCst), outcome.is_ok()), (times, times == 2), "{outcome:?}");
        if !on_lane {
            assert_eq!(peer.counters().requests_on_lanes, before);
        }
        tokio::task::spawn_blocking(|| again.kill()).await.unwrap();
    }
}

#[tokio::test]
async fn a_daemon_that_stays_dead_fails_fast() {
    let ca = Ca::new();
    let daemon = Daemon::start(any_port(), ca.identity(&site("onprem")));
    let client = endpoint(ca.identity(&site("cloud")));
    let peer = peer(&client, daemon.address, "onprem");
    echo(&peer, &Request::Ping, BUDGET).await.unwrap();
    tokio::task::spawn_blocking(|| daemon.kill()).await.unwrap();
    let begun = Instant::now();
    let error = peer.request(&Request::Ping, BUDGET).await.err();
    assert!(matches!(error, Some(FsError::Unreachable(_))), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(5), "took {:?}", begun.elapsed());
    let begun = Instant::now();
    for _ in 0..100 {
        assert!(peer.request(&Request::Ping, BUDGET).await.is_err());
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "the failure is remembered");
}

#[tokio::test]
async fn garbage_ends_its_own_connection_only() {
    let pair = Pair::new();
    let credentials = pair.ca.sign(&[site("cloud").host()]);
    let unknown_request = [5, 0, 0, 0, 1, 0, 0, 0, 99];
    let too_long = (1_u32 << 30).to_le_bytes();
    let noise = [0x20, 0, 0, 0].into_iter().chain(7..39).collect::<Vec<u8>>();
    for garbage in [&unknown_request[..], &too_long, &noise] {
        let address = pair.server.local_addr();
        let (_endpoint, connection) = raw_connection(&pair.ca, Some(&credentials), address).await;
        let connection = connection.unwrap();
        let (mut send, _receive) = connection.open_bi().await.unwrap();
        send.write_all(garbage).await.unwrap();
        let closed = tokio::time::timeout(BUDGET, connection.closed()).await.unwrap();
        assert!(matches!(closed, quinn::ConnectionError::ApplicationClosed(_)), "{closed}");
        echo(&pair.peer, &Request::Ping, BUDGET).await.unwrap();
    }
    assert_eq!(pair.peer.counters().connections_opened, 1, "the honest client noticed nothing");
}

#[tokio::test]
async fn a_stream_cut_short_is_no_offence() {
    let pair = Pair::new();
    let credentials = pair.ca.sign(&[site("cloud").host()]);
    let (_endpoint, connection) =
        raw_connection(&pair.ca, Some(&credentials), pair.server.local_addr()).await;
    let connection = connection.unwrap();
    for start in [&b""[..], b"\x05", b"\x05\0\0\0\x01"] {
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        send.write_all(start).await.unwrap();
        send.finish().unwrap();
        assert_eq!(receive.read_to_end(100).await.unwrap(), b"");
    }
    assert!(connection.close_reason().is_none());
}
