//! Requests over real QUIC on loopback: an empty one, and chunks with framing, encoding and verification,
//! beside one plain TCP stream and one with TLS 1.3 and the same cipher. On loopback QUIC finds packets of 6,500
//! bytes; `transport/examples/transfer.rs` measures over links with smaller ones.

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
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConnection, ServerConnection, StreamOwned};
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
    let dir = tempfile::tempdir().expect("a scratch directory can be made");
    let authority = Authority::open(dir.path()).expect("an authority can be made");
    let (remote, version) = runtime.block_on(async { serve(&authority, &path) });
    let tls = Tls::new(&authority);
    let mut group = criterion.benchmark_group("request");
    group.sample_size(20);
    group.bench_function("ping", |b| {
        b.iter(|| runtime.block_on(remote.ping(deadline())).expect("the peer answers"));
    });
    group.throughput(Throughput::Bytes(FILE_BYTES));
    group.bench_function("read 16 MiB of noise", |b| {
        b.iter(|| assert_eq!(runtime.block_on(read(&remote, &path, version)), FILE_BYTES));
    });
    group.bench_function("bound: 16 MiB over TCP", |b| {
        b.iter(|| stream_over_tcp(|stream| stream, |stream| stream));
    });
    group.bench_function("bound: 16 MiB over TCP + TLS 1.3", |b| {
        b.iter(|| stream_over_tcp(|stream| tls.accept(stream), |stream| tls.connect(stream)));
    });
    group.finish();
}

fn deadline() -> Deadline {
    Deadline::after(DEFAULT_DEADLINE)
}

fn serve(authority: &Authority, path: &GlobalPath) -> (Remote, Version) {
    let mut noise = vec![0; FILE_BYTES as usize];
    SmallRng::seed_from_u64(1).fill_bytes(&mut noise);
    let source = MemorySource::new();
    let version = source.put(path, globalfs_proto::FileKind::Regular, noise.into()).version();
    let endpoint = |site: &str| {
        let identity = PeerIdentity::Site(SiteName::new(site).expect("a name"));
        let files = authority.own_files(&identity).expect("the authority signs");
        let parts = [&files.certificate, &files.key, &files.ca].map(String::as_bytes);
        let identity = Identity::from_pem(parts[0], parts[1], parts[2]).expect("the parts fit");
        let listen = "127.0.0.1:0".parse().expect("an address");
        Endpoint::bind(Options::server(listen), identity).expect("a port is free")
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

/// Moves the same bytes through a stream that `accept` and `connect` wrap.
fn stream_over_tcp<A: Write, C: Read>(
    accept: impl Fn(TcpStream) -> A + Sync,
    connect: impl Fn(TcpStream) -> C,
) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = accept(listener.accept().expect("somebody connects").0);
            let chunk = vec![1; CHUNK_SIZE as usize];
            (0..FILE_BYTES / CHUNK_SIZE).for_each(|_| stream.write_all(&chunk).expect("the other end reads"));
            stream.flush().expect("the other end reads");
        });
        let mut stream = connect(TcpStream::connect(address).expect("it listens"));
        let mut buffer = vec![0; CHUNK_SIZE as usize];
        let mut left = FILE_BYTES as usize;
        while left > 0 {
            left -= stream.read(&mut buffer).expect("the other end writes");
        }
    });
}

/// Both ends of TLS with the cipher that QUIC takes here.
struct Tls {
    server: Arc<rustls::ServerConfig>,
    client: Arc<rustls::ClientConfig>,
    host: ServerName<'static>,
}

impl Tls {
    fn new(authority: &Authority) -> Self {
        let identity = PeerIdentity::Site(SiteName::new("onprem").expect("a name"));
        let files = authority.own_files(&identity).expect("the authority signs");
        let certificates = |pem: &str| {
            CertificateDer::pem_slice_iter(pem.as_bytes())
                .collect::<Result<Vec<_>, _>>()
                .expect("certificates")
        };
        let mut provider = rustls::crypto::ring::default_provider();
        provider.cipher_suites.retain(|suite| suite.suite() == rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
        let provider = Arc::new(provider);
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(certificates(&files.ca));
        let client = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the cipher is one of TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let key = PrivateKeyDer::from_pem_slice(files.key.as_bytes()).expect("a key");
        let server = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the cipher is one of TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(certificates(&files.certificate), key)
            .expect("key and certificate fit");
        let host = ServerName::try_from(identity.host()).expect("a host name");
        Self { server: Arc::new(server), client: Arc::new(client), host }
    }

    fn accept(&self, stream: TcpStream) -> StreamOwned<ServerConnection, TcpStream> {
        StreamOwned::new(ServerConnection::new(self.server.clone()).expect("a good configuration"), stream)
    }

    fn connect(&self, stream: TcpStream) -> StreamOwned<ClientConnection, TcpStream> {
        let connection = ClientConnection::new(self.client.clone(), self.host.clone());
        StreamOwned::new(connection.expect("a good configuration"), stream)
    }
}
