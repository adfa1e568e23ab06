//! What certificates say, and the first contact of a machine that has only a token.
//!
//! *Invariants:* TLS 1.3 only; a certificate's name is its one DNS name; a joining machine sends nothing
//! secret before the coordinator has shown the authority whose fingerprint the token names.

use base64::Engine;
use globalfs_proto::PeerIdentity;
use globalfs_proto::ids::COORDINATOR_HOST;
use rcgen::PublicKeyData;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use std::sync::{Arc, OnceLock};
use x509_parser::prelude::{FromDer, X509Certificate};

/// HTTP/2, which carries gRPC.
const ALPN: &[u8] = b"h2";

/// Who a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The name.
    pub identity: PeerIdentity,
    /// Hash of the public key, hexadecimal.
    pub key_fingerprint: String,
    /// End of the certificate's validity, seconds since 1970.
    pub expires_at_unix_s: i64,
}

/// Hash of a certificate, hexadecimal: what a token names.
pub fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    blake3::hash(certificate).to_hex().to_string()
}

/// Hash of a public key, hexadecimal: what records name.
pub fn key_fingerprint(key: &impl PublicKeyData) -> String {
    blake3::hash(&key.subject_public_key_info()).to_hex().to_string()
}

/// Who the certificate in this PEM text is for.
pub fn peer(pem: &str) -> Result<Peer, String> {
    peer_of(&certificate_der(pem)?)
}

/// Who a certificate is for. Says nothing of who signed it: that was checked when the connection was made.
pub fn peer_of(certificate: &CertificateDer<'_>) -> Result<Peer, String> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    let names = parsed.subject_alternative_name().map_err(|error| error.to_string())?;
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let [x509_parser::extensions::GeneralName::DNSName(host)] = names else {
        return Err("the certificate has not exactly one DNS name".into());
    };
    let identity =
        PeerIdentity::from_host(host).ok_or(format!("'{host}' is no name of a GlobalFS cluster"))?;
    let key_fingerprint = blake3::hash(parsed.public_key().raw).to_hex().to_string();
    Ok(Peer { identity, key_fingerprint, expires_at_unix_s: parsed.validity().not_after.timestamp() })
}

/// The one certificate of a PEM text.
pub fn certificate_der(pem: &str) -> Result<CertificateDer<'static>, String> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| format!("not a PEM certificate: {error}"))
}

/// A certificate as PEM text.
pub(crate) fn to_pem(certificate: &CertificateDer<'_>) -> String {
    const LINE: usize = 64;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let lines = text.as_bytes().chunks(LINE).map(String::from_utf8_lossy).collect::<Vec<_>>().join("\n");
    format!("-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n")
}

/// The coordinator's side of every connection. Clients without a certificate get through, to join.
pub(crate) fn server_config(
    certificate: &str,
    key: &str,
    ca: &str,
) -> Result<rustls::ServerConfig, Box<dyn std::error::Error + Send + Sync>> {
    let ca = certificate_der(ca)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(&ca)?, provider())
        .allow_unauthenticated()
        .build()?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            // The authority goes along, so that a machine with a token can learn it.
            vec![certificate_der(certificate)?, ca],
            PrivateKeyDer::from_pem_slice(key.as_bytes())?,
        )?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// The client's side of the first contact, and where it leaves the authority once that is known.
pub(crate) fn first_contact(
    ca_fingerprint: &str,
) -> Result<(rustls::ClientConfig, Arc<PinnedAuthority>), Error> {
    let pinned = Arc::new(PinnedAuthority { fingerprint: ca_fingerprint.to_owned(), found: OnceLock::new() });
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(pinned.clone())
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok((config, pinned))
}

/// The coordinator's name in TLS.
pub(crate) fn coordinator_name() -> ServerName<'static> {
    ServerName::try_from(COORDINATOR_HOST).expect("the constant is a DNS name")
}

/// Accepts a coordinator whose chain holds the authority of a known fingerprint, and is signed by it.
#[derive(Debug)]
pub(crate) struct PinnedAuthority {
    fingerprint: String,
    found: OnceLock<CertificateDer<'static>>,
}

impl PinnedAuthority {
    /// The authority, after a handshake that succeeded.
    pub(crate) fn found(&self) -> Option<&CertificateDer<'static>> {
        self.found.get()
    }
}

impl ServerCertVerifier for PinnedAuthority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authority = intermediates
            .iter()
            .find(|certificate| fingerprint(certificate) == self.fingerprint)
            .ok_or(Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer))?;
        let verifier = WebPkiServerVerifier::builder_with_provider(roots(authority)?, provider())
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        let verified =
            verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        let _ = self.found.set(authority.clone().into_owned());
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

fn roots(ca: &CertificateDer<'_>) -> Result<Arc<RootCertStore>, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone().into_owned())?;
    Ok(Arc::new(roots))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(names: &[&str]) -> CertificateDer<'static> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        rcgen::generate_simple_self_signed(names).unwrap().cert.into()
    }

    #[test]
    fn a_certificate_names_one_peer() {
        let peer = peer_of(&certificate(&["cloud.site.globalfs"])).unwrap();
        assert_eq!(peer.identity.to_string(), "site cloud");
        let check = |names: &[&str], part: &str| {
            let error = peer_of(&certificate(names)).unwrap_err();
            assert!(error.contains(part), "{error}");
        };
        check(&[], "not exactly one");
        check(&["admin.globalfs", "cloud.site.globalfs"], "not exactly one");
        check(&["127.0.0.1"], "not exactly one");
        check(&["example.org"], "no name of a GlobalFS cluster");
        assert!(peer_of(&CertificateDer::from(vec![1, 2, 3])).is_err());
    }

    #[test]
    fn pem_is_what_others_read() {
        let certificate = certificate(&["admin.globalfs"]);
        let pem = to_pem(&certificate);
        assert_eq!(certificate_der(&pem).unwrap(), certificate);
        assert!(pem.lines().all(|line| line.len() <= 64));
        assert!(certificate_der("nothing").is_err());
    }
}
