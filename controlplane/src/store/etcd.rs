//! The store that several coordinators share: an etcd cluster, version 3.4 or later.
//!
//! Needs the cargo feature `etcd`, because building it needs protoc. Keys and values are stored as they are,
//! so that `etcdctl get --prefix /globalfs/` shows them. Keys that others put beneath `/globalfs/` and that
//! are no [`Key`] are passed over with a warning.
//!
//! *Invariant:* every call ends within [`CALL_DEADLINE`], whatever etcd or the network does.

use std::{future::Future, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, GetOptions, Identity, KeyValue, KvClient,
    LeaseClient, PutOptions, ResponseHeader, TlsOptions, TxnOp, TxnOpResponse,
};
use tokio::sync::Semaphore;
use tonic::Code;

use super::{
    CALL_DEADLINE, Condition, Entry, EtcdConfig, Key, Lease, LeaseId, MAX_RANGE_BYTES, MAX_TXN_BYTES,
    MAX_TXN_OPERATIONS, MAX_WATCHERS, MetaStore, Operation, Result, Revision, Snapshot, StoreError, Txn,
    TxnOutcome, WatchStream, checked_lease_ttl,
};

#[cfg(test)]
mod tests;
mod watch;

/// Entries asked for at once by a range; bounds one answer's bytes together with [`MAX_TXN_BYTES`].
const RANGE_PAGE_ENTRIES: usize = MAX_TXN_OPERATIONS;
/// Bytes of one answer: the entries of all conditions of a transaction, or a page of a range.
const MAX_ANSWER_BYTES: usize = MAX_TXN_OPERATIONS * MAX_TXN_BYTES;
/// A silent connection is asked for a sign of life this often, and dropped without one after the second.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection to an etcd cluster, which finds its way back after interruptions by itself.
pub struct EtcdStore {
    client: Client,
    watchers: Arc<Semaphore>,
}

impl EtcdStore {
    /// Connects and makes sure that the cluster answers and lets us read.
    pub async fn connect(config: &EtcdConfig) -> Result<EtcdStore> {
        let options = connect_options(config).await?;
        let client = within_deadline(Client::connect(&config.endpoints, Some(options))).await?;
        let store = EtcdStore { client, watchers: Arc::new(Semaphore::new(MAX_WATCHERS)) };
        store.get(&Key::new(Key::ROOT)?).await?;
        Ok(store)
    }

    fn entries(&self) -> KvClient {
        self.client.kv_client().max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    fn leases(&self) -> LeaseClient {
        self.client.lease_client()
    }

    async fn range_by_pages(&self, prefix: &Key) -> Result<Snapshot> {
        let mut snapshot = Snapshot { entries: Vec::new(), revision: Revision::default() };
        let mut start = prefix.as_bytes().to_vec();
        let mut size_bytes = 0;
        loop {
            let options = page_options(prefix, snapshot.revision);
            let mut page = within_deadline(self.entries().get(start, Some(options))).await?;
            if snapshot.revision == Revision::default() {
                snapshot.revision = revision_of(page.header())?;
            }
            let more = page.more();
            let found = page.take_kvs();
            start = found.last().map(|last| [last.key(), b"\0"].concat()).unwrap_or_default();
            size_bytes += found.iter().map(|kv| kv.key().len() + kv.value().len()).sum::<usize>();
            StoreError::check_limit("bytes in a range", size_bytes, MAX_RANGE_BYTES)?;
            snapshot.entries.extend(found.iter().filter_map(entry_from));
            if !more || start.is_empty() {
                return Ok(snapshot);
            }
        }
    }
}

#[async_trait]
impl MetaStore for EtcdStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        let found = within_deadline(self.entries().get(key.as_bytes(), None)).await?;
        Ok(found.kvs().first().and_then(entry_from))
    }

    async fn range(&self, prefix: &Key) -> Result<Snapshot> {
        let pages = tokio::time::timeout(CALL_DEADLINE, self.range_by_pages(prefix));
        match pages.await.unwrap_or_else(|_| Err(no_answer())) {
            // History was compacted between two pages: the next attempt starts from a newer moment.
            Err(StoreError::Compacted) => {
                Err(StoreError::Unavailable("compacted during a range: try again".into()))
            }
            other => other,
        }
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome> {
        txn.check()?;
        let lease = txn.leases().next();
        let answer = within_deadline(self.entries().txn(etcd_txn(&txn))).await;
        let answer = answer.map_err(|error| name_lease(error, lease))?;
        if answer.succeeded() {
            return Ok(TxnOutcome::Committed { revision: revision_of(answer.header())? });
        }
        let mut current = Vec::new();
        for found in answer.op_responses() {
            if let TxnOpResponse::Get(found) = found {
                current.extend(found.kvs().iter().filter_map(entry_from));
            }
        }
        Ok(TxnOutcome::Refused { current })
    }

    async fn watch(&self, prefix: &Key, after: Revision) -> Result<WatchStream> {
        let permit = self.watchers.clone().try_acquire_owned();
        let permit = permit.map_err(|_| StoreError::Limit {
            what: "watchers",
            actual: MAX_WATCHERS + 1,
            limit: MAX_WATCHERS,
        })?;
        let client = self.client.watch_client().max_decoding_message_size(MAX_ANSWER_BYTES);
        Ok(watch::Watch::new(client, prefix.clone(), after, permit).into_stream())
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<Lease> {
        let seconds = checked_lease_ttl(ttl)?.as_secs() as i64;
        let granted = within_deadline(self.leases().grant(seconds, None)).await?;
        let id = LeaseId(unsigned(granted.id())?);
        Ok(Lease { id, ttl: Duration::from_secs(unsigned(granted.ttl())?) })
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<()> {
        let kept = within_deadline(self.leases().keep_alive(lease.0 as i64)).await;
        kept.map(drop).map_err(|error| name_lease(error, Some(lease)))
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<()> {
        let revoked = within_deadline(self.leases().revoke(lease.0 as i64)).await;
        revoked.map(drop).map_err(|error| name_lease(error, Some(lease)))
    }
}

async fn connect_options(config: &EtcdConfig) -> Result<ConnectOptions> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
        .with_require_leader(true);
    match (&config.user, &config.password) {
        (Some(user), Some(password)) => {
            options = options.with_user(user, password).with_auto_token_refresh(true);
        }
        (None, None) => {}
        _ => return Err(StoreError::Invalid("etcd: user and password go together".into())),
    }
    if check_endpoints(config)? {
        options = options.with_tls(tls_options(config).await?);
    }
    Ok(options)
}

/// Whether the endpoints use TLS; an error if they are not all alike.
fn check_endpoints(config: &EtcdConfig) -> Result<bool> {
    let secure = config.endpoints.iter().filter(|url| url.starts_with("https://")).count();
    let plain = config.endpoints.iter().filter(|url| url.starts_with("http://")).count();
    let has_files = config.ca.is_some() || config.cert.is_some() || config.key.is_some();
    let wrong = match (secure, plain) {
        (0, 0) => "at least one endpoint is needed, http://HOST:PORT or https://HOST:PORT",
        _ if secure + plain < config.endpoints.len() => {
            "an endpoint is http://HOST:PORT or https://HOST:PORT"
        }
        (1.., 1..) => "all endpoints are either http:// or https://",
        (0, _) if has_files => "certificates need https:// endpoints",
        _ => return Ok(secure > 0),
    };
    Err(StoreError::Invalid(format!("etcd: {wrong}")))
}

async fn tls_options(config: &EtcdConfig) -> Result<TlsOptions> {
    let mut tls = TlsOptions::new();
    if let Some(ca) = &config.ca {
        tls = tls.ca_certificate(Certificate::from_pem(read_pem(ca).await?));
    }
    match (&config.cert, &config.key) {
        (Some(cert), Some(key)) => {
            Ok(tls.identity(Identity::from_pem(read_pem(cert).await?, read_pem(key).await?)))
        }
        (None, None) => Ok(tls),
        _ => Err(StoreError::Invalid("etcd: cert and key go together".into())),
    }
}

async fn read_pem(path: &Path) -> Result<Vec<u8>> {
    let read = tokio::fs::read(path).await;
    read.map_err(|error| StoreError::Invalid(format!("cannot read {}: {error}", path.display())))
}

fn page_options(prefix: &Key, revision: Revision) -> GetOptions {
    GetOptions::new()
        .with_range(prefix_end(prefix))
        .with_limit(RANGE_PAGE_ENTRIES as i64)
        .with_revision(revision.0 as i64)
}

/// The first key after all that start with `prefix`.
fn prefix_end(prefix: &Key) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    // UTF-8 has no byte 0xff, so the last one can always be raised.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

fn etcd_txn(txn: &Txn) -> etcd_client::Txn {
    let conditions: Vec<_> = txn.conditions.iter().map(compare).collect();
    let operations: Vec<_> = txn.operations.iter().map(operation).collect();
    let current: Vec<_> = txn.condition_keys().iter().map(|key| TxnOp::get(key.as_bytes(), None)).collect();
    etcd_client::Txn::new().when(conditions).and_then(operations).or_else(current)
}

fn compare(condition: &Condition) -> Compare {
    match condition {
        Condition::Absent(key) => Compare::create_revision(key.as_bytes(), CompareOp::Equal, 0),
        Condition::Unchanged(key, revision) => {
            // Revision 0 would mean absence to etcd; no entry has -1.
            let revision = if revision.0 == 0 { -1 } else { revision.0 as i64 };
            Compare::mod_revision(key.as_bytes(), CompareOp::Equal, revision)
        }
        Condition::Value(key, value) => Compare::value(key.as_bytes(), CompareOp::Equal, value.clone()),
    }
}

fn operation(operation: &Operation) -> TxnOp {
    match operation {
        Operation::Put { key, value, lease } => {
            let options = lease.map(|lease| PutOptions::new().with_lease(lease.0 as i64));
            TxnOp::put(key.as_bytes(), value.clone(), options)
        }
        Operation::Delete(key) => TxnOp::delete(key.as_bytes(), None),
    }
}

fn entry_from(kv: &KeyValue) -> Option<Entry> {
    Some(Entry {
        key: key_from(kv)?,
        value: kv.value().to_vec(),
        mod_revision: Revision(kv.mod_revision() as u64),
        create_revision: Revision(kv.create_revision() as u64),
    })
}

fn key_from(kv: &KeyValue) -> Option<Key> {
    let key = std::str::from_utf8(kv.key()).ok().and_then(|text| Key::new(text).ok());
    if key.is_none() {
        tracing::warn!(key = %String::from_utf8_lossy(kv.key()), "a key in etcd is not ours");
    }
    key
}

fn revision_of(header: Option<&ResponseHeader>) -> Result<Revision> {
    let header = header.ok_or_else(|| StoreError::Broken("etcd answered without a revision".into()))?;
    unsigned(header.revision()).map(Revision)
}

fn unsigned(number: i64) -> Result<u64> {
    number.try_into().map_err(|_| StoreError::Broken(format!("etcd answered with the number {number}")))
}

async fn within_deadline<T>(
    call: impl Future<Output = std::result::Result<T, etcd_client::Error>>,
) -> Result<T> {
    match tokio::time::timeout(CALL_DEADLINE, call).await {
        Ok(result) => result.map_err(sort_error),
        Err(_) => Err(no_answer()),
    }
}

fn no_answer() -> StoreError {
    StoreError::Unavailable(format!("no answer from etcd within {CALL_DEADLINE:?}"))
}

/// etcd does not say which lease it misses; the caller knows.
fn name_lease(error: StoreError, lease: Option<LeaseId>) -> StoreError {
    match (error, lease) {
        (StoreError::LeaseGone(_), Some(lease)) => StoreError::LeaseGone(lease),
        (other, _) => other,
    }
}

fn sort_error(error: etcd_client::Error) -> StoreError {
    use etcd_client::Error as E;
    match error {
        E::GRpcStatus(status) => sort_status(status.code(), status.message()),
        E::LeaseKeepAliveError(text) if text.contains("not found") => StoreError::LeaseGone(LeaseId(0)),
        E::InvalidArgs(text) | E::EndpointError(text) => StoreError::Invalid(text),
        E::InvalidUri(error) => StoreError::Invalid(error.to_string()),
        other => StoreError::Unavailable(describe(&other)),
    }
}

fn sort_status(code: Code, message: &str) -> StoreError {
    let text = format!("{message} ({code})");
    match code {
        Code::NotFound if message.contains("lease not found") => StoreError::LeaseGone(LeaseId(0)),
        Code::OutOfRange if message.contains("compacted") => StoreError::Compacted,
        Code::ResourceExhausted if message.contains("space exceeded") => StoreError::Full(text),
        Code::InvalidArgument if is_login_refusal(message) => StoreError::Denied(text),
        Code::PermissionDenied | Code::Unauthenticated => StoreError::Denied(text),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange | Code::Unimplemented => {
            StoreError::Invalid(text)
        }
        Code::DataLoss => StoreError::Broken(text),
        _ => StoreError::Unavailable(text),
    }
}

/// etcd sends these as invalid arguments.
fn is_login_refusal(message: &str) -> bool {
    message.contains("authentication failed") || message.contains("user name is empty")
}

/// The error with its causes: tonic's own text is "transport error" and no more.
fn describe(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
