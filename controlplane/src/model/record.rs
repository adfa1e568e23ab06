//! What the metadata store holds: JSON that an operator can read with `etcdctl get --prefix /globalfs/`.
//!
//! *Invariant:* a key names exactly one record and a record's name equals its key's; secrets are never in
//! a record, only their hashes.

use super::lease::{Epoch, LeaseScope, RequestNumber};
use super::policy::{Policy, PolicyError, PolicySet};
use super::replica_state::ReplicaHealth;
use super::timestamp::Timestamp;
use globalfs_proto::{GlobalPath, NodeName, PeerIdentity, SiteName};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// Where the record of the cluster itself is.
pub const CLUSTER_KEY: &str = "/globalfs/metadata/cluster";
/// Where the policies are.
pub const POLICIES_KEY: &str = "/globalfs/metadata/policies";
/// What the keys of sites begin with.
pub const SITES_PREFIX: &str = "/globalfs/metadata/sites/";
/// What the keys of nodes begin with.
pub const NODES_PREFIX: &str = "/globalfs/metadata/nodes/";
/// What the keys of tokens begin with.
pub const TOKENS_PREFIX: &str = "/globalfs/metadata/tokens/";

/// What the keys of write leases begin with; the path follows.
pub const NAMESPACE_PREFIX: &str = "/globalfs/metadata/namespace";
/// Where the highest epoch is that was ever granted.
pub const EPOCH_KEY: &str = "/globalfs/metadata/leases/epoch";
/// Where it says which coordinator grants leases.
pub const LEADER_KEY: &str = "/globalfs/metadata/leader";

/// Most sites of a cluster.
pub const MAX_SITES: usize = 1024;
/// Most nodes of a cluster.
pub const MAX_NODES: usize = 20_000;
/// Longest address or endpoint in bytes.
pub const MAX_ADDRESS_BYTES: usize = 1024;

/// What a site is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SiteRole {
    /// Home of the data.
    Primary,
    /// Computes when the primary is full.
    Burst,
    /// Keeps copies.
    Backup,
}

/// Whether a site is heard from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SiteStatus {
    /// Its heartbeats arrive.
    Active,
    /// No heartbeat for longer than the limit.
    Unreachable,
}

/// What a site's daemon says about itself in a heartbeat.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// Load average over one minute in percent of the processors.
    pub cpu_load_percent: u32,
    /// Free bytes of the origin's file system.
    pub disk_free_bytes: u64,
    /// All bytes of the origin's file system.
    pub disk_total_bytes: u64,
    /// Whether the origin answers.
    pub origin_reachable: bool,
    /// Bytes in the site's cache.
    pub cache_used_bytes: u64,
    /// Limit of the site's cache.
    pub cache_quota_bytes: u64,
    /// Version of the program.
    pub version: String,
    /// What is not home, for each lease that owes something.
    pub pending: Vec<PendingChanges>,
    /// Its replicas, if it is to have any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<ReplicaHealth>,
}

/// A registered site, at `/globalfs/metadata/sites/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteRecord {
    /// Its name.
    pub name: SiteName,
    /// Whether it is heard from, as of the last write of this record.
    pub status: SiteStatus,
    /// What it is for.
    pub role: SiteRole,
    /// The storage that it owns, such as `file:///mnt/objectfs-cloud`.
    pub endpoint: String,
    /// Host and port where its daemon answers other sites and its nodes.
    pub address: String,
    /// What it said about itself last.
    pub health: Health,
    /// When its last heartbeat came.
    pub last_heartbeat: Timestamp,
    /// When it first registered.
    pub registered_at: Timestamp,
    /// Hash of the public key of its certificate: another certificate with its name is not this site.
    pub key_fingerprint: String,
}

/// A registered node, at `/globalfs/metadata/nodes/SITE/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its name, unique within its site.
    pub name: NodeName,
    /// The site whose daemon it talks to.
    pub site: SiteName,
    /// When it first registered.
    pub registered_at: Timestamp,
    /// Hash of the public key of its certificate.
    pub key_fingerprint: String,
}

/// A subtree that a site holds a write lease on, at `/globalfs/metadata/namespace/PATH`. What its master changes there is
/// on its way home.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterRecord {
    /// What the lease is on.
    #[serde(flatten)]
    pub scope: LeaseScope,
    /// The site that holds it.
    pub master: SiteName,
    /// The fence.
    pub epoch: Epoch,
    /// The lease's number at its holder.
    pub request: RequestNumber,
    /// The holder is the master; before that it takes over what is there, and nobody changes it.
    pub ready: bool,
    /// An administrator has given up what was not home.
    #[serde(default)]
    pub abandoned: bool,
    /// When it was granted.
    pub since: Timestamp,
}

/// What a site has changed under one lease and not brought home yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingChanges {
    /// What the lease is on.
    pub path: GlobalPath,
    /// Paths.
    pub files: u64,
    /// Bytes of the files among them, as far as known.
    pub bytes: u64,
    /// When the oldest change was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<Timestamp>,
    /// Some of the paths.
    #[serde(default)]
    pub paths: Vec<GlobalPath>,
    /// Why they do not come home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Paths of them that are owed for longer than their policy permits.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub late: u64,
}

/// The cluster itself, at `/globalfs/metadata/cluster`. Every change of sites, nodes, addresses or policies
/// is one transaction that also raises `revision`, so such changes are in one order for all coordinators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// The cluster's name.
    pub cluster: String,
    /// Home of the paths that no policy matches.
    pub default_primary: SiteName,
    /// Raised by every change that a view shows.
    pub revision: u64,
    /// Fingerprint of the cluster's certificate authority.
    pub ca_fingerprint: String,
    /// When a coordinator first ran for this cluster.
    pub created_at: Timestamp,
}

/// All that sites and nodes need to know of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterView {
    /// Two views of one revision name the same sites, addresses, nodes and policies.
    pub revision: u64,
    /// The cluster's name.
    pub cluster: String,
    /// Home of the paths that no policy matches.
    pub default_primary: SiteName,
    /// The registered sites by name.
    pub sites: Vec<SiteRecord>,
    /// The registered nodes by site and name.
    pub nodes: Vec<NodeRecord>,
    /// The policies in the order in which they are tried.
    pub policies: Vec<Policy>,
    /// The subtrees that another site masters than policy says, by path.
    #[serde(default)]
    pub masters: Vec<MasterRecord>,
}

impl MasterRecord {
    /// Where the record of the lease on `path` is.
    pub fn key(path: &GlobalPath) -> String {
        format!("{NAMESPACE_PREFIX}{}", String::from(path.clone()))
    }
}

impl SiteRecord {
    /// Where this record is.
    pub fn key(name: &SiteName) -> String {
        format!("{SITES_PREFIX}{name}")
    }

    /// The status that follows from the age of the last heartbeat.
    pub fn status_at(&self, now: Timestamp, unreachable_after: Duration) -> SiteStatus {
        status_at(self.last_heartbeat, now, unreachable_after)
    }
}

impl NodeRecord {
    /// Where this record is.
    pub fn key(site: &SiteName, name: &NodeName) -> String {
        format!("{NODES_PREFIX}{site}/{name}")
    }
}

impl ClusterView {
    /// The site called `name`, when it is registered.
    pub fn site(&self, name: &SiteName) -> Option<&SiteRecord> {
        self.sites.iter().find(|site| site.name == *name)
    }

    /// Its policies, ready to decide. They may name sites that are declared and not registered yet.
    pub fn policy_set(&self) -> Result<PolicySet, PolicyError> {
        let named = self.policies.iter().flat_map(|policy| policy.primary.iter().chain(&policy.replicate_to));
        let sites = self.sites.iter().map(|site| &site.name).chain([&self.default_primary]).chain(named);
        let sites: Vec<SiteName> = sites.cloned().collect();
        PolicySet::new(self.policies.clone(), &sites, self.default_primary.clone())
    }

    /// Whether `key_fingerprint` is the key with which `peer` registered. Coordinators and administrators
    /// have no record: their certificates alone speak for them.
    pub fn admits(&self, peer: &PeerIdentity, key_fingerprint: &str) -> bool {
        match peer {
            PeerIdentity::Coordinator | PeerIdentity::Admin => true,
            PeerIdentity::Site(name) => {
                self.site(name).is_some_and(|site| site.key_fingerprint == key_fingerprint)
            }
            PeerIdentity::Node(name, site) => self
                .nodes
                .iter()
                .find(|node| node.name == *name && node.site == *site)
                .is_some_and(|node| node.key_fingerprint == key_fingerprint),
        }
    }
}

/// Active while the last heartbeat is at most `unreachable_after` old.
pub fn status_at(last_heartbeat: Timestamp, now: Timestamp, unreachable_after: Duration) -> SiteStatus {
    if now.since(last_heartbeat) <= unreachable_after { SiteStatus::Active } else { SiteStatus::Unreachable }
}

pub(super) fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Why text is not `host:port` with a port above zero.
pub fn address_fault(address: &str) -> Option<String> {
    let port =
        address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
    match port {
        _ if address.len() > MAX_ADDRESS_BYTES => {
            Some(format!("an address has at most {MAX_ADDRESS_BYTES} bytes"))
        }
        Some(Ok(port)) if port > 0 => None,
        _ => Some(format!("'{address}' is not an address like host:port")),
    }
}

impl fmt::Display for SiteRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "primary",
            Self::Burst => "burst",
            Self::Backup => "backup",
        })
    }
}

impl fmt::Display for SiteStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Active { "active" } else { "unreachable" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_follows_the_age_of_the_heartbeat() {
        let (beat, limit) = (Timestamp::from_unix_ms(100_000), Duration::from_secs(30));
        let check = |now_ms, status| {
            assert_eq!(status_at(beat, Timestamp::from_unix_ms(now_ms), limit), status, "{now_ms}");
        };
        check(100_000, SiteStatus::Active);
        check(130_000, SiteStatus::Active);
        check(130_001, SiteStatus::Unreachable);
        check(50_000, SiteStatus::Active);
    }

    #[test]
    fn a_site_is_json_for_operators() {
        let name = SiteName::new("cloud").unwrap();
        let site = SiteRecord {
            name: name.clone(),
            status: SiteStatus::Active,
            role: SiteRole::Burst,
            endpoint: "file:///mnt/objectfs-cloud".into(),
            address: "cloud.example:7440".into(),
            health: Health { cpu_load_percent: 10, ..Health::default() },
            last_heartbeat: Timestamp::from_unix_ms(0),
            registered_at: Timestamp::from_unix_ms(0),
            key_fingerprint: "00".into(),
        };
        let text = serde_json::to_string(&site).unwrap();
        for part in [r#""name":"cloud","status":"active","role":"burst""#, r#""cpu_load_percent":10"#] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(serde_json::from_str::<SiteRecord>(&text).unwrap(), site);
        assert_eq!(SiteRecord::key(&name), "/globalfs/metadata/sites/cloud");
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        for good in ["a:1", "10.0.0.1:7440", "[::1]:65535"] {
            assert_eq!(address_fault(good), None);
        }
        for bad in ["", "a", "a:", ":1", "a:0", "a:65536", "a:b"] {
            assert!(address_fault(bad).is_some(), "{bad}");
        }
    }
}
