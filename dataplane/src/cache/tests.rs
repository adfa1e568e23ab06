//! The cache as its callers see it: what is put comes back, damage is noticed, the quota holds.

use super::fixture::*;
use super::*;
use crate::disk::Faults;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::time::Instant;
use tempfile::tempdir;

#[tokio::test]
async fn what_was_put_comes_back_also_after_a_restart() {
    let dir = tempdir().unwrap();
    let (small, large) = (version(1, 100), version(2, 70 * CHUNK_SIZE + 5));
    {
        let cache = open(dir.path(), 64 * MIB);
        fill(&cache, &small).await;
        for index in [0, 3, 64, 70] {
            assert!(cache.put(&large, &chunk(&large, index)).await);
        }
    }
    let cache = open(dir.path(), 64 * MIB);
    assert!(cache.is_whole(&small) && !cache.is_whole(&large));
    assert_present(&cache, &small, 0).await;
    for index in [0, 3, 64, 70] {
        assert_present(&cache, &large, index).await;
    }
    assert_eq!(cache.get(&large, ChunkIndex(1)).await, None);
    assert_eq!(cache.get(&version(3, 100), ChunkIndex(0)).await, None);
    let counters = cache.counters();
    assert_eq!((counters.hits, counters.chunks_damaged), (5, 0));
    assert_eq!(fs::metadata(files(dir.path(), &large).0).unwrap().len(), large.size);
}

#[tokio::test]
async fn another_version_of_the_file_is_another_file() {
    let dir = tempdir().unwrap();
    let cache = open(dir.path(), 64 * MIB);
    let old = version(1, 100);
    fill(&cache, &old).await;
    for new in [Version { mtime_ns: 11, ..old }, Version { ctime_ns: 21, ..old }, version(1, 101)] {
        assert_eq!(cache.get(&new, ChunkIndex(0)).await, None);
    }
}

#[tokio::test]
async fn zeros_take_no_space_and_read_back() {
    let dir = tempdir().unwrap();
    let file = version(1, 3 * CHUNK_SIZE);
    let zeros = |index| of_data(index, vec![0; CHUNK_SIZE as usize]);
    let cache = open(dir.path(), 64 * MIB);
    for index in 0..3 {
        assert!(cache.put(&file, &zeros(index)).await);
    }
    assert_eq!(cache.get(&file, ChunkIndex(1)).await, Some(zeros(1)));
    if cache.0.directory.can_punch() {
        assert_eq!(fs::metadata(files(dir.path(), &file).0).unwrap().blocks(), 0);
        let used = cache.counters().used_bytes;
        assert!(used < CHUNK_SIZE);
        drop(cache);
        let cache = open(dir.path(), 64 * MIB);
        assert_eq!(cache.counters().used_bytes, used, "recovery knows the holes");
        assert!(cache.is_whole(&file));
    }
}

#[tokio::test]
async fn a_flipped_byte_is_noticed_and_the_chunk_can_be_put_again() {
    let dir = tempdir().unwrap();
    let cache = open(dir.path(), 64 * MIB);
    let file = version(1, 3 * CHUNK_SIZE);
    fill(&cache, &file).await;
    let data = OpenOptions::new().write(true).open(files(dir.path(), &file).0).unwrap();
    data.write_all_at(b"!", CHUNK_SIZE + 1000).unwrap();
    assert!(cache.is_whole(&file));
    assert_eq!(cache.get(&file, ChunkIndex(1)).await, None);
    assert!(!cache.is_whole(&file) && !cache.contains(&file, ChunkIndex(1)));
    assert_eq!(cache.counters().chunks_damaged, 1);
    assert_present(&cache, &file, 0).await;
    let used = cache.counters().used_bytes;
    assert!(cache.put(&file, &chunk(&file, 1)).await);
    assert_present(&cache, &file, 1).await;
    assert_eq!(cache.counters().used_bytes, used);
}

#[tokio::test]
async fn files_removed_by_somebody_else_are_misses() {
    let dir = tempdir().unwrap();
    for (file, removed) in [(version(1, CHUNK_SIZE), "side"), (version(2, 100), "bundle")] {
        fill(&open(dir.path(), 64 * MIB), &file).await;
        let cache = open(dir.path(), 64 * MIB);
        fs::remove_file(&of_kind(dir.path(), removed)[0]).unwrap();
        assert_eq!(cache.get(&file, ChunkIndex(0)).await, None);
        fill(&cache, &file).await;
        assert_present(&cache, &file, 0).await;
    }
}

#[tokio::test]
async fn the_least_recent_leaves_and_the_quota_holds() {
    let dir = tempdir().unwrap();
    let cache = open(dir.path(), 4 * MIB);
    let files: Vec<_> = (0..40).map(|n| version(n, 2 * CHUNK_SIZE)).collect();
    for file in &files {
        fill(&cache, file).await;
        assert!(cache.contains(&files[0], ChunkIndex(0)), "in use all the time");
        assert_present(&cache, &files[0], 0).await;
        assert!(du(dir.path()) <= 4 * MIB && cache.counters().used_bytes <= 4 * MIB);
    }
    assert!(!cache.contains(&files[1], ChunkIndex(0)) && cache.contains(&files[39], ChunkIndex(1)));
    let counters = cache.counters();
    assert!(counters.segments_evicted > 20 && counters.bytes_evicted > 5 * MIB);
    assert!(du(dir.path()) > 3 * MIB, "the quota is used");
}

#[tokio::test]
async fn a_large_file_is_evicted_by_segments() {
    let dir = tempdir().unwrap();
    let file = version(1, 200 * CHUNK_SIZE);
    let cache = open(dir.path(), 16 * MIB);
    fill(&cache, &file).await;
    assert!(du(dir.path()) <= 16 * MIB);
    if cache.0.directory.can_punch() {
        assert!(!cache.contains(&file, ChunkIndex(0)) && cache.contains(&file, ChunkIndex(199)));
        drop(cache);
        let cache = open(dir.path(), 16 * MIB);
        assert_present(&cache, &file, 199).await;
        assert_eq!(cache.get(&file, ChunkIndex(0)).await, None);
    }
}

#[tokio::test]
async fn where_nothing_can_be_punched_files_leave_as_a_whole() {
    let dir = tempdir().unwrap();
    let directory = Directory::open(dir.path()).unwrap().without_punch();
    let cache = Cache::recover(directory, 16 * MIB, posix()).unwrap();
    let (old, new) = (version(1, 70 * CHUNK_SIZE), version(2, 70 * CHUNK_SIZE));
    fill(&cache, &old).await;
    fill(&cache, &new).await;
    assert!(du(dir.path()) <= 16 * MIB && cache.is_whole(&new));
    assert!(!files(dir.path(), &old).0.exists() && !cache.contains(&old, ChunkIndex(69)));
    drop(cache);
    assert!(open(dir.path(), 16 * MIB).is_whole(&new));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn parallel_puts_and_gets_stay_right_and_below_the_quota() {
    let dir = tempdir().unwrap();
    let cache = open(dir.path(), 8 * MIB);
    let workers: Vec<_> = (0..8u64).map(|seed| tokio::spawn(hammer(cache.clone(), seed))).collect();
    while !workers.iter().all(|w| w.is_finished()) {
        assert!(du_in_motion(dir.path()) <= 8 * MIB);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    for worker in workers {
        worker.await.unwrap();
    }
    let counters = cache.counters();
    assert_eq!(counters.chunks_damaged, 0);
    assert!(counters.segments_evicted > 0 && counters.used_bytes <= counters.quota_bytes);
}

/// Reads and writes 32 MiB of files in an order of its own.
async fn hammer(cache: Cache, seed: u64) {
    for round in 0..150u64 {
        let n = (round * 7 + seed * 13) % 64;
        let file = version(n % 16, 16 * CHUNK_SIZE);
        let wanted = chunk(&file, (n / 16 + round) % 16);
        match cache.get(&file, wanted.index).await {
            Some(got) => assert_eq!(got, wanted),
            None => {
                cache.put(&file, &wanted).await;
            }
        }
    }
}

#[tokio::test]
async fn a_full_disk_is_counted_and_harms_nobody() {
    let dir = tempdir().unwrap();
    let options = Options { dir: dir.path().to_owned(), quota_bytes: 64 * MIB };
    let cache = Cache::open(options, faulty(Faults { disk_full: 1000, ..Faults::default() })).unwrap();
    let file = version(1, CHUNK_SIZE);
    assert!(!cache.put(&file, &chunk(&file, 0)).await);
    assert_eq!(cache.counters().chunks_not_kept, 1);
    assert_eq!(cache.get(&file, ChunkIndex(0)).await, None);
}

#[tokio::test]
async fn what_the_disk_garbles_is_never_returned() {
    let dir = tempdir().unwrap();
    let faults =
        Faults { flipped_bit: 300, read_error: 100, write_error: 100, disk_full: 100, ..Faults::default() };
    let options = Options { dir: dir.path().to_owned(), quota_bytes: 8 * MIB };
    let cache = Cache::open(options, faulty(faults)).unwrap();
    let file = version(1, 100 * CHUNK_SIZE);
    for index in (0..100).chain(0..100) {
        cache.put(&file, &chunk(&file, index)).await;
        if let Some(got) = cache.get(&file, ChunkIndex(index)).await {
            assert_eq!(got, chunk(&file, index));
        }
    }
    let counters = cache.counters();
    assert!(counters.chunks_damaged > 20 && counters.chunks_not_kept > 20 && counters.hits > 20);
}

#[tokio::test]
async fn two_daemons_cannot_share_a_directory() {
    let dir = tempdir().unwrap();
    let first = open(dir.path(), 64 * MIB);
    let error = try_open(dir.path(), 64 * MIB).err().unwrap();
    assert!(matches!(error, CacheError::InUse { .. }));
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    drop(first);
    open(dir.path(), 64 * MIB);
}

#[test]
fn a_directory_of_somebody_else_is_left_alone() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("thesis.tex"), "x").unwrap();
    let error = try_open(dir.path(), 64 * MIB).err().unwrap();
    assert!(matches!(&error, CacheError::Foreign { found, .. } if found == "thesis.tex"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_tiny_quota_and_a_bad_directory_are_clear_errors() {
    let dir = tempdir().unwrap();
    assert!(matches!(try_open(dir.path(), 1), Err(CacheError::QuotaTooSmall(1))));
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    let error = try_open(&file, 64 * MIB).err().unwrap();
    assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
}

#[tokio::test]
async fn a_smaller_quota_evicts_at_the_start() {
    let dir = tempdir().unwrap();
    let files: Vec<_> = (0..20).map(|n| version(n, 4 * CHUNK_SIZE)).collect();
    {
        let cache = open(dir.path(), 64 * MIB);
        for file in &files {
            fill(&cache, file).await;
        }
    }
    let cache = open(dir.path(), 4 * MIB);
    assert!(du(dir.path()) <= 4 * MIB);
    assert!(cache.counters().used_bytes > 3 * MIB);
    let kept = files.iter().filter(|f| cache.is_whole(f)).count();
    assert_eq!(kept, 7);
}

#[tokio::test]
async fn many_files_are_recovered_in_little_time_and_memory() {
    const FILES: u64 = 2_000;
    let file = |n| version(n, if n < 300 { CHUNK_SIZE } else { 10 });
    let dir = tempdir().unwrap();
    {
        let cache = open(dir.path(), 64 * MIB);
        for n in 0..FILES {
            fill(&cache, &file(n)).await;
        }
        assert!(cache.0.files.len() <= 256 && cache.0.bundle_files.len() <= 256, "open files are bounded");
    }
    let start = Instant::now();
    let cache = open(dir.path(), 64 * MIB);
    assert!((0..FILES).all(|n| cache.is_whole(&file(n))));
    assert!(start.elapsed().as_secs() < 5, "2,000 files took {:?}", start.elapsed());
}
