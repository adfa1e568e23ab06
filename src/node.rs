//! A node: the way to its site's daemon and, for a mount, the node's cache in front of it.

use crate::config::MountConfig;
use crate::telemetry::metrics::{Metrics, Sample};
use anyhow::{Context, Result, ensure};
use globalfs_controlplane::client::{ClientError, ControlClient};
use globalfs_controlplane::files::CertFiles;
use globalfs_dataplane::cache::{self, Cache, CacheError};
use globalfs_dataplane::disk::Preference;
use globalfs_dataplane::fetch::{self, AheadOptions, Cached, NameCounters};
use globalfs_dataplane::origin::DirectOrigin;
use globalfs_dataplane::remote::Remote;
use globalfs_dataplane::{Source, disk};
use globalfs_proto::PeerIdentity;
use globalfs_transport::{Endpoint, Identity, Options, Peer};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a mount waits for the coordinator before it takes the address that it knows from last time.
const ADDRESS_LIMIT: Duration = Duration::from_secs(3);

/// How long a cache may still be in use by the program that used it before.
const HANDOVER_LIMIT: Duration = Duration::from_secs(3);

const HANDOVER_POLL: Duration = Duration::from_millis(20);

/// The connection of a node to its site's daemon.
#[derive(Clone)]
pub struct Link {
    endpoint: Endpoint,
    remote: Arc<Remote>,
}

impl Link {
    /// Prepares the connection with the node's certificate. Nothing is sent before the first request, but
    /// when the configuration does not name the daemon, the coordinator is asked for its address.
    pub async fn open(config: &MountConfig) -> Result<Self> {
        let files = CertFiles::load(&config.state_dir)?;
        check_identity(config, &files)?;
        let address = daemon_address(config, &files).await?;
        let identity =
            Identity::from_pem(files.certificate.as_bytes(), files.key.as_bytes(), files.ca.as_bytes())?;
        let endpoint = Endpoint::bind(Options::client(), identity)?;
        let peer = Peer::new(endpoint.clone(), address, PeerIdentity::Site(config.site.clone()));
        Ok(Self { endpoint, remote: Arc::new(Remote::new(peer)) })
    }

    /// The site's daemon as a source.
    pub fn remote(&self) -> Arc<Remote> {
        self.remote.clone()
    }

    /// Says goodbye to the daemon.
    pub async fn close(&self) {
        self.endpoint.close().await;
    }
}

fn check_identity(config: &MountConfig, files: &CertFiles) -> Result<()> {
    let wanted = PeerIdentity::Node(config.node.clone(), config.site.clone());
    let found = files.identity().map_err(anyhow::Error::msg)?;
    let dir = config.state_dir.display();
    ensure!(
        found == wanted,
        "the certificate in {dir} is that of {found}, the configuration is for {wanted}"
    );
    Ok(())
}

/// The address in the configuration, else the coordinator's word, else the one that worked last time.
async fn daemon_address(config: &MountConfig, files: &CertFiles) -> Result<String> {
    if let Some(daemon) = &config.daemon {
        return Ok(daemon.to_string());
    }
    let note = config.state_dir.join("daemon");
    let asked = tokio::time::timeout(ADDRESS_LIMIT, ask_address(config, files)).await;
    let failed = match asked {
        Ok(Ok(address)) => {
            remember(&note, &address);
            return Ok(address);
        }
        // A node that was removed is told so here, not by a mount that refuses everything.
        Ok(Err(error)) if !error.downcast_ref().is_some_and(ClientError::is_passing) => return Err(error),
        Ok(Err(error)) => error,
        Err(_) => anyhow::anyhow!("the coordinator at {} does not answer", config.coordinator),
    };
    fs::read_to_string(note).map_err(|_| failed)
}

async fn ask_address(config: &MountConfig, files: &CertFiles) -> Result<String> {
    let client = ControlClient::connect(&config.coordinator.to_string(), files).await?;
    let view = client.view().await?;
    let site = view.site(&config.site).with_context(|| format!("site {} is not registered", config.site))?;
    Ok(site.address.clone())
}

/// Losing this note costs a question at the next start, so a failure is only logged.
fn remember(note: &Path, address: &str) {
    if let Err(error) = fs::write(note, address) {
        tracing::warn!(%error, path = %note.display(), "cannot remember the daemon's address");
    }
}

/// A node with its cache, for a mount.
pub struct Node {
    /// The cache in front of the daemon.
    pub cached: Cached,
    /// The site's origin, where the node sees it itself.
    pub direct: Option<DirectOrigin>,
    /// The daemon.
    pub link: Link,
}

impl Node {
    /// Opens the cache and prepares the connection.
    pub async fn open(config: &MountConfig) -> Result<Self> {
        let direct = config.direct.as_ref().map(|dir| DirectOrigin::open(dir, &config.site)).transpose();
        let direct = direct.context("`direct` in the configuration")?;
        let link = Link::open(config).await?;
        link.remote.peer().keep_connected();
        let cache = open_cache(&config.cache.dir, config.cache.size.0, config.disk).await?;
        let options = fetch::Options {
            metadata_ttl: config.attribute_ttl,
            ahead: Some(AheadOptions::default()),
            ..fetch::Options::default()
        };
        let cached = Cached::new(link.remote() as Arc<dyn Source>, cache, options);
        Ok(Self { cached, direct, link })
    }

    /// What a node's metrics page shows.
    pub fn metrics(&self, config: &MountConfig) -> Metrics {
        let mut metrics = Metrics::new();
        let labels = [("site", config.site.to_string()), ("node", config.node.to_string())];
        cache_metrics(&mut metrics, self.cached.cache(), &labels);
        let cached = self.cached.clone();
        name_metrics(&mut metrics, move || vec![(labels.to_vec(), cached.name_counters())]);
        let remote = self.link.remote();
        let from = config.site.to_string();
        metrics.counter(
            "globalfs_fetched_bytes_total",
            "Bytes of files fetched, as files have them",
            move || vec![Sample::count(remote.counters().bytes).label("from", &from)],
        );
        let (cached, from) = (self.cached.clone(), config.site.to_string());
        metrics.counter(
            "globalfs_dedup_bytes_total",
            "Bytes copied from elsewhere in the cache instead of fetched",
            move || vec![Sample::count(cached.counters().bytes_deduplicated).label("from", &from)],
        );
        let (cached, from) = (self.cached.clone(), config.site.to_string());
        metrics.counter(
            "globalfs_dedup_chunks_total",
            "Chunks copied from elsewhere in the cache instead of fetched",
            move || vec![Sample::count(cached.counters().chunks_deduplicated).label("from", &from)],
        );
        let (remote, from) = (self.link.remote(), config.site.to_string());
        metrics.counter("globalfs_fetched_wire_bytes_total", "Bytes received on the wire", move || {
            vec![Sample::count(remote.peer().counters().bytes_received).label("from", &from)]
        });
        let (cached, node) = (self.cached.clone(), config.node.to_string());
        metrics.counter(
            "globalfs_read_ahead_bytes_total",
            "Bytes fetched before they were asked for",
            move || vec![Sample::count(cached.counters().bytes_ahead).label("node", &node)],
        );
        let (cached, node) = (self.cached.clone(), config.node.to_string());
        let help = "Bytes fetched before they were asked for, and read later";
        metrics.counter("globalfs_read_ahead_used_bytes_total", help, move || {
            vec![Sample::count(cached.counters().bytes_ahead_used).label("node", &node)]
        });
        metrics
    }
}

/// Opens a cache directory with the disk engine that was asked for. Waits a while for a predecessor that has
/// been told to end: the process of a mount ends shortly after the mount is gone.
pub(crate) async fn open_cache(dir: &Path, quota_bytes: u64, preference: Preference) -> Result<Cache> {
    let options = cache::Options { dir: PathBuf::from(dir), quota_bytes };
    let started = Instant::now();
    loop {
        let (options, disk) = (options.clone(), disk::open(preference)?);
        // Recovery reads the whole directory.
        match tokio::task::spawn_blocking(move || Cache::open(options, disk)).await? {
            Err(CacheError::InUse { .. }) if started.elapsed() < HANDOVER_LIMIT => {
                tokio::time::sleep(HANDOVER_POLL).await;
            }
            opened => return Ok(opened?),
        }
    }
}

/// What a cache tells, under the names of the original design where it has them.
pub(crate) fn cache_metrics(metrics: &mut Metrics, cache: &Cache, labels: &[(&'static str, String)]) {
    let mut add = |counts: bool, name, help, read: fn(cache::CacheCounters) -> u64| {
        let (cache, labels) = (cache.clone(), labels.to_vec());
        let sample = move || {
            let plain = Sample::count(read(cache.counters()));
            vec![labels.iter().fold(plain, |sample, (name, value)| sample.label(name, value))]
        };
        if counts { metrics.counter(name, help, sample) } else { metrics.gauge(name, help, sample) }
    };
    add(true, "globalfs_cache_hits", "Chunks read from the cache", |c| c.hits);
    add(true, "globalfs_cache_misses", "Chunks that were not in the cache", |c| c.misses);
    add(true, "globalfs_cache_read_bytes_total", "Bytes read from the cache", |c| c.bytes_from_cache);
    add(true, "globalfs_cache_stored_bytes_total", "Bytes put into the cache", |c| c.bytes_stored);
    add(true, "globalfs_cache_evicted_bytes_total", "Disk space freed by eviction", |c| c.bytes_evicted);
    add(true, "globalfs_cache_damaged_chunks_total", "Chunks that failed their hash", |c| c.chunks_damaged);
    add(true, "globalfs_cache_not_kept_chunks_total", "Chunks served but not kept", |c| c.chunks_not_kept);
    add(false, "globalfs_cache_used_bytes", "Disk space of the cache in use", |c| c.used_bytes);
    add(false, "globalfs_cache_quota_bytes", "Disk space that the cache may use", |c| c.quota_bytes);
}

/// The labels and counters of each hop.
type NamesOfHops = Vec<(Vec<(&'static str, String)>, NameCounters)>;

/// What the hops that `read` gives tell of names.
pub(crate) fn name_metrics(
    metrics: &mut Metrics,
    read: impl Fn() -> NamesOfHops + Clone + Send + Sync + 'static,
) {
    let mut add = |counts: bool, name, help, of: fn(&NameCounters) -> u64| {
        let read = read.clone();
        let samples = move || {
            let sample = |(labels, counters): (Vec<(&'static str, String)>, NameCounters)| {
                let plain = Sample::count(of(&counters));
                labels.iter().fold(plain, |sample, (name, value)| sample.label(name, value))
            };
            read().into_iter().map(sample).collect()
        };
        if counts { metrics.counter(name, help, samples) } else { metrics.gauge(name, help, samples) }
    };
    add(true, "globalfs_names_answered_total", "Names and directories answered without asking", |c| {
        c.answered_here
    });
    add(true, "globalfs_names_asked_total", "Questions about names put to the next daemon", |c| {
        c.asked_upstream
    });
    add(true, "globalfs_directories_received_total", "Directories received", |c| c.directories);
    add(true, "globalfs_changes_heard_total", "Messages of changes heard", |c| c.changes);
    add(false, "globalfs_changes_are_heard", "1 while the next daemon tells what changes", |c| {
        c.is_watching.into()
    });
}
