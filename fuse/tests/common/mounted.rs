//! A volume in memory, mounted by a real kernel, in a mount namespace of its own.
//!
//! Each test runs again in a program of its own with a private mount namespace: a process elsewhere that
//! copies its namespace while we are mounted would keep the mount alive, and a hanging mount must not
//! outlive its test. It runs there once for each way between the kernel and the mount.

use super::MemoryVolume;
use super::ways::{self, Way};
use globalfs_fuse::{MountError, Options, Session, mount};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

const INSIDE: &str = "GLOBALFS_TEST_NAMESPACE";

/// Whether this is the program inside the private namespace. The one outside runs that and returns false.
pub(crate) fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let can_unshare =
        || Command::new("unshare").args(["--mount", "true"]).status().is_ok_and(|s| s.success());
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists() || !can_unshare() {
        return skip(test, "root, /dev/fuse and the right to make a mount namespace");
    }
    run_inside(test, Way::Device);
    match ways::offer_rings() {
        Some(_offered) => run_inside(test, Way::Rings),
        None => drop(skip(test, "a kernel with FUSE over io_uring (Linux 6.14), and the right to enable it")),
    }
    false
}

fn run_inside(test: &str, way: Way) {
    let status = Command::new("timeout")
        .args(["--signal=KILL", "120", "unshare", "--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .env(ways::VARIABLE, way.word())
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed in its namespace with {}: {status}", way.word());
}

/// Names and attributes are remembered for an hour: only `open` finds out about changes.
pub(crate) const LONG: &str = "attr_timeout=3600,entry_timeout=3600";

/// Says that `test` cannot run for want of `what`; an error where everything has to be there.
pub(crate) fn skip(test: &str, what: &str) -> bool {
    assert!(std::env::var_os("GLOBALFS_TEST_FULL").is_none(), "{test} needs {what}");
    eprintln!("SKIPPED: {test} needs {what}");
    false
}

pub(crate) struct Mounted {
    pub(crate) volume: Arc<MemoryVolume>,
    pub(crate) session: Session,
    pub(crate) runtime: Runtime,
    pub(crate) directory: tempfile::TempDir,
}

impl Mounted {
    pub(crate) fn new(words: &str) -> Self {
        let volume = MemoryVolume::new();
        let runtime = Runtime::new().unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let session = mount_at(&volume, directory.path(), words, &runtime).unwrap();
        // Something that is asked for, and that no test counts: then it is settled which way requests come.
        rustix::fs::statvfs(session.mountpoint()).unwrap();
        assert_eq!(session.uses_io_uring(), Way::of_this_run() == Way::Rings);
        Self { volume, session, runtime, directory }
    }

    pub(crate) fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.session.mountpoint().join(name)
    }

    /// Runs a shell script in the mount and returns what it prints.
    pub(crate) fn shell(&self, script: &str) -> String {
        let output =
            Command::new("sh").arg("-ec").arg(script).current_dir(self.session.mountpoint()).output();
        let output = output.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// Waits until `reached`, for what the kernel does after an answer.
    pub(crate) fn eventually(&self, what: &str, reached: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !reached(self) {
            assert!(start.elapsed() < Duration::from_secs(20), "{what}: {:?}", self.session.counts());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

pub(crate) fn mount_at(
    volume: &Arc<MemoryVolume>,
    at: &Path,
    words: &str,
    runtime: &Runtime,
) -> Result<Session, MountError> {
    let mut options = Options::default();
    options.apply(Way::of_this_run().word()).unwrap();
    options.apply(words).unwrap();
    mount(volume.clone(), at, &options, runtime.handle().clone())
}

pub(crate) fn errno<T>(result: io::Result<T>) -> i32 {
    result.err().and_then(|e| e.raw_os_error()).unwrap_or(0)
}
