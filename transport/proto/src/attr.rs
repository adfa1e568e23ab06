//! What a file is: identity, version, attributes, directory entries, file system totals.

use bytes::Bytes;

/// Which file, across all sites.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId {
    /// A hash of the site's name and, below a mount point inside the origin, of the device.
    pub origin: u64,
    /// The inode number in the origin.
    pub inode: u64,
}

/// What identifies one content of one file. Derived by the master from what its origin can tell; every
/// read names the version that it wants, so bytes of two contents never meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// The file.
    pub file: FileId,
    /// Its length in bytes.
    pub size: u64,
    /// Last change of the content, ns since 1970.
    pub mtime_ns: i64,
    /// Last change of content or attributes, ns since 1970.
    pub ctime_ns: i64,
}

/// The type of a directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FileKind {
    /// A regular file.
    Regular = 1,
    /// A directory.
    Directory = 2,
    /// A symbolic link.
    Symlink = 3,
    /// A named pipe.
    Fifo = 4,
    /// A socket.
    Socket = 5,
    /// A character device.
    CharDevice = 6,
    /// A block device.
    BlockDevice = 7,
}

impl FileKind {
    /// The kind whose wire number is `n`.
    pub fn from_wire(n: u8) -> Option<Self> {
        use FileKind::*;
        [Regular, Directory, Symlink, Fifo, Socket, CharDevice, BlockDevice]
            .into_iter()
            .find(|k| *k as u8 == n)
    }

    /// The kind in the type bits of a POSIX `st_mode`.
    pub fn from_mode(st_mode: u32) -> Option<Self> {
        Some(match st_mode & 0o170000 {
            0o100000 => Self::Regular,
            0o040000 => Self::Directory,
            0o120000 => Self::Symlink,
            0o010000 => Self::Fifo,
            0o140000 => Self::Socket,
            0o020000 => Self::CharDevice,
            0o060000 => Self::BlockDevice,
            _ => return None,
        })
    }
}

/// The attributes of a file, as `stat(2)` tells them at its master, and whether it has extended ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// Which file.
    pub file: FileId,
    /// Its type.
    pub kind: FileKind,
    /// Permission, set-id and sticky bits; no type bits.
    pub mode: u32,
    /// Number of hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device file.
    pub rdev: u64,
    /// Length in bytes.
    pub size: u64,
    /// Allocated 512-byte blocks.
    pub blocks: u64,
    /// Last access, ns since 1970.
    pub atime_ns: i64,
    /// Last change of the content, ns since 1970.
    pub mtime_ns: i64,
    /// Last change of content or attributes, ns since 1970.
    pub ctime_ns: i64,
    /// It has no extended attributes, access control lists among them. Where it has some, or its origin does not
    /// tell, this is false.
    pub no_xattrs: bool,
}

impl Attr {
    /// Whether each change of the file is a change of one name in one directory: it has no other name, and holds no
    /// names itself.
    pub fn has_one_name(&self) -> bool {
        self.kind != FileKind::Directory && self.nlink <= 1
    }

    /// The version of the content that these attributes describe.
    pub fn version(&self) -> Version {
        Version { file: self.file, size: self.size, mtime_ns: self.mtime_ns, ctime_ns: self.ctime_ns }
    }
}

/// One name in a directory with the attributes of what it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name: 1 to 255 bytes without `/` and NUL, need not be UTF-8; never `.` or `..`.
    pub name: Bytes,
    /// Its attributes.
    pub attr: Attr,
    /// Where a symbolic link points, if that is told along: 1 to
    /// [`MAX_LISTED_TARGET`](crate::limits::MAX_LISTED_TARGET) bytes.
    pub target: Option<Box<[u8]>>,
}

impl DirEntry {
    /// A name of which nothing is told but its attributes.
    pub fn new(name: Bytes, attr: Attr) -> Self {
        Self { name, attr, target: None }
    }
}

/// Totals of the file system that holds an origin, as `statvfs(3)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FsStat {
    /// Bytes of one block, the unit of the counts below.
    pub block_size: u64,
    /// Blocks in all.
    pub blocks: u64,
    /// Free blocks.
    pub blocks_free: u64,
    /// Free blocks for other users than root.
    pub blocks_available: u64,
    /// Inodes in all.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
}
