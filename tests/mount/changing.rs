//! Files that change while they are read: a reader gets bytes of one generation, or an error, never a mix.

use crate::common::{TestCluster, can_mount};
use crate::{mount_with, no_memory, within};
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

const RUN: Duration = Duration::from_secs(15);

const ESTALE: i32 = 116;

/// How a file gets its next generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// One write over the old bytes.
    InPlace,
    /// The same on a file so large that the write takes longer than the clock of the file system ticks.
    InPlaceLarge,
    /// Cut to nothing, then written; each generation has its own length.
    Truncated,
    /// A new file takes its name; each generation has its own length.
    Renamed,
}

const WAYS: [Way; 4] = [Way::InPlace, Way::InPlaceLarge, Way::Truncated, Way::Renamed];

impl Way {
    fn name(self) -> String {
        format!("{self:?}")
    }

    fn length(self, generation: u64) -> usize {
        match self {
            Way::InPlace => 700_000,
            Way::InPlaceLarge => 16_000_000,
            Way::Truncated | Way::Renamed => 8 * (1 + (generation * 7_919 % 60_000) as usize),
        }
    }

    /// The next generation: each of its words is its number.
    fn content(self, generation: u64) -> Vec<u8> {
        generation.to_le_bytes().repeat(self.length(generation) / 8)
    }

    fn write(self, dir: &Path, generation: u64) {
        let (path, content) = (dir.join(self.name()), self.content(generation));
        match self {
            Way::InPlace | Way::InPlaceLarge => {
                let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).unwrap();
                assert_eq!(file.write_at(&content, 0).unwrap(), content.len(), "one write is one generation");
            }
            Way::Truncated => fs::write(path, content).unwrap(),
            Way::Renamed => {
                let fresh = dir.join("fresh");
                fs::write(&fresh, content).unwrap();
                fs::rename(fresh, path).unwrap();
            }
        }
    }

    /// Generations come in bursts, with pauses in which a reader can finish.
    fn pause(self, generation: u64) -> Duration {
        Duration::from_millis(match self {
            Way::InPlaceLarge => 500 + generation * 771 % 3_000,
            _ if !generation.is_multiple_of(4) => 0,
            _ => generation * 37 % 200,
        })
    }

    /// The generation of a whole content; `None` for the empty file that truncation leaves for a moment.
    fn generation(self, bytes: &[u8]) -> Option<u64> {
        if bytes.is_empty() && self == Way::Truncated {
            return None;
        }
        let generation = word(bytes, 0);
        let mixed = (0..bytes.len() / 8).find(|n| word(bytes, *n) != generation);
        if let Some(at) = mixed {
            panic!("{self:?}: word {at} is of generation {}, the first of {generation}", word(bytes, at));
        }
        assert_eq!(bytes.len(), self.length(generation), "{self:?}: length of generation {generation}");
        Some(generation)
    }
}

fn word(bytes: &[u8], n: usize) -> u64 {
    u64::from_le_bytes(bytes[n * 8..n * 8 + 8].try_into().unwrap())
}

fn write_until(stop: &AtomicBool, way: Way, dir: &Path) -> u64 {
    let mut generation = 1;
    while !stop.load(Ordering::Relaxed) {
        generation += 1;
        way.write(dir, generation);
        thread::sleep(way.pause(generation));
    }
    generation
}

/// Reads the whole file, from the start to the end or in pieces in any order, with one descriptor.
fn read(path: &Path, random: &mut SmallRng) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    if random.random_bool(0.5) {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        return Ok(bytes);
    }
    let mut bytes = vec![0xEE; file.metadata()?.len() as usize];
    let piece = 1 + (random.next_u32() as usize % bytes.len().clamp(1, 4_000_000)).max(50_000);
    let mut order: Vec<usize> = (0..bytes.len().div_ceil(piece)).collect();
    order.sort_by_cached_key(|_| random.next_u32());
    for n in order {
        let end = bytes.len().min((n + 1) * piece);
        file.read_exact_at(&mut bytes[n * piece..end], (n * piece) as u64)?;
    }
    Ok(bytes)
}

#[derive(Default)]
struct Seen {
    generations: Mutex<BTreeMap<Way, BTreeSet<Option<u64>>>>,
    read: AtomicU64,
    stale: AtomicU64,
}

fn read_until(stop: &AtomicBool, mount: &Path, seed: u64, seen: &Seen) {
    let mut random = SmallRng::seed_from_u64(seed);
    while !stop.load(Ordering::Relaxed) {
        let way = WAYS[random.next_u32() as usize % WAYS.len()];
        match read(&mount.join(way.name()), &mut random) {
            Ok(bytes) => {
                let generation = way.generation(&bytes);
                seen.generations.lock().unwrap().entry(way).or_default().insert(generation);
                seen.read.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) if error.raw_os_error() == Some(ESTALE) => {
                seen.stale.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => panic!("{way:?}: {error}"),
        }
    }
}

/// Sets the flag when it goes, also when a thread panics.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn run(test: &TestCluster, mounts: &[&Path], seen: &Seen) -> Vec<u64> {
    let (origin, stop) = (test.origin("onprem"), AtomicBool::new(false));
    thread::scope(|scope| {
        let ends = StopAtEnd(&stop);
        let (stop, origin) = (&stop, &origin);
        let writers = WAYS.map(|way| scope.spawn(move || write_until(stop, way, origin)));
        for (n, mount) in mounts.iter().enumerate() {
            for half in 0..2 {
                scope.spawn(move || read_until(stop, mount, n as u64 * 2 + half, seen));
            }
        }
        thread::sleep(RUN);
        drop(ends);
        writers.map(|writer| writer.join().unwrap()).to_vec()
    })
}

/// Holds promise 1 of docs/semantics.md.
#[test]
fn a_reader_never_sees_a_mix_of_generations() {
    if !can_mount("a_reader_never_sees_a_mix_of_generations") {
        return;
    }
    let mut test = no_memory().start(|origin| WAYS.iter().for_each(|way| way.write(origin, 1)));
    let cloud = mount_with(&mut test, "node-1", "cloud", "attribute_ttl: 0s\n", &[]);
    let onprem = mount_with(&mut test, "node-2", "onprem", "attribute_ttl: 50ms\n", &[]);
    let seen = Seen::default();
    let last = run(&test, &[&cloud, &onprem], &seen);
    let (read, stale) = (seen.read.into_inner(), seen.stale.into_inner());
    let generations = seen.generations.into_inner().unwrap();
    let counts: Vec<_> = generations.iter().map(|(way, seen)| format!("{way:?} {}", seen.len())).collect();
    eprintln!("{read} reads, {stale} stale; last generations {last:?}; seen {counts:?}");
    assert!(read >= 40, "{read} reads, {stale} stale");
    for way in WAYS {
        assert!(generations.get(&way).is_some_and(|seen| seen.len() >= 2), "{way:?} of {counts:?}");
    }
    for (mount, (way, last)) in
        [&cloud, &onprem].iter().flat_map(|m| WAYS.iter().zip(&last).map(move |x| (m, x)))
    {
        within(Duration::from_secs(10), || {
            let bytes = fs::read(mount.join(way.name())).map_err(|error| error.to_string())?;
            let generation = way.generation(&bytes);
            (generation == Some(*last)).then_some(()).ok_or(format!("{way:?}: {generation:?}, not {last}"))
        });
    }
}
