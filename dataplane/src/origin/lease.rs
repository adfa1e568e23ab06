//! The one system call that tells whether anybody on this machine has a file open to write.
//!
//! The kernel grants a lease to read (`F_SETLEASE` of fcntl(2)) only on a file that nobody has open to write, neither by a
//! descriptor nor by a mapping that is left of one, nor by a file system stacked on this one. So it is asked for, and given
//! back at once.

use rustix::fd::{AsRawFd, BorrowedFd};
use std::io;

/// Which signal tells that somebody wants to write while a lease is held (asm-generic/fcntl.h).
const F_SETSIG: libc::c_int = 10;

/// Whether somebody has the file behind `file`, which must be open to read alone, open to write. An error where the file
/// system or the kernel does not tell.
pub(super) fn is_open_to_write(file: BorrowedFd<'_>) -> io::Result<bool> {
    // One that is ignored unless it is caught: that of leases ends the process.
    control(file, F_SETSIG, libc::SIGURG)?;
    match control(file, libc::F_SETLEASE, libc::F_RDLCK) {
        Ok(()) => control(file, libc::F_SETLEASE, libc::F_UNLCK).map(|()| false),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) => Err(error),
    }
}

fn control(file: BorrowedFd<'_>, command: libc::c_int, argument: libc::c_int) -> io::Result<()> {
    // SAFETY: these commands take a number and touch no memory of the process; the descriptor is open.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), command, argument) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    fn who_writes_is_seen_until_the_last_has_closed() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = dir.path().join("file");
        let writer = File::create(&path).unwrap();
        let file = File::open(&path).unwrap();
        let other = writer.try_clone().unwrap();
        assert!(is_open_to_write(file.as_fd()).unwrap());
        drop(writer);
        assert!(is_open_to_write(file.as_fd()).unwrap());
        drop(other);
        assert!(!is_open_to_write(file.as_fd()).unwrap());
        assert!(!is_open_to_write(file.as_fd()).unwrap(), "the lease was given back");
        drop(File::options().append(true).open(&path).unwrap());
    }
}
