//! Mounting a volume, and the life of the mount until somebody unmounts it.
//!
//! Root mounts by itself, other users through `fusermount3`. A mount point left behind by a killed
//! program is detached first if it was ours.

use crate::adapter::Adapter;
use crate::invalidate;
use crate::mount_point::{self, Detach, Found, unmount};
use crate::operations::Operations;
use crate::options::{Options, SUBTYPE};
use crate::volume::Volume;
use fuser::{Config, MountOption, SessionACL};
use rustix::io::Errno;
use rustix::mount::MountFlags;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tracing::{debug, info, warn};

/// How far the kernel reads ahead: requests then have the megabyte that is their limit, not 128 KiB.
const READ_AHEAD_KIB: u32 = 1024;

const DEVICE: &str = "/dev/fuse";

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

/// A mounted volume. Dropping it takes the mount out of the tree.
pub struct Session {
    mountpoint: PathBuf,
    device: Option<String>,
    ended: watch::Receiver<bool>,
    operations: Arc<Operations<dyn Volume>>,
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
    let adapter = Adapter::new(operations.clone(), options, runtime.clone());
    let session = connect(adapter, &mountpoint, options)?;
    let device = mount_point::device(&mountpoint);
    let (sender, ended) = watch::channel(false);
    let running = Session { mountpoint, device, ended, operations };
    running.raise_read_ahead();
    if let Some(changes) = changes {
        let (operations, ended) = (running.operations.clone(), running.ended.clone());
        let started = invalidate::start(changes, session.notifier(), operations, ended, runtime);
        started.map_err(|e| refused(&running.mountpoint, &e))?;
    }
    let name = "globalfs-mount".to_owned();
    let serve = move || {
        if let Err(error) = session.run() {
            warn!(%error, "the connection to the kernel broke");
        }
        sender.send_replace(true);
    };
    thread::Builder::new().name(name).spawn(serve).map_err(|e| refused(&running.mountpoint, &e))?;
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

fn connect(
    adapter: Adapter,
    mountpoint: &Path,
    options: &Options,
) -> Result<fuser::Session<Adapter>, MountError> {
    let device = open_device().map_err(device_error)?;
    match mount_as_root(&device, mountpoint, options) {
        Ok(()) => {}
        Err(Errno::PERM) => return mount_as_user(adapter, mountpoint, options),
        Err(Errno::NODEV) => return Err(MountError::NoFuse(Errno::NODEV.into())),
        Err(other) => return Err(refused(mountpoint, &other)),
    }
    fuser::Session::from_fd(adapter, device.into(), access(options), config(options)).map_err(|error| {
        if let Err(error) = unmount(mountpoint, Detach::Now) {
            warn!(%error, "could not take back a mount that failed");
        }
        refused(mountpoint, &error)
    })
}

fn open_device() -> io::Result<File> {
    let device = File::options().read(true).write(true).open(DEVICE)?;
    // Some containers put an empty file in its place, of which mount(2) would only say `EINVAL`.
    let is_device = device.metadata()?.file_type().is_char_device();
    is_device.then_some(device).ok_or_else(|| io::Error::other("it is no device"))
}

/// `fuser` would mount as plain `fuse`, by which nobody could tell our mounts from others.
fn mount_as_root(device: &File, mountpoint: &Path, options: &Options) -> rustix::io::Result<()> {
    let data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions{}",
        device.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
        if options.allow_other { ",allow_other" } else { "" },
    );
    let data = CString::new(data).map_err(|_| Errno::INVAL)?;
    let kind = format!("fuse.{SUBTYPE}");
    rustix::mount::mount(options.source.as_str(), mountpoint, kind, mount_flags(options), data.as_c_str())
}

fn mount_flags(options: &Options) -> MountFlags {
    let flags = [
        (options.read_only, MountFlags::RDONLY),
        (!options.devices, MountFlags::NODEV),
        (!options.set_id, MountFlags::NOSUID),
        (!options.execute, MountFlags::NOEXEC),
        (!options.access_times, MountFlags::NOATIME),
    ];
    flags.into_iter().filter(|(set, _)| *set).map(|(_, flag)| flag).collect()
}

fn mount_as_user(
    adapter: Adapter,
    mountpoint: &Path,
    options: &Options,
) -> Result<fuser::Session<Adapter>, MountError> {
    let flags = [
        (options.read_only, MountOption::RO),
        (options.devices, MountOption::Dev),
        (options.set_id, MountOption::Suid),
        (!options.execute, MountOption::NoExec),
        (!options.access_times, MountOption::NoAtime),
    ];
    let mut config = config(options);
    config.mount_options = vec![
        MountOption::DefaultPermissions,
        MountOption::FSName(options.source.clone()),
        MountOption::Subtype(SUBTYPE.to_owned()),
    ];
    config.mount_options.extend(flags.into_iter().filter(|(set, _)| *set).map(|(_, flag)| flag));
    config.acl = access(options);
    fuser::Session::new(adapter, mountpoint, &config).map_err(|error| match error.kind() {
        ErrorKind::NotFound => MountError::NotPermitted("there is no fusermount3".to_owned()),
        _ if error.to_string().contains("user_allow_other") => MountError::AllowOther,
        _ => MountError::NotPermitted(error.to_string().trim().to_owned()),
    })
}

fn config(options: &Options) -> Config {
    let mut config = Config::default();
    config.n_threads = Some(options.threads);
    config.clone_fd = options.threads > 1;
    config
}

fn access(options: &Options) -> SessionACL {
    if options.allow_other { SessionACL::All } else { SessionACL::Owner }
}

fn device_error(error: io::Error) -> MountError {
    match error.kind() {
        ErrorKind::PermissionDenied => MountError::NotPermitted(format!("{DEVICE}: {error}")),
        _ => MountError::NoFuse(io::Error::new(error.kind(), format!("{DEVICE}: {error}"))),
    }
}

fn refused(path: &Path, error: &dyn std::error::Error) -> MountError {
    MountError::Refused { path: path.to_owned(), reason: error.to_string() }
}
