//! From a mount point to a connection with the kernel: mounting, and the agreement that begins it.
//!
//! Root mounts by itself, other users through `fusermount3`.

use crate::fusermount;
use crate::kernel::init::{self, Agreement, Offer, Wishes};
use crate::mount_point::{Detach, unmount};
use crate::options::{IoUring, Options, SUBTYPE};
use crate::session::MountError;
use crate::transport::{Device, Reply, Rings};
use rustix::io::Errno;
use rustix::mount::MountFlags;
use std::ffi::CString;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use tracing::{debug, info, warn};

/// A mount that the kernel has greeted and that serves nobody yet.
pub(crate) struct Connection {
    pub(crate) device: Arc<Device>,
    pub(crate) agreement: Agreement,
    /// The kernel waits for them, if there are some.
    pub(crate) rings: Option<Rings>,
}

/// Mounts on `mountpoint`, which is a free directory, and agrees with the kernel on how to go on. `locks`: the volume keeps
/// locks.
pub(crate) fn connect(mountpoint: &Path, options: &Options, locks: bool) -> Result<Connection, MountError> {
    let device = Device::open().map_err(device_error)?;
    let device = match mount_as_root(&device, mountpoint, options) {
        Ok(()) => device,
        Err(Errno::PERM) => fusermount::mount(mountpoint, options)?,
        Err(Errno::NODEV) => return Err(MountError::NoFuse(Errno::NODEV.into())),
        Err(other) => return Err(MountError::refused(mountpoint, &other)),
    };
    greet(Arc::new(device), options, locks).map_err(|error| {
        if let Err(error) = unmount(mountpoint, Detach::Now) {
            warn!(%error, "could not take back a mount that failed");
        }
        MountError::refused(mountpoint, &error)
    })
}

/// By `mount(2)`, with a type of our own: as plain `fuse` nobody could tell our mounts from others.
fn mount_as_root(device: &Device, mountpoint: &Path, options: &Options) -> rustix::io::Result<()> {
    let data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions{}",
        device.file().as_raw_fd(),
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

fn greet(device: Arc<Device>, options: &Options, locks: bool) -> io::Result<Connection> {
    let mut buffer = vec![0; crate::transport::REQUEST_BUFFER];
    loop {
        let length = device.read(&mut buffer)?.ok_or(ErrorKind::NotConnected)?;
        let offer = Offer::parse(&buffer[..length]).map_err(io::Error::other)?;
        let reply = Reply::by_device(device.clone(), offer.unique);
        if offer.is_of_another_major() {
            reply.structure(&init::version_only());
            continue;
        }
        let rings = rings(&device, &offer, options.io_uring);
        let ring_room = rings.as_ref().map(Rings::room);
        match offer.accept(Wishes { passthrough: options.passthrough, ring_room, locks }) {
            Ok((answer, agreement)) => {
                debug!(?offer, ?agreement, "agreed with the kernel");
                reply.structure(&answer);
                return Ok(Connection { device, agreement, rings });
            }
            Err(error) => {
                reply.error(Errno::PROTO);
                return Err(io::Error::other(error));
            }
        }
    }
}

/// They are set up before the kernel hears of them: it holds all requests back until they are registered.
fn rings(device: &Arc<Device>, offer: &Offer, wanted: IoUring) -> Option<Rings> {
    let reason = match (wanted, offer.has_rings()) {
        (IoUring::Off, _) | (IoUring::Auto, false) => return None,
        (IoUring::On, false) => {
            "the kernel does not offer it: it is older than 6.14, or /sys/module/fuse/parameters/enable_uring is N"
                .to_owned()
        }
        (_, true) => match Rings::prepare(device) {
            Ok(rings) => return Some(rings),
            Err(error) => error.to_string(),
        },
    };
    info!(reason, "requests of the kernel come by /dev/fuse, not over io_uring");
    None
}

fn device_error(error: io::Error) -> MountError {
    let path = crate::transport::DEVICE_PATH;
    match error.kind() {
        ErrorKind::PermissionDenied => MountError::NotPermitted(format!("{path}: {error}")),
        _ => MountError::NoFuse(io::Error::new(error.kind(), format!("{path}: {error}"))),
    }
}
