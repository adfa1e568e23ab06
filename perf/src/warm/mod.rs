//! `cargo perf warm`: what is here already, read through a mount and beside it from the local file system that holds
//! the cache, for GlobalFS and for what people use today.

mod data;
mod fio;
mod measure;
mod model;
mod pages;
mod processes;
mod report;
mod run;
mod table;

use crate::arguments::RunArgs;
use crate::sandbox::has_program;
use crate::systems::Kind;
use anyhow::{Result, ensure};
use model::{Part, Phase};
use report::Report;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// On a disk nearly everywhere, where `/tmp` may be in memory.
const DIR: &str = "/var/tmp";

/// Pairs of measurements of each phase.
const ROUNDS: u64 = 3;

/// What a measurement may take.
const LIMIT: Duration = Duration::from_secs(120);

/// Arguments of `warm`.
#[derive(Debug, clap::Args)]
pub struct Warm {
    /// Phases to measure, by default all
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = Phase::parse)]
    phases: Vec<Phase>,
    #[command(flatten)]
    run: RunArgs,
}

/// What is measured.
#[derive(Debug)]
struct Plan {
    phases: Vec<Phase>,
    systems: Vec<Kind>,
    rounds: u64,
    scale: f64,
    limit: Duration,
}

impl Warm {
    /// Carries the command out.
    pub fn run(self) -> Result<ExitCode> {
        ensure!(has_program("fio"), "fio is not installed: run perf/peers fio");
        self.run.in_sandbox(Path::new(DIR), |scratch, programs| {
            let report = run::measure(&self.plan(), scratch, programs)?;
            if self.run.json {
                println!("{}", serde_json::to_string_pretty(&report)?);
            } else {
                println!("{}", table::of(&report));
            }
            ensure!(report.has_figures(), "nothing could be measured");
            Ok(())
        })
    }

    fn plan(&self) -> Plan {
        Plan {
            phases: if self.phases.is_empty() { Phase::ALL.to_vec() } else { self.phases.clone() },
            systems: self.run.systems(),
            rounds: self.run.rounds.unwrap_or(ROUNDS),
            scale: self.run.size_scale.unwrap_or(1.0),
            limit: self.run.limit.unwrap_or(LIMIT),
        }
    }
}

impl Plan {
    /// What the phases read.
    fn parts(&self) -> BTreeSet<Part> {
        self.phases.iter().map(|phase| phase.part()).collect()
    }
}

impl Report {
    /// Whether anything was measured.
    fn has_figures(&self) -> bool {
        self.rows.iter().flat_map(|row| row.systems.values()).any(|figure| figure.ratio.is_some())
    }
}
