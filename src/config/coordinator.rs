//! `coordinator.yaml`: the cluster's sites, its metadata store and its policies.
//!
//! *Invariants:* exactly one site is primary; every policy names sites of this file only.

use super::Kind;
use super::fields::{Fields, list, scalar};
use super::policy::{self, Cluster};
use super::problem::{ConfigError, Problems};
use super::tree::{Node, Value};
use globalfs_controlplane::model::policy::PolicySet;
use globalfs_controlplane::model::record::{MAX_SITES, SiteRole};
use globalfs_proto::SiteName;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// The port of a coordinator unless the file says otherwise.
pub const DEFAULT_COORDINATOR_PORT: u16 = 7440;

/// The keys by which a coordinator's file is recognised.
pub(super) const KEYS: &[&str] =
    &["cluster", "listen", "data_dir", "store", "metrics", "sites", "policy_file", "policies"];

/// The configuration of a coordinator.
#[derive(Debug, Clone)]
pub struct CoordinatorConfig {
    /// The cluster's name, a DNS label.
    pub cluster: String,
    /// Where it serves gRPC (TCP).
    pub listen: SocketAddr,
    /// Its CA, certificates and the embedded store.
    pub data_dir: PathBuf,
    /// Where metadata is kept.
    pub store: StoreConfig,
    /// Where it serves `/metrics`, if at all.
    pub metrics: Option<SocketAddr>,
    /// The sites of the cluster, one of them primary.
    pub sites: Vec<SiteEntry>,
    /// The policies, checked against the sites; the primary site is the default.
    pub policies: PolicySet,
}

/// A site as the coordinator knows it before the site registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteEntry {
    /// Its name.
    pub name: SiteName,
    /// What it is for.
    pub role: SiteRole,
}

/// Where metadata is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreConfig {
    /// In `data_dir`, by this one coordinator.
    Embedded,
    /// In an etcd cluster.
    Etcd(EtcdConfig),
}

/// How to reach etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdConfig {
    /// `http://HOST:PORT` or `https://HOST:PORT`, at least one.
    pub endpoints: Vec<String>,
    /// The CA that signed the servers' certificates (PEM).
    pub ca: Option<PathBuf>,
    /// Our certificate (PEM) and its key, both or neither.
    pub identity: Option<EtcdIdentity>,
    /// User and password, both or neither.
    pub login: Option<EtcdLogin>,
}

/// A client certificate for etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdIdentity {
    /// The certificate (PEM).
    pub cert: PathBuf,
    /// Its private key (PEM).
    pub key: PathBuf,
}

/// An etcd user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdLogin {
    /// The user's name.
    pub user: String,
    /// A file whose first line is the password, so that it stands in no configuration.
    pub password_file: PathBuf,
}

impl CoordinatorConfig {
    /// Reads and checks the file `path`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        super::load_as(path, Kind::Coordinator, Self::read)
    }

    /// The primary site.
    pub fn primary(&self) -> &SiteName {
        self.policies.default_primary()
    }

    pub(super) fn read(root: &Node, problems: &Problems) -> Option<Self> {
        let fields = Fields::of(root, "a coordinator's configuration", problems)?;
        let cluster = fields.required::<SiteName>("cluster");
        let listen = fields.optional("listen");
        let data_dir = fields.path("data_dir");
        let store = fields
            .entry("store")
            .map_or(Some(StoreConfig::Embedded), |entry| read_store(&entry.node, problems));
        let metrics = fields.optional("metrics");
        let sites = read_sites(&fields, problems);
        let policies = read_policies(&fields, sites.as_deref(), problems);
        fields.finish();
        Some(Self {
            cluster: cluster?.to_string(),
            listen: listen.unwrap_or((Ipv4Addr::UNSPECIFIED, DEFAULT_COORDINATOR_PORT).into()),
            data_dir: data_dir.unwrap_or_else(|| "/var/lib/globalfs/coordinator".into()),
            store: store?,
            metrics,
            sites: sites?,
            policies: policies?,
        })
    }
}

fn read_sites(fields: &Fields<'_>, problems: &Problems) -> Option<Vec<SiteEntry>> {
    const EXPECTED: &str = "a list of sites such as [{name: onprem, role: primary}]";
    let entry = fields.required_entry("sites", EXPECTED)?;
    let nodes = list("sites", &entry.node, EXPECTED, problems)?;
    let read: Vec<_> = nodes.iter().map(|node| read_site(node, problems)).collect();
    let sites = read.into_iter().collect::<Option<Vec<SiteEntry>>>()?;
    for (n, site) in sites.iter().enumerate() {
        if sites[..n].iter().any(|earlier| earlier.name == site.name) {
            problems
                .add(nodes[n].position, format!("the site {} stands here for the second time", site.name));
        }
    }
    if sites.len() > MAX_SITES {
        problems.add(entry.position, format!("`sites`: more than the {MAX_SITES} that a cluster may have"));
    }
    let mut primaries = sites.iter().zip(nodes).filter(|(site, _)| site.role == SiteRole::Primary);
    match (primaries.next(), primaries.next()) {
        (Some(_), None) => return Some(sites),
        (Some((first, _)), Some((second, node))) => {
            let (first, second) = (&first.name, &second.name);
            let message = format!("both {first} and {second} are primary; expected one primary site");
            problems.add(node.position, message);
        }
        (None, _) => {
            problems.add(entry.position, "`sites`: none is primary; expected one site with `role: primary`");
        }
    }
    None
}

fn read_site(node: &Node, problems: &Problems) -> Option<SiteEntry> {
    let fields = Fields::of(node, "a site", problems)?;
    let (name, role) = (fields.required("name"), fields.required("role"));
    fields.finish();
    Some(SiteEntry { name: name?, role: role? })
}

/// Without known sites the policies' own text is still checked.
fn read_policies(fields: &Fields<'_>, sites: Option<&[SiteEntry]>, problems: &Problems) -> Option<PolicySet> {
    let inline = fields.entry("policies");
    let file = fields.entry("policy_file");
    if let (Some(_), Some(file)) = (inline, file) {
        problems.add(file.position, "both `policies` and `policy_file` are given; expected one of them");
        return None;
    }
    let Some(sites) = sites else {
        return inline.and_then(|entry| policy::read_list(&entry.node, None, problems));
    };
    let names: Vec<SiteName> = sites.iter().map(|site| site.name.clone()).collect();
    let primary = &sites.iter().find(|site| site.role == SiteRole::Primary)?.name;
    let cluster = Cluster { sites: &names, primary };
    if let Some(entry) = inline {
        return policy::read_list(&entry.node, Some(cluster), problems);
    }
    let Some(_) = file else { return PolicySet::new(Vec::new(), &names, primary.clone()).ok() };
    let loaded = policy::load_for(&fields.path("policy_file")?, cluster);
    loaded.map_err(|error| problems.append(error)).ok()
}

fn read_store(node: &Node, problems: &Problems) -> Option<StoreConfig> {
    let message = match &node.value {
        Value::Text(text) if text == "embedded" => return Some(StoreConfig::Embedded),
        Value::Map(_) => {
            let fields = Fields::of(node, "`store`", problems)?;
            let etcd = fields.required_entry("etcd", "the endpoints of etcd");
            fields.finish();
            return read_etcd(&etcd?.node, problems).map(StoreConfig::Etcd);
        }
        Value::Text(text) if text == "etcd" => "`store`: etcd needs its endpoints".into(),
        other => format!("`store`: found {}", other.describe()),
    };
    let expected = "expected `embedded` or `etcd: {endpoints: [https://HOST:2379]}`";
    problems.add(node.position, format!("{message}; {expected}"));
    None
}

fn read_etcd(node: &Node, problems: &Problems) -> Option<EtcdConfig> {
    const ENDPOINTS: &str = "a list such as [https://etcd-1:2379, https://etcd-2:2379]";
    let fields = Fields::of(node, "`etcd`", problems)?;
    let entry = fields.required_entry("endpoints", ENDPOINTS);
    let nodes = entry.and_then(|entry| list("endpoints", &entry.node, ENDPOINTS, problems));
    let endpoints = nodes.unwrap_or_default().iter().map(|node| read_endpoint(node, problems));
    let endpoints: Vec<_> = endpoints.collect();
    let ca = fields.path("ca");
    let identity = both(&fields, problems, ["cert", "key"], |f| (f.path("cert"), f.path("key")));
    let login = both(&fields, problems, ["user", "password_file"], |f| {
        (f.optional::<String>("user"), f.path("password_file"))
    });
    fields.finish();
    if let (Some(entry), Some([])) = (entry, nodes) {
        problems.add(entry.position, format!("`endpoints`: found none; expected {ENDPOINTS}"));
    }
    Some(EtcdConfig {
        endpoints: endpoints.into_iter().collect::<Option<_>>()?,
        ca,
        identity: identity.map(|(cert, key)| EtcdIdentity { cert, key }),
        login: login.map(|(user, password_file)| EtcdLogin { user, password_file }),
    })
}

fn read_endpoint(node: &Node, problems: &Problems) -> Option<String> {
    let text = scalar::<String>("endpoints", node, problems)?;
    let address = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    if address.is_some_and(|address| address.parse::<super::HostPort>().is_ok()) {
        return Some(text);
    }
    let found = node.value.describe();
    problems.add(node.position, format!("`endpoints`: found {found}; expected https://HOST:PORT"));
    None
}

/// Two keys of which neither means anything without the other.
fn both<A, B>(
    fields: &Fields<'_>,
    problems: &Problems,
    keys: [&'static str; 2],
    read: impl Fn(&Fields<'_>) -> (Option<A>, Option<B>),
) -> Option<(A, B)> {
    let [first, second] = keys.map(|key| fields.entry(key));
    let alone = match (first, second) {
        (Some(entry), None) => Some((entry, keys[1])),
        (None, Some(entry)) => Some((entry, keys[0])),
        _ => None,
    };
    if let Some((entry, missing)) = alone {
        problems.add(entry.position, format!("`{}` is given without `{missing}`; expected both", entry.key));
    }
    let (first, second) = read(fields);
    first.zip(second)
}
