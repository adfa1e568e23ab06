//! `globalfs version`.

use super::output::Output;
use serde::Serialize;

/// Arguments of `globalfs version`.
#[derive(Debug, clap::Args)]
pub struct Version {
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Record {
    version: &'static str,
    build: &'static str,
    target: String,
}

impl Version {
    /// Carries the command out.
    pub fn run(self) -> anyhow::Result<()> {
        let build = if cfg!(debug_assertions) { "debug" } else { "release" };
        let target = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
        let record = Record { version: env!("CARGO_PKG_VERSION"), build, target };
        let output = Output::new(self.json);
        output.line(format!("globalfs {} ({}, {})", record.version, record.target, record.build))?;
        Ok(output.json(&record)?)
    }
}
