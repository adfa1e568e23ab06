//! What this machine does at best, measured in the same run: one plain TCP stream, the hash, a round trip.

use super::load::{histogram, record};
use super::{Bounds, Percentiles, rate};
use anyhow::{Context, Result};
use globalfs_dataplane::remote::Remote;
use globalfs_dataplane::{Deadline, encoding};
use globalfs_proto::limits::{CHUNK_SIZE, DEFAULT_DEADLINE};
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

/// Bytes of the plain stream: a tenth of a second on a fast machine.
const STREAM_BYTES: u64 = 256 * 1024 * 1024;

/// Chunks that are hashed.
const HASHED_CHUNKS: u64 = 1024;

/// Empty requests.
const PINGS: usize = 50;

/// Measures all bounds; takes about a second.
pub(super) async fn measure(remote: &Remote) -> Result<Bounds> {
    let local = || Ok::<_, io::Error>((stream_over_loopback()?, hash_chunks()));
    let measured = tokio::task::spawn_blocking(local).await?;
    let (tcp_loopback_bytes_per_s, blake3_bytes_per_s) = measured.context("cannot measure the loopback")?;
    let round_trip_us = measure_round_trip(remote).await.context("the site's daemon does not answer")?;
    Ok(Bounds { tcp_loopback_bytes_per_s, blake3_bytes_per_s, round_trip_us })
}

async fn measure_round_trip(remote: &Remote) -> Result<Percentiles> {
    // The first one makes the connection.
    remote.ping(Deadline::after(DEFAULT_DEADLINE)).await?;
    let mut times = histogram();
    for _ in 0..PINGS {
        let started = Instant::now();
        remote.ping(Deadline::after(DEFAULT_DEADLINE)).await?;
        record(&mut times, started.elapsed());
    }
    Ok(Percentiles::of(&times))
}

/// Bytes a second of one TCP stream, a chunk in each call.
fn stream_over_loopback() -> io::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut receiver = TcpStream::connect(listener.local_addr()?)?;
    let (mut sender, _) = listener.accept()?;
    let started = Instant::now();
    let sending = std::thread::spawn(move || {
        let chunk = vec![1; CHUNK_SIZE as usize];
        (0..STREAM_BYTES / CHUNK_SIZE).try_for_each(|_| sender.write_all(&chunk))
    });
    let mut buffer = vec![0; CHUNK_SIZE as usize];
    let mut received = 0;
    loop {
        match receiver.read(&mut buffer)? {
            0 => break,
            n => received += n as u64,
        }
    }
    sending.join().map_err(|_| io::Error::other("the sender ended early"))??;
    Ok(rate(received, started.elapsed()))
}

fn hash_chunks() -> f64 {
    let chunk = vec![1; CHUNK_SIZE as usize];
    let started = Instant::now();
    for _ in 0..HASHED_CHUNKS {
        black_box(encoding::hash(black_box(&chunk)));
    }
    rate(HASHED_CHUNKS * CHUNK_SIZE, started.elapsed())
}
