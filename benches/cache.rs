//! The cache: a verified chunk out of it, and a chunk into it, beside hashing and copying its bytes; and what telling
//! the sidecar of a chunk costs alone, beside the same writes.

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use globalfs_dataplane::cache::{Cache, Options};
use globalfs_dataplane::disk::{self, Preference};
use globalfs_dataplane::{Chunk, encoding};
use globalfs_proto::limits::CHUNK_SIZE;
use globalfs_proto::{ChunkIndex, FileId, Version};
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

criterion_group!(benches, chunks, sidecar);
criterion_main!(benches);

/// Chunks of the cached file.
const CHUNKS: u64 = 256;

/// The quota, several times what is put.
const QUOTA_BYTES: u64 = 1024 * 1024 * 1024;

fn chunks(criterion: &mut Criterion) {
    let runtime = Builder::new_multi_thread().enable_all().build().expect("threads can be started");
    let version =
        Version { file: FileId { origin: 1, inode: 2 }, size: CHUNKS * CHUNK_SIZE, mtime_ns: 3, ctime_ns: 4 };
    let data = Bytes::from(vec![7; CHUNK_SIZE as usize]);
    let hash = encoding::hash(&data);
    let chunk = |index| Chunk { index: ChunkIndex(index), hash, data: data.clone() };
    let mut group = criterion.benchmark_group("cache");
    group.throughput(Throughput::Bytes(CHUNK_SIZE));
    group.bench_function("bound: hash and copy", |b| {
        b.iter(|| (encoding::hash(black_box(&data)), data.to_vec()));
    });
    for (name, preference) in [("uring", Preference::Uring), ("posix", Preference::Posix)] {
        let Some((_dir, cache)) = open(preference) else {
            eprintln!("SKIPPED: {name} does not work here");
            continue;
        };
        let mut next = numbers();
        group.bench_function(BenchmarkId::new("put", name), |b| {
            b.iter(|| assert!(put(&runtime, &cache, &version, chunk(next())), "there is room"));
        });
        (0..CHUNKS).for_each(|index| {
            put(&runtime, &cache, &version, chunk(index));
        });
        group.bench_function(BenchmarkId::new("get", name), |b| {
            b.iter(|| {
                let index = ChunkIndex(next());
                let got = runtime.block_on(cache.get(&version, index));
                assert!(got.is_some(), "the chunk was put");
            });
        });
    }
    group.finish();
}

/// A last chunk of one byte, put into a file that exists: all but one byte of what is written is the sidecar's.
fn sidecar(criterion: &mut Criterion) {
    let runtime = Builder::new_multi_thread().enable_all().build().expect("threads can be started");
    let file = FileId { origin: 1, inode: 3 };
    let version = Version { file, size: CHUNKS * CHUNK_SIZE + 1, mtime_ns: 3, ctime_ns: 4 };
    let data = Bytes::from_static(b"7");
    let chunk = Chunk { index: ChunkIndex(CHUNKS), hash: encoding::hash(&data), data };
    let scratch = tempfile::tempfile().expect("a scratch file can be made");
    let mut group = criterion.benchmark_group("sidecar");
    group.bench_function("bound: pwrite of byte, hash and mask", |b| {
        b.iter(|| {
            let written = [1, 32, 24].map(|length| scratch.write_all_at(black_box(&[7; 32][..length]), 4096));
            assert!(written.iter().all(Result::is_ok), "there is room");
        });
    });
    for (name, preference) in [("uring", Preference::Uring), ("posix", Preference::Posix)] {
        let Some((_dir, cache)) = open(preference) else {
            eprintln!("SKIPPED: {name} does not work here");
            continue;
        };
        group.bench_function(BenchmarkId::new("update", name), |b| {
            b.iter(|| assert!(put(&runtime, &cache, &version, chunk.clone()), "there is room"));
        });
    }
    group.finish();
}

fn open(preference: Preference) -> Option<(TempDir, Cache)> {
    let dir = tempfile::tempdir().ok()?;
    let options = Options { dir: dir.path().join("cache"), quota_bytes: QUOTA_BYTES };
    let cache = Cache::open(options, disk::open(preference).ok()?).ok()?;
    Some((dir, cache))
}

fn numbers() -> impl FnMut() -> u64 {
    let mut next = 0;
    move || {
        next = (next + 1) % CHUNKS;
        next
    }
}

fn put(runtime: &Runtime, cache: &Cache, version: &Version, chunk: Chunk) -> bool {
    runtime.block_on(cache.put(version, &chunk))
}
