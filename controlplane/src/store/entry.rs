//! Keys, entries and events: the nouns of the store.
//!
//! *Invariant:* a [`Key`] begins with `/globalfs/`, so that a shared etcd can hold other things too.

use std::{fmt, time::Duration};

use super::{MAX_KEY_BYTES, Result, StoreError};

/// The name of an entry: UTF-8 text that begins with `/globalfs/` and has at most [`MAX_KEY_BYTES`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// What every key begins with; itself the prefix of all of them.
    pub const ROOT: &'static str = "/globalfs/";

    /// Checks `text`; whatever it holds after [`Key::ROOT`] is allowed.
    pub fn new(text: impl Into<String>) -> Result<Key> {
        let text = text.into();
        if !text.starts_with(Key::ROOT) {
            return Err(StoreError::Invalid(format!("key {text:?} does not begin with {}", Key::ROOT)));
        }
        StoreError::check_limit("bytes in a key", text.len(), MAX_KEY_BYTES)?;
        Ok(Key(text))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key as it is stored.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A moment in the store's history. Each transaction that changes something is one above the previous; the
/// empty store is at some small number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a lease; positive and below 2^63, as etcd has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    /// As `etcdctl lease list` shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// A lease that was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Its name.
    pub id: LeaseId,
    /// How long it lives without being kept alive; not below what was asked for.
    pub ttl: Duration,
}

/// A key, its value, and when they came to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name.
    pub key: Key,
    /// What is stored.
    pub value: Vec<u8>,
    /// When this value was put.
    pub mod_revision: Revision,
    /// When the key was put after it had been absent.
    pub create_revision: Revision,
}

/// All entries beneath a prefix at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// In the order of their keys' bytes.
    pub entries: Vec<Entry>,
    /// The moment: later changes have a higher revision.
    pub revision: Revision,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When; the changes of one transaction share it.
    pub revision: Revision,
    /// What.
    pub change: Change,
}

/// What happened to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It has this entry now.
    Put(Entry),
    /// It is absent now.
    Delete(Key),
}

impl Change {
    /// The key that changed.
    pub fn key(&self) -> &Key {
        match self {
            Change::Put(entry) => &entry.key,
            Change::Delete(key) => key,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_begin_with_the_root_and_have_a_limit() {
        assert!(Key::new("/globalfs/").is_ok());
        assert!(Key::new("/globalfs/odd name\n\u{10ffff}").is_ok());
        for wrong in ["", "/", "/globalfs", "globalfs/a", "/other/a"] {
            assert!(matches!(Key::new(wrong), Err(StoreError::Invalid(_))), "{wrong}");
        }
        let filled =
            |length: usize| Key::new(format!("{}{}", Key::ROOT, "x".repeat(length - Key::ROOT.len())));
        assert!(filled(MAX_KEY_BYTES).is_ok());
        assert!(matches!(filled(MAX_KEY_BYTES + 1), Err(StoreError::Limit { .. })));
    }
}
