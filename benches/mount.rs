//! What a mount does for a request of the kernel, without the kernel: the lookup of a name that is known, attributes,
//! reads of a cached file; beside what the local file system takes for the same, system call included.

use async_trait::async_trait;
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures_util::FutureExt;
use globalfs_dataplane::cache::{self, Cache};
use globalfs_dataplane::disk::{self, Preference};
use globalfs_dataplane::fetch::{Cached, Options};
use globalfs_dataplane::testing::MemorySource;
use globalfs_dataplane::{Deadline, Source};
use globalfs_fuse::{Names, NodeId, Operations, Volume};
use globalfs_proto::limits::{CHUNK_SIZE, DEFAULT_DEADLINE};
use globalfs_proto::{Attr, ByteRange, FsError, FsResult, FsStat, GlobalPath, Version};
use std::fs::{self, File};
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

criterion_group!(benches, names, reads);
criterion_main!(benches);

/// Entries of the directory in which names are looked up.
const ENTRIES: usize = 1000;

/// Bytes of the file that is read.
const FILE_BYTES: u64 = 16 * 1024 * 1024;

/// Bytes of one read while the cache is filled.
const FILL_BYTES: u64 = 1024 * 1024;

/// How long the cache may take to keep the file.
const KEPT_WITHIN: Duration = Duration::from_secs(30);

/// Names stay known while a benchmark runs.
const TTL: Duration = Duration::from_secs(3600);

/// A node's tree as its mount shows it, without traces.
struct Shown(Cached);

fn names(criterion: &mut Criterion) {
    let runtime = runtime();
    let _context = runtime.enter();
    let source = MemorySource::new();
    source.put_directory("/run");
    for n in 0..ENTRIES {
        source.put_file(&format!("/run/output-{n:04}.dat"), vec![7; 10]);
    }
    let (_dir, cached) = cached(source);
    let operations = Operations::new(Arc::new(Shown(cached)));
    let folder = runtime.block_on(operations.look_up(NodeId::ROOT, b"run")).expect("it was put").id;
    let name = |n: usize| format!("output-{:04}.dat", n % ENTRIES).into_bytes();
    let all: Vec<_> = (0..ENTRIES).map(name).collect();
    let ids: Vec<NodeId> =
        all.iter().map(|name| runtime.block_on(operations.look_up(folder, name)).expect("put").id).collect();
    let local = tempfile::tempdir().expect("a scratch directory can be made");
    let paths: Vec<_> = (0..ENTRIES).map(|n| local.path().join(format!("output-{n:04}.dat"))).collect();
    paths.iter().for_each(|path| fs::write(path, b"local").expect("there is room"));

    let mut group = criterion.benchmark_group("name");
    let mut next = numbers(ENTRIES);
    group.bench_function("bound: lstat", |b| {
        b.iter(|| fs::symlink_metadata(&paths[next()]).expect("it was made"));
    });
    // As the mount does: polled once on the thread that took the request.
    group.bench_function("lookup", |b| {
        b.iter(|| {
            let found = operations.look_up(folder, &all[next()]).now_or_never();
            let node = found.expect("what is known waits for nothing").expect("it was put");
            operations.forget(node.id, 1);
            black_box(node.attr)
        });
    });
    group.bench_function("getattr", |b| {
        b.iter(|| {
            let known = operations.get_attr(ids[next()]).now_or_never();
            known.expect("what is known waits for nothing").expect("it was put")
        });
    });
    group.finish();
}

fn reads(criterion: &mut Criterion) {
    let runtime = runtime();
    let path = GlobalPath::new(b"/noise").expect("a normal path");
    let source = MemorySource::new();
    let content: Vec<u8> =
        (0..FILE_BYTES).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    let version = source.put_file("/noise", content.clone()).version();
    let (dir, cached) = runtime.block_on(async { cached(source) });
    runtime.block_on(fill(&cached, &path, version));
    let local = dir.path().join("local");
    fs::write(&local, content).expect("there is room");
    let local = File::open(local).expect("it was made");
    for length in [4096, CHUNK_SIZE] {
        let mut group = criterion.benchmark_group(format!("cached read {length} bytes"));
        group.throughput(Throughput::Bytes(length));
        let mut next = numbers((FILE_BYTES / length) as usize);
        let mut buffer = vec![0; length as usize];
        group.bench_function("bound: pread, one buffer", |b| {
            b.iter(|| {
                let offset = next() as u64 * length;
                local.read_exact_at(&mut buffer, offset).map(|()| black_box(&buffer)[0])
            });
        });
        group.bench_function("read_range", |b| {
            b.iter(|| {
                let range = ByteRange::new(next() as u64 * length, length).expect("not empty");
                let read = cached.read_range(&path, version, range, deadline());
                runtime.block_on(read).expect("it is in the cache")
            });
        });
        group.finish();
    }
}

/// Reads the whole file and waits until all of it is kept.
async fn fill(cached: &Cached, path: &GlobalPath, version: Version) {
    let started = Instant::now();
    while !cached.cache().is_whole(&version) {
        assert!(started.elapsed() < KEPT_WITHIN, "the cache does not keep the file");
        for start in (0..FILE_BYTES).step_by(FILL_BYTES as usize) {
            let range = ByteRange::new(start, FILL_BYTES).expect("not empty");
            cached.read_range(path, version, range, deadline()).await.expect("the source answers");
        }
    }
}

fn cached(source: MemorySource) -> (TempDir, Cached) {
    let dir = scratch();
    let options = cache::Options { dir: dir.path().join("cache"), quota_bytes: 8 * FILE_BYTES };
    let disk = disk::open(Preference::Auto).expect("one of the disks works everywhere");
    let cache = Cache::open(options, disk).expect("the directory is empty");
    let options = Options { metadata_ttl: TTL, ..Options::default() };
    (dir, Cached::new(Arc::new(source), cache, options))
}

/// On a disk if possible: in `/tmp` files may be memory, of which a bound would be another one.
fn scratch() -> TempDir {
    let on_disk = Path::new("/var/tmp");
    tempfile::tempdir_in(on_disk).or_else(|_| tempfile::tempdir()).expect("a scratch directory can be made")
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().enable_all().build().expect("threads can be started")
}

fn deadline() -> Deadline {
    Deadline::after(DEFAULT_DEADLINE)
}

/// Numbers below `end`, all over the place.
fn numbers(end: usize) -> impl FnMut() -> usize {
    const STEP: usize = 7919;
    let mut next = 0;
    move || {
        next = (next + STEP) % end;
        next
    }
}

#[async_trait]
impl Volume for Shown {
    async fn stat(&self, path: &GlobalPath) -> FsResult<Attr> {
        let deadline = deadline();
        deadline.bound(self.0.stat(path, deadline)).await
    }

    async fn stat_for_open(&self, path: &GlobalPath) -> FsResult<Attr> {
        let deadline = deadline();
        deadline.bound(self.0.stat_fresh(path, deadline)).await
    }

    async fn list(&self, path: &GlobalPath) -> FsResult<Names> {
        Ok(Names { entries: self.0.list(path, deadline()).await?.entries, edition: None })
    }

    async fn read_link(&self, path: &GlobalPath) -> FsResult<Bytes> {
        self.0.read_link(path, deadline()).await
    }

    async fn get_xattr(&self, path: &GlobalPath, name: &[u8]) -> FsResult<Bytes> {
        self.0.get_xattr(path, name, deadline()).await
    }

    async fn list_xattr(&self, path: &GlobalPath) -> FsResult<Bytes> {
        self.0.list_xattr(path, deadline()).await
    }

    async fn fs_stat(&self, path: &GlobalPath) -> FsResult<FsStat> {
        self.0.fs_stat(path, deadline()).await
    }

    async fn read(
        &self,
        path: &GlobalPath,
        version: Version,
        offset: u64,
        length: u32,
    ) -> FsResult<Vec<Bytes>> {
        let range = ByteRange::of_read(offset, length.into(), version.size);
        let range = range.ok_or_else(|| FsError::Limit("behind the end of the file".into()))?;
        self.0.read_range(path, version, range, deadline()).await
    }
}
