//! `globalfs status`: the cluster at a glance.

use super::access::Access;
use super::daemon::block_on;
use super::output::Output;
use super::site::sites_table;
use anyhow::Result;

/// Arguments of `globalfs status`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  globalfs status --config /etc/globalfs/site.yaml --json")]
pub struct Status {
    #[command(flatten)]
    access: Access,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl Status {
    /// Carries the command out.
    pub fn run(self) -> Result<()> {
        block_on(self.show())
    }

    async fn show(self) -> Result<()> {
        let status = self.access.connect().await?.status().await?;
        let output = Output::new(self.json);
        output.json(&status)?;
        let view = &status.view;
        output.line(format!(
            "cluster {}: sites joined {} of {}, nodes {}, policies {}, home of all other paths {}",
            view.cluster,
            view.sites.len(),
            status.declared.len(),
            view.nodes.len(),
            view.policies.len(),
            view.default_primary,
        ))?;
        if !view.sites.is_empty() {
            output.line(sites_table(&view.sites))?;
        }
        let missing = status.declared.iter().filter(|declared| view.site(&declared.name).is_none());
        for site in missing {
            output.line(format!("{0} has not joined yet: globalfs token create --site {0}", site.name))?;
        }
        Ok(())
    }
}
