//! What an origin must do, on real files in a scratch directory.

mod changes;
mod confinement;
mod content;
mod files;
mod names;
mod watching;

use super::{Options, Origin, OriginError};
use crate::disk::{PosixDisk, Preference};
use crate::source::{Chunk, Deadline, Source};
use globalfs_proto::{ChunkIndex, ChunkSpan, FsError, FsResult, GlobalPath, SiteName, Version};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const ENOENT: FsError = FsError::NOT_FOUND;
const ENOTDIR: FsError = FsError::NOT_A_DIRECTORY;
const EACCES: FsError = FsError::Os(13);
const EISDIR: FsError = FsError::Os(21);
const EINVAL: FsError = FsError::Os(22);

/// An origin in a directory of its own, beside which tests may put things that must not be reached.
struct Fixture {
    scratch: tempfile::TempDir,
    origin: Origin,
}

impl Fixture {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir(scratch.path().join("origin")).unwrap();
        let disk = crate::disk::open(Preference::Auto).unwrap();
        let origin =
            Origin::open(&scratch.path().join("origin"), &site("onprem"), disk, Options::default()).unwrap();
        Self { scratch, origin }
    }

    /// Where `name` of the origin lies on the disk.
    fn at(&self, name: &str) -> PathBuf {
        self.scratch.path().join("origin").join(name)
    }

    fn outside(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    async fn version(&self, path: &str) -> Version {
        self.origin.stat(&global(path), soon()).await.unwrap().version()
    }

    async fn read(&self, path: &str, version: Version, first: u64, count: u64) -> FsResult<Vec<Chunk>> {
        let span = ChunkSpan { first: ChunkIndex(first), count };
        let mut stream = self.origin.read(&global(path), version, span, soon()).await?;
        let mut chunks = Vec::new();
        while let Some(chunk) = stream.recv().await {
            chunks.push(chunk?);
        }
        assert_eq!(chunks.len() as u64, count, "a stream without an error is complete");
        Ok(chunks)
    }
}

fn site(name: &str) -> SiteName {
    SiteName::new(name).unwrap()
}

fn global(path: &str) -> GlobalPath {
    GlobalPath::new(path.as_bytes()).unwrap()
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

/// Says aloud that a test cannot run here; fails where everything is to be tested.
fn skip(reason: &str) {
    assert!(std::env::var("GLOBALFS_TEST_FULL").as_deref() != Ok("1"), "missing: {reason}");
    eprintln!("SKIPPED: {reason}");
}

fn open(dir: &Path) -> Result<Origin, OriginError> {
    Origin::open(dir, &site("onprem"), Arc::new(PosixDisk::default()), Options::default())
}

#[test]
fn what_is_no_origin_is_told_apart() {
    let scratch = tempfile::tempdir().unwrap();
    fs::write(scratch.path().join("file"), b"").unwrap();
    assert!(open(scratch.path()).is_ok());
    assert!(matches!(open(&scratch.path().join("missing")), Err(OriginError::Missing(_))));
    assert!(matches!(open(&scratch.path().join("file")), Err(OriginError::NotADirectory(_))));
    assert!(matches!(open(&scratch.path().join("file/below")), Err(OriginError::NotADirectory(_))));
}

#[tokio::test]
async fn permissions_of_the_daemon_are_told() {
    use std::os::unix::fs::PermissionsExt;
    if rustix::process::geteuid().is_root() {
        // Root may read everything, so there is nothing to see, also where everything is to be tested.
        eprintln!("SKIPPED: root is refused nothing");
        return;
    }
    let fixture = Fixture::new();
    fs::write(fixture.at("secret"), b"x").unwrap();
    fs::create_dir(fixture.at("closed")).unwrap();
    let version = fixture.version("/secret").await;
    for name in ["secret", "closed"] {
        fs::set_permissions(fixture.at(name), fs::Permissions::from_mode(0o000)).unwrap();
    }
    assert!(matches!(open(&fixture.at("closed")), Err(OriginError::PermissionDenied(_))));
    assert_eq!(fixture.read("/secret", version, 0, 1).await, Err(EACCES));
    assert_eq!(fixture.origin.list(&global("/closed"), soon()).await, Err(EACCES));
    fs::set_permissions(fixture.at("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    assert!(fixture.origin.counters().errors.load(std::sync::atomic::Ordering::Relaxed) >= 2);
}
