//! Records in the metadata store as typed values, and the transactions that change them.
//!
//! *Invariant:* a record is written only if it is still the one that was read.

use super::refusal::ServiceError;
use crate::model::record::{CLUSTER_KEY, ClusterRecord};
use crate::store::{Condition, Entry, Key, MetaStore, Revision, Txn, TxnOutcome};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// How often a change is tried again when others change the same records.
pub(crate) const MAX_ATTEMPTS: usize = 32;

/// Typed access to the store.
#[derive(Clone)]
pub(crate) struct Records {
    store: Arc<dyn MetaStore>,
}

/// A record and the revision at which it was read.
#[derive(Debug, Clone)]
pub(crate) struct Held<T> {
    pub(crate) value: T,
    pub(crate) revision: Revision,
}

impl Records {
    pub(crate) fn new(store: Arc<dyn MetaStore>) -> Self {
        Self { store }
    }

    pub(crate) fn store(&self) -> &Arc<dyn MetaStore> {
        &self.store
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<Held<T>>, ServiceError> {
        self.store.get(&Key::new(key)?).await?.map(parse).transpose()
    }

    /// All records whose keys begin with `prefix`, by key.
    pub(crate) async fn range<T: DeserializeOwned>(
        &self,
        prefix: &str,
    ) -> Result<Vec<Held<T>>, ServiceError> {
        self.store.range(&Key::new(prefix)?).await?.entries.into_iter().map(parse).collect()
    }

    /// Carries out `txn`; false when something had changed since it was read.
    pub(crate) async fn commit(&self, txn: Txn) -> Result<bool, ServiceError> {
        Ok(matches!(self.store.txn(txn).await?, TxnOutcome::Committed { .. }))
    }

    /// The cluster's record, which is there once a coordinator has started.
    pub(crate) async fn cluster(&self) -> Result<Held<ClusterRecord>, ServiceError> {
        let missing = || ServiceError::Damaged { key: CLUSTER_KEY.into(), reason: "it is missing".into() };
        self.get(CLUSTER_KEY).await?.ok_or_else(missing)
    }
}

/// Adds "write `value`, if the record is still as it was `held`".
pub(crate) fn replace<T: Serialize, U>(
    txn: Txn,
    key: &str,
    held: Option<&Held<U>>,
    value: &T,
) -> Result<Txn, ServiceError> {
    let condition = match held {
        Some(held) => Condition::Unchanged(Key::new(key)?, held.revision),
        None => Condition::Absent(Key::new(key)?),
    };
    Ok(txn.when(condition).put(Key::new(key)?, json(value).into_bytes()))
}

/// Adds "delete the record, if it is still as it was `held`".
pub(crate) fn delete<T>(txn: Txn, key: &str, held: &Held<T>) -> Result<Txn, ServiceError> {
    let key = Key::new(key)?;
    Ok(txn.when(Condition::Unchanged(key.clone(), held.revision)).delete(key))
}

/// A transaction that makes the next view: it raises the cluster's revision.
pub(crate) fn next_view(cluster: &Held<ClusterRecord>) -> Result<Txn, ServiceError> {
    replace(Txn::new(), CLUSTER_KEY, Some(cluster), &after(&cluster.value))
}

/// The cluster's record with the next view.
pub(crate) fn after(cluster: &ClusterRecord) -> ClusterRecord {
    ClusterRecord { revision: cluster.revision + 1, ..cluster.clone() }
}

/// Records as JSON text.
pub(crate) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("records have text keys and no failing parts")
}

fn parse<T: DeserializeOwned>(entry: Entry) -> Result<Held<T>, ServiceError> {
    serde_json::from_slice(&entry.value)
        .map(|value| Held { value, revision: entry.mod_revision })
        .map_err(|error| ServiceError::Damaged { key: entry.key.to_string(), reason: error.to_string() })
}
