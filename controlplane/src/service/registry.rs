//! The cluster's members: who they are, what they say of themselves, and what they all are told.
//!
//! *Invariants:* every answer is read from the store, so several coordinators on one store agree; only the
//! latest heartbeats are kept in memory, and a record lags behind them by at most the write interval.

use super::counters::Counters;
use super::records::{Held, MAX_ATTEMPTS, Records, delete, next_view, replace};
use super::refusal::{Reason, ServiceError};
use super::{Options, Status, Timing};
use crate::model::policy::{Policy, PolicyFile, PolicySet};
use crate::model::record::{
    CLUSTER_KEY, ClusterRecord, ClusterView, Health, NAMESPACE_PREFIX, NODES_PREFIX, NodeRecord,
    POLICIES_KEY, SITES_PREFIX, SiteRecord, SiteRole, SiteStatus, address_fault,
};
use crate::model::timestamp::Timestamp;
use crate::store::{MAX_TXN_OPERATIONS, MetaStore, StoreConfig, Txn};
use crate::tls::Peer;
use globalfs_proto::{NodeName, PeerIdentity, SiteName};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// Nodes that one transaction removes; each takes a condition, and the cluster's record takes one too.
const REMOVED_AT_ONCE: usize = 100;
const _: () = assert!(REMOVED_AT_ONCE < MAX_TXN_OPERATIONS);

/// The members, over the store.
pub(crate) struct Registry {
    pub(super) records: Records,
    pub(super) options: Options,
    pub(super) counters: Arc<Counters>,
    /// At most one entry for each site that has a record.
    latest: Mutex<HashMap<SiteName, (Timestamp, Health)>>,
}

impl Registry {
    /// Checks the configuration against the store and writes what is new in it.
    pub(crate) async fn open(
        options: Options,
        store: Arc<dyn MetaStore>,
        ca_fingerprint: &str,
    ) -> Result<Self, ServiceError> {
        let registry = Self {
            records: Records::new(store),
            options,
            counters: Arc::default(),
            latest: Mutex::default(),
        };
        registry.ensure_cluster(ca_fingerprint).await?;
        registry.set_policies(registry.options.policies.clone()).await?;
        Ok(registry)
    }

    /// Everything that members are told.
    pub(crate) async fn view(&self) -> Result<ClusterView, ServiceError> {
        for _ in 0..MAX_ATTEMPTS {
            let cluster = self.records.cluster().await?.value;
            let view = ClusterView {
                revision: cluster.revision,
                cluster: cluster.cluster,
                default_primary: cluster.default_primary,
                sites: self.sites().await?,
                nodes: values(self.records.range(NODES_PREFIX).await?),
                policies: self.policies().await?,
                masters: values(self.records.range(NAMESPACE_PREFIX).await?),
            };
            // Unchanged revision: what was read in between belongs together.
            if self.records.cluster().await?.value.revision == view.revision {
                return Ok(view);
            }
        }
        Err(ServiceError::Contended)
    }

    /// The cluster as it is now, for people and metrics.
    pub(crate) async fn status(&self) -> Result<Status, ServiceError> {
        let declared = self.options.sites.clone();
        Ok(Status { view: self.view().await?, declared, version: env!("CARGO_PKG_VERSION").into() })
    }

    /// Refuses a peer that has no record with its key.
    pub(crate) async fn authenticate(&self, peer: &Peer) -> Result<(), ServiceError> {
        let key = match &peer.identity {
            PeerIdentity::Coordinator | PeerIdentity::Admin => return Ok(()),
            PeerIdentity::Site(site) => {
                let record = self.records.get::<SiteRecord>(&SiteRecord::key(site)).await?;
                record.map(|held| held.value.key_fingerprint)
            }
            PeerIdentity::Node(node, site) => {
                let record = self.records.get::<NodeRecord>(&NodeRecord::key(site, node)).await?;
                record.map(|held| held.value.key_fingerprint)
            }
        };
        let who = &peer.identity;
        match key {
            Some(key) if key == peer.key_fingerprint => Ok(()),
            Some(_) => Err(not_registered(format!("{who} has registered anew with another key"))),
            None => Err(not_registered(format!("{who} is not registered (removed?)"))),
        }
    }

    /// Takes a heartbeat; answers with the view when the site's is not the present one.
    pub(crate) async fn heartbeat(
        &self,
        site: &SiteName,
        health: Health,
        address: String,
        known_revision: u64,
    ) -> Result<Option<ClusterView>, ServiceError> {
        if let Some(fault) = address_fault(&address) {
            return Err(ServiceError::Invalid(fault));
        }
        Counters::raise(&self.counters.heartbeats);
        self.latest.lock().insert(site.clone(), (now(), health.clone()));
        self.write_heartbeat(site, health, address).await?;
        let present = self.records.cluster().await?.value.revision;
        if present == known_revision { Ok(None) } else { self.view().await.map(Some) }
    }

    /// Removes a site and its nodes; their certificates are refused from then on. Called again after it was
    /// interrupted, it removes the nodes that are left.
    pub(crate) async fn remove_site(&self, site: &SiteName) -> Result<(), ServiceError> {
        let removed = self.remove_site_record(site).await;
        if let Err(error) = &removed
            && !matches!(error, ServiceError::NotFound(_))
        {
            return removed;
        }
        self.latest.lock().remove(site);
        // No node joins a site without a record, so this ends.
        let mut had_nodes = false;
        while self.remove_some_nodes(site).await? {
            had_nodes = true;
        }
        if had_nodes { Ok(()) } else { removed }
    }

    /// Removes a node; its certificate is refused from then on.
    pub(crate) async fn remove_node(&self, node: &NodeName, site: &SiteName) -> Result<(), ServiceError> {
        let key = &NodeRecord::key(site, node);
        self.change(|cluster| async move {
            let held = self.records.get::<NodeRecord>(key).await?;
            let missing = || ServiceError::NotFound(format!("node {node} of site {site} is not registered"));
            delete(next_view(&cluster)?, key, &held.ok_or_else(missing)?)
        })
        .await
    }

    /// Replaces all policies.
    pub(crate) async fn set_policies(&self, policies: Vec<Policy>) -> Result<(), ServiceError> {
        PolicySet::new(policies.clone(), &self.site_names(), self.options.default_primary.clone())?;
        let file = &PolicyFile { policies };
        self.change(|cluster| async move {
            let held = self.records.get::<PolicyFile>(POLICIES_KEY).await?;
            match &held {
                Some(held) if held.value == *file => Ok(Txn::new()),
                _ => replace(next_view(&cluster)?, POLICIES_KEY, held.as_ref(), file),
            }
        })
        .await
    }

    /// Writes down that sites have fallen silent.
    pub(crate) async fn mark_silent_sites(&self) -> Result<(), ServiceError> {
        for held in self.records.range::<SiteRecord>(SITES_PREFIX).await? {
            let status = self.with_latest(held.value.clone()).status;
            if status == SiteStatus::Unreachable && held.value.status != status {
                tracing::warn!(site = %held.value.name, last_heartbeat = %held.value.last_heartbeat, "site is silent");
                self.announce_site(SiteRecord { status, ..held.value.clone() }).await?;
            }
        }
        Ok(())
    }

    /// Repeats "read, build a transaction, commit" until nobody else changed what was read.
    pub(super) async fn change<F>(&self, build: impl Fn(Held<ClusterRecord>) -> F) -> Result<(), ServiceError>
    where
        F: Future<Output = Result<Txn, ServiceError>>,
    {
        for _ in 0..MAX_ATTEMPTS {
            let txn = build(self.records.cluster().await?).await?;
            if self.records.commit(txn).await? {
                return Ok(());
            }
        }
        Err(ServiceError::Contended)
    }

    pub(super) fn store(&self) -> &Arc<dyn MetaStore> {
        self.records.store()
    }

    /// Whether no other coordinator can have the store open.
    pub(super) fn has_store_alone(&self) -> bool {
        matches!(self.options.store, StoreConfig::Embedded { .. })
    }

    pub(super) fn site_names(&self) -> Vec<SiteName> {
        self.options.sites.iter().map(|site| site.name.clone()).collect()
    }

    fn timing(&self) -> &Timing {
        &self.options.timing
    }

    async fn sites(&self) -> Result<Vec<SiteRecord>, ServiceError> {
        let records = values(self.records.range(SITES_PREFIX).await?);
        Ok(records.into_iter().map(|record| self.with_latest(record)).collect())
    }

    async fn policies(&self) -> Result<Vec<Policy>, ServiceError> {
        let file = self.records.get::<PolicyFile>(POLICIES_KEY).await?;
        Ok(file.map(|held| held.value.policies).unwrap_or_default())
    }

    /// The record with what came since it was written, and the status that follows.
    fn with_latest(&self, mut record: SiteRecord) -> SiteRecord {
        let latest = self.latest.lock().get(&record.name).cloned();
        if let Some((at, health)) = latest.filter(|(at, _)| *at > record.last_heartbeat) {
            (record.last_heartbeat, record.health) = (at, health);
        }
        record.role = self.declared_role(&record);
        record.status = record.status_at(now(), self.timing().unreachable_after);
        record
    }

    /// The role in the configuration, which may have changed since the site registered.
    fn declared_role(&self, record: &SiteRecord) -> SiteRole {
        let declared = self.options.sites.iter().find(|site| site.name == record.name);
        declared.map_or(record.role, |site| site.role)
    }

    async fn write_heartbeat(
        &self,
        site: &SiteName,
        health: Health,
        address: String,
    ) -> Result<(), ServiceError> {
        let Some(held) = self.records.get::<SiteRecord>(&SiteRecord::key(site)).await? else {
            return Err(not_registered(format!("site {site} is not registered (removed?)")));
        };
        let old = &held.value;
        // A site that was silent is asked again by all.
        let is_news = old.address != address || old.status != SiteStatus::Active;
        let due = old.health.origin_reachable != health.origin_reachable
            || old.health.version != health.version
            || now().since(old.last_heartbeat) >= self.timing().record_write_interval;
        let record = SiteRecord {
            status: SiteStatus::Active,
            role: self.declared_role(old),
            health,
            address,
            last_heartbeat: now(),
            ..old.clone()
        };
        if is_news {
            self.announce_site(record).await
        } else if due {
            self.write_site(&held, &record).await
        } else {
            Ok(())
        }
    }

    /// A new address or status concerns everybody, so it makes a new view.
    async fn announce_site(&self, record: SiteRecord) -> Result<(), ServiceError> {
        Counters::raise(&self.counters.record_writes);
        let key = SiteRecord::key(&record.name);
        self.change(|cluster| {
            let (key, record) = (key.clone(), record.clone());
            async move {
                match self.records.get::<SiteRecord>(&key).await? {
                    Some(held) if held.value.key_fingerprint == record.key_fingerprint => {
                        replace(next_view(&cluster)?, &key, Some(&held), &record)
                    }
                    _ => Err(not_registered(format!("site {} is not registered (removed?)", record.name))),
                }
            }
        })
        .await
    }

    /// Writes a site's record unless it has changed meanwhile: then somebody else knows better.
    async fn write_site(&self, held: &Held<SiteRecord>, record: &SiteRecord) -> Result<(), ServiceError> {
        Counters::raise(&self.counters.record_writes);
        let txn = replace(Txn::new(), &SiteRecord::key(&record.name), Some(held), record)?;
        self.records.commit(txn).await.map(drop)
    }

    async fn remove_site_record(&self, site: &SiteName) -> Result<(), ServiceError> {
        let key = &SiteRecord::key(site);
        self.change(|cluster| async move {
            let held = self.records.get::<SiteRecord>(key).await?;
            let missing = || ServiceError::NotFound(format!("site {site} is not registered"));
            delete(next_view(&cluster)?, key, &held.ok_or_else(missing)?)
        })
        .await?;
        tracing::info!(%site, "site removed");
        Ok(())
    }

    async fn remove_some_nodes(&self, site: &SiteName) -> Result<bool, ServiceError> {
        let nodes = self.records.range::<NodeRecord>(&format!("{NODES_PREFIX}{site}/")).await?;
        if nodes.is_empty() {
            return Ok(false);
        }
        let cluster = self.records.cluster().await?;
        let some = nodes.iter().take(REMOVED_AT_ONCE);
        let txn = some.into_iter().try_fold(next_view(&cluster)?, |txn, held| {
            delete(txn, &NodeRecord::key(site, &held.value.name), held)
        })?;
        self.records.commit(txn).await.map(|_| true)
    }

    /// Writes the cluster's record at the first start, and the default primary when it has changed.
    async fn ensure_cluster(&self, ca_fingerprint: &str) -> Result<(), ServiceError> {
        for _ in 0..MAX_ATTEMPTS {
            let held = self.records.get::<ClusterRecord>(CLUSTER_KEY).await?;
            let record = match &held {
                None => first_record(&self.options, ca_fingerprint),
                Some(held) => {
                    check_cluster(&held.value, &self.options, ca_fingerprint)?;
                    if held.value.default_primary == self.options.default_primary {
                        return Ok(());
                    }
                    let default_primary = self.options.default_primary.clone();
                    ClusterRecord { default_primary, revision: held.value.revision + 1, ..held.value.clone() }
                }
            };
            // Another coordinator may be faster, so what is there is checked in the next round either way.
            self.records.commit(replace(Txn::new(), CLUSTER_KEY, held.as_ref(), &record)?).await?;
        }
        Err(ServiceError::Contended)
    }
}

fn first_record(options: &Options, ca_fingerprint: &str) -> ClusterRecord {
    ClusterRecord {
        cluster: options.cluster.clone(),
        default_primary: options.default_primary.clone(),
        revision: 1,
        ca_fingerprint: ca_fingerprint.to_owned(),
        created_at: now(),
    }
}

pub(super) fn not_registered(message: String) -> ServiceError {
    ServiceError::Refused(Reason::NotRegistered, message)
}

/// The clock, read in this one place.
pub(super) fn now() -> Timestamp {
    Timestamp::from_unix_ms(jiff::Timestamp::now().as_millisecond())
}

fn values<T>(held: Vec<Held<T>>) -> Vec<T> {
    held.into_iter().map(|held| held.value).collect()
}

fn check_cluster(
    record: &ClusterRecord,
    options: &Options,
    ca_fingerprint: &str,
) -> Result<(), ServiceError> {
    if record.cluster != options.cluster {
        return Err(ServiceError::Invalid(format!(
            "the metadata store belongs to cluster '{}', not '{}'",
            record.cluster, options.cluster
        )));
    }
    if record.ca_fingerprint != ca_fingerprint {
        return Err(ServiceError::Invalid(
            "ca.crt in the data directory is not the authority of this cluster: copy ca.crt and ca.key from \
             another coordinator or from a backup"
                .into(),
        ));
    }
    Ok(())
}
