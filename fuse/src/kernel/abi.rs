//! The structures and numbers of the kernel's FUSE protocol, version 7.45, that a mount uses. Source:
//! `include/uapi/linux/fuse.h` of Linux 6.18. All numbers are in the machine's own byte order.
//!
//! *Invariant:* every structure has the size that the kernel gives it, without hidden padding: both are checked when
//! this is compiled.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// The protocol's number before the point. There has been no other since 2005.
pub(crate) const MAJOR: u32 = 7;

/// The newest protocol that is understood here.
pub(crate) const MINOR: u32 = 45;

/// The oldest, of Linux 5.4: what is older lacks large requests, or sends other structures.
pub(crate) const OLDEST_MINOR: u32 = 31;

/// What the kernel wants done; named as it names them.
pub(crate) mod opcode {
    pub(crate) const LOOKUP: u32 = 1;
    pub(crate) const FORGET: u32 = 2;
    pub(crate) const GETATTR: u32 = 3;
    pub(crate) const SETATTR: u32 = 4;
    pub(crate) const READLINK: u32 = 5;
    pub(crate) const SYMLINK: u32 = 6;
    pub(crate) const MKNOD: u32 = 8;
    pub(crate) const MKDIR: u32 = 9;
    pub(crate) const UNLINK: u32 = 10;
    pub(crate) const RMDIR: u32 = 11;
    pub(crate) const RENAME: u32 = 12;
    pub(crate) const LINK: u32 = 13;
    pub(crate) const OPEN: u32 = 14;
    pub(crate) const READ: u32 = 15;
    pub(crate) const WRITE: u32 = 16;
    pub(crate) const STATFS: u32 = 17;
    pub(crate) const RELEASE: u32 = 18;
    pub(crate) const FSYNC: u32 = 20;
    pub(crate) const SETXATTR: u32 = 21;
    pub(crate) const GETXATTR: u32 = 22;
    pub(crate) const LISTXATTR: u32 = 23;
    pub(crate) const REMOVEXATTR: u32 = 24;
    pub(crate) const FLUSH: u32 = 25;
    pub(crate) const INIT: u32 = 26;
    pub(crate) const READDIR: u32 = 28;
    pub(crate) const FSYNCDIR: u32 = 30;
    pub(crate) const GETLK: u32 = 31;
    pub(crate) const SETLK: u32 = 32;
    pub(crate) const SETLKW: u32 = 33;
    pub(crate) const CREATE: u32 = 35;
    pub(crate) const INTERRUPT: u32 = 36;
    pub(crate) const DESTROY: u32 = 38;
    pub(crate) const IOCTL: u32 = 39;
    pub(crate) const NOTIFY_REPLY: u32 = 41;
    pub(crate) const BATCH_FORGET: u32 = 42;
    pub(crate) const FALLOCATE: u32 = 43;
    pub(crate) const READDIRPLUS: u32 = 44;
    pub(crate) const RENAME2: u32 = 45;
    pub(crate) const LSEEK: u32 = 46;
    pub(crate) const COPY_FILE_RANGE: u32 = 47;
    pub(crate) const TMPFILE: u32 = 51;
}

/// What both sides can and want, in the two flag words of INIT taken together.
pub(crate) mod init_flag {
    pub(crate) const ASYNC_READ: u64 = 1 << 0;
    pub(crate) const POSIX_LOCKS: u64 = 1 << 1;
    pub(crate) const BIG_WRITES: u64 = 1 << 5;
    pub(crate) const FLOCK_LOCKS: u64 = 1 << 10;
    pub(crate) const DO_READDIRPLUS: u64 = 1 << 13;
    pub(crate) const PARALLEL_DIROPS: u64 = 1 << 18;
    pub(crate) const POSIX_ACL: u64 = 1 << 20;
    pub(crate) const MAX_PAGES: u64 = 1 << 22;
    pub(crate) const CACHE_SYMLINKS: u64 = 1 << 23;
    pub(crate) const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    /// The second word counts.
    pub(crate) const INIT_EXT: u64 = 1 << 30;
    pub(crate) const PASSTHROUGH: u64 = 1 << 37;
    pub(crate) const OVER_IO_URING: u64 = 1 << 41;
}

/// How an opened file is to be treated.
pub(crate) mod open_flag {
    pub(crate) const KEEP_CACHE: u32 = 1 << 1;
    pub(crate) const PASSTHROUGH: u32 = 1 << 7;
}

/// Which attributes are to be set.
pub(crate) mod set_flag {
    pub(crate) const MODE: u32 = 1 << 0;
    pub(crate) const UID: u32 = 1 << 1;
    pub(crate) const GID: u32 = 1 << 2;
    pub(crate) const SIZE: u32 = 1 << 3;
    pub(crate) const ATIME: u32 = 1 << 4;
    pub(crate) const MTIME: u32 = 1 << 5;
    pub(crate) const ATIME_NOW: u32 = 1 << 7;
    pub(crate) const MTIME_NOW: u32 = 1 << 8;
    pub(crate) const KILL_SUIDGID: u32 = 1 << 11;
}

/// What a write is.
pub(crate) mod write_flag {
    /// Of pages that were changed in memory; the handle is any that may write.
    pub(crate) const CACHE: u32 = 1 << 0;
    pub(crate) const KILL_SUIDGID: u32 = 1 << 2;
}

/// Of FSYNC: attributes may stay behind.
pub(crate) const DATA_ONLY: u32 = 1 << 0;

/// What is looked for from an offset on.
pub(crate) mod whence {
    pub(crate) const DATA: u32 = 3;
    pub(crate) const HOLE: u32 = 4;
}

/// What a lock is, as `fcntl(2)` numbers it.
pub(crate) mod lock_type {
    pub(crate) const READ: u32 = 0;
    pub(crate) const WRITE: u32 = 1;
    pub(crate) const UNLOCK: u32 = 2;
}

/// What a request for a lock is.
pub(crate) mod lock_flag {
    /// Of flock(2).
    pub(crate) const FLOCK: u32 = 1 << 0;
}

/// What else a release is.
pub(crate) mod release_flag {
    /// The owner has a lock of flock(2).
    pub(crate) const FLOCK_UNLOCK: u32 = 1 << 1;
}

/// What may be told without being asked.
pub(crate) mod notice_code {
    pub(crate) const INVAL_INODE: i32 = 2;
    pub(crate) const INVAL_ENTRY: i32 = 3;
    pub(crate) const STORE: i32 = 4;
}

/// A name that is invalidated keeps its place for those who use it, such as who works in a directory of that name.
pub(crate) const EXPIRE_ONLY: u32 = 1;

/// The first minor version with [`EXPIRE_ONLY`], of Linux 6.2.
pub(crate) const EXPIRE_ONLY_MINOR: u32 = 38;

/// Numbers of the device's ioctls, all of this group.
pub(crate) mod ioctl {
    pub(crate) const GROUP: u8 = 229;
    pub(crate) const CLONE: u8 = 0;
    pub(crate) const BACKING_OPEN: u8 = 1;
    pub(crate) const BACKING_CLOSE: u8 = 2;
}

/// The smallest buffer in which the kernel puts requests.
pub(crate) const MIN_READ_BUFFER: usize = 8192;

/// Checks sizes against the kernel's while it defines what can be read from bytes and written as bytes.
macro_rules! structures {
    ($($(#[$doc:meta])* $name:ident: $size:literal { $($field:ident: $kind:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub(crate) struct $name { $(pub(crate) $field: $kind),* }
        const _: () = assert!(size_of::<$name>() == $size);
        impl Default for $name {
            fn default() -> Self {
                Self::new_zeroed()
            }
        }
    )*};
}

structures! {
    /// Begins every request.
    InHeader: 40 {
        length: u32, opcode: u32, unique: u64, node: u64, uid: u32, gid: u32, pid: u32,
        extensions: u16, padding: u16,
    }
    /// Begins every answer; `error` is 0 or a negative errno. In a notice `unique` is 0 and `error` says what.
    OutHeader: 16 { length: u32, error: i32, unique: u64 }
    /// The part of INIT that all kernels send.
    InitIn: 16 { major: u32, minor: u32, max_readahead: u32, flags: u32 }
    /// The part of INIT behind it, when [`init_flag::INIT_EXT`] is set.
    InitInMore: 48 { flags2: u32, unused: [u32; 11] }
    InitOut: 64 {
        major: u32, minor: u32, max_readahead: u32, flags: u32, max_background: u16, congestion_threshold: u16,
        max_write: u32, time_granularity: u32, max_pages: u16, map_alignment: u16, flags2: u32, max_stack_depth: u32,
        unused: [u32; 6],
    }
    Attr: 88 {
        ino: u64, size: u64, blocks: u64, atime: i64, mtime: i64, ctime: i64, atime_ns: u32, mtime_ns: u32,
        ctime_ns: u32, mode: u32, nlink: u32, uid: u32, gid: u32, rdev: u32, block_size: u32, flags: u32,
    }
    EntryOut: 128 {
        node: u64, generation: u64, entry_valid: u64, attr_valid: u64, entry_valid_ns: u32, attr_valid_ns: u32,
        attr: Attr,
    }
    GetattrIn: 16 { flags: u32, padding: u32, handle: u64 }
    AttrOut: 104 { valid: u64, valid_ns: u32, padding: u32, attr: Attr }
    SetattrIn: 88 {
        valid: u32, padding: u32, handle: u64, size: u64, lock_owner: u64, atime: i64, mtime: i64, ctime: i64,
        atime_ns: u32, mtime_ns: u32, ctime_ns: u32, mode: u32, unused: u32, uid: u32, gid: u32, more_unused: u32,
    }
    /// Behind it comes the name, as in the next ones.
    MknodIn: 16 { mode: u32, device: u32, umask: u32, padding: u32 }
    MkdirIn: 8 { mode: u32, umask: u32 }
    CreateIn: 16 { flags: u32, mode: u32, umask: u32, open_flags: u32 }
    LinkIn: 8 { node: u64 }
    /// Behind it come both names.
    RenameIn: 8 { new_parent: u64 }
    /// Behind it come both names.
    Rename2In: 16 { new_parent: u64, flags: u32, padding: u32 }
    /// Behind it come `size` bytes.
    WriteIn: 40 {
        handle: u64, offset: u64, size: u32, write_flags: u32, lock_owner: u64, flags: u32, padding: u32,
    }
    WriteOut: 8 { size: u32, padding: u32 }
    FsyncIn: 16 { handle: u64, fsync_flags: u32, padding: u32 }
    CopyFileRangeIn: 56 {
        handle_in: u64, offset_in: u64, node_out: u64, handle_out: u64, offset_out: u64, length: u64, flags: u64,
    }
    LseekIn: 24 { handle: u64, offset: u64, whence: u32, padding: u32 }
    LseekOut: 8 { offset: u64 }
    FallocateIn: 32 { handle: u64, offset: u64, length: u64, mode: u32, padding: u32 }
    /// The form without [`init_flag`] `SETXATTR_EXT`. Behind it come the name and `size` bytes.
    SetxattrIn: 8 { size: u32, flags: u32 }
    /// The answer to CREATE.
    CreateOut: 144 { entry: EntryOut, open: OpenOut }
    ForgetIn: 8 { lookups: u64 }
    BatchForgetIn: 8 { count: u32, padding: u32 }
    ForgetOne: 16 { node: u64, lookups: u64 }
    OpenIn: 8 { flags: u32, open_flags: u32 }
    OpenOut: 16 { handle: u64, flags: u32, backing_id: i32 }
    /// Of directories, too.
    ReadIn: 40 {
        handle: u64, offset: u64, size: u32, read_flags: u32, lock_owner: u64, flags: u32, padding: u32,
    }
    /// Of directories, too.
    ReleaseIn: 24 { handle: u64, flags: u32, release_flags: u32, lock_owner: u64 }
    FlushIn: 24 { handle: u64, unused: u32, padding: u32, lock_owner: u64 }
    FileLock: 24 { start: u64, end: u64, kind: u32, pid: u32 }
    LockIn: 48 { handle: u64, owner: u64, lock: FileLock, lock_flags: u32, padding: u32 }
    InterruptIn: 8 { unique: u64 }
    /// Of the list of names, too.
    GetxattrIn: 8 { size: u32, padding: u32 }
    GetxattrOut: 8 { size: u32, padding: u32 }
    StatfsOut: 80 {
        blocks: u64, blocks_free: u64, blocks_available: u64, files: u64, files_free: u64, block_size: u32,
        name_length: u32, fragment_size: u32, padding: u32, spare: [u32; 6],
    }
    /// Behind it comes the name, and zeros up to the next multiple of eight.
    Dirent: 24 { ino: u64, offset: u64, name_length: u32, kind: u32 }
    /// Behind it comes the name, as in [`Dirent`].
    DirentPlus: 152 { entry: EntryOut, dirent: Dirent }
    InvalInodeOut: 24 { node: u64, offset: i64, length: i64 }
    /// Behind it comes the name with a NUL that `name_length` does not count.
    InvalEntryOut: 16 { parent: u64, name_length: u32, flags: u32 }
    /// Behind it come `size` bytes.
    StoreOut: 24 { node: u64, offset: u64, size: u32, padding: u32 }
    /// What [`ioctl::BACKING_OPEN`] takes.
    BackingMap: 16 { fd: i32, flags: u32, padding: u64 }
    /// How a request and its answer lie in the memory of a ring's entry.
    RingHeader: 288 { in_out: [u8; 128], argument: [u8; 128], entry: RingEntry }
    RingEntry: 32 { flags: u64, commit_id: u64, payload_size: u32, padding: u32, reserved: u64 }
    /// The command part of a submission to a ring.
    RingCommand: 24 { flags: u64, commit_id: u64, queue: u16, padding: [u8; 6] }
}

/// Operations of a ring's submissions.
pub(crate) mod ring_command {
    /// Offers an entry's memory for a request.
    pub(crate) const REGISTER: u32 = 1;
    /// Answers the request in an entry and offers its memory for the next.
    pub(crate) const COMMIT_AND_FETCH: u32 = 2;
}
