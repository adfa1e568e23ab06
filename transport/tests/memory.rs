//! Memory stays bounded while many large answers are under way. A program of its own, as it measures
//! the whole process: server and client together.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::*;
use globalfs_proto::Response;
use globalfs_proto::limits::CHUNK_SIZE;
use std::time::Duration;

const MIB: usize = 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_parallel_reads_of_four_mebibytes() {
    let pair = Pair::new();
    let before = peak_bytes();
    let readers: Vec<_> = (0..64)
        .map(|_| {
            let peer = pair.peer.clone();
            tokio::spawn(async move {
                let budget = Duration::from_secs(120);
                let mut answer = peer.request(&read_request("/f", 32), budget).await.unwrap();
                let mut received = 0;
                while let Some(Response::Chunk(header)) = answer.next().await.unwrap() {
                    assert_eq!(answer.payload(header.wire_length).await.unwrap(), pattern(header.index.0).1);
                    received += u64::from(header.length);
                }
                received
            })
        })
        .collect();
    for reader in readers {
        assert_eq!(reader.await.unwrap(), 32 * CHUNK_SIZE);
    }
    let grown = peak_bytes() - before;
    eprintln!("256 MiB in 64 streams: at most {} MiB more memory", grown / MIB);
    assert!(grown < 160 * MIB, "grew by {} MiB", grown / MIB);
}

/// The most memory that this process ever had.
fn peak_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}
