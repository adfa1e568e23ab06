//! Configuration files: YAML, strict, checked in one pass before anything starts.
//!
//! *Invariants:* a configuration that loads is valid in every value; what is wrong is told with file, line,
//! column, what was expected and the nearest valid key; a file is read once and never written.

pub mod coordinator;
mod fields;
mod ids;
pub mod mount;
pub mod policy;
pub mod problem;
pub mod site;
mod tree;
pub mod value;

pub use coordinator::{CoordinatorConfig, EtcdConfig, EtcdIdentity, EtcdLogin, SiteEntry, StoreConfig};
pub use mount::{MountConfig, TraceMode};
pub use policy::PolicyConfig;
pub use problem::{ConfigError, Position, Problem};
pub use site::{CacheConfig, SiteConfig};
pub use tree::MAX_FILE_BYTES;
pub use value::{ByteSize, HostPort, OriginUrl};

use problem::Problems;
use std::path::Path;
use tree::Node;

/// A configuration file of any kind.
#[derive(Debug)]
pub enum Document {
    /// A coordinator's.
    Coordinator(Box<CoordinatorConfig>),
    /// A site's.
    Site(Box<SiteConfig>),
    /// A node's mount.
    Mount(Box<MountConfig>),
    /// Policies alone.
    Policy(PolicyConfig),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Coordinator,
    Site,
    Mount,
    Policy,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Site => "site",
            Self::Mount => "mount",
            Self::Policy => "policy",
        }
    }
}

/// Each kind, the key that no other kind has, and all its keys.
const KINDS: [(Kind, &str, &[&str]); 4] = [
    (Kind::Coordinator, "cluster", coordinator::KEYS),
    (Kind::Site, "origin", site::KEYS),
    (Kind::Mount, "site", mount::KEYS),
    (Kind::Policy, "policies", policy::KEYS),
];

impl Document {
    /// Reads and checks the file `path`, whose keys tell what kind it is.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let problems = Problems::new(path);
        let document = Node::read(path, &problems).and_then(|root| Self::read(&root, &problems));
        problems.finish(document)
    }

    /// What kind of file this is, in words.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Coordinator(_) => Kind::Coordinator.as_str(),
            Self::Site(_) => Kind::Site.as_str(),
            Self::Mount(_) => Kind::Mount.as_str(),
            Self::Policy(_) => Kind::Policy.as_str(),
        }
    }

    fn read(root: &Node, problems: &Problems) -> Option<Self> {
        match detect(root) {
            Some(Kind::Coordinator) => {
                CoordinatorConfig::read(root, problems).map(|config| Self::Coordinator(config.into()))
            }
            Some(Kind::Site) => SiteConfig::read(root, problems).map(|config| Self::Site(config.into())),
            Some(Kind::Mount) => MountConfig::read(root, problems).map(|config| Self::Mount(config.into())),
            Some(Kind::Policy) => PolicyConfig::read(root, problems).map(Self::Policy),
            None => {
                problems.add(
                    root.position,
                    "cannot tell what kind of file this is; expected the key `cluster` (coordinator), \
                     `origin` (site), `site` (mount) or `policies` (policy)",
                );
                None
            }
        }
    }
}

/// Reads the file `path`, which must be of the kind `wanted`.
fn load_as<T>(
    path: &Path,
    wanted: Kind,
    read: impl Fn(&Node, &Problems) -> Option<T>,
) -> Result<T, ConfigError> {
    let problems = Problems::new(path);
    let config = Node::read(path, &problems).and_then(|root| match detect(&root) {
        Some(found) if found != wanted => {
            let message = format!("this is a {} file; expected a {} file", found.as_str(), wanted.as_str());
            problems.add(root.position, message);
            None
        }
        _ => read(&root, &problems),
    });
    problems.finish(config)
}

/// The kind most of whose keys are there; its own key counts more than those that kinds share.
fn detect(root: &Node) -> Option<Kind> {
    const OWN_KEY_WEIGHT: usize = 4;
    let entries = root.entries()?;
    let has = |key: &str| entries.iter().any(|entry| entry.key == key);
    let score = |own: &str, keys: &[&str]| {
        keys.iter().filter(|key| has(key)).count() + if has(own) { OWN_KEY_WEIGHT } else { 0 }
    };
    let scores = KINDS.map(|(kind, own, keys)| (score(own, keys), kind));
    let best = scores.iter().map(|(score, _)| *score).max().filter(|best| *best > 0)?;
    let mut winners = scores.iter().filter(|(score, _)| *score == best);
    match (winners.next(), winners.next()) {
        (Some((_, kind)), None) => Some(*kind),
        _ => None,
    }
}
