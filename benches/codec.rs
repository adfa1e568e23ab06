//! Messages to bytes and back, and chunks to what travels and back.

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use globalfs_dataplane::Chunk;
use globalfs_dataplane::encoding::{self, Encoder, Link};
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
        no_xattrs: true,
    }
}

fn messages(criterion: &mut Criterion) {
    let path = GlobalPath::new(b"/datasets/climate/2026/run-17/output.nc").expect("a normal path");
    let version = attr().version();
    let read = Request::Read { path, version, first: ChunkIndex(7), count: 32 };
    let header = RequestHeader { deadline_ms: 30_000 };
    let names = (0..ENTRIES).map(|n| Bytes::from(format!("file-{n:08}.dat")));
    let entries: Vec<_> = names.map(|name| DirEntry::new(name, attr())).collect();
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
    let mut group = criterion.benchmark_group("chunk");
    group.throughput(Throughput::Bytes(CHUNK_SIZE));
    let noise = kinds()[0].1.clone();
    let mut copy = noise.clone();
    group.bench_function("bound: BLAKE3", |b| b.iter(|| encoding::hash(black_box(&noise))));
    group.bench_function("bound: copy", |b| {
        b.iter(|| black_box(&mut copy).copy_from_slice(black_box(&noise)));
    });
    for (kind, data) in kinds() {
        let chunk = Chunk { index: ChunkIndex(0), hash: encoding::hash(&data), data: data.into() };
        let encoded = encoding::encode(&chunk);
        let (as_what, wire) = (encoded.header.encoding.name(), encoded.header.wire_length.max(1));
        let kind = format!("{kind}, {as_what}, {:.2} x smaller", CHUNK_SIZE as f64 / f64::from(wire));
        group.bench_function(BenchmarkId::new("encode", &kind), |b| {
            let mut encoder = Encoder::new(Link::Wan);
            b.iter(|| encoder.encode(black_box(&chunk)));
        });
        group.bench_function(BenchmarkId::new("encode, with a trial", &kind), |b| {
            b.iter(|| encoding::encode(black_box(&chunk)));
        });
        group.bench_function(BenchmarkId::new("decode and verify", &kind), |b| {
            b.iter(|| encoding::decode(&encoded.header, black_box(encoded.payload.clone())));
        });
    }
    group.finish();
}

/// A chunk of each kind of data that has a way of its own.
fn kinds() -> [(&'static str, Vec<u8>); 7] {
    let mut random = SmallRng::seed_from_u64(1);
    let mut noise = vec![0; CHUNK_SIZE as usize];
    random.fill_bytes(&mut noise);
    let words = ["step ", "of ", "the ", "residual ", "mesh ", "is ", "0.25 ", "and ", "done\n", "wall "];
    let mut word = || words[random.next_u32() as usize % words.len()].bytes();
    let text = std::iter::repeat_with(&mut word).flatten().take(CHUNK_SIZE as usize).collect();
    let mut half = vec![b' '; CHUNK_SIZE as usize];
    half[..noise.len() / 2].copy_from_slice(&noise[..noise.len() / 2]);
    let mut small = || f64::from(random.next_u32()) / f64::from(u32::MAX) - 0.5;
    let field: Vec<f64> =
        (0..CHUNK_SIZE / 8).map(|n| 280.0 + 15.0 * ((n as f64 / 900.0).sin() + 1e-6 * small())).collect();
    let floats =
        (0..CHUNK_SIZE / 4).map(|n| (280.0 + 15.0 * ((n as f64 / 900.0).sin() + 1e-4 * small())) as f32);
    let floats = floats.flat_map(f32::to_le_bytes).collect();
    let indices = (0..CHUNK_SIZE as u32 / 4).flat_map(|n| (n * 5 + n % 3).to_le_bytes()).collect();
    let doubles = field.into_iter().flat_map(f64::to_le_bytes).collect();
    [
        ("noise", noise),
        ("text", text),
        ("zeros", vec![0; CHUNK_SIZE as usize]),
        ("half noise, half blanks", half),
        ("float64 field", doubles),
        ("float32 field", floats),
        ("int32 indices", indices),
    ]
}
