//! Which path of the namespace a person means: `/globalfs/data` below a mount point of ours, a relative path
//! in such a mount, or the path as the namespace has it.

use globalfs_fuse::SUBTYPE;
use globalfs_proto::{GlobalPath, PathError};
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// Why a path names nothing of the namespace.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// A relative path outside of every mount of ours.
    #[error("'{0}' is neither below a mount of GlobalFS nor a path of the namespace, which begins with '/'")]
    Outside(String),
    /// It breaks the rules for paths.
    #[error("'{path}' is not a path of the namespace: {source}")]
    Malformed {
        /// As it was given.
        path: String,
        /// Which rule.
        source: PathError,
    },
}

/// The path of the namespace that `given` means on this machine.
pub fn namespace_path(given: &Path) -> Result<GlobalPath, PlaceError> {
    let mounts: Vec<PathBuf> = our_mounts().into_iter().map(|(at, _)| at).collect();
    let absolute = std::env::current_dir().unwrap_or_default().join(given);
    let below = below_a_mount(&normal(&absolute), &mounts);
    // A link outside that leads into a mount. What exists nowhere here can only be of the namespace.
    let below = below.or_else(|| below_a_mount(&fs::canonicalize(&absolute).ok()?, &mounts));
    let shown = || given.to_string_lossy().into_owned();
    let path = match below {
        Some(path) => path,
        None if given.is_absolute() => given.to_owned(),
        None => return Err(PlaceError::Outside(shown())),
    };
    GlobalPath::parse(path.as_os_str().as_bytes())
        .map_err(|source| PlaceError::Malformed { path: shown(), source })
}

/// Where volumes of ours are mounted in this mount namespace, each with the configuration that it shows.
pub fn our_mounts() -> Vec<(PathBuf, PathBuf)> {
    mounts_in(&fs::read("/proc/self/mountinfo").unwrap_or_default())
}

fn mounts_in(mountinfo: &[u8]) -> Vec<(PathBuf, PathBuf)> {
    let kind = format!("fuse.{SUBTYPE}");
    let mount = |line: &[u8]| {
        let fields: Vec<&[u8]> = line.split(|&b| b == b' ').collect();
        let dash = fields.iter().position(|field| *field == b"-")?;
        let [found, source] = *fields.get(dash + 1..dash + 3)? else { return None };
        (found == kind.as_bytes()).then(|| (unescaped(fields[4]), unescaped(source)))
    };
    mountinfo.split(|&b| b == b'\n').filter_map(mount).collect()
}

/// `mountinfo` has `\040` for a space, and so for tabs, newlines and backslashes.
fn unescaped(field: &[u8]) -> PathBuf {
    let (mut out, mut rest) = (Vec::new(), field);
    while let Some((&first, tail)) = rest.split_first() {
        let code = (first == b'\\').then(|| tail.get(..3)).flatten();
        let byte = code
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        out.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &tail[3..] } else { tail };
    }
    OsString::from_vec(out).into()
}

/// The path behind the longest mount point that holds it, as the namespace has it.
fn below_a_mount(path: &Path, mounts: &[PathBuf]) -> Option<PathBuf> {
    let holding = mounts.iter().filter(|at| path.starts_with(at));
    let at = holding.max_by_key(|at| at.as_os_str().len())?;
    Some(Path::new("/").join(path.strip_prefix(at).ok()?))
}

/// `path` without `.` and `..`, by its names alone: a dead mount must not be touched.
fn normal(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut clean, component| {
        match component {
            Component::ParentDir => drop(clean.pop()),
            Component::CurDir => {}
            other => clean.push(other),
        }
        clean
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &[u8] = b"22 1 0:20 / / rw - ext4 /dev/sda rw\n\
        30 22 0:40 / /globalfs ro,nosuid shared:1 - fuse.globalfs /etc/g.yaml rw\n\
        31 22 0:41 / /other rw - fuse.sshfs x rw\n\
        32 22 0:42 / /mnt/a\\040b ro - fuse.globalfs /etc/g.yaml rw\n";

    #[test]
    fn mounts_of_ours_are_known_among_others() {
        let mount = |at: &str| (PathBuf::from(at), PathBuf::from("/etc/g.yaml"));
        assert_eq!(mounts_in(MOUNTINFO), [mount("/globalfs"), mount("/mnt/a b")]);
        assert!(mounts_in(b"garbage - fuse").is_empty());
    }

    #[test]
    fn paths_below_a_mount_lose_its_place() {
        let mounts: Vec<PathBuf> = mounts_in(MOUNTINFO).into_iter().map(|(at, _)| at).collect();
        let check = |path: &str, want: Option<&str>| {
            assert_eq!(below_a_mount(&normal(Path::new(path)), &mounts), want.map(PathBuf::from), "{path}");
        };
        check("/globalfs/a/b", Some("/a/b"));
        check("/globalfs/x/../a/./", Some("/a"));
        check("/globalfs", Some("/"));
        check("/mnt/a b/c", Some("/c"));
        check("/globalfs2/a", None);
        check("/other/a", None);
        check("/globalfs/../a", None);
    }

    #[test]
    fn what_is_below_no_mount_is_taken_as_it_stands() {
        assert_eq!(namespace_path(Path::new("/no/such//x/")).unwrap().as_bytes(), b"/no/such/x");
        assert!(matches!(namespace_path(Path::new("no/such")), Err(PlaceError::Outside(_))));
        assert!(matches!(namespace_path(Path::new("/no/../such")), Err(PlaceError::Malformed { .. })));
    }
}
