//! Reads that only the page cache answers: they never wait for a device, so an async thread may make them.

use super::fill;
use bytes::Bytes;
use rustix::io::{Errno, IoSliceMut, ReadWriteFlags, preadv2};
use std::fs::File;
use std::io;

/// The longest read that is made on the thread that asks, in bytes: two chunks are copied.
const MAX_LENGTH: usize = 256 * 1024;

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cached {
    /// The bytes, fewer than were asked for where the file ends.
    Whole(Bytes),
    /// At least a part has to come from the device, or the read is too long.
    NotAll,
    /// The file system cannot read without waiting (tmpfs, network file systems).
    Untold,
}

/// Reads at `offset` until `length` bytes are there or the file ends, if that needs no waiting.
pub(super) fn read_cached(file: &File, offset: u64, length: usize) -> io::Result<Cached> {
    if length > MAX_LENGTH {
        return Ok(Cached::NotAll);
    }
    let read = |room: &mut [u8], at| {
        preadv2(file, &mut [IoSliceMut::new(room)], offset + at, ReadWriteFlags::NOWAIT)
    };
    match fill(length, read) {
        Ok(bytes) => Ok(Cached::Whole(bytes)),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::AGAIN) => Ok(Cached::NotAll),
            Some(Errno::OPNOTSUPP) => Ok(Cached::Untold),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Advice, fadvise};
    use std::io::Write as _;

    /// A file on a disk: the build directory's, as a directory for temporary files may lie in memory.
    fn file_on_disk(content: &[u8]) -> File {
        let mut file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.write_all(content).unwrap();
        file
    }

    #[test]
    fn what_was_just_written_needs_no_waiting_and_what_was_dropped_does() {
        let file = file_on_disk(&[7; 200_000]);
        let Cached::Whole(bytes) = read_cached(&file, 100_000, 131_072).unwrap() else {
            return eprintln!("SKIPPED: this file system cannot tell what it holds in memory");
        };
        assert_eq!(bytes, vec![7; 100_000], "until the file ends");
        assert_eq!(read_cached(&file, 200_000, 10).unwrap(), Cached::Whole(Bytes::new()));
        assert_eq!(read_cached(&file, 0, MAX_LENGTH + 1).unwrap(), Cached::NotAll);
        file.sync_all().unwrap();
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        assert_eq!(read_cached(&file, 0, 131_072).unwrap(), Cached::NotAll);
    }

    #[test]
    fn a_file_system_in_memory_cannot_tell() {
        let memory = rustix::fs::memfd_create("globalfs-test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(memory);
        (&file).write_all(b"hello").unwrap();
        let read = read_cached(&file, 0, 5).unwrap();
        // Later kernels may learn it.
        assert!(matches!(read, Cached::Untold) || read == Cached::Whole("hello".into()), "{read:?}");
    }
}
