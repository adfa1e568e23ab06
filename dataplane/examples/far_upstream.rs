//! Reads files through a node's and a site's hop from an origin behind a link with a round trip and a rate, all
//! in one process, and prints each speed as a multiple of the link's.
//!
//! `cargo run --release -p globalfs-dataplane --example far_upstream -- [MIB] [RTT_MS] [MBIT_PER_S] [SPANS]`
#![allow(clippy::unwrap_used, reason = "a measurement fails by panicking")]

use async_trait::async_trait;
use bytes::Bytes;
use globalfs_dataplane::cache::{self, Cache};
use globalfs_dataplane::disk::{self, Preference};
use globalfs_dataplane::encoding::{self, Encoder, Link};
use globalfs_dataplane::fetch::{self, Cached};
use globalfs_dataplane::origin::{self, Origin};
use globalfs_dataplane::source::HashStream;
use globalfs_dataplane::{Chunk, ChunkStream, Deadline, Listing, Source};
use globalfs_proto::limits::CHUNK_SIZE;
use globalfs_proto::{Attr, ChunkIndex, ChunkSpan, FsResult, FsStat, GlobalPath, SiteName, Version};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Chunks that a stream holds.
const STREAM_CHUNKS: usize = 64;

/// Bytes of a chunk's header and of the packets around it, in percent of its payload.
const OVERHEAD_PERCENT: u64 = 5;

/// The part of a round trip's bytes that a stream which is broken off wastes: it is one of several.
const WASTED_SHARE: u64 = 8;

/// Another source, a round trip away.
struct Far {
    upstream: Arc<dyn Source>,
    round_trip: Duration,
    bytes_per_s: f64,
    /// When the link is free.
    free: Arc<Mutex<Instant>>,
}

impl Far {
    async fn ask(&self) {
        tokio::time::sleep(self.round_trip).await;
    }

    /// When `bytes` that are ready now have arrived.
    fn arrival(free: &Mutex<Instant>, bytes: u64, bytes_per_s: f64) -> Instant {
        let mut free = free.lock().unwrap();
        let begin = free.max(Instant::now());
        *free = begin + Duration::from_secs_f64(bytes as f64 / bytes_per_s);
        *free
    }
}

#[async_trait]
impl Source for Far {
    async fn stat(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Attr> {
        self.ask().await;
        self.upstream.stat(path, deadline).await
    }

    async fn list(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Listing> {
        self.ask().await;
        self.upstream.list(path, deadline).await
    }

    async fn read_link(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Bytes> {
        self.ask().await;
        self.upstream.read_link(path, deadline).await
    }

    async fn get_xattr(&self, path: &GlobalPath, name: &[u8], deadline: Deadline) -> FsResult<Bytes> {
        self.ask().await;
        self.upstream.get_xattr(path, name, deadline).await
    }

    async fn list_xattr(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Bytes> {
        self.ask().await;
        self.upstream.list_xattr(path, deadline).await
    }

    async fn fs_stat(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<FsStat> {
        self.ask().await;
        self.upstream.fs_stat(path, deadline).await
    }

    async fn read(
        &self,
        path: &GlobalPath,
        version: Version,
        span: ChunkSpan,
        deadline: Deadline,
    ) -> FsResult<ChunkStream> {
        let (sender, stream) = mpsc::channel(STREAM_CHUNKS);
        let (upstream, path, round_trip) = (self.upstream.clone(), path.clone(), self.round_trip);
        let (free, bytes_per_s) = (self.free.clone(), self.bytes_per_s);
        tokio::spawn(async move {
            tokio::time::sleep(round_trip).await;
            let mut chunks = upstream.read(&path, version, span, deadline).await.unwrap();
            let mut encoder = Encoder::new(Link::Wan);
            while let Some(chunk) = chunks.recv().await {
                let encoded = encoder.encode(&chunk.unwrap());
                let bytes = encoded.payload.len() as u64 * (100 + OVERHEAD_PERCENT) / 100 + 100;
                tokio::time::sleep_until(Far::arrival(&free, bytes, bytes_per_s).into()).await;
                if sender.send(encoding::decode(&encoded.header, encoded.payload)).await.is_err() {
                    // What was sent before the sender could hear of it still takes its time on the link.
                    let sent = chunks.len() as u64 * bytes;
                    let window = (round_trip.as_secs_f64() * bytes_per_s) as u64 / WASTED_SHARE;
                    Far::arrival(&free, sent.min(window), bytes_per_s);
                    return;
                }
            }
        });
        Ok(stream)
    }

    async fn hashes(
        &self,
        path: &GlobalPath,
        version: Version,
        span: ChunkSpan,
        deadline: Deadline,
    ) -> FsResult<HashStream> {
        let (sender, stream) = mpsc::channel(STREAM_CHUNKS);
        let (upstream, path, round_trip) = (self.upstream.clone(), path.clone(), self.round_trip);
        let (free, bytes_per_s) = (self.free.clone(), self.bytes_per_s);
        tokio::spawn(async move {
            tokio::time::sleep(round_trip).await;
            let mut told = upstream.hashes(&path, version, span, deadline).await.unwrap();
            while let Some(hashes) = told.recv().await {
                let bytes = 100 + hashes.as_ref().map_or(0, |hashes| 32 * hashes.hashes.len() as u64);
                tokio::time::sleep_until(Far::arrival(&free, bytes, bytes_per_s).into()).await;
                if sender.send(hashes).await.is_err() {
                    return;
                }
            }
        });
        Ok(stream)
    }
}

fn noise(seed: u64) -> Vec<u8> {
    let mut chunk = vec![0; CHUNK_SIZE as usize];
    SmallRng::seed_from_u64(seed).fill_bytes(&mut chunk);
    chunk
}

/// Of five chunks one is new, at a place that varies; the others lie seven chunks further on.
fn revised(n: u64, chunks: u64) -> Vec<u8> {
    if n % 5 == (n / 5 * 7 + 3) % 5 { noise(1 << 32 | n) } else { noise((n + 7) % chunks) }
}

fn text(n: u64) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "the ",
        "of ",
        "temperature ",
        "pressure\n",
        "and ",
        "step ",
        "residual ",
        "0.125 ",
        "grid ",
        "in ",
        "simulation ",
        "node\n",
        "error ",
        "mean ",
        "wall ",
        "a ",
    ];
    let mut random = SmallRng::seed_from_u64(n);
    let words = std::iter::repeat_with(|| WORDS[random.next_u32() as usize % WORDS.len()].bytes());
    words.flatten().take(CHUNK_SIZE as usize).collect()
}

fn field(n: u64) -> Vec<u8> {
    let mut random = SmallRng::seed_from_u64(n);
    let number = |k: u64| {
        let (x, y) = ((k % 128) as f64 / 128.0, (k / 128) as f64 / 128.0);
        let smooth = (5.0 * x + n as f64 / 99.0).sin() * (4.0 * y).cos();
        280.0 + 15.0 * (smooth + 1e-6 * (random.next_u32() as f64 / f64::from(u32::MAX) - 0.5))
    };
    (0..CHUNK_SIZE / 8).map(number).flat_map(f64::to_le_bytes).collect()
}

fn write(dir: &Path, name: &str, chunks: u64, chunk: impl Fn(u64) -> Vec<u8>) {
    let data: Vec<u8> = (0..chunks).flat_map(chunk).collect();
    std::fs::write(dir.join(name), data).unwrap();
}

fn hop(upstream: Arc<dyn Source>, dir: &Path) -> Cached {
    let options = cache::Options { dir: dir.to_owned(), quota_bytes: 4 << 30 };
    let cache = Cache::open(options, disk::open(Preference::Auto).unwrap()).unwrap();
    Cached::new(upstream, cache, fetch::Options::default())
}

/// Reads a file as a mount with a read-ahead would: many spans of 1 MiB under way at a time.
async fn read(node: &Cached, name: &str, streams: u64) -> f64 {
    let path = GlobalPath::new(format!("/{name}").as_bytes()).unwrap();
    let deadline = Deadline::after(Duration::from_secs(60));
    let attr = node.stat(&path, deadline).await.unwrap();
    let begun = Instant::now();
    let count = attr.size.div_ceil(CHUNK_SIZE);
    let mut spans = tokio::task::JoinSet::new();
    for first in (0..count).step_by(8) {
        if spans.len() as u64 == streams {
            spans.join_next().await.unwrap().unwrap();
        }
        let (node, path) = (node.clone(), path.clone());
        spans.spawn(async move {
            let span = ChunkSpan { first: ChunkIndex(first), count: 8.min(count - first) };
            let mut stream = node.read(&path, attr.version(), span, deadline).await.unwrap();
            while let Some(chunk) = stream.recv().await {
                let _: Chunk = chunk.unwrap();
            }
        });
    }
    while let Some(done) = spans.join_next().await {
        done.unwrap();
    }
    attr.size as f64 / begun.elapsed().as_secs_f64()
}

/// CPU time of this process, to a hundredth of a second.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let ticks = stat.rsplit(')').next().unwrap().split_whitespace().skip(11).take(2);
    Duration::from_millis(10 * ticks.map(|ticks| ticks.parse::<u64>().unwrap()).sum::<u64>())
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>().unwrap());
    let mut next = |default| arguments.next().unwrap_or(default);
    let (mib, rtt_ms, mbit_per_s, spans) = (next(128), next(40), next(1000), next(12));
    let scratch = tempfile::tempdir().unwrap();
    let dir = |name: &str| scratch.path().join(name);
    std::fs::create_dir(dir("origin")).unwrap();
    let chunks = mib * 8;
    write(&dir("origin"), "noise", chunks, noise);
    write(&dir("origin"), "revised", chunks, |n| revised(n, chunks));
    write(&dir("origin"), "copy", chunks, noise);
    write(&dir("origin"), "strangers", chunks, |n| noise(2 << 32 | n));
    write(&dir("origin"), "text", chunks, text);
    write(&dir("origin"), "field", chunks, field);
    let disk = disk::open(Preference::Auto).unwrap();
    let site = SiteName::new("onprem").unwrap();
    let origin = Origin::open(&dir("origin"), &site, disk, origin::Options::default()).unwrap();
    let bytes_per_s = mbit_per_s as f64 * 125_000.0;
    let free = Arc::new(Mutex::new(Instant::now()));
    let round_trip = Duration::from_millis(rtt_ms);
    let far = Far { upstream: Arc::new(origin), round_trip, bytes_per_s, free };
    let site = hop(Arc::new(far), &dir("site"));
    let node = hop(Arc::new(site.clone()), &dir("node"));
    println!("{mib} MiB each, {rtt_ms} ms, {mbit_per_s} Mbit/s, {spans} MiB asked for at a time");
    for name in ["noise", "strangers", "revised", "copy", "text", "field"] {
        let (cpu_before, before) = (cpu(), site.counters());
        let speed = read(&node, name, spans).await;
        let fetched = site.counters().bytes_fetched - before.bytes_fetched;
        let cpu_s = (cpu() - cpu_before).as_secs_f64();
        println!(
            "{name:10} {:6.0} MB/s  {:5.2} x the link  {:4} MiB fetched over it  {cpu_s:5.2} s of CPU",
            speed / 1e6,
            speed / bytes_per_s,
            fetched >> 20,
        );
    }
}
