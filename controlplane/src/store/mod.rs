//! The metadata store: what no single site can know, behind one trait with two implementations.
//!
//! [`embedded`] keeps it in a directory of one coordinator; `etcd` shares it between several. Both order all
//! changes by one [`Revision`], and one conformance suite holds them to the same behaviour.
//!
//! *Invariants:* an acknowledged change survives kill -9 and power loss; a transaction happens whole or not
//! at all; a watch delivers each change once, in order, without gaps, or says [`StoreError::Compacted`];
//! every call ends within [`CALL_DEADLINE`].

use std::{path::PathBuf, pin::Pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::Stream;

pub mod embedded;
mod entry;
mod error;
#[cfg(feature = "etcd")]
pub mod etcd;
mod etcd_server;
mod txn;

#[cfg(test)]
mod conformance;

pub use entry::{Change, Entry, Event, Key, Lease, LeaseId, Revision, Snapshot};
pub use error::StoreError;
pub use txn::{Condition, Operation, Txn, TxnOutcome};

/// A real etcd for tests; not part of the interface.
#[doc(hidden)]
pub mod testing {
    pub use super::etcd_server::{EtcdServer, EtcdTls, is_etcd_installed};
}

/// Bytes of a key: a namespace path of 4,095 bytes, escaped at worst as two for one, and its prefix.
pub const MAX_KEY_BYTES: usize = 8 * 1024 + 256;
/// Bytes of one value.
pub const MAX_VALUE_BYTES: usize = 1024 * 1024;
/// Conditions, and also operations, of one transaction: what etcd takes by default.
pub const MAX_TXN_OPERATIONS: usize = 128;
/// Bytes of all keys and values of one transaction; etcd takes 1.5 MiB with its framing.
pub const MAX_TXN_BYTES: usize = 1280 * 1024;
/// Bytes of keys and values in one answer to [`MetaStore::range`].
pub const MAX_RANGE_BYTES: usize = 256 * 1024 * 1024;
/// Watches open at once on one store handle.
pub const MAX_WATCHERS: usize = 1024;
/// The shortest lease; etcd rounds up to what its elections allow, usually 2 s.
pub const MIN_LEASE_TTL: Duration = Duration::from_secs(1);
/// The longest lease.
pub const MAX_LEASE_TTL: Duration = Duration::from_secs(24 * 3600);
/// The longest time that any call takes.
pub const CALL_DEADLINE: Duration = Duration::from_secs(5);

const _: () = assert!(MAX_KEY_BYTES + MAX_VALUE_BYTES <= MAX_TXN_BYTES);
const _: () = assert!(MAX_TXN_BYTES < MAX_RANGE_BYTES);

/// The result of every call to a store.
pub type Result<T> = std::result::Result<T, StoreError>;

/// Events of one watch in the order of their revisions. Ends after the first error, or when the store closes.
pub type WatchStream = Pin<Box<dyn Stream<Item = Result<Event>> + Send>>;

/// An ordered map from [`Key`] to bytes with transactions, watches and leases.
#[async_trait]
pub trait MetaStore: Send + Sync + 'static {
    /// The entry at `key`, as of some moment during the call.
    async fn get(&self, key: &Key) -> Result<Option<Entry>>;

    /// All entries whose keys start with the text of `prefix`, in key order, of one moment. `/globalfs/a`
    /// also matches `/globalfs/ab`: end the prefix with `/` to ask for what is beneath.
    async fn range(&self, prefix: &Key) -> Result<Snapshot>;

    /// Carries out `txn` whole if all its conditions hold. After [`StoreError::Unavailable`] it may have
    /// happened or not; repeating it is safe when its conditions exclude doing it twice.
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome>;

    /// Every change beneath `prefix` with a revision above `after`, so `range` then
    /// `watch(prefix, snapshot.revision)` misses nothing. While the store is away the stream is silent and
    /// carries on afterwards. [`StoreError::Compacted`] arrives as an item of the stream.
    async fn watch(&self, prefix: &Key, after: Revision) -> Result<WatchStream>;

    /// A new lease of at least `ttl`, rounded up to whole seconds.
    async fn lease_grant(&self, ttl: Duration) -> Result<Lease>;

    /// Gives the lease its whole time to live again.
    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<()>;

    /// Ends the lease and deletes the keys bound to it, in one revision.
    async fn lease_revoke(&self, lease: LeaseId) -> Result<()>;
}

/// Which store to open, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreConfig {
    /// A directory of this machine, used by one process at a time.
    Embedded {
        /// Created if it does not exist.
        dir: PathBuf,
    },
    /// An etcd cluster, version 3.4 or later.
    Etcd(EtcdConfig),
}

/// How to reach an etcd cluster.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct EtcdConfig {
    /// `http://HOST:PORT` or `https://HOST:PORT`, at least one, all of the same scheme.
    pub endpoints: Vec<String>,
    /// PEM file with the CA that signed the servers' certificates.
    pub ca: Option<PathBuf>,
    /// PEM file with the client's certificate; needs `key`.
    pub cert: Option<PathBuf>,
    /// PEM file with the client's private key; needs `cert`.
    pub key: Option<PathBuf>,
    /// Name for etcd's own authentication; needs `password`.
    pub user: Option<String>,
    /// Password of `user`.
    pub password: Option<String>,
}

impl std::fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The password must not reach a log.
        let EtcdConfig { endpoints, ca, cert, key, user, password: _ } = self;
        f.debug_struct("EtcdConfig")
            .field("endpoints", endpoints)
            .field("ca", ca)
            .field("cert", cert)
            .field("key", key)
            .field("user", user)
            .finish_non_exhaustive()
    }
}

/// Opens the store that `config` names; the embedded one is created if its directory is empty.
pub async fn open(config: &StoreConfig) -> Result<Arc<dyn MetaStore>> {
    match config {
        StoreConfig::Embedded { dir } => Ok(Arc::new(embedded::EmbeddedStore::open(dir).await?)),
        StoreConfig::Etcd(config) => open_etcd(config).await,
    }
}

#[cfg(feature = "etcd")]
async fn open_etcd(config: &EtcdConfig) -> Result<Arc<dyn MetaStore>> {
    Ok(Arc::new(etcd::EtcdStore::connect(config).await?))
}

#[cfg(not(feature = "etcd"))]
async fn open_etcd(_: &EtcdConfig) -> Result<Arc<dyn MetaStore>> {
    Err(StoreError::Unsupported("this build has no etcd support: build with --features etcd"))
}

/// Rounds a lease's time up to whole seconds, within the limits.
fn checked_lease_ttl(ttl: Duration) -> Result<Duration> {
    let whole = Duration::from_secs(ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)).max(MIN_LEASE_TTL);
    StoreError::check_limit(
        "seconds of a lease",
        whole.as_secs() as usize,
        MAX_LEASE_TTL.as_secs() as usize,
    )?;
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_times_are_whole_seconds_within_limits() {
        let seconds = |ttl| checked_lease_ttl(ttl).map(|ttl| ttl.as_secs());
        assert_eq!(seconds(Duration::ZERO), Ok(1));
        assert_eq!(seconds(Duration::from_millis(1500)), Ok(2));
        assert_eq!(seconds(MAX_LEASE_TTL), Ok(24 * 3600));
        assert!(matches!(seconds(MAX_LEASE_TTL + Duration::from_millis(1)), Err(StoreError::Limit { .. })));
    }

    #[test]
    fn passwords_stay_out_of_debug_output() {
        let config = EtcdConfig { password: Some("hunter2".into()), ..EtcdConfig::default() };
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[cfg(not(feature = "etcd"))]
    #[tokio::test]
    async fn a_build_without_etcd_says_how_to_get_it() {
        let error = open(&StoreConfig::Etcd(EtcdConfig::default())).await.err().expect("no etcd here");
        assert_eq!(error.to_string(), "this build has no etcd support: build with --features etcd");
    }
}
