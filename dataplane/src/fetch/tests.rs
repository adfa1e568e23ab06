//! Reading through a hop: single flight, order, errors, leaders that vanish, caches that cannot keep.

use super::*;
use crate::cache::fixture::{MIB, du, faulty, files, open};
use crate::cache::{self, Cache};
use crate::disk::Faults;
use crate::testing::MemorySource;
use globalfs_proto::ChunkIndex;
use globalfs_proto::chunk::chunk_count;
use globalfs_proto::limits::CHUNK_SIZE;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use tempfile::{TempDir, tempdir};
use tokio::time::sleep;

pub(super) fn path(text: &str) -> GlobalPath {
    GlobalPath::new(text.as_bytes()).unwrap()
}

pub(super) fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

pub(super) struct Hop {
    pub(super) upstream: MemorySource,
    pub(super) cached: Cached,
    pub(super) dir: TempDir,
}

pub(super) fn hop(quota: u64, ttl: Duration) -> Hop {
    let dir = tempdir().unwrap();
    let cache = open(dir.path(), quota);
    with_cache(dir, cache, ttl, MemorySource::new())
}

pub(super) fn with_cache(dir: TempDir, cache: Cache, ttl: Duration, upstream: MemorySource) -> Hop {
    let options = Options { metadata_ttl: ttl, ..Options::default() };
    let cached = Cached::new(Arc::new(upstream.clone()), cache, options);
    Hop { upstream, cached, dir }
}

pub(super) fn large_hop() -> Hop {
    hop(64 * MIB, Duration::from_secs(60))
}

/// Bytes that differ everywhere.
pub(super) fn content(length: u64, seed: u64) -> Vec<u8> {
    (0..length).map(|n| ((n ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8).collect()
}

pub(super) fn whole(version: Version) -> ChunkSpan {
    ChunkSpan { first: ChunkIndex(0), count: chunk_count(version.size) }
}

pub(super) async fn collect(
    cached: &Cached,
    name: &str,
    version: Version,
    span: ChunkSpan,
    deadline: Deadline,
) -> FsResult<Vec<u8>> {
    let mut stream = cached.read(&path(name), version, span, deadline).await?;
    let (mut bytes, mut next) = (Vec::new(), span.first.0);
    while let Some(chunk) = stream.recv().await {
        let chunk = chunk?;
        assert_eq!(chunk.index.0, next, "in order");
        next += 1;
        bytes.extend_from_slice(&chunk.data);
    }
    assert_eq!(next, span.first.0 + span.count, "complete");
    Ok(bytes)
}

pub(super) async fn settled(cached: &Cached) {
    for _ in 0..1000 {
        if cached.0.flights.is_empty() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("a claim was never settled");
}

#[tokio::test]
async fn the_second_reader_moves_nothing() {
    let hop = large_hop();
    let bytes = content(40 * CHUNK_SIZE + 7, 1);
    let version = hop.upstream.put_file("/a", bytes.clone()).version();
    for _ in 0..2 {
        assert_eq!(collect(&hop.cached, "/a", version, whole(version), soon()).await.unwrap(), bytes);
        settled(&hop.cached).await;
    }
    let fetched = hop.cached.counters();
    assert_eq!((fetched.chunks_fetched, fetched.bytes_fetched), (41, bytes.len() as u64));
    assert_eq!(hop.upstream.chunks_read(), 41);
    let counters = hop.cached.cache().counters();
    assert_eq!((counters.hits, counters.misses), (41, 41));
    assert!(hop.cached.cache().is_whole(&version));
}

#[tokio::test]
async fn only_what_is_read_and_missing_is_fetched() {
    let hop = large_hop();
    let bytes = content(100 * CHUNK_SIZE, 2);
    let version = hop.upstream.put_file("/a", bytes.clone()).version();
    for (first, count) in [(50, 3), (48, 8), (0, 1), (99, 1)] {
        let span = ChunkSpan { first: ChunkIndex(first), count };
        let range = (first * CHUNK_SIZE) as usize..((first + count) * CHUNK_SIZE) as usize;
        assert_eq!(collect(&hop.cached, "/a", version, span, soon()).await.unwrap(), bytes[range]);
        settled(&hop.cached).await;
    }
    assert_eq!(hop.upstream.chunks_read(), 10);
    let behind = ChunkSpan { first: ChunkIndex(99), count: 2 };
    assert!(hop.cached.read(&path("/a"), version, behind, soon()).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn parallel_readers_of_a_cold_file_cause_one_transfer() {
    let hop = large_hop();
    hop.upstream.set_delay(Duration::from_millis(2));
    let bytes = content(50 * CHUNK_SIZE, 3);
    let version = hop.upstream.put_file("/a", bytes.clone()).version();
    let readers: Vec<_> = (0..64)
        .map(|_| {
            let cached = hop.cached.clone();
            tokio::spawn(async move { collect(&cached, "/a", version, whole(version), soon()).await })
        })
        .collect();
    for reader in readers {
        assert!(reader.await.unwrap().unwrap() == bytes);
    }
    assert_eq!(hop.upstream.chunks_read(), 50);
    assert!(hop.cached.counters().chunks_joined > 0);
}

#[tokio::test]
async fn a_reader_that_leaves_does_not_stop_the_transfer_for_others() {
    let hop = large_hop();
    hop.upstream.set_delay(Duration::from_millis(30));
    let bytes = content(4 * CHUNK_SIZE, 4);
    let version = hop.upstream.put_file("/a", bytes.clone()).version();
    let leader = hop.cached.read(&path("/a"), version, whole(version), soon()).await.unwrap();
    let cached = hop.cached.clone();
    let follower = tokio::spawn(async move { collect(&cached, "/a", version, whole(version), soon()).await });
    sleep(Duration::from_millis(10)).await;
    drop(leader);
    assert_eq!(follower.await.unwrap().unwrap(), bytes);
    assert_eq!(hop.upstream.chunks_read(), 4);
    settled(&hop.cached).await;
}

#[tokio::test]
async fn a_short_deadline_ends_its_own_reader_only() {
    let hop = large_hop();
    hop.upstream.set_delay(Duration::from_millis(300));
    let bytes = content(CHUNK_SIZE, 5);
    let version = hop.upstream.put_file("/a", bytes.clone()).version();
    let short = Deadline::after(Duration::from_millis(50));
    let (hasty, patient) = tokio::join!(
        collect(&hop.cached, "/a", version, whole(version), short),
        collect(&hop.cached, "/a", version, whole(version), soon()),
    );
    assert_eq!(hasty, Err(FsError::Deadline));
    assert_eq!(patient.unwrap(), bytes);
    assert_eq!(hop.upstream.chunks_read(), 1);
}

#[tokio::test]
async fn an_upstream_error_reaches_all_who_wait_and_is_not_kept() {
    let hop = large_hop();
    let bytes = content(20 * CHUNK_SIZE, 6);
    let version = hop.upstream.put_file("/a", bytes.clone()).version();
    hop.upstream.set_delay(Duration::from_millis(20));
    let failure = FsError::Unreachable("the line is cut".to_owned());
    hop.upstream.set_failure(Some(failure.clone()));
    let reads = (0..20).map(|_| collect(&hop.cached, "/a", version, whole(version), soon()));
    for answer in futures_util::future::join_all(reads).await {
        assert_eq!(answer, Err(failure.clone()));
    }
    settled(&hop.cached).await;
    hop.upstream.set_failure(None);
    assert_eq!(collect(&hop.cached, "/a", version, whole(version), soon()).await.unwrap(), bytes);
}

#[tokio::test]
async fn another_takes_over_when_a_transfer_is_abandoned() {
    let hop = large_hop();
    let bytes = content(CHUNK_SIZE, 7);
    let version = hop.upstream.put_file("/a", bytes.clone()).version();
    let name = (version, ChunkIndex(0));
    let (_, claim) = hop.cached.0.flights.find(name, &path("/a"), || false);
    let cached = hop.cached.clone();
    let waiting = tokio::spawn(async move { collect(&cached, "/a", version, whole(version), soon()).await });
    sleep(Duration::from_millis(30)).await;
    assert!(!waiting.is_finished());
    drop(claim);
    assert_eq!(waiting.await.unwrap().unwrap(), bytes);
    let (_, claim) = hop.cached.0.flights.find((version, ChunkIndex(9)), &path("/a"), || false);
    claim.unwrap().failed(FsError::Deadline);
    settled(&hop.cached).await;
}

#[tokio::test]
async fn a_reader_by_another_name_is_not_harmed_by_a_name_that_is_gone() {
    let hop = large_hop();
    let bytes = content(CHUNK_SIZE, 8);
    let version = hop.upstream.put_file("/new", bytes.clone()).version();
    let (_, claim) = hop.cached.0.flights.find((version, ChunkIndex(0)), &path("/old"), || false);
    let cached = hop.cached.clone();
    let reader = tokio::spawn(async move { collect(&cached, "/new", version, whole(version), soon()).await });
    sleep(Duration::from_millis(20)).await;
    claim.unwrap().failed(FsError::NOT_FOUND);
    assert_eq!(reader.await.unwrap().unwrap(), bytes);
}

#[tokio::test]
async fn a_changed_file_is_stale_and_its_new_attributes_are_known() {
    let hop = large_hop();
    let old = hop.upstream.put_file("/a", content(CHUNK_SIZE, 9));
    assert_eq!(hop.cached.stat(&path("/a"), soon()).await.unwrap(), old);
    let new = hop.upstream.put_file("/a", content(CHUNK_SIZE, 10));
    assert_eq!(hop.cached.stat(&path("/a"), soon()).await.unwrap(), old, "within the ttl");
    let answer = collect(&hop.cached, "/a", old.version(), whole(old.version()), soon()).await;
    assert!(matches!(answer, Err(FsError::Stale(_))), "{answer:?}");
    assert_eq!(hop.cached.stat(&path("/a"), soon()).await.unwrap(), new);
}

#[tokio::test]
async fn a_damaged_chunk_is_fetched_again_and_mended() {
    let hop = large_hop();
    let bytes = content(4 * CHUNK_SIZE, 11);
    let version = hop.upstream.put_file("/a", bytes.clone()).version();
    collect(&hop.cached, "/a", version, whole(version), soon()).await.unwrap();
    settled(&hop.cached).await;
    let data = OpenOptions::new().write(true).open(files(hop.dir.path(), &version).0).unwrap();
    data.write_all_at(&[!bytes[200_000]], 200_000).unwrap();
    for _ in 0..2 {
        assert_eq!(collect(&hop.cached, "/a", version, whole(version), soon()).await.unwrap(), bytes);
        settled(&hop.cached).await;
    }
    assert_eq!(hop.upstream.chunks_read(), 5);
    assert_eq!(hop.cached.cache().counters().chunks_damaged, 1);
}

#[tokio::test]
async fn a_full_disk_is_no_concern_of_the_reader() {
    let dir = tempdir().unwrap();
    let options = cache::Options { dir: dir.path().to_owned(), quota_bytes: 64 * MIB };
    let cache = Cache::open(options, faulty(Faults { disk_full: 1000, ..Faults::default() })).unwrap();
    let hop = with_cache(dir, cache, Duration::ZERO, MemorySource::new());
    let bytes = content(40 * CHUNK_SIZE, 12);
    let version = hop.upstream.put_file("/a", bytes.clone()).version();
    assert_eq!(collect(&hop.cached, "/a", version, whole(version), soon()).await.unwrap(), bytes);
    settled(&hop.cached).await;
    assert_eq!(hop.cached.cache().counters().chunks_not_kept, 40);
    assert_eq!(hop.upstream.chunks_read(), 40, "each is fetched once, although none is kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_quota_of_a_quarter_of_the_data_serves_parallel_readers() {
    const QUOTA: u64 = 6 * MIB;
    let hop = hop(QUOTA, Duration::from_secs(60));
    let tree: Vec<_> = (0..8u64)
        .map(|n| {
            let bytes = Bytes::from(content(3 * MIB, n));
            (format!("/{n}"), hop.upstream.put_file(&format!("/{n}"), bytes.clone()).version(), bytes)
        })
        .collect();
    let readers: Vec<_> = (0..16)
        .map(|n| {
            let (cached, mut tree) = (hop.cached.clone(), tree.clone());
            tree.rotate_left(n % 8);
            tokio::spawn(async move {
                for (name, version, bytes) in tree {
                    assert!(collect(&cached, &name, version, whole(version), soon()).await.unwrap() == bytes);
                }
            })
        })
        .collect();
    while !readers.iter().all(|reader| reader.is_finished()) {
        assert!(du(hop.dir.path()) <= QUOTA);
        sleep(Duration::from_millis(5)).await;
    }
    for reader in readers {
        reader.await.unwrap();
    }
    let counters = hop.cached.cache().counters();
    assert!(counters.segments_evicted > 0 && counters.chunks_damaged == 0);
}

#[tokio::test]
async fn readers_that_take_nothing_block_nobody() {
    let hop = large_hop();
    let bytes = content(60 * CHUNK_SIZE, 13);
    let version = hop.upstream.put_file("/a", bytes.clone()).version();
    let other = hop.upstream.put_file("/b", bytes.clone()).version();
    let mut idle = Vec::new();
    for _ in 0..64 {
        idle.push(hop.cached.read(&path("/a"), version, whole(version), soon()).await.unwrap());
    }
    sleep(Duration::from_millis(50)).await;
    let quick = Deadline::after(Duration::from_secs(10));
    assert_eq!(collect(&hop.cached, "/b", other, whole(other), quick).await.unwrap(), bytes);
    settled(&hop.cached).await;
    assert_eq!(hop.cached.cache().in_flight().available_permits(), cache::MAX_BYTES_IN_FLIGHT);
}
