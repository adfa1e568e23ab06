//! The kernel's pages: dropping those that a measurement must not find in memory.

use anyhow::{Context, Result, bail};
use rustix::fs::{Advice, fadvise};
use std::fs::{self, File};
use std::path::Path;

/// Writing 1 here drops every clean page of every file, and no names.
const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";

/// File systems whose files are pages that cannot be dropped.
const IN_MEMORY: [&str; 3] = ["tmpfs", "ramfs", "rootfs"];

/// Drops all pages of all files, those of mounts and those of what a mount keeps on a disk alike. What is not yet
/// written is written first, for it could not be dropped.
pub(super) fn drop_all() -> Result<()> {
    rustix::fs::sync();
    fs::write(DROP_CACHES, "1").with_context(|| format!("cannot write {DROP_CACHES}"))
}

/// Drops the pages of one file alone: if a mount shows it, what the mount keeps on a disk stays in memory.
pub(super) fn drop_of(path: &Path) -> Result<()> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    Ok(fadvise(&file, 0, None, Advice::DontNeed)?)
}

/// The kind of the file system that holds `dir`, which must be one on a disk if pages are to be dropped.
pub(super) fn file_system_of(dir: &Path, drops_pages: bool) -> Result<String> {
    let dir = dir.canonicalize().with_context(|| dir.display().to_string())?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let kind = kind_at(&mounts, &dir).unwrap_or("unknown").to_owned();
    if drops_pages && IN_MEMORY.contains(&kind.as_str()) {
        bail!(
            "{} is on {kind}, whose pages cannot be dropped: choose a directory on a disk with --dir, or \
             phases that drop nothing with --phases",
            dir.display()
        );
    }
    Ok(kind)
}

/// The kind of the mount with the longest path above `dir`; of several at one place the last is seen.
fn kind_at<'a>(mountinfo: &'a str, dir: &Path) -> Option<&'a str> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let at = line.split(' ').nth(4)?;
        let kind = line.split_once(" - ")?.1.split(' ').next()?;
        dir.starts_with(at).then_some((at.len(), kind))
    });
    mounts.max_by_key(|(length, _)| *length).map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_holds_a_directory() {
        let mounts = "24 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
                      26 24 0:24 / /dev/shm rw - tmpfs tmpfs rw\n\
                      30 24 0:40 / /data rw master:2 - xfs /dev/vdb rw\n\
                      31 24 0:41 / /data rw - btrfs /dev/vdc rw\n";
        let check = |dir: &str, want| assert_eq!(kind_at(mounts, Path::new(dir)), Some(want), "{dir}");
        check("/var/tmp", "ext4");
        check("/dev/shm/x", "tmpfs");
        check("/data/x", "btrfs");
        check("/database", "ext4");
        assert_eq!(kind_at("nonsense\n", Path::new("/")), None);
    }
}
