//! `cargo perf compare`: the same phases over the same link for GlobalFS and for what people use today, each
//! figure beside what physics allows and what is aimed at.

mod build;
mod data;
mod fetch;
mod model;
mod phases;
mod python;
mod reader;
mod report;
mod run;
mod stream;
mod systems;
mod table;

pub use fetch::Fetch;

use crate::sandbox;
use crate::wan::{LinkArgs, LinkOptions};
use anyhow::{Result, ensure};
use model::Phase;
use report::Report;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use systems::Kind;

/// The links of `cargo perf matrix`: round trip in ms and loss.
const MATRIX: [(u64, f64); 5] = [(40, 0.0), (5, 0.0), (150, 0.0), (40, 0.001), (40, 0.01)];

/// What is measured where the command line does not say.
struct Defaults {
    phases: &'static [Phase],
    rounds: u64,
    scale: f64,
    limit: Duration,
}

/// One link, as exactly as can be.
const COMPARE: Defaults =
    Defaults { phases: &Phase::ALL, rounds: 3, scale: 1.0, limit: Duration::from_secs(120) };

/// Many links in less than half an hour: smaller files, one round, and who is slow is given up sooner.
const EACH_LINK: Defaults =
    Defaults { phases: &Phase::MATRIX, rounds: 1, scale: 0.25, limit: Duration::from_secs(15) };

/// Arguments of `compare`.
#[derive(Debug, clap::Args)]
pub struct Compare {
    #[command(flatten)]
    link: LinkArgs,
    #[command(flatten)]
    plan: PlanArgs,
}

/// Arguments of `matrix`.
#[derive(Debug, clap::Args)]
pub struct Matrix {
    #[command(flatten)]
    plan: PlanArgs,
}

/// What is compared, on whatever link.
#[derive(Debug, Clone, clap::Args)]
struct PlanArgs {
    /// Phases to measure, by default all
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = Phase::parse)]
    phases: Vec<Phase>,
    /// Systems to compare, by default all that are installed
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = Kind::parse)]
    systems: Vec<Kind>,
    /// Fresh data and cold mounts for each system
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=99))]
    rounds: Option<u64>,
    /// Large files are made this much smaller or larger
    #[arg(long, value_name = "FACTOR", value_parser = parse_scale)]
    size_scale: Option<f64>,
    /// What one measurement may take
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    limit: Option<Duration>,
    /// Where everything is put meanwhile; by default the directory for temporary files
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The folder of the programs `globalfs` and `globalfs-fuse`; by default they are built
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// What is measured over one link.
#[derive(Debug, Clone)]
struct Plan {
    link: LinkOptions,
    phases: Vec<Phase>,
    systems: Vec<Kind>,
    rounds: u64,
    scale: f64,
    limit: Duration,
}

impl Compare {
    /// Carries the command out.
    pub fn run(self) -> Result<ExitCode> {
        let link = self.link.options();
        self.plan.carry_out(|plan| vec![plan.over(link.clone(), &COMPARE)])
    }
}

impl Matrix {
    /// Carries the command out, a table for each link.
    pub fn run(self) -> Result<ExitCode> {
        self.plan.carry_out(|plan| {
            let links = MATRIX.map(|(rtt_ms, loss)| LinkOptions {
                rtt: Duration::from_millis(rtt_ms),
                loss,
                ..LinkOptions::default()
            });
            links.map(|link| plan.over(link, &EACH_LINK)).into()
        })
    }
}

impl PlanArgs {
    fn carry_out(self, plans: impl FnOnce(&Self) -> Vec<Plan>) -> Result<ExitCode> {
        let programs = build::programs(self.programs.as_deref())?;
        let dir = self.dir.clone().unwrap_or_else(std::env::temp_dir);
        sandbox::run(&dir, |scratch| {
            let mut reports = Vec::new();
            for plan in plans(&self) {
                let report = run::measure(&plan, scratch, &programs)?;
                if !self.json {
                    println!("{}", table::of(&report));
                }
                reports.push(report);
            }
            self.finish(&reports)
        })
    }

    fn finish(&self, reports: &[Report]) -> Result<()> {
        if self.json {
            println!("{}", serde_json::to_string_pretty(reports)?);
        }
        let measured = reports.iter().flat_map(|report| &report.rows).any(report::Row::has_figures);
        ensure!(measured, "nothing could be measured");
        Ok(())
    }

    fn over(&self, link: LinkOptions, defaults: &Defaults) -> Plan {
        Plan {
            link,
            phases: if self.phases.is_empty() { defaults.phases.to_vec() } else { self.phases.clone() },
            systems: self.systems(),
            rounds: self.rounds.unwrap_or(defaults.rounds),
            scale: self.size_scale.unwrap_or(defaults.scale),
            limit: self.limit.unwrap_or(defaults.limit),
        }
    }

    /// Those that were asked for, or those that are installed; what is missing is said.
    fn systems(&self) -> Vec<Kind> {
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

fn parse_scale(text: &str) -> Result<f64, String> {
    let scale: f64 = text.parse().map_err(|_| "expected a number such as 0.25".to_owned())?;
    if (0.001..=10.0).contains(&scale) { Ok(scale) } else { Err("expected 0.001 to 10".into()) }
}
