//! `globalfs policy`: tells what the policies say about a path, without touching the path.

use super::output::Output;
use crate::config::{CoordinatorConfig, PolicyConfig};
use anyhow::Context;
use globalfs_controlplane::model::policy::{Explanation, PolicySet, Primary};
use globalfs_proto::GlobalPath;
use serde::Serialize;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Subcommands of `globalfs policy`.
#[derive(Debug, clap::Subcommand)]
pub enum PolicyCommand {
    /// Tell which policy decides about a path, where its home is, and why
    #[command(after_help = TEST_HELP)]
    Test(Test),
}

const TEST_HELP: &str = "\
Policies are tried in the order of the file; the first whose pattern matches decides.
In a pattern * stays within a directory and ** crosses directories.
A path that no policy matches belongs to the cluster's primary site.

Examples:
  globalfs policy test /datasets/hot/a.dat --policy globalfs-policy.yaml
  globalfs policy test /inputs/x /scratch/y --config coordinator.yaml
  globalfs policy test /results/job-1 --config coordinator.yaml --json";

/// Arguments of `globalfs policy test`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("rules").required(true).args(["policy", "config"])))]
pub struct Test {
    /// Paths as they are seen below the mount point, beginning with /
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
    /// The policies of this file
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// The policies of this coordinator's configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl PolicyCommand {
    /// Carries the command out.
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Test(test) => test.run(),
        }
    }
}

/// What is printed about one path.
#[derive(Serialize)]
struct Answer {
    path: String,
    policy: Option<String>,
    /// `null`: each site keeps its own files, or the default primary when no cluster is known.
    primary: Option<String>,
    each_site: bool,
    replicate_to: Vec<String>,
    sync_mode: String,
    why: String,
    rules: Vec<Explanation>,
}

impl Test {
    fn run(&self) -> anyhow::Result<()> {
        let (policies, cluster_known) = self.policies()?;
        let paths = self.paths.iter().map(parse).collect::<anyhow::Result<Vec<_>>>()?;
        let answers: Vec<_> = paths.iter().map(|path| answer(&policies, path, cluster_known)).collect();
        let output = Output::new(self.json);
        output.json(&answers)?;
        for (n, answer) in answers.iter().enumerate().filter(|_| !self.json) {
            if n > 0 {
                output.line("")?;
            }
            answer.print(output)?;
        }
        Ok(())
    }

    /// The policies, and whether their default primary is a real cluster's.
    fn policies(&self) -> anyhow::Result<(PolicySet, bool)> {
        if let Some(file) = &self.config {
            return Ok((CoordinatorConfig::load(file)?.policies, true));
        }
        let file = self.policy.as_deref().context("neither --policy nor --config is given")?;
        Ok((PolicyConfig::load(file)?.policies, false))
    }
}

fn parse(path: &OsString) -> anyhow::Result<GlobalPath> {
    GlobalPath::parse(path.as_bytes()).with_context(|| format!("{:?} is not a path of the namespace", path))
}

fn answer(policies: &PolicySet, path: &GlobalPath, cluster_known: bool) -> Answer {
    let decision = policies.decide(path);
    let each_site = decision.primary == Primary::EachSite;
    let known = !each_site && (cluster_known || decision.policy.is_some());
    let why = if cluster_known || decision.policy.is_some() {
        decision.why.clone()
    } else {
        "no policy matches; the cluster's primary site is told by --config coordinator.yaml".to_owned()
    };
    Answer {
        path: path.to_string(),
        policy: decision.policy.map(|policy| policy.name.clone()),
        primary: known.then(|| decision.primary.to_string()),
        each_site,
        replicate_to: decision.replicas.iter().map(|site| site.to_string()).collect(),
        sync_mode: decision.sync_mode.to_string(),
        why,
        rules: policies.explain(path),
    }
}

impl Answer {
    fn print(&self, output: Output) -> std::io::Result<()> {
        let primary = match &self.primary {
            Some(site) => site.as_str(),
            None if self.each_site => "none: each site keeps its own files",
            None => "the cluster's primary site",
        };
        let copies = if self.replicate_to.is_empty() { "-".into() } else { self.replicate_to.join(", ") };
        output.line(&self.path)?;
        output.line(format!("  policy        {}", self.policy.as_deref().unwrap_or("-")))?;
        output.line(format!("  primary       {primary}"))?;
        output.line(format!("  replicate_to  {copies}"))?;
        output.line(format!("  sync_mode     {}", self.sync_mode))?;
        output.line(format!("  why           {}", self.why))?;
        for (n, rule) in self.rules.iter().enumerate() {
            let mark = if rule.decides { "=>" } else { "  " };
            output.line(format!("  {mark} {}. {}: {}", n + 1, rule.policy, rule.why))?;
        }
        Ok(())
    }
}
