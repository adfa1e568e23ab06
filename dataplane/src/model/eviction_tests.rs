//! The ledger against a naive model that recomputes everything, under random operations.

use super::*;
use globalfs_proto::limits::CHUNK_SIZE;
use proptest::prelude::*;

/// Sizes of the files of the tests: one block, a few chunks, several segments with a short end.
const SIZES: [u64; 4] = [100, 3 * CHUNK_SIZE + 1, 130 * CHUNK_SIZE, 200 * CHUNK_SIZE + 777];

fn place(file: u8, chunk: u64) -> Place {
    let size = SIZES[usize::from(file) % SIZES.len()];
    Place::new(FileKey([file; 16]), size, ChunkIndex(chunk % chunk_count(size))).unwrap()
}

/// Every chunk's cost and every segment's recency, kept the slow way.
#[derive(Default)]
struct Naive {
    chunks: HashMap<(SegmentKey, u64), u64>,
    overheads: HashMap<SegmentKey, u64>,
    order: Vec<SegmentKey>,
    pins: Vec<SegmentKey>,
}

impl Naive {
    fn used(&self) -> u64 {
        let files: std::collections::HashSet<_> = self.overheads.keys().map(|k| k.file).collect();
        let data: u64 = self.chunks.values().sum();
        data + self.overheads.values().sum::<u64>() + files.len() as u64 * BLOCK
    }

    fn put(&mut self, place: &Place, bytes: u64) {
        self.overheads.insert(place.segment, segment_cost(place));
        self.chunks.entry((place.segment, place.bit)).or_insert(bytes);
        self.touch(place.segment);
    }

    fn touch(&mut self, key: SegmentKey) {
        self.order.retain(|k| *k != key);
        self.order.push(key);
    }

    fn remove(&mut self, key: SegmentKey) {
        self.overheads.remove(&key);
        self.chunks.retain(|(k, _), _| *k != key);
        self.order.retain(|k| *k != key);
    }

    /// What may go, least recent first.
    fn evictable(&self, target: SegmentKey) -> Vec<SegmentKey> {
        self.order.iter().copied().filter(|k| *k != target && !self.pins.contains(k)).collect()
    }
}

#[derive(Debug, Clone)]
enum Step {
    Put { file: u8, chunk: u64, hold: bool },
    Read { file: u8, chunk: u64, hold: bool },
    Release(usize),
    Damage { file: u8, chunk: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let chunk = (0u8..12, 0u64..200);
    prop_oneof![
        6 => (chunk.clone(), any::<bool>(), any::<bool>())
            .prop_map(|((file, chunk), a, b)| Step::Put { file, chunk, hold: a && b }),
        3 => (chunk.clone(), any::<bool>(), any::<bool>())
            .prop_map(|((file, chunk), a, b)| Step::Read { file, chunk, hold: a && b }),
        2 => any::<usize>().prop_map(Step::Release),
        1 => chunk.prop_map(|(file, chunk)| Step::Damage { file, chunk }),
    ]
}

struct Check {
    ledger: Ledger,
    naive: Naive,
}

impl Check {
    fn apply(&mut self, step: Step) {
        match step {
            Step::Put { file, chunk, hold } => self.put(&place(file, chunk), hold),
            Step::Read { file, chunk, hold } => self.read(&place(file, chunk), hold),
            Step::Release(n) if !self.naive.pins.is_empty() => {
                let key = self.naive.pins.swap_remove(n % self.naive.pins.len());
                self.ledger.unpin(key);
            }
            Step::Release(_) => {}
            Step::Damage { file, chunk } => {
                let place = place(file, chunk);
                let was = self.ledger.contains(&place);
                assert_eq!(self.ledger.clear_present(&place).is_some(), was);
                assert!(!self.ledger.contains(&place));
            }
        }
        assert_eq!(self.ledger.used(), self.naive.used(), "the accounts agree");
        assert!(self.ledger.used() <= self.ledger.quota());
    }

    fn put(&mut self, place: &Place, hold: bool) {
        let bytes = place.data_cost();
        if !self.ledger.reserve(place, bytes) {
            let evictable = self.naive.evictable(place.segment);
            let Some(victims) = self.ledger.make_room(place, bytes) else {
                return self.refused_rightly(place, &evictable);
            };
            let gone: Vec<_> = victims.iter().map(|v| v.segment).collect();
            if self.ledger.whole_files {
                assert!(gone.iter().all(|k| evictable.contains(k)), "nothing pinned goes");
            } else {
                assert_eq!(gone, evictable[..gone.len()], "the least recent go first");
            }
            assert!(victims.iter().all(|v| !self.naive.pins.contains(&v.segment)), "no victim is pinned");
            for victim in victims {
                self.ledger.removed(victim.segment);
                self.naive.remove(victim.segment);
                let left = self.naive.overheads.keys().any(|k| k.file == victim.segment.file);
                assert_eq!(
                    victim.unlink,
                    !left || self.ledger.whole_files,
                    "the files go with the last segment"
                );
            }
            assert!(self.ledger.reserve(place, bytes), "what make_room promised");
        }
        self.naive.put(place, bytes);
        self.ledger.set_present(place);
        self.hold_or_unpin(place.segment, hold);
    }

    /// Even without all that may go, the chunk would not fit.
    fn refused_rightly(&self, place: &Place, evictable: &[SegmentKey]) {
        if self.ledger.whole_files {
            return;
        }
        let mut rest = Naive { chunks: self.naive.chunks.clone(), ..Naive::default() };
        rest.overheads = self.naive.overheads.clone();
        evictable.iter().for_each(|k| rest.remove(*k));
        rest.put(place, place.data_cost());
        assert!(rest.used() > self.ledger.quota());
    }

    fn read(&mut self, place: &Place, hold: bool) {
        if self.ledger.pin(place) {
            self.naive.touch(place.segment);
            self.hold_or_unpin(place.segment, hold);
        }
    }

    fn hold_or_unpin(&mut self, key: SegmentKey, hold: bool) {
        if hold { self.naive.pins.push(key) } else { self.ledger.unpin(key) }
    }
}

proptest! {
    #[test]
    fn agrees_with_the_naive_model(
        steps in prop::collection::vec(step(), 1..300),
        quota_chunks in 2u64..40,
        whole_files: bool,
    ) {
        let ledger = Ledger::new(quota_chunks * CHUNK_SIZE, whole_files);
        let mut check = Check { ledger, naive: Naive::default() };
        steps.into_iter().for_each(|s| check.apply(s));
    }
}

fn put(ledger: &mut Ledger, place: &Place) {
    assert!(ledger.reserve(place, place.data_cost()));
    ledger.set_present(place);
    ledger.unpin(place.segment);
}

#[test]
fn a_file_is_whole_when_its_last_chunk_comes_and_not_when_one_fails() {
    let mut ledger = Ledger::new(64 * CHUNK_SIZE, false);
    for chunk in 0..4 {
        assert!(!ledger.is_whole(FileKey([1; 16])));
        put(&mut ledger, &place(1, chunk));
    }
    assert!(ledger.is_whole(FileKey([1; 16])));
    ledger.clear_present(&place(1, 2));
    assert!(!ledger.is_whole(FileKey([1; 16])));
    let before = ledger.used();
    put(&mut ledger, &place(1, 2));
    assert_eq!(ledger.used(), before, "the second attempt uses the space of the first");
}

#[test]
fn a_file_is_pinned_when_every_chunk_of_it_was_verified() {
    let (file, mut ledger) = (FileKey([1; 16]), Ledger::new(64 * CHUNK_SIZE, false));
    (0..4).for_each(|chunk| ledger.restore(&place(1, chunk), CHUNK_SIZE));
    assert!(ledger.is_whole(file) && !ledger.is_verified(&place(1, 0)), "found at the start");
    for chunk in 0..4 {
        assert!(!ledger.pin_file(file));
        ledger.set_verified(&place(1, chunk));
        ledger.set_verified(&place(1, chunk));
    }
    assert!(ledger.is_verified(&place(1, 0)) && ledger.pin_file(file));
    ledger.unpin_file(file);
    ledger.clear_present(&place(1, 2));
    ledger.set_verified(&place(1, 2));
    assert!(!ledger.pin_file(file), "what is absent is not verified");
    put(&mut ledger, &place(1, 2));
    assert!(ledger.pin_file(file), "what is stored was verified");
    assert!(!ledger.pin_file(FileKey([9; 16])));
}

#[test]
fn a_pinned_file_stays_and_is_the_most_recent_when_it_is_let_go() {
    for whole_files in [false, true] {
        let mut ledger = Ledger::new(12 * CHUNK_SIZE, whole_files);
        (0..4).for_each(|chunk| put(&mut ledger, &place(1, chunk)));
        let pinned = FileKey([1; 16]);
        assert!(ledger.pin_file(pinned) && ledger.pin_file(pinned));
        (0..4).for_each(|chunk| put(&mut ledger, &place(4, chunk)));
        let new = Place::new(FileKey([9; 16]), 8 * CHUNK_SIZE, ChunkIndex(0)).unwrap();
        let victims = ledger.make_room(&new, 5 * CHUNK_SIZE).unwrap();
        assert!(victims.iter().all(|victim| victim.segment.file != pinned), "{victims:?}");
        victims.iter().for_each(|victim| ledger.retained(victim.segment));
        assert_eq!(ledger.make_room(&new, 9 * CHUNK_SIZE), None, "it would have to go");
        ledger.unpin_file(pinned);
        assert_eq!(ledger.make_room(&new, 9 * CHUNK_SIZE), None, "another reader has it");
        ledger.unpin_file(pinned);
        let victims = ledger.make_room(&new, 5 * CHUNK_SIZE).unwrap();
        assert!(victims.iter().all(|victim| victim.segment.file != pinned), "it was used just now");
        victims.iter().for_each(|victim| ledger.retained(victim.segment));
        assert!(ledger.make_room(&new, 9 * CHUNK_SIZE).is_some());
    }
}

#[test]
fn a_file_that_loses_a_segment_takes_no_chunk_until_it_is_gone() {
    let mut ledger = Ledger::new(2 * CHUNK_SIZE + 8 * BLOCK, false);
    put(&mut ledger, &place(2, 0));
    put(&mut ledger, &place(2, 64));
    let other = place(1, 0);
    let victims = ledger.make_room(&other, other.data_cost()).unwrap();
    assert_eq!(victims, [Victim { segment: place(2, 0).segment, unlink: false }]);
    assert!(!ledger.contains(&place(2, 0)) && !ledger.pin(&place(2, 0)), "a victim is not offered");
    assert!(!ledger.reserve(&place(2, 65), 0), "the file is changing on disk");
    assert!(!ledger.reserve(&other, other.data_cost()), "its space still counts");
    ledger.retained(victims[0].segment);
    assert!(ledger.contains(&place(2, 0)), "what could not be removed is still there");
}

#[test]
fn a_smaller_quota_is_met_after_recovery() {
    let mut ledger = Ledger::new(3 * CHUNK_SIZE, false);
    (0..3).for_each(|segment| ledger.restore(&place(3, segment * 64), CHUNK_SIZE));
    (0..2).for_each(|file| ledger.restore(&place(file * 4, 0), BLOCK));
    assert!(ledger.used() > ledger.quota());
    let victims = ledger.overflow();
    assert_eq!(victims[0].segment, place(3, 0).segment);
    assert!(victims.iter().map(|v| ledger.removed(v.segment)).sum::<u64>() > CHUNK_SIZE);
    assert!(ledger.used() <= ledger.quota() && ledger.contains(&place(4, 0)));
}

#[test]
fn holes_take_no_data_space() {
    let mut ledger = Ledger::new(CHUNK_SIZE, false);
    assert!(ledger.reserve(&place(2, 0), 0) && ledger.reserve(&place(2, 1), 0));
    assert_eq!(ledger.used(), FILE_COST + segment_cost(&place(2, 0)));
}

#[test]
fn chunks_outside_the_file_have_no_place() {
    assert_eq!(Place::new(FileKey([0; 16]), 5, ChunkIndex(1)), None);
    assert_eq!(Place::new(FileKey([0; 16]), 0, ChunkIndex(0)), None);
    assert_eq!(Place::new(FileKey([0; 16]), u64::MAX, ChunkIndex(0)), None, "too large to cache");
}

#[test]
fn a_million_small_files_fit_some_two_hundred_megabytes() {
    let node = size_of::<(SegmentKey, Segment)>() + 2 * size_of::<usize>() + 2 * size_of::<usize>();
    let tables = 2 * (size_of::<(FileKey, FileEntry)>() + 1 + 2 * size_of::<usize>() + 1);
    assert!(node + tables <= 220, "{node} + {tables} bytes a file, with half-empty tables");
}
