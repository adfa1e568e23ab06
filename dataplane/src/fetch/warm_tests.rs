//! Warming a hop: what is here is skipped, what is on its way is joined, nothing is pretended.

use super::tests::{collect, content, hop, large_hop, path, settled, soon, whole, with_cache};
use crate::cache::fixture::{MIB, faulty};
use crate::cache::{self, Cache};
use crate::disk::Faults;
use crate::source::{Source, WarmStream};
use crate::testing::MemorySource;
use globalfs_proto::limits::CHUNK_SIZE;
use globalfs_proto::{ChunkIndex, ChunkSpan, FsError, Version, Warm, WarmFile, Warmed};
use std::time::Duration;
use tempfile::tempdir;

fn part(name: &str, version: Version, first: u64, count: u64) -> WarmFile {
    WarmFile { path: path(name), version, span: ChunkSpan { first: ChunkIndex(first), count } }
}

fn all(name: &str, version: Version) -> WarmFile {
    WarmFile { path: path(name), version, span: whole(version) }
}

/// The sums of all steps, and how each part ended.
async fn sums(mut steps: WarmStream, parts: usize) -> (Warmed, Vec<Result<(), FsError>>) {
    let mut sum = crate::warm::step_of(0, 0);
    let mut ends = vec![None; parts];
    while let Some(step) = steps.recv().await {
        let step = step.unwrap();
        sum.here_bytes += step.here_bytes;
        sum.fetched_bytes += step.fetched_bytes;
        sum.missing_bytes += step.missing_bytes;
        sum.quota_bytes = step.quota_bytes;
        let end = &mut ends[step.file as usize];
        assert!(end.is_none(), "a part that ended says no more");
        *end = step.end;
    }
    (sum, ends.into_iter().map(Option::unwrap).collect())
}

async fn warm(source: &impl Source, fetch: bool, files: Vec<WarmFile>) -> (Warmed, Vec<Result<(), FsError>>) {
    let parts = files.len();
    sums(source.warm(Warm { fetch, files }, soon()).await.unwrap(), parts).await
}

#[tokio::test]
async fn what_is_warm_is_read_without_the_upstream() {
    let hop = large_hop();
    let size = 40 * CHUNK_SIZE + 5;
    let bytes = content(size, 1);
    let large = hop.upstream.put_file("/large", bytes.clone()).version();
    let small = hop.upstream.put_file("/small", content(10, 2)).version();
    let wanted = || vec![all("/large", large), all("/small", small)];
    let (looked, _) = warm(&hop.cached, false, wanted()).await;
    assert_eq!((looked.missing_bytes, looked.quota_bytes), (size + 10, 64 * MIB));
    assert_eq!(hop.upstream.chunks_read(), 0, "looking fetches nothing");
    let (done, ends) = warm(&hop.cached, true, wanted()).await;
    assert_eq!((done.here_bytes, done.fetched_bytes, done.missing_bytes), (0, size + 10, 0));
    assert_eq!(ends, [Ok(()), Ok(())]);
    let read = hop.upstream.chunks_read();
    assert_eq!(read, 42);
    assert_eq!(collect(&hop.cached, "/large", large, whole(large), soon()).await.unwrap(), bytes);
    let (again, _) = warm(&hop.cached, true, wanted()).await;
    assert_eq!((again.here_bytes, again.fetched_bytes), (size + 10, 0));
    assert_eq!(hop.upstream.chunks_read(), read);
}

#[tokio::test]
async fn many_small_files_between_large_ones_are_all_warmed() {
    let hop = large_hop();
    let put = |n: u64| {
        let size = if n % 100 == 50 { 40 * CHUNK_SIZE } else { 1 + n * 13 };
        (size, all(&format!("/f{n}"), hop.upstream.put_file(&format!("/f{n}"), content(size, n)).version()))
    };
    let (sizes, files): (Vec<_>, Vec<_>) = (0..600).map(put).unzip();
    let known = files[7].clone();
    warm(&hop.cached, true, vec![known.clone()]).await;
    let (done, ends) = warm(&hop.cached, true, files.clone()).await;
    assert!(ends.iter().all(Result::is_ok));
    assert_eq!(
        (done.here_bytes, done.fetched_bytes),
        (known.bytes(), sizes.iter().sum::<u64>() - known.bytes())
    );
    let (looked, _) = warm(&hop.cached, false, files).await;
    assert_eq!((looked.here_bytes, looked.missing_bytes), (sizes.iter().sum(), 0));
    settled(&hop.cached).await;
}

#[tokio::test]
async fn a_reader_and_warming_share_each_transfer() {
    let hop = large_hop();
    hop.upstream.set_delay(Duration::from_millis(5));
    let bytes = content(30 * CHUNK_SIZE, 3);
    let version = hop.upstream.put_file("/f", bytes.clone()).version();
    let (one, two, read) = tokio::join!(
        warm(&hop.cached, true, vec![all("/f", version)]),
        warm(&hop.cached, true, vec![part("/f", version, 10, 20)]),
        collect(&hop.cached, "/f", version, whole(version), soon()),
    );
    assert_eq!(read.unwrap(), bytes);
    assert_eq!(one.0.here_bytes + one.0.fetched_bytes, 30 * CHUNK_SIZE);
    assert_eq!(two.0.here_bytes + two.0.fetched_bytes, 20 * CHUNK_SIZE);
    assert_eq!(hop.upstream.chunks_read(), 30);
    settled(&hop.cached).await;
}

#[tokio::test]
async fn each_part_ends_by_itself() {
    let hop = large_hop();
    let version = hop.upstream.put_file("/changed", content(10, 1)).version();
    let now = hop.upstream.put_file("/changed", content(20, 1));
    let fine = hop.upstream.put_file("/fine", content(30, 1)).version();
    let files = vec![
        all("/changed", version),
        all("/fine", fine),
        part("/fine", fine, 1, 1),
        part("/fine", fine, u64::MAX, 2),
        all("/gone", fine),
    ];
    let (done, ends) = warm(&hop.cached, true, files).await;
    assert_eq!(ends[0], Err(FsError::Stale(Some(Box::new(now)))));
    assert!(ends[1].is_ok() && matches!(&ends[2..4], [Err(FsError::Limit(_)), Err(FsError::Limit(_))]));
    assert!(done.fetched_bytes >= 30);
    settled(&hop.cached).await;
}

#[tokio::test]
async fn what_the_cache_cannot_keep_is_not_called_warm() {
    let dir = tempdir().unwrap();
    let options = cache::Options { dir: dir.path().to_owned(), quota_bytes: 8 * MIB };
    let full = Faults { write_error: 1000, ..Faults::default() };
    let cache = Cache::open(options, faulty(full)).unwrap();
    let hop = with_cache(dir, cache, Duration::from_secs(60), MemorySource::new());
    let version = hop.upstream.put_file("/f", content(3 * CHUNK_SIZE, 1)).version();
    let (done, ends) = warm(&hop.cached, true, vec![all("/f", version)]).await;
    assert_eq!((done.fetched_bytes, done.missing_bytes), (0, 3 * CHUNK_SIZE));
    assert_eq!(ends, [Ok(())]);
}

#[tokio::test]
async fn dropping_the_stream_ends_the_work() {
    let hop = hop(64 * MIB, Duration::from_secs(60));
    hop.upstream.set_delay(Duration::from_millis(10));
    let version = hop.upstream.put_file("/f", content(400 * CHUNK_SIZE, 1)).version();
    let warm = Warm { fetch: true, files: vec![all("/f", version)] };
    let mut steps = hop.cached.warm(warm, soon()).await.unwrap();
    steps.recv().await.unwrap().unwrap();
    drop(steps);
    settled(&hop.cached).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let read = hop.upstream.chunks_read();
    assert!(read < 400, "{read} chunks were fetched all the same");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(hop.upstream.chunks_read(), read);
}

#[tokio::test]
async fn whoever_has_the_bytes_at_home_is_warm() {
    let origin = MemorySource::new();
    let version = origin.put_file("/f", content(10, 1)).version();
    let (done, ends) = warm(&origin, true, vec![all("/f", version); 3]).await;
    assert_eq!((done.here_bytes, done.quota_bytes, ends.len()), (30, u64::MAX, 3));
}
