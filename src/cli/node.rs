//! `globalfs node`: joins, lists and removes nodes.

use super::access::Access;
use super::daemon::block_on;
use super::output::Output;
use super::token::TokenArgs;
use crate::config::MountConfig;
use anyhow::{Result, ensure};
use globalfs_controlplane::client::{JoinRequest, join_into};
use globalfs_controlplane::model::token::Joiner;
use globalfs_proto::{NodeName, SiteName};
use std::path::PathBuf;

/// Subcommands of `globalfs node`.
#[derive(Debug, clap::Subcommand)]
pub enum NodeCommand {
    /// Join the cluster: get this node's certificate for a one-time token
    #[command(
        after_help = "Example:\n  globalfs node register node-17 --config /etc/globalfs/globalfs.yaml --token gfs1..."
    )]
    Register(Register),
    /// List the nodes that have joined
    List(List),
    /// Remove a node: its certificate stops working
    Remove(Remove),
}

/// Arguments of `globalfs node register`.
#[derive(Debug, clap::Args)]
pub struct Register {
    /// The node's name, as in its configuration and in the token
    name: NodeName,
    /// The node's configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/globalfs/globalfs.yaml")]
    config: PathBuf,
    #[command(flatten)]
    token: TokenArgs,
}

/// Arguments of `globalfs node list`.
#[derive(Debug, clap::Args)]
pub struct List {
    #[command(flatten)]
    access: Access,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `globalfs node remove`.
#[derive(Debug, clap::Args)]
pub struct Remove {
    /// The node
    name: NodeName,
    /// Its site
    #[arg(long, value_name = "NAME")]
    site: SiteName,
    #[command(flatten)]
    access: Access,
}

impl NodeCommand {
    /// Carries the command out.
    pub fn run(self) -> Result<()> {
        match self {
            Self::Register(register) => block_on(register.run()),
            Self::List(list) => block_on(list.run()),
            Self::Remove(remove) => block_on(remove.run()),
        }
    }
}

impl Register {
    async fn run(self) -> Result<()> {
        let config = MountConfig::load(&self.config)?;
        let file = self.config.display();
        ensure!(
            config.node == self.name,
            "{file} is the configuration of node {}, not of {}",
            config.node,
            self.name
        );
        let request = JoinRequest {
            joiner: Joiner::Node { name: self.name, site: config.site.clone() },
            endpoint: String::new(),
            address: String::new(),
        };
        let coordinator = config.coordinator.to_string();
        join_into(&config.state_dir, &coordinator, &self.token.read()?, &request).await?;
        let said = format!(
            "node {} has joined site {}; next: globalfs mount /globalfs --config {file}",
            config.node, config.site
        );
        Ok(Output::new(false).line(said)?)
    }
}

impl List {
    async fn run(self) -> Result<()> {
        let view = self.access.connect().await?.view().await?;
        let output = Output::new(self.json);
        output.json(&view.nodes)?;
        let row = |node: &globalfs_controlplane::model::record::NodeRecord| {
            [node.name.to_string(), node.site.to_string(), node.registered_at.to_string()]
        };
        Ok(output.table(["NODE", "SITE", "REGISTERED"], view.nodes.iter().map(row).collect())?)
    }
}

impl Remove {
    async fn run(self) -> Result<()> {
        self.access.connect().await?.remove_node(&self.name, &self.site).await?;
        Ok(Output::new(false).line(format!("node {} of site {} is removed", self.name, self.site))?)
    }
}
