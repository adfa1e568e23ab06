//! A namespace of mounts and processes for a run: however the run ends, the kernel ends what it started and
//! takes away what it mounted, and nobody else ever sees it.
//!
//! *Invariant:* the scratch directory of a run goes with it, also when it is killed by SIGINT or SIGTERM.

use anyhow::{Context, Result, ensure};
use rustix::mount::{MountFlags, mount};
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

/// Tells the inner half of a run where to put its files.
const SCRATCH: &str = "GLOBALFS_PERF_SCRATCH";

/// Where `ip netns` keeps names.
const NETWORKS: &str = "/run/netns";

/// How often the kernel is given time to end what still holds files in the scratch directory.
const REMOVE_TRIES: u32 = 50;

/// Runs `inside` in namespaces of its own with a scratch directory below `dir`. The program is started a
/// second time for that, with the same arguments, so nothing may have happened before.
pub fn run(dir: &Path, inside: impl FnOnce(&Path) -> Result<()>) -> Result<ExitCode> {
    if let Some(scratch) = env::var_os(SCRATCH) {
        hide_networks()?;
        inside(Path::new(&scratch))?;
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(rustix::process::geteuid().is_root(), "this mounts and makes networks: it needs root");
    let scratch = TempDir::with_prefix_in("globalfs-perf-", dir)
        .with_context(|| format!("cannot make a directory in {}", dir.display()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async { wait(start(scratch.path())?).await })?;
    remove(scratch.keep())?;
    Ok(ended.map_or(ExitCode::from(130), exit_code))
}

fn start(scratch: &Path) -> Result<Child> {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--pid", "--fork", "--mount-proc", "--kill-child"]);
    command.arg("--").arg(env::current_exe()?).args(env::args_os().skip(1)).env(SCRATCH, scratch);
    command.spawn().context("cannot run `unshare` (package util-linux)")
}

/// Waits for the inner half; nothing if a signal came first, which ends it.
async fn wait(mut child: Child) -> Result<Option<ExitStatus>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        ended = child.wait() => return Ok(Some(ended?)),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    child.kill().await?;
    Ok(None)
}

fn exit_code(ended: ExitStatus) -> ExitCode {
    ExitCode::from(ended.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// The names of our networks are ours alone, and go with the namespace.
fn hide_networks() -> Result<()> {
    fs::create_dir_all(NETWORKS)?;
    mount("tmpfs", NETWORKS, "tmpfs", MountFlags::empty(), None)
        .with_context(|| format!("cannot mount on {NETWORKS}"))
}

/// Processes that were just killed may hold files for a moment.
fn remove(scratch: PathBuf) -> Result<()> {
    for _ in 0..REMOVE_TRIES {
        if fs::remove_dir_all(&scratch).is_ok() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))
}

/// Whether this is the inner half of a run.
pub fn is_inside() -> bool {
    env::var_os(SCRATCH).is_some()
}

/// Whether a program is installed.
pub fn has_program(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(OsStr::new(name)).is_file())
}
