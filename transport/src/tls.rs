//! TLS 1.3 both ways: configurations made from an [`Identity`], and who is at the other end.

use crate::endpoint::BindError;
use crate::identity::{Caller, Identity, read_caller};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::crypto::{CryptoError, HmacKey};
use quinn::{ConnectionId, ConnectionIdGenerator};
use rustls::CipherSuite::TLS13_AES_128_GCM_SHA256;
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// The protocol and its version; another version of the messages is another name.
pub(crate) const ALPN: &[u8] = b"globalfs/1";

/// Bytes of our connection ids.
const CONNECTION_ID_LENGTH: usize = 8;

/// The cryptography, named here so that no process-wide default is relied upon.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let mut provider = rustls::crypto::ring::default_provider();
        // The first that the server has as well is taken. AES of 128 bits, which TLS 1.3 asks everybody to have and
        // QUIC begins with, takes ten rounds where that of 256 bits takes fourteen.
        provider.cipher_suites.sort_by_key(|suite| suite.suite() != TLS13_AES_128_GCM_SHA256);
        Arc::new(provider)
    });
    PROVIDER.clone()
}

/// How we connect, over QUIC and over TCP: we show our certificate and accept only what the CA signed for the name
/// we ask for.
pub(crate) fn client(identity: &Identity) -> Result<(Arc<QuicClientConfig>, Arc<ClientConfig>), BindError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(identity.roots.clone())
        .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    let quic = QuicClientConfig::try_from(config.clone()).map_err(|e| BindError::Cipher(e.to_string()))?;
    config.resumption = Resumption::disabled();
    Ok((Arc::new(quic), Arc::new(config)))
}

/// How we are connected to, over QUIC and over TCP: a client without a certificate of the CA does not get in.
pub(crate) fn server(identity: &Identity) -> Result<(Arc<QuicServerConfig>, Arc<ServerConfig>), BindError> {
    let judge = WebPkiClientVerifier::builder_with_provider(identity.roots.clone(), provider())
        .build()
        .map_err(|e| BindError::Cipher(e.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(judge)
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    let quic = QuicServerConfig::try_from(config.clone()).map_err(|e| BindError::Cipher(e.to_string()))?;
    // Nobody resumes a session over TCP, and a lane is silent where nothing was asked.
    config.send_tls13_tickets = 0;
    Ok((Arc::new(quic), Arc::new(config)))
}

/// Who is at the other end of a connection whose handshake is over.
pub(crate) fn caller_of(connection: &quinn::Connection) -> Option<Caller> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    caller_of_chain(&chain)
}

/// Who showed these certificates, his own first.
pub(crate) fn caller_of_chain(chain: &[CertificateDer<'static>]) -> Option<Caller> {
    read_caller(chain.first()?)
}

/// What an endpoint signs stateless resets with. It comes from the private key, so a daemon that was
/// killed and started again can tell its old peers at once that their connections are gone.
pub(crate) struct ResetKey([u8; 32]);

impl ResetKey {
    pub(crate) fn of(identity: &Identity) -> Self {
        Self(blake3::derive_key("globalfs/1 stateless reset key", identity.key.secret_der()))
    }

    fn tag(&self, data: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.0, data).as_bytes()
    }
}

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(&self.tag(data));
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        // `blake3::Hash` compares in constant time.
        if blake3::Hash::from(self.tag(data)) == *signature { Ok(()) } else { Err(CryptoError) }
    }
}

/// Random connection ids. quinn's own generator lets an endpoint know its ids by a key that a restart
/// changes, and drops packets with others unanswered: no stateless reset would ever be sent.
pub(crate) struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; CONNECTION_ID_LENGTH];
        provider().secure_random.fill(&mut id).expect("the system has random numbers");
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_LENGTH
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}
