//! The store of a single coordinator: a directory on local disk, held by one process.
//!
//! All changes go through one writer thread, which gathers those that wait, commits them with one fsync, and
//! only then answers and shows them. Reads take snapshots and never wait for the writer. Watches read the
//! event log, so a slow watcher costs no memory and loses nothing.
//!
//! # On-disk format 1
//! A fjall database with four keyspaces; integers are big-endian.
//!
//! | keyspace | key | value |
//! |---|---|---|
//! | `meta` | `format` | u32: 1 |
//! | `entries` | the [`Key`]'s bytes | create revision u64, modification revision u64, lease u64 (0: none), value |
//! | `log` | revision u64 | the changes of that revision, one after the other |
//! | `leases` | lease u64 | seconds to live u64 |
//!
//! A change in the log is: kind u8 (1 put, 2 delete), key length u32, key, and for a put: create revision
//! u64, value length u32, value. The log has one entry for each revision from the oldest that is kept to the
//! current one without gaps, so its last key is the store's revision; the newest entry is never dropped.
//! Entries, log and leases of a change are in one fjall transaction: after a crash all of it is there or none.
//!
//! Expiry times are not stored: after a restart each lease gets its whole time to live again, because its
//! holder could not keep it alive while the store was down.

use std::{
    future::Future,
    path::Path,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::{
    CALL_DEADLINE, Entry, Key, Lease, LeaseId, MAX_WATCHERS, MetaStore, Result, Revision, Snapshot,
    StoreError, Txn, TxnOutcome, WatchStream, checked_lease_ttl,
};
use disk::Disk;
use writer::{LogLimits, Write, Writer};

mod disk;
mod lease;
mod log_reader;
mod record;
#[cfg(test)]
mod tests;
mod writer;

/// Changes that may wait for the writer; the next caller waits, up to its deadline.
const MAX_QUEUED_WRITES: usize = 128;
/// How often expired leases are looked for, so how late their keys may vanish.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(200);

/// An open store directory. Dropping it waits for the writes that were accepted.
pub struct EmbeddedStore {
    disk: Disk,
    writes: Option<mpsc::Sender<Write>>,
    revision: watch::Receiver<Revision>,
    watchers: Arc<Semaphore>,
    writer: Option<JoinHandle<()>>,
    expiry: tokio::task::JoinHandle<()>,
}

impl EmbeddedStore {
    /// Opens `dir`, creates it if need be, and recovers what was acknowledged before a crash.
    pub async fn open(dir: &Path) -> Result<EmbeddedStore> {
        EmbeddedStore::open_with(dir, LogLimits::default()).await
    }

    async fn open_with(dir: &Path, limits: LogLimits) -> Result<EmbeddedStore> {
        let dir = dir.to_owned();
        // Recovery after a crash may take longer than a call, but ends: the journal's size is limited.
        let opened = tokio::task::spawn_blocking(move || {
            let disk = Disk::open(&dir)?;
            let (revisions, revision) = watch::channel(Revision::default());
            let writer = Writer::recover(disk.clone(), limits, revisions, Instant::now())?;
            Ok((disk, writer, revision))
        });
        let (disk, writer, revision) =
            opened.await.map_err(|error| StoreError::Broken(error.to_string()))??;
        EmbeddedStore::start(disk, writer, revision)
    }

    fn start(disk: Disk, writer: Writer, revision: watch::Receiver<Revision>) -> Result<EmbeddedStore> {
        let (writes, queue) = mpsc::channel(MAX_QUEUED_WRITES);
        let expiry = tokio::spawn(expire_leases(writes.downgrade()));
        let writer = std::thread::Builder::new()
            .name("metadata-writer".into())
            .spawn(move || writer.run(queue))
            .map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let watchers = Arc::new(Semaphore::new(MAX_WATCHERS));
        Ok(EmbeddedStore { disk, writes: Some(writes), revision, watchers, writer: Some(writer), expiry })
    }

    async fn write<T>(&self, write: impl FnOnce(oneshot::Sender<Result<T>>) -> Write) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let write = write(reply);
        within_deadline(async {
            let writes = self.writes.as_ref().ok_or_else(closed)?;
            writes.send(write).await.map_err(|_| closed())?;
            answer.await.map_err(|_| closed())?
        })
        .await
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Disk) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let disk = self.disk.clone();
        within_deadline(blocking(move || read(&disk))).await
    }
}

#[async_trait]
impl MetaStore for EmbeddedStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        let key = key.clone();
        self.read(move |disk| disk.get(&key)).await
    }

    async fn range(&self, prefix: &Key) -> Result<Snapshot> {
        let prefix = prefix.clone();
        self.read(move |disk| disk.range(&prefix)).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome> {
        txn.check()?;
        self.write(|reply| Write::Txn(txn, reply)).await
    }

    async fn watch(&self, prefix: &Key, after: Revision) -> Result<WatchStream> {
        let permit = self.watchers.clone().try_acquire_owned();
        let permit = permit.map_err(|_| too_many_watchers())?;
        let reader = log_reader::LogReader::new(
            self.disk.clone(),
            prefix.clone(),
            after,
            self.revision.clone(),
            permit,
        );
        Ok(reader.into_stream())
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<Lease> {
        let ttl = checked_lease_ttl(ttl)?;
        self.write(|reply| Write::Grant(ttl, reply)).await
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<()> {
        self.write(|reply| Write::KeepAlive(lease, reply)).await
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<()> {
        self.write(|reply| Write::Revoke(lease, reply)).await
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.expiry.abort();
        self.writes = None;
        if let Some(Err(_)) = self.writer.take().map(JoinHandle::join) {
            tracing::error!("the metadata writer panicked");
        }
    }
}

async fn expire_leases(writes: mpsc::WeakSender<Write>) {
    let mut interval = tokio::time::interval(EXPIRY_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let Some(writes) = writes.upgrade() else { return };
        if writes.send(Write::Expire).await.is_err() {
            return;
        }
    }
}

async fn within_deadline<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(CALL_DEADLINE, call).await {
        Ok(result) => result,
        Err(_) => Err(StoreError::Unavailable(format!("no answer from the disk within {CALL_DEADLINE:?}"))),
    }
}

async fn blocking<T: Send + 'static>(read: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(read).await {
        Ok(result) => result,
        Err(error) => Err(StoreError::Broken(error.to_string())),
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("it has been closed".into())
}

fn too_many_watchers() -> StoreError {
    StoreError::Limit { what: "watchers", actual: MAX_WATCHERS + 1, limit: MAX_WATCHERS }
}
