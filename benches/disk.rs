//! Reads of page-cached data through both disks, beside plain `pread` into one buffer and into fresh ones.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use globalfs_dataplane::Disk;
use globalfs_dataplane::disk::{self, Preference};
use globalfs_proto::limits::CHUNK_SIZE;
use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

criterion_group!(benches, reads);
criterion_main!(benches);

/// Bytes of the file: more than a processor's caches, and soon all in the page cache.
const FILE_BYTES: u64 = 64 * 1024 * 1024;

fn reads(criterion: &mut Criterion) {
    let runtime = Builder::new_multi_thread().enable_all().build().expect("threads can be started");
    let file = Arc::new(cached_file());
    for length in [4096, CHUNK_SIZE as usize] {
        let mut group = criterion.benchmark_group(format!("read {length} bytes"));
        group.throughput(Throughput::Bytes(length as u64));
        let mut at = offsets(length);
        let mut buffer = vec![0; length];
        group.bench_function("bound: pread, one buffer", |b| {
            b.iter(|| file.read_exact_at(&mut buffer, at()).map(|()| black_box(&buffer)[0]));
        });
        group.bench_function("pread, fresh buffers", |b| {
            b.iter(|| {
                let mut fresh = vec![0; length];
                file.read_exact_at(&mut fresh, at()).map(|()| fresh)
            });
        });
        for (name, preference) in [("uring", Preference::Uring), ("posix", Preference::Posix)] {
            let disk = match disk::open(preference) {
                Ok(disk) => disk,
                Err(error) => {
                    eprintln!("SKIPPED: {name}: {error}");
                    continue;
                }
            };
            for depth in [1, 8] {
                group.throughput(Throughput::Bytes((length * depth) as u64));
                group.bench_function(BenchmarkId::new(name, format!("depth {depth}")), |b| {
                    b.iter(|| read_at_depth(&runtime, &disk, &file, depth, length, &mut at));
                });
            }
        }
        group.finish();
    }
}

fn cached_file() -> File {
    let mut file = tempfile::tempfile().expect("a scratch file can be made");
    file.write_all(&vec![7; FILE_BYTES as usize]).expect("there is room for the scratch file");
    file
}

/// Offsets all over the file, one after the other.
fn offsets(length: usize) -> impl FnMut() -> u64 {
    const STEP: u64 = 7919;
    let (places, mut next) = (FILE_BYTES / length as u64, 0);
    move || {
        next = (next + STEP) % places;
        next * length as u64
    }
}

fn read_at_depth(
    runtime: &Runtime,
    disk: &Arc<dyn Disk>,
    file: &Arc<File>,
    depth: usize,
    length: usize,
    at: &mut impl FnMut() -> u64,
) {
    runtime.block_on(async {
        let mut reads = JoinSet::new();
        for _ in 0..depth {
            let (disk, file, offset) = (disk.clone(), file.clone(), at());
            reads.spawn(async move { disk.read_at(&file, offset, length).await });
        }
        while let Some(read) = reads.join_next().await {
            black_box(read.expect("reads do not panic").expect("the scratch file can be read"));
        }
    });
}
