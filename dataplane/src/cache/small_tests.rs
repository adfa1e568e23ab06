//! Small files in the cache: together on disk, each verified alone, and gone when their bundle goes.

use super::fixture::*;
use super::*;
use crate::disk::{Faults, FaultyDisk};
use async_trait::async_trait;
use std::collections::HashSet;
use std::fs::{self, FileTimes, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};
use tempfile::tempdir;

fn small(count: u64, size: u64) -> Vec<Version> {
    (0..count).map(|n| version(n, size)).collect()
}

/// All at once; whether each was kept.
async fn put_together(cache: &Cache, files: &[Version]) -> Vec<bool> {
    let puts = files.iter().map(|file| {
        let (cache, file) = (cache.clone(), *file);
        tokio::spawn(async move { cache.put(&file, &chunk(&file, 0)).await })
    });
    let mut kept = Vec::new();
    for put in puts.collect::<Vec<_>>() {
        kept.push(put.await.unwrap());
    }
    kept
}

async fn held(cache: &Cache, files: &[Version]) -> HashSet<u64> {
    let mut held = HashSet::new();
    for file in files {
        if let Some(found) = cache.get(file, ChunkIndex(0)).await {
            assert_eq!(found, chunk(file, 0));
            held.insert(file.file.inode);
        }
    }
    held
}

/// Opened anew: nothing is in memory then.
async fn filled(dir: &Path, files: &[Version]) -> Cache {
    let cache = open(dir, 64 * MIB);
    assert!(put_together(&cache, files).await.iter().all(|kept| *kept));
    assert_eq!(held(&cache, files).await.len(), files.len());
    drop(cache);
    open(dir, 64 * MIB)
}

#[tokio::test]
async fn what_arrives_together_lies_together_and_comes_back_after_a_restart() {
    let (dir, files) = (tempdir().unwrap(), small(1_000, 3_000));
    let cache = filled(dir.path(), &files).await;
    let bundles = of_kind(dir.path(), "bundle").len();
    assert!(bundles <= 20, "{bundles} bundles of 1,000 files");
    assert!(of_kind(dir.path(), "data").is_empty());
    assert_eq!(held(&cache, &files).await.len(), 1_000);
    assert!(files.iter().all(|file| cache.is_whole(file) && cache.contains(file, ChunkIndex(0))));
    assert!(!cache.contains(&files[0], ChunkIndex(1)) && !cache.is_whole(&version(1_001, 3_000)));
    assert!(du(dir.path()) <= cache.counters().used_bytes);
}

#[tokio::test]
async fn a_flipped_byte_costs_one_file() {
    let (dir, files) = (tempdir().unwrap(), small(10, 3_000));
    drop(filled(dir.path(), &files).await);
    let largest = of_kind(dir.path(), "bundle").into_iter().max_by_key(|path| path.metadata().unwrap().len());
    let bundle = OpenOptions::new().read(true).write(true).open(largest.unwrap()).unwrap();
    bundle.write_all_at(b"!!", bundle.metadata().unwrap().len() - 1_000).unwrap();
    let cache = open(dir.path(), 64 * MIB);
    let left = held(&cache, &files).await;
    assert_eq!((left.len(), cache.counters().chunks_damaged), (9, 1));
    let lost = files.iter().find(|file| !left.contains(&file.file.inode)).unwrap();
    assert!(!cache.is_whole(lost));
    assert!(cache.put(lost, &chunk(lost, 0)).await);
    drop(cache);
    // Written first and used last: the start believes what was written last.
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    let soon = SystemTime::now() + Duration::from_secs(60);
    bundle.set_times(FileTimes::new().set_modified(long_ago).set_accessed(soon)).unwrap();
    assert_eq!(held(&open(dir.path(), 64 * MIB), &files).await.len(), 10, "kept anew, also after a restart");
}

/// It gets the same name again, while the file is open.
#[tokio::test]
async fn a_lone_file_found_damaged_is_kept_again() {
    let (dir, file) = (tempdir().unwrap(), version(1, 3_000));
    drop(filled(dir.path(), &[file]).await);
    let path = of_kind(dir.path(), "bundle").remove(0);
    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"!!", 2_000).unwrap();
    let cache = open(dir.path(), 64 * MIB);
    assert_eq!(cache.get(&file, ChunkIndex(0)).await, None);
    let used = cache.counters().used_bytes;
    assert!(cache.put(&file, &chunk(&file, 0)).await);
    assert_eq!(of_kind(dir.path(), "bundle"), [path]);
    assert_eq!(cache.counters().used_bytes, used);
    drop(cache);
    assert_present(&open(dir.path(), 64 * MIB), &file, 0).await;
}

/// A disk whose first write is a bug.
struct Broken(Arc<dyn Disk>, AtomicBool);

#[async_trait]
impl Disk for Broken {
    async fn read_at(&self, file: &Arc<File>, offset: u64, length: usize) -> io::Result<Bytes> {
        self.0.read_at(file, offset, length).await
    }

    async fn write_at(&self, file: &Arc<File>, offset: u64, data: Bytes) -> io::Result<()> {
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(self.1.swap(true, Ordering::Relaxed), "the first write");
        self.0.write_at(file, offset, data).await
    }

    async fn sync(&self, file: &Arc<File>) -> io::Result<()> {
        self.0.sync(file).await
    }

    fn name(&self) -> &'static str {
        "broken"
    }
}

#[tokio::test]
async fn who_waits_for_a_writer_that_dies_hears_of_it() {
    let (dir, files) = (tempdir().unwrap(), small(50, 3_000));
    let options = Options { dir: dir.path().to_owned(), quota_bytes: 64 * MIB };
    let cache = Cache::open(options, Arc::new(Broken(posix(), AtomicBool::new(false)))).unwrap();
    let first = cache.clone();
    let dies = tokio::spawn(async move { first.put(&version(99, 10), &chunk(&version(99, 10), 0)).await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(put_together(&cache, &files).await.iter().all(|kept| !*kept), "they waited for it");
    assert!(!dies.await.unwrap());
    assert!(put_together(&cache, &files).await.iter().all(|kept| *kept), "there is another one");
}

#[tokio::test]
async fn damaged_bundles_are_dropped_at_the_start() {
    type Damage = fn(&std::fs::File);
    let damages: [(&str, Damage); 4] = [
        ("cut short", |bundle| bundle.set_len(bundle.metadata().unwrap().len() - 1).unwrap()),
        ("too long", |bundle| bundle.set_len(bundle.metadata().unwrap().len() + 1).unwrap()),
        ("empty", |bundle| bundle.set_len(0).unwrap()),
        ("a flipped bit in the table", |bundle| bundle.write_all_at(&[0xff], 40).unwrap()),
    ];
    for (what, damage) in damages {
        let (dir, file) = (tempdir().unwrap(), version(1, 3_000));
        drop(filled(dir.path(), &[file]).await);
        let path = of_kind(dir.path(), "bundle").remove(0);
        damage(&OpenOptions::new().write(true).open(&path).unwrap());
        let cache = open(dir.path(), 64 * MIB);
        assert!(!path.exists() && cache.counters().used_bytes == 0, "{what}");
        assert_eq!(cache.get(&file, ChunkIndex(0)).await, None, "{what}");
        fill(&cache, &file).await;
        assert_present(&cache, &file, 0).await;
    }
}

#[tokio::test]
async fn a_bundle_under_another_name_is_no_bundle() {
    let (dir, file) = (tempdir().unwrap(), version(1, 3_000));
    drop(filled(dir.path(), &[file]).await);
    let path = of_kind(dir.path(), "bundle").remove(0);
    let name = path.file_name().unwrap().to_str().unwrap();
    let other = path.with_file_name(format!("{}{}.bundle", &name[..2], "0".repeat(30)));
    fs::rename(&path, &other).unwrap();
    assert!(!open(dir.path(), 64 * MIB).is_whole(&file) && !other.exists());
}

#[tokio::test]
async fn the_quota_holds_and_bundles_in_use_stay() {
    let (dir, files) = (tempdir().unwrap(), small(4_000, 5_000));
    let cache = open(dir.path(), 4 * MIB);
    for some in files.chunks(50) {
        assert!(put_together(&cache, some).await.iter().all(|kept| *kept));
        assert_present(&cache, &files[0], 0).await;
        assert!(du(dir.path()) <= 4 * MIB && cache.counters().used_bytes <= 4 * MIB);
    }
    let left = held(&cache, &files).await;
    assert!(left.contains(&3_999) && !left.contains(&100), "the least recent leaves");
    assert!((500..900).contains(&left.len()), "{} files of 5,000 bytes in 4 MiB", left.len());
    let whole = files.iter().filter(|file| cache.is_whole(file)).count();
    assert_eq!(whole, left.len(), "what left is known as absent");
    drop(cache);
    assert_eq!(held(&open(dir.path(), 4 * MIB), &files).await, left);
}

#[tokio::test]
async fn a_content_is_found_by_its_hash_also_in_a_bundle() {
    let (dir, files) = (tempdir().unwrap(), small(10, 3_000));
    let cache = filled(dir.path(), &files).await;
    for file in &files {
        let chunk = chunk(file, 0);
        assert!(cache.holds(&chunk.hash));
        assert_eq!(cache.copy_of(&chunk.hash, 3_000).await, Some(chunk.data.clone()));
        assert_eq!(cache.copy_of(&chunk.hash, 2_999).await, None, "of another length");
        assert_eq!(cache.stored_hashes(file, 0, 4).await, [chunk.hash]);
    }
    assert!(cache.stored_hashes(&version(11, 3_000), 0, 4).await.is_empty());
}

#[tokio::test]
async fn everybody_hears_when_the_disk_is_full() {
    let (dir, files) = (tempdir().unwrap(), small(100, 3_000));
    let options = Options { dir: dir.path().to_owned(), quota_bytes: 4 * MIB };
    let cache = Cache::open(options, faulty(Faults { disk_full: 1000, ..Faults::default() })).unwrap();
    assert!(put_together(&cache, &files).await.iter().all(|kept| !*kept));
    assert_eq!(cache.counters().chunks_not_kept, 100);
    assert!(held(&cache, &files).await.is_empty() && !cache.is_whole(&files[0]));
    // What was taken for the attempts is room for others.
    for n in 200..1_000 {
        cache.put(&version(n, 90_000), &chunk(&version(n, 90_000), 0)).await;
    }
    assert!(du(dir.path()) <= 4 * MIB);
}

#[tokio::test]
async fn any_loss_of_unsynced_writes_is_survived() {
    for seed in 0..20 {
        let (dir, files) = (tempdir().unwrap(), small(60, 10_000));
        let disk = Arc::new(FaultyDisk::new(posix(), Faults::default(), seed));
        let options = Options { dir: dir.path().to_owned(), quota_bytes: 64 * MIB };
        let cache = Cache::open(options, disk.clone()).unwrap();
        for some in files.chunks(20) {
            put_together(&cache, some).await;
        }
        drop(cache);
        disk.crash().unwrap();
        let cache = open(dir.path(), 64 * MIB);
        let left = held(&cache, &files).await;
        assert!(du(dir.path()) <= cache.counters().used_bytes, "seed {seed}");
        let lost: Vec<_> = files.into_iter().filter(|file| !left.contains(&file.file.inode)).collect();
        assert!(put_together(&cache, &lost).await.iter().all(|kept| *kept));
        assert_eq!(held(&cache, &lost).await.len(), lost.len(), "seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn parallel_readers_and_writers_see_right_bytes() {
    let dir = tempdir().unwrap();
    let cache = open(dir.path(), 4 * MIB);
    let workers: Vec<_> = (0..8u64)
        .map(|seed| {
            let cache = cache.clone();
            tokio::spawn(async move {
                for round in 0..400u64 {
                    let file = version((round * 7 + seed * 131) % 900, 9_000);
                    match cache.get(&file, ChunkIndex(0)).await {
                        Some(found) => assert_eq!(found, chunk(&file, 0)),
                        None => drop(cache.put(&file, &chunk(&file, 0)).await),
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    assert_eq!(cache.counters().chunks_damaged, 0);
    assert!(du(dir.path()) <= 4 * MIB && cache.counters().segments_evicted > 0);
}
