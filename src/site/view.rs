//! What a site knows of the cluster: the coordinator's last word, kept on disk for when it is down.

use super::tenures::{Tenure, Tenures};
use crate::config::HostPort;
use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use bytes::Bytes;
use globalfs_controlplane::client::{ClientError, ControlClient};
use globalfs_controlplane::files::CertFiles;
use globalfs_controlplane::model::policy::{Consistency, OnDisconnect, PolicySet, Primary};
use globalfs_controlplane::model::record::{ClusterView, MasterRecord, NodeRecord, SiteStatus};
use globalfs_dataplane::model::names::{Bounds, Told};
use globalfs_dataplane::origin;
use globalfs_dataplane::route::{Master, Placement};
use globalfs_proto::{Changes, Fence, FsError, FsResult, GlobalPath, PeerIdentity, SiteName, Version};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// What the daemon's start waits for the coordinator when an older view is on disk.
const FRESH_LIMIT: Duration = Duration::from_secs(3);

/// What an unknown peer waits for the coordinator's word on it, twice within the transport's limit.
const REFRESH_LIMIT: Duration = Duration::from_millis(900);

/// The present view of the cluster, from one site's standpoint.
pub(super) struct View {
    here: SiteName,
    file: PathBuf,
    now: ArcSwap<Known>,
    /// Wakes the heartbeat before its time.
    wanted: Notify,
    /// Counts the heartbeats that were answered.
    beats: watch::Sender<u64>,
    /// One view after the other.
    learning: Mutex<()>,
    /// Called when paths have other masters than before.
    on_change: OnceLock<Box<dyn Fn(Changes) + Send + Sync>>,
}

/// One view with its policies ready to decide.
pub(super) struct Known {
    /// As the coordinator tells it.
    pub(super) cluster: ClusterView,
    pub(super) policies: PolicySet,
    pub(super) tenures: Tenures,
    /// The sites by the number that their files tell.
    origins: HashMap<u64, SiteName>,
    /// The key with which each site and node registered.
    keys: HashMap<PeerIdentity, String>,
}

impl View {
    /// Asks the coordinator; when it does not answer, takes the view of last time.
    pub(super) async fn open(
        here: &SiteName,
        state_dir: &Path,
        coordinator: &HostPort,
        files: &CertFiles,
    ) -> Result<Self> {
        let file = state_dir.join("view.json");
        let asked = tokio::time::timeout(FRESH_LIMIT, ask(coordinator, files)).await;
        let (cluster, fresh) = match asked {
            Ok(Ok(cluster)) => (cluster, true),
            Ok(Err(error)) if !error.is_passing() => return Err(error.into()),
            Ok(Err(error)) => (read(&file).map_err(|_| error)?, false),
            Err(_) => {
                (read(&file).with_context(|| format!("the coordinator at {coordinator} is silent"))?, false)
            }
        };
        if !fresh {
            tracing::warn!(%coordinator, "the coordinator does not answer; going on with the last known view");
        }
        let known = Known::new(cluster, here)?;
        let view = Self {
            here: here.clone(),
            file,
            now: ArcSwap::from_pointee(known),
            wanted: Notify::new(),
            beats: watch::Sender::new(0),
            on_change: OnceLock::new(),
            learning: Mutex::default(),
        };
        view.keep();
        Ok(view)
    }

    /// The view now.
    pub(super) fn now(&self) -> Arc<Known> {
        self.now.load_full()
    }

    /// Calls `changed` whenever paths have other masters than before, with what is out of date, and now with what sites
    /// hold. The first call of this counts.
    pub(super) fn on_change(&self, changed: Box<dyn Fn(Changes) + Send + Sync>) {
        let _ = self.on_change.set(changed);
        let handed_over = self.now.load().tenures.handed_over_since(&Tenures::default());
        let held = Changes { handed_over, ..Changes::default() };
        self.on_change.get().filter(|_| !held.is_empty()).iter().for_each(|changed| changed(held.clone()));
    }

    /// Asks for a heartbeat now and waits until it was answered, for a short while.
    pub(super) async fn refresh(&self) {
        let mut beats = self.beats.subscribe();
        self.wanted.notify_one();
        let _ = tokio::time::timeout(REFRESH_LIMIT, beats.changed()).await;
    }

    /// Returns when somebody wants a heartbeat.
    pub(super) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// A heartbeat was answered, and its view, if any, is in place.
    pub(super) fn answered(&self) {
        self.beats.send_modify(|beats| *beats += 1);
    }

    /// Takes a newer view and keeps it on disk. An older one is no news: what this site gave away it would take back.
    pub(super) fn learn(&self, cluster: ClusterView) {
        let revision = cluster.revision;
        match Known::new(cluster, &self.here) {
            Ok(known) => {
                let _turn = self.learning.lock();
                if revision <= self.now.load().cluster.revision {
                    return;
                }
                let before = self.now.swap(Arc::new(known));
                self.keep();
                let changes = self.now.load().changes_since(&before);
                if !changes.is_empty() {
                    self.on_change.get().iter().for_each(|changed| changed(changes.clone()));
                }
                tracing::info!(revision, "cluster_view_changed");
            }
            Err(error) => {
                tracing::error!(%error, revision, "the coordinator's view contradicts itself; kept the old one")
            }
        }
    }

    /// Asks for a heartbeat soon.
    pub(super) fn want(&self) {
        self.wanted.notify_one();
    }

    /// Whether some site has the lease on `scope` with this fence.
    pub(super) fn has_lease(&self, scope: &GlobalPath, fence: Fence) -> bool {
        self.now.load().tenures.on(scope).is_some_and(|tenure| tenure.fence == fence)
    }

    /// Whether `site` may act as the holder of `scope`, which is at home here.
    pub(super) fn is_holder(&self, site: &SiteName, scope: &GlobalPath, fence: Fence) -> bool {
        let now = self.now.load();
        let tenure = now.tenures.on(scope).filter(|tenure| tenure.fence == fence && !tenure.abandoned);
        tenure.is_some_and(|tenure| tenure.holder == *site) && self.home(scope).as_ref() == Some(&self.here)
    }

    /// The directories around `path` that this site may ask for a lease on, the outermost first, when `master` has them.
    pub(super) fn claimable(&self, path: &GlobalPath, master: &SiteName) -> Vec<GlobalPath> {
        let now = self.now.load();
        let mut scopes = now.policies.leasable(path, master);
        scopes.retain(|scope| !now.tenures.any_below(scope) && now.tenures.at(scope).is_none());
        scopes
    }

    /// How old names may be, by the policies of the day.
    pub(super) fn staleness(self: &Arc<Self>) -> Bounds {
        let view = self.clone();
        Arc::new(move |path, told| {
            let (path, now) = (GlobalPath::new(path).ok()?, view.now.load());
            match told {
                Told::Name => now.policies.staleness(&path),
                Told::Listing => now.policies.staleness_in(&path),
            }
        })
    }

    /// Whose standpoint it is.
    pub(super) fn here(&self) -> &SiteName {
        &self.here
    }

    /// Whether `path` is at home here, or passes to or from this site by a lease.
    pub(super) fn is_own(&self, path: &GlobalPath) -> bool {
        let now = self.now.load();
        let is_here = |site: &SiteName| *site == self.here;
        let is_home = match now.policies.primary(path) {
            Primary::Site(site) => is_here(&site),
            Primary::EachSite => true,
        };
        is_home || now.tenures.at(path).is_some_and(|(_, tenure)| is_here(&tenure.holder))
    }

    /// The site that policy names as the home of `path`, if it is one.
    pub(super) fn home(&self, path: &GlobalPath) -> Option<SiteName> {
        match self.now.load().policies.primary(path) {
            Primary::Site(site) => Some(site),
            Primary::EachSite => None,
        }
    }

    fn master_at(&self, home: Primary) -> Master {
        match home {
            Primary::EachSite => Master::Here,
            Primary::Site(site) if site == self.here => Master::Here,
            Primary::Site(site) => Master::Site(site),
        }
    }

    /// Losing the file costs a start without coordinator, so a failure is only logged.
    fn keep(&self) {
        let text = serde_json::to_vec_pretty(&self.now().cluster).expect("a view is plain data");
        let fresh = self.file.with_extension("json.new");
        let write = || {
            let mut file = fs::File::create(&fresh)?;
            file.write_all(&text)?;
            // What this site gave away it must not take back after a loss of power.
            file.sync_all()?;
            fs::rename(&fresh, &self.file)
        };
        let written: std::io::Result<()> = write();
        if let Err(error) = written {
            tracing::warn!(%error, path = %self.file.display(), "cannot keep the cluster view");
        }
    }
}

async fn ask(coordinator: &HostPort, files: &CertFiles) -> Result<ClusterView, ClientError> {
    ControlClient::connect(&coordinator.to_string(), files).await?.view().await
}

fn read(file: &Path) -> Result<ClusterView> {
    let text = fs::read(file).with_context(|| format!("no earlier view in {}", file.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is damaged", file.display()))
}

impl Known {
    fn new(cluster: ClusterView, here: &SiteName) -> Result<Self> {
        let policies = cluster.policy_set()?;
        let (keys, tenures) = (keys(&cluster), tenures(&cluster, here, &policies));
        let origins = cluster.sites.iter().map(|site| (origin::identity(&site.name), site.name.clone()));
        Ok(Self { origins: origins.collect(), cluster, policies, tenures, keys })
    }

    /// What is out of date since `before`, because others are masters of it. A node that joins makes nobody forget.
    fn changes_since(&self, before: &Self) -> Changes {
        let (one, other) = (&self.cluster, &before.cluster);
        if (&one.default_primary, &one.policies) == (&other.default_primary, &other.policies) {
            self.tenures.changes_since(&before.tenures)
        } else {
            let handed_over = self.tenures.handed_over_since(&before.tenures);
            Changes { handed_over, ..Changes::everything() }
        }
    }

    /// Whether `peer` is registered with this key. Asked at each request, so it is a look-up.
    pub(super) fn admits(&self, peer: &PeerIdentity, key_fingerprint: &str) -> bool {
        self.keys.get(peer).is_some_and(|key| key == key_fingerprint)
    }
}

fn keys(cluster: &ClusterView) -> HashMap<PeerIdentity, String> {
    let sites = cluster.sites.iter().map(|s| (PeerIdentity::Site(s.name.clone()), s.key_fingerprint.clone()));
    let node =
        |n: &NodeRecord| (PeerIdentity::Node(n.name.clone(), n.site.clone()), n.key_fingerprint.clone());
    sites.chain(cluster.nodes.iter().map(node)).collect()
}

fn tenures(cluster: &ClusterView, here: &SiteName, policies: &PolicySet) -> Tenures {
    let tenure = |record: &MasterRecord| {
        let holder = record.master.clone();
        let is_silent = cluster.site(&holder).is_none_or(|site| site.status == SiteStatus::Unreachable);
        let reads_on = policies.on_disconnect(&record.scope.path) == OnDisconnect::Stale;
        let tenure = Tenure {
            is_away: is_silent && reads_on && holder != *here,
            holder,
            fence: Fence(record.epoch.0),
            ready: record.ready,
            abandoned: record.abandoned,
        };
        (record.scope.path.clone(), tenure)
    };
    Tenures::new(cluster.masters.iter().map(tenure))
}

impl Placement for View {
    fn master(&self, path: &GlobalPath) -> Master {
        let now = self.now.load();
        match now.tenures.at(path).filter(|(_, tenure)| tenure.is_in_force()) {
            Some((_, tenure)) => self.master_at(Primary::Site(tenure.holder.clone())),
            None => self.master_at(now.policies.primary(path)),
        }
    }

    fn keeper(&self, path: &GlobalPath, version: &Version) -> Master {
        match self.now.load().origins.get(&version.file.origin) {
            Some(site) => self.master_at(Primary::Site(site.clone())),
            None => self.master(path),
        }
    }

    fn writer(&self, path: &GlobalPath) -> FsResult<Master> {
        match self.now.load().tenures.at(path) {
            Some((scope, tenure)) if tenure.is_away => {
                let text = format!("{scope} is held by {}, which is not heard from", tenure.holder);
                Err(FsError::Unreachable(text))
            }
            Some((scope, tenure)) if !tenure.is_in_force() => {
                Err(FsError::Elsewhere(format!("{scope} passes to or from {}", tenure.holder)))
            }
            _ => Ok(self.master(path)),
        }
    }

    fn is_leased(&self, path: &GlobalPath) -> bool {
        let now = self.now.load();
        let here = |(_, tenure): &(_, &Tenure)| tenure.is_in_force() && tenure.holder == self.here;
        now.tenures.at(path).is_some_and(|found| here(&found))
    }

    fn is_critical(&self, path: &GlobalPath) -> bool {
        self.now.load().policies.consistency(path) == Consistency::Critical
    }

    fn replica_sites(&self, path: &GlobalPath) -> Vec<SiteName> {
        let now = self.now.load();
        let replicas = now.policies.decide(path).replicas.iter();
        replicas.filter(|site| **site != self.here).cloned().collect()
    }

    fn is_divided(&self, path: &GlobalPath) -> bool {
        self.now.load().tenures.any_below(path)
    }

    fn junctions(&self, dir: &GlobalPath) -> Vec<Bytes> {
        let now = self.now.load();
        if now.tenures.at(dir).is_some_and(|(_, tenure)| tenure.is_in_force()) {
            return Vec::new();
        }
        let leased = now.tenures.names_in(dir).map(Bytes::copy_from_slice);
        now.policies.junctions(dir).into_iter().map(Bytes::from).chain(leased).collect()
    }

    fn listing_masters(&self, dir: &GlobalPath) -> Vec<Master> {
        if self.now.load().tenures.at(dir).is_some_and(|(_, tenure)| tenure.is_in_force()) {
            return vec![self.master(dir)];
        }
        let homes = self.now.load().policies.listing_homes(dir);
        let mut masters: Vec<Master> = homes.into_iter().map(|home| self.master_at(home)).collect();
        // "Each site" and this site's name are two homes and one master; the first one is the directory's.
        let mut seen = Vec::new();
        masters.retain(|master| {
            !seen.contains(master) && {
                seen.push(master.clone());
                true
            }
        });
        masters
    }
}
