//! `site.yaml`: what a site's daemon owns, where it listens, what it may cache.

use super::Kind;
use super::fields::Fields;
use super::problem::{ConfigError, Problems};
use super::tree::Node;
use super::value::{ByteSize, Deadline, HostPort, OriginUrl, Ttl};
use globalfs_dataplane::disk::Preference;
use globalfs_dataplane::model::ids::IdMap;
use globalfs_proto::SiteName;
use globalfs_proto::limits::{CHUNK_SIZE, DEFAULT_DEADLINE, MAX_CHUNKS_PER_READ};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The UDP port of a site's daemon unless the file says otherwise.
pub const DEFAULT_SITE_PORT: u16 = 7441;

/// Smallest quota of a cache: it must hold what one read may ask for.
pub const MIN_CACHE_SIZE: ByteSize = ByteSize(CHUNK_SIZE * MAX_CHUNKS_PER_READ as u64);

/// The keys by which a site's file is recognised.
pub(super) const KEYS: &[&str] = &[
    "name",
    "coordinator",
    "listen",
    "advertise",
    "origin",
    "read_only",
    "ids",
    "state_dir",
    "cache",
    "disk",
    "metrics",
    "metadata_ttl",
    "deadline",
];

/// The configuration of a site's daemon.
#[derive(Debug, Clone)]
pub struct SiteConfig {
    /// The site's name, one of the coordinator's `sites`.
    pub name: SiteName,
    /// Where the coordinator is reached.
    pub coordinator: HostPort,
    /// Where the daemon serves nodes and other sites (UDP).
    pub listen: SocketAddr,
    /// Where others reach it; `listen` unless the file says otherwise.
    pub advertise: HostPort,
    /// The storage with the site's own files.
    pub origin: OriginUrl,
    /// Its nodes may not change it.
    pub read_only: bool,
    /// Its users and groups, and those that the namespace shows for them.
    pub ids: IdMap,
    /// Certificates and what must survive a restart.
    pub state_dir: PathBuf,
    /// The cache of other sites' files.
    pub cache: CacheConfig,
    /// Which disk engine is used.
    pub disk: Preference,
    /// Where it serves `/metrics`, if at all.
    pub metrics: Option<SocketAddr>,
    /// How long names and attributes of other sites are served without asking again.
    pub metadata_ttl: Duration,
    /// What an operation is given before it ends in an error.
    pub deadline: Duration,
}

/// A cache: where, and how much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheConfig {
    /// Its directory.
    pub dir: PathBuf,
    /// Its hard quota.
    pub size: ByteSize,
}

impl SiteConfig {
    /// Reads and checks the file `path`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        super::load_as(path, Kind::Site, Self::read)
    }

    pub(super) fn read(root: &Node, problems: &Problems) -> Option<Self> {
        let fields = Fields::of(root, "a site's configuration", problems)?;
        let name = fields.required("name");
        let coordinator = fields.required("coordinator");
        let listen = fields.optional("listen");
        let listen = listen.unwrap_or((Ipv4Addr::UNSPECIFIED, DEFAULT_SITE_PORT).into());
        let advertise = read_advertise(&fields, listen);
        let origin = fields.required("origin");
        let read_only = fields.optional("read_only").unwrap_or(false);
        let ids = match fields.entry("ids") {
            Some(entry) => super::ids::read(&entry.node, problems),
            None => Some(IdMap::default()),
        };
        let state_dir = fields.path("state_dir").unwrap_or_else(|| "/var/lib/globalfs/site".into());
        let cache = read_cache(&fields, &state_dir, None, problems);
        let disk = fields.optional("disk").unwrap_or(Preference::Auto);
        let metrics = fields.optional("metrics");
        let metadata_ttl = fields.optional("metadata_ttl").map_or(Duration::from_secs(5), |Ttl(ttl)| ttl);
        let deadline = fields.optional("deadline").map_or(DEFAULT_DEADLINE, |Deadline(deadline)| deadline);
        fields.finish();
        Some(Self {
            name: name?,
            coordinator: coordinator?,
            listen,
            advertise: advertise?,
            origin: origin?,
            read_only,
            ids: ids?,
            state_dir,
            cache: cache?,
            disk,
            metrics,
            metadata_ttl,
            deadline,
        })
    }
}

/// Nobody can be told to connect to 0.0.0.0 or to a port that the system has yet to choose.
fn read_advertise(fields: &Fields<'_>, listen: SocketAddr) -> Option<HostPort> {
    if listen.ip().is_unspecified() || listen.port() == 0 {
        return fields.required("advertise");
    }
    match fields.entry("advertise") {
        Some(_) => fields.optional("advertise"),
        None => Some(listen.into()),
    }
}

/// Reads `cache`, whose size is required where there is no `default_size`.
pub(super) fn read_cache(
    fields: &Fields<'_>,
    state_dir: &Path,
    default_size: Option<ByteSize>,
    problems: &Problems,
) -> Option<CacheConfig> {
    let default_dir = || state_dir.join("cache");
    let entry = match default_size {
        Some(size) => match fields.entry("cache") {
            Some(entry) => entry,
            None => return Some(CacheConfig { dir: default_dir(), size }),
        },
        None => fields.required_entry("cache", "the cache's quota such as {size: 100GiB}")?,
    };
    let keys = Fields::of(&entry.node, "`cache`", problems)?;
    let dir = keys.path("dir").unwrap_or_else(default_dir);
    let size = match default_size {
        Some(default) => Some(keys.optional("size").unwrap_or(default)),
        None => keys.required("size"),
    };
    let place = keys.entry("size").map(|entry| entry.node.position);
    keys.finish();
    if let (Some(size), Some(place)) = (size.filter(|size| *size < MIN_CACHE_SIZE), place) {
        problems.add(place, format!("`size`: {size} is too small; expected at least {MIN_CACHE_SIZE}"));
    }
    Some(CacheConfig { dir, size: size? })
}
