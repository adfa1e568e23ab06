//! `globalfs token`: one-time tokens with which sites and nodes join.

use super::access::Access;
use super::daemon::block_on;
use super::output::Output;
use globalfs_controlplane::model::token::Joiner;
use globalfs_proto::{NodeName, SiteName};
use humantime::Duration;

/// Subcommands of `globalfs token`.
#[derive(Debug, clap::Subcommand)]
pub enum TokenCommand {
    /// Make a token that lets one site or node join, once
    #[command(after_help = CREATE_HELP)]
    Create(Create),
}

const CREATE_HELP: &str = "\
The token is printed on stdout and shown never again. It is good for one machine of the given name.

Examples:
  globalfs token create --site cloud
  globalfs token create --node node-17 --site cloud --ttl 1h";

/// Arguments of `globalfs token create`.
#[derive(Debug, clap::Args)]
pub struct Create {
    /// The site that joins, or to which the node belongs
    #[arg(long, value_name = "NAME")]
    site: SiteName,
    /// The node that joins
    #[arg(long, value_name = "NAME")]
    node: Option<NodeName>,
    /// How long the token is good
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    ttl: Duration,
    #[command(flatten)]
    access: Access,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl TokenCommand {
    /// Carries the command out.
    pub fn run(self) -> anyhow::Result<()> {
        let Self::Create(create) = self;
        block_on(create.run())
    }
}

impl Create {
    async fn run(self) -> anyhow::Result<()> {
        let joiner = match self.node {
            Some(name) => Joiner::Node { name, site: self.site },
            None => Joiner::Site { name: self.site },
        };
        let token = self.access.connect().await?.create_token(&joiner, self.ttl.into()).await?;
        let output = Output::new(self.json);
        output.line(&token)?;
        Ok(output.json(&serde_json::json!({ "token": token }))?)
    }
}

/// How a joining machine is given its token.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct TokenArgs {
    /// The one-time token from 'globalfs token create'
    #[arg(long, value_name = "TOKEN", env = "GLOBALFS_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// A file that holds the token; - for standard input
    #[arg(long, value_name = "FILE")]
    token_file: Option<std::path::PathBuf>,
}

impl TokenArgs {
    /// The token's text.
    pub fn read(&self) -> anyhow::Result<String> {
        use anyhow::Context;
        let text = match (&self.token, &self.token_file) {
            (Some(token), _) => token.clone(),
            (None, Some(path)) if path.as_os_str() == "-" => std::io::read_to_string(std::io::stdin())?,
            (None, Some(path)) => {
                std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?
            }
            (None, None) => unreachable!("clap requires one of the two"),
        };
        Ok(text.trim().to_owned())
    }
}
