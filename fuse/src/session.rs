//! Mounting a volume, and the life of the mount until somebody unmounts it.
//!
//! A mount point left behind by a killed program is detached first if it was ours.

use crate::connect::{Connection, connect};
use crate::invalidate;
use crate::mount_point::{self, Detach, Found, unmount};
use crate::operations::Operations;
use crate::options::Options;
use crate::push;
use crate::serve::Server;
use crate::transport::{Device, Notifier, Rings, RunningRings};
use crate::volume::Volume;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};

/// How far the kernel reads ahead: requests then have the megabyte that is their limit, not 128 KiB.
const READ_AHEAD_KIB: u32 = 1024;

/// Why a volume could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The mount point is missing, no directory, or cannot be looked at: make it or name another.
    #[error("cannot mount on {path}: {source}")]
    MountPoint {
        /// The mount point.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// A living mount of ours is there: use it, or unmount it first.
    #[error("{0} is mounted already; to replace the mount, unmount it first")]
    AlreadyMounted(PathBuf),
    /// The program behind another FUSE mount there is gone: unmount it by hand.
    #[error("{0} holds a dead mount of another file system; remove it with 'umount --lazy {0}'")]
    ForeignStale(PathBuf),
    /// The kernel offers no FUSE here: an administrator has to act.
    #[error(
        "FUSE is not available ({0}): load it with 'modprobe fuse'; a container needs '--device /dev/fuse'"
    )]
    NoFuse(io::Error),
    /// FUSE is there and we may not use it: an administrator has to act.
    #[error(
        "not permitted to mount ({0}): as another user than root install the package 'fuse3'; a container \
         needs '--device /dev/fuse --cap-add SYS_ADMIN'"
    )]
    NotPermitted(String),
    /// `allow_other` is refused to users: an administrator has to act, or mount without it.
    #[error("allow_other is not permitted: add the line 'user_allow_other' to /etc/fuse.conf")]
    AllowOther,
    /// Anything else that the system refused.
    #[error("cannot mount on {path}: {reason}")]
    Refused {
        /// The mount point.
        path: PathBuf,
        /// In the system's words.
        reason: String,
    },
}

impl MountError {
    pub(crate) fn refused(path: &Path, error: &dyn std::error::Error) -> Self {
        Self::Refused { path: path.to_owned(), reason: error.to_string() }
    }
}

/// A mounted volume. Dropping it takes the mount out of the tree.
pub struct Session {
    mountpoint: PathBuf,
    device: Option<String>,
    ended: watch::Receiver<bool>,
    operations: Arc<Operations<dyn Volume>>,
    notifier: Notifier,
    rings_refused: Option<Arc<AtomicBool>>,
}

/// Mounts `volume` on the directory `mountpoint`. Requests are worked on by `runtime`, which must have
/// threads of its own and outlive the mount.
///
/// Waits for the kernel, not for the volume: a volume that is out of reach is mounted, too.
pub fn mount(
    volume: Arc<dyn Volume>,
    mountpoint: &Path,
    options: &Options,
    runtime: Handle,
) -> Result<Session, MountError> {
    let mountpoint = prepare(mountpoint)?;
    let changes = {
        let _entered = runtime.enter();
        volume.changes()
    };
    let operations = Arc::new(Operations::new(volume));
    let server = Arc::new(Server::new(operations.clone(), options, runtime.clone()));
    let connection = connect(&mountpoint, options, operations.has_locks())?;
    if connection.agreement.passthrough {
        server.permit_passthrough(&connection.device);
    }
    let notifier = Notifier::new(connection.device.clone(), connection.agreement.minor);
    server.notify_by(notifier.clone());
    if options.write_behind {
        server.write_behind();
    }
    let device = mount_point::device(&mountpoint);
    let (sender, ended) = watch::channel(false);
    let rings_refused = connection.rings.as_ref().map(Rings::refused);
    let running = Session { mountpoint, device, ended, operations, notifier, rings_refused };
    let refused = |error| MountError::refused(&running.mountpoint, &error);
    running.raise_read_ahead();
    let (pushes, wanted) = mpsc::channel(push::MAX_WAITING);
    running.operations.push_to(pushes);
    let (operations, ended) = (running.operations.clone(), running.ended.clone());
    push::start(wanted, running.notifier.clone(), operations, ended, runtime.clone()).map_err(refused)?;
    let (operations, ended) = (running.operations.clone(), running.ended.clone());
    invalidate::start(changes, running.notifier.clone(), operations, ended).map_err(refused)?;
    let threads = options.threads;
    let operations = running.operations.clone();
    let serve = move || {
        if let Err(error) = serve(connection, &server, threads, &sender) {
            warn!(%error, "the connection to the kernel broke");
        }
        // Whoever has closed a file has waited for this, but not who has unmapped one.
        runtime.block_on(operations.write_all_out());
        sender.send_replace(true);
    };
    thread::Builder::new().name("globalfs-mount".to_owned()).spawn(serve).map_err(refused)?;
    info!(mountpoint = %running.mountpoint.display(), "mounted");
    Ok(running)
}

impl Session {
    /// Where the volume is mounted, without symbolic links.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// How many nodes the kernel holds, the root included, and how many handles are open.
    pub fn counts(&self) -> (usize, usize) {
        self.operations.counts()
    }

    /// Whether the kernel's requests come over io_uring. Known for sure when it has sent the first.
    pub fn uses_io_uring(&self) -> bool {
        self.rings_refused.as_ref().is_some_and(|refused| !refused.load(Ordering::Relaxed))
    }

    /// By which the kernel is told what has changed.
    pub fn notifier(&self) -> &Notifier {
        &self.notifier
    }

    /// Takes the mount away. With files open, [`Detach::WhenUnused`] fails with `EBUSY` and may be tried
    /// again; [`Detach::Now`] succeeds, and [`Self::wait`] returns when the last file is closed.
    pub fn unmount(&self, detach: Detach) -> io::Result<()> {
        let top = mount_point::device(&self.mountpoint);
        if *self.ended.borrow() || top.is_none() {
            return Ok(());
        }
        if top != self.device {
            return Err(io::Error::new(ErrorKind::ResourceBusy, "another file system is mounted over it"));
        }
        unmount(&self.mountpoint, detach)
    }

    /// Returns when the mount has ended, whoever unmounted it.
    pub async fn wait(&self) {
        // An error says that the sender is gone, and it goes after the end.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }

    /// Returns when all that was written has been sent; from then on writes are answered when they have been.
    pub async fn write_out(&self) {
        self.operations.write_through();
        self.operations.write_all_out().await;
    }

    /// Only root may; without it reads are smaller, which is slower and not wrong.
    fn raise_read_ahead(&self) {
        let Some(device) = &self.device else { return };
        if let Err(error) = mount_point::raise_read_ahead(device, READ_AHEAD_KIB) {
            debug!(%error, "the kernel's read-ahead stays as it is");
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Err(error) = self.unmount(Detach::Now) {
            warn!(%error, mountpoint = %self.mountpoint.display(), "could not unmount");
        }
    }
}

/// Serves requests until the mount has ended and so have all threads that served them.
fn serve(
    connection: Connection,
    server: &Arc<Server>,
    threads: usize,
    ended: &watch::Sender<bool>,
) -> io::Result<()> {
    let Connection { device, rings, .. } = connection;
    let rings = rings.map(|rings| rings.begin(server, ended));
    let more = (1..threads).map(|n| start_reader(n, &device, server)).collect::<io::Result<Vec<_>>>();
    let mut outcome = device.serve(server);
    rings.into_iter().for_each(RunningRings::end);
    for thread in more? {
        let bug = || io::Error::other("a thread of the mount had a bug");
        outcome = outcome.and(thread.join().unwrap_or_else(|_| Err(bug())));
    }
    outcome
}

fn start_reader(
    number: usize,
    device: &Device,
    server: &Arc<Server>,
) -> io::Result<JoinHandle<io::Result<()>>> {
    let (device, server) = (Arc::new(device.another()?), server.clone());
    let name = format!("globalfs-mount-{number}");
    thread::Builder::new().name(name).spawn(move || device.serve(&server))
}

/// Makes sure that `mountpoint` is a directory that is free to be mounted on, and resolves it. [`mount`] does
/// so by itself; programs call it first of all to tell early what is wrong.
pub fn prepare(mountpoint: &Path) -> Result<PathBuf, MountError> {
    let wrong = |source| MountError::MountPoint { path: mountpoint.to_owned(), source };
    let path = mount_point::resolve(mountpoint).map_err(wrong)?;
    match mount_point::inspect(&path).map_err(wrong)? {
        Found::Directory => Ok(path),
        Found::Alive => Err(MountError::AlreadyMounted(path)),
        Found::StaleForeign => Err(MountError::ForeignStale(path)),
        Found::Stale => {
            info!(mountpoint = %path.display(), "detaching the mount of a program that is gone");
            unmount(&path, Detach::Now).map_err(wrong)?;
            prepare(&path)
        }
    }
}
