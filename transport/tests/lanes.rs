//! Large answers over TCP: when they take it, and what becomes of them when it fails.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::*;
use globalfs_proto::{Change, FileId, FsError, GlobalPath, Request, Response, Target};
use globalfs_transport::options::{
    CONNECT_TIMEOUT, GRACE, LANE_IDLE, LANE_PATIENCE, LANE_SILENCE, MAX_LANES, REQUEST_TIMEOUT, SMALL_READ,
};
use globalfs_transport::{Endpoint, Options};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

type RawLane = tokio_rustls::client::TlsStream<TcpStream>;

fn on_lanes(pair: &Pair) -> u64 {
    pair.peer.counters().requests_on_lanes
}

#[tokio::test]
async fn large_answers_take_a_lane_and_small_ones_do_not() {
    let pair = Pair::new();
    echo(&pair.peer, &Request::Ping, BUDGET).await.unwrap();
    read_whole(&pair.peer, "/f", SMALL_READ).await.unwrap();
    assert_eq!(pair.client.counters().lanes_opened, 0);
    pair.open_lane().await;
    for _ in 0..5 {
        assert_eq!(read_whole(&pair.peer, "/f", 32).await, Ok(32));
        read_whole(&pair.peer, "/f", SMALL_READ).await.unwrap();
    }
    assert_eq!(on_lanes(&pair), 5);
    assert_eq!(pair.client.counters().lanes_opened, 1, "one after the other they share it");
    assert_eq!(pair.peer.counters().requests_failed, 0);
}

#[tokio::test]
async fn short_requests_and_changes_take_a_lane_that_is_idle_and_leave_it_to_the_next() {
    let pair = Pair::new();
    pair.open_lane().await;
    let target = Target { path: GlobalPath::new(b"/f").unwrap(), file: FileId { origin: 1, inode: 2 } };
    let write =
        |bytes| Change::Write { target: target.clone(), offset: Some(0), data: vec![7; bytes].into() };
    let sizes = [1, 64 * 1024, 128 * 1024 + 1, 200_000];
    for change in sizes.map(write) {
        let told = echo(&pair.peer, &Request::Change(change.clone()), BUDGET).await.unwrap();
        assert!(told == format!("{:?}", Request::Change(change)), "every byte has come");
    }
    echo(&pair.peer, &Request::Stat(target.path.clone()), BUDGET).await.unwrap();
    echo(&pair.peer, &Request::FsStat(target.path.clone()), BUDGET).await.unwrap();
    assert_eq!((on_lanes(&pair), pair.client.counters().lanes_opened), (6, 1));
    let busy = pair.peer.request(&read_request("/part", 3), BUDGET).await.unwrap();
    echo(&pair.peer, &Request::Stat(target.path.clone()), BUDGET).await.unwrap();
    assert_eq!(on_lanes(&pair), 7, "nobody waits for a lane to ask something short");
    drop(busy);
}

#[tokio::test]
async fn an_error_leaves_the_lane_to_the_next_request() {
    let pair = Pair::new();
    pair.open_lane().await;
    for _ in 0..3 {
        assert_eq!(read_whole(&pair.peer, "/gone", 32).await, Err(FsError::Stale(None)));
    }
    assert_eq!((on_lanes(&pair), pair.client.counters().lanes_opened), (3, 1));
    assert_eq!(read_whole(&pair.peer, "/f", 32).await, Ok(32));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_large_answers_share_a_few_lanes() {
    let pair = Pair::new();
    pair.open_lane().await;
    let readers: Vec<_> = (0..40)
        .map(|_| {
            let peer = pair.peer.clone();
            tokio::spawn(async move { read_whole(&peer, "/f", 32).await })
        })
        .collect();
    for reader in readers {
        assert_eq!(reader.await.unwrap(), Ok(32));
    }
    assert!(pair.client.counters().lanes_opened <= MAX_LANES as u64);
    assert!(on_lanes(&pair) > 0);
}

#[tokio::test]
async fn readers_that_do_not_read_keep_no_lane_from_others() {
    let pair = Pair::new();
    pair.open_lane().await;
    let mut held = Vec::new();
    while pair.client.counters().lanes_opened < MAX_LANES as u64 || on_lanes(&pair) < MAX_LANES as u64 {
        held.push(pair.peer.request(&read_request("/f", 32), BUDGET).await.unwrap());
        assert!(held.len() < 100 * MAX_LANES, "lanes are opened");
        tokio::time::sleep(LANE_PATIENCE).await;
    }
    let (begun, before) = (Instant::now(), on_lanes(&pair));
    for _ in 0..5 {
        assert_eq!(read_whole(&pair.peer, "/f", 32).await, Ok(32));
    }
    // One of them waited, the others knew.
    assert!(begun.elapsed() < LANE_PATIENCE + Duration::from_secs(1), "took {:?}", begun.elapsed());
    assert_eq!(on_lanes(&pair), before, "they went over QUIC");
    drop(held);
    eventually("lanes are had again", || pair.client.counters().lanes_opened >= MAX_LANES as u64).await;
    assert_eq!(read_whole(&pair.peer, "/f", 32).await, Ok(32));
}

#[tokio::test]
async fn a_peer_without_a_tcp_port_is_asked_over_quic() {
    let pair = Pair::with(false);
    for _ in 0..5 {
        assert_eq!(read_whole(&pair.peer, "/f", 32).await, Ok(32));
    }
    let counters = pair.peer.counters();
    assert_eq!((counters.requests_on_lanes, counters.requests_failed), (0, 0));
    assert_eq!(pair.client.counters().lanes_opened, 0);
}

/// The kernel takes connections there, and nobody ever answers.
#[tokio::test]
async fn a_tcp_port_of_somebody_else_costs_nothing() {
    let pair = Pair::with(false);
    let _silent = tokio::net::TcpListener::bind(pair.server.local_addr()).await.unwrap();
    let begun = Instant::now();
    for _ in 0..5 {
        assert_eq!(read_whole(&pair.peer, "/f", 32).await, Ok(32));
    }
    assert!(begun.elapsed() < CONNECT_TIMEOUT, "nobody waits for a lane that is being opened");
    assert_eq!(on_lanes(&pair), 0);
}

#[tokio::test]
async fn a_lane_that_went_stale_fails_no_request() {
    let ca = Ca::new();
    let server = endpoint(ca.identity(&site("onprem")));
    let address = server.local_addr();
    let client = endpoint(ca.identity(&site("cloud")));
    let peer = peer(&client, address, "onprem");
    let mut server = Some(server);
    for round in 0..3 {
        let now = server.take().unwrap();
        let stop = CancellationToken::new();
        let serving = serve(&now, Arc::new(Scripted::default()), &stop);
        read_until_lane(&peer, || client.counters().lanes_opened > round).await;
        let before = peer.counters().requests_on_lanes;
        assert_eq!(read_whole(&peer, "/f", 32).await, Ok(32));
        assert_eq!(peer.counters().requests_on_lanes, before + 1);
        stop.cancel();
        serving.await.unwrap();
        now.close().await;
        drop(now);
        for _ in 0..100 {
            // The socket is closed by a task of this runtime.
            tokio::time::sleep(Duration::from_millis(20)).await;
            server = Endpoint::bind(Options::server(address), ca.identity(&site("onprem"))).ok();
            if server.is_some() {
                break;
            }
        }
    }
    assert_eq!(peer.counters().requests_failed, 0);
}

#[tokio::test]
async fn a_right_that_is_called_off_ends_on_lanes_as_well() {
    let pair = Pair::new();
    pair.open_lane().await;
    pair.handler.closed.store(true, Ordering::SeqCst);
    let error = read_whole(&pair.peer, "/f", 32).await.err();
    assert!(matches!(&error, Some(FsError::Refused(why)) if why.contains("not registered")), "{error:?}");
}

#[tokio::test]
async fn serving_ends_though_lanes_are_idle_or_in_use() {
    let pair = Pair::new();
    pair.open_lane().await;
    let mut used = pair.peer.request(&read_request("/part", 3), BUDGET).await.unwrap();
    let Some(Response::Chunk(header)) = used.next().await.unwrap() else { panic!("no chunk") };
    used.payload(header.wire_length).await.unwrap();
    assert_eq!(on_lanes(&pair), 1);
    let begun = Instant::now();
    pair.stop.cancel();
    pair.serving.await.unwrap();
    assert!(begun.elapsed() < GRACE + Duration::from_secs(2), "took {:?}", begun.elapsed());
    assert!(matches!(used.next().await, Err(FsError::Unreachable(_))));
}

#[tokio::test]
async fn lanes_end_with_the_connection_beside_them() {
    let pair = Pair::new();
    pair.open_lane().await;
    let mut used = pair.peer.request(&read_request("/part", 3), BUDGET).await.unwrap();
    assert!(matches!(used.next().await, Ok(Some(Response::Chunk(_)))));
    pair.client.close().await;
    // The chunk itself may have come already.
    let begun = Instant::now();
    let error = loop {
        match used.payload(1).await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(error, FsError::Unreachable(_)), "{error:?}");
    assert!(begun.elapsed() < LANE_IDLE / 2);
}

/// A TLS client that is not ours.
async fn raw_lane(pair: &Pair, config: rustls::ClientConfig) -> std::io::Result<RawLane> {
    let socket = TcpStream::connect(pair.server.local_addr()).await?;
    let host = rustls_pki_types::ServerName::try_from(site("onprem").host()).unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(host, socket).await
}

/// Until the server hangs up, at most `limit`; what it has said before.
async fn hung_up(lane: &mut RawLane, limit: Duration) -> Vec<u8> {
    let mut said = Vec::new();
    let ended = tokio::time::timeout(limit, lane.read_to_end(&mut said)).await;
    let _ = ended.expect("the server hangs up");
    said
}

#[tokio::test]
async fn who_is_not_of_the_cluster_gets_no_lane() {
    let pair = Pair::new();
    let (ours, theirs) = (&pair.ca, Ca::new());
    let foreign = theirs.sign(&[site("cloud").host()]);
    let nameless = ours.sign(&["example.org".to_owned()]);
    let stranger = ours.sign(&[site("stranger").host()]);
    for credentials in [None, Some(&foreign), Some(&nameless), Some(&stranger)] {
        // In TLS 1.3 the client learns last what the server thinks of it.
        if let Ok(mut lane) = raw_lane(&pair, raw_config(ours, credentials)).await {
            let _ = lane.write_all(&[5, 0, 0, 0, 0, 0, 1, 0, 8]).await;
            assert_eq!(hung_up(&mut lane, BUDGET).await, b"");
        }
    }
    let mut other_protocol = raw_config(ours, Some(&ours.sign(&[site("cloud").host()])));
    for names in [vec![], vec![b"globalfs/2".to_vec()]] {
        other_protocol.alpn_protocols = names;
        if let Ok(mut lane) = raw_lane(&pair, other_protocol.clone()).await {
            assert_eq!(hung_up(&mut lane, BUDGET).await, b"");
        }
    }
    eventually("all were turned away", || pair.server.counters().lanes_refused == 6).await;
    let counters = pair.server.counters();
    assert_eq!((counters.lanes_accepted, counters.requests_served), (0, 0));
    pair.open_lane().await;
    assert_eq!(read_whole(&pair.peer, "/f", 32).await, Ok(32), "the honest client noticed nothing");
}

#[tokio::test]
async fn nonsense_ends_its_own_lane_only() {
    let pair = Pair::new();
    pair.open_lane().await;
    let credentials = pair.ca.sign(&[site("cloud").host()]);
    let unknown_request = [5, 0, 0, 0, 1, 0, 0, 0, 99];
    let too_long = (1_u32 << 30).to_le_bytes();
    let empty = [0; 4];
    for nonsense in [&unknown_request[..], &too_long, &empty] {
        let mut lane = raw_lane(&pair, raw_config(&pair.ca, Some(&credentials))).await.unwrap();
        lane.write_all(nonsense).await.unwrap();
        assert_eq!(hung_up(&mut lane, BUDGET).await, b"");
        assert_eq!(read_whole(&pair.peer, "/f", 32).await, Ok(32));
    }
    assert_eq!((pair.client.counters().lanes_opened, on_lanes(&pair)), (1, 3));
}

#[tokio::test]
async fn noise_instead_of_tls_is_turned_away() {
    let pair = Pair::new();
    let mut socket = TcpStream::connect(pair.server.local_addr()).await.unwrap();
    socket.write_all(&[0x47; 64 * 1024]).await.unwrap();
    let mut said = Vec::new();
    let ended = tokio::time::timeout(BUDGET, socket.read_to_end(&mut said)).await;
    let _ = ended.expect("the server hangs up");
    eventually("it is counted", || pair.server.counters().lanes_refused == 1).await;
}

#[tokio::test]
async fn silence_is_given_a_limited_time() {
    let pair = Pair::new();
    // Before the handshake.
    let mut socket = TcpStream::connect(pair.server.local_addr()).await.unwrap();
    let begun = Instant::now();
    let ended = tokio::time::timeout(2 * CONNECT_TIMEOUT, socket.read(&mut [0])).await;
    assert!(matches!(ended.expect("the server hangs up"), Ok(0) | Err(_)));
    assert!(begun.elapsed() >= CONNECT_TIMEOUT);
    // Inside a request.
    let credentials = pair.ca.sign(&[site("cloud").host()]);
    let mut lane = raw_lane(&pair, raw_config(&pair.ca, Some(&credentials))).await.unwrap();
    let begun = Instant::now();
    lane.write_all(&[5, 0, 0]).await.unwrap();
    assert_eq!(hung_up(&mut lane, 2 * REQUEST_TIMEOUT).await, b"");
    assert!(begun.elapsed() >= REQUEST_TIMEOUT);
    // Between requests.
    let mut lane = raw_lane(&pair, raw_config(&pair.ca, Some(&credentials))).await.unwrap();
    eventually("it is let in", || pair.server.counters().lanes_accepted == 2).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    // The clock of this runtime runs to the next alarm wherever all tasks wait.
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    assert_eq!(hung_up(&mut lane, 2 * LANE_SILENCE).await, b"");
    assert!(begun.elapsed() > LANE_SILENCE - Duration::from_secs(1), "{:?}", begun.elapsed());
}
