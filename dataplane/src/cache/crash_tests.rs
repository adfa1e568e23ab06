//! Images that a crash could leave, built by hand: each is recovered, and nothing wrong is ever returned.

use super::fixture::*;
use super::*;
use crate::disk::{Faults, FaultyDisk};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use tempfile::{TempDir, tempdir};

/// Two chunks are cached, then `damage` is done to data file and sidecar.
async fn image(damage: impl FnOnce(&Path, &Path)) -> (TempDir, Version) {
    let dir = tempdir().unwrap();
    let file = version(1, 2 * CHUNK_SIZE);
    fill(&open(dir.path(), 64 * MIB), &file).await;
    let (data, side) = files(dir.path(), &file);
    damage(&data, &side);
    (dir, file)
}

fn write(path: &Path, bytes: &[u8], offset: u64) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

fn cut(path: &Path, length: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(length).unwrap();
}

/// Both files are gone after recovery, and the file can be cached anew.
async fn check_dropped(what: &str, damage: impl FnOnce(&Path, &Path)) {
    let (dir, file) = image(damage).await;
    let cache = open(dir.path(), 64 * MIB);
    let (data, side) = files(dir.path(), &file);
    assert!(!data.exists() && !side.exists(), "{what}");
    assert_eq!(cache.counters().used_bytes, 0, "{what}");
    assert_eq!(cache.get(&file, ChunkIndex(0)).await, None, "{what}");
    fill(&cache, &file).await;
    assert_present(&cache, &file, 1).await;
}

/// The second chunk alone is lost, found out by recovery or by reading.
async fn check_one_lost(what: &str, damage: impl FnOnce(&Path, &Path)) {
    let (dir, file) = image(damage).await;
    let cache = open(dir.path(), 64 * MIB);
    assert_present(&cache, &file, 0).await;
    assert_eq!(cache.get(&file, ChunkIndex(1)).await, None, "{what}");
    assert!(du(dir.path()) <= cache.counters().used_bytes, "{what}: all space is accounted for");
    assert!(cache.put(&file, &chunk(&file, 1)).await);
    assert_present(&cache, &file, 1).await;
}

#[tokio::test]
async fn damaged_headers_and_lone_files_are_dropped() {
    check_dropped("an empty sidecar", |_, side| cut(side, 0)).await;
    check_dropped("a header cut short", |_, side| cut(side, 100)).await;
    check_dropped("a flipped bit in the header", |_, side| write(side, &[0xff], 90)).await;
    check_dropped("another magic", |_, side| write(side, b"GLFSSIDF", 64)).await;
    check_dropped("no sidecar", |_, side| fs::remove_file(side).unwrap()).await;
    check_dropped("no data", |data, _| fs::remove_file(data).unwrap()).await;
    check_dropped("data of another length", |data, _| cut(data, CHUNK_SIZE)).await;
    check_dropped("a page of another file", |_, side| write(side, &[9; 16], 0)).await;
    check_dropped("no bit set", |_, side| write(side, &[0; 8], 16)).await;
    check_dropped("the header of another version, intact", |_, side| {
        let other = version(2, 2 * CHUNK_SIZE);
        write(side, &sidecar::first_bytes(sidecar::key_of(&other), &other), 0);
    })
    .await;
}

#[tokio::test]
async fn single_chunks_are_lost_alone() {
    check_one_lost("a bit without data", |data, _| {
        write(data, &vec![0; CHUNK_SIZE as usize], CHUNK_SIZE);
    })
    .await;
    check_one_lost("half of the data", |data, _| write(data, &[0; 4096], CHUNK_SIZE + 65536)).await;
    check_one_lost("a hash of zeros", |_, side| write(side, &[0; 32], 2048 + 32)).await;
    check_one_lost("a garbled hash", |_, side| write(side, &[7; 5], 2048 + 40)).await;
    check_one_lost("a hash cut off", |_, side| cut(side, 2048 + 32)).await;
    check_one_lost("data without its bit", |_, side| write(side, &1u64.to_le_bytes(), 16)).await;
}

#[tokio::test]
async fn bits_behind_the_end_and_unknown_files_go() {
    let (dir, file) = image(|data, side| {
        write(side, &u64::MAX.to_le_bytes(), 16);
        fs::write(data.with_extension("data.tmp"), "x").unwrap();
        fs::write(data.with_file_name("leftover"), "x").unwrap();
        fs::write(data.with_file_name(format!("{}.data", "0".repeat(31))), "x").unwrap();
    })
    .await;
    let cache = open(dir.path(), 64 * MIB);
    assert!(cache.is_whole(&file));
    assert_eq!(fs::read_dir(files(dir.path(), &file).0.parent().unwrap()).unwrap().count(), 2);
}

#[tokio::test]
async fn an_eviction_cut_short_leaves_no_uncounted_space() {
    let dir = tempdir().unwrap();
    let file = version(1, 130 * CHUNK_SIZE);
    let cache = open(dir.path(), 64 * MIB);
    fill(&cache, &file).await;
    if !cache.0.directory.can_punch() {
        return;
    }
    drop(cache);
    let side = OpenOptions::new().write(true).open(files(dir.path(), &file).1).unwrap();
    directory::punch(&side, sidecar::PAGE, sidecar::PAGE).unwrap();
    let cache = open(dir.path(), 64 * MIB);
    assert!(du(dir.path()) <= cache.counters().used_bytes);
    assert!(cache.counters().used_bytes < 67 * CHUNK_SIZE + MIB);
    assert_present(&cache, &file, 129).await;
    assert_eq!(cache.get(&file, ChunkIndex(64)).await, None);
}

/// Power is lost after writes that were never synced: any of them may be missing or torn.
#[tokio::test]
async fn any_loss_of_unsynced_writes_is_survived() {
    for seed in 0..20 {
        let dir = tempdir().unwrap();
        let file = version(seed, 70 * CHUNK_SIZE);
        let disk = Arc::new(FaultyDisk::new(posix(), Faults::default(), seed));
        let options = Options { dir: dir.path().to_owned(), quota_bytes: 64 * MIB };
        let cache = Cache::open(options, disk.clone()).unwrap();
        let indices = [0, 1, 5, 63, 64, 69];
        for index in indices {
            assert!(cache.put(&file, &chunk(&file, index)).await);
        }
        drop(cache);
        disk.crash().unwrap();
        let cache = open(dir.path(), 64 * MIB);
        for index in indices {
            if let Some(got) = cache.get(&file, ChunkIndex(index)).await {
                assert_eq!(got, chunk(&file, index), "seed {seed}");
            }
            assert!(cache.put(&file, &chunk(&file, index)).await);
            assert_present(&cache, &file, index).await;
        }
        assert!(du(dir.path()) <= cache.counters().used_bytes, "seed {seed}");
    }
}

/// A process that is killed releases its lock; the directory is taken over with all that it holds.
#[tokio::test]
async fn the_lock_file_of_a_dead_process_does_not_block() {
    let (dir, file) = image(|_, _| {}).await;
    File::create(dir.path().join("globalfs-cache.lock")).unwrap();
    fs::write(dir.path().join("globalfs-cache.lock"), "process 1\n").unwrap();
    assert!(open(dir.path(), 64 * MIB).is_whole(&file));
}
