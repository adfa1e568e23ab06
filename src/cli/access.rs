//! How a command reaches the coordinator: as administrator with the coordinator's own configuration, as a
//! site or a node with theirs.

use crate::config::Document;
use anyhow::{Context, Result, bail};
use globalfs_controlplane::ca::admin_dir;
use globalfs_controlplane::client::ControlClient;
use globalfs_controlplane::files::{CertFiles, FilesError};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Where configurations are looked for when none is named, the administrator's first.
const DEFAULTS: [&str; 3] =
    ["/etc/globalfs/coordinator.yaml", "/etc/globalfs/site.yaml", "/etc/globalfs/globalfs.yaml"];

/// Arguments of every command that asks the coordinator.
#[derive(Debug, Clone, clap::Args)]
pub struct Access {
    /// The configuration of this machine's coordinator (to act as administrator), site or node; by default
    /// the first of these in /etc/globalfs
    #[arg(long, value_name = "FILE", env = "GLOBALFS_CONFIG")]
    pub config: Option<PathBuf>,
}

impl Access {
    /// The configuration's path: what was named, or the first default that exists.
    pub fn path(&self) -> Result<PathBuf> {
        let given = self.config.clone();
        let found = given.or_else(|| DEFAULTS.iter().map(PathBuf::from).find(|path| path.exists()));
        found.with_context(|| {
            format!("no configuration: name one with --config, or write {}", DEFAULTS.join(" or "))
        })
    }

    /// Connects to the coordinator as who the configuration stands for.
    pub async fn connect(&self) -> Result<ControlClient> {
        let path = self.path()?;
        let (endpoint, dir) = match Document::load(&path)? {
            Document::Coordinator(config) => {
                (reachable(config.listen).to_string(), admin_dir(&config.data_dir))
            }
            Document::Site(config) => (config.coordinator.to_string(), config.state_dir),
            Document::Mount(config) => (config.coordinator.to_string(), config.state_dir),
            Document::Policy(_) => bail!(
                "{} has policies only; expected a coordinator's, site's or node's configuration",
                path.display()
            ),
        };
        Ok(ControlClient::connect(&endpoint, &load(&dir)?).await?)
    }
}

fn load(dir: &Path) -> Result<CertFiles> {
    match CertFiles::load(dir) {
        Err(FilesError::NotJoined(dir)) if dir.ends_with("admin") => bail!(
            "no administrator's certificate in {}: the coordinator makes it at its first start",
            dir.display()
        ),
        files => Ok(files?),
    }
}

/// Where a server that listens on `address` is reached from its own machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = if address.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { address.ip() };
    SocketAddr::new(ip, address.port())
}
