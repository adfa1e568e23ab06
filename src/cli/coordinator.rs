//! `globalfs coordinator`: runs the control plane.

use super::daemon::DaemonArgs;
use crate::config::CoordinatorConfig;
use crate::telemetry::Component;
use std::path::PathBuf;

/// Subcommands of `globalfs coordinator`.
#[derive(Debug, clap::Subcommand)]
pub enum CoordinatorCommand {
    /// Run the coordinator in the foreground until SIGTERM
    #[command(after_help = START_HELP)]
    Start(Start),
}

const START_HELP: &str = "\
The first start makes the cluster's certificate authority in data_dir and an administrator's certificate in
data_dir/admin: keep ca.key secret and backed up. Next: 'globalfs token create --site NAME' for each site.

Example:
  globalfs coordinator start --config /etc/globalfs/coordinator.yaml";

/// Arguments of `globalfs coordinator start`.
#[derive(Debug, clap::Args)]
pub struct Start {
    /// The coordinator's configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/globalfs/coordinator.yaml")]
    config: PathBuf,
    #[command(flatten)]
    daemon: DaemonArgs,
}

impl CoordinatorCommand {
    /// Carries the command out.
    pub fn run(self) -> anyhow::Result<()> {
        let Self::Start(start) = self;
        let config = CoordinatorConfig::load(&start.config)?;
        start.daemon.run(Component::Coordinator, |stop| crate::coordinator::run(config, stop))
    }
}
