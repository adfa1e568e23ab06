//! `globalfs config`: checks configuration files without starting anything.

use super::output::{self, Output};
use crate::config::{ConfigError, Document};
use anyhow::bail;
use globalfs_controlplane::model::travel::IdleKey;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Subcommands of `globalfs config`.
#[derive(Debug, clap::Subcommand)]
pub enum ConfigCommand {
    /// Check configuration files; what kind a file is, is told by its keys
    #[command(after_help = CHECK_HELP)]
    Check(Check),
}

const CHECK_HELP: &str = "\
Each problem is one line on stderr: FILE:LINE:COLUMN: what is wrong; what was expected.
A coordinator's file is checked together with the policy file that it names.

Examples:
  globalfs config check /etc/globalfs/coordinator.yaml
  globalfs config check /etc/globalfs/*.yaml
  globalfs config check --json site.yaml | jq '.[].problems'";

/// Arguments of `globalfs config check`.
#[derive(Debug, clap::Args)]
pub struct Check {
    /// The files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl ConfigCommand {
    /// Carries the command out.
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Check(check) => check.run(),
        }
    }
}

#[derive(Serialize)]
struct Verdict<'a> {
    file: &'a Path,
    ok: bool,
    kind: Option<&'static str>,
    problems: Vec<ProblemRecord>,
    /// What can be used and says nothing.
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct ProblemRecord {
    file: PathBuf,
    line: Option<u64>,
    column: Option<u64>,
    message: String,
}

impl Check {
    fn run(&self) -> anyhow::Result<()> {
        let output = Output::new(self.json);
        let results: Vec<_> = self.files.iter().map(|file| (file, Document::load(file))).collect();
        for (file, result) in &results {
            match result {
                Ok(document) => {
                    output.line(format!("{}: ok ({})", file.display(), document.kind()))?;
                    if !self.json {
                        warnings(document).iter().for_each(|text| {
                            output::complain(format_args!("{}: warning: {text}", file.display()));
                        });
                    }
                }
                Err(_) if self.json => {}
                Err(error) => output::complain(error),
            }
        }
        let verdicts: Vec<_> = results.iter().map(|(file, result)| verdict(file, result)).collect();
        output.json(&verdicts)?;
        match verdicts.iter().filter(|verdict| !verdict.ok).count() {
            0 => Ok(()),
            wrong => bail!("{wrong} of {} configuration files cannot be used", verdicts.len()),
        }
    }
}

fn verdict<'a>(file: &'a Path, result: &Result<Document, ConfigError>) -> Verdict<'a> {
    let problems = result.as_ref().err().map(|error| &error.problems[..]).unwrap_or_default();
    let records = problems.iter().map(|problem| ProblemRecord {
        file: problem.file.to_path_buf(),
        line: problem.position.map(|at| at.line),
        column: problem.position.map(|at| at.column),
        message: problem.message.clone(),
    });
    let kind = result.as_ref().ok().map(Document::kind);
    let warnings = result.as_ref().map(warnings).unwrap_or_default();
    Verdict { file, ok: result.is_ok(), kind, problems: records.collect(), warnings }
}

/// Keys of policies that have no effect.
fn warnings(document: &Document) -> Vec<String> {
    let policies = match document {
        Document::Coordinator(config) => &config.policies,
        Document::Policy(config) => &config.policies,
        Document::Site(_) | Document::Mount(_) => return Vec::new(),
    };
    let text = |idle: IdleKey| format!("policy '{}': {}", idle.policy, idle.reason);
    policies.idle_keys().into_iter().map(text).collect()
}
