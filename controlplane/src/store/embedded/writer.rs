//! The one thread that changes the store.
//!
//! *Invariants:* an answer is sent after the fsync of what it says; a revision is shown to watchers after
//! that too; after a failed write or sync nothing is written any more, because what is on disk is unknown
//! until the directory is opened again.

use std::time::{Duration, Instant};

use fjall::{Readable, SingleWriterWriteTx};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    disk::{Disk, broken},
    lease::LeaseTable,
    record::{StoredEntry, decode_u64, encode_changes},
};
use crate::store::{
    Change, Condition, Entry, Key, Lease, LeaseId, Operation, Result, Revision, StoreError, Txn, TxnOutcome,
};

/// Writes that share one fsync; with the largest transactions 80 MiB.
const MAX_WRITES_PER_COMMIT: usize = 64;

/// How much of the past watches can go back to.
#[derive(Debug, Clone, Copy)]
pub(super) struct LogLimits {
    pub(super) revisions: u64,
    pub(super) size_bytes: u64,
}

impl Default for LogLimits {
    fn default() -> LogLimits {
        LogLimits { revisions: 10_000, size_bytes: 256 * 1024 * 1024 }
    }
}

type Reply<T> = oneshot::Sender<Result<T>>;

/// What callers ask of the writer, and where the answer goes.
pub(super) enum Write {
    Txn(Txn, Reply<TxnOutcome>),
    Grant(Duration, Reply<Lease>),
    KeepAlive(LeaseId, Reply<()>),
    Revoke(LeaseId, Reply<()>),
    /// Ends the leases whose time is over.
    Expire,
}

/// Sends one answer, once it is known whether the commit succeeded.
type Answer = Box<dyn FnOnce(Result<()>)>;

/// The state that the thread owns.
pub(super) struct Writer {
    disk: Disk,
    limits: LogLimits,
    /// The current revision, and the oldest in the log, one above it when the log is empty.
    revision: u64,
    oldest: u64,
    log_bytes: u64,
    leases: LeaseTable,
    revisions: watch::Sender<Revision>,
}

impl Writer {
    /// Reads what the last run left.
    pub(super) fn recover(
        disk: Disk,
        limits: LogLimits,
        revisions: watch::Sender<Revision>,
        now: Instant,
    ) -> Result<Writer> {
        let leases = LeaseTable::default();
        let mut writer = Writer { disk, limits, revision: 0, oldest: 1, log_bytes: 0, leases, revisions };
        writer.recover_log()?;
        writer.recover_leases(now)?;
        writer.revisions.send_replace(Revision(writer.revision));
        Ok(writer)
    }

    fn recover_log(&mut self) -> Result<()> {
        for (index, item) in self.disk.snapshot().iter(&self.disk.log).enumerate() {
            let (key, record) = item.into_inner().map_err(broken)?;
            let revision = decode_u64(&key)?;
            if index == 0 {
                self.oldest = revision;
            } else if revision != self.revision + 1 {
                return Err(StoreError::Broken(format!("the log has a gap before revision {revision}")));
            }
            self.revision = revision;
            self.log_bytes += record.len() as u64;
        }
        Ok(())
    }

    fn recover_leases(&mut self, now: Instant) -> Result<()> {
        let snapshot = self.disk.snapshot();
        for item in snapshot.iter(&self.disk.leases) {
            let (id, ttl) = item.into_inner().map_err(broken)?;
            let ttl = Duration::from_secs(decode_u64(&ttl)?);
            self.leases.grant(LeaseId(decode_u64(&id)?), ttl, now);
        }
        for item in snapshot.iter(&self.disk.entries) {
            let (key, value) = item.into_inner().map_err(broken)?;
            let stored = StoredEntry::decode(&key, &value)?;
            self.leases.rebind(&stored.entry.key, None, stored.lease);
        }
        Ok(())
    }

    /// Works until all senders are gone.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Write>) {
        let mut batch = Vec::new();
        let mut failure: Option<StoreError> = None;
        while queue.blocking_recv_many(&mut batch, MAX_WRITES_PER_COMMIT) > 0 {
            if let Some(error) = &failure {
                batch.drain(..).for_each(|write| refuse(write, error));
                continue;
            }
            let mut answers = Vec::new();
            let result = self.commit(batch.drain(..), &mut answers);
            if let Err(error) = &result {
                tracing::error!(%error, "the metadata store stops writing");
                failure = Some(error.clone());
            }
            answers.into_iter().for_each(|answer| answer(result.clone()));
        }
    }

    fn commit(&mut self, batch: impl Iterator<Item = Write>, answers: &mut Vec<Answer>) -> Result<()> {
        let disk = self.disk.clone();
        let mut tx = disk.begin();
        let mut failure = Ok(());
        for write in batch {
            let done = self.apply(&mut tx, write, answers);
            failure = failure.and(done);
        }
        failure?;
        tx.commit().map_err(broken)?;
        self.revisions.send_if_modified(|shown| {
            let changed = shown.0 != self.revision;
            shown.0 = self.revision;
            changed
        });
        Ok(())
    }

    /// Carries out one write; an error only if the whole batch must fail.
    fn apply(
        &mut self,
        tx: &mut SingleWriterWriteTx<'_>,
        write: Write,
        answers: &mut Vec<Answer>,
    ) -> Result<()> {
        let now = Instant::now();
        match write {
            Write::Txn(txn, reply) => queue_answer(answers, reply, self.apply_txn(tx, &txn)),
            Write::Grant(ttl, reply) => queue_answer(answers, reply, Ok(self.grant(tx, ttl, now))),
            Write::KeepAlive(lease, reply) => {
                queue_answer(answers, reply, self.leases.keep_alive(lease, now))
            }
            Write::Revoke(lease, reply) => queue_answer(answers, reply, self.end_lease(tx, lease)),
            Write::Expire => {
                self.leases.expired(now).into_iter().try_for_each(|lease| self.end_lease(tx, lease))
            }
        }
    }

    fn apply_txn(&mut self, tx: &mut SingleWriterWriteTx<'_>, txn: &Txn) -> Result<TxnOutcome> {
        if !self.conditions_hold(tx, &txn.conditions)? {
            return Ok(TxnOutcome::Refused { current: self.current(tx, &txn.condition_keys())? });
        }
        txn.leases().try_for_each(|lease| self.leases.check(lease))?;
        let mut changes = Vec::new();
        for operation in &txn.operations {
            match operation {
                Operation::Put { key, value, lease } => {
                    changes.push(Change::Put(self.put(tx, key, value, *lease)?));
                }
                Operation::Delete(key) => changes.extend(self.delete(tx, key)?),
            }
        }
        self.append(tx, &changes)?;
        Ok(TxnOutcome::Committed { revision: Revision(self.revision) })
    }

    fn conditions_hold(&self, tx: &SingleWriterWriteTx<'_>, conditions: &[Condition]) -> Result<bool> {
        for condition in conditions {
            let stored = self.disk.get_in(tx, condition.key())?;
            if !condition.holds(stored.as_ref().map(|stored| &stored.entry)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn current(&self, tx: &SingleWriterWriteTx<'_>, keys: &[&Key]) -> Result<Vec<Entry>> {
        let stored = keys.iter().map(|key| self.disk.get_in(tx, key));
        stored.filter_map(|found| found.transpose()).map(|found| found.map(|stored| stored.entry)).collect()
    }

    fn put(
        &mut self,
        tx: &mut SingleWriterWriteTx<'_>,
        key: &Key,
        value: &[u8],
        lease: Option<LeaseId>,
    ) -> Result<Entry> {
        let previous = self.disk.get_in(tx, key)?;
        let mod_revision = Revision(self.revision + 1);
        let create_revision = previous.as_ref().map_or(mod_revision, |stored| stored.entry.create_revision);
        self.leases.rebind(key, previous.and_then(|stored| stored.lease), lease);
        let entry = Entry { key: key.clone(), value: value.to_vec(), mod_revision, create_revision };
        let stored = StoredEntry { entry, lease };
        tx.insert(&self.disk.entries, key.as_bytes(), stored.encode());
        Ok(stored.entry)
    }

    fn delete(&mut self, tx: &mut SingleWriterWriteTx<'_>, key: &Key) -> Result<Option<Change>> {
        let Some(previous) = self.disk.get_in(tx, key)? else { return Ok(None) };
        self.leases.rebind(key, previous.lease, None);
        tx.remove(&self.disk.entries, key.as_bytes());
        Ok(Some(Change::Delete(key.clone())))
    }

    /// Makes `changes` the next revision; without changes there is none.
    fn append(&mut self, tx: &mut SingleWriterWriteTx<'_>, changes: &[Change]) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let record = encode_changes(changes);
        self.revision += 1;
        self.log_bytes += record.len() as u64;
        tx.insert(&self.disk.log, self.revision.to_be_bytes(), record);
        self.compact(tx)
    }

    fn compact(&mut self, tx: &mut SingleWriterWriteTx<'_>) -> Result<()> {
        while self.oldest < self.revision && self.log_is_over_limits() {
            let record = tx.take(&self.disk.log, self.oldest.to_be_bytes()).map_err(broken)?;
            self.log_bytes -= record.map_or(0, |record| record.len() as u64);
            self.oldest += 1;
        }
        Ok(())
    }

    fn log_is_over_limits(&self) -> bool {
        self.revision - self.oldest + 1 > self.limits.revisions || self.log_bytes > self.limits.size_bytes
    }

    fn grant(&mut self, tx: &mut SingleWriterWriteTx<'_>, ttl: Duration, now: Instant) -> Lease {
        let id = self.unused_lease_id();
        tx.insert(&self.disk.leases, id.0.to_be_bytes(), ttl.as_secs().to_be_bytes());
        self.leases.grant(id, ttl, now);
        Lease { id, ttl }
    }

    fn unused_lease_id(&self) -> LeaseId {
        loop {
            let id = LeaseId(rand::random::<u64>() >> 1);
            if id.0 != 0 && !self.leases.contains(id) {
                return id;
            }
        }
    }

    fn end_lease(&mut self, tx: &mut SingleWriterWriteTx<'_>, lease: LeaseId) -> Result<()> {
        let keys = self.leases.remove(lease)?;
        tx.remove(&self.disk.leases, lease.0.to_be_bytes());
        let mut changes = Vec::new();
        for key in &keys {
            changes.extend(self.delete(tx, key)?);
        }
        self.append(tx, &changes)
    }
}

/// Keeps `result` until the commit; a broken store fails the whole batch instead.
fn queue_answer<T: 'static>(answers: &mut Vec<Answer>, reply: Reply<T>, result: Result<T>) -> Result<()> {
    let failure = match &result {
        Err(error @ StoreError::Broken(_)) => Err(error.clone()),
        _ => Ok(()),
    };
    // The caller may have given up at its deadline: then nobody listens.
    answers.push(Box::new(move |committed| drop(reply.send(committed.and(result)))));
    failure
}

fn refuse(write: Write, error: &StoreError) {
    match write {
        Write::Txn(_, reply) => drop(reply.send(Err(error.clone()))),
        Write::Grant(_, reply) => drop(reply.send(Err(error.clone()))),
        Write::KeepAlive(_, reply) | Write::Revoke(_, reply) => drop(reply.send(Err(error.clone()))),
        Write::Expire => {}
    }
}
