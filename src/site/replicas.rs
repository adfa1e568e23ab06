//! Replicas at this site: what policies say of them, and the ways to the sites that they are from.

use super::limits::SiteLimits;
use super::peers::Peers;
use super::view::View;
use globalfs_controlplane::model::policy::SyncMode;
use globalfs_controlplane::model::replica_state::{AskedReplica, MissingReplicas, ReplicaHealth};
use globalfs_dataplane::Source;
use globalfs_dataplane::changes::Hub;
use globalfs_dataplane::home::holdings::Holdings;
use globalfs_dataplane::model::pending::Debt;
use globalfs_dataplane::model::replicas::{Rule, When};
use globalfs_dataplane::origin::Origin;
use globalfs_dataplane::paced::Paced;
use globalfs_dataplane::remote::Remote;
use globalfs_dataplane::replicas::{Asked, Masters, Replicas, Rules};
use globalfs_dataplane::route::{Routed, Sites};
use globalfs_dataplane::source::ChangeStream;
use globalfs_proto::{Changes, FsResult, GlobalPath, SiteName};
use globalfs_transport::Peer;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::timeout;

/// After so long a path is brought although it still changes.
const PATIENCE: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(60)];

/// How often a master gives a sign of life, and after how long without it its changes count as not heard.
const HEARTBEAT: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(10)];

/// The first and the longest pause before a master's changes are subscribed to again.
const PAUSE: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(5)];

/// What the policies of the view say, from this site's standpoint.
pub(super) struct SiteRules {
    pub(super) view: Arc<View>,
    pub(super) holdings: Holdings,
}

/// The other sites, with subscriptions of their own and no cache.
struct Direct {
    peers: Arc<Peers>,
    remotes: Mutex<BTreeMap<SiteName, Arc<Remote>>>,
    changes: Hub,
}

/// The other sites by this site's cache, without the replicas before it.
struct ByCache(Arc<Peers>);

impl Rules for SiteRules {
    fn rule(&self, path: &GlobalPath) -> Option<Rule> {
        let now = self.view.now();
        let policy = now.policies.replica(path, self.view.here())?;
        if self.is_own(path) {
            return None;
        }
        let (when, patience) = match policy.sync_mode {
            SyncMode::Eager => (When::AtOnce, PATIENCE[0]),
            SyncMode::Async => (When::InBackground, PATIENCE[1]),
            SyncMode::Lazy => (When::OnceRead, PATIENCE[0]),
            SyncMode::Never => return None,
        };
        let (priority, deadline) = (policy.priority, policy.sync_deadline);
        let patience = deadline.map_or(patience, |deadline| patience.min(deadline / 2));
        Some(Rule { policy: policy.name.as_str().into(), when, priority, patience, deadline })
    }

    fn roots(&self) -> Vec<GlobalPath> {
        self.view.now().policies.replica_roots(self.view.here())
    }

    fn may_hold(&self, directory: &GlobalPath) -> bool {
        self.view.now().policies.may_replicate_below(directory, self.view.here())
    }

    fn is_own(&self, path: &GlobalPath) -> bool {
        self.view.is_own(path) || self.holdings.at(path).is_some()
    }

    fn reads_on(&self, path: &GlobalPath) -> bool {
        self.view.now().policies.reads_replica_on(path, self.view.here())
    }
}

/// Where replicas at this site come from.
pub(super) fn masters(
    view: &Arc<View>,
    origin: &Origin,
    peers: &Arc<Peers>,
    limits: &Arc<SiteLimits>,
) -> Masters {
    let direct =
        Arc::new(Direct { peers: peers.clone(), remotes: Mutex::default(), changes: Hub::default() });
    let routed = |sites: Arc<dyn Sites>| {
        let all = Routed::new(view.clone(), Arc::new(origin.clone()) as Arc<dyn Source>, sites).for_nodes();
        Arc::new(Paced::new(all, limits.clone())) as Arc<dyn Source>
    };
    Masters {
        direct: routed(direct.clone()),
        cached: routed(Arc::new(ByCache(peers.clone()))),
        sites: direct,
    }
}

impl Direct {
    fn remote(&self, site: &SiteName) -> FsResult<Arc<Remote>> {
        let peer = self.peers.remote(site)?.peer().clone();
        let mut remotes = self.remotes.lock();
        if let Some(remote) = remotes.get(site).filter(|remote| remote.peer().address() == peer.address()) {
            return Ok(remote.clone());
        }
        let remote = self.connect(peer);
        remotes.insert(site.clone(), remote.clone());
        Ok(remote)
    }

    fn connect(&self, peer: Peer) -> Arc<Remote> {
        let remote = Arc::new(Remote::new(peer));
        // Begun before anything is asked for, so that what is told is told as watched.
        let first = remote.watch(HEARTBEAT[0]);
        tokio::spawn(keep_hearing(Arc::downgrade(&remote), first, self.changes.clone()));
        remote
    }
}

/// Hears changes as long as the way to the site is in use.
async fn keep_hearing(remote: Weak<Remote>, first: ChangeStream, hub: Hub) {
    let (mut changes, mut pause) = (first, PAUSE[0]);
    loop {
        while let Ok(Some(told)) = timeout(HEARTBEAT[1], futures_util::StreamExt::next(&mut changes)).await {
            pause = PAUSE[0];
            if !told.is_empty() {
                hub.tell(told);
            }
        }
        tokio::time::sleep(pause).await;
        pause = PAUSE[1].min(pause * 2);
        let Some(remote) = remote.upgrade() else { return };
        changes = remote.watch(HEARTBEAT[0]);
        // What has changed in between is found by looking.
        hub.tell(Arc::new(Changes::everything()));
    }
}

impl Sites for Direct {
    fn source(&self, site: &SiteName) -> FsResult<Arc<dyn Source>> {
        Ok(self.remote(site)? as Arc<dyn Source>)
    }

    fn changes(&self) -> ChangeStream {
        self.changes.subscribe()
    }
}

impl Sites for ByCache {
    fn source(&self, site: &SiteName) -> FsResult<Arc<dyn Source>> {
        self.0.by_cache(site)
    }

    fn changes(&self) -> ChangeStream {
        self.0.changes()
    }
}

/// What the heartbeat tells of replicas; `None`: no policy names this site, and nothing is left of when one did.
pub(super) fn health(replicas: &Replicas, view: &View) -> Option<ReplicaHealth> {
    let (totals, missing, asked) = (replicas.totals(), replicas.missing(), replicas.asked());
    let is_named =
        view.now().policies.policies().iter().any(|policy| policy.replicate_to.contains(view.here()));
    if !is_named && totals.files == 0 && missing.is_empty() && asked.is_empty() {
        return None;
    }
    let of_policy = |(policy, debt): (Arc<str>, Debt)| MissingReplicas {
        policy: policy.to_string(),
        files: debt.paths,
        bytes: debt.bytes,
        oldest: debt.oldest.map(super::leases::ago),
        late: replicas.late(&policy),
    };
    let of_request = |(asked, debt): (Asked, Debt)| AskedReplica {
        number: asked.number,
        path: asked.path,
        surveyed: asked.is_surveyed,
        files: debt.paths,
        bytes: debt.bytes,
        trouble: asked.trouble,
    };
    Some(ReplicaHealth {
        files: totals.files,
        bytes: totals.bytes,
        surveyed: replicas.is_surveyed(),
        obstructed: replicas.obstructed() as u64,
        missing: missing.into_iter().map(of_policy).collect(),
        asked: asked.into_iter().map(of_request).collect(),
        trouble: replicas.trouble(),
    })
}
