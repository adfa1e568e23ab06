//! Certificates and keys as files: written whole or not at all, keys readable by their owner alone.
//!
//! *Invariant:* a file is written beside its place, synced and renamed, so a crash leaves the old file or
//! the new one. A key that was generated for a join is kept until the certificate for it is stored, so an
//! interrupted join can be repeated with the same key.

use crate::tls;
use globalfs_proto::PeerIdentity;
use rcgen::KeyPair;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Mode of files with private keys.
const SECRET_MODE: u32 = 0o600;
/// Mode of certificates.
const PUBLIC_MODE: u32 = 0o644;
const CERTIFICATE_FILE: &str = "identity.crt";
const KEY_FILE: &str = "identity.key";
const PENDING_KEY_FILE: &str = "identity.key.new";
const CA_FILE: &str = "ca.crt";

/// Who a program is: its certificate and key, and the authority that it trusts, all PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct CertFiles {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
    /// The certificate of the cluster's authority.
    pub ca: String,
}

/// Why certificates cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// Join the cluster first.
    #[error(
        "no certificate in {0}: join the cluster first, with a token from 'globalfs token create' \
         and 'globalfs site register' or 'globalfs node register'"
    )]
    NotJoined(PathBuf),
    /// The files do not belong together or are damaged; join again.
    #[error("{path}: {reason}; restore the file or join the cluster again with a new token")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

impl CertFiles {
    /// Reads `identity.crt`, `identity.key` and `ca.crt` of `dir` and checks that they fit together.
    pub fn load(dir: &Path) -> Result<Self, FilesError> {
        let read =
            |name: &str| read_text(&dir.join(name))?.ok_or_else(|| FilesError::NotJoined(dir.to_owned()));
        let files = Self { certificate: read(CERTIFICATE_FILE)?, key: read(KEY_FILE)?, ca: read(CA_FILE)? };
        let damaged = |name: &str, reason| FilesError::Damaged { path: dir.join(name), reason };
        tls::certificate_der(&files.ca).map_err(|reason| damaged(CA_FILE, reason))?;
        let peer = tls::peer(&files.certificate).map_err(|reason| damaged(CERTIFICATE_FILE, reason))?;
        let key = KeyPair::from_pem(&files.key).map_err(|error| damaged(KEY_FILE, error.to_string()))?;
        if tls::key_fingerprint(&key) != peer.key_fingerprint {
            return Err(damaged(KEY_FILE, format!("this is not the key of {CERTIFICATE_FILE}")));
        }
        Ok(files)
    }

    /// Writes the three files into `dir`, the certificate last: its presence says that all are there.
    pub fn write(&self, dir: &Path) -> Result<(), FilesError> {
        create_dir(dir)?;
        // Without the old certificate a crash between the files reads as "not joined", never as a mixture.
        remove(&dir.join(CERTIFICATE_FILE))?;
        write_whole(&dir.join(CA_FILE), self.ca.as_bytes(), PUBLIC_MODE)?;
        write_whole(&dir.join(KEY_FILE), self.key.as_bytes(), SECRET_MODE)?;
        write_whole(&dir.join(CERTIFICATE_FILE), self.certificate.as_bytes(), PUBLIC_MODE)?;
        remove(&dir.join(PENDING_KEY_FILE))
    }

    /// The key of a join that has not ended yet; made and stored when there is none.
    pub fn pending_key(dir: &Path) -> Result<String, FilesError> {
        create_dir(dir)?;
        let path = dir.join(PENDING_KEY_FILE);
        if let Some(key) = read_text(&path)?.filter(|text| KeyPair::from_pem(text).is_ok()) {
            return Ok(key);
        }
        let key = new_key().map_err(|reason| FilesError::Damaged { path: path.clone(), reason })?;
        write_whole(&path, key.as_bytes(), SECRET_MODE)?;
        Ok(key)
    }

    /// Whom the certificate names.
    pub fn identity(&self) -> Result<PeerIdentity, String> {
        tls::peer(&self.certificate).map(|peer| peer.identity)
    }
}

impl std::fmt::Debug for CertFiles {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertFiles").field("identity", &self.identity()).finish_non_exhaustive()
    }
}

/// A new private key, PEM.
pub fn new_key() -> Result<String, String> {
    KeyPair::generate().map(|key| key.serialize_pem()).map_err(|error| error.to_string())
}

/// Writes a private key that only its owner may read.
pub(crate) fn write_secret(path: &Path, text: &str) -> Result<(), FilesError> {
    write_whole(path, text.as_bytes(), SECRET_MODE)
}

/// Writes a certificate.
pub(crate) fn write_public(path: &Path, text: &str) -> Result<(), FilesError> {
    write_whole(path, text.as_bytes(), PUBLIC_MODE)
}

/// The text of a file; `None` when there is none.
pub(crate) fn read_text(path: &Path) -> Result<Option<String>, FilesError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FilesError::Io { path: path.to_owned(), source }),
    }
}

/// Creates a directory that only its owner may enter, unless it exists.
pub(crate) fn create_dir(dir: &Path) -> Result<(), FilesError> {
    let create = || {
        if dir.is_dir() {
            return Ok(());
        }
        fs::create_dir_all(dir)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
    };
    create().map_err(|source| FilesError::Io { path: dir.to_owned(), source })
}

fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FilesError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    remove(&temporary)?;
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|source| FilesError::Io { path: path.to_owned(), source })
}

fn remove(path: &Path) -> Result<(), FilesError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(FilesError::Io { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::Authority;
    use globalfs_proto::SiteName;

    fn some_files(dir: &Path) -> CertFiles {
        let authority = Authority::open(dir).unwrap();
        authority.own_files(&PeerIdentity::Site(SiteName::new("cloud").unwrap())).unwrap()
    }

    #[test]
    fn what_is_written_is_read_and_keys_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let files = some_files(dir.path());
        let at = dir.path().join("new/identity");
        assert!(matches!(CertFiles::load(&at), Err(FilesError::NotJoined(_))));
        files.write(&at).unwrap();
        assert_eq!(CertFiles::load(&at).unwrap(), files);
        let mode = fs::metadata(at.join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, SECRET_MODE);
    }

    #[test]
    fn a_pending_key_stays_until_the_files_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let first = CertFiles::pending_key(dir.path()).unwrap();
        assert_eq!(CertFiles::pending_key(dir.path()).unwrap(), first);
        some_files(dir.path()).write(&dir.path().join("elsewhere")).unwrap();
        some_files(dir.path()).write(dir.path()).unwrap();
        assert_ne!(CertFiles::pending_key(dir.path()).unwrap(), first);
    }

    #[test]
    fn files_of_two_identities_are_not_taken_for_one() {
        let dir = tempfile::tempdir().unwrap();
        some_files(dir.path()).write(dir.path()).unwrap();
        write_secret(&dir.path().join(KEY_FILE), &new_key().unwrap()).unwrap();
        let error = CertFiles::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("not the key of identity.crt"), "{error}");
    }

    #[test]
    fn every_crash_point_reads_as_not_joined_or_as_one_whole_set() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (some_files(&dir.path().join("a")), some_files(&dir.path().join("b")));
        let at = dir.path().join("identity");
        for crash_after in 0..4 {
            old.write(&at).unwrap();
            let steps: [&dyn Fn(); 3] = [
                &|| remove(&at.join(CERTIFICATE_FILE)).unwrap(),
                &|| write_public(&at.join(CA_FILE), &new.ca).unwrap(),
                &|| write_secret(&at.join(KEY_FILE), &new.key).unwrap(),
            ];
            steps.iter().take(crash_after).for_each(|step| step());
            match CertFiles::load(&at) {
                Ok(files) => assert_eq!((files, crash_after), (old.clone(), 0)),
                Err(error) => assert!(matches!(error, FilesError::NotJoined(_)), "{error}"),
            }
            new.write(&at).unwrap();
            assert_eq!(CertFiles::load(&at).unwrap(), new);
        }
    }
}
