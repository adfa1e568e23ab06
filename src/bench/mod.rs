//! What `globalfs bench fetch` measures: how soon the first byte of a file arrives and how fast the rest,
//! what moved for it on each leg, and the bounds of this machine beside it.
//!
//! Reads go through the client library over real QUIC, without a mount and without a cache of the node's own.
//!
//! *Invariant:* every figure is measured in the run that prints it; what was not measured is `None`.

mod bound;
mod cluster;
mod dataset;
mod load;
mod meter;
mod running;
mod session;

use hdrhistogram::Histogram;
use load::Pass;
use meter::Moved;
use serde::Serialize;
use std::time::Duration;

pub(crate) use cluster::LocalPlan;
pub(crate) use running::RunningPlan;

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// What was read, and what "cold" means here.
    pub(crate) about: String,
    /// What this machine does at best.
    pub(crate) bounds: Bounds,
    /// One entry for each size, number of readers and state of the site's cache.
    pub(crate) passes: Vec<PassReport>,
    /// What different kinds of data cost on the wire.
    pub(crate) ratios: Vec<Ratio>,
}

/// What limits any figure above, measured just before it.
#[derive(Debug, Serialize)]
pub(crate) struct Bounds {
    /// One plain TCP stream over loopback.
    pub(crate) tcp_loopback_bytes_per_s: f64,
    /// BLAKE3 on one core, chunk by chunk.
    pub(crate) blake3_bytes_per_s: f64,
    /// An empty request to the daemon and its answer.
    pub(crate) round_trip_us: Percentiles,
}

/// Whether the site's cache had the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// Not read before.
    Cold,
    /// Read just before.
    Warm,
}

/// One way of reading.
#[derive(Debug, Serialize)]
pub(crate) struct PassReport {
    /// The size of each file; `None` when they differ.
    pub(crate) size_bytes: Option<u64>,
    /// Files that are read at a time.
    pub(crate) concurrency: usize,
    /// Whether the site's cache had the files.
    pub(crate) state: State,
    /// Files that were read.
    pub(crate) reads: u64,
    /// Their bytes.
    pub(crate) bytes_read: u64,
    /// How long all of it took.
    pub(crate) seconds: f64,
    /// `bytes_read / seconds`.
    pub(crate) bytes_per_s: f64,
    /// The same in parts of [`Bounds::tcp_loopback_bytes_per_s`].
    pub(crate) of_tcp_loopback: f64,
    /// From before the open to the first verified chunk.
    pub(crate) first_byte_us: Percentiles,
    /// From before the open to the last verified chunk.
    pub(crate) whole_file_us: Percentiles,
    /// Bytes that the node received on its streams.
    pub(crate) node_wire_bytes: u64,
    /// Bytes that the site received from other sites; `None` where its metrics were not given.
    pub(crate) site_wire_bytes: Option<u64>,
}

/// Microseconds below which that part of the samples lies.
#[derive(Debug, Serialize)]
pub(crate) struct Percentiles {
    /// One half.
    pub(crate) p50: u64,
    /// Nine tenths.
    pub(crate) p90: u64,
    /// 99 in 100.
    pub(crate) p99: u64,
    /// All.
    pub(crate) max: u64,
}

/// What became of one kind of data on the wire.
#[derive(Debug, Serialize)]
pub(crate) struct Ratio {
    /// Which data.
    pub(crate) data: String,
    /// Where it was measured: between sites, or between site and node.
    pub(crate) leg: &'static str,
    /// Files that were read.
    pub(crate) files: u64,
    /// Their bytes.
    pub(crate) bytes_read: u64,
    /// Their bytes without what is the same in several; `None` when nobody looked.
    pub(crate) distinct_bytes: Option<u64>,
    /// Bytes of chunks that were transferred, decompressed.
    pub(crate) fetched_bytes: u64,
    /// Bytes that travelled for them, frames included.
    pub(crate) wire_bytes: u64,
    /// `fetched_bytes / wire_bytes`.
    pub(crate) compression: f64,
    /// `bytes_read / fetched_bytes` of files not read before; at best `bytes_read / distinct_bytes`.
    pub(crate) dedup: Option<f64>,
}

impl PassReport {
    fn new(
        (size_bytes, concurrency, state): (Option<u64>, usize, State),
        pass: &Pass,
        moved: Moved,
        bounds: &Bounds,
    ) -> Self {
        let bytes_per_s = rate(pass.bytes, pass.elapsed);
        Self {
            size_bytes,
            concurrency,
            state,
            reads: pass.reads,
            bytes_read: pass.bytes,
            seconds: pass.elapsed.as_secs_f64(),
            bytes_per_s,
            of_tcp_loopback: bytes_per_s / bounds.tcp_loopback_bytes_per_s,
            first_byte_us: Percentiles::of(&pass.first_byte_us),
            whole_file_us: Percentiles::of(&pass.whole_file_us),
            node_wire_bytes: moved.node_wire,
            site_wire_bytes: moved.site.map(|site| site.wire),
        }
    }
}

impl Percentiles {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), max: histogram.max() }
    }
}

fn rate(bytes: u64, elapsed: Duration) -> f64 {
    bytes as f64 / elapsed.as_secs_f64().max(1e-9)
}

/// `above / below`, 0 when nothing is below.
fn ratio(above: u64, below: u64) -> f64 {
    if below == 0 { 0.0 } else { above as f64 / below as f64 }
}
