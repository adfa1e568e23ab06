//! Fetching ahead through a hop, over a link of 40 ms and 1 Gbit/s in virtual time.

use super::tests::{path, soon};
use super::*;
use crate::cache::fixture::{MIB, open};
use crate::testing::{Distant, MemorySource};
use globalfs_proto::FileKind;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tempfile::{TempDir, tempdir};

const ROUND_TRIP: Duration = Duration::from_millis(40);
const BYTES_PER_S: u64 = 125_000_000;

struct Far {
    upstream: MemorySource,
    link: Distant,
    cached: Cached,
    _dir: TempDir,
}

fn far() -> Far {
    let dir = tempdir().unwrap();
    let cache = open(dir.path(), 1024 * MIB);
    let upstream = MemorySource::new();
    let link = Distant::new(Arc::new(upstream.clone()), ROUND_TRIP, BYTES_PER_S);
    let ahead = Some(AheadOptions::default());
    let options = Options { metadata_ttl: Duration::from_secs(600), ahead, ..Options::default() };
    let cached = Cached::new(Arc::new(link.clone()), cache, options);
    Far { upstream, link, cached, _dir: dir }
}

fn noise(seed: u64, length: u64) -> Vec<u8> {
    let mut bytes = vec![0; length as usize];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

impl Far {
    async fn read(&self, name: &str, version: Version, start: u64, length: u64) -> Vec<u8> {
        let range = ByteRange::of_read(start, length, version.size).unwrap();
        let pieces = self.cached.read_range(&path(name), version, range, soon()).await.unwrap();
        pieces.concat()
    }

    /// Round trips that pass while `work` is done.
    async fn round_trips(&self, work: impl Future<Output = ()>) -> f64 {
        let begun = Instant::now();
        work.await;
        begun.elapsed().as_secs_f64() / ROUND_TRIP.as_secs_f64()
    }
}

#[tokio::test(start_paused = true)]
async fn a_sequential_reader_fills_the_link_after_three_round_trips() {
    const SIZE: u64 = 128 * MIB;
    let far = far();
    let bytes = noise(1, SIZE);
    let version = far.upstream.put_file("/a", bytes.clone()).version();
    let trips = far
        .round_trips(async {
            for start in (0..SIZE).step_by(MIB as usize) {
                assert!(
                    far.read("/a", version, start, MIB).await
                        == bytes[start as usize..(start + MIB) as usize]
                );
            }
        })
        .await;
    let bound = SIZE as f64 / BYTES_PER_S as f64 / ROUND_TRIP.as_secs_f64();
    assert!(trips < bound + 5.0, "{trips:.1} round trips; the link needs {bound:.1}");
    assert_eq!(far.link.bytes(), SIZE);
    let counters = far.cached.counters();
    assert_eq!(counters.bytes_ahead, counters.bytes_ahead_used);
    assert!(counters.bytes_ahead > SIZE * 9 / 10);
}

#[tokio::test(start_paused = true)]
async fn what_came_ahead_and_was_kept_is_read_from_memory() {
    let far = far();
    let bytes = noise(5, 8 * MIB);
    let version = far.upstream.put_file("/a", bytes.clone()).version();
    far.read("/a", version, 0, MIB).await;
    let next = || (MIB / CHUNK_SIZE..2 * MIB / CHUNK_SIZE).map(ChunkIndex);
    while !next().all(|index| far.cached.cache().contains(&version, index)) {
        tokio::time::sleep(ROUND_TRIP).await;
    }
    let before = far.cached.cache().counters();
    assert!(far.read("/a", version, MIB, MIB).await == bytes[MIB as usize..2 * MIB as usize]);
    let after = far.cached.cache().counters();
    assert_eq!((after.hits, after.misses), (before.hits, before.misses), "neither from the disk nor missed");
}

#[tokio::test(start_paused = true)]
async fn random_reads_take_a_round_trip_each_and_fetch_nothing_ahead() {
    const SIZE: u64 = 128 * MIB;
    let far = far();
    let bytes = noise(2, SIZE);
    let version = far.upstream.put_file("/a", bytes.clone()).version();
    let mut random = StdRng::seed_from_u64(3);
    let starts: Vec<u64> = (0..30).map(|_| random.random_range(1..SIZE / 4096) * 4096).collect();
    let trips = far
        .round_trips(async {
            for start in &starts {
                let got = far.read("/a", version, *start, 4096).await;
                assert!(got == bytes[*start as usize..*start as usize + 4096]);
            }
        })
        .await;
    assert!(trips / 30.0 < 1.15, "{:.3} round trips each", trips / 30.0);
    assert!(far.link.bytes() <= 30 * CHUNK_SIZE);
    assert_eq!(far.cached.counters().bytes_ahead, 0);
}

/// A tree as `issue 3` has it: 2,000 files of 8 KiB in 40 directories.
fn put_tree(upstream: &MemorySource) -> Vec<(String, Version, Vec<u8>)> {
    let mut tree = Vec::new();
    for directory in 0..40 {
        upstream.put_directory(&format!("/d{directory:02}"));
        for file in 0..50 {
            let (name, bytes) =
                (format!("/d{directory:02}/f{file:02}"), noise(directory * 50 + file, 8 * 1024));
            tree.push((name.clone(), upstream.put_file(&name, bytes.clone()).version(), bytes));
        }
    }
    tree
}

async fn learn_listings(far: &Far) {
    let top = far.cached.list(&GlobalPath::root(), soon()).await.unwrap();
    let directories = top.iter().filter(|entry| entry.attr.kind == FileKind::Directory);
    for entry in directories {
        far.cached.list(&GlobalPath::root().join(&entry.name).unwrap(), soon()).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_walk_through_small_files_doubles_each_round_trip() {
    let far = far();
    let tree = put_tree(&far.upstream);
    learn_listings(&far).await;
    let requests = far.link.requests();
    let trips = far
        .round_trips(async {
            for (name, version, bytes) in &tree {
                assert!(far.read(name, *version, 0, 128 * 1024).await == *bytes);
            }
        })
        .await;
    let requests = far.link.requests() - requests;
    assert!(trips < 18.0 && requests < 200, "{trips:.1} round trips, {requests} requests");
    let moved: usize = tree.iter().map(|(_, _, bytes)| bytes.len()).sum();
    assert_eq!(far.link.bytes(), moved as u64);
}

#[tokio::test(start_paused = true)]
async fn a_walk_that_stops_has_moved_at_most_twice_what_it_read() {
    for stop in [1, 2, 3, 10, 77, 500] {
        let far = far();
        let tree = put_tree(&far.upstream);
        learn_listings(&far).await;
        let mut read = 0;
        for (name, version, bytes) in &tree[..stop] {
            far.read(name, *version, 0, 128 * 1024).await;
            read += bytes.len() as u64;
        }
        tokio::time::sleep(ROUND_TRIP * 4).await;
        assert!(far.link.bytes() <= 2 * read, "{} moved, {read} read", far.link.bytes());
        assert!(stop > 1 || far.link.bytes() == read, "a lone file fetches nothing else");
    }
}

/// As a mount does it: names are listed first, each file is looked at before it is read, and a site lies between.
#[tokio::test(start_paused = true)]
async fn a_tree_comes_fast_through_node_and_site() {
    let far = far();
    let tree = put_tree(&far.upstream);
    let dir = tempdir().unwrap();
    let options = Options { metadata_ttl: Duration::from_secs(600), ..Options::default() };
    let site = Cached::new(Arc::new(far.link.clone()), open(dir.path(), 1024 * MIB), options);
    let dir = tempdir().unwrap();
    let near = Distant::new(Arc::new(site), Duration::from_micros(200), 10 * BYTES_PER_S);
    let options = Options { ahead: Some(AheadOptions::default()), ..options };
    let node = Cached::new(Arc::new(near), open(dir.path(), 1024 * MIB), options);
    let mut stack = vec![GlobalPath::root()];
    while let Some(directory) = stack.pop() {
        for entry in node.list(&directory, soon()).await.unwrap().iter() {
            if entry.attr.kind == FileKind::Directory {
                stack.push(directory.join(&entry.name).unwrap());
            }
        }
    }
    let begun = Instant::now();
    // Directories from a stack: the last one first.
    for (name, version, bytes) in tree.chunks(50).rev().flatten() {
        assert_eq!(node.stat(&path(name), soon()).await.unwrap().version(), *version);
        let range = ByteRange::of_read(0, 128 * 1024, version.size).unwrap();
        let got = node.read_range(&path(name), *version, range, soon()).await.unwrap();
        assert!(got.concat() == *bytes);
    }
    let trips = begun.elapsed().as_secs_f64() / ROUND_TRIP.as_secs_f64();
    let moved: usize = tree.iter().map(|(_, _, bytes)| bytes.len()).sum();
    assert_eq!(far.link.bytes(), moved as u64);
    assert!(trips < 25.0, "{trips:.1} round trips");
}
