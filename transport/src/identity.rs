//! Who this process is: its certificate, its key, and the CA that it trusts.
//!
//! *Invariant:* an [`Identity`] is fit for use: the key belongs to the certificate, the CA signed it, it is
//! valid now, and its one DNS name says who we are.

use crate::tls;
use globalfs_proto::PeerIdentity;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// What this process shows to its peers and by what it judges them.
#[derive(Clone)]
pub struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: Arc<PrivateKeyDer<'static>>,
    pub(crate) roots: Arc<RootCertStore>,
    peer: PeerIdentity,
}

/// Why files do not make an identity. An administrator has to act.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read.
    #[error("cannot read {0}: {1}")]
    Read(String, #[source] std::io::Error),
    /// A file does not hold what it should.
    #[error("{file} holds no usable {what}: {why}")]
    Content {
        /// The file.
        file: String,
        /// What it should hold.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The key is not the certificate's.
    #[error("the key in {key} does not belong to the certificate in {certificate}")]
    Mismatch {
        /// The key's file.
        key: String,
        /// The certificate's file.
        certificate: String,
    },
    /// The CA does not vouch for the certificate.
    #[error("the certificate in {certificate} is not valid under the CA in {ca}: {why}")]
    Untrusted {
        /// The certificate's file.
        certificate: String,
        /// The CA's file.
        ca: String,
        /// What is wrong.
        why: String,
    },
    /// The certificate is no GlobalFS identity.
    #[error("the certificate in {0} names no GlobalFS site, node, coordinator or administrator")]
    Nameless(String),
}

/// What the three parts are called in errors.
struct Names {
    certificate: String,
    key: String,
    ca: String,
}

impl Identity {
    /// Reads PEM files: our certificate with its chain, its key, and one or more CA certificates.
    pub fn load(certificate: &Path, key: &Path, ca: &Path) -> Result<Self, IdentityError> {
        let show = |path: &Path| path.display().to_string();
        let read = |path: &Path| std::fs::read(path).map_err(|e| IdentityError::Read(show(path), e));
        let names = Names { certificate: show(certificate), key: show(key), ca: show(ca) };
        Self::assemble(&read(certificate)?, &read(key)?, &read(ca)?, names)
    }

    /// The same from PEM text in memory.
    pub fn from_pem(certificate: &[u8], key: &[u8], ca: &[u8]) -> Result<Self, IdentityError> {
        let [certificate_name, key_name, ca_name] =
            ["the certificate", "the key", "the CA"].map(String::from);
        Self::assemble(
            certificate,
            key,
            ca,
            Names { certificate: certificate_name, key: key_name, ca: ca_name },
        )
    }

    /// Who we are, as our certificate says.
    pub fn peer(&self) -> &PeerIdentity {
        &self.peer
    }

    fn assemble(certificate: &[u8], key: &[u8], ca: &[u8], names: Names) -> Result<Self, IdentityError> {
        let chain = certificates(certificate, &names.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| content(&names.key, "private key", e))?;
        let mut roots = RootCertStore::empty();
        for root in certificates(ca, &names.ca)? {
            roots.add(root).map_err(|e| content(&names.ca, "CA certificate", e))?;
        }
        let roots = Arc::new(roots);
        check_key(&chain, &key, &names)?;
        check_trust(&chain, &roots, &names)?;
        let caller = read_caller(&chain[0]).ok_or(IdentityError::Nameless(names.certificate))?;
        let peer = caller.identity;
        Ok(Self { chain, key: Arc::new(key), roots, peer })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.peer)
    }
}

/// Whom a certificate names, and by which key it can be told from an older one of the same name.
pub(crate) struct Caller {
    pub(crate) identity: PeerIdentity,
    /// BLAKE3 of the public key, hexadecimal.
    pub(crate) key_fingerprint: String,
}

/// Who a certificate is for: its one DNS name. `None` when it has none, several, or one of another kind.
pub(crate) fn read_caller(certificate: &CertificateDer<'_>) -> Option<Caller> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    let mut hosts = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(host) => Some(*host),
        _ => None,
    });
    let host = hosts.next()?;
    let identity = hosts.next().is_none().then(|| PeerIdentity::from_host(host))??;
    let key_fingerprint = blake3::hash(parsed.public_key().raw).to_hex().to_string();
    Some(Caller { identity, key_fingerprint })
}

fn certificates(pem: &[u8], file: &str) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|e| content(file, "certificate", e))?;
    if found.is_empty() { Err(content(file, "certificate", "no PEM block of that kind")) } else { Ok(found) }
}

fn check_key(
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
    names: &Names,
) -> Result<(), IdentityError> {
    match CertifiedKey::from_der(chain.to_vec(), key.clone_key(), &tls::provider()) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err(IdentityError::Mismatch { key: names.key.clone(), certificate: names.certificate.clone() })
        }
        Err(rustls::Error::InvalidCertificate(e)) => {
            Err(content(&names.certificate, "certificate", format!("{e:?}")))
        }
        Err(e) => Err(content(&names.key, "private key", e)),
    }
}

fn check_trust(
    chain: &[CertificateDer<'static>],
    roots: &Arc<RootCertStore>,
    names: &Names,
) -> Result<(), IdentityError> {
    let judge = WebPkiClientVerifier::builder_with_provider(roots.clone(), tls::provider())
        .build()
        .map_err(|e| content(&names.ca, "CA certificate", e))?;
    match judge.verify_client_cert(&chain[0], &chain[1..], UnixTime::now()) {
        Ok(_) => Ok(()),
        Err(e) => Err(IdentityError::Untrusted {
            certificate: names.certificate.clone(),
            ca: names.ca.clone(),
            why: e.to_string(),
        }),
    }
}

fn content(file: &str, what: &'static str, why: impl fmt::Display) -> IdentityError {
    IdentityError::Content { file: file.to_owned(), what, why: why.to_string() }
}
