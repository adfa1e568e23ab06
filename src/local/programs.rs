//! The programs of a local cluster and the processes that run them.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a process takes to end after SIGKILL at most, unless something in the kernel keeps it.
const KILL_LIMIT: Duration = Duration::from_secs(3);

/// How long a daemon may take to end after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// Where the two programs are.
#[derive(Debug, Clone)]
pub struct Programs {
    /// `globalfs`.
    pub globalfs: PathBuf,
    /// `globalfs-fuse`.
    pub globalfs_fuse: PathBuf,
}

impl Programs {
    /// The program that runs now and its sibling in the same folder.
    pub fn beside_this() -> Result<Self> {
        let this = std::env::current_exe().context("cannot tell where this program is")?;
        let folder = this.parent().context("this program lies in no folder")?;
        Ok(Self { globalfs: folder.join("globalfs"), globalfs_fuse: folder.join("globalfs-fuse") })
    }
}

/// A running daemon or mount. Killed when dropped, unless it is left running.
#[derive(Debug)]
pub struct Process(Option<Child>);

impl Process {
    /// Starts `command` with its output appended to the file `log`.
    pub fn spawn(mut command: Command, log: PathBuf) -> Result<Self> {
        let log = File::options().create(true).append(true).open(&log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let program = command.get_program().to_owned();
        let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self(Some(child)))
    }

    fn child(&mut self) -> &mut Child {
        self.0.as_mut().expect("present until it is consumed")
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.0.as_ref().expect("present until it is consumed").id()
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child().try_wait(), Ok(None))
    }

    /// SIGKILL, and waits for the end: of what is mounted at `mountpoint`, by force if need be.
    pub fn kill(mut self, mountpoint: Option<&Path>) -> Result<()> {
        self.child().kill()?;
        if let Some(mountpoint) = mountpoint
            && !self.ends_within(KILL_LIMIT)?
        {
            globalfs_fuse::abort(mountpoint).with_context(|| mountpoint.display().to_string())?;
        }
        self.child().wait()?;
        self.0 = None;
        Ok(())
    }

    fn ends_within(&mut self, limit: Duration) -> Result<bool> {
        let started = Instant::now();
        while started.elapsed() < limit {
            if self.child().try_wait()?.is_some() {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(false)
    }

    /// SIGTERM, and waits for the end; says whether the exit code was 0.
    pub fn terminate(mut self) -> Result<bool> {
        let pid = Pid::from_child(self.child());
        kill_process(pid, Signal::TERM)?;
        let started = Instant::now();
        while started.elapsed() < STOP_LIMIT {
            if let Some(status) = self.child().try_wait()? {
                self.0 = None;
                return Ok(status.success());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("process {} did not end within {STOP_LIMIT:?} of SIGTERM", pid.as_raw_nonzero())
    }

    /// Goes on without this value.
    pub fn leave_running(mut self) {
        self.0 = None;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
