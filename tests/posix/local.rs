//! A local file system of this machine, to compare with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A directory on a new ext4, or, where no loop device can be had, on the file system that temporary files have.
pub(crate) struct Local {
    pub(crate) directory: PathBuf,
    /// Which file system it is.
    pub(crate) kind: String,
    mount_point: Option<PathBuf>,
    _scratch: TempDir,
}

impl Local {
    pub(crate) fn new() -> Self {
        let scratch = TempDir::with_prefix("globalfs-test-").unwrap();
        let mount_point = mount_ext4(scratch.path());
        let directory = mount_point.clone().unwrap_or_else(|| scratch.path().to_owned()).join("work");
        // The suite's other users pass through it.
        crate::shell(scratch.path(), "chmod 755 .");
        fs::create_dir(&directory).unwrap();
        let kind = crate::shell(&directory, "findmnt -no FSTYPE -T .").trim().to_owned();
        Self { directory, kind, mount_point, _scratch: scratch }
    }
}

/// An ext4 in a file, if this machine allows it.
fn mount_ext4(scratch: &Path) -> Option<PathBuf> {
    let script = "truncate -s 256M image && mkfs.ext4 -q image && mkdir ext4 && mount -o loop image ext4";
    let output = Command::new("sh").args(["-c", script]).current_dir(scratch).output().unwrap();
    if !output.status.success() {
        eprintln!("no ext4 of its own here: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    output.status.success().then(|| scratch.join("ext4"))
}

impl Drop for Local {
    fn drop(&mut self) {
        if let Some(mount_point) = &self.mount_point {
            let _ = Command::new("umount").arg("-l").arg(mount_point).status();
        }
    }
}
