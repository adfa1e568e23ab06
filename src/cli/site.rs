//! `globalfs site`: joins, runs, shows and removes sites.

use super::access::Access;
use super::daemon::{DaemonArgs, block_on};
use super::output::{self, Output};
use super::token::TokenArgs;
use crate::config::SiteConfig;
use crate::coordinator::role_text;
use crate::site::SiteDaemon;
use crate::telemetry::Component;
use anyhow::{Context, Result, ensure};
use globalfs_controlplane::client::{JoinRequest, join_into};
use globalfs_controlplane::model::record::{SiteRecord, SiteStatus};
use globalfs_controlplane::model::token::Joiner;
use globalfs_proto::SiteName;
use std::path::PathBuf;

/// Subcommands of `globalfs site`.
#[derive(Debug, clap::Subcommand)]
pub enum SiteCommand {
    /// Join the cluster: get this site's certificate for a one-time token
    #[command(
        after_help = "Example:\n  globalfs site register cloud --config /etc/globalfs/site.yaml --token gfs1..."
    )]
    Register(Register),
    /// Run the site's daemon in the foreground until SIGTERM
    #[command(after_help = "Example:\n  globalfs site start --config /etc/globalfs/site.yaml")]
    Start(Start),
    /// List the sites with their health
    List(List),
    /// Show all about one site
    Show(Show),
    /// Remove a site: its certificate stops working
    Remove(Remove),
}

/// Arguments of `globalfs site register`.
#[derive(Debug, clap::Args)]
pub struct Register {
    /// The site's name, as in its configuration and in the token
    name: SiteName,
    /// The site's configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/globalfs/site.yaml")]
    config: PathBuf,
    #[command(flatten)]
    token: TokenArgs,
}

/// Arguments of `globalfs site start`.
#[derive(Debug, clap::Args)]
pub struct Start {
    /// The site's configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/globalfs/site.yaml")]
    config: PathBuf,
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// Arguments of `globalfs site list`.
#[derive(Debug, clap::Args)]
pub struct List {
    #[command(flatten)]
    access: Access,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `globalfs site show`.
#[derive(Debug, clap::Args)]
pub struct Show {
    /// The site
    name: SiteName,
    #[command(flatten)]
    list: List,
}

/// Arguments of `globalfs site remove`.
#[derive(Debug, clap::Args)]
pub struct Remove {
    /// The site
    name: SiteName,
    #[command(flatten)]
    access: Access,
}

impl SiteCommand {
    /// Carries the command out.
    pub fn run(self) -> Result<()> {
        match self {
            Self::Register(register) => block_on(register.run()),
            Self::Start(start) => start.run(),
            Self::List(list) => block_on(list.run()),
            Self::Show(show) => block_on(show.run()),
            Self::Remove(remove) => block_on(remove.run()),
        }
    }
}

impl Register {
    async fn run(self) -> Result<()> {
        let config = SiteConfig::load(&self.config)?;
        let file = self.config.display();
        ensure!(
            config.name == self.name,
            "{file} is the configuration of site {}, not of {}",
            config.name,
            self.name
        );
        let request = JoinRequest {
            joiner: Joiner::Site { name: self.name },
            endpoint: config.origin.to_string(),
            address: config.advertise.to_string(),
        };
        let coordinator = config.coordinator.to_string();
        let joined = join_into(&config.state_dir, &coordinator, &self.token.read()?, &request).await?;
        let cluster = &joined.view.cluster;
        Output::new(false).line(format!(
            "site {} has joined cluster {cluster}; next: globalfs site start --config {file}",
            config.name
        ))?;
        Ok(())
    }
}

impl Start {
    fn run(self) -> Result<()> {
        let config = SiteConfig::load(&self.config)?;
        self.daemon
            .run(Component::Site, |stop| async move { SiteDaemon::open(config).await?.run(stop).await })
    }
}

impl List {
    async fn run(self) -> Result<()> {
        let status = self.access.connect().await?.status().await?;
        let output = Output::new(self.json);
        output.json(&status.view.sites)?;
        Ok(output.line(sites_table(&status.view.sites))?)
    }
}

impl Show {
    async fn run(self) -> Result<()> {
        let status = self.list.access.connect().await?.status().await?;
        let site = status.view.site(&self.name);
        let site =
            site.with_context(|| format!("site {} is not registered; see 'globalfs site list'", self.name))?;
        let output = Output::new(self.list.json);
        output.json(site)?;
        let rows = details(site).into_iter().map(|(name, value)| [name.to_owned(), value]).collect();
        Ok(output.table(["SITE", site.name.as_str()], rows)?)
    }
}

impl Remove {
    async fn run(self) -> Result<()> {
        self.access.connect().await?.remove_site(&self.name).await?;
        Ok(Output::new(false).line(format!("site {} is removed", self.name))?)
    }
}

/// A line for each site.
pub(super) fn sites_table(sites: &[SiteRecord]) -> String {
    let row = |site: &SiteRecord| {
        let health = &site.health;
        [
            site.name.to_string(),
            role_text(site.role).to_owned(),
            status_text(site.status).to_owned(),
            if health.origin_reachable { "ok" } else { "UNREACHABLE" }.to_owned(),
            format!(
                "{} of {}",
                output::bytes(health.disk_free_bytes),
                output::bytes(health.disk_total_bytes)
            ),
            format!(
                "{} of {}",
                output::bytes(health.cache_used_bytes),
                output::bytes(health.cache_quota_bytes)
            ),
            format!("{}%", health.cpu_load_percent),
            site.address.clone(),
        ]
    };
    let head = ["SITE", "ROLE", "STATUS", "ORIGIN", "DISK FREE", "CACHE USED", "LOAD", "ADDRESS"];
    output::table(head, sites.iter().map(row).collect())
}

fn status_text(status: SiteStatus) -> &'static str {
    match status {
        SiteStatus::Active => "active",
        SiteStatus::Unreachable => "UNREACHABLE",
    }
}

fn details(site: &SiteRecord) -> Vec<(&'static str, String)> {
    let health = &site.health;
    vec![
        ("role", role_text(site.role).to_owned()),
        ("status", status_text(site.status).to_owned()),
        ("address", site.address.clone()),
        ("origin", site.endpoint.clone()),
        ("origin reachable", if health.origin_reachable { "yes" } else { "NO" }.to_owned()),
        ("disk free", output::bytes(health.disk_free_bytes)),
        ("disk total", output::bytes(health.disk_total_bytes)),
        ("cache used", output::bytes(health.cache_used_bytes)),
        ("cache quota", output::bytes(health.cache_quota_bytes)),
        ("load", format!("{}%", health.cpu_load_percent)),
        ("last heartbeat", site.last_heartbeat.to_string()),
        ("registered", site.registered_at.to_string()),
        ("version", health.version.clone()),
    ]
}
