//! Moves noise between two machines, or two network namespaces, over our transport and over one TCP + TLS 1.3
//! stream, and says how fast. It verifies no hashes and touches no disk, so it shows the transport alone.
//!
//! ```text
//! transfer serve DIRECTORY ADDRESS             # writes certificates there; takes this port and the next two
//! transfer fetch DIRECTORY ADDRESS lanes 512 8 # MiB; requests of 4 MiB under way at the same time
//! transfer fetch DIRECTORY ADDRESS quic 512 8  # from a server without lanes
//! transfer fetch DIRECTORY ADDRESS tcp 512 8   # one stream
//! transfer fetch DIRECTORY ADDRESS mixed 512 8 # as lanes, with empty requests beside it, and how long they take
//! ```
#![allow(clippy::unwrap_used, reason = "a program for the developer's eyes")]

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use globalfs_proto::limits::{CHUNK_SIZE, MAX_CHUNKS_PER_READ};
use globalfs_proto::{
    ChunkEncoding, ChunkHash, ChunkHeader, ChunkIndex, FileId, FsResult, GlobalPath, PeerIdentity, Request,
    Response, SiteName, Version,
};
use globalfs_transport::{Endpoint, Handler, Identity, Options, Peer, Reply};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::collections::VecDeque;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

const BUDGET: Duration = Duration::from_secs(300);
const MIB: u64 = 1024 * 1024;
const REQUEST_BYTES: u64 = MAX_CHUNKS_PER_READ as u64 * CHUNK_SIZE;

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", directory, address] => serve(Path::new(directory), address.parse()?).await,
        ["fetch", directory, address, how, mib, requests] => {
            let (address, mib) = (address.parse()?, mib.parse()?);
            fetch(Path::new(directory), address, how, mib, requests.parse()?).await
        }
        _ => {
            bail!(
                "transfer serve DIRECTORY ADDRESS | transfer fetch DIRECTORY ADDRESS lanes|quic|tcp|mixed MIB REQUESTS"
            )
        }
    }
}

async fn serve(directory: &Path, address: SocketAddr) -> Result<()> {
    make_certificates(directory)?;
    let both = endpoint(directory, "onprem", Options::server(address))?;
    let plain = Options { serves_lanes: false, ..Options::server(port(address, 2)) };
    let plain = endpoint(directory, "onprem", plain)?;
    let noise = noise();
    let listener = TcpListener::bind(port(address, 1)).await?;
    tokio::spawn(serve_tcp(listener, tls_server(directory)?, noise.clone()));
    fs::write(directory.join("pid"), std::process::id().to_string())?;
    let stop = CancellationToken::new();
    tokio::join!(
        both.serve(Arc::new(Noise(noise.clone())), stop.clone()),
        plain.serve(Arc::new(Noise(noise)), stop)
    );
    Ok(())
}

async fn fetch(directory: &Path, address: SocketAddr, how: &str, mib: u64, requests: usize) -> Result<()> {
    let bytes = mib * MIB;
    let (seconds, cpu, server_cpu) = match how {
        "lanes" | "quic" | "mixed" => {
            let endpoint = endpoint(directory, "cloud", Options::client())?;
            let onprem = PeerIdentity::Site(SiteName::new("onprem").unwrap());
            let address = if how == "quic" { port(address, 2) } else { address };
            let peer = Peer::new(endpoint, address.to_string(), onprem);
            peer.request(&Request::Ping, BUDGET).await?;
            read(peer.clone(), 0).await?;
            tokio::time::sleep(Duration::from_secs(2)).await;
            let pinging = tokio::spawn(ping(peer.clone(), how == "mixed"));
            let measured = measure(directory, fetch_parts(&peer, bytes, requests)).await?;
            pinging.abort();
            println!("requests over TCP: {}", peer.counters().requests_on_lanes);
            measured
        }
        "tcp" => {
            let stream = connect_tcp(directory, port(address, 1)).await?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            measure(directory, fetch_tcp(stream, bytes)).await?
        }
        _ => bail!("lanes, quic, tcp or mixed"),
    };
    let rate = bytes as f64 / 1e6 / seconds;
    println!(
        "{how:5} {mib} MiB in {seconds:.3} s: {rate:.1} MB/s; CPU s/GB: here {:.3}, there {:.3}",
        cpu / bytes as f64 * 1e9,
        server_cpu / bytes as f64 * 1e9
    );
    Ok(())
}

/// Seconds, and CPU seconds here and at the server.
async fn measure(directory: &Path, work: impl Future<Output = Result<()>>) -> Result<(f64, f64, f64)> {
    let server = fs::read_to_string(directory.join("pid"))?;
    let (here, there) = (cpu_seconds("self"), cpu_seconds(&server));
    let begun = Instant::now();
    work.await?;
    let seconds = begun.elapsed().as_secs_f64();
    Ok((seconds, cpu_seconds("self") - here, cpu_seconds(&server) - there))
}

/// User and system time of a process of this host.
fn cpu_seconds(pid: &str) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

async fn fetch_parts(peer: &Peer, bytes: u64, requests: usize) -> Result<()> {
    let mut under_way = VecDeque::new();
    for request in 0..bytes / REQUEST_BYTES {
        if under_way.len() == requests {
            finish(under_way.pop_front()).await?;
        }
        under_way.push_back(tokio::spawn(read(peer.clone(), request)));
    }
    while !under_way.is_empty() {
        finish(under_way.pop_front()).await?;
    }
    Ok(())
}

/// Asks for nothing every 20 ms, if `active`, and says now and then how long that took.
async fn ping(peer: Peer, active: bool) -> Result<()> {
    if !active {
        return Ok(());
    }
    loop {
        let mut times = Vec::new();
        for _ in 0..25 {
            let begun = Instant::now();
            peer.request(&Request::Ping, BUDGET).await?;
            times.push(begun.elapsed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        times.sort();
        println!("empty requests: median {:.1?}, longest {:.1?}", times[12], times[24]);
    }
}

async fn finish(task: Option<tokio::task::JoinHandle<FsResult<u64>>>) -> Result<()> {
    let received = task.context("no request is under way")?.await??;
    anyhow::ensure!(received == REQUEST_BYTES, "an answer of {received} bytes");
    Ok(())
}

async fn read(peer: Peer, request: u64) -> FsResult<u64> {
    let file = FileId { origin: 1, inode: 2 };
    let version = Version { file, size: u64::MAX, mtime_ns: 0, ctime_ns: 0 };
    let first = ChunkIndex(request * u64::from(MAX_CHUNKS_PER_READ));
    let path = GlobalPath::new(b"/noise").unwrap();
    let request = Request::Read { path, version, first, count: MAX_CHUNKS_PER_READ };
    let mut answer = peer.request(&request, BUDGET).await?;
    let mut received = 0;
    while let Some(Response::Chunk(header)) = answer.next().await? {
        received += answer.payload(header.wire_length).await?.len() as u64;
    }
    Ok(received)
}

struct Noise(Bytes);

#[async_trait::async_trait]
impl Handler for Noise {
    async fn admit(&self, _: &PeerIdentity, _: &str) -> Result<(), String> {
        Ok(())
    }

    async fn handle(&self, _: &PeerIdentity, what: Request, _: Duration, reply: &mut Reply) -> FsResult<()> {
        let Request::Read { first, count, .. } = what else {
            return reply.send(&Response::Bytes(Bytes::new())).await;
        };
        for index in first.0..first.0 + u64::from(count) {
            let length = CHUNK_SIZE as u32;
            let header = ChunkHeader {
                index: ChunkIndex(index),
                encoding: ChunkEncoding::Raw,
                wire_length: length,
                length,
                hash: ChunkHash([0; 32]),
            };
            reply.send_chunk(header, self.0.clone()).await?;
        }
        Ok(())
    }
}

fn noise() -> Bytes {
    let mut noise = vec![0; CHUNK_SIZE as usize];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    noise.into()
}

fn endpoint(directory: &Path, site: &str, options: Options) -> Result<Endpoint> {
    let read = |name: &str| fs::read(directory.join(name)).with_context(|| format!("reading {name}"));
    let (certificate, key) = (read(&format!("{site}.crt"))?, read(&format!("{site}.key"))?);
    let identity = Identity::from_pem(&certificate, &key, &read("ca.crt")?)?;
    Ok(Endpoint::bind(options, identity)?)
}

fn make_certificates(directory: &Path) -> Result<()> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    fs::write(directory.join("ca.crt"), params.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(params, key);
    for site in ["onprem", "cloud"] {
        let key = KeyPair::generate()?;
        let host = PeerIdentity::Site(SiteName::new(site).unwrap()).host();
        let certificate = CertificateParams::new(vec![host])?.signed_by(&key, &issuer)?;
        fs::write(directory.join(format!("{site}.crt")), certificate.pem())?;
        fs::write(directory.join(format!("{site}.key")), key.serialize_pem())?;
    }
    Ok(())
}

fn port(address: SocketAddr, offset: u16) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port() + offset)
}

/// The cipher that QUIC takes as well.
fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.retain(|suite| suite.suite() == rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

fn tls_server(directory: &Path) -> Result<rustls::ServerConfig> {
    let chain =
        CertificateDer::pem_file_iter(directory.join("onprem.crt"))?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(directory.join("onprem.key"))?;
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth();
    Ok(config.with_single_cert(chain, key)?)
}

/// Answers each number with so many bytes.
async fn serve_tcp(listener: TcpListener, config: rustls::ServerConfig, noise: Bytes) -> Result<()> {
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (acceptor, noise) = (acceptor.clone(), noise.clone());
        tokio::spawn(async move {
            let mut stream = acceptor.accept(stream).await?;
            let mut left = stream.read_u64().await?;
            while left > 0 {
                let part = left.min(noise.len() as u64);
                stream.write_all(&noise[..part as usize]).await?;
                left -= part;
            }
            stream.flush().await
        });
    }
}

type TlsStream = tokio_rustls::client::TlsStream<tokio::io::BufReader<TcpStream>>;

async fn connect_tcp(directory: &Path, address: SocketAddr) -> Result<TlsStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(directory.join("ca.crt"))?)?;
    let config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let host = PeerIdentity::Site(SiteName::new("onprem").unwrap()).host();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    // Left alone it would take 4 KiB from the socket at a time.
    let stream = tokio::io::BufReader::with_capacity(256 * 1024, stream);
    Ok(connector.connect(ServerName::try_from(host)?, stream).await?)
}

async fn fetch_tcp(mut stream: TlsStream, bytes: u64) -> Result<()> {
    stream.write_u64(bytes).await?;
    stream.flush().await?;
    let mut buffer = vec![0; CHUNK_SIZE as usize];
    let mut received = 0;
    while received < bytes {
        match stream.read(&mut buffer).await? {
            0 => bail!("the stream ended after {received} bytes"),
            read => received += read as u64,
        }
    }
    Ok(())
}
