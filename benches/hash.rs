//! The hash that names a chunk, beside what copying the same bytes costs.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use globalfs_dataplane::encoding;
use globalfs_proto::limits::CHUNK_SIZE;
use std::hint::black_box;

criterion_group!(benches, hash);
criterion_main!(benches);

fn hash(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hash");
    for length in [4096, CHUNK_SIZE as usize] {
        let (data, mut copy) = (vec![7; length], vec![0; length]);
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(BenchmarkId::new("blake3", length), |b| {
            b.iter(|| encoding::hash(black_box(&data)));
        });
        group.bench_function(BenchmarkId::new("bound: copy", length), |b| {
            b.iter(|| black_box(&mut copy).copy_from_slice(black_box(&data)));
        });
    }
    group.finish();
}
