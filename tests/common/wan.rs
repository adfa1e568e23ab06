//! Two networks with a link between them that can be cut: `onprem` and the coordinator in one, `cloud` in the other.
//! A cut loses every packet and tells nobody, as a WAN does.

use globalfs::local::{Place, Places};
use std::collections::BTreeMap;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// Addresses of the ends; nothing else is in these networks.
const HOME: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const CLOUD: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);

/// The name of the link in both networks.
const LINK: &str = "wan";

/// What no end of the link listens to.
const NOBODY: &str = "02:00:00:00:00:01";

/// The two networks. They go with this value.
pub struct Wan {
    home: Network,
    cloud: Network,
}

/// A network namespace, which lives as long as a process in it.
struct Network {
    holder: Child,
    address: Ipv4Addr,
}

impl Wan {
    /// Makes the networks and the link, whole.
    pub fn new() -> Self {
        let (home, cloud) = (Network::new(HOME), Network::new(CLOUD));
        let far = cloud.holder.id().to_string();
        home.ip(&["link", "add", LINK, "type", "veth", "peer", "name", LINK, "netns", &far]);
        for network in [&home, &cloud] {
            network.ip(&["address", "add", &format!("{}/24", network.address), "dev", LINK]);
            network.ip(&["link", "set", LINK, "up"]);
        }
        Self { home, cloud }
    }

    /// Where the parts of a cluster run.
    pub fn places(&self) -> Places {
        let sites = [("onprem", &self.home), ("cloud", &self.cloud)];
        Places {
            coordinator: self.home.place(),
            sites: sites.map(|(site, network)| (site.to_owned(), network.place())).into(),
            nodes: BTreeMap::new(),
        }
    }

    /// From now on what is sent arrives nowhere.
    pub fn cut(&self) {
        for (network, peer) in self.ends() {
            let peer = peer.to_string();
            network.ip(&["neigh", "replace", &peer, "lladdr", NOBODY, "nud", "permanent", "dev", LINK]);
        }
    }

    /// It arrives again.
    pub fn heal(&self) {
        for (network, peer) in self.ends() {
            network.ip(&["neigh", "del", &peer.to_string(), "dev", LINK]);
        }
    }

    fn ends(&self) -> [(&Network, Ipv4Addr); 2] {
        [(&self.home, CLOUD), (&self.cloud, HOME)]
    }
}

impl Network {
    fn new(address: Ipv4Addr) -> Self {
        let script = "ip link set lo up && echo && exec cat";
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        // It ends when its input does: when this process ends, however that is.
        let mut holder = command.spawn().unwrap();
        holder.stdout.as_mut().unwrap().read_exact(&mut [0]).expect("a network of its own");
        Self { holder, address }
    }

    fn file(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.holder.id()))
    }

    fn place(&self) -> Place {
        Place::in_namespace(IpAddr::V4(self.address), &self.file())
    }

    fn ip(&self, args: &[&str]) {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.file().display())).arg("ip").args(args);
        assert!(command.status().unwrap().success(), "ip {args:?}");
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
