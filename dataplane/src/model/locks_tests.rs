//! The table against a naive model: a byte is locked by a set of owners.

use super::*;
use proptest::prelude::*;

const BYTES: u64 = 12;

fn place(kind: LockKind) -> LockPlace {
    LockPlace { file: FileId { origin: 1, inode: 2 }, kind }
}

fn holder(number: u64) -> Holder {
    Holder { session: number % 2, owner: LockOwner(number) }
}

fn lock(first: u64, last: u64, exclusive: bool) -> Lock {
    let mode = if exclusive { LockMode::Exclusive } else { LockMode::Shared };
    Lock { range: LockRange::new(first, last).unwrap(), mode }
}

fn wish(owner: u64, lock: Lock) -> Wish {
    Wish { place: place(LockKind::Ranges), holder: holder(owner), pid: 7, number: 1, lock }
}

fn whole(owner: u64, exclusive: bool) -> Wish {
    let lock = Lock { range: LockRange::WHOLE, ..lock(0, 0, exclusive) };
    Wish { place: place(LockKind::Whole), ..wish(owner, lock) }
}

/// For each owner the mode of each byte.
type Naive = HashMap<u64, [Option<LockMode>; BYTES as usize]>;

fn naive_conflict(naive: &Naive, owner: u64, wanted: Lock) -> bool {
    let bytes = wanted.range.first()..=wanted.range.last();
    let in_the_way = |mode: &Option<LockMode>| match (mode, wanted.mode) {
        (None, _) | (Some(LockMode::Shared), LockMode::Shared) => false,
        (Some(_), _) => true,
    };
    let others = naive.iter().filter(|(other, _)| **other != owner);
    others.into_iter().any(|(_, modes)| bytes.clone().any(|byte| in_the_way(&modes[byte as usize])))
}

fn naive_locks(modes: &[Option<LockMode>]) -> Vec<Lock> {
    let mut locks: Vec<Lock> = Vec::new();
    for (byte, mode) in modes.iter().enumerate() {
        let Some(mode) = *mode else { continue };
        let byte = byte as u64;
        match locks.last_mut() {
            Some(end) if end.mode == mode && end.range.last() + 1 == byte => {
                end.range = LockRange::new(end.range.first(), byte).unwrap();
            }
            _ => locks.push(Lock { range: LockRange::new(byte, byte).unwrap(), mode }),
        }
    }
    locks
}

fn agree(table: &LockTable, naive: &Naive) {
    let mut count = 0;
    for (owner, modes) in naive {
        let locks = table.locks_of(place(LockKind::Ranges), holder(*owner));
        assert_eq!(locks, naive_locks(modes), "owner {owner}");
        count += locks.len();
    }
    assert_eq!(table.counts().0, count);
    for waiting in table.waiting.values() {
        assert!(table.test(waiting.place, waiting.holder, waiting.lock).is_some(), "it waits for nobody");
    }
}

#[derive(Debug, Clone)]
enum Step {
    Set(u64, Lock, bool),
    Unlock(u64, LockRange),
    Leave(usize),
    End(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let range = (0..BYTES, 0..BYTES).prop_map(|(a, b)| LockRange::new(a.min(b), a.max(b)).unwrap());
    let set = (0..4_u64, range.clone(), any::<bool>(), any::<bool>()).prop_map(
        |(owner, range, exclusive, waits)| {
            Step::Set(owner, lock(range.first(), range.last(), exclusive), waits)
        },
    );
    let unlock = (0..4_u64, range).prop_map(|(owner, range)| Step::Unlock(owner, range));
    let step = prop_oneof![
        8 => set, 5 => unlock, 1 => (0..4_usize).prop_map(Step::Leave), 1 => (0..2_u64).prop_map(Step::End)
    ];
    prop::collection::vec(step, 0..60)
}

struct Run {
    table: LockTable,
    naive: Naive,
    waiting: Vec<(Ticket, u64, Lock)>,
}

impl Run {
    fn fill(&mut self, owner: u64, range: LockRange, mode: Option<LockMode>) {
        let modes = self.naive.entry(owner).or_default();
        (range.first()..=range.last()).for_each(|byte| modes[byte as usize] = mode);
    }

    fn settle(&mut self) {
        for (ticket, settlement) in self.table.take_settled() {
            let at = self.waiting.iter().position(|(waits, ..)| *waits == ticket).expect("it waited");
            let (_, owner, lock) = self.waiting.remove(at);
            if settlement == Settlement::Granted {
                assert!(!naive_conflict(&self.naive, owner, lock), "granted against others");
                self.fill(owner, lock.range, Some(lock.mode));
            }
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Set(owner, lock, waits) => {
                let conflict = naive_conflict(&self.naive, owner, lock);
                let verdict = self.table.set(wish(owner, lock), waits);
                match verdict {
                    Verdict::Granted => {
                        assert!(!conflict);
                        self.fill(owner, lock.range, Some(lock.mode));
                    }
                    Verdict::Conflict(held) => assert!(conflict && !waits && held.holder != holder(owner)),
                    Verdict::Waits(ticket) => {
                        assert!(conflict && waits);
                        self.waiting.push((ticket, owner, lock));
                    }
                    Verdict::Deadlock => assert!(conflict && waits),
                    Verdict::Full => panic!("there is room"),
                }
            }
            Step::Unlock(owner, range) => {
                assert!(self.table.unlock(place(LockKind::Ranges), holder(owner), range));
                self.fill(owner, range, None);
            }
            Step::Leave(at) => {
                if at < self.waiting.len() {
                    self.table.leave(self.waiting.remove(at).0);
                }
            }
            Step::End(session) => {
                self.table.end_session(session);
                self.naive.retain(|owner, _| holder(*owner).session != session);
            }
        }
        self.settle();
    }
}

proptest! {
    #[test]
    fn it_agrees_with_a_naive_model(steps in steps()) {
        let mut run = Run { table: LockTable::default(), naive: Naive::new(), waiting: Vec::new() };
        for step in &steps {
            run.step(step);
            agree(&run.table, &run.naive);
            assert_eq!(run.table.counts().1, run.waiting.len());
        }
    }
}

#[test]
fn who_came_first_is_served_first() {
    let mut table = LockTable::default();
    assert_eq!(table.set(wish(1, lock(0, 9, true)), false), Verdict::Granted);
    let Verdict::Waits(first) = table.set(wish(2, lock(5, 5, true)), true) else { panic!() };
    let Verdict::Waits(second) = table.set(wish(3, lock(0, 9, true)), true) else { panic!() };
    assert_eq!(table.test(place(LockKind::Ranges), holder(3), lock(3, 3, false)).unwrap().pid, 7);
    table.unlock(place(LockKind::Ranges), holder(1), LockRange::WHOLE);
    assert_eq!(table.take_settled(), [(first, Settlement::Granted)]);
    table.unlock(place(LockKind::Ranges), holder(2), LockRange::WHOLE);
    assert_eq!(table.take_settled(), [(second, Settlement::Granted)]);
}

#[test]
fn a_circle_of_waiters_is_refused() {
    let mut table = LockTable::default();
    for owner in 0..3 {
        assert_eq!(table.set(wish(owner, lock(owner, owner, true)), true), Verdict::Granted);
    }
    assert!(matches!(table.set(wish(0, lock(1, 1, true)), true), Verdict::Waits(_)));
    assert!(matches!(table.set(wish(1, lock(2, 2, false)), true), Verdict::Waits(_)));
    assert_eq!(table.set(wish(2, lock(0, 0, true)), true), Verdict::Deadlock);
    assert!(matches!(table.set(wish(2, lock(0, 0, true)), false), Verdict::Conflict(_)));
}

#[test]
fn locks_of_whole_files_are_changed_by_giving_them_up() {
    let mut table = LockTable::default();
    assert_eq!(table.set(wish(9, lock(0, 3, true)), false), Verdict::Granted, "the kinds do not meet");
    assert_eq!(table.set(whole(1, false), false), Verdict::Granted);
    assert_eq!(table.set(whole(2, false), false), Verdict::Granted);
    let Verdict::Waits(first) = table.set(whole(1, true), true) else { panic!("it waits") };
    assert_eq!(table.set(whole(2, true), true), Verdict::Waits(Ticket(2)));
    assert_eq!(table.take_settled(), [(first, Settlement::Granted)], "the other one gave its own up");
    table.unlock(place(LockKind::Whole), holder(1), LockRange::WHOLE);
    assert_eq!(table.take_settled(), [(Ticket(2), Settlement::Granted)]);
    table.end_session(0);
    table.end_session(1);
    assert_eq!(table.counts(), (0, 0));
}

#[test]
fn what_is_said_to_be_held_is_all_there_is() {
    let mut table = LockTable::default();
    table.set(wish(1, lock(0, 9, true)), false);
    table.set(wish(2, lock(20, 29, true)), false);
    let Verdict::Waits(waits) = table.set(wish(1, lock(25, 25, true)), true) else { panic!() };
    let later = Wish { number: 5, ..wish(1, lock(0, 0, true)) };
    assert!(table.hold(later, &[lock(0, 3, true), lock(7, 8, false)], false));
    assert_eq!(table.take_settled(), [(waits, Settlement::Withdrawn)]);
    assert_eq!(table.locks_of(later.place, later.holder), [lock(0, 3, true), lock(7, 8, false)]);
    assert!(!table.hold(later, &[lock(0, 4, true)], false), "it had less");
    assert_eq!(table.locks_of(later.place, later.holder), []);
    assert!(table.hold(later, &[lock(0, 4, true)], true), "nobody is in the way");
    assert!(!table.hold(later, &[lock(0, 20, false)], true), "somebody is");
    assert_eq!(table.counts().0, 1);
}

#[test]
fn one_owner_has_a_limit() {
    let mut table = LockTable::default();
    for n in 0..MAX_LOCKS_PER_OWNER as u64 {
        assert_eq!(table.set(wish(1, lock(n * 2, n * 2, true)), false), Verdict::Granted);
    }
    assert_eq!(table.set(wish(1, lock(u64::MAX, u64::MAX, true)), false), Verdict::Full);
    assert_eq!(table.set(wish(2, lock(u64::MAX, u64::MAX, true)), false), Verdict::Granted);
    assert!(table.unlock(place(LockKind::Ranges), holder(1), LockRange::WHOLE));
    assert_eq!(table.counts().0, 1);
}
