//! `cargo perf compare`: the same phases over the same link for GlobalFS and for what people use today, each
//! figure beside what physics allows and what is aimed at.

mod data;
mod fetch;
mod model;
mod phases;
mod python;
mod report;
mod run;
mod stream;
mod table;

pub use fetch::Fetch;

use crate::arguments::RunArgs;
use crate::systems::Kind;
use crate::wan::{LinkArgs, LinkOptions};
use anyhow::{Result, ensure};
use model::Phase;
use report::Report;
use std::process::ExitCode;
use std::time::Duration;

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
    #[command(flatten)]
    run: RunArgs,
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
        self.run.in_sandbox(&std::env::temp_dir(), |scratch, programs| {
            let mut reports = Vec::new();
            for plan in plans(&self) {
                let report = run::measure(&plan, scratch, programs)?;
                if !self.run.json {
                    println!("{}", table::of(&report));
                }
                reports.push(report);
            }
            self.finish(&reports)
        })
    }

    fn finish(&self, reports: &[Report]) -> Result<()> {
        if self.run.json {
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
            systems: self.run.systems(),
            rounds: self.run.rounds.unwrap_or(defaults.rounds),
            scale: self.run.size_scale.unwrap_or(defaults.scale),
            limit: self.run.limit.unwrap_or(defaults.limit),
        }
    }
}
