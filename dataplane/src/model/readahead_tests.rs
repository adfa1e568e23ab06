//! Readers of every kind against an upstream with a round trip and a rate, in virtual time.

use super::*;
use globalfs_proto::FileId;
use proptest::prelude::*;
use std::collections::HashMap;

const MIB: u64 = 1024 * 1024;
const LIMITS: Limits = Limits { first_bytes: MIB, reader_bytes: 96 * MIB };

fn version(size: u64) -> Version {
    Version { file: FileId { origin: 1, inode: 2 }, size, mtime_ns: 3, ctime_ns: 4 }
}

/// One file behind a link, and readers that wait for what they read.
struct Simulation {
    model: ReadAhead,
    content: Version,
    round_trip: Duration,
    bytes_per_s: f64,
    now: Duration,
    busy_until: Duration,
    arrivals: HashMap<u64, Duration>,
    /// Arrivals that the model has not heard of: when, and the latency if it is an answer's first.
    unheard: Vec<(Duration, Option<Duration>)>,
    read: u64,
    stalls: usize,
}

impl Simulation {
    fn new(size: u64, round_trip_ms: u64, bytes_per_s: u64) -> Self {
        Self {
            model: ReadAhead::new(LIMITS),
            content: version(size),
            round_trip: Duration::from_millis(round_trip_ms),
            bytes_per_s: bytes_per_s as f64,
            now: Duration::ZERO,
            busy_until: Duration::ZERO,
            arrivals: HashMap::new(),
            unheard: Vec::new(),
            read: 0,
            stalls: 0,
        }
    }

    fn moved(&self) -> u64 {
        self.arrivals.len() as u64 * CHUNK_SIZE
    }

    /// Asks for the chunks that nobody asked for yet.
    fn request(&mut self, span: ChunkSpan) {
        let took = Duration::from_secs_f64(CHUNK_SIZE as f64 / self.bytes_per_s);
        let mut first = true;
        for index in span.iter().filter(|index| index.bytes(self.content.size).is_some()) {
            if self.arrivals.contains_key(&index.0) {
                continue;
            }
            self.busy_until = self.busy_until.max(self.now + self.round_trip) + took;
            self.arrivals.insert(index.0, self.busy_until);
            let latency = self.busy_until - self.now;
            self.unheard.push((self.busy_until, std::mem::take(&mut first).then_some(latency)));
        }
    }

    fn hear(&mut self) {
        let now = self.now;
        self.unheard.sort();
        let heard = self.unheard.iter().take_while(|(at, _)| *at <= now).count();
        for (at, latency) in self.unheard.drain(..heard) {
            if let Some(latency) = latency {
                self.model.answered(self.content, latency);
            }
            self.model.delivered(self.content, CHUNK_SIZE, at);
        }
    }

    fn read(&mut self, start: u64, length: u64) {
        let Some(range) = ByteRange::of_read(start, length, self.content.size) else { return };
        self.hear();
        self.request(range.chunks());
        let here = range.chunks().iter().map(|index| self.arrivals[&index.0]).max().unwrap();
        let stalled = here > self.now;
        for span in self.model.read(self.content, Read { range, stalled }, u64::MAX) {
            assert!(
                span.count > 0
                    && ChunkIndex(span.first.0 + span.count - 1).bytes(self.content.size).is_some()
            );
            self.request(span);
        }
        self.now = self.now.max(here);
        self.stalls += usize::from(stalled);
        self.read += range.length();
    }

    fn read_sequentially(&mut self, step: u64) {
        (0..self.content.size).step_by(step as usize).for_each(|start| self.read(start, step));
    }
}

/// The share of the link that a sequential reader uses once `after` round trips have passed.
fn utilisation(round_trip_ms: u64, bytes_per_s: u64, size: u64, step: u64, after: u32) -> f64 {
    let mut simulation = Simulation::new(size, round_trip_ms, bytes_per_s);
    let (mut begun, mut before) = (None, 0);
    for start in (0..size).step_by(step as usize) {
        if begun.is_none() && simulation.now >= simulation.round_trip * after {
            (begun, before) = (Some(simulation.now), simulation.read);
        }
        simulation.read(start, step);
    }
    let passed = simulation.now - begun.expect("the file is long enough");
    (simulation.read - before) as f64 / passed.as_secs_f64() / bytes_per_s as f64
}

#[test]
fn a_sequential_reader_uses_the_link_after_three_round_trips() {
    for step in [CHUNK_SIZE, MIB] {
        for (round_trip_ms, bytes_per_s) in [(5, 125_000_000), (40, 125_000_000), (150, 12_500_000)] {
            let used = utilisation(round_trip_ms, bytes_per_s, 512 * MIB, step, 3);
            assert!(used > 0.97, "{used:.3} at {round_trip_ms} ms, {bytes_per_s} B/s, steps of {step}");
        }
        // A bandwidth-delay product of 19 and of 100 MB takes some doublings more.
        assert!(utilisation(150, 125_000_000, 1024 * MIB, step, 5) > 0.97);
        assert!(utilisation(80, 1_250_000_000, 8192 * MIB, step, 8) > 0.9);
    }
}

/// With the first round trip, in which nothing can come.
#[test]
fn the_whole_start_costs_few_round_trips() {
    for (size, round_trip_ms, most) in [(64 * MIB, 40, 2.3), (512 * MIB, 40, 2.3), (512 * MIB, 150, 3.7)] {
        let mut simulation = Simulation::new(size, round_trip_ms, 125_000_000);
        simulation.read_sequentially(MIB);
        let lost = simulation.now.as_secs_f64() - size as f64 / 125_000_000.0;
        let lost = lost / simulation.round_trip.as_secs_f64();
        assert!(lost < most, "{lost:.2} round trips of {round_trip_ms} ms");
        assert_eq!(simulation.moved(), size);
    }
}

#[test]
fn a_slow_reader_keeps_a_small_window() {
    let mut simulation = Simulation::new(256 * MIB, 40, 125_000_000);
    let mut most = 0;
    for start in (0..256 * MIB).step_by(MIB as usize) {
        simulation.read(start, MIB);
        most = most.max(simulation.moved() - simulation.read);
        simulation.now += Duration::from_millis(100);
    }
    assert!(most <= 5 * MIB, "{most} bytes ahead");
    assert!(simulation.stalls <= 3);
}

#[test]
fn readers_that_go_backwards_or_by_strides_soon_wait_no_more() {
    let size = 512 * MIB;
    let backward = |n: u64| size - (n + 1) * 64 * 1024;
    let stride = |n: u64| n * 1_500_000;
    let from_the_end = |n: u64| size - 4096 - n * 1_000_000;
    type Place<'a> = &'a dyn Fn(u64) -> u64;
    let cases: [(Place<'_>, u64, u64); 3] =
        [(&backward, 64 * 1024, 4000), (&stride, 4096, 340), (&from_the_end, 4096, 500)];
    for (start, length, count) in cases {
        let mut simulation = Simulation::new(size, 40, 125_000_000);
        (0..count).for_each(|n| simulation.read(start(n), length));
        let alone = simulation.round_trip * count as u32;
        assert!(simulation.now * 4 < alone, "{:?} instead of {alone:?}", simulation.now);
        assert!(simulation.moved() <= 2 * count * CHUNK_SIZE);
    }
}

#[test]
fn several_readers_of_one_file_are_told_apart() {
    let mut simulation = Simulation::new(512 * MIB, 40, 125_000_000);
    for step in 0..128 {
        for reader in 0..4 {
            simulation.read(reader * 128 * MIB + step * MIB, MIB);
        }
    }
    let bound = 512.0 * MIB as f64 / 125_000_000.0;
    // They wait for each other here, so each one's start adds to the others'.
    assert!(simulation.now.as_secs_f64() < bound + 4.0 * 0.25, "{:?}", simulation.now);
}

#[test]
fn requests_that_overtake_each_other_are_one_reader() {
    let mut simulation = Simulation::new(256 * MIB, 40, 125_000_000);
    for pair in 0..128 {
        simulation.read((2 * pair + 1) * MIB, MIB);
        simulation.read(2 * pair * MIB, MIB);
    }
    let bound = 256.0 * MIB as f64 / 125_000_000.0;
    assert!(simulation.now.as_secs_f64() < bound * 1.3, "{:?}", simulation.now);
    assert!(simulation.moved() <= 256 * MIB);
}

#[test]
fn a_lone_small_read_at_the_start_causes_nothing() {
    let mut simulation = Simulation::new(64 * MIB, 40, 125_000_000);
    simulation.read(0, 16 * 1024);
    assert_eq!(simulation.moved(), CHUNK_SIZE);
}

#[test]
fn nothing_is_asked_for_without_room() {
    let mut model = ReadAhead::new(LIMITS);
    let content = version(64 * MIB);
    for start in 0..8 {
        let range = ByteRange::new(start * MIB, MIB).unwrap();
        assert_eq!(model.read(content, Read { range, stalled: true }, CHUNK_SIZE - 1), vec![]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_readers_get_nothing_ahead(seed in prop::collection::vec(1..131_072_u64, 1..100)) {
        let mut model = ReadAhead::new(LIMITS);
        let content = version(512 * MIB);
        let mut asked = 0;
        for page in &seed {
            let range = ByteRange::new(page * 4096, 4096).unwrap();
            let spans = model.read(content, Read { range, stalled: true }, u64::MAX);
            asked += spans.iter().map(|span| span.count).sum::<u64>();
        }
        // Chance continues a read now and then.
        prop_assert!(asked <= seed.len() as u64 / 25 + 1, "{asked} chunks for {} reads", seed.len());
    }

    #[test]
    fn who_stops_has_moved_at_most_twice_what_it_read(
        step in prop_oneof![Just(4096_u64), Just(65_536), Just(CHUNK_SIZE), Just(MIB)],
        reads in 1..300_u64,
        first in prop_oneof![Just(0_u64), 0..1000_u64],
        backwards: bool,
        round_trip_ms in 1..150_u64,
    ) {
        let size = 2048 * MIB;
        let mut simulation = Simulation::new(size, round_trip_ms, 125_000_000);
        for n in 0..reads {
            let at = (first + n) * step;
            simulation.read(if backwards { size - at - step } else { at }, step);
        }
        let believed = if first == 0 && !backwards && step >= CHUNK_SIZE { MIB } else { 0 };
        let most = simulation.read + simulation.read.max(believed) + 3 * CHUNK_SIZE;
        prop_assert!(simulation.moved() <= most, "{} moved, {} read", simulation.moved(), simulation.read);
    }
}
