//! The origin of a node's own site where the node sees it itself, as on a parallel file system or over NFS: its files
//! are opened in place, and their bytes pass no daemon.
//!
//! Names and attributes still come from the site's daemon. A file that is not, or not yet, seen here as the daemon sees
//! it is read through the daemon.

use super::watch::is_local;
use super::{MAX_CALLS, OriginError, tree::Tree};
use crate::source::Deadline;
use globalfs_proto::{FsError, FsResult, GlobalPath, SiteName, Target, Version};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// A site's origin, seen from a node. Clones are one.
#[derive(Clone)]
pub struct DirectOrigin(Arc<Inner>);

struct Inner {
    tree: Tree,
    calls: Arc<Semaphore>,
}

/// A file that is about to be written to by this machine.
#[derive(Debug)]
pub struct WrittenFile {
    /// For the kernel, which does not count it among those who write.
    pub file: Arc<File>,
    /// As long as it is open the site's daemon sees that somebody writes.
    pub writer: File,
}

impl DirectOrigin {
    /// Opens `dir`, which shows what the origin of `site` holds.
    pub fn open(dir: &Path, site: &SiteName) -> Result<Self, OriginError> {
        let (tree, calls) = (Tree::open(dir, site)?, Arc::new(Semaphore::new(MAX_CALLS)));
        Ok(Self(Arc::new(Inner { tree, calls })))
    }

    /// The regular file `path` if it is content `version` now. Whoever changes it in place later changes what is read
    /// here, as at any local file.
    pub async fn open_file(
        &self,
        path: &GlobalPath,
        version: Version,
        deadline: Deadline,
    ) -> FsResult<Arc<File>> {
        let path = path.clone();
        let open = move |tree: &Tree| {
            let (file, attr) = tree.open_regular(&path)?;
            if attr.version() == version { Ok(Arc::new(file)) } else { Err(FsError::Stale(None)) }
        };
        self.call(deadline, open).await
    }

    /// The file `target`, open to write, where this machine alone writes to the file system: so the kernel of the site's
    /// daemon is this one.
    pub async fn open_to_write(&self, target: &Target, deadline: Deadline) -> FsResult<WrittenFile> {
        let target = target.clone();
        let open = move |tree: &Tree| {
            let (file, attr) = tree.open_regular(&target.path)?;
            match attr.file == target.file {
                true if !is_local(&file) => Err(FsError::NOT_SUPPORTED),
                true => Ok(WrittenFile { writer: tree.open_to_write(&file)?, file: Arc::new(file) }),
                false => Err(FsError::Stale(None)),
            }
        };
        self.call(deadline, open).await
    }

    async fn call<T: Send + 'static>(
        &self,
        deadline: Deadline,
        work: impl FnOnce(&Tree) -> FsResult<T> + Send + 'static,
    ) -> FsResult<T> {
        let inner = self.0.clone();
        let run = async move {
            let permit = inner.calls.clone().acquire_owned().await.map_err(io::Error::other)?;
            let call = move || {
                // A call that outlives its deadline keeps its place until the file system lets it go.
                let _permit = permit;
                work(&inner.tree)
            };
            tokio::task::spawn_blocking(call).await.map_err(io::Error::other)?
        };
        deadline.bound(run).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Options, Origin};
    use super::*;
    use crate::disk::PosixDisk;
    use crate::source::Source;
    use std::io::Read;
    use std::time::Duration;

    #[tokio::test]
    async fn opens_what_the_daemon_sees_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "hello").unwrap();
        std::os::unix::fs::symlink("file", dir.path().join("link")).unwrap();
        let site = SiteName::new("onprem").unwrap();
        let origin = Origin::open(dir.path(), &site, Arc::new(PosixDisk::default()), Options::default());
        let direct = DirectOrigin::open(dir.path(), &site).unwrap();
        let (deadline, path) = (Deadline::after(Duration::from_secs(5)), GlobalPath::new(b"/file").unwrap());
        let version = origin.unwrap().stat(&path, deadline).await.unwrap().version();
        let mut text = String::new();
        direct.open_file(&path, version, deadline).await.unwrap().as_ref().read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        let older = Version { mtime_ns: version.mtime_ns - 1, ..version };
        assert!(matches!(direct.open_file(&path, older, deadline).await, Err(FsError::Stale(None))));
        let link = GlobalPath::new(b"/link").unwrap();
        assert!(direct.open_file(&link, version, deadline).await.is_err());
        let other = DirectOrigin::open(dir.path(), &SiteName::new("cloud").unwrap()).unwrap();
        assert!(other.open_file(&path, version, deadline).await.is_err(), "another site's file");
    }
}
