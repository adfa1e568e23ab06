//! Messages to bytes and back, and chunks to what travels and back.

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use globalfs_dataplane::{Chunk, encoding};
use globalfs_proto::limits::CHUNK_SIZE;
use globalfs_proto::listing::{decode_entries, encode_entries};
use globalfs_proto::{
    Attr, ChunkEncoding, ChunkHeader, ChunkIndex, DirEntry, DirectoryPart, FileId, FileKind, GlobalPath,
    PartEncoding, Request, RequestHeader, Response,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::hint::black_box;

criterion_group!(benches, messages, chunks);
criterion_main!(benches);

/// Entries of the listing: one frame of it.
const ENTRIES: usize = 1000;

fn attr() -> Attr {
    Attr {
        file: FileId { origin: 1, inode: 2 },
        kind: FileKind::Regular,
        mode: 0o644,
        nlink: 1,
        uid: 1000,
        gid: 100,
        rdev: 0,
        size: 1 << 30,
        blocks: 8,
        atime_ns: 4,
        mtime_ns: 5,
        ctime_ns: 6,
    }
}

fn messages(criterion: &mut Criterion) {
    let path = GlobalPath::new(b"/datasets/climate/2026/run-17/output.nc").expect("a normal path");
    let version = attr().version();
    let read = Request::Read { path, version, first: ChunkIndex(7), count: 32 };
    let header = RequestHeader { deadline_ms: 30_000 };
    let names = (0..ENTRIES).map(|n| Bytes::from(format!("file-{n:08}.dat")));
    let entries: Vec<_> = names.map(|name| DirEntry { name, attr: attr() }).collect();
    let body = encode_entries(&entries);
    let listing = Response::Directory(DirectoryPart {
        path: GlobalPath::root(),
        attr: attr(),
        complete: true,
        watched: true,
        last: true,
        encoding: PartEncoding::Raw,
        length: body.len() as u32,
        body: body.clone(),
    });
    let chunk = Response::Chunk(ChunkHeader {
        index: ChunkIndex(7),
        encoding: ChunkEncoding::Raw,
        wire_length: CHUNK_SIZE as u32,
        length: CHUNK_SIZE as u32,
        hash: encoding::hash(b""),
    });
    let mut group = criterion.benchmark_group("message");
    let frame = read.encode(header);
    group.bench_function("read request/encode", |b| b.iter(|| black_box(&read).encode(header)));
    group.bench_function("read request/decode", |b| b.iter(|| Request::decode(black_box(frame.clone()))));
    for (name, response) in [("chunk header", chunk), ("listing of 1000", listing)] {
        let frame = response.encode();
        group.bench_function(format!("{name}/encode"), |b| b.iter(|| black_box(&response).encode()));
        group.bench_function(format!("{name}/decode"), |b| {
            b.iter(|| Response::decode(black_box(frame.clone())));
        });
    }
    group.bench_function("entries of 1000/encode", |b| b.iter(|| encode_entries(black_box(&entries))));
    group.bench_function("entries of 1000/decode", |b| b.iter(|| decode_entries(black_box(body.clone()))));
    group.finish();
}

fn chunks(criterion: &mut Criterion) {
    let mut noise = vec![0; CHUNK_SIZE as usize];
    SmallRng::seed_from_u64(1).fill_bytes(&mut noise);
    let text: Vec<u8> = (0..)
        .flat_map(|n: u32| format!("{n} step done in {} ms\n", n % 97).into_bytes())
        .take(CHUNK_SIZE as usize)
        .collect();
    let mut group = criterion.benchmark_group("chunk");
    group.throughput(Throughput::Bytes(CHUNK_SIZE));
    for (kind, data) in [("noise", noise), ("text", text), ("zeros", vec![0; CHUNK_SIZE as usize])] {
        let chunk = Chunk { index: ChunkIndex(0), hash: encoding::hash(&data), data: data.into() };
        let encoded = encoding::encode(&chunk);
        group.bench_function(BenchmarkId::new("encode", kind), |b| {
            b.iter(|| encoding::encode(black_box(&chunk)));
        });
        group.bench_function(BenchmarkId::new("decode and verify", kind), |b| {
            b.iter(|| encoding::decode(&encoded.header, black_box(encoded.payload.clone())));
        });
    }
    group.finish();
}
