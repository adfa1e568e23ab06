//! A file system of others: servers at the far end, programs that mount in the foreground at the near end.

use super::{Bed, System, empty};
use anyhow::{Context, Result, bail, ensure};
use globalfs::local::{Place, Process, is_mounted};
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long a server may take to listen, and a mount to appear.
const START_LIMIT: Duration = Duration::from_secs(20);

/// How often that is looked at.
const POLL_EVERY: Duration = Duration::from_millis(50);

/// How long what a mount reads in advance may cross the link before a phase begins.
const SETTLE: Duration = Duration::from_secs(1);

/// The command that mounts: given the mount point and an empty directory for caches.
pub(super) type MountCommand = Box<dyn Fn(&Path, &Path) -> Command>;

/// A running peer. Its servers end with it.
pub(super) struct Peer {
    near: Place,
    dir: PathBuf,
    /// Ends when this value goes.
    _server: Process,
    command: MountCommand,
    mount: Option<Process>,
}

impl Peer {
    /// Starts the server and waits until it listens at `port` of the far end.
    pub(super) fn start(
        bed: &Bed<'_>,
        name: &str,
        server: Command,
        port: u16,
        command: MountCommand,
    ) -> Result<Self> {
        let dir = bed.folder("near", name)?;
        let address = (bed.wan.far().address(), port).into();
        let server = start_server(&bed.far(), server, address, &dir.join("server.log"))?;
        Ok(Self { near: bed.near(), dir, _server: server, command, mount: None })
    }

    fn mount_point(&self) -> PathBuf {
        self.dir.join("mnt")
    }
}

impl System for Peer {
    fn mount_cold(&mut self, count: usize) -> Result<Vec<PathBuf>> {
        ensure!(count == 1, "measured with one mount only");
        self.unmount();
        let (at, cache, log) = (self.mount_point(), self.dir.join("cache"), self.dir.join("mount.log"));
        empty(&cache)?;
        fs::create_dir_all(&at)?;
        let command = (self.command)(&at, &cache);
        let mut mount = self.near.enter(|| Process::spawn(command, log.clone()))?;
        let mounted = || {
            ensure!(is_mounted(&at), "not mounted yet");
            Ok(())
        };
        wait(&mut mount, &log, mounted).context("its mount")?;
        self.mount = Some(mount);
        std::thread::sleep(SETTLE);
        Ok(vec![at])
    }

    fn unmount(&mut self) {
        let at = self.mount_point();
        if is_mounted(&at) {
            let _ = Command::new("umount").arg("-l").arg(&at).output();
        }
        // One that does not end in time is killed, which ends the calls that hang in its mount.
        if let Some(mount) = self.mount.take() {
            let _ = mount.terminate();
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// Starts a server and waits until it listens.
pub(super) fn start_server(
    far: &Place,
    command: Command,
    address: SocketAddr,
    log: &Path,
) -> Result<Process> {
    let mut server = far.enter(|| Process::spawn(command, log.to_owned()))?;
    let listens = || far.enter(|| Ok(TcpStream::connect(address)?)).map(drop);
    wait(&mut server, log, listens).context("its server")?;
    Ok(server)
}

fn wait(process: &mut Process, log: &Path, mut probe: impl FnMut() -> Result<()>) -> Result<()> {
    let started = Instant::now();
    while let Err(last) = probe() {
        if !process.is_running() || started.elapsed() > START_LIMIT {
            let said = fs::read_to_string(log).unwrap_or_default();
            let said = said.trim().lines().next_back().unwrap_or("it said nothing");
            bail!("did not start: {last:#}; {said}");
        }
        std::thread::sleep(POLL_EVERY);
    }
    Ok(())
}
