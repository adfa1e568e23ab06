//! The place in the tree of the system where a volume is mounted: what is there now, and taking it away.

use crate::options::SUBTYPE;
use rustix::fs::{AtFlags, CWD, FileType, StatxFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;
use std::{io, thread};

/// How long a mounted volume may take to show that it lives. Longer than this is taken for alive: only a
/// mount whose program is gone answers at once that it is not connected.
const LIFE_SIGN_TIMEOUT: Duration = Duration::from_secs(2);

/// What to do about files that are still open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detach {
    /// Refuse with `EBUSY`.
    WhenUnused,
    /// Take the mount out of the tree at once; it ends when the last file is closed.
    Now,
}

/// Unmounts the volume that is mounted at `mountpoint`, and nothing that is not ours. As another user than root
/// this needs `fusermount3`.
pub fn unmount(mountpoint: &Path, detach: Detach) -> io::Result<()> {
    let mounts = std::fs::read("/proc/self/mountinfo")?;
    if !find_mount(&mounts, mountpoint).is_some_and(|mount| mount.is_ours) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no GlobalFS is mounted there"));
    }
    let flags = match detach {
        Detach::WhenUnused => UnmountFlags::NOFOLLOW,
        Detach::Now => UnmountFlags::NOFOLLOW | UnmountFlags::DETACH,
    };
    match rustix::mount::unmount(mountpoint, flags) {
        Err(Errno::PERM) => unmount_as_user(mountpoint, detach),
        other => Ok(other?),
    }
}

/// Ends all requests that wait for the program behind `mountpoint`, which is gone or is being killed: a program that was telling
/// the kernel what to forget may wait there for a directory whose reader waits for the program. Only root can. What is in use
/// stays mounted, and answers that it is not connected.
pub fn abort(mountpoint: &Path) -> io::Result<()> {
    match rustix::mount::unmount(mountpoint, UnmountFlags::NOFOLLOW | UnmountFlags::FORCE) {
        Err(Errno::BUSY) => Ok(()),
        other => Ok(other?),
    }
}

fn unmount_as_user(mountpoint: &Path, detach: Detach) -> io::Result<()> {
    let flag = if detach == Detach::Now { "-uz" } else { "-u" };
    let output = Command::new("fusermount3").arg(flag).arg("--").arg(mountpoint).output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let busy = text.contains("busy");
    Err(if busy { Errno::BUSY.into() } else { io::Error::other(text) })
}

/// What is at a mount point.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A directory on which nothing of ours is mounted.
    Directory,
    /// Our mount, alive.
    Alive,
    /// Our mount, whose program is gone.
    Stale,
    /// Another FUSE mount whose program is gone.
    StaleForeign,
}

/// `mountpoint` without symbolic links, also when a stale mount is there.
pub(crate) fn resolve(mountpoint: &Path) -> io::Result<PathBuf> {
    match mountpoint.canonicalize() {
        Err(e) if tells_of_death(&e) => {
            let absolute = std::path::absolute(mountpoint)?;
            let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else { return Err(e) };
            Ok(parent.canonicalize()?.join(name))
        }
        other => other,
    }
}

/// Looks at `mountpoint`, which is resolved already. Never waits for a mount that hangs.
pub(crate) fn inspect(mountpoint: &Path) -> io::Result<Found> {
    let mounts = std::fs::read("/proc/self/mountinfo")?;
    let ours = find_mount(&mounts, mountpoint).is_some_and(|m| m.is_ours);
    match life_sign(mountpoint) {
        None if ours => Ok(Found::Alive),
        None => Err(io::ErrorKind::TimedOut.into()),
        Some(Err(e)) if tells_of_death(&e) => Ok(if ours { Found::Stale } else { Found::StaleForeign }),
        _ if ours => Ok(Found::Alive),
        Some(Err(e)) => Err(e),
        Some(Ok(is_directory)) if is_directory => Ok(Found::Directory),
        Some(Ok(_)) => Err(io::ErrorKind::NotADirectory.into()),
    }
}

/// Whether a mount that answers with `error` has lost its program. The last two are seen for a moment, until the kernel
/// has taken back the rings of a program that was killed.
fn tells_of_death(error: &io::Error) -> bool {
    const SIGNS: [Errno; 3] = [Errno::NOTCONN, Errno::CANCELED, Errno::CONNABORTED];
    Errno::from_io_error(error).is_some_and(|errno| SIGNS.contains(&errno))
}

/// Whether `path` is a directory, asked of its file system itself, since the kernel goes on to answer
/// from memory when the program is gone; `None` when nobody answers.
fn life_sign(path: &Path) -> Option<io::Result<bool>> {
    let (sender, receiver) = mpsc::channel();
    let path = path.to_owned();
    let ask = move || {
        let stat = rustix::fs::statx(CWD, path, AtFlags::STATX_FORCE_SYNC, StatxFlags::TYPE)?;
        Ok(FileType::from_raw_mode(stat.stx_mode.into()).is_dir())
    };
    thread::spawn(move || sender.send(ask()));
    receiver.recv_timeout(LIFE_SIGN_TIMEOUT).ok()
}

/// The device number, `major:minor`, of the topmost mount at `mountpoint`; `None` when there is none.
pub(crate) fn device(mountpoint: &Path) -> Option<String> {
    let mounts = std::fs::read("/proc/self/mountinfo").ok()?;
    find_mount(&mounts, mountpoint).map(|m| m.device)
}

/// Lets the kernel read ahead `kib` of the mount that has `device`; only root may.
pub(crate) fn raise_read_ahead(device: &str, kib: u32) -> io::Result<()> {
    std::fs::write(format!("/sys/class/bdi/{device}/read_ahead_kb"), kib.to_string())
}

/// Where volumes of ours are mounted in this mount namespace, each with its source, which is its configuration.
pub fn our_mounts() -> Vec<(PathBuf, PathBuf)> {
    ours_in(&std::fs::read("/proc/self/mountinfo").unwrap_or_default())
}

fn ours_in(mounts: &[u8]) -> Vec<(PathBuf, PathBuf)> {
    let all = mounts.split(|&b| b == b'\n').filter_map(parse_mount);
    all.filter(|(_, mount)| mount.is_ours).map(|(at, mount)| (at, mount.source)).collect()
}

/// The topmost mount at a mount point.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    /// `major:minor`
    device: String,
    is_ours: bool,
    source: PathBuf,
}

/// Looks for `mountpoint` in the text of `/proc/self/mountinfo`, of which the last line counts.
fn find_mount(mounts: &[u8], mountpoint: &Path) -> Option<Mount> {
    let lines = mounts.split(|&b| b == b'\n').rev();
    lines.filter_map(parse_mount).find(|(at, _)| at == mountpoint).map(|(_, mount)| mount)
}

/// Columns: id, parent, device, root, mount point, options, tags ..., `-`, type, source, options.
fn parse_mount(line: &[u8]) -> Option<(PathBuf, Mount)> {
    let columns: Vec<&[u8]> = line.split(|&b| b == b' ').collect();
    let separator = columns.iter().position(|c| *c == b"-")?;
    let device = String::from_utf8(columns.get(2)?.to_vec()).ok()?;
    let is_ours = columns.get(separator + 1)?.strip_prefix(b"fuse.") == Some(SUBTYPE.as_bytes());
    let path = |column: &[u8]| PathBuf::from(OsString::from_vec(unescape(column)));
    let source = path(columns.get(separator + 2)?);
    Some((path(columns.get(4)?), Mount { device, is_ours, source }))
}

/// Blanks, newlines and backslashes stand as a backslash and three octal digits.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail.get(..3).filter(|d| first == b'\\' && d.iter().all(|b| (b'0'..b'8').contains(b)));
        let code = digits.map(|d| d.iter().fold(0u32, |n, b| n * 8 + u32::from(b - b'0')));
        match code.and_then(|n| u8::try_from(n).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &[u8] = b"\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:50 / /mnt/a\\040b ro shared:5 master:2 - fuse.globalfs globalfs ro,user_id=0
41 22 0:51 / /mnt/c rw - fuse.sshfs host: rw
42 22 0:52 / /mnt/c rw - fuse.globalfs globalfs rw
43 22 0:53 / /mnt/d rw - fuse.globalfs globalfs rw
44 22 8:2 / /mnt/d rw - ext4 /dev/sda2 rw
";

    #[test]
    fn the_topmost_mount_counts() {
        let check = |at: &str, want: Option<(&str, bool)>| {
            let found = find_mount(MOUNTS, Path::new(at)).map(|mount| (mount.device, mount.is_ours));
            assert_eq!(found, want.map(|(device, is_ours)| (device.into(), is_ours)));
        };
        check("/", Some(("8:1", false)));
        check("/mnt/a b", Some(("0:50", true)));
        check("/mnt/c", Some(("0:52", true)));
        check("/mnt/d", Some(("8:2", false)));
        check("/mnt/none", None);
    }

    #[test]
    fn mounts_of_ours_are_known_among_others() {
        let mount = |at: &str| (PathBuf::from(at), PathBuf::from("globalfs"));
        assert_eq!(ours_in(MOUNTS), ["/mnt/a b", "/mnt/c", "/mnt/d"].map(mount));
        assert!(ours_in(b"garbage - fuse").is_empty());
    }

    #[test]
    fn escapes_are_undone() {
        assert_eq!(unescape(b"a\\040b\\134\\012"), b"a b\\\n");
        assert_eq!(unescape(b"\\9\\04\\777"), b"\\9\\04\\777");
    }

    #[test]
    fn unmounts_nothing_that_is_not_ours() {
        for at in ["/", "/proc", "/nowhere"] {
            let refused = unmount(Path::new(at), Detach::WhenUnused).unwrap_err();
            assert_eq!(refused.to_string(), "no GlobalFS is mounted there", "{at}");
        }
    }

    #[test]
    fn looks_at_what_is_there() {
        let scratch = tempfile::tempdir().unwrap();
        assert_eq!(inspect(scratch.path()).unwrap(), Found::Directory);
        let file = scratch.path().join("f");
        std::fs::write(&file, "").unwrap();
        assert_eq!(inspect(&file).unwrap_err().kind(), io::ErrorKind::NotADirectory);
        assert_eq!(inspect(&scratch.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
