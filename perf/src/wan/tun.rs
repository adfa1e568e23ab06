//! TUN devices that pass super-packets. The only `unsafe` of this crate: two ioctls that rustix has no name
//! for.

use anyhow::{Context, Result};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, read, write};
use rustix::ioctl::{IntegerSetter, Opcode, Setter, ioctl};

/// The name of the device, the same in both namespaces.
pub(super) const DEVICE: &str = "wan0";

/// The largest frame: an IP packet without jumbogram and its `virtio_net_hdr`.
pub(super) const MAX_FRAME_BYTES: usize = 65_536 + crate::model::VNET_HEADER_BYTES;

const TUNSETIFF: Opcode = 0x4004_54ca;
const TUNSETOFFLOAD: Opcode = 0x4004_54d0;
const IFF_TUN: u16 = 0x0001;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
/// Checksums, TCP over IPv4 and IPv6, ECN, UDP over IPv4 and IPv6.
const OFFLOADS: usize = 0x01 | 0x02 | 0x04 | 0x08 | 0x20 | 0x40;

/// `struct ifreq` with its flags.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// One end of the link.
#[derive(Debug)]
pub(super) struct Tun {
    fd: OwnedFd,
}

impl Tun {
    /// Makes the device in the network namespace of the calling thread.
    pub(super) fn create() -> Result<Self> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::open("/dev/net/tun", flags, Mode::empty())
            .context("cannot open /dev/net/tun (is the kernel module `tun` there?)")?;
        set_interface(&fd).context("cannot make a TUN device with virtio_net_hdr")?;
        set_offloads(&fd)
            .context("this kernel's TUN does not pass super-packets of TCP and UDP (Linux 6.2 does)")?;
        Ok(Self { fd })
    }

    /// The next frame; nothing if none waits.
    pub(super) fn receive(&self, into: &mut [u8]) -> Result<Option<usize>, Errno> {
        match read(&self.fd, into) {
            Ok(length) => Ok(Some(length)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Hands a frame to the namespace's network stack.
    pub(super) fn send(&self, frame: &[u8]) -> Result<(), Errno> {
        write(&self.fd, frame).map(drop)
    }

    /// What to wait on for frames.
    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }
}

fn set_interface(fd: &OwnedFd) -> Result<(), Errno> {
    let mut name = [0; 16];
    name[..DEVICE.len()].copy_from_slice(DEVICE.as_bytes());
    let request = InterfaceRequest { name, flags: IFF_TUN | IFF_NO_PI | IFF_VNET_HDR, rest: [0; 22] };
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, whose size and layout the request has; the setter
    // owns it for the whole call.
    unsafe { ioctl(fd, Setter::<TUNSETIFF, InterfaceRequest>::new(request)) }
}

fn set_offloads(fd: &OwnedFd) -> Result<(), Errno> {
    // SAFETY: TUNSETOFFLOAD takes its flags as the argument itself and touches no memory of ours.
    unsafe { ioctl(fd, IntegerSetter::<TUNSETOFFLOAD>::new_usize(OFFLOADS)) }
}
