//! Requests over real QUIC on loopback: an empty one, and chunks with framing, encoding and verification,
//! beside one plain TCP stream.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use globalfs_controlplane::ca::Authority;
use globalfs_dataplane::remote::Remote;
use globalfs_dataplane::serve::Server;
use globalfs_dataplane::testing::MemorySource;
use globalfs_dataplane::{Deadline, Source};
use globalfs_proto::limits::{CHUNK_SIZE, DEFAULT_DEADLINE};
use globalfs_proto::{ByteRange, GlobalPath, PeerIdentity, SiteName, Version};
use globalfs_transport::{Endpoint, Identity, Options, Peer};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;

criterion_group!(benches, requests);
criterion_main!(benches);

/// Bytes of the file that is read: four requests of the largest kind.
const FILE_BYTES: u64 = 16 * 1024 * 1024;

fn requests(criterion: &mut Criterion) {
    let runtime = Builder::new_multi_thread().enable_all().build().expect("threads can be started");
    let path = GlobalPath::new(b"/noise").expect("a normal path");
    let (remote, version) = runtime.block_on(async { serve(&path) });
    let mut group = criterion.benchmark_group("request");
    group.sample_size(20);
    group.bench_function("ping", |b| {
        b.iter(|| runtime.block_on(remote.ping(deadline())).expect("the peer answers"));
    });
    group.throughput(Throughput::Bytes(FILE_BYTES));
    group.bench_function("read 16 MiB of noise", |b| {
        b.iter(|| assert_eq!(runtime.block_on(read(&remote, &path, version)), FILE_BYTES));
    });
    group.bench_function("bound: 16 MiB over TCP", |b| b.iter(stream_over_tcp));
    group.finish();
}

fn deadline() -> Deadline {
    Deadline::after(DEFAULT_DEADLINE)
}

fn serve(path: &GlobalPath) -> (Remote, Version) {
    let mut noise = vec![0; FILE_BYTES as usize];
    SmallRng::seed_from_u64(1).fill_bytes(&mut noise);
    let source = MemorySource::new();
    let version = source.put(path, globalfs_proto::FileKind::Regular, noise.into()).version();
    let dir = tempfile::tempdir().expect("a scratch directory can be made");
    let authority = Authority::open(dir.path()).expect("an authority can be made");
    let endpoint = |site: &str| {
        let identity = PeerIdentity::Site(SiteName::new(site).expect("a name"));
        let files = authority.own_files(&identity).expect("the authority signs");
        let parts = [&files.certificate, &files.key, &files.ca].map(String::as_bytes);
        let identity = Identity::from_pem(parts[0], parts[1], parts[2]).expect("the parts fit");
        let listen = "127.0.0.1:0".parse().expect("an address");
        Endpoint::bind(Options { listen }, identity).expect("a port is free")
    };
    let (server, client) = (endpoint("onprem"), endpoint("cloud"));
    let peer = Peer::new(client, server.local_addr().to_string(), server.identity().clone());
    let handler = Arc::new(Server::new(Arc::new(source), Arc::new(|_: &PeerIdentity| Ok(()))));
    tokio::spawn(async move { server.serve(handler, CancellationToken::new()).await });
    (Remote::new(peer), version)
}

async fn read(remote: &Remote, path: &GlobalPath, version: Version) -> u64 {
    let whole = ByteRange::new(0, FILE_BYTES).expect("not empty").chunks();
    let mut chunks = remote.read(path, version, whole, deadline()).await.expect("a read begins");
    let mut bytes = 0;
    while let Some(chunk) = chunks.recv().await {
        bytes += chunk.expect("chunks arrive").data.len() as u64;
    }
    bytes
}

fn stream_over_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let sending = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("somebody connects");
        let chunk = vec![1; CHUNK_SIZE as usize];
        (0..FILE_BYTES / CHUNK_SIZE).for_each(|_| stream.write_all(&chunk).expect("the other end reads"));
    });
    let mut stream = TcpStream::connect(address).expect("it listens");
    let mut buffer = vec![0; CHUNK_SIZE as usize];
    while stream.read(&mut buffer).expect("the other end writes") > 0 {}
    sending.join().expect("sending does not panic");
}
