//! TCP + TLS 1.3 as a good program of the usual kind uses it, with a certificate made for one transfer.

use anyhow::Result;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, ConnectionCommon, RootCertStore, ServerConfig, SideData, StreamOwned};
use std::io::{self, BufReader, Read, Write};
use std::net::TcpStream;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// What TLS reads from the socket at a time: left alone it asks for 4 KiB.
const SOCKET_BYTES: usize = 256 * 1024;

/// Whom the certificate names.
pub(crate) const SERVER: &str = "far.test";

/// A socket whose reads are large.
pub(crate) struct Socket(BufReader<TcpStream>);

/// Both ends' settings, made for one transfer.
pub(crate) struct Ends {
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) server: Arc<ServerConfig>,
}

impl Ends {
    pub(crate) fn new() -> Result<Self> {
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

/// TLS over `socket`.
pub(crate) fn encrypted<C, S>(connection: C, socket: TcpStream) -> io::Result<StreamOwned<C, Socket>>
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
