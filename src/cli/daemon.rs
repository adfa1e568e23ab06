//! What the long-running commands share: logging, a runtime, the order to stop.

use crate::telemetry::{self, Component, LogFormat};
use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::future::Future;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Arguments of every daemon.
#[derive(Debug, Clone, clap::Args)]
pub struct DaemonArgs {
    /// The form of log lines; by default text at a terminal and JSON elsewhere
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

impl DaemonArgs {
    /// Runs `work` on a runtime with threads; SIGTERM and SIGINT cancel its token.
    pub fn run<W: Future<Output = Result<()>>>(
        &self,
        component: Component,
        work: impl FnOnce(CancellationToken) -> W,
    ) -> Result<()> {
        telemetry::init(component, self.log_format)?;
        raise_descriptor_limit();
        let runtime = Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
        runtime.block_on(async {
            let stop = CancellationToken::new();
            tokio::spawn(cancel_on_signal(stop.clone())?);
            work(stop).await
        })
    }
}

/// Takes all the descriptors that the system grants. Shells and systemd start programs with 1,024, for the sake
/// of those that use `select(2)`; a daemon with many reads under way needs more.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, ?limit, "the limit of open files stays as it is");
    }
}

/// Gives a future that cancels `stop` when this process is asked to end.
pub fn cancel_on_signal(stop: CancellationToken) -> Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    })
}

/// Runs a short command to its end.
pub fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    telemetry::init(Component::Command, None).context("cannot set up logging")?;
    Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?.block_on(work)
}
