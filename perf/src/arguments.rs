//! What every comparison of file systems is told on the command line, and how it begins.

use crate::systems::Kind;
use crate::{build, sandbox};
use anyhow::Result;
use globalfs::local::Programs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// What is compared, how often and where.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct RunArgs {
    /// Systems to compare, by default all that are installed
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = Kind::parse)]
    systems: Vec<Kind>,
    /// How often each phase is measured for each system
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=99))]
    pub rounds: Option<u64>,
    /// Large files are made this much smaller or larger
    #[arg(long, value_name = "FACTOR", value_parser = parse_scale)]
    pub size_scale: Option<f64>,
    /// What one measurement may take
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub limit: Option<Duration>,
    /// Where everything is put meanwhile; by default a directory for temporary files
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The folder of the programs `globalfs` and `globalfs-fuse`; by default they are built
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

impl RunArgs {
    /// Runs `work` in a sandbox below the directory that was asked for, else below `default_dir`.
    pub(crate) fn in_sandbox(
        &self,
        default_dir: &Path,
        work: impl FnOnce(&Path, &Programs) -> Result<()>,
    ) -> Result<ExitCode> {
        let programs = build::programs(self.programs.as_deref())?;
        let dir = self.dir.as_deref().unwrap_or(default_dir);
        sandbox::run(dir, |scratch| work(scratch, &programs))
    }

    /// Those that were asked for, or those that are installed; what is missing is said.
    pub(crate) fn systems(&self) -> Vec<Kind> {
        let asked = if self.systems.is_empty() { &Kind::ALL[..] } else { &self.systems };
        let here = asked.iter().filter(|kind| match kind.missing() {
            None => true,
            Some(reason) => {
                eprintln!("without {}: {reason}", kind.name());
                false
            }
        });
        here.copied().collect()
    }
}

/// The one of `all` that is called `name`, or what there is instead.
pub(crate) fn named<T: Copy>(
    all: &[T],
    name_of: fn(T) -> &'static str,
    what: &str,
    name: &str,
) -> Result<T, String> {
    let names = || all.iter().map(|one| name_of(*one)).collect::<Vec<_>>().join(", ");
    let found = all.iter().copied().find(|one| name_of(*one) == name);
    found.ok_or_else(|| format!("no such {what}; there are {}", names()))
}

fn parse_scale(text: &str) -> Result<f64, String> {
    let scale: f64 = text.parse().map_err(|_| "expected a number such as 0.25".to_owned())?;
    if (0.001..=10.0).contains(&scale) { Ok(scale) } else { Err("expected 0.001 to 10".into()) }
}
