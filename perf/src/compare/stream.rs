//! One TCP + TLS 1.3 stream over the link: what a good program of the usual kind gets out of it.

use crate::systems::Bed;
use crate::wan::Wan;
use anyhow::{Context, Result, anyhow};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, ConnectionCommon, RootCertStore, ServerConfig, ServerConnection,
    SideData, StreamOwned,
};
use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

/// Bytes that are handed over at a time.
const BLOCK_BYTES: usize = 128 * 1024;

/// What TLS reads from the socket at a time: left alone it asks for 4 KiB.
const SOCKET_BYTES: usize = 256 * 1024;

const SERVER: &str = "far.test";

/// A socket whose reads are large.
struct Socket(BufReader<TcpStream>);

/// Both ends' settings, made for one transfer.
struct Ends {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

/// Moves `bytes` from far to near, or what gets through within `limit`, and gives bytes per second from the
/// first word of the connection on.
pub(crate) fn measure(bed: &Bed<'_>, bytes: u64, limit: Duration) -> Result<f64> {
    let ends = Ends::new()?;
    let (near, far) = (bed.near(), bed.far());
    std::thread::scope(|scope| {
        let (listening, address) = mpsc::channel();
        let serving = scope.spawn(|| far.enter(|| serve(&ends, bed.wan, bytes, listening)));
        let address = address.recv().context("the far end does not listen")?;
        let fetched = near.enter(|| fetch(&ends, address, bytes, limit));
        // The far end fails where the near end had enough.
        let _ = serving.join().map_err(|_| anyhow!("the far end panicked"))?;
        fetched
    })
}

impl Ends {
    fn new() -> Result<Self> {
        let made = rcgen::generate_simple_self_signed([SERVER.to_owned()])?;
        let certificate: CertificateDer<'static> = made.cert.der().clone();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone())?;
        let provider = Arc::new(CryptoProvider {
            cipher_suites: vec![ring::cipher_suite::TLS13_AES_128_GCM_SHA256],
            ..ring::default_provider()
        });
        let versions = &[&rustls::version::TLS13];
        let client =
            ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions)?;
        let server = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions)?;
        Ok(Self {
            client: Arc::new(client.with_root_certificates(roots).with_no_client_auth()),
            server: Arc::new(server.with_no_client_auth().with_single_cert(vec![certificate], key)?),
        })
    }
}

fn serve(ends: &Ends, wan: &Wan, bytes: u64, listening: Sender<SocketAddr>) -> Result<()> {
    let listener = TcpListener::bind((wan.far().address(), 0))?;
    listening.send(listener.local_addr()?)?;
    let (socket, _) = listener.accept()?;
    let mut stream = encrypted(ServerConnection::new(ends.server.clone())?, socket)?;
    let block = vec![0x5a; BLOCK_BYTES];
    for _ in 0..bytes / BLOCK_BYTES as u64 {
        stream.write_all(&block)?;
    }
    stream.conn.send_close_notify();
    Ok(stream.flush()?)
}

fn fetch(ends: &Ends, address: SocketAddr, bytes: u64, limit: Duration) -> Result<f64> {
    let started = Instant::now();
    let socket = TcpStream::connect_timeout(&address, limit)?;
    socket.set_read_timeout(Some(limit))?;
    let name = ServerName::try_from(SERVER)?;
    let mut stream = encrypted(ClientConnection::new(ends.client.clone(), name)?, socket)?;
    let mut block = vec![0; BLOCK_BYTES];
    let mut received = 0;
    while received < bytes && started.elapsed() < limit {
        match stream.read(&mut block)? {
            0 => break,
            n => received += n as u64,
        }
    }
    Ok(received as f64 / started.elapsed().as_secs_f64())
}

fn encrypted<C, S>(connection: C, socket: TcpStream) -> io::Result<StreamOwned<C, Socket>>
where
    C: DerefMut + Deref<Target = ConnectionCommon<S>>,
    S: SideData,
{
    socket.set_nodelay(true)?;
    Ok(StreamOwned::new(connection, Socket(BufReader::with_capacity(SOCKET_BYTES, socket))))
}

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl Write for Socket {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.0.get_mut().write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.get_mut().flush()
    }
}
