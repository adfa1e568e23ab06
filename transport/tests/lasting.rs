//! What lasts: connections that are kept, and answers that go on for long.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::*;
use globalfs_proto::limits::MAX_DEADLINE;
use globalfs_proto::{FsError, Request, Response};
use globalfs_transport::options::{GRACE, IDLE_TIMEOUT, MAX_RECONNECT_PAUSE, SUSPICION};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

async fn next_change(answer: &mut globalfs_transport::Answer) {
    assert!(matches!(answer.next().await, Ok(Some(Response::Bytes(_)))));
}

/// Silence longer than any timeout of the connection, on an answer with the longest budget.
#[tokio::test]
async fn an_answer_goes_on_through_silence_and_ends_when_the_daemon_stops() {
    let pair = Pair::new();
    assert!(CHANGE_INTERVAL > IDLE_TIMEOUT && CHANGE_INTERVAL > GRACE + SUSPICION);
    let mut answer = pair.peer.request(&Request::Stat(path("/changes")), MAX_DEADLINE).await.unwrap();
    let begun = Instant::now();
    next_change(&mut answer).await;
    next_change(&mut answer).await;
    assert!(begun.elapsed() >= CHANGE_INTERVAL);
    assert_eq!(pair.peer.counters().connections_opened, 1);
    let stopped = Instant::now();
    pair.stop.cancel();
    assert_eq!(answer.next().await, Ok(None), "it ends, and is not broken off");
    pair.serving.await.unwrap();
    assert!(stopped.elapsed() < GRACE, "nothing waited for it to be broken off");
}

#[tokio::test]
async fn an_answer_that_does_not_heed_the_stop_is_broken_off() {
    let pair = Pair::new();
    let mut answer = pair.peer.request(&read_request("/part", 2), MAX_DEADLINE).await.unwrap();
    let Some(Response::Chunk(header)) = answer.next().await.unwrap() else { panic!("no chunk") };
    answer.payload(header.wire_length).await.unwrap();
    let stopped = Instant::now();
    pair.stop.cancel();
    assert!(matches!(answer.next().await, Err(FsError::Unreachable(_))));
    assert!(stopped.elapsed() < GRACE + Duration::from_secs(1));
}

#[tokio::test]
async fn a_kept_peer_is_connected_before_it_is_asked_and_again_after_a_loss() {
    let pair = Pair::new();
    pair.peer.keep_connected();
    pair.peer.keep_connected();
    eventually("it connects", || pair.server.counters().connections_accepted == 1).await;
    pair.server.close().await;
    pair.stop.cancel();
    pair.serving.await.unwrap();
    let address = pair.server.local_addr();
    drop(pair.server);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let again = (0..50).find_map(|_| {
        std::thread::sleep(Duration::from_millis(20));
        let identity = pair.ca.identity(&site("onprem"));
        globalfs_transport::Endpoint::bind(globalfs_transport::Options::server(address), identity).ok()
    });
    let again = again.expect("the port is free again");
    let stop = tokio_util::sync::CancellationToken::new();
    serve(&again, pair.handler.clone(), &stop);
    tokio::time::timeout(2 * MAX_RECONNECT_PAUSE, async {
        while again.counters().connections_accepted == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("it connects again");
    assert_eq!(pair.peer.counters().requests_started, 0);
}

#[tokio::test]
async fn a_kept_peer_that_is_turned_away_does_not_storm_the_gates() {
    let pair = Pair::new();
    pair.handler.closed.store(true, Ordering::SeqCst);
    pair.peer.keep_connected();
    eventually("it is turned away", || pair.server.counters().connections_refused > 0).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let tries = pair.server.counters().connections_refused;
    assert!((2..=6).contains(&tries), "{tries} tries in two seconds");
}

#[tokio::test]
async fn a_kept_peer_lets_go_when_nobody_has_it() {
    let pair = Pair::new();
    let extra = peer(&pair.client, pair.server.local_addr(), "onprem");
    extra.keep_connected();
    eventually("it connects", || pair.server.counters().connections_accepted == 1).await;
    drop(extra);
    // The connection is looked after every `SUSPICION`.
    tokio::time::sleep(2 * SUSPICION).await;
    let open = pair.client.open_connections();
    assert_eq!(open, 0, "{open} connections are open");
}
