//! Requests and answers between two healthy daemons.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use bytes::Bytes;
use common::*;
use globalfs_proto::limits::CHUNK_SIZE;
use globalfs_proto::{FsError, GlobalPath, Request, Response};
use globalfs_transport::options;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

#[tokio::test]
async fn each_kind_of_request_arrives_as_it_was_sent() {
    let pair = Pair::new();
    let odd = GlobalPath::new(b"/a\n/\xff").unwrap();
    for request in [
        Request::Stat(odd.clone()),
        Request::List { path: GlobalPath::root(), below: 3, subscription: 4 },
        Request::ReadLink(odd.clone()),
        Request::GetXattr(odd.clone(), Bytes::from_static(b"user.x")),
        Request::ListXattr(odd.clone()),
        Request::FsStat(odd),
        Request::Ping,
    ] {
        assert_eq!(echo(&pair.peer, &request, BUDGET).await.unwrap(), format!("{request:?}"));
    }
    assert_eq!(pair.peer.counters().connections_opened, 1, "all requests share a connection");
}

#[tokio::test]
async fn chunks_arrive_whole_and_are_counted() {
    for pair in Pair::both().await {
        check_chunks(pair).await;
    }
}

async fn check_chunks(pair: Pair) {
    let served = pair.server.counters().requests_served;
    let mut answer = pair.peer.request(&read_request("/f", 32), BUDGET).await.unwrap();
    for index in 3..35 {
        let (header, payload) = pattern(index);
        assert_eq!(answer.next().await.unwrap(), Some(Response::Chunk(header)));
        assert_eq!(answer.payload(header.wire_length).await.unwrap(), payload);
    }
    assert_eq!(answer.next().await.unwrap(), None);
    let (ours, theirs) = (pair.peer.counters(), pair.server.counters());
    assert!(ours.bytes_received > 32 * CHUNK_SIZE && ours.bytes_received < 36 * CHUNK_SIZE);
    assert_eq!((ours.bytes_received, ours.bytes_sent), (theirs.bytes_sent, theirs.bytes_received));
    assert_eq!(ours.bytes_received, pair.client.counters().bytes_received);
    assert_eq!(ours.connections_opened, 1);
    eventually("the server notices the end", || pair.server.counters().requests_served == served + 1).await;
}

#[tokio::test]
async fn errors_of_the_handler_reach_the_caller() {
    let pair = Pair::new();
    let ask = async |name| pair.peer.request(&Request::Stat(path(name)), BUDGET).await.err();
    assert_eq!(ask("/fails").await, Some(FsError::NOT_FOUND));
    assert!(matches!(ask("/huge").await, Some(FsError::Limit(_))), "a frame has a limit");
    assert!(echo(&pair.peer, &Request::Ping, BUDGET).await.is_ok(), "and the connection lives on");
}

#[tokio::test]
async fn a_deadline_ends_the_wait_on_both_sides() {
    let pair = Pair::new();
    echo(&pair.peer, &Request::Ping, BUDGET).await.unwrap();
    let begun = Instant::now();
    let budget = Duration::from_millis(300);
    let answer = pair.peer.request(&Request::Stat(path("/never")), budget).await;
    assert_eq!(answer.err(), Some(FsError::Deadline));
    // The server's clock starts later but counts whole milliseconds, so it may be the first to say so.
    assert!(begun.elapsed() > budget / 2 && begun.elapsed() < Duration::from_secs(3));
    eventually("the handler ends", || pair.handler.cancelled.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn a_deadline_ends_an_answer_that_has_begun() {
    for pair in Pair::both().await {
        let budget = Duration::from_millis(900);
        let mut answer = pair.peer.request(&read_request("/part", 3), budget).await.unwrap();
        let Some(Response::Chunk(header)) = answer.next().await.unwrap() else { panic!("no chunk") };
        answer.payload(header.wire_length).await.unwrap();
        assert_eq!(answer.next().await, Err(FsError::Deadline));
        eventually("the handler ends", || pair.handler.cancelled.load(Ordering::SeqCst) == 1).await;
        assert_eq!(read_whole(&pair.peer, "/f", 32).await, Ok(32), "the next one has its time");
    }
}

#[tokio::test]
async fn dropping_an_answer_cancels_its_handler() {
    for pair in Pair::both().await {
        check_dropping(pair).await;
    }
}

async fn check_dropping(pair: Pair) {
    let answer = pair.peer.request(&read_request("/part", 3), BUDGET).await.unwrap();
    assert_eq!(pair.handler.cancelled.load(Ordering::SeqCst), 0);
    drop(answer);
    eventually("the handler ends", || pair.handler.cancelled.load(Ordering::SeqCst) == 1).await;
    let never = Request::Stat(path("/never"));
    let waiting = pair.peer.request(&never, BUDGET);
    assert!(tokio::time::timeout(Duration::from_millis(300), waiting).await.is_err());
    eventually("the handler ends", || pair.handler.cancelled.load(Ordering::SeqCst) == 2).await;
    assert!(echo(&pair.peer, &Request::Ping, BUDGET).await.is_ok());
    assert_eq!(pair.peer.counters().connections_opened, 1);
}

#[tokio::test]
async fn a_reader_that_does_not_read_stops_the_sender() {
    let pair = Pair::with(false);
    let mut answers = Vec::new();
    for _ in 0..16 {
        answers.push(pair.peer.request(&read_request("/f", 32), BUDGET).await.unwrap());
        answers.push(pair.peer.request(&read_request("/f", 32), BUDGET).await.unwrap());
    }
    // A stream's window is just too small for 32 chunks with their headers.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let sent = pair.handler.sent.load(Ordering::SeqCst);
    assert!(sent <= 32 * options::STREAM_WINDOW as usize - 32 * CHUNK_SIZE as usize, "{sent} bytes");
    assert!(echo(&pair.peer, &Request::Ping, BUDGET).await.is_ok(), "other requests go on");
}

#[tokio::test]
async fn a_site_serves_and_asks_on_one_socket() {
    let pair = Pair::new();
    let back = std::sync::Arc::new(Scripted::default());
    common::serve(&pair.client, back, &pair.stop);
    let ca = &pair.ca;
    let other = endpoint(ca.identity(&site("cloud")));
    let peer_of_client = peer(&other, pair.client.local_addr(), "cloud");
    assert!(echo(&pair.peer, &Request::Ping, BUDGET).await.is_ok());
    assert!(echo(&peer_of_client, &Request::Ping, BUDGET).await.is_ok());
}

#[tokio::test]
async fn serving_ends_when_it_is_told_to() {
    let pair = Pair::new();
    echo(&pair.peer, &Request::Ping, BUDGET).await.unwrap();
    let peer = pair.peer.clone();
    let waiting =
        tokio::spawn(async move { peer.request(&Request::Stat(path("/never")), BUDGET).await.err() });
    eventually("the request arrives", || pair.server.counters().bytes_received > 20).await;
    let begun = Instant::now();
    pair.stop.cancel();
    pair.serving.await.unwrap();
    assert!(begun.elapsed() < options::GRACE + Duration::from_secs(2));
    let error = waiting.await.unwrap();
    assert!(matches!(error, Some(FsError::Unreachable(_))), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_at_once_share_one_connection() {
    let pair = Pair::new();
    let tasks: Vec<_> = (0..400)
        .map(|n| {
            let peer = pair.peer.clone();
            tokio::spawn(async move {
                let request = Request::Stat(path(&format!("/{n}")));
                assert_eq!(echo(&peer, &request, BUDGET).await.unwrap(), format!("{request:?}"));
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(pair.peer.counters().connections_opened, 1);
    assert_eq!(pair.peer.counters().requests_failed, 0);
}
