//! Which coordinator grants leases, where several share a store: the one that put the leader's key, as long as it keeps
//! the key alive.

use crate::model::record::LEADER_KEY;
use crate::service::records::json;
use crate::service::refusal::ServiceError;
use crate::store::{Condition, Entry, Key, Lease, MetaStore, StoreError, Txn, TxnOutcome};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A leader that is not heard from for so long is one no more.
const TTL: Duration = Duration::from_secs(6);

/// How often it says that it is there.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// After so long without the store's word nobody knows who leads.
const CERTAIN: Duration = Duration::from_secs(4);

const _: () = assert!(2 * KEEP_ALIVE.as_secs() <= CERTAIN.as_secs() && CERTAIN.as_secs() < TTL.as_secs());

/// This coordinator's leadership.
pub(super) struct Leadership {
    store: Arc<dyn MetaStore>,
    key: Key,
    value: Vec<u8>,
    lease: Lease,
    /// When the store was last asked that then said that this one leads.
    sure: Instant,
}

/// The leader's key, as an operator sees it.
#[derive(Serialize, Deserialize)]
struct LeaderRecord {
    coordinator: String,
    start: u64,
}

/// Who leads.
pub(super) enum Candidacy {
    Won(Leadership),
    /// Another one, by its name.
    Lost(Option<String>),
}

impl Leadership {
    /// Becomes the leader if nobody is.
    pub(super) async fn seek(store: Arc<dyn MetaStore>, name: &str) -> Result<Candidacy, ServiceError> {
        let key = Key::new(LEADER_KEY)?;
        if let Some(held) = store.get(&key).await? {
            return Ok(Candidacy::Lost(leader(&held)));
        }
        let (sure, lease) = (Instant::now(), store.lease_grant(TTL).await?);
        // Unlike that of any other start.
        let record = LeaderRecord { coordinator: name.to_owned(), start: rand::random() };
        let value = json(&record).into_bytes();
        let put = Txn::new().when(Condition::Absent(key.clone()));
        let outcome = store.txn(put.put_leased(key.clone(), value.clone(), lease.id)).await;
        let held = match &outcome {
            Ok(TxnOutcome::Committed { .. }) => {
                return Ok(Candidacy::Won(Self { store, key, value, lease, sure }));
            }
            Ok(TxnOutcome::Refused { current }) => current.first().and_then(leader),
            Err(_) => None,
        };
        store.lease_revoke(lease.id).await?;
        outcome.map(|_| Candidacy::Lost(held)).map_err(Into::into)
    }

    /// Whoever leads by what is left of an earlier start of this same coordinator, which has the store for itself.
    pub(super) async fn depose(store: &Arc<dyn MetaStore>) -> Result<(), ServiceError> {
        store.txn(Txn::new().delete(Key::new(LEADER_KEY)?)).await?;
        Ok(())
    }

    /// Says that it is there. An error: it leads no more, or nobody knows.
    pub(super) async fn keep_alive(&mut self) -> Result<(), ServiceError> {
        let asked = Instant::now();
        self.store.lease_keep_alive(self.lease.id).await?;
        self.sure = asked;
        Ok(())
    }

    /// The same, now and then. The store may be away for a moment.
    pub(super) async fn stay(&mut self) -> Result<(), ServiceError> {
        match self.keep_alive().await {
            Err(ServiceError::Store(StoreError::Unavailable(_))) if self.is_certain() => Ok(()),
            other => other,
        }
    }

    /// To be asked before anything is said to sites: a process that was stopped for a while finds another leader, and what
    /// it remembers is not so any more.
    pub(super) async fn check(&mut self) -> Result<(), ServiceError> {
        if self.is_certain() { Ok(()) } else { self.keep_alive().await }
    }

    fn is_certain(&self) -> bool {
        self.sure.elapsed() < CERTAIN
    }

    /// `txn`, if this coordinator is still the leader.
    pub(super) fn guard(&self, txn: Txn) -> Txn {
        txn.when(Condition::Value(self.key.clone(), self.value.clone()))
    }

    /// Gives the leadership up.
    pub(super) async fn resign(self) {
        // Without an answer it runs out.
        let _ = self.store.lease_revoke(self.lease.id).await;
    }
}

fn leader(entry: &Entry) -> Option<String> {
    let record: LeaderRecord = serde_json::from_slice(&entry.value).ok()?;
    Some(record.coordinator)
}
