//! The directory of a demo: what it makes there, how everything of it is stopped and removed.
//!
//! *Invariants:* only what the demo has made is removed, and nothing through a mount that is still there.
//! Stopping needs no notes about processes: whatever runs with a configuration below the directory is its own.

use anyhow::{Context, Result, bail, ensure};
use globalfs_fuse::{Detach, unmount};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// The primary site and its files.
pub(super) const ONPREM: &str = "onprem";
/// The burst site and its files.
pub(super) const CLOUD: &str = "cloud";
/// Configurations, state, logs.
pub(super) const RUN: &str = "run";
/// Where the tree is mounted: for two nodes of `cloud` and one of `onprem`.
pub(super) const MOUNT_POINTS: [&str; 3] = ["globalfs", "globalfs-node-2", "globalfs-onprem"];

/// Says that a demo made this directory's content; holds [`MADE_DIR`] if also the directory itself.
const MARKER: &str = ".globalfs-demo";
const MADE_DIR: &str = "directory made\n";

/// How long programs may take to end before they are killed.
const STOP_LIMIT: Duration = Duration::from_secs(15);
const POLL_EVERY: Duration = Duration::from_millis(20);

/// A demo's directory. Stopped and removed when dropped, unless it is kept.
pub(super) struct Place {
    dir: PathBuf,
    is_kept: bool,
}

impl Place {
    /// Prepares `dir`, which may exist, or a new temporary directory.
    pub(super) fn make(dir: Option<PathBuf>) -> Result<Self> {
        let (dir, is_new) = match dir {
            Some(dir) => (dir.clone(), make_dir(&dir)?),
            None => (tempfile::Builder::new().prefix("globalfs-demo-").tempdir()?.keep(), true),
        };
        let dir = fs::canonicalize(dir)?;
        check_free(&dir)?;
        fs::write(dir.join(MARKER), if is_new { MADE_DIR } else { "" })?;
        let place = Self { dir, is_kept: false };
        for name in [ONPREM, CLOUD, RUN].iter().chain(&MOUNT_POINTS) {
            fs::create_dir(place.dir.join(name))?;
        }
        Ok(place)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Takes the mounts out of the tree.
    pub(super) fn unmount(&self) {
        unmount_all(&self.dir);
    }

    /// Stops what still runs and removes what was made.
    pub(super) fn remove(mut self) -> Result<()> {
        self.is_kept = true;
        stop(&self.dir)
    }

    /// Everything stays.
    pub(super) fn keep(mut self) -> PathBuf {
        self.is_kept = true;
        self.dir.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.is_kept {
            // Nobody is left to be told: this is the way out of a panic or of an earlier error.
            let _ = stop(&self.dir);
        }
    }
}

/// Makes `dir` and says whether it was missing.
fn make_dir(dir: &Path) -> Result<bool> {
    match fs::create_dir(dir) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists && dir.is_dir() => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot make {}", dir.display())),
    }
}

fn check_free(dir: &Path) -> Result<()> {
    let shown = dir.display();
    ensure!(
        !dir.join(MARKER).exists(),
        "{shown} has a demo already; stop it with 'globalfs demo --stop {shown}'"
    );
    for name in [ONPREM, CLOUD, RUN].iter().chain(&MOUNT_POINTS) {
        ensure!(!dir.join(name).exists(), "{shown} has a {name} already; name an empty directory");
    }
    Ok(())
}

/// Stops and removes the demo in `dir`, also what a demo that was killed has left there.
///
/// # Errors
/// There is no demo in `dir`, or something could not be stopped or removed.
pub fn stop(dir: &Path) -> Result<()> {
    let dir = fs::canonicalize(dir).with_context(|| format!("cannot stop a demo in {}", dir.display()))?;
    let marker = fs::read_to_string(dir.join(MARKER));
    let marker = marker.with_context(|| format!("{} is not the directory of a demo", dir.display()))?;
    unmount_all(&dir);
    stop_programs(&dir)?;
    for name in MOUNT_POINTS {
        // Fails on a mount that is still there, before anything below it could be touched.
        remove(&dir.join(name), |path| fs::remove_dir(path))?;
    }
    for name in [ONPREM, CLOUD, RUN] {
        remove(&dir.join(name), |path| fs::remove_dir_all(path))?;
    }
    remove(&dir.join(MARKER), |path| fs::remove_file(path))?;
    if marker == MADE_DIR { remove_unless_used(&dir) } else { Ok(()) }
}

fn remove(path: &Path, how: impl Fn(&Path) -> std::io::Result<()>) -> Result<()> {
    match how(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The user may have put something of his own there.
fn remove_unless_used(dir: &Path) -> Result<()> {
    remove(dir, |path| match fs::remove_dir(path) {
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
        other => other,
    })
}

fn unmount_all(dir: &Path) {
    for name in MOUNT_POINTS {
        // Where nothing is mounted this fails; where something stays mounted, removing tells it.
        let _ = unmount(&dir.join(name), Detach::Now);
    }
}

/// SIGTERM for everything that runs with a configuration below `dir`, and SIGKILL for what stays.
fn stop_programs(dir: &Path) -> Result<()> {
    let configurations = dir.join(RUN);
    let started = Instant::now();
    signal_all(&configurations, Signal::TERM)?;
    while !running(&configurations)?.is_empty() {
        match started.elapsed() {
            elapsed if elapsed > 2 * STOP_LIMIT => bail!("programs of {} do not end", dir.display()),
            elapsed if elapsed > STOP_LIMIT => signal_all(&configurations, Signal::KILL)?,
            _ => {}
        }
        thread::sleep(POLL_EVERY);
    }
    Ok(())
}

fn signal_all(configurations: &Path, signal: Signal) -> Result<()> {
    for pid in running(configurations)? {
        // The number may be another program's by now: a pidfd holds on to the one that is looked at again.
        if let Ok(process) = pidfd_open(pid, PidfdFlags::empty())
            && is_ours(pid, configurations)
        {
            // It may have ended since.
            let _ = pidfd_send_signal(process, signal);
        }
    }
    Ok(())
}

fn running(configurations: &Path) -> Result<Vec<Pid>> {
    let entries = fs::read_dir("/proc").context("cannot look at /proc")?;
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(numbers.filter_map(Pid::from_raw).filter(|pid| is_ours(*pid, configurations)).collect())
}

/// Whether a program of ours runs as `pid` with `--config` and a path below `configurations`.
fn is_ours(pid: Pid, configurations: &Path) -> bool {
    let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    let mut arguments = line.split(|&b| b == 0).map(|argument| Path::new(OsStr::from_bytes(argument)));
    let program = arguments.next().and_then(Path::file_name).unwrap_or_default();
    let is_program = program == "globalfs" || program == "globalfs-fuse";
    is_program
        && arguments.any(|argument| argument == "--config")
        && arguments.next().is_some_and(|file| file.starts_with(configurations))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removes_what_it_made_and_nothing_else() {
        let scratch = tempfile::tempdir().unwrap();
        let given = scratch.path().join("given");
        fs::create_dir(&given).unwrap();
        fs::write(given.join("mine"), "x").unwrap();
        let place = Place::make(Some(given.clone())).unwrap();
        fs::write(given.join(RUN).join("log"), "x").unwrap();
        assert!(Place::make(Some(given.clone())).is_err_and(|e| e.to_string().contains("demo --stop")));
        place.remove().unwrap();
        let left: Vec<_> = fs::read_dir(&given).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["mine"]);

        let made = scratch.path().join("made");
        drop(Place::make(Some(made.clone())).unwrap());
        assert!(!made.exists());
        assert!(stop(&given).is_err());
    }

    #[test]
    fn takes_over_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir(scratch.path().join(CLOUD)).unwrap();
        let error = Place::make(Some(scratch.path().to_owned())).err().unwrap();
        assert!(error.to_string().contains("has a cloud already"), "{error}");
        assert!(scratch.path().join(CLOUD).exists() && !scratch.path().join(MARKER).exists());
    }
}
