//! `globalfs mount` and `globalfs umount`, the same for both programs.

use super::daemon::DaemonArgs;
use super::output::complain;
use crate::config::MountConfig;
use crate::mount::NodeVolume;
use crate::node::Node;
use crate::telemetry::Component;
use crate::telemetry::metrics::{Health, MetricsServer};
use crate::trace::{Watch, control};
use anyhow::{Context, Result, bail};
use globalfs_fuse::{Detach, Session};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const HELP: &str = "\
Goes to the background once the tree is mounted, and logs to STATE_DIR/mount.log. What the node's own site
masters can be changed; elsewhere changes fail with 'Read-only file system'.

Options behind -o are those of mount(8): ro, rw, allow_other, [no]dev, [no]suid, [no]exec, [no]atime, ... and
  passthrough=auto|off       let the kernel read whole cached files by itself (root, Linux 6.9)
  io_uring=auto|on|off       take requests over io_uring (Linux 6.14, if fuse's enable_uring is Y)
  attr_timeout, entry_timeout, negative_timeout=SECONDS   for names whose changes nobody would tell
In /etc/fstab, with mount.globalfs installed:
  /etc/globalfs/globalfs.yaml  /globalfs  globalfs  allow_other,_netdev  0  0

Examples:
  globalfs-fuse mount /globalfs --config /etc/globalfs/globalfs.yaml -o allow_other
  globalfs umount /globalfs";

/// Arguments of `mount`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Mount {
    /// The directory on which to mount
    mountpoint: PathBuf,
    /// The node's configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/globalfs/globalfs.yaml", env = "GLOBALFS_CONFIG")]
    config: PathBuf,
    /// Options as in mount(8), separated by commas
    #[arg(short, value_name = "OPTIONS")]
    options: Vec<String>,
    /// Stay in the foreground and log to stderr
    #[arg(short, long)]
    foreground: bool,
    /// The background half of a mount: says on stdout when it is ready
    #[arg(long, hide = true)]
    detached: bool,
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// Arguments of `umount`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  globalfs umount /globalfs")]
pub struct Umount {
    /// The directory on which it is mounted
    mountpoint: PathBuf,
    /// Take it out of the tree now, also while files are open
    #[arg(short, long)]
    lazy: bool,
}

impl Mount {
    /// Carries the command out.
    pub fn run(self) -> Result<()> {
        let config = MountConfig::load(&self.config)?;
        let options = self.mount_options(&config)?;
        if self.foreground {
            return self
                .daemon
                .run(Component::Mount, |stop| serve(config, self.mountpoint, options, stop, false));
        }
        if self.detached {
            // A session of its own: the terminal's end is not ours. It fails only for who has one already.
            let _ = rustix::process::setsid();
            return self
                .daemon
                .run(Component::Mount, |stop| serve(config, self.mountpoint, options, stop, true));
        }
        // Opened here, so that what is wrong with the certificate is told before anything is started.
        globalfs_controlplane::files::CertFiles::load(&config.state_dir)?;
        self.start_detached(&config)
    }

    fn mount_options(&self, config: &MountConfig) -> Result<globalfs_fuse::Options> {
        let ttl = config.attribute_ttl;
        let mut options = globalfs_fuse::Options {
            source: self.config.display().to_string(),
            attr_ttl: ttl,
            entry_ttl: ttl,
            negative_ttl: ttl,
            ..globalfs_fuse::Options::default()
        };
        for list in &self.options {
            options.apply(list)?.iter().for_each(complain);
        }
        Ok(options)
    }

    fn start_detached(&self, config: &MountConfig) -> Result<()> {
        let path = config.state_dir.join("mount.log");
        let opened = File::options().create(true).append(true).read(true).open(&path);
        let mut log = opened.with_context(|| format!("cannot write {}", path.display()))?;
        let before = log.seek(SeekFrom::End(0))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("mount").arg("--detached").arg("--config").arg(fs::canonicalize(&self.config)?);
        for list in &self.options {
            command.arg("-o").arg(list);
        }
        command.arg("--").arg(&self.mountpoint);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log.try_clone()?);
        let mut child = command.spawn().context("cannot start the mount's process")?;
        let mut said = String::new();
        child.stdout.take().context("stdout is piped")?.read_to_string(&mut said)?;
        if said == READY {
            return Ok(());
        }
        child.wait()?;
        log.seek(SeekFrom::Start(before))?;
        let mut text = String::new();
        log.read_to_string(&mut text)?;
        let reason = text
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix("globalfs").and_then(|l| l.split_once(": ")));
        bail!("{}", reason.map_or(text.trim(), |(_, reason)| reason))
    }
}

/// How long the kernel may take to let go of an unmounted tree. A container that was started meanwhile has a
/// copy of the mount and would keep it, and us, for its whole life.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);

/// What the background half says when the tree is mounted.
const READY: &str = "mounted\n";

async fn serve(
    config: MountConfig,
    mountpoint: PathBuf,
    options: globalfs_fuse::Options,
    stop: CancellationToken,
    announce: bool,
) -> Result<()> {
    let mountpoint = tokio::task::spawn_blocking(move || globalfs_fuse::prepare(&mountpoint)).await??;
    let node = Node::open(&config).await?;
    let server = match config.metrics {
        Some(address) => {
            let health = Arc::new(|| Health { healthy: true, details: serde_json::Map::new() });
            Some(MetricsServer::start(address, Arc::new(node.metrics(&config)), health, stop.clone()).await?)
        }
        None => None,
    };
    let source = Arc::new(node.cached.clone());
    let watch = Watch::new(config.traces, source, node.link.remote(), config.deadline);
    let volume = Arc::new(NodeVolume::new(&node, config.deadline, watch.clone()));
    let (runtime, mounted) = (tokio::runtime::Handle::current(), volume.clone());
    let session =
        tokio::task::spawn_blocking(move || globalfs_fuse::mount(mounted, &mountpoint, &options, runtime))
            .await??;
    let watching = tokio::spawn(watch.clone().run(stop.clone()));
    let control = tokio::spawn(control::serve(watch, control::socket_path(&config.state_dir), stop.clone()));
    if announce {
        announce_ready()?;
    }
    tokio::select! {
        () = session.wait() => {}
        () = stop.cancelled() => unmount(&session).await?,
    }
    session.write_out().await;
    stop.cancel();
    watching.await?;
    control.await?;
    volume.end_locks().await;
    node.link.close().await;
    if let Some(server) = server {
        server.stopped().await;
    }
    tracing::info!(mountpoint = %session.mountpoint().display(), "unmounted");
    Ok(())
}

/// Says it and closes stdout for good, which lets the waiting half go.
fn announce_ready() -> Result<()> {
    let mut stdout = std::io::stdout();
    stdout.write_all(READY.as_bytes())?;
    stdout.flush()?;
    let nowhere = File::options().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&nowhere)?;
    Ok(())
}

/// Clean when nobody uses it; otherwise out of the tree now, gone when the last file is closed.
async fn unmount(session: &Session) -> Result<()> {
    if let Err(error) = session.unmount(Detach::WhenUnused) {
        tracing::warn!(%error, "the mount is in use; it leaves the tree now and ends with its last open file");
        session.unmount(Detach::Now)?;
        return Ok(());
    }
    if tokio::time::timeout(LEAVE_LIMIT, session.wait()).await.is_err() {
        tracing::warn!("another mount namespace still holds the mount; it ends with this program");
    }
    Ok(())
}

impl Umount {
    /// Carries the command out.
    pub fn run(self) -> Result<()> {
        let detach = if self.lazy { Detach::Now } else { Detach::WhenUnused };
        let path = resolve(&self.mountpoint);
        let done = globalfs_fuse::unmount(&path, detach);
        if done.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ResourceBusy) {
            complain("files are open there: see 'fuser -vm', or use --lazy");
        }
        done.with_context(|| format!("cannot unmount {}", path.display()))
    }
}

/// The path without links, found without touching the mount itself, whose daemon may be gone.
fn resolve(path: &Path) -> PathBuf {
    let (parent, name) = (path.parent(), path.file_name());
    let parent = parent.map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p });
    match (parent.map(fs::canonicalize), name) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => path.to_owned(),
    }
}
