//! The policy file, and the same list inline in a coordinator's file.
//!
//! *Invariant:* policies that load fit together; where the cluster's sites are known, they name no other.

use super::Kind;
use super::fields::{Fields, list, nearest, scalar};
use super::problem::{ConfigError, Position, Problems};
use super::tree::{Node, Value};
use super::value::{Age, Ttl};
use globalfs_controlplane::model::policy::{Policy, PolicyError, PolicySet};
use globalfs_proto::SiteName;
use std::path::Path;

/// The keys by which a policy file is recognised.
pub(super) const KEYS: &[&str] = &["policies"];

const LIST: &str = "a list of policies";

/// A policy file that was read without knowledge of the cluster's sites.
#[derive(Debug, Clone)]
pub struct PolicyConfig {
    /// The policies; the sites that they name count as the cluster's, and the default primary is the first
    /// of them, which need not be the cluster's real one.
    pub policies: PolicySet,
}

impl PolicyConfig {
    /// Reads and checks the policy file `path`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        super::load_as(path, Kind::Policy, Self::read)
    }

    pub(super) fn read(root: &Node, problems: &Problems) -> Option<Self> {
        read_file(root, None, problems).map(|policies| Self { policies })
    }
}

/// The sites of a cluster, where they are known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cluster<'a> {
    pub(super) sites: &'a [SiteName],
    pub(super) primary: &'a SiteName,
}

/// Reads the policy file `path` of `cluster`.
pub(super) fn load_for(path: &Path, cluster: Cluster<'_>) -> Result<PolicySet, ConfigError> {
    let problems = Problems::new(path);
    let set = Node::read(path, &problems).and_then(|root| read_file(&root, Some(cluster), &problems));
    problems.finish(set)
}

fn read_file(root: &Node, cluster: Option<Cluster<'_>>, problems: &Problems) -> Option<PolicySet> {
    let fields = Fields::of(root, "a policy file", problems)?;
    let entry = fields.required_entry("policies", LIST);
    fields.finish();
    read_list(&entry?.node, cluster, problems)
}

/// Reads the value of `policies`.
pub(super) fn read_list(node: &Node, cluster: Option<Cluster<'_>>, problems: &Problems) -> Option<PolicySet> {
    let nodes = list("policies", node, LIST, problems)?;
    let read: Vec<_> = nodes.iter().map(|node| read_policy(node, cluster, problems)).collect();
    let policies = read.into_iter().collect::<Option<Vec<Policy>>>()?;
    let mentioned = mentioned(&policies);
    let Cluster { sites, primary } =
        cluster.unwrap_or_else(|| Cluster { sites: &mentioned, primary: &mentioned[0] });
    let places: Vec<_> = policies.iter().map(|policy| policy.name.clone()).zip(nodes).collect();
    match PolicySet::new(policies, sites, primary.clone()) {
        Ok(set) => Some(set),
        Err(error) => {
            problems.add(place_of(&error, &places).unwrap_or(node.position), error.to_string());
            None
        }
    }
}

fn read_policy(node: &Node, cluster: Option<Cluster<'_>>, problems: &Problems) -> Option<Policy> {
    let fields = Fields::of(node, "a policy", problems)?;
    let name = fields.required("name");
    let pattern = fields.required("pattern");
    let primary = fields
        .required_entry("primary", "a site's name, or null where each site keeps its own files")
        .and_then(|entry| match entry.node.value {
            Value::Null => Some(None),
            _ => read_site("primary", &entry.node, cluster, problems).map(Some),
        });
    let replicas = fields.list("replicate_to", "a list of sites' names such as [cloud]").iter();
    let replicas: Vec<_> = replicas.map(|node| read_site("replicate_to", node, cluster, problems)).collect();
    let sync_mode = fields.required("sync_mode");
    let priority = fields.optional("priority").unwrap_or_default();
    let on_disconnect = fields.optional("on_disconnect").unwrap_or_default();
    let consistency = fields.optional("consistency").unwrap_or_default();
    let staleness = fields.optional::<Ttl>("staleness").map(|ttl| ttl.0);
    let sync_deadline = fields.optional::<Age>("sync_deadline").map(|age| age.0);
    let bandwidth = fields.optional("bandwidth");
    fields.finish();
    let replicate_to = replicas.into_iter().collect::<Option<_>>()?;
    Some(Policy {
        name: name?,
        pattern: pattern?,
        primary: primary?,
        replicate_to,
        sync_mode: sync_mode?,
        priority,
        on_disconnect,
        consistency,
        staleness,
        sync_deadline,
        bandwidth,
    })
}

fn read_site(key: &str, node: &Node, cluster: Option<Cluster<'_>>, problems: &Problems) -> Option<SiteName> {
    let site = scalar::<SiteName>(key, node, problems)?;
    let Some(Cluster { sites, .. }) = cluster.filter(|cluster| !cluster.sites.contains(&site)) else {
        return Some(site);
    };
    let names: Vec<&str> = sites.iter().map(SiteName::as_str).collect();
    let hint = nearest(site.as_str(), names.iter().copied());
    let hint = hint.map(|near| format!(" (did you mean `{near}`?)")).unwrap_or_default();
    let message = format!("`{key}`: unknown site {site}{hint}; expected one of {}", names.join(", "));
    problems.add(node.position, message);
    None
}

/// The sites that the policies name, primaries first; never empty.
fn mentioned(policies: &[Policy]) -> Vec<SiteName> {
    let primaries = policies.iter().filter_map(|policy| policy.primary.clone());
    let replicas = policies.iter().flat_map(|policy| policy.replicate_to.iter().cloned());
    let mut sites: Vec<SiteName> = primaries.chain(replicas).collect();
    if sites.is_empty() {
        sites.push(SiteName::new("primary").expect("a DNS label"));
    }
    sites
}

/// The last policy of the name that the error tells: of two with one name it is the one to mend.
fn place_of(error: &PolicyError, places: &[(String, &Node)]) -> Option<Position> {
    let PolicyError::Policy { policy, .. } = error else { return None };
    places.iter().rev().find(|(name, _)| name == policy).map(|(_, node)| node.position)
}

#[cfg(test)]
mod tests {
    use super::*;
    use globalfs_controlplane::model::travel::ByteRate;
    use std::time::Duration;

    fn load(keys: &str) -> Result<Policy, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let policy = format!("{{name: p, pattern: /a/**, primary: onprem, sync_mode: async, {keys}}}");
        std::fs::write(file.path(), format!("policies:\n  - {policy}\n")).unwrap();
        let loaded = PolicyConfig::load(file.path()).map_err(|error| error.to_string())?;
        Ok(loaded.policies.policies()[0].clone())
    }

    #[test]
    fn how_old_how_late_and_how_fast() {
        let policy = load("staleness: 0s, sync_deadline: 10m, bandwidth: 100MB/s").unwrap();
        assert_eq!(policy.staleness, Some(Duration::ZERO));
        assert_eq!(policy.sync_deadline, Some(Duration::from_secs(600)));
        assert_eq!(policy.bandwidth, Some(ByteRate(100_000_000)));
        for (keys, part) in [
            ("staleness: 2days", "staleness"),
            ("staleness: 5", "staleness"),
            ("sync_deadline: 10ms", "sync_deadline"),
            ("bandwidth: 100MB", "100MB/s or 1GiB/s"),
            ("bandwidth: 1B/s", "bandwidth"),
            ("bandwith: 1MB/s", "did you mean"),
        ] {
            let error = load(keys).unwrap_err();
            assert!(error.contains(part), "{keys}: {error}");
        }
    }
}
