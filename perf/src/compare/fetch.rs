//! `cargo perf fetch`: `globalfs bench fetch` as a node of the near site runs it, against files at the far one.

use crate::model::Content;
use crate::systems::{Bed, GlobalFs};
use crate::wan::{LinkArgs, Wan};
use crate::{build, data, sandbox};
use anyhow::{Context, Result, ensure};
use globalfs::local::Programs;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The directory of the files that are read.
const FOLDER: &str = "fetched";

/// Arguments of `fetch`.
#[derive(Debug, clap::Args)]
pub struct Fetch {
    #[command(flatten)]
    link: LinkArgs,
    /// Files of noise to read
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    files: u64,
    /// MiB in each of them
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=1024))]
    mebibytes: u64,
    /// Where everything is put meanwhile; by default the directory for temporary files
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The folder of the programs `globalfs` and `globalfs-fuse`; by default they are built
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Further arguments of `globalfs bench fetch`, such as --concurrency 1,4 or --json
    #[arg(last = true)]
    bench: Vec<OsString>,
}

impl Fetch {
    /// Carries the command out.
    pub fn run(self) -> Result<ExitCode> {
        let programs = build::programs(self.programs.as_deref())?;
        let dir = self.dir.clone().unwrap_or_else(std::env::temp_dir);
        sandbox::run(&dir, |scratch| self.over_the_link(scratch, programs))
    }

    fn over_the_link(&self, scratch: &Path, programs: Programs) -> Result<()> {
        let wan = Wan::start(self.link.options())?;
        let bed = Bed { wan: &wan, is_loopback: false, dir: scratch.to_owned(), programs };
        for number in 0..self.files {
            let path = bed.origin().join(FOLDER).join(format!("file-{number:04}"));
            data::write_large(&path, Content::Noise, number + 1, self.mebibytes << 20)?;
        }
        let mut cluster = GlobalFs::start(&bed)?;
        let config = cluster.node("bench")?;
        let metrics = cluster.site_metrics().context("the site serves its metrics")?;
        let mut command = Command::new(&bed.programs.globalfs);
        command.args([
            "bench",
            "fetch",
            "--path",
            &format!("/{FOLDER}"),
            "--site-metrics",
            &metrics.to_string(),
        ]);
        command.arg("--config").arg(config).args(&self.bench);
        let status = bed.near().enter(|| Ok(command.status()?))?;
        ensure!(status.success(), "globalfs bench fetch fails");
        Ok(())
    }
}
