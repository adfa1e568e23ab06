//! Files that lie in memory, as those of tmpfs do: reading and writing them is a copy that waits for no device, so an
//! async thread may make it. They are told by their file system, which is asked once.

use lru::LruCache;
use parking_lot::Mutex;
use rustix::fs::{fstat, fstatfs};
use std::fs::File;
use std::num::NonZeroUsize;

/// What statfs(2) calls tmpfs. What of it was swapped out waits for a device, as any memory of ours would.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// The longest write that is made on the thread that asks, in bytes: two chunks.
const MAX_LENGTH: usize = 256 * 1024;

/// File systems that are remembered; a hop has a cache and an origin.
const MAX_DEVICES: NonZeroUsize = NonZeroUsize::new(16).expect("16 is not zero");

/// What is known of file systems, by their device numbers. A number that comes to mean another file system while we
/// run costs a wait, or a thread, and no more.
#[derive(Debug)]
pub(super) struct Memory(Mutex<LruCache<u64, bool>>);

impl Memory {
    pub(super) fn new() -> Self {
        Self(Mutex::new(LruCache::new(MAX_DEVICES)))
    }

    /// Whether the file lies in memory.
    pub(super) fn holds(&self, file: &File) -> bool {
        let Ok(stat) = fstat(file) else { return false };
        let ask = || fstatfs(file).is_ok_and(|stat| stat.f_type as u64 == TMPFS_MAGIC);
        *self.0.lock().get_or_insert(stat.st_dev, ask)
    }

    /// Whether `length` bytes may be written to the file on the thread that asks.
    pub(super) fn takes(&self, file: &File, length: usize) -> bool {
        length <= MAX_LENGTH && self.holds(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_from_disks() {
        let memory = Memory::new();
        let made = rustix::fs::memfd_create("globalfs-test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(made);
        assert!(memory.takes(&file, MAX_LENGTH) && !memory.takes(&file, MAX_LENGTH + 1));
        let proc = File::open("/proc/self/status").unwrap();
        assert!(!memory.holds(&proc) && memory.holds(&file) && !memory.holds(&proc));
    }
}
