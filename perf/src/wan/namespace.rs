//! Network namespaces that know who made them, so that what a killed run left is found and removed.
//!
//! A name is `globalfs-wan-PID-START-N-SIDE`: the process, when it started in the kernel's ticks, a number.

use super::tun::{DEVICE, Tun};
use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

const PREFIX: &str = "globalfs-wan-";
const FOLDER: &str = "/run/netns";

/// How long processes in a namespace have to end after SIGTERM.
const TERM_PATIENCE: Duration = Duration::from_secs(3);

/// Frames that wait in a device for the link, which decides on its own what to drop.
const DEVICE_QUEUE_FRAMES: u32 = 20_000;

/// The most that TCP may buffer: two round trips of 150 ms at 2 Gbit/s, as its bookkeeping wants twice the data.
const TCP_BUFFER_BYTES: u64 = 128 << 20;

/// One side of the link.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    address: Ipv4Addr,
}

impl Namespace {
    /// The name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address of this side.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// A command that runs in this network namespace, but in our mount namespace, so that mounts are seen by all.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Makes the namespace, its `lo` up.
    pub(super) fn create(number: u64, side: &str, address: Ipv4Addr) -> Result<Self> {
        let name = format!("{PREFIX}{}-{number}-{side}", process_tag("self").context("no /proc")?);
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Self { name, address };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Makes the device that leads to `peer`.
    pub(super) fn connect(&self, peer: Ipv4Addr, mtu: u16) -> Result<Tun> {
        let tun = self.within(|| {
            tune_stack()?;
            Tun::create()
        })??;
        let (mtu, queue) = (mtu.to_string(), DEVICE_QUEUE_FRAMES.to_string());
        self.ip(&["link", "set", DEVICE, "mtu", &mtu, "txqueuelen", &queue, "up"])?;
        let address = self.address.to_string();
        self.ip(&["address", "add", &address, "peer", &peer.to_string(), "dev", DEVICE])?;
        Ok(tun)
    }

    /// Changes the largest packet of the device.
    pub(super) fn set_mtu(&self, mtu: u16) -> Result<()> {
        self.ip(&["link", "set", DEVICE, "mtu", &mtu.to_string()])
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(FOLDER).join(&self.name)
    }

    fn ip(&self, arguments: &[&str]) -> Result<()> {
        run(Command::new("ip").args(["-n", &self.name]).args(arguments))
    }

    /// Runs `work` on a thread of its own that is in this namespace: sockets made there stay there.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(self.path()).with_context(|| format!("no namespace {}", self.name))?;
        let kind = Some(rustix::thread::LinkNameSpaceType::Network);
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                rustix::thread::move_into_link_name_space(file.as_fd(), kind)?;
                Ok(work())
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&[self.name()]);
    }
}

/// Removes the namespaces of processes that are gone, with what runs in them, and gives their names.
pub fn clean() -> Vec<String> {
    let left: Vec<String> = ours().filter(|(_, tag)| !is_alive(tag)).map(|(name, _)| name).collect();
    remove(&left);
    left
}

/// Removes the namespaces that this process has made, for when it ends without dropping them.
pub(super) fn remove_own() {
    let own = process_tag("self");
    let names: Vec<String> =
        ours().filter(|(_, tag)| Some(tag) == own.as_ref()).map(|(name, _)| name).collect();
    remove(&names);
}

/// What has to be there before anything is made.
pub(super) fn check_machine() -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "a WAN on one machine needs root, for network namespaces");
    ensure!(fs::exists("/dev/net/tun")?, "a WAN on one machine needs /dev/net/tun (modprobe tun)");
    for (program, package) in [("ip", "iproute2"), ("nsenter", "util-linux")] {
        let found = Command::new(program).arg("-V").output();
        ensure!(found.is_ok(), "a WAN on one machine needs the command `{program}` (package {package})");
    }
    Ok(())
}

/// All our namespaces as (name, who made them).
fn ours() -> impl Iterator<Item = (String, String)> {
    let entries = fs::read_dir(FOLDER).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter_map(|name| {
        let mut parts = name.strip_prefix(PREFIX)?.splitn(3, '-');
        let tag = format!("{}-{}", parts.next()?, parts.next()?);
        Some((name, tag))
    })
}

/// `PID-START` of a process, which no other one will ever have.
fn process_tag(pid: &str) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (number, rest) = stat.split_once(' ')?;
    let started = rest.rsplit_once(") ")?.1.split(' ').nth(19)?;
    Some(format!("{number}-{started}"))
}

fn is_alive(tag: &str) -> bool {
    tag.split_once('-').is_some_and(|(pid, _)| process_tag(pid).as_deref() == Some(tag))
}

/// Takes namespaces away with what runs inside; what cannot be removed is for the next run's [`clean`].
fn remove(names: &[impl AsRef<str>]) {
    end_processes(names);
    for name in names {
        let _ = Command::new("ip").args(["netns", "delete", name.as_ref()]).output();
    }
}

/// Ends what runs in the namespaces, all of it at once and politely first.
pub(super) fn end_processes(names: &[impl AsRef<str>]) {
    let deadline = Instant::now() + TERM_PATIENCE;
    signal_all(names, "-TERM");
    while !pids(names).is_empty() && Instant::now() < deadline {
        sleep(Duration::from_millis(10));
    }
    signal_all(names, "-KILL");
}

fn signal_all(names: &[impl AsRef<str>], signal: &str) {
    let pids = pids(names);
    if !pids.is_empty() {
        let _ = Command::new("kill").arg(signal).args(pids).output();
    }
}

fn pids(names: &[impl AsRef<str>]) -> Vec<String> {
    names.iter().flat_map(|name| pids_of(name.as_ref())).collect()
}

fn pids_of(name: &str) -> Vec<String> {
    let output = Command::new("ip").args(["netns", "pids", name]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.split_whitespace().map(String::from).collect()
}

/// Buffers that fill long fat links, and no memory of earlier connections, in the calling thread's namespace.
fn tune_stack() -> Result<()> {
    let buffers = |default_bytes: u64| format!("4096 {default_bytes} {TCP_BUFFER_BYTES}");
    for (name, value) in [
        ("ipv4/tcp_rmem", buffers(131_072)),
        ("ipv4/tcp_wmem", buffers(65_536)),
        ("ipv4/tcp_no_metrics_save", "1".into()),
        ("ipv6/conf/default/disable_ipv6", "1".into()),
    ] {
        let path = format!("/proc/sys/net/{name}");
        if fs::exists(&path)? {
            fs::write(&path, value).with_context(|| format!("cannot set {path}"))?;
        }
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
