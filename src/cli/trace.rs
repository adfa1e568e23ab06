//! `globalfs trace`: records what a command reads, shows and removes what was recorded.

use super::daemon::block_on;
use super::output::{self, Output, complain};
use super::prefetch::connect;
use super::{CommandEnded, UsageError};
use crate::config::MountConfig;
use crate::trace::control::{Conversation, mark, socket_path};
use crate::trace::model::span_bytes;
use crate::trace::replay::fetch_trace;
use crate::trace::{MARK, Trace, stored};
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use globalfs_dataplane::Deadline;
use globalfs_fuse::our_mounts;
use globalfs_proto::{FsError, PutTrace, TraceName, TraceSummary};
use jiff::Timestamp;
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

/// What shells say of a command that cannot be run.
const NOT_RUN: u8 = 127;

/// What the shell adds to the number of a signal that ended a command.
const SIGNALLED: i32 = 128;

const HELP: &str = "\
A trace is what a job read of which files, in which order. The site keeps it, and the cluster's primary site
as well; 'globalfs prefetch --trace NAME' brings exactly that to a site. Mounts record batch jobs (Slurm, PBS,
LSF) by themselves as job/USER/JOBNAME, and replay them when the job runs again: 'traces:' in globalfs.yaml.

Examples:
  globalfs trace record --name train -- python3 train.py --epochs 1
  globalfs trace list
  globalfs trace show train
  globalfs prefetch --trace train                         at the next burst
  globalfs trace remove train";

const RECORD_HELP: &str = "\
Recorded is what COMMAND and all its children read below the mounts of this machine; COMMAND runs in the
foreground, and its exit status is this command's. Run it as the owner of the mount.

What the kernel had in its page cache is read without asking the mount. A file of up to 4 MiB that was opened
and never asked for is taken as read as a whole; parts of larger ones that were cached are missed. For a whole
trace record a first run, or mount anew before.

Examples:
  globalfs trace record -- tar c /globalfs/datasets/x | wc -c
  globalfs trace record --name nightly/train -- srun -n1 ./train.sh";

/// Subcommands of `globalfs trace`.
#[derive(Debug, clap::Subcommand)]
pub enum TraceCommand {
    /// Run a command and record what it reads
    #[command(after_help = RECORD_HELP)]
    Record(Record),
    /// List the traces that this node's site knows
    List(List),
    /// Show what a trace holds
    Show(Named),
    /// Remove a trace, at the site and at the primary
    Remove(Named),
}

/// Arguments of `globalfs trace`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP, arg_required_else_help = true)]
pub struct TraceArgs {
    #[command(subcommand)]
    command: TraceCommand,
}

/// Arguments of `globalfs trace record`.
#[derive(Debug, clap::Args)]
pub struct Record {
    /// The trace's name; an earlier one of the name is replaced. By default USER/COMMAND
    #[arg(long)]
    name: Option<TraceName>,
    /// The configuration of the mount to record at; by default every mount of this machine
    #[arg(long, value_name = "FILE", env = "GLOBALFS_CONFIG")]
    config: Option<PathBuf>,
    /// What to run
    #[arg(required = true, last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Arguments of `globalfs trace list`.
#[derive(Debug, clap::Args)]
pub struct List {
    #[command(flatten)]
    node: NodeArgs,
}

/// Arguments of `globalfs trace show` and `remove`.
#[derive(Debug, clap::Args)]
pub struct Named {
    /// The trace
    name: TraceName,
    #[command(flatten)]
    node: NodeArgs,
}

/// As whom the site is asked, and how it is printed.
#[derive(Debug, clap::Args)]
struct NodeArgs {
    /// The node's configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/globalfs/globalfs.yaml", env = "GLOBALFS_CONFIG")]
    config: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl TraceArgs {
    /// Carries the command out.
    pub fn run(self) -> Result<()> {
        match self.command {
            TraceCommand::Record(record) => block_on(record.run()),
            TraceCommand::List(list) => block_on(list.run()),
            TraceCommand::Show(named) => block_on(named.show()),
            TraceCommand::Remove(named) => block_on(named.remove()),
        }
    }
}

impl Record {
    async fn run(self) -> Result<()> {
        let name = self.trace_name()?;
        let run: u64 = rand::random();
        let recordings = self.begin(run).await?;
        let ended = run_command(&self.command, run).await?;
        let mut kept = Ok(());
        for (config, conversation) in recordings {
            kept = kept.and(keep(&config, conversation, &name).await);
        }
        match (ended.code(), ended.signal()) {
            (Some(0), _) => kept,
            (code, signal) => {
                kept.unwrap_or_else(|error| complain(format_args!("globalfs: {error:#}")));
                let code = code.unwrap_or(SIGNALLED + signal.unwrap_or(0));
                Err(CommandEnded(u8::try_from(code).unwrap_or(u8::MAX)).into())
            }
        }
    }

    fn trace_name(&self) -> Result<TraceName> {
        if let Some(name) = &self.name {
            return Ok(name.clone());
        }
        let command = self.command.first().map(Path::new).and_then(Path::file_name).unwrap_or_default();
        let user = std::env::var("USER").unwrap_or_else(|_| "root".to_owned());
        let text = format!("{user}/{}", command.to_string_lossy());
        TraceName::new(&text)
            .map_err(|error| UsageError::new(format_args!("{error}; choose a --name")).into())
    }

    /// Every mount that can record does.
    async fn begin(&self, run: u64) -> Result<Vec<(MountConfig, Conversation)>> {
        let configs = match &self.config {
            Some(config) => vec![config.clone()],
            None => our_mounts().into_iter().map(|(_, config)| config).collect(),
        };
        if configs.is_empty() {
            bail!("nothing is mounted on this machine; see 'globalfs mount --help'");
        }
        let mut begun = Vec::new();
        for file in configs {
            match begin_at(&file, run).await {
                Ok(recording) => begun.push(recording),
                Err(error) if self.config.is_some() => return Err(error),
                Err(error) => complain(format_args!("globalfs: warning: {error:#}")),
            }
        }
        if begun.is_empty() {
            bail!("no mount of this machine can record");
        }
        Ok(begun)
    }
}

async fn begin_at(file: &Path, run: u64) -> Result<(MountConfig, Conversation)> {
    let config = MountConfig::load(file)?;
    let socket = socket_path(&config.state_dir);
    let conversation = Conversation::begin(&socket, run).await;
    let shown =
        || format!("the mount of {} cannot be asked to record at {}", file.display(), socket.display());
    Ok((config, conversation.with_context(shown)?))
}

/// Signals of the terminal are the command's, which decides what they mean.
async fn run_command(command: &[OsString], run: u64) -> Result<ExitStatus> {
    use tokio::signal::unix::{SignalKind, signal};
    let _interrupts = signal(SignalKind::interrupt())?;
    let _quits = signal(SignalKind::quit())?;
    let mut child = tokio::process::Command::new(&command[0]);
    child.args(&command[1..]).env(MARK, mark(run));
    match child.spawn() {
        Ok(mut child) => Ok(child.wait().await?),
        Err(error) => {
            complain(format_args!("globalfs: cannot run {}: {error}", command[0].to_string_lossy()));
            Err(CommandEnded(NOT_RUN).into())
        }
    }
}

async fn keep(config: &MountConfig, conversation: Conversation, name: &TraceName) -> Result<()> {
    let packed: Bytes = conversation.finish().await.context("the recording is lost")?;
    let trace = stored::decode(&packed)?;
    let link = connect(config).await?;
    let put = PutTrace { name: name.clone(), replace: true, trace: packed };
    let put = link.remote().put_trace(put, Deadline::after(config.deadline)).await;
    link.close().await;
    put.with_context(|| format!("site {} does not keep the trace", config.site))?;
    let (files, bytes) = (trace.files.len(), output::bytes(trace.bytes()));
    let cut = if trace.truncated { ", cut off: more was read than a trace can hold" } else { "" };
    complain(format_args!("globalfs: trace {name}: {files} files, {bytes}{cut}"));
    Ok(())
}

#[derive(serde::Serialize)]
struct SummaryRecord {
    name: String,
    files: u32,
    bytes: u64,
    runs: u32,
    recorded_at: String,
}

impl SummaryRecord {
    fn of(summary: &TraceSummary) -> Self {
        let TraceSummary { files, bytes, runs, recorded_at_ns, .. } = *summary;
        let recorded_at = Timestamp::from_nanosecond(recorded_at_ns.into()).unwrap_or(Timestamp::UNIX_EPOCH);
        let recorded_at = format!("{recorded_at:.0}");
        Self { name: summary.name.to_string(), files, bytes, runs, recorded_at }
    }
}

#[derive(serde::Serialize)]
struct TraceRecord {
    #[serde(flatten)]
    summary: SummaryRecord,
    truncated: bool,
    reads: Vec<ReadRecord>,
}

/// A read of a trace, in bytes.
#[derive(serde::Serialize)]
struct ReadRecord {
    path: String,
    offset: u64,
    length: u64,
    size: u64,
    missed: u8,
}

impl TraceRecord {
    fn of(name: TraceName, trace: &Trace) -> Self {
        let read = |read: &crate::trace::TracedRead| {
            let file = &trace.files[read.file as usize];
            ReadRecord {
                path: file.path.to_string(),
                offset: read.span.first.0 * globalfs_proto::limits::CHUNK_SIZE,
                length: span_bytes(read.span, file.size),
                size: file.size,
                missed: read.missed,
            }
        };
        let summary = SummaryRecord::of(&trace.summary(name));
        Self { summary, truncated: trace.truncated, reads: trace.reads.iter().map(read).collect() }
    }
}

impl List {
    async fn run(self) -> Result<()> {
        let config = MountConfig::load(&self.node.config)?;
        let link = connect(&config).await?;
        let traces = link.remote().list_traces(Deadline::after(config.deadline)).await;
        link.close().await;
        let output = Output::new(self.node.json);
        let records: Vec<_> = traces?.iter().map(SummaryRecord::of).collect();
        output.json(&records)?;
        let row = |trace: &SummaryRecord| {
            let SummaryRecord { name, files, bytes, runs, recorded_at } = trace;
            [name.clone(), files.to_string(), output::bytes(*bytes), runs.to_string(), recorded_at.clone()]
        };
        let head = ["TRACE", "FILES", "BYTES", "RUNS", "RECORDED"];
        Ok(output.table(head, records.iter().map(row).collect())?)
    }
}

impl Named {
    async fn show(self) -> Result<()> {
        let config = MountConfig::load(&self.node.config)?;
        let link = connect(&config).await?;
        let trace = fetch_trace(&link.remote(), self.name.clone(), Deadline::after(config.deadline)).await;
        link.close().await;
        let record = TraceRecord::of(self.name.clone(), &trace.map_err(|error| missing(&self.name, error))?);
        let output = Output::new(self.node.json);
        output.json(&record)?;
        let row = |read: &ReadRecord| {
            [read.offset.to_string(), output::bytes(read.length), output::bytes(read.size), read.path.clone()]
        };
        Ok(output.table(["OFFSET", "LENGTH", "OF", "FILE"], record.reads.iter().map(row).collect())?)
    }

    async fn remove(self) -> Result<()> {
        let config = MountConfig::load(&self.node.config)?;
        let link = connect(&config).await?;
        let removed = link.remote().remove_trace(self.name.clone(), Deadline::after(config.deadline)).await;
        link.close().await;
        removed.map_err(|error| missing(&self.name, error))?;
        Ok(Output::new(self.node.json).line(format!("trace {} is removed", self.name))?)
    }
}

/// The error of a request for a trace, in words.
pub(super) fn missing(name: &TraceName, error: FsError) -> anyhow::Error {
    match error {
        FsError::NOT_FOUND => anyhow::anyhow!("there is no trace '{name}'; see 'globalfs trace list'"),
        error => anyhow::Error::new(error).context(format!("trace {name}")),
    }
}
