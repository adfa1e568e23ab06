//! Transactions: conditions on the present, then changes, all or nothing.
//!
//! *Invariant:* both implementations refuse the same malformed transactions, because both call
//! [`Txn::check`] first; etcd's own limits are never what a caller runs into.

use std::collections::HashSet;

use super::{
    Entry, Key, LeaseId, MAX_TXN_BYTES, MAX_TXN_OPERATIONS, MAX_VALUE_BYTES, Result, Revision, StoreError,
};

/// What must hold for a transaction to be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The key has no entry.
    Absent(Key),
    /// The entry is the one put at this revision.
    Unchanged(Key, Revision),
    /// The entry has this value.
    Value(Key, Vec<u8>),
}

impl Condition {
    /// The key that is looked at.
    pub fn key(&self) -> &Key {
        match self {
            Condition::Absent(key) | Condition::Unchanged(key, _) | Condition::Value(key, _) => key,
        }
    }

    /// Whether `current`, the entry at the key, fulfils it.
    pub(super) fn holds(&self, current: Option<&Entry>) -> bool {
        match self {
            Condition::Absent(_) => current.is_none(),
            Condition::Unchanged(_, revision) => current.is_some_and(|entry| entry.mod_revision == *revision),
            Condition::Value(_, value) => current.is_some_and(|entry| entry.value == *value),
        }
    }

    fn size_bytes(&self) -> usize {
        match self {
            Condition::Value(key, value) => key.as_bytes().len() + value.len(),
            other => other.key().as_bytes().len(),
        }
    }
}

/// A change to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Sets the value. A key put without a lease is bound to none, also when it was before.
    Put {
        /// The name.
        key: Key,
        /// What to store.
        value: Vec<u8>,
        /// The entry vanishes with this lease.
        lease: Option<LeaseId>,
    },
    /// Removes the entry; nothing happens if there is none.
    Delete(Key),
}

impl Operation {
    fn key(&self) -> &Key {
        match self {
            Operation::Put { key, .. } | Operation::Delete(key) => key,
        }
    }

    fn value_bytes(&self) -> usize {
        match self {
            Operation::Put { value, .. } => value.len(),
            Operation::Delete(_) => 0,
        }
    }
}

/// A compare-and-swap over several keys; built with its methods, carried out by `MetaStore::txn`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold.
    pub conditions: Vec<Condition>,
    /// All are carried out, at one revision; each key may occur once.
    pub operations: Vec<Operation>,
}

/// How a transaction ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TxnOutcome {
    /// All operations were carried out and are durable.
    Committed {
        /// When; the store's current revision if nothing had to change.
        revision: Revision,
    },
    /// A condition did not hold and nothing was changed.
    Refused {
        /// What the keys of the conditions hold; a key without entry is not in it.
        current: Vec<Entry>,
    },
}

impl Txn {
    /// Without conditions or operations.
    pub fn new() -> Txn {
        Txn::default()
    }

    /// Adds a condition.
    pub fn when(mut self, condition: Condition) -> Txn {
        self.conditions.push(condition);
        self
    }

    /// Adds a put that is bound to no lease.
    pub fn put(self, key: Key, value: impl Into<Vec<u8>>) -> Txn {
        self.operation(Operation::Put { key, value: value.into(), lease: None })
    }

    /// Adds a put that vanishes with `lease`.
    pub fn put_leased(self, key: Key, value: impl Into<Vec<u8>>, lease: LeaseId) -> Txn {
        self.operation(Operation::Put { key, value: value.into(), lease: Some(lease) })
    }

    /// Adds a delete.
    pub fn delete(self, key: Key) -> Txn {
        self.operation(Operation::Delete(key))
    }

    fn operation(mut self, operation: Operation) -> Txn {
        self.operations.push(operation);
        self
    }

    /// The keys of the conditions, each once.
    pub(super) fn condition_keys(&self) -> Vec<&Key> {
        let mut seen = HashSet::new();
        self.conditions.iter().map(Condition::key).filter(|key| seen.insert(*key)).collect()
    }

    /// The leases that puts are bound to.
    pub(super) fn leases(&self) -> impl Iterator<Item = LeaseId> + '_ {
        self.operations.iter().filter_map(|operation| match operation {
            Operation::Put { lease, .. } => *lease,
            Operation::Delete(_) => None,
        })
    }

    /// Refuses what is over a limit or changes a key twice.
    pub(super) fn check(&self) -> Result<()> {
        StoreError::check_limit("conditions", self.conditions.len(), MAX_TXN_OPERATIONS)?;
        StoreError::check_limit("operations", self.operations.len(), MAX_TXN_OPERATIONS)?;
        for operation in &self.operations {
            StoreError::check_limit("bytes in a value", operation.value_bytes(), MAX_VALUE_BYTES)?;
        }
        StoreError::check_limit("bytes in a transaction", self.size_bytes(), MAX_TXN_BYTES)?;
        let mut seen = HashSet::new();
        match self.operations.iter().map(Operation::key).find(|key| !seen.insert(*key)) {
            Some(key) => Err(StoreError::Invalid(format!("the transaction changes {key} twice"))),
            None => Ok(()),
        }
    }

    fn size_bytes(&self) -> usize {
        // A refused transaction asks for each condition's key a second time.
        let conditions: usize =
            self.conditions.iter().map(|c| c.size_bytes() + c.key().as_bytes().len()).sum();
        let operations: usize =
            self.operations.iter().map(|o| o.key().as_bytes().len() + o.value_bytes()).sum();
        conditions + operations
    }
}
