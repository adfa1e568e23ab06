//! Where a process of a local cluster runs: loopback, or a network namespace with an address of its own.

use anyhow::{Context, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::ops::Range;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// Ports for daemons: above those of well-known services, below those that Linux and others give to connections.
const PORTS: Range<u16> = 20_000..32_000;

/// A network and the address under which others reach what runs in it.
#[derive(Debug, Clone)]
pub struct Place {
    address: IpAddr,
    namespace: Option<PathBuf>,
}

/// Where each part of a cluster runs. A site that is not named runs on loopback, a node where its site does.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// The coordinator's place.
    pub coordinator: Place,
    /// The places of sites and of their nodes, by the site's name.
    pub sites: BTreeMap<String, Place>,
    /// The places of nodes that run elsewhere than their site, by the node's name.
    pub nodes: BTreeMap<String, Place>,
}

impl Default for Place {
    fn default() -> Self {
        Self { address: Ipv4Addr::LOCALHOST.into(), namespace: None }
    }
}

impl Place {
    /// A network namespace, named by a file such as `/run/netns/NAME`, that others reach at `address`.
    pub fn in_namespace(address: IpAddr, file: &Path) -> Self {
        Self { address, namespace: Some(file.to_owned()) }
    }

    /// Runs `work` in this place's network; processes that it starts stay there.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let Some(file) = &self.namespace else { return work() };
        // A thread of its own, because one that has entered a network would have to find its way back.
        let entered = || {
            let namespace = File::open(file)?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            anyhow::Ok(())
        };
        let visit = || {
            entered().with_context(|| format!("cannot enter the network {}", file.display()))?;
            work()
        };
        let visited = std::thread::scope(|scope| scope.spawn(visit).join());
        visited.unwrap_or_else(|_| Err(anyhow!("a thread in {} panicked", file.display())))
    }

    /// A port that is free for UDP and for TCP under the address that others use.
    pub(super) fn free_port(&self) -> Result<SocketAddr> {
        self.enter(|| free_port(self.address))
    }

    /// A port that only this network reaches.
    pub(super) fn free_private_port(&self) -> Result<SocketAddr> {
        self.enter(|| free_port(Ipv4Addr::LOCALHOST.into()))
    }

    /// Where a daemon listens that others reach at `address`: in a namespace everywhere, because its
    /// neighbours come over loopback.
    pub(super) fn listen_address(&self, address: SocketAddr) -> SocketAddr {
        match self.namespace {
            None => address,
            Some(_) => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()),
        }
    }
}

/// A port below those that the system gives to connections, which would take it before the daemon does. No port is told
/// twice by this process before all others were.
fn free_port(address: IpAddr) -> Result<SocketAddr> {
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    let next = NEXT.get_or_init(|| AtomicU16::new(rand::random_range(0..PORTS.len() as u16)));
    let ports = PORTS.map(|_| PORTS.start + next.fetch_add(1, Ordering::Relaxed) % PORTS.len() as u16);
    let is_free =
        |address: &SocketAddr| TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok();
    let found = ports.map(|port| SocketAddr::new(address, port)).find(is_free);
    found.with_context(|| format!("no port of {address} is free for both UDP and TCP"))
}

impl Places {
    /// Where `site` runs.
    pub(super) fn of_site(&self, site: &str) -> Place {
        self.sites.get(site).cloned().unwrap_or_default()
    }

    /// Where `node` of `site` runs.
    pub(super) fn of_node(&self, node: &str, site: &str) -> Place {
        self.nodes.get(node).cloned().unwrap_or_else(|| self.of_site(site))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_the_default_and_needs_no_rights() {
        let place = Places::default().of_site("cloud");
        let port = place.free_port().unwrap();
        assert!(port.ip().is_loopback());
        assert_eq!(place.listen_address(port), port);
        assert_eq!(place.enter(|| Ok(1)).unwrap(), 1);
    }

    #[test]
    fn a_namespace_that_is_missing_is_named() {
        let place = Place::in_namespace(Ipv4Addr::new(10, 0, 0, 1).into(), Path::new("/run/netns/absent"));
        let error = format!("{:#}", place.enter(|| Ok(())).unwrap_err());
        assert!(error.contains("/run/netns/absent"), "{error}");
        let listen = place.listen_address("10.0.0.1:7".parse().unwrap());
        assert_eq!(listen, "0.0.0.0:7".parse().unwrap());
    }
}
