//! What a mount knows of its locks.

use super::{Asked, Inner, Key, LOST};
use crate::locks::TERM;
use crate::model::locks::LockTable;
use globalfs_proto::{FileId, FsResult, Lock, LockKind, LockRange, LockSession};
use std::collections::{HashMap, HashSet};
use tokio::time::Instant;

pub(super) struct State {
    pub(super) session: Option<LockSession>,
    pub(super) number: u64,
    pub(super) table: LockTable,
    /// When the session was last known to be there.
    pub(super) renewed: Instant,
    pub(super) lost: HashSet<Key>,
    /// Whose locks the daemon is to be told anew.
    pub(super) unsettled: HashMap<Key, Asked>,
    /// Requests on their way, and the number below which their answers do not count.
    pub(super) flying: HashMap<Key, Flying>,
}

#[derive(Default)]
pub(super) struct Flying {
    pub(super) count: usize,
    pub(super) floor: u64,
}

/// A request of an owner that is on its way.
pub(super) struct Flight<'a> {
    inner: &'a Inner,
    key: Key,
}

impl<'a> Flight<'a> {
    pub(super) fn begin(inner: &'a Inner, key: Key) -> Self {
        inner.state.lock().flying.entry(key).or_default().count += 1;
        Self { inner, key }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let mut state = self.inner.state.lock();
        let flying = state.flying.get_mut(&self.key).expect("it lasts as long as the last flight");
        flying.count -= 1;
        if flying.count == 0 {
            state.flying.remove(&self.key);
        }
    }
}

impl State {
    pub(super) fn is_overtaken(&self, key: Key, number: u64) -> bool {
        self.flying.get(&key).is_some_and(|flying| number < flying.floor)
    }

    /// A lock of a whole file is given up by the daemon before one of another mode is asked for.
    pub(super) fn give_way(&mut self, asked: Asked, lock: Lock) {
        let has_other = || self.table.locks_of(asked.place, asked.holder()).iter().any(|own| *own != lock);
        if asked.place.kind == LockKind::Whole && has_other() {
            self.table.unlock(asked.place, asked.holder(), LockRange::WHOLE);
        }
    }

    /// What both the lock and what was there before grant is certain.
    pub(super) fn weaken(&mut self, asked: Asked, lock: Lock) {
        for own in self.table.locks_of(asked.place, asked.holder()) {
            let first = own.range.first().max(lock.range.first());
            let shared = LockRange::new(first, own.range.last().min(lock.range.last()));
            if let Some(range) = shared.filter(|_| own.mode > lock.mode) {
                self.table.set(asked.wish(Lock { range, mode: lock.mode }), false);
            }
        }
    }

    /// Whether `asked` had something in `range`, as far as is known.
    pub(super) fn let_go(&mut self, asked: Asked, range: LockRange) -> bool {
        if range == LockRange::WHOLE || range.first() == 0 && range.last() >= i64::MAX as u64 {
            self.lost.remove(&asked.key());
        }
        let had =
            self.table.locks_of(asked.place, asked.holder()).iter().any(|own| own.range.overlaps(range));
        self.table.unlock(asked.place, asked.holder(), range);
        had || self.flying.contains_key(&asked.key())
    }

    /// Whether nothing has to be asked to know that what is locked of `file` is still locked.
    pub(super) fn is_sure_of(&self, file: FileId) -> FsResult<bool> {
        if self.lost.iter().any(|(place, _)| place.file == file) {
            return Err(LOST);
        }
        Ok(!self.table.is_locked(file) || self.renewed.elapsed() < TERM / 2)
    }

    /// The daemon does not know `session` any more.
    pub(super) fn lose(&mut self, session: LockSession) {
        if self.session != Some(session) {
            return;
        }
        self.session = None;
        let holders = self.table.holders();
        if !holders.is_empty() {
            tracing::error!(
                owners = holders.len(),
                "the locks of this mount were lost; files under them fail"
            );
        }
        self.lost.extend(holders.into_iter().map(|(place, holder, _)| (place, holder.owner)));
        self.table = LockTable::default();
        self.unsettled.clear();
    }

    pub(super) fn lose_one(&mut self, asked: Asked) {
        self.unsettled.remove(&asked.key());
        if !self.table.locks_of(asked.place, asked.holder()).is_empty() {
            tracing::error!(inode = asked.place.file.inode, "a lock was lost; the file under it fails");
            self.table.unlock(asked.place, asked.holder(), LockRange::WHOLE);
            self.lost.insert(asked.key());
        }
    }
}
