//! Which sessions there are, on disk: an empty file for each, so that a daemon which was killed knows whom to wait for.

use globalfs_proto::{LockSession, NodeName};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// A mount's session.
pub(super) type Of = (NodeName, LockSession);

/// The folder of these files. Its calls block.
#[derive(Debug, Clone)]
pub(super) struct Records(PathBuf);

impl Records {
    /// Opens `dir`, which is made if it is not there, and gives the sessions in it.
    pub(super) fn open(dir: &Path) -> io::Result<(Self, Vec<Of>)> {
        fs::create_dir_all(dir)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name();
            match name.to_str().and_then(parse) {
                Some(of) => found.push(of),
                None => tracing::warn!(?name, dir = %dir.display(), "not the record of a session of locks"),
            }
        }
        Ok((Self(dir.to_owned()), found))
    }

    /// Returns when the record is on disk.
    pub(super) fn add(&self, of: &Of) -> io::Result<()> {
        File::create(self.path(of))?.sync_all()?;
        File::open(&self.0)?.sync_all()
    }

    /// A record that stays costs a wait after the next restart and nothing else.
    pub(super) fn remove(&self, of: &Of) {
        if let Err(error) = fs::remove_file(self.path(of))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, node = %of.0, "the record of a session of locks stays");
        }
    }

    fn path(&self, (node, session): &Of) -> PathBuf {
        self.0.join(format!("{node}.{:016x}", session.0))
    }
}

fn parse(name: &str) -> Option<Of> {
    let (node, session) = name.rsplit_once('.')?;
    let session = u64::from_str_radix(session, 16).ok().filter(|session| *session != 0)?;
    Some((NodeName::new(node).ok()?, LockSession(session)))
}
