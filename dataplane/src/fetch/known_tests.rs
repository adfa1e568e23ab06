//! Hash-ahead through a hop: what is here is not fetched, whatever goes wrong the bytes are right.

use super::tests::{Hop, collect, content, large_hop, path, settled, soon, whole, with_cache};
use super::*;
use crate::cache::fixture::{MIB, files, open, version as other_version};
use crate::source::Hashes;
use crate::testing::MemorySource;
use globalfs_proto::limits::CHUNK_SIZE;
use globalfs_proto::{ChunkHash, ChunkIndex};
use std::os::unix::fs::FileExt;
use tempfile::tempdir;

const CHUNKS: u64 = 200;

/// Chunks that a transfer may fetch before it knows any hash: a window.
const BLIND: u64 = stream::WINDOW_CHUNKS as u64;

/// So that all hashes are there before the blind chunks are.
const CHUNK_DELAY: Duration = Duration::from_millis(2);

fn piece(seed: u64) -> Vec<u8> {
    content(CHUNK_SIZE, seed << 20)
}

fn joined(seeds: impl Iterator<Item = u64>) -> Vec<u8> {
    seeds.flat_map(piece).collect()
}

/// Of five chunks one is new, and the others lie elsewhere.
fn revised() -> Vec<u8> {
    joined((0..CHUNKS).map(|n| if n % 5 == 0 { 1000 + n } else { (n + 7) % CHUNKS }))
}

/// Gives how many chunks were fetched; a transfer that is broken off may cost the upstream some more.
async fn read(hop: &Hop, name: &str, bytes: &[u8]) -> u64 {
    let version = hop.upstream.put_file(name, bytes.to_vec()).version();
    let before = hop.cached.counters().chunks_fetched;
    hop.upstream.set_delay(CHUNK_DELAY);
    let read = collect(&hop.cached, name, version, whole(version), soon()).await.unwrap();
    assert!(read == bytes, "{name}");
    settled(&hop.cached).await;
    hop.cached.counters().chunks_fetched - before
}

#[tokio::test]
async fn what_is_here_under_another_name_is_not_fetched() {
    let hop = large_hop();
    assert_eq!(read(&hop, "/a", &joined(0..CHUNKS)).await, CHUNKS);
    let fetched = read(&hop, "/b", &revised()).await;
    assert!((CHUNKS / 5..=CHUNKS / 5 + BLIND).contains(&fetched), "{fetched} chunks were fetched");
    let counters = hop.cached.counters();
    assert_eq!(counters.chunks_deduplicated, CHUNKS - fetched);
    assert_eq!(counters.bytes_deduplicated, (CHUNKS - fetched) * CHUNK_SIZE);
    let version = hop.upstream.put_file("/b", revised()).version();
    let again = read(&hop, "/b", &revised()).await;
    assert!(again <= BLIND, "a new version of the same bytes: {again} were fetched");
    assert!(!hop.cached.cache().is_whole(&version));
}

#[tokio::test]
async fn what_is_on_its_way_under_another_name_is_fetched_once() {
    let hop = super::tests::hop(256 * MIB, Duration::from_secs(60));
    read(&hop, "/a", &joined(0..CHUNKS)).await;
    read(&hop, "/b", &revised()).await;
    let before = hop.cached.counters();
    let new = joined(3000..3000 + CHUNKS);
    tokio::join!(read(&hop, "/c", &new), read(&hop, "/d", &new), read(&hop, "/e", &new));
    let counters = hop.cached.counters();
    let fetched = counters.chunks_fetched - before.chunks_fetched;
    assert!((CHUNKS..=CHUNKS + 2 * BLIND).contains(&fetched), "{fetched} chunks were fetched");
    assert_eq!(counters.chunks_deduplicated - before.chunks_deduplicated, 3 * CHUNKS - fetched);
}

#[tokio::test]
async fn who_waits_for_another_transfer_fetches_when_it_fails() {
    let hop = large_hop();
    read(&hop, "/a", &joined(0..CHUNKS)).await;
    read(&hop, "/b", &revised()).await;
    let new = joined(3000..3000 + CHUNKS);
    let doomed = hop.upstream.put_file("/c", new.clone()).version();
    let mut first = hop.cached.read(&path("/c"), doomed, whole(doomed), soon()).await.unwrap();
    first.recv().await.unwrap().unwrap();
    let second = hop.upstream.put_file("/d", new.clone()).version();
    let mut stream = hop.cached.read(&path("/d"), second, whole(second), soon()).await.unwrap();
    let mut bytes = stream.recv().await.unwrap().unwrap().data.to_vec();
    hop.upstream.put_file("/c", "changed");
    while let Some(chunk) = stream.recv().await {
        bytes.extend_from_slice(&chunk.unwrap().data);
    }
    assert!(bytes == new);
}

#[tokio::test]
async fn a_restart_forgets_nothing() {
    let hop = large_hop();
    read(&hop, "/a", &joined(0..CHUNKS)).await;
    let Hop { upstream, cached, dir } = hop;
    drop(cached);
    let cache = open(dir.path(), 64 * MIB);
    let hop = with_cache(dir, cache, Duration::ZERO, upstream);
    let fetched = read(&hop, "/b", &revised()).await;
    assert!(fetched <= CHUNKS / 5 + BLIND, "{fetched} chunks were fetched");
}

#[tokio::test]
async fn zeros_need_neither_transfer_nor_index() {
    let hop = large_hop();
    read(&hop, "/a", &piece(1)).await;
    let mut bytes = vec![0; (CHUNKS * CHUNK_SIZE) as usize];
    bytes[..10 * CHUNK_SIZE as usize].copy_from_slice(&joined(0..10));
    assert!(read(&hop, "/b", &bytes).await <= BLIND);
}

#[tokio::test]
async fn strangers_are_asked_for_once() {
    let hop = large_hop();
    read(&hop, "/a", &joined(0..40)).await;
    for (n, told) in [(1, 200), (2, 400)] {
        let bytes = joined((0..CHUNKS).map(|k| n * 10_000 + k));
        assert_eq!(read(&hop, &format!("/{n}"), &bytes).await, CHUNKS);
        assert_eq!(hop.upstream.hashes_told(), told);
    }
    assert_eq!(hop.cached.counters().chunks_deduplicated, 0);
}

#[tokio::test]
async fn small_files_and_an_empty_cache_ask_nothing() {
    let hop = large_hop();
    read(&hop, "/a", &joined(0..CHUNKS)).await;
    read(&hop, "/b", &joined(0..20)).await;
    assert_eq!(hop.upstream.hashes_told(), 0);
}

#[tokio::test]
async fn damaged_and_missing_sources_are_fetched_instead() {
    let hop = large_hop();
    let first = hop.upstream.put_file("/a", joined(0..CHUNKS)).version();
    collect(&hop.cached, "/a", first, whole(first), soon()).await.unwrap();
    settled(&hop.cached).await;
    let data = std::fs::OpenOptions::new().write(true).open(files(hop.dir.path(), &first).0).unwrap();
    for chunk in 50..100 {
        data.write_all_at(&[!piece(chunk)[77]], chunk * CHUNK_SIZE + 77).unwrap();
    }
    data.set_len(150 * CHUNK_SIZE).unwrap();
    let fetched = read(&hop, "/b", &joined(0..CHUNKS)).await;
    assert!((100..=100 + BLIND).contains(&fetched), "{fetched} chunks were fetched");
}

#[tokio::test]
async fn a_wrong_index_costs_a_fetch_and_no_more() {
    let hop = large_hop();
    read(&hop, "/a", &joined(0..40)).await;
    let known = other_version(99, 40 * CHUNK_SIZE);
    for index in 0..40 {
        // The cache takes a chunk on trust, so this one says it is another.
        let data = Bytes::from(piece(5000 + index));
        let hash = ChunkHash(*blake3::hash(&piece(7000 + index)).as_bytes());
        let chunk = Chunk { index: ChunkIndex(index), hash, data };
        assert!(hop.cached.cache().put(&known, &chunk).await);
    }
    assert_eq!(read(&hop, "/b", &joined(7000..7040)).await, 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn copies_survive_eviction_of_what_they_are_made_from() {
    let hop = super::tests::hop(30 * MIB, Duration::from_secs(60));
    let common = joined(0..CHUNKS);
    for round in 0..4_u64 {
        let names = [format!("/{round}"), format!("/{round}-revised")];
        let revised = revised();
        let (one, other) = tokio::join!(read(&hop, &names[0], &common), read(&hop, &names[1], &revised));
        assert!(one + other <= 4 * CHUNKS);
    }
    let counters = hop.cached.cache().counters();
    assert!(counters.segments_evicted > 0 && counters.chunks_damaged == 0);
}

#[tokio::test]
async fn a_content_that_changes_under_its_hashes_is_stale() {
    let hop = large_hop();
    read(&hop, "/a", &joined(0..CHUNKS)).await;
    let old = hop.upstream.put_file("/b", revised()).version();
    hop.upstream.set_delay(CHUNK_DELAY);
    let mut stream = hop.cached.read(&path("/b"), old, whole(old), soon()).await.unwrap();
    let mut bytes = stream.recv().await.unwrap().unwrap().data.to_vec();
    hop.upstream.put_file("/b", joined(9000..9000 + CHUNKS));
    let error = loop {
        match stream.recv().await.expect("an error comes before the end") {
            Ok(chunk) => bytes.extend_from_slice(&chunk.data),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, FsError::Stale(_)), "{error:?}");
    assert!(revised().starts_with(&bytes), "no byte of the new content");
}

/// The chunk about which [`Liar`] lies.
const LIE: u64 = 31;

/// Announces another hash than one of its chunks has.
struct Liar(MemorySource);

#[async_trait]
impl Source for Liar {
    async fn stat(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Attr> {
        self.0.stat(path, deadline).await
    }
    async fn list(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Listing> {
        self.0.list(path, deadline).await
    }
    async fn read_link(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Bytes> {
        self.0.read_link(path, deadline).await
    }
    async fn get_xattr(&self, path: &GlobalPath, name: &[u8], deadline: Deadline) -> FsResult<Bytes> {
        self.0.get_xattr(path, name, deadline).await
    }
    async fn list_xattr(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Bytes> {
        self.0.list_xattr(path, deadline).await
    }
    async fn fs_stat(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<FsStat> {
        self.0.fs_stat(path, deadline).await
    }
    async fn read(
        &self,
        path: &GlobalPath,
        version: Version,
        span: ChunkSpan,
        deadline: Deadline,
    ) -> FsResult<ChunkStream> {
        self.0.read(path, version, span, deadline).await
    }
    async fn hashes(
        &self,
        path: &GlobalPath,
        version: Version,
        span: ChunkSpan,
        deadline: Deadline,
    ) -> FsResult<HashStream> {
        let (sender, lies) = mpsc::channel(span.count as usize);
        let mut truth = self.0.hashes(path, version, span, deadline).await?;
        while let Some(hashes) = truth.recv().await {
            let Hashes { first, mut hashes } = hashes?;
            // A chunk that seems to be here, behind those that are fetched blind.
            if first.0 == LIE {
                hashes[0].0[31] ^= 1;
            }
            sender.try_send(Ok(Hashes { first, hashes })).unwrap();
        }
        Ok(lies)
    }
}

#[tokio::test]
async fn announced_hashes_that_lie_end_the_read_and_are_believed_no_more() {
    let dir = tempdir().unwrap();
    let upstream = MemorySource::new();
    let cached =
        Cached::new(Arc::new(Liar(upstream.clone())), open(dir.path(), 128 * MIB), Options::default());
    upstream.set_delay(CHUNK_DELAY);
    let common = upstream.put_file("/a", joined(0..CHUNKS)).version();
    collect(&cached, "/a", common, whole(common), soon()).await.unwrap();
    settled(&cached).await;
    let version = upstream.put_file("/b", revised()).version();
    match collect(&cached, "/b", version, whole(version), soon()).await {
        // A transfer that went ahead of the reader met the lie.
        Ok(read) => assert!(read == revised()),
        Err(FsError::Protocol(what)) => assert!(what.contains("announced"), "{what}"),
        Err(other) => panic!("{other}"),
    }
    settled(&cached).await;
    let read = collect(&cached, "/b", version, whole(version), soon()).await.unwrap();
    assert!(read == revised(), "without hashes it is read");
    settled(&cached).await;
    assert!(cached.cache().is_whole(&version));
}

#[tokio::test]
async fn a_hop_tells_what_it_has_and_asks_for_the_rest_once() {
    let hop = large_hop();
    let bytes = joined(0..CHUNKS);
    let version = hop.upstream.put_file("/a", bytes.clone()).version();
    let part = ChunkSpan { first: ChunkIndex(10), count: 80 };
    collect(&hop.cached, "/a", version, part, soon()).await.unwrap();
    settled(&hop.cached).await;
    let want: Vec<_> =
        bytes.chunks(CHUNK_SIZE as usize).map(|data| ChunkHash(*blake3::hash(data).as_bytes())).collect();
    for (first, count, told) in [(10, 80, 0), (10, 80, 0), (0, 200, 200), (3, 190, 200)] {
        let span = ChunkSpan { first: ChunkIndex(first), count };
        let mut stream = hop.cached.hashes(&path("/a"), version, span, soon()).await.unwrap();
        let mut hashes = Vec::new();
        while let Some(part) = stream.recv().await {
            let part = part.unwrap();
            assert_eq!(part.first.0, first + hashes.len() as u64);
            hashes.extend(part.hashes);
        }
        assert_eq!(hashes, want[first as usize..(first + count) as usize]);
        assert_eq!(hop.upstream.hashes_told(), told);
    }
    let behind = ChunkSpan { first: ChunkIndex(199), count: 2 };
    assert!(hop.cached.hashes(&path("/a"), version, behind, soon()).await.is_err());
}
