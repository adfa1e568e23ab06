//! `globalfs status`: the cluster at a glance.

use super::access::Access;
use super::daemon::block_on;
use super::lease::age;
use super::output::{self, Output};
use super::replicate;
use super::site::sites_table;
use anyhow::Result;
use globalfs_controlplane::model::record::{SiteRecord, SiteStatus};

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

/// What a site has changed and not brought home, and whether that is in danger.
fn debt_of(site: &SiteRecord) -> String {
    let pending = &site.health.pending;
    let (files, bytes) = pending.iter().fold((0, 0), |(files, bytes), p| (files + p.files, bytes + p.bytes));
    let oldest = pending.iter().filter_map(|pending| pending.oldest).min().map(age);
    let oldest = oldest.map(|age| format!(", the oldest {} old", output::duration(age))).unwrap_or_default();
    let danger = match (site.status, pending.iter().find_map(|pending| pending.trouble.as_deref())) {
        (SiteStatus::Unreachable, _) => " AT RISK: the site is not heard from".to_owned(),
        (SiteStatus::Active, Some(trouble)) => format!(" AT RISK: {trouble}"),
        (SiteStatus::Active, None) => late(pending.iter().map(|pending| pending.late).sum()),
    };
    format!("{}: not home {files} files, {}{oldest}{danger}", site.name, output::bytes(bytes))
}

/// What is owed for longer than its policy permits.
pub(super) fn late(files: u64) -> String {
    if files == 0 {
        String::new()
    } else {
        format!(" AT RISK: {files} files are later than sync_deadline permits")
    }
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
        for site in view.sites.iter().filter(|site| !site.health.pending.is_empty()) {
            output.line(debt_of(site))?;
        }
        for site in &view.sites {
            let debt = site.health.replicas.as_ref().and_then(|health| replicate::debt_of(site, health));
            debt.map_or(Ok(()), |debt| output.line(debt))?;
        }
        let missing = status.declared.iter().filter(|declared| view.site(&declared.name).is_none());
        for site in missing {
            output.line(format!("{0} has not joined yet: globalfs token create --site {0}", site.name))?;
        }
        Ok(())
    }
}
