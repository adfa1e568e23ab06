//! `globalfs bench fetch`: how fast files come, and what moves for them.

use super::output::{self, Output};
use crate::bench::{LocalPlan, PassReport, Percentiles, Ratio, Report, RunningPlan, State};
use crate::cli::daemon::cancel_on_signal;
use crate::config::ByteSize;
use crate::telemetry::{self, Component};
use anyhow::{Context, Result, bail};
use globalfs_proto::GlobalPath;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;

/// Files that may be read at a time: what one connection of the protocol has room for.
const MAX_CONCURRENCY: i64 = 256;

const EXAMPLES: &str = "\
Examples:
  globalfs bench fetch
  globalfs bench fetch --sizes 4KiB,1MiB --concurrency 1,8 --rounds 3 --json
  globalfs bench fetch --config /etc/globalfs/globalfs.yaml --path /datasets/x --site-metrics 10.0.0.5:9441

Without --config it starts two sites of its own on this machine, makes files at one and reads them at the
other, and removes everything at the end.";

/// Subcommands of `globalfs bench`.
#[derive(Debug, clap::Subcommand)]
pub enum BenchCommand {
    /// Measure first-byte latency, throughput and bytes moved when files are read through a site
    #[command(after_help = EXAMPLES)]
    Fetch(Fetch),
}

/// Arguments of `globalfs bench fetch`.
#[derive(Debug, clap::Args)]
pub struct Fetch {
    /// Measure a running site, as the registered node of this configuration
    #[arg(long, value_name = "FILE", requires = "path", conflicts_with_all = ["local", "sizes", "dir"])]
    config: Option<PathBuf>,
    /// Measure two sites of its own on this machine; so it is without --config
    #[arg(long)]
    local: bool,
    /// The file to read, or the directory whose files to read, at the running site
    #[arg(long, requires = "config", value_parser = parse_path)]
    path: Option<GlobalPath>,
    /// Most bytes to read of PATH in one go
    #[arg(long, value_name = "SIZE", requires = "config", default_value = "1GiB")]
    limit: ByteSize,
    /// Where the running site's daemon serves /metrics, to tell what came from other sites
    #[arg(long, value_name = "IP:PORT", requires = "config")]
    site_metrics: Option<SocketAddr>,
    /// Sizes of the files to make
    #[arg(long, value_name = "SIZE,...", value_delimiter = ',', default_value = "4KiB,1MiB,64MiB", value_parser = parse_size)]
    sizes: Vec<ByteSize>,
    /// How many files to read at a time
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1,4,16",
          value_parser = clap::value_parser!(u16).range(1..=MAX_CONCURRENCY))]
    concurrency: Vec<u16>,
    /// Sets of fresh files for each size; of a running site, how often the warm passes are repeated
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Where the two sites keep their files meanwhile; by default the directory for temporary files
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl BenchCommand {
    /// Carries the command out.
    pub fn run(self) -> Result<()> {
        match self {
            Self::Fetch(fetch) => fetch.run(),
        }
    }
}

impl Fetch {
    fn run(self) -> Result<()> {
        telemetry::init(Component::Command, None).context("cannot set up logging")?;
        let output = Output::new(self.json);
        let runtime = Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
        let report = runtime.block_on(async {
            let stop = CancellationToken::new();
            tokio::spawn(cancel_on_signal(stop.clone())?);
            match stop.run_until_cancelled(self.measure()).await {
                Some(report) => report,
                None => bail!("interrupted"),
            }
        })?;
        output.json(&report)?;
        Ok(print(output, &report)?)
    }

    async fn measure(self) -> Result<Report> {
        let concurrency = self.concurrency.iter().map(|n| usize::from(*n)).collect();
        let rounds = self.rounds.into();
        match (self.config, self.path) {
            (Some(config), Some(path)) => {
                let (limit_bytes, site_metrics) = (self.limit.0, self.site_metrics);
                RunningPlan { config, path, limit_bytes, concurrency, rounds, site_metrics }.run().await
            }
            _ => {
                let sizes = self.sizes.iter().map(|size| size.0).collect();
                let dir = self.dir.unwrap_or_else(std::env::temp_dir);
                LocalPlan { sizes, concurrency, rounds, dir }.run().await
            }
        }
    }
}

fn parse_path(text: &str) -> Result<GlobalPath, String> {
    GlobalPath::parse(text.as_bytes()).map_err(|error| error.to_string())
}

fn parse_size(text: &str) -> Result<ByteSize, String> {
    match text.parse()? {
        ByteSize(0) => Err("a file without bytes has no first byte".to_owned()),
        size => Ok(size),
    }
}

fn print(output: Output, report: &Report) -> std::io::Result<()> {
    output.line(format_args!("{}\n", report.about))?;
    let head = [
        "SIZE",
        "READERS",
        "CACHE",
        "FILES",
        "FIRST BYTE",
        "P90",
        "P99",
        "MAX",
        "PER SECOND",
        "OF TCP",
        "NODE WIRE",
        "SITE WIRE",
    ];
    output.table(head, report.passes.iter().map(pass_row).collect())?;
    output.line("")?;
    let head = ["DATA", "LEG", "READ", "DISTINCT", "FETCHED", "ON THE WIRE", "COMPRESSION", "DEDUP"];
    output.table(head, report.ratios.iter().map(ratio_row).collect())?;
    let bounds = &report.bounds;
    output.line(format_args!(
        "\nFIRST BYTE is the median of open and first chunk, P90 to MAX the slower ones; NODE WIRE and SITE \
         WIRE are bytes on the wire for each byte read.\nBounds of this machine, just measured: one TCP \
         stream over loopback {}/s, BLAKE3 on one core {}/s, round trip to the daemon {} (p99 {}).",
        output::bytes(bounds.tcp_loopback_bytes_per_s as u64),
        output::bytes(bounds.blake3_bytes_per_s as u64),
        time(bounds.round_trip_us.p50),
        time(bounds.round_trip_us.p99),
    ))
}

fn pass_row(pass: &PassReport) -> [String; 12] {
    let part = |wire: u64| format!("{:.3}", wire as f64 / pass.bytes_read.max(1) as f64);
    let Percentiles { p50, p90, p99, max } = pass.first_byte_us;
    [
        pass.size_bytes.map_or("mixed".into(), output::bytes),
        pass.concurrency.to_string(),
        if pass.state == State::Cold { "cold" } else { "warm" }.into(),
        pass.reads.to_string(),
        time(p50),
        time(p90),
        time(p99),
        time(max),
        output::bytes(pass.bytes_per_s as u64),
        format!("{:.3}", pass.of_tcp_loopback),
        part(pass.node_wire_bytes),
        pass.site_wire_bytes.map_or("-".into(), part),
    ]
}

fn ratio_row(ratio: &Ratio) -> [String; 8] {
    [
        ratio.data.clone(),
        ratio.leg.to_owned(),
        output::bytes(ratio.bytes_read),
        ratio.distinct_bytes.map_or("-".into(), output::bytes),
        output::bytes(ratio.fetched_bytes),
        output::bytes(ratio.wire_bytes),
        format!("{:.2}", ratio.compression),
        ratio.dedup.map_or("-".into(), |dedup| format!("{dedup:.2}")),
    ]
}

fn time(us: u64) -> String {
    output::duration(Duration::from_micros(us))
}
