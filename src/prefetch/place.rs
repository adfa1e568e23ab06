//! Which path of the namespace a person means: `/globalfs/data` below a mount point of ours, a relative path
//! in such a mount, or the path as the namespace has it.

use globalfs_fuse::our_mounts;
use globalfs_proto::{GlobalPath, PathError};
use std::fs;
use std::os::unix::ffi::OsStrExt;
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

    #[test]
    fn paths_below_a_mount_lose_its_place() {
        let mounts = ["/globalfs", "/mnt/a b"].map(PathBuf::from);
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
