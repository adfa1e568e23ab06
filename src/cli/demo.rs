//! `globalfs demo`: two sites and a mount on this machine, shown step by step.

use super::daemon::cancel_on_signal;
use super::output::Output;
use crate::demo::{self, Options};
use anyhow::{Context, Result};
use std::path::PathBuf;
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;

const HELP: &str = "\
Starts a coordinator, the sites 'onprem' (with sample data) and 'cloud' (empty), mounts the tree and shows
what happens, in some seconds. Stops and removes all of it at the end, also on Ctrl-C. Needs no configuration;
as another user than root it needs fusermount3 (Debian and Ubuntu: the package fuse3). Where FUSE is not
permitted it shows the same through the client library.

Examples:
  globalfs demo
  globalfs demo --keep --dir /tmp/two-sites
  globalfs demo --stop /tmp/two-sites";

/// Arguments of `globalfs demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Demo {
    /// Where it runs [default: a new directory for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Leave everything up at the end, to look around; also after an error
    #[arg(long)]
    keep: bool,
    /// Stop and remove what --keep left up in DIR
    #[arg(long, value_name = "DIR", conflicts_with_all = ["dir", "keep"])]
    stop: Option<PathBuf>,
}

impl Demo {
    /// Carries the command out.
    pub fn run(self) -> Result<()> {
        if let Some(dir) = self.stop {
            demo::stop(&dir)?;
            let said = format!("The demo in {} is stopped, unmounted and removed.", dir.display());
            return Ok(Output::new(false).line(said)?);
        }
        let options = Options { dir: self.dir, keep: self.keep };
        let runtime = Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
        runtime.block_on(async {
            let stop = CancellationToken::new();
            tokio::spawn(cancel_on_signal(stop.clone())?);
            tokio::task::spawn_blocking(move || demo::run(options, stop)).await?
        })
    }
}
