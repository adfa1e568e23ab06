//! Whole files and parts of chunks: who gets them, and what that keeps from eviction.

use super::fixture::*;
use super::*;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;
use tempfile::tempdir;

async fn within(limit: Duration, reached: impl AsyncFn() -> bool) {
    let start = std::time::Instant::now();
    while !reached().await {
        assert!(start.elapsed() < limit);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn damage(dir: &Path, version: &Version, at: u64) {
    let data = OpenOptions::new().write(true).open(files(dir, version).0).unwrap();
    data.write_all_at(b"!", at).unwrap();
}

#[tokio::test]
async fn a_file_is_handed_out_when_its_last_chunk_is_there() {
    let dir = tempdir().unwrap();
    let cache = open(dir.path(), 64 * MIB);
    let file = version(1, 2 * CHUNK_SIZE + 5);
    for index in 0..3 {
        assert!(cache.whole_file(&file).await.is_none());
        assert!(cache.put(&file, &chunk(&file, index)).await);
    }
    let whole = cache.whole_file(&file).await.unwrap();
    let mut bytes = vec![0; file.size as usize];
    whole.file().read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, [0, 1, 2].map(|index| chunk(&file, index).data).concat());
    let small = version(2, 100);
    fill(&cache, &small).await;
    assert!(cache.whole_file(&small).await.is_none(), "it has no file of its own");
}

#[tokio::test]
async fn what_is_handed_out_is_not_evicted() {
    let dir = tempdir().unwrap();
    let cache = open(dir.path(), 4 * MIB);
    let (held, free) = (version(1, 8 * CHUNK_SIZE), version(2, 8 * CHUNK_SIZE));
    fill(&cache, &held).await;
    fill(&cache, &free).await;
    let (whole, again) = (cache.whole_file(&held).await.unwrap(), cache.whole_file(&held).await.unwrap());
    drop(again);
    for inode in 3..20 {
        fill(&cache, &version(inode, 8 * CHUNK_SIZE)).await;
    }
    assert!(cache.is_whole(&held) && !cache.is_whole(&free));
    let mut byte = [0];
    whole.file().read_exact_at(&mut byte, 7 * CHUNK_SIZE).unwrap();
    assert_eq!(byte, [0x87]);
    drop(whole);
    for inode in 20..40 {
        fill(&cache, &version(inode, 8 * CHUNK_SIZE)).await;
    }
    assert!(!cache.is_whole(&held), "given back, it goes like others");
}

#[tokio::test]
async fn what_an_earlier_run_left_is_handed_out_once_it_was_verified() {
    let dir = tempdir().unwrap();
    let (good, bad) = (version(1, 9 * CHUNK_SIZE), version(2, 9 * CHUNK_SIZE));
    {
        let cache = open(dir.path(), 64 * MIB);
        fill(&cache, &good).await;
        fill(&cache, &bad).await;
    }
    damage(dir.path(), &bad, 5 * CHUNK_SIZE + 7);
    let cache = open(dir.path(), 64 * MIB);
    assert!(cache.is_whole(&good) && cache.whole_file(&good).await.is_none(), "nobody has looked at it");
    within(Duration::from_secs(10), async || cache.whole_file(&good).await.is_some()).await;
    assert!(cache.whole_file(&bad).await.is_none());
    within(Duration::from_secs(10), async || {
        assert!(cache.whole_file(&bad).await.is_none());
        !cache.is_whole(&bad)
    })
    .await;
    assert_eq!(cache.counters().chunks_damaged, 1);
    assert!(cache.put(&bad, &chunk(&bad, 5)).await);
    within(Duration::from_secs(10), async || cache.whole_file(&bad).await.is_some()).await;
}

#[tokio::test]
async fn a_part_is_the_same_alone_and_of_a_whole_chunk() {
    let dir = tempdir().unwrap();
    let (file, small) = (version(1, CHUNK_SIZE + 9000), version(2, 9000));
    let check = async |cache: &Cache| {
        for (file, index) in [(&file, 0), (&file, 1), (&small, 0)] {
            let want = chunk(file, index).data;
            for within in [0..1, 0..9000, 4096..8192, 8999..9000] {
                let got = cache.get_part(file, ChunkIndex(index), within.clone()).await.unwrap();
                assert_eq!(got, want[within.start as usize..within.end as usize], "{within:?}");
            }
        }
        assert_eq!(cache.get_part(&file, ChunkIndex(2), 0..1).await, None);
        assert_eq!(cache.get_part(&version(3, CHUNK_SIZE), ChunkIndex(0), 0..1).await, None);
    };
    {
        let cache = open(dir.path(), 64 * MIB);
        fill(&cache, &file).await;
        fill(&cache, &small).await;
        check(&cache).await;
    }
    check(&open(dir.path(), 64 * MIB)).await;
}

#[tokio::test]
async fn a_part_of_a_damaged_chunk_of_an_earlier_run_is_not_there() {
    let dir = tempdir().unwrap();
    let file = version(1, 2 * CHUNK_SIZE);
    fill(&open(dir.path(), 64 * MIB), &file).await;
    damage(dir.path(), &file, CHUNK_SIZE + 1000);
    let cache = open(dir.path(), 64 * MIB);
    assert_eq!(cache.get_part(&file, ChunkIndex(1), 0..10).await, None, "the damage lies elsewhere in it");
    assert!(cache.get_part(&file, ChunkIndex(0), 0..10).await.is_some());
    assert_eq!(cache.counters().chunks_damaged, 1);
}

#[tokio::test]
async fn a_file_cut_short_is_noticed_by_readers_of_parts() {
    let dir = tempdir().unwrap();
    let cache = open(dir.path(), 64 * MIB);
    let file = version(1, 2 * CHUNK_SIZE);
    fill(&cache, &file).await;
    OpenOptions::new().write(true).open(files(dir.path(), &file).0).unwrap().set_len(CHUNK_SIZE + 5).unwrap();
    assert_eq!(cache.get_part(&file, ChunkIndex(1), 100..200).await, None);
    assert!(!cache.contains(&file, ChunkIndex(1)));
}
