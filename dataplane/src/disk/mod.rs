//! Disk work behind one seam: io_uring, plain POSIX calls where the kernel forbids io_uring, and a faulty
//! disk for tests.

mod cached;
mod faulty;
mod memory;
mod posix;
mod uring;
mod writers;

#[cfg(test)]
mod conformance;

pub use faulty::{Faults, FaultyDisk};
pub use posix::PosixDisk;
pub use uring::UringDisk;

use async_trait::async_trait;
use bytes::Bytes;
use globalfs_transport::Buffer;
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::sync::Arc;

/// Bytes of one read or write; longer ones are refused, so that a wrong length cannot take all memory.
pub const MAX_LENGTH: usize = 1 << 30;

/// Reads and writes of open files. Opening, naming and removing files are not part of it.
///
/// Every method may be cancelled by dropping its future: a write then happens wholly, in part or not at
/// all. Offsets above `i64::MAX` and lengths above [`MAX_LENGTH`] are `InvalidInput`. Files must not be
/// open with `O_NONBLOCK`.
#[async_trait]
pub trait Disk: Send + Sync + 'static {
    /// Reads at `offset` until `length` bytes are there or the file ends.
    async fn read_at(&self, file: &Arc<File>, offset: u64, length: usize) -> io::Result<Bytes>;

    /// Writes all of `data` at `offset`.
    async fn write_at(&self, file: &Arc<File>, offset: u64, data: Bytes) -> io::Result<()>;

    /// Returns when what was written survives a loss of power.
    async fn sync(&self, file: &Arc<File>) -> io::Result<()>;

    /// What a log calls this implementation.
    fn name(&self) -> &'static str;
}

/// Which disk an administrator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preference {
    /// io_uring if it works here, else POSIX calls with a warning.
    #[default]
    Auto,
    /// io_uring or an error.
    Uring,
    /// POSIX calls.
    Posix,
}

/// Why there is no disk: an administrator has to permit io_uring, or not to insist on it.
#[derive(Debug, thiserror::Error)]
#[error("io_uring does not work here: {error}. {}", remedy(.error))]
pub struct UringUnavailable {
    /// What the kernel said.
    #[from]
    pub error: io::Error,
}

/// Opens the disk that `preference` asks for. io_uring has then proven itself with a real write and read.
pub fn open(preference: Preference) -> Result<Arc<dyn Disk>, UringUnavailable> {
    match preference {
        Preference::Posix => Ok(Arc::new(PosixDisk::default())),
        Preference::Uring => Ok(Arc::new(UringDisk::start()?)),
        Preference::Auto => Ok(match UringDisk::start().map_err(UringUnavailable::from) {
            Ok(disk) => Arc::new(disk),
            Err(reason) => {
                tracing::warn!(%reason, "using POSIX calls for disk work");
                Arc::new(PosixDisk::default())
            }
        }),
    }
}

fn remedy(error: &io::Error) -> &'static str {
    use io::ErrorKind::{InvalidInput, OutOfMemory, PermissionDenied, Unsupported};
    match error.kind() {
        PermissionDenied => {
            "Set the sysctl kernel.io_uring_disabled to 0, and in a container let its seccomp profile allow \
             io_uring_setup, io_uring_enter and io_uring_register"
        }
        Unsupported | InvalidInput => "It needs Linux 5.6 or later and a kernel built with io_uring",
        OutOfMemory => "Raise the limit of locked memory (ulimit -l, or LimitMEMLOCK= of the service)",
        _ => "Choose the posix disk to do without it",
    }
}

/// `length` bytes by as many calls of `read` as it takes, or fewer where the file ends. `read` is given the room that is
/// left and how many bytes are there already.
fn fill(length: usize, mut read: impl FnMut(&mut [u8], u64) -> Result<usize, Errno>) -> io::Result<Bytes> {
    let mut all = |room: &mut [u8]| {
        let mut filled = 0;
        while filled < room.len() {
            match read(&mut room[filled..], filled as u64) {
                Ok(0) => break,
                Ok(more) => filled += more,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    };
    if let Some(mut buffer) = Buffer::of(length) {
        let filled = all(buffer.room())?;
        return Ok(buffer.freeze().slice(..filled));
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length).map_err(|_| io::ErrorKind::OutOfMemory)?;
    bytes.resize(length, 0);
    let filled = all(&mut bytes)?;
    bytes.truncate(filled);
    Ok(bytes.into())
}

/// Refuses what no file can hold. To io_uring an offset of all ones would mean "the current position".
pub(crate) fn check_range(offset: u64, length: usize) -> io::Result<()> {
    let end = offset.checked_add(length as u64);
    if length > MAX_LENGTH || end.is_none_or(|end| end > i64::MAX as u64) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_io_uring_says_what_to_do() {
        let check = |errno, want: &str| {
            let text = UringUnavailable::from(io::Error::from_raw_os_error(errno)).to_string();
            assert!(text.contains(want), "{text}");
        };
        check(1, "kernel.io_uring_disabled");
        check(1, "seccomp");
        check(38, "Linux 5.6");
        check(12, "locked memory");
        check(24, "posix");
    }

    #[test]
    fn ranges_that_no_file_can_hold_are_refused() {
        check_range(0, MAX_LENGTH).unwrap();
        check_range(i64::MAX as u64, 0).unwrap();
        check_range(0, MAX_LENGTH + 1).unwrap_err();
        check_range(u64::MAX, 1).unwrap_err();
        check_range(i64::MAX as u64, 1).unwrap_err();
    }

    #[test]
    fn the_posix_disk_is_always_there() {
        assert_eq!(open(Preference::Posix).unwrap().name(), "posix");
        assert!(["io_uring", "posix"].contains(&open(Preference::Auto).unwrap().name()));
    }
}
