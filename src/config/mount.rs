//! `globalfs.yaml`: a node's mount.

use super::Kind;
use super::fields::Fields;
use super::problem::{ConfigError, Problems};
use super::site::{CacheConfig, read_cache};
use super::tree::Node;
use super::value::{ByteSize, Deadline, HostPort, Ttl};
use globalfs_dataplane::disk::Preference;
use globalfs_proto::limits::DEFAULT_DEADLINE;
use globalfs_proto::{NodeName, SiteName};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

const DEFAULT_CACHE_SIZE: ByteSize = ByteSize(10 << 30);

/// The keys by which a node's file is recognised.
pub(super) const KEYS: &[&str] = &[
    "site",
    "node",
    "coordinator",
    "daemon",
    "state_dir",
    "cache",
    "direct",
    "disk",
    "metrics",
    "attribute_ttl",
    "deadline",
    "traces",
];

/// The configuration of a node's mount.
#[derive(Debug, Clone)]
pub struct MountConfig {
    /// The site to which the node belongs.
    pub site: SiteName,
    /// The node's name within its site; the host's name unless the file says otherwise.
    pub node: NodeName,
    /// Where the coordinator is reached.
    pub coordinator: HostPort,
    /// Where the site's daemon is reached; `None`: where the coordinator says.
    pub daemon: Option<HostPort>,
    /// Certificates and what must survive a restart.
    pub state_dir: PathBuf,
    /// The node's cache.
    pub cache: CacheConfig,
    /// Where the node sees the site's origin itself, if it does.
    pub direct: Option<PathBuf>,
    /// Which disk engine is used.
    pub disk: Preference,
    /// Where it serves `/metrics`, if at all.
    pub metrics: Option<SocketAddr>,
    /// How long the kernel may keep names and attributes without asking again.
    pub attribute_ttl: Duration,
    /// What an operation is given before it ends in an error.
    pub deadline: Duration,
    /// What is done with what batch jobs read.
    pub traces: TraceMode,
}

/// What a mount does with what batch jobs read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TraceMode {
    /// Nothing.
    Off,
    /// It is recorded.
    Record,
    /// It is recorded, and brought to the site when the job runs again.
    Replay,
}

impl MountConfig {
    /// Reads and checks the file `path`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        super::load_as(path, Kind::Mount, Self::read)
    }

    pub(super) fn read(root: &Node, problems: &Problems) -> Option<Self> {
        let fields = Fields::of(root, "a node's configuration", problems)?;
        let site = fields.required("site");
        let node = fields.entry("node").map_or_else(|| Some(node_of_host()), |_| fields.optional("node"));
        let coordinator = fields.required("coordinator");
        let daemon = fields.optional("daemon");
        let state_dir = fields.path("state_dir").unwrap_or_else(|| "/var/lib/globalfs/node".into());
        let cache = read_cache(&fields, &state_dir, Some(DEFAULT_CACHE_SIZE), problems);
        let direct = fields.path("direct");
        let disk = fields.optional("disk").unwrap_or(Preference::Auto);
        let metrics = fields.optional("metrics");
        let attribute_ttl = fields.optional("attribute_ttl").map_or(Duration::from_secs(1), |Ttl(ttl)| ttl);
        let deadline = fields.optional("deadline").map_or(DEFAULT_DEADLINE, |Deadline(deadline)| deadline);
        let traces = fields.optional("traces").unwrap_or(TraceMode::Replay);
        fields.finish();
        Some(Self {
            site: site?,
            node: node?,
            coordinator: coordinator?,
            daemon,
            state_dir,
            cache: cache?,
            direct,
            disk,
            metrics,
            attribute_ttl,
            deadline,
            traces,
        })
    }
}

fn node_of_host() -> NodeName {
    label_of(&rustix::system::uname().nodename().to_string_lossy())
}

/// The first part of a host name as a DNS label in lower case; `node` when nothing of it can be kept.
fn label_of(host: &str) -> NodeName {
    let first = host.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let label: String =
        first.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(63).collect();
    NodeName::new(label.trim_matches('-')).unwrap_or_else(|_| NodeName::new("node").expect("a DNS label"))
}

#[cfg(test)]
mod tests {
    use super::label_of;

    #[test]
    fn host_names_become_labels() {
        let check = |host: &str, want: &str| assert_eq!(label_of(host).as_str(), want);
        check("c042.cluster.example.org", "c042");
        check("Login_1", "login-1");
        check("-x-", "x");
        check("...", "node");
        check("", "node");
        check("ü", "node");
        check(&"a".repeat(100), &"a".repeat(63));
    }
}
