//! Which locks are held, and who waits for one: `fcntl(2)` and `flock(2)` among the nodes of a site.
//!
//! *Invariants:* no two owners have locks of one kind on the same byte unless both are shared; one owner's locks on a file
//! neither overlap nor touch with the same mode; nobody waits who could have what it wants.

use globalfs_proto::limits::MAX_LOCKS_PER_OWNER;
use globalfs_proto::{FileId, Lock, LockKind, LockMode, LockOwner, LockRange};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Locks of all files: some 100 bytes each.
pub const MAX_LOCKS: usize = 256 * 1024;

/// Requests that wait at a time.
pub const MAX_WAITING: usize = 4096;

/// Owners that are looked at for a circle of waiters. In larger ones all wait until one of them is interrupted.
const MAX_CIRCLE: usize = 64;

/// The locks of one kind on one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockPlace {
    /// The file.
    pub file: FileId,
    /// The kind.
    pub kind: LockKind,
}

/// An owner of locks, among all mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holder {
    /// Its mount's session, by a number that no other one has.
    pub session: u64,
    /// The owner in that mount.
    pub owner: LockOwner,
}

/// What somebody wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// Of which file.
    pub place: LockPlace,
    /// Who.
    pub holder: Holder,
    /// Its process.
    pub pid: u32,
    /// The number of the request: a later one of its session may take it back.
    pub number: u64,
    /// What.
    pub lock: Lock,
}

/// A lock that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The lock.
    pub lock: Lock,
    /// Whose it is.
    pub holder: Holder,
    /// The process that asked for it.
    pub pid: u32,
}

/// Stands for a wish that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// What comes of a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The lock is held.
    Granted,
    /// This one is in the way.
    Conflict(Held),
    /// It waits, until [`LockTable::take_settled`] tells its ticket.
    Waits(Ticket),
    /// It would wait for somebody who waits for it.
    Deadlock,
    /// There are too many locks.
    Full,
}

/// What a wish that waited has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// The lock is held.
    Granted,
    /// It is not wanted any more.
    Withdrawn,
}

/// All locks.
#[derive(Debug, Default)]
pub struct LockTable {
    held: HashMap<LockPlace, Vec<Held>>,
    count: usize,
    /// In the order of arrival.
    waiting: BTreeMap<Ticket, Wish>,
    last: u64,
    settled: Vec<(Ticket, Settlement)>,
}

impl LockTable {
    /// Who would be in the way of `lock`.
    pub fn test(&self, place: LockPlace, holder: Holder, lock: Lock) -> Option<Held> {
        let all = self.held.get(&place).into_iter().flatten();
        let in_the_way = all.filter(|held| held.holder != holder && excludes(held.lock, lock));
        in_the_way.min_by_key(|held| held.lock.range).copied()
    }

    /// Gives `wish` its lock in place of what its owner has on these bytes, or lets it wait if `waits`.
    ///
    /// A lock of a whole file is given up before one of another mode is asked for, as `flock(2)` does it: else two who share
    /// it and both want it alone would wait for each other.
    pub fn set(&mut self, wish: Wish, waits: bool) -> Verdict {
        let Wish { place, holder, lock, .. } = wish;
        if place.kind == LockKind::Whole && self.locks_of(place, holder).iter().any(|own| *own != lock) {
            self.put(place, holder, 0, lock.range, None);
            self.wake(place);
        }
        match self.test(place, holder, lock) {
            None => self.grant(wish),
            Some(held) if !waits => Verdict::Conflict(held),
            Some(_) if self.closes_circle(&wish) => Verdict::Deadlock,
            Some(_) if self.waiting.len() >= MAX_WAITING => Verdict::Full,
            Some(_) => {
                self.last += 1;
                self.waiting.insert(Ticket(self.last), wish);
                Verdict::Waits(Ticket(self.last))
            }
        }
    }

    fn grant(&mut self, wish: Wish) -> Verdict {
        let Wish { place, holder, pid, lock, .. } = wish;
        let had_more = self.locks_of(place, holder).iter().any(|own| own.mode > lock.mode);
        if !self.put(place, holder, pid, lock.range, Some(lock.mode)) {
            return Verdict::Full;
        }
        if had_more {
            self.wake(place);
        }
        Verdict::Granted
    }

    /// `holder` gives up what it has in `range`. False: there would be too many locks, and nothing has changed.
    pub fn unlock(&mut self, place: LockPlace, holder: Holder, range: LockRange) -> bool {
        let done = self.put(place, holder, 0, range, None);
        self.wake(place);
        done
    }

    /// `holder` has `locks` there and nothing else, and wishes of it with a number below `number` are withdrawn. False:
    /// somebody else is in the way, or it did not have them and `may_add` is false; it has none then.
    pub fn hold(&mut self, wish: Wish, locks: &[Lock], may_add: bool) -> bool {
        let Wish { place, holder, pid, number, .. } = wish;
        self.withdraw(|other| (other.place, other.holder) == (place, holder) && other.number < number);
        let holds = locks.iter().all(|lock| match may_add {
            true => self.test(place, holder, *lock).is_none(),
            false => self.covers(place, holder, *lock),
        });
        self.put(place, holder, pid, LockRange::WHOLE, None);
        let held =
            holds && locks.iter().all(|lock| self.put(place, holder, pid, lock.range, Some(lock.mode)));
        if !held {
            self.put(place, holder, pid, LockRange::WHOLE, None);
        }
        self.wake(place);
        held
    }

    /// Whether `holder` has every byte of `lock`, at least in its mode.
    fn covers(&self, place: LockPlace, holder: Holder, lock: Lock) -> bool {
        let (mut next, last) = (lock.range.first(), lock.range.last());
        for own in self.locks_of(place, holder).iter().filter(|own| own.mode >= lock.mode) {
            if own.range.first() <= next && next <= own.range.last() {
                if own.range.last() >= last {
                    return true;
                }
                next = own.range.last() + 1;
            }
        }
        false
    }

    /// A wish does not wait any more. If it has its lock by now it keeps it.
    pub fn leave(&mut self, ticket: Ticket) {
        self.waiting.remove(&ticket);
    }

    /// All locks and wishes of a session go.
    pub fn end_session(&mut self, session: u64) {
        self.withdraw(|wish| wish.holder.session == session);
        let mut freed = Vec::new();
        self.held.retain(|place, held| {
            let before = held.len();
            held.retain(|one| one.holder.session != session);
            if held.len() < before {
                self.count -= before - held.len();
                freed.push(*place);
            }
            !held.is_empty()
        });
        freed.into_iter().for_each(|place| self.wake(place));
    }

    /// Wishes that wait no longer, each of them told once.
    pub fn take_settled(&mut self) -> Vec<(Ticket, Settlement)> {
        std::mem::take(&mut self.settled)
    }

    /// What `holder` has there, by place in the file.
    pub fn locks_of(&self, place: LockPlace, holder: Holder) -> Vec<Lock> {
        let all = self.held.get(&place).into_iter().flatten();
        all.filter(|held| held.holder == holder).map(|held| held.lock).collect()
    }

    /// Who has locks, where, and by which process.
    pub fn holders(&self) -> HashSet<(LockPlace, Holder, u32)> {
        let all = self.held.iter().flat_map(|(place, held)| held.iter().map(|one| (*place, one)));
        all.map(|(place, one)| (place, one.holder, one.pid)).collect()
    }

    /// Whether anybody has a lock on `file`.
    pub fn is_locked(&self, file: FileId) -> bool {
        [LockKind::Ranges, LockKind::Whole]
            .iter()
            .any(|kind| self.held.contains_key(&LockPlace { file, kind: *kind }))
    }

    /// Locks that are held, and wishes that wait.
    pub fn counts(&self) -> (usize, usize) {
        (self.count, self.waiting.len())
    }

    /// What `holder` has in `range` becomes `mode`, or nothing. False: there would be too many locks.
    fn put(
        &mut self,
        place: LockPlace,
        holder: Holder,
        pid: u32,
        range: LockRange,
        mode: Option<LockMode>,
    ) -> bool {
        let before = self.locks_of(place, holder);
        let after = replaced(&before, range, mode);
        let count = self.count - before.len() + after.len();
        if after.len() > before.len() && (after.len() > MAX_LOCKS_PER_OWNER || count > MAX_LOCKS) {
            return false;
        }
        let held = self.held.entry(place).or_default();
        let pid_before = held.iter().find(|one| one.holder == holder).map(|one| one.pid);
        let pid = if mode.is_some() { pid } else { pid_before.unwrap_or(pid) };
        held.retain(|one| one.holder != holder);
        held.extend(after.into_iter().map(|lock| Held { lock, holder, pid }));
        if held.is_empty() {
            self.held.remove(&place);
        }
        self.count = count;
        true
    }

    /// Gives those who wait there what they can have, first come, first served.
    fn wake(&mut self, place: LockPlace) {
        let here = |waiting: &BTreeMap<Ticket, Wish>| -> Vec<(Ticket, Wish)> {
            let here = waiting.iter().filter(|(_, wish)| wish.place == place);
            here.map(|(ticket, wish)| (*ticket, *wish)).collect()
        };
        let mut again = true;
        while again {
            again = false;
            for (ticket, wish) in here(&self.waiting) {
                let Wish { holder, pid, lock, .. } = wish;
                if self.test(place, holder, lock).is_none()
                    && self.put(place, holder, pid, lock.range, Some(lock.mode))
                {
                    self.waiting.remove(&ticket);
                    self.settled.push((ticket, Settlement::Granted));
                    // It may have had more, which others now can have.
                    again = true;
                }
            }
        }
    }

    fn withdraw(&mut self, which: impl Fn(&Wish) -> bool) {
        let settled = &mut self.settled;
        self.waiting.retain(|ticket, wish| {
            let goes = which(wish);
            if goes {
                settled.push((*ticket, Settlement::Withdrawn));
            }
            !goes
        });
    }

    /// Whether those in the way of `wish` wait, some by way of others, for its owner.
    fn closes_circle(&self, wish: &Wish) -> bool {
        if wish.place.kind == LockKind::Whole {
            return false;
        }
        let (mut seen, mut next) = (HashSet::new(), self.in_the_way(wish));
        while let Some(holder) = next.pop() {
            if holder == wish.holder {
                return true;
            }
            if seen.insert(holder) && seen.len() < MAX_CIRCLE {
                let waits = |other: &&Wish| other.holder == holder && other.place.kind == LockKind::Ranges;
                next.extend(self.waiting.values().filter(waits).flat_map(|other| self.in_the_way(other)));
            }
        }
        false
    }

    fn in_the_way(&self, wish: &Wish) -> Vec<Holder> {
        let all = self.held.get(&wish.place).into_iter().flatten();
        let others = all.filter(|held| held.holder != wish.holder && excludes(held.lock, wish.lock));
        others.map(|held| held.holder).collect()
    }
}

fn excludes(one: Lock, other: Lock) -> bool {
    one.range.overlaps(other.range) && (one.mode, other.mode) != (LockMode::Shared, LockMode::Shared)
}

/// An owner's locks after those of `range` have become `mode`, or nothing; what touches and is alike is one.
fn replaced(before: &[Lock], range: LockRange, mode: Option<LockMode>) -> Vec<Lock> {
    let (first, last) = (range.first(), range.last());
    let mut pieces: Vec<Lock> = Vec::with_capacity(before.len() + 2);
    for own in before {
        let left =
            first.checked_sub(1).and_then(|end| LockRange::new(own.range.first(), end.min(own.range.last())));
        let right = last
            .checked_add(1)
            .and_then(|start| LockRange::new(start.max(own.range.first()), own.range.last()));
        pieces.extend([left, right].into_iter().flatten().map(|range| Lock { range, ..*own }));
    }
    pieces.extend(mode.map(|mode| Lock { range, mode }));
    pieces.sort_unstable();
    let mut joined: Vec<Lock> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match joined.last_mut() {
            Some(end)
                if end.mode == piece.mode && end.range.last().checked_add(1) == Some(piece.range.first()) =>
            {
                let range = LockRange::new(end.range.first(), piece.range.last());
                end.range = range.expect("the later one ends later");
            }
            _ => joined.push(piece),
        }
    }
    joined
}

#[cfg(test)]
#[path = "locks_tests.rs"]
mod tests;
