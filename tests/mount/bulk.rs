//! Two gigabytes through two mounts at once, with caches a quarter as large.

use crate::common::{Setup, TestCluster, can_mount, shell};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Sizes of files and how many of each: 2 GB.
const SIZES: &[(u64, u64)] = &[
    (512 * MIB, 1),
    (64 * MIB + 1, 12),
    (4 * MIB - 1, 120),
    (300 * KIB, 600),
    (128 * KIB, 200),
    (5_000, 2_000),
    (0, 50),
];

const QUOTA_BYTES: u64 = 512 * MIB;

/// The file system's own bookkeeping of fragmented files, which no quota can know, in parts of the quota.
const SLACK: u64 = 100;

/// Writes the files; every third one is text, the others do not compress.
fn fill(origin: &Path) {
    let mut number = 0;
    for (size, count) in SIZES {
        let dir = origin.join(format!("size-{size}"));
        fs::create_dir(&dir).unwrap();
        for n in 0..*count {
            number += 1;
            write_file(&dir.join(format!("file-{n}")), number, *size);
        }
    }
}

fn write_file(path: &Path, number: u64, size: u64) {
    let mut file = File::create(path).unwrap();
    let mut noise = blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof();
    let mut block = vec![0; size.min(MIB) as usize];
    let mut left = size as usize;
    while left > 0 {
        let length = left.min(block.len());
        if number.is_multiple_of(3) {
            let line = format!("{number} bottles of beer on the wall, {left} bytes to go\n");
            block = line.repeat(length.div_ceil(line.len())).into_bytes();
        } else {
            noise.fill(&mut block[..length]);
        }
        file.write_all(&block[..length]).unwrap();
        left -= length;
    }
}

/// Disk space of all files below `dir`.
fn used_bytes(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => used_bytes(&entry.path()),
            Ok(meta) => meta.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

/// The same where files come and go meanwhile: one that has moved its space to another is met in both by a look
/// that takes longer than that, so of three looks the least counts.
fn used_bytes_in_motion(dir: &Path) -> u64 {
    (0..3).map(|_| used_bytes(dir)).min().unwrap_or(0)
}

/// Looks at cache directories again and again until it is told to stop; gives the most that each took.
fn watch(dirs: &[PathBuf], stop: &AtomicBool) -> Vec<u64> {
    let mut most = vec![0; dirs.len()];
    while !stop.load(Ordering::Relaxed) {
        for (most, dir) in most.iter_mut().zip(dirs) {
            *most = used_bytes_in_motion(dir).max(*most);
        }
        thread::sleep(Duration::from_millis(100));
    }
    most
}

fn mount_small(test: &mut TestCluster, node: &str) -> PathBuf {
    let at = test.scratch.path().join(node);
    test.cluster.add_node(node, "cloud", "512MiB", "").unwrap();
    test.cluster.start_mount(node, &at, &[]).unwrap();
    at
}

/// Holds promise 17 of docs/semantics.md.
#[test]
fn two_gigabytes_through_two_mounts_and_small_caches() {
    if !can_mount("two_gigabytes_through_two_mounts_and_small_caches") {
        return;
    }
    let mut test = Setup { cache_size: "512MiB".into(), ..Setup::default() }.start(fill);
    let total: u64 = SIZES.iter().map(|(size, count)| size * count).sum();
    assert!(total >= 2_000_000_000 && total / 4 >= QUOTA_BYTES * 9 / 10, "{total}");
    let sums = test.scratch.path().join("sums");
    let list = "find . -type f -print0 | sort -z | xargs -0 -P 2 -n 500 sha256sum | sort -k 2";
    fs::write(&sums, shell(&test.origin("onprem"), list)).unwrap();
    let mounts = [mount_small(&mut test, "node-1"), mount_small(&mut test, "node-2")];
    let cluster = test.cluster.dir();
    let caches =
        [test.cluster.site_cache_dir("cloud"), cluster.join("node-1/cache"), cluster.join("node-2/cache")];
    let stop = AtomicBool::new(false);
    let check = format!("sha256sum --strict --quiet -c {}", sums.display());
    let most = thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(&caches, &stop));
        let readers = mounts.each_ref().map(|mount| scope.spawn(|| shell(mount, &check)));
        let results = readers.map(|reader| reader.join());
        stop.store(true, Ordering::Relaxed);
        assert!(results.iter().all(Result::is_ok), "both read right bytes");
        watcher.join().unwrap()
    });
    for (cache, most) in caches.iter().zip(most) {
        let limit = QUOTA_BYTES + QUOTA_BYTES / SLACK;
        assert!(most > QUOTA_BYTES / 2 && most <= limit, "{} took {most} bytes", cache.display());
    }
    let metrics = test.cluster.metrics("cloud").unwrap();
    assert!(metrics.sum("globalfs_cache_used_bytes") as u64 <= QUOTA_BYTES);
    assert!(metrics.sum("globalfs_cache_evicted_bytes_total") > 0.0);
    assert_eq!(metrics.sum("globalfs_cache_damaged_chunks_total"), 0.0);
}
