//! Certificates made for a test, and a handler that behaves as the request's path says.

#![allow(dead_code, reason = "each test program uses a part of this")]

use async_trait::async_trait;
use bytes::Bytes;
use globalfs_proto::limits::CHUNK_SIZE;
use globalfs_proto::{
    ChunkEncoding, ChunkHash, ChunkHeader, ChunkIndex, FileId, FsError, FsResult, GlobalPath, PeerIdentity,
    Request, Response, SiteName, Version,
};
use globalfs_transport::options::LANE_RETRY;
use globalfs_transport::{Endpoint, Handler, Identity, Options, Peer, Reply};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const BUDGET: Duration = Duration::from_secs(20);

/// A cluster's CA.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

/// A certificate and its key as PEM.
pub(crate) struct Credentials {
    pub(crate) certificate: String,
    pub(crate) key: String,
    chain: Vec<rustls_pki_types::CertificateDer<'static>>,
    key_der: Vec<u8>,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub(crate) fn sign(&self, names: &[String]) -> Credentials {
        self.sign_params(CertificateParams::new(names.to_vec()).unwrap())
    }

    pub(crate) fn sign_params(&self, params: CertificateParams) -> Credentials {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Credentials {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            chain: vec![certificate.der().clone()],
            key_der: key.serialize_der(),
        }
    }

    pub(crate) fn identity(&self, peer: &PeerIdentity) -> Identity {
        self.identity_trusting(peer, &self.pem)
    }

    pub(crate) fn identity_trusting(&self, peer: &PeerIdentity, roots: &str) -> Identity {
        let made = self.sign(&[peer.host()]);
        Identity::from_pem(made.certificate.as_bytes(), made.key.as_bytes(), roots.as_bytes()).unwrap()
    }
}

pub(crate) fn site(name: &str) -> PeerIdentity {
    PeerIdentity::Site(SiteName::new(name).unwrap())
}

pub(crate) fn path(text: &str) -> GlobalPath {
    GlobalPath::new(text.as_bytes()).unwrap()
}

pub(crate) fn endpoint(identity: Identity) -> Endpoint {
    endpoint_at("127.0.0.1:0".parse().unwrap(), identity)
}

pub(crate) fn endpoint_at(listen: SocketAddr, identity: Identity) -> Endpoint {
    Endpoint::bind(Options::server(listen), identity).unwrap()
}

/// A peer that `endpoint` reaches at `address` and that must be `name`.
pub(crate) fn peer(endpoint: &Endpoint, address: SocketAddr, name: &str) -> Peer {
    Peer::new(endpoint.clone(), address.to_string(), site(name))
}

/// The site `onprem`, served, and the site `cloud` that asks it.
pub(crate) struct Pair {
    pub(crate) ca: Ca,
    pub(crate) server: Endpoint,
    pub(crate) client: Endpoint,
    pub(crate) handler: Arc<Scripted>,
    pub(crate) stop: CancellationToken,
    pub(crate) serving: JoinHandle<()>,
    pub(crate) peer: Peer,
}

impl Pair {
    pub(crate) fn new() -> Self {
        Self::with(true)
    }

    /// A pair of which the server has no TCP port, and one of which it has and a lane is open.
    pub(crate) async fn both() -> [Self; 2] {
        let with_lanes = Self::new();
        with_lanes.open_lane().await;
        [Self::with(false), with_lanes]
    }

    /// The first large answer goes over QUIC while a lane is opened.
    pub(crate) async fn open_lane(&self) {
        read_until_lane(&self.peer, || self.client.counters().lanes_opened == 1).await;
        eventually("there, too", || self.server.counters().lanes_accepted >= 1).await;
    }

    pub(crate) fn with(serves_lanes: bool) -> Self {
        let ca = Ca::new();
        let options = Options { serves_lanes, ..Options::server("127.0.0.1:0".parse().unwrap()) };
        let server = Endpoint::bind(options, ca.identity(&site("onprem"))).unwrap();
        let client = endpoint(ca.identity(&site("cloud")));
        let handler = Arc::new(Scripted::default());
        let stop = CancellationToken::new();
        let serving = serve(&server, handler.clone(), &stop);
        let peer = peer(&client, server.local_addr(), "onprem");
        Self { ca, server, client, handler, stop, serving, peer }
    }
}

pub(crate) fn serve(
    endpoint: &Endpoint,
    handler: Arc<impl Handler>,
    stop: &CancellationToken,
) -> JoinHandle<()> {
    let (endpoint, stop) = (endpoint.clone(), stop.clone());
    tokio::spawn(async move { endpoint.serve(handler, stop).await })
}

/// Answers reads with chunks of a known pattern, `/never` never, `/changes` now and then, `/fails` with an error, `/part` with a
/// chunk and then never, everything else with the request as text. Lets in the site `cloud` alone.
#[derive(Default)]
pub(crate) struct Scripted {
    /// Whether nobody is let in any more.
    pub(crate) closed: AtomicBool,
    /// Handlers that were begun and did not end by themselves.
    pub(crate) cancelled: AtomicUsize,
    /// Bytes that the transport has taken from handlers.
    pub(crate) sent: AtomicUsize,
}

struct NoticeDrop<'a>(&'a AtomicUsize);

impl Drop for NoticeDrop<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Handler for Scripted {
    async fn admit(&self, peer: &PeerIdentity, _key_fingerprint: &str) -> Result<(), String> {
        let welcome = *peer == site("cloud") && !self.closed.load(Ordering::SeqCst);
        if welcome { Ok(()) } else { Err(format!("{peer} is not registered")) }
    }

    async fn handle(
        &self,
        _: &PeerIdentity,
        request: Request,
        _: Duration,
        reply: &mut Reply,
    ) -> FsResult<()> {
        let never = async {
            let _notice = NoticeDrop(&self.cancelled);
            std::future::pending::<()>().await;
        };
        match &request {
            Request::Stat(path) if path.name() == b"never" => never.await,
            Request::Stat(path) if path.name() == b"fails" => return Err(FsError::NOT_FOUND),
            Request::Stat(path) if path.name() == b"huge" => {
                return reply.send(&Response::Bytes(vec![0; 2 << 20].into())).await;
            }
            Request::Stat(path) if path.name() == b"changes" => return tell_changes(reply).await,
            Request::Read { path, .. } if path.name() == b"gone" => return Err(FsError::Stale(None)),
            Request::Read { path, first, count, .. } => {
                for index in first.0..first.0 + u64::from(*count) {
                    let (header, payload) = pattern(index);
                    reply.send_chunk(header, payload).await?;
                    self.sent.fetch_add(CHUNK_SIZE as usize, Ordering::SeqCst);
                    if path.name() == b"part" {
                        never.await;
                        break;
                    }
                }
                return Ok(());
            }
            _ => {}
        }
        reply.send(&Response::Bytes(format!("{request:?}").into())).await
    }
}

/// Pauses between the frames of `/changes`, which goes on until the daemon stops.
pub(crate) const CHANGE_INTERVAL: Duration = Duration::from_millis(5500);

async fn tell_changes(reply: &mut Reply) -> FsResult<()> {
    loop {
        reply.send(&Response::Bytes(Bytes::from_static(b"change"))).await?;
        tokio::select! {
            () = reply.stopping() => return Ok(()),
            () = tokio::time::sleep(CHANGE_INTERVAL) => {}
        }
    }
}

/// The chunk `index` of every file here, in memory of its own.
pub(crate) fn pattern(index: u64) -> (ChunkHeader, Bytes) {
    let payload = Bytes::from(vec![index as u8 ^ 0x5a; CHUNK_SIZE as usize]);
    let length = CHUNK_SIZE as u32;
    let encoding = ChunkEncoding::Raw;
    let hash = ChunkHash([index as u8; 32]);
    (ChunkHeader { index: ChunkIndex(index), encoding, wire_length: length, length, hash }, payload)
}

pub(crate) fn read_request(name: &str, count: u32) -> Request {
    let file = FileId { origin: 1, inode: 2 };
    let version = Version { file, size: u64::MAX, mtime_ns: 0, ctime_ns: 0 };
    Request::Read { path: path(name), version, first: ChunkIndex(3), count }
}

pub(crate) async fn echo(peer: &Peer, request: &Request, budget: Duration) -> FsResult<String> {
    let mut answer = peer.request(request, budget).await?;
    let Some(Response::Bytes(bytes)) = answer.next().await? else { panic!("not an echo") };
    assert_eq!(answer.next().await?, None);
    Ok(String::from_utf8(bytes.to_vec()).unwrap())
}

/// Reads chunks to the end of the answer, checks them, and gives their number.
pub(crate) async fn read_whole(peer: &Peer, name: &str, count: u32) -> FsResult<u32> {
    let mut answer = peer.request(&read_request(name, count), BUDGET).await?;
    let mut read = 0;
    while let Some(Response::Chunk(header)) = answer.next().await? {
        assert_eq!((header, answer.payload(header.wire_length).await?), pattern(3 + u64::from(read)));
        read += 1;
    }
    Ok(read)
}

/// A QUIC connection without our client above it, to send what no client of ours would send.
pub(crate) async fn raw_connection(
    ca: &Ca,
    credentials: Option<&Credentials>,
    address: SocketAddr,
) -> (quinn::Endpoint, Result<quinn::Connection, quinn::ConnectionError>) {
    let config = raw_config(ca, credentials);
    let config = quinn::crypto::rustls::QuicClientConfig::try_from(config).unwrap();
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(config));
    let connection = endpoint.connect_with(config, address, &site("onprem").host()).unwrap().await;
    (endpoint, connection)
}

/// What it shakes hands with.
pub(crate) fn raw_config(ca: &Ca, credentials: Option<&Credentials>) -> rustls::ClientConfig {
    use rustls_pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls_pki_types::CertificateDer::from_pem_slice(ca.pem.as_bytes()).unwrap()).unwrap();
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots);
    let mut config = match credentials {
        None => config.with_no_client_auth(),
        Some(c) => {
            let key = rustls_pki_types::PrivatePkcs8KeyDer::from(c.key_der.clone());
            config.with_client_auth_cert(c.chain.clone(), key.into()).unwrap()
        }
    };
    config.alpn_protocols = vec![b"globalfs/1".to_vec()];
    config
}

/// Reads until a lane is open, as `is_open` tells. A busy machine may seem far from itself, and is then left alone for
/// [`LANE_RETRY`].
pub(crate) async fn read_until_lane(peer: &Peer, is_open: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_open() {
        assert!(begun.elapsed() < 4 * LANE_RETRY, "no lane was opened");
        read_whole(peer, "/f", 3).await.unwrap();
        let opening = Instant::now();
        while !is_open() && opening.elapsed() < Duration::from_secs(1) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Waits until `condition` holds, at most five seconds.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..500 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not come true");
}
