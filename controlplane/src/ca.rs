//! The cluster's certificate authority: made at the coordinator's first start, kept in its data directory.
//!
//! *Invariants:* the authority's key never leaves its file; a certificate names exactly who the token or the
//! coordinator says, whatever the request for it asks; an authority that exists is never replaced.

use crate::files::{self, CertFiles, FilesError};
use crate::tls;
use globalfs_proto::PeerIdentity;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SerialNumber,
};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long the authority is valid, and with it the coordinator's own certificates: they lie beside its key,
/// so a shorter time would protect nothing.
pub const CA_VALIDITY: Duration = DAY.saturating_mul(3650);
/// How long the certificate of a site or node is valid.
pub const MEMBER_VALIDITY: Duration = DAY.saturating_mul(397);
/// How far the clocks of two machines may differ.
pub const CLOCK_SKEW: Duration = Duration::from_secs(3600);
/// Longest certificate signing request.
pub const MAX_CSR_BYTES: usize = 16 * 1024;
const CERTIFICATE_FILE: &str = "ca.crt";
const KEY_FILE: &str = "ca.key";
const ADMIN_DIR: &str = "admin";

/// The authority, able to sign.
#[derive(Debug)]
pub struct Authority {
    certificate: String,
    fingerprint: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate signed for a site or node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The certificate, PEM.
    pub certificate: String,
    /// Hash of the key that it certifies.
    pub key_fingerprint: String,
}

/// Why the authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The joiner sent something that is no certificate signing request.
    #[error("the certificate signing request is not valid: {0}")]
    Request(String),
    /// Restore the key from a backup; a new authority would shut out every site and node.
    #[error(
        "{0} is missing but its certificate is there: restore the key from a backup; to start a new cluster, \
         move the whole data directory away"
    )]
    KeyMissing(PathBuf),
    /// The files are damaged or do not belong together.
    #[error("{path}: {reason}; restore it from a backup")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The operating system refused.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// Cryptography failed.
    #[error("signing failed: {0}")]
    Sign(#[from] rcgen::Error),
}

impl Authority {
    /// Opens the authority of `dir`, or makes it when there is none.
    ///
    /// The key is written first. A crash before the certificate was written leaves a key that has signed
    /// nothing, and the certificate is made for it at the next start.
    pub fn open(dir: &Path) -> Result<Self, CaError> {
        files::create_dir(dir)?;
        let (certificate_path, key_path) = (dir.join(CERTIFICATE_FILE), dir.join(KEY_FILE));
        match (files::read_text(&certificate_path)?, files::read_text(&key_path)?) {
            (Some(certificate), Some(key)) => Self::load(certificate, &key, &certificate_path, &key_path),
            (Some(_), None) => Err(CaError::KeyMissing(key_path)),
            (None, Some(key)) => {
                tracing::warn!(path = %certificate_path.display(), "made the authority's certificate again");
                Self::create(&certificate_path, parse_key(&key, &key_path)?)
            }
            (None, None) => {
                let key = KeyPair::generate()?;
                files::write_secret(&key_path, &key.serialize_pem())?;
                tracing::info!(path = %certificate_path.display(), "made the cluster's certificate authority");
                Self::create(&certificate_path, key)
            }
        }
    }

    /// The authority's certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Hash of the authority's certificate.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Hash of the public key in a certificate signing request, whose signature is checked.
    pub fn request_key_fingerprint(csr: &str) -> Result<String, CaError> {
        parse_request(csr).map(|request| tls::key_fingerprint(&request.public_key))
    }

    /// Certifies the key of a request for `identity`. Nothing else of the request is used.
    pub fn issue(&self, identity: &PeerIdentity, csr: &str) -> Result<Issued, CaError> {
        let request = parse_request(csr)?;
        let params = leaf(identity, MEMBER_VALIDITY)?;
        let certificate = params.signed_by(&request.public_key, &self.issuer)?;
        let key_fingerprint = tls::key_fingerprint(&request.public_key);
        Ok(Issued { certificate: certificate.pem(), key_fingerprint })
    }

    /// A new key with its certificate, for the coordinator and those on its machine.
    pub fn own_files(&self, identity: &PeerIdentity) -> Result<CertFiles, CaError> {
        self.files_valid_for(identity, CA_VALIDITY)
    }

    pub(crate) fn files_valid_for(
        &self,
        identity: &PeerIdentity,
        valid_for: Duration,
    ) -> Result<CertFiles, CaError> {
        let key = KeyPair::generate()?;
        let certificate = leaf(identity, valid_for)?.signed_by(&key, &self.issuer)?;
        Ok(CertFiles {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            ca: self.certificate.clone(),
        })
    }

    /// Makes the administrator's certificate in `DIR/admin`, unless one of this authority is there.
    pub fn ensure_admin(&self, dir: &Path) -> Result<PathBuf, CaError> {
        let dir = admin_dir(dir);
        let present = CertFiles::load(&dir).is_ok_and(|files| files.ca == self.certificate);
        if !present {
            self.own_files(&PeerIdentity::Admin)?.write(&dir)?;
        }
        Ok(dir)
    }

    fn load(
        certificate: String,
        key: &str,
        certificate_path: &Path,
        key_path: &Path,
    ) -> Result<Self, CaError> {
        let damaged = |path: &Path, reason| CaError::Damaged { path: path.to_owned(), reason };
        let der = tls::certificate_der(&certificate).map_err(|reason| damaged(certificate_path, reason))?;
        let key = parse_key(key, key_path)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der)
            .map_err(|error| damaged(certificate_path, error.to_string()))?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(damaged(key_path, format!("this is not the key of {CERTIFICATE_FILE}")));
        }
        let fingerprint = tls::fingerprint(&der);
        let issuer = Issuer::from_ca_cert_der(&der, key)?;
        Ok(Self { certificate, fingerprint, issuer })
    }

    fn create(certificate_path: &Path, key: KeyPair) -> Result<Self, CaError> {
        let mut params = validity(CertificateParams::default(), CA_VALIDITY);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "GlobalFS cluster authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        files::write_public(certificate_path, &certificate.pem())?;
        let fingerprint = tls::fingerprint(certificate.der());
        Ok(Self { certificate: certificate.pem(), fingerprint, issuer: Issuer::new(params, key) })
    }
}

/// Where the coordinator of `data_dir` leaves the administrator's certificate; read it with
/// [`CertFiles::load`].
pub fn admin_dir(data_dir: &Path) -> PathBuf {
    data_dir.join(ADMIN_DIR)
}

fn leaf(identity: &PeerIdentity, valid_for: Duration) -> Result<CertificateParams, CaError> {
    let mut params = validity(CertificateParams::new([identity.host()])?, valid_for);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, identity.to_string());
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn validity(mut params: CertificateParams, valid_for: Duration) -> CertificateParams {
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + valid_for).into();
    // A positive number of the full length: the first bits are 01.
    let mut serial: [u8; 16] = rand::random();
    serial[0] = (serial[0] & 0x3f) | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params
}

fn parse_key(pem: &str, path: &Path) -> Result<KeyPair, CaError> {
    KeyPair::from_pem(pem)
        .map_err(|error| CaError::Damaged { path: path.to_owned(), reason: error.to_string() })
}

fn parse_request(csr: &str) -> Result<CertificateSigningRequestParams, CaError> {
    if csr.len() > MAX_CSR_BYTES {
        return Err(CaError::Request(format!("it has more than {MAX_CSR_BYTES} bytes")));
    }
    CertificateSigningRequestParams::from_pem(csr).map_err(|error| CaError::Request(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use globalfs_proto::SiteName;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn cloud() -> PeerIdentity {
        PeerIdentity::Site(SiteName::new("cloud").unwrap())
    }

    #[test]
    fn the_authority_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let first = Authority::open(dir.path()).unwrap();
        let again = Authority::open(dir.path()).unwrap();
        assert_eq!(first.fingerprint(), again.fingerprint());
        assert_eq!(first.certificate(), again.certificate());
        let mode = fs::metadata(dir.path().join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let admin = first.ensure_admin(dir.path()).unwrap();
        let files = CertFiles::load(&admin).unwrap();
        again.ensure_admin(dir.path()).unwrap();
        assert_eq!(CertFiles::load(&admin).unwrap(), files);
        assert_eq!(files.identity(), Ok(PeerIdentity::Admin));
    }

    #[test]
    fn a_crash_between_key_and_certificate_is_repaired() {
        let dir = tempfile::tempdir().unwrap();
        Authority::open(dir.path()).unwrap();
        let key = fs::read(dir.path().join(KEY_FILE)).unwrap();
        fs::remove_file(dir.path().join(CERTIFICATE_FILE)).unwrap();
        // A crash may also leave a temporary file behind.
        fs::write(dir.path().join("ca.crt.tmp"), "half").unwrap();
        let repaired = Authority::open(dir.path()).unwrap();
        assert_eq!(fs::read(dir.path().join(KEY_FILE)).unwrap(), key);
        assert_eq!(Authority::open(dir.path()).unwrap().fingerprint(), repaired.fingerprint());
    }

    #[test]
    fn a_lost_or_foreign_key_is_explained_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        Authority::open(dir.path()).unwrap();
        let check = |part: &str| {
            let error = Authority::open(dir.path()).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("backup"), "{error}");
        };
        fs::write(dir.path().join(KEY_FILE), files::new_key().unwrap()).unwrap();
        check("not the key of ca.crt");
        fs::write(dir.path().join(KEY_FILE), "").unwrap();
        check("ca.key");
        fs::remove_file(dir.path().join(KEY_FILE)).unwrap();
        check("is missing");
        fs::write(dir.path().join(KEY_FILE), files::new_key().unwrap()).unwrap();
        fs::write(dir.path().join(CERTIFICATE_FILE), "").unwrap();
        check("PEM");
    }

    #[test]
    fn names_in_a_request_are_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path()).unwrap();
        let key = KeyPair::generate().unwrap();
        let csr =
            CertificateParams::new(["admin.globalfs".to_owned()]).unwrap().serialize_request(&key).unwrap();
        let issued = authority.issue(&cloud(), &csr.pem().unwrap()).unwrap();
        let peer = tls::peer(&issued.certificate).unwrap();
        assert_eq!((peer.identity, &peer.key_fingerprint), (cloud(), &issued.key_fingerprint));
        assert_eq!(tls::key_fingerprint(&key), issued.key_fingerprint);
    }

    #[test]
    fn requests_that_are_none_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path()).unwrap();
        for bad in [
            "",
            "-----BEGIN CERTIFICATE REQUEST-----",
            &"x".repeat(MAX_CSR_BYTES + 1),
            authority.certificate(),
        ] {
            assert!(matches!(authority.issue(&cloud(), bad), Err(CaError::Request(_))));
        }
    }
}
