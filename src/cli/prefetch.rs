//! `globalfs prefetch`: brings files to this node's site before a job reads them.

use super::UsageError;
use super::daemon::cancel_on_signal;
use super::output::{self, Output, complain};
use super::progress::Progress;
use super::trace::missing;
use crate::config::MountConfig;
use crate::node::Link;
use crate::prefetch::{Batches, Failure, Plan, Tally, namespace_path, walk};
use crate::telemetry::{self, Component};
use crate::trace::replay::{Planner, fetch_trace};
use anyhow::{Context, Result, bail};
use globalfs_dataplane::{Deadline, Source};
use globalfs_proto::{GlobalPath, TraceName, WarmFile, Warmed};
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;

/// What the site's daemon is given to say that it is there.
const HELLO_LIMIT: Duration = Duration::from_secs(5);

/// Failures that people are shown; --json has all.
const SHOWN_FAILURES: usize = 20;

const HELP: &str = "\
The site's daemon fetches what its cache lacks; jobs of all nodes of the site then read it without the WAN.
Stop it with Ctrl-C and run it again: it goes on where it stopped. Directories are taken with all below
them. Symbolic links are not followed; what they name inside the tree comes by its own name.
A PATH is one of the namespace (/datasets/x) or one below a mount of this machine (/globalfs/datasets/x).
What does not fit the site's cache is left out and named, and the exit status is 1.

Examples:
  globalfs prefetch /datasets/imagenet /models/base.bin
  globalfs prefetch /globalfs/datasets/x --dry-run        how much would move?
  globalfs prefetch --trace job/alice/train               what that job read when it ran last
  globalfs prefetch /datasets/x --json | jq .fetched_bytes
  srun -N1 globalfs prefetch /datasets/x && sbatch job.sh";

/// Arguments of `globalfs prefetch`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Prefetch {
    /// Files and directories to bring
    #[arg(value_name = "PATH", required_unless_present = "trace")]
    paths: Vec<PathBuf>,
    /// Bring what this trace says that a job reads, in its order; see 'globalfs trace --help'
    #[arg(long, value_name = "NAME", conflicts_with = "paths")]
    trace: Option<TraceName>,
    /// The node's configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/globalfs/globalfs.yaml", env = "GLOBALFS_CONFIG")]
    config: PathBuf,
    /// Requests to the site's daemon at a time: fewer leave more of the link to others
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u8).range(1..=32))]
    jobs: u8,
    /// Only tell what is at the site and what is not
    #[arg(long)]
    dry_run: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// What was done.
#[derive(Debug, Default, serde::Serialize)]
struct Report {
    dry_run: bool,
    files: u64,
    bytes: u64,
    fetched_bytes: u64,
    here_bytes: u64,
    missing_bytes: u64,
    /// Bytes that others' reads pushed out of the cache before this command ended.
    evicted_bytes: u64,
    links_not_followed: u64,
    cache_quota_bytes: Option<u64>,
    seconds: f64,
    interrupted: bool,
    failed: Vec<Failure>,
}

impl Prefetch {
    /// Carries the command out.
    pub fn run(self) -> Result<()> {
        telemetry::init(Component::Command, None).context("cannot set up logging")?;
        let paths: Vec<_> = self
            .paths
            .iter()
            .map(|path| namespace_path(path))
            .collect::<Result<_, _>>()
            .map_err(UsageError::new)?;
        let config = MountConfig::load(&self.config)?;
        let output = Output::new(self.json);
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let report = runtime.context("cannot start threads")?.block_on(self.prefetch(&config, &paths))?;
        output.json(&report)?;
        report.print(output)?;
        report.verdict()
    }

    async fn prefetch(&self, config: &MountConfig, paths: &[GlobalPath]) -> Result<Report> {
        let stop = CancellationToken::new();
        tokio::spawn(cancel_on_signal(stop.clone())?);
        let link = connect(config).await?;
        let source = link.remote() as Arc<dyn Source>;
        let report = self.work(config, &link, &source, paths, &stop).await;
        link.close().await;
        report
    }

    async fn work(
        &self,
        config: &MountConfig,
        link: &Link,
        source: &Arc<dyn Source>,
        paths: &[GlobalPath],
        stop: &CancellationToken,
    ) -> Result<Report> {
        let started = Instant::now();
        let planned = stop.run_until_cancelled(self.plan(config, link, source, paths)).await;
        let Some(plan) = planned else { bail!("interrupted before anything was fetched") };
        let mut report = self.carry_out(source, plan?, stop).await;
        report.seconds = started.elapsed().as_secs_f64();
        Ok(report)
    }

    async fn plan(
        &self,
        config: &MountConfig,
        link: &Link,
        source: &Arc<dyn Source>,
        paths: &[GlobalPath],
    ) -> Result<Plan> {
        let Some(name) = &self.trace else { return Ok(walk(source, paths, config.deadline, |_| {}).await?) };
        let trace = fetch_trace(&link.remote(), name.clone(), Deadline::after(config.deadline)).await;
        let trace = Arc::new(trace.map_err(|error| missing(name, error))?);
        let mut planner = Planner::new(source.clone(), trace.clone(), config.deadline);
        Ok(planner.plan(0..trace.reads.len()).await)
    }

    async fn carry_out(&self, source: &Arc<dyn Source>, mut plan: Plan, stop: &CancellationToken) -> Report {
        let mut report = Report {
            dry_run: self.dry_run,
            files: plan.files,
            bytes: plan.bytes(),
            links_not_followed: plan.links,
            failed: std::mem::take(&mut plan.failed),
            ..Report::default()
        };
        let look = Batches { source: source.clone(), at_once: self.jobs.into(), fetch: false };
        let Some(before) = stop.run_until_cancelled(look.run(&plan.parts, |_| {})).await else {
            return Report { interrupted: true, ..report };
        };
        report.cache_quota_bytes = before.quota_bytes.filter(|quota| *quota != u64::MAX);
        if self.dry_run {
            return report.with(&before);
        }
        let left_out = self.cut(&mut plan, &report);
        let (done, interrupted) = self.fetch(source, &plan, before.missing_bytes, stop).await;
        let mut report = Report { interrupted, ..report.with(&done) };
        report.leave_out(&left_out);
        if done.fetched_bytes > 0
            && let Some(after) = stop.run_until_cancelled(look.run(&plan.parts, |_| {})).await
        {
            report.check_after(&done, &after);
        }
        report
    }

    /// Leaves out what the cache cannot hold beside the rest, and says so before it begins.
    fn cut(&self, plan: &mut Plan, report: &Report) -> Vec<WarmFile> {
        let Some(quota) = report.cache_quota_bytes else { return Vec::new() };
        let left_out = plan.cut_to(quota);
        if !left_out.is_empty() {
            let rest: u64 = left_out.iter().map(WarmFile::bytes).sum();
            complain(format_args!(
                "globalfs: warning: {} do not fit the site's cache of {}: the last {} are left out; \
                 prefetch less, or raise 'cache: size:' in the site's configuration",
                output::bytes(report.bytes),
                output::bytes(quota),
                output::bytes(rest),
            ));
        }
        left_out
    }

    async fn fetch(
        &self,
        source: &Arc<dyn Source>,
        plan: &Plan,
        missing_bytes: u64,
        stop: &CancellationToken,
    ) -> (Tally, bool) {
        let progress =
            Mutex::new((Progress::begin("prefetch", missing_bytes.min(plan.bytes())), Tally::default()));
        let told = |step: &Warmed| {
            let (progress, tally) = &mut *progress.lock();
            progress.add(step.fetched_bytes);
            tally.count(step);
        };
        let batches = Batches { source: source.clone(), at_once: self.jobs.into(), fetch: true };
        let done = stop.run_until_cancelled(batches.run(&plan.parts, told)).await;
        let (progress, so_far) = progress.into_inner();
        progress.finish();
        let interrupted = done.is_none();
        (done.unwrap_or(so_far), interrupted)
    }
}

/// The way to the site's daemon, which has answered.
pub(super) async fn connect(config: &MountConfig) -> Result<Link> {
    let link = Link::open(config).await?;
    let remote = link.remote();
    let hello = remote.ping(Deadline::after(HELLO_LIMIT)).await;
    let address = remote.peer().address();
    hello.with_context(|| format!("the daemon of site {} at {address} cannot be asked", config.site))?;
    Ok(link)
}

impl Report {
    fn with(mut self, tally: &Tally) -> Self {
        self.fetched_bytes = tally.fetched_bytes;
        self.here_bytes = tally.here_bytes;
        self.missing_bytes = tally.missing_bytes;
        self.failed.extend(tally.failed());
        self
    }

    fn leave_out(&mut self, parts: &[WarmFile]) {
        self.missing_bytes += parts.iter().map(WarmFile::bytes).sum::<u64>();
        let mut paths: Vec<String> = parts.iter().map(|part| part.path.to_string()).collect();
        paths.dedup();
        let error = "left out: the site's cache is too small";
        self.failed.extend(paths.into_iter().map(|path| Failure { path, error: error.to_owned() }));
    }

    /// What others' reads have pushed out of the cache meanwhile is not there, whatever was told before.
    fn check_after(&mut self, done: &Tally, after: &Tally) {
        let told = (done.here_bytes + done.fetched_bytes).saturating_sub(after.here_bytes);
        self.evicted_bytes = told.min(after.missing_bytes);
    }

    fn print(&self, output: Output) -> Result<()> {
        output.line(self.summary())?;
        if self.links_not_followed > 0 {
            output.line(format_args!("{} symbolic links were not followed", self.links_not_followed))?;
        }
        if output.is_json() {
            return Ok(());
        }
        for Failure { path, error } in self.failed.iter().take(SHOWN_FAILURES) {
            complain(format_args!("globalfs: {path}: {error}"));
        }
        if self.failed.len() > SHOWN_FAILURES {
            let more = self.failed.len() - SHOWN_FAILURES;
            complain(format_args!("globalfs: and {more} more; --json names all"));
        }
        Ok(())
    }

    fn summary(&self) -> String {
        let (files, all, here) = (self.files, output::bytes(self.bytes), output::bytes(self.here_bytes));
        if self.dry_run {
            let missing = output::bytes(self.missing_bytes);
            return format!("{files} files, {all}: {here} are at the site, {missing} would be fetched");
        }
        let rate = (self.fetched_bytes as f64 / self.seconds.max(1e-3)) as u64;
        format!(
            "{files} files, {all}: {} fetched in {} ({}/s), {here} were here already",
            output::bytes(self.fetched_bytes),
            output::duration(Duration::from_secs_f64(self.seconds)),
            output::bytes(rate),
        )
    }

    fn verdict(&self) -> Result<()> {
        if self.interrupted {
            bail!("interrupted; run it again to go on where it stopped");
        }
        if self.evicted_bytes > 0 {
            let lost = output::bytes(self.evicted_bytes);
            bail!("{lost} have left the site's cache again: it is too small, or in use by others");
        }
        match (self.failed.len(), self.missing_bytes) {
            (0, 0) => Ok(()),
            (0, _) if self.dry_run => Ok(()),
            (0, missing) => {
                bail!("{} are not in the site's cache, which has no room", output::bytes(missing))
            }
            (failed, _) => bail!("{failed} could not be prefetched"),
        }
    }
}
