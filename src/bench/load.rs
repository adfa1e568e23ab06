//! Readers that go through a list of files, a given number at a time, and what they saw.

use crate::Client;
use crate::cli::progress::Progress;
use anyhow::{Context, Result, ensure};
use globalfs_proto::GlobalPath;
use hdrhistogram::Histogram;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Digits of a measured time that are kept.
const DIGITS: u8 = 3;

/// The longest time that a histogram tells from longer ones: more than any operation may take.
const LONGEST_US: u64 = 3_600_000_000;

/// What readers saw.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) reads: u64,
    pub(super) bytes: u64,
    pub(super) elapsed: Duration,
    pub(super) first_byte_us: Histogram<u64>,
    pub(super) whole_file_us: Histogram<u64>,
}

/// One file that was read.
struct Read {
    bytes: u64,
    first_byte: Duration,
    whole: Duration,
}

impl Pass {
    /// Nothing yet.
    pub(super) fn empty() -> Self {
        Self {
            reads: 0,
            bytes: 0,
            elapsed: Duration::ZERO,
            first_byte_us: histogram(),
            whole_file_us: histogram(),
        }
    }

    /// Reads each of `files` once, `concurrency` at a time, and adds what was seen.
    pub(super) async fn read(
        &mut self,
        client: &Client,
        files: Arc<[GlobalPath]>,
        concurrency: usize,
        progress: &mut Progress,
    ) -> Result<()> {
        let started = Instant::now();
        let (sender, mut done) = mpsc::channel(concurrency);
        let (next, mut readers) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
        for _ in 0..concurrency {
            readers.spawn(read_files(client.clone(), files.clone(), next.clone(), sender.clone()));
        }
        drop(sender);
        while let Some(read) = done.recv().await {
            let read = read?;
            progress.add(read.bytes);
            self.add(&read);
        }
        self.elapsed += started.elapsed();
        Ok(())
    }

    fn add(&mut self, read: &Read) {
        self.reads += 1;
        self.bytes += read.bytes;
        record(&mut self.first_byte_us, read.first_byte);
        record(&mut self.whole_file_us, read.whole);
    }
}

/// An empty histogram of times.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_US, DIGITS).expect("these bounds are valid")
}

/// Adds one time.
pub(super) fn record(histogram: &mut Histogram<u64>, time: Duration) {
    histogram.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
}

async fn read_files(
    client: Client,
    files: Arc<[GlobalPath]>,
    next: Arc<AtomicUsize>,
    done: mpsc::Sender<Result<Read>>,
) {
    while let Some(path) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
        let read = read_file(&client, path).await.with_context(|| format!("cannot read {path}"));
        let failed = read.is_err();
        if done.send(read).await.is_err() || failed {
            return;
        }
    }
}

async fn read_file(client: &Client, path: &GlobalPath) -> Result<Read> {
    let started = Instant::now();
    let file = client.open(path.as_bytes()).await?;
    let mut chunks = file.chunks().await?;
    let (mut bytes, mut first_byte) = (0, None);
    while let Some(chunk) = chunks.recv().await {
        bytes += chunk?.data.len() as u64;
        first_byte.get_or_insert_with(|| started.elapsed());
    }
    ensure!(bytes == file.attr().size, "{bytes} bytes came of {}", file.attr().size);
    let whole = started.elapsed();
    Ok(Read { bytes, first_byte: first_byte.unwrap_or(whole), whole })
}
