//! From the kernel's bytes to a request that changes something. As in `request.rs`, nothing is guessed.

use crate::kernel::abi::{self, opcode, set_flag, write_flag};
use crate::kernel::request::{Body, name};
use crate::model::NodeId;
use globalfs_proto::{Allocation, Existing, FileKind, NewAttr, NewTime};
use rustix::fs::{OFlags, RenameFlags, XattrFlags};

/// A change. Names of what is made are in the request's node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChangeRequest<'a> {
    /// A regular file, to be opened at once with `flags` of open(2).
    Create {
        name: &'a [u8],
        mode: u32,
        flags: u32,
    },
    /// A regular file without a name, to be opened at once with `flags` of open(2).
    CreateNameless {
        mode: u32,
        flags: u32,
    },
    /// Anything but directories and symbolic links. `None`: a kind that does not exist.
    MakeNode {
        name: &'a [u8],
        kind: Option<FileKind>,
        mode: u32,
        device: u32,
    },
    MakeDirectory {
        name: &'a [u8],
        mode: u32,
    },
    MakeSymlink {
        name: &'a [u8],
        target: &'a [u8],
    },
    /// `node` gets another name.
    Link {
        node: NodeId,
        name: &'a [u8],
    },
    Remove {
        name: &'a [u8],
        directory: bool,
    },
    /// `existing` is `None` for a way that is not known here.
    Rename {
        name: &'a [u8],
        new_parent: NodeId,
        new_name: &'a [u8],
        existing: Option<Existing>,
    },
    /// Set-id bits are taken away as well if `drops_set_id`.
    SetAttr {
        attr: NewAttr,
        drops_set_id: bool,
    },
    SetXattr {
        name: &'a [u8],
        value: &'a [u8],
        existing: Option<Existing>,
    },
    RemoveXattr {
        name: &'a [u8],
    },
    Write(WriteRequest<'a>),
    Allocate {
        allocation: Allocation,
    },
    Sync {
        handle: u64,
        data_only: bool,
    },
    Copy(CopyRequest),
}

/// Bytes to copy from one open file into another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CopyRequest {
    /// What they are read of.
    pub(crate) from: u64,
    pub(crate) from_offset: u64,
    /// What they are written to.
    pub(crate) to: u64,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// Bytes to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WriteRequest<'a> {
    pub(crate) handle: u64,
    /// `None`: at the end.
    pub(crate) offset: Option<u64>,
    pub(crate) data: &'a [u8],
    /// Set-id bits are taken away.
    pub(crate) drops_set_id: bool,
    /// It is to be there when it is answered.
    pub(crate) is_sync: bool,
}

/// `None` for what changes nothing.
pub(crate) fn parse(opcode: u32, body: Body<'_>) -> Result<Option<ChangeRequest<'_>>, &'static str> {
    use ChangeRequest as Change;
    Ok(Some(match opcode {
        opcode::CREATE => create(body)?,
        opcode::COPY_FILE_RANGE => {
            let copy = body.argument::<abi::CopyFileRangeIn>()?.0;
            Change::Copy(CopyRequest {
                from: copy.handle_in,
                from_offset: copy.offset_in,
                to: copy.handle_out,
                offset: copy.offset_out,
                length: copy.length,
            })
        }
        opcode::TMPFILE => {
            let create = body.argument::<abi::CreateIn>()?.0;
            Change::CreateNameless { mode: permissions(create.mode), flags: create.flags }
        }
        opcode::MKNOD => make_node(body)?,
        opcode::MKDIR => {
            let (made, data) = body.argument::<abi::MkdirIn>()?;
            Change::MakeDirectory { name: name(data)?, mode: permissions(made.mode) }
        }
        opcode::SYMLINK => {
            let (name, target) = two_names(body.data())?;
            Change::MakeSymlink { name, target }
        }
        opcode::LINK => {
            let (link, data) = body.argument::<abi::LinkIn>()?;
            Change::Link { node: NodeId(link.node), name: name(data)? }
        }
        opcode::UNLINK => Change::Remove { name: name(body.data())?, directory: false },
        opcode::RMDIR => Change::Remove { name: name(body.data())?, directory: true },
        opcode::RENAME => {
            let (rename, data) = body.argument::<abi::RenameIn>()?;
            renamed(rename.new_parent, 0, data)?
        }
        opcode::RENAME2 => {
            let (rename, data) = body.argument::<abi::Rename2In>()?;
            renamed(rename.new_parent, rename.flags, data)?
        }
        opcode::SETATTR => set_attr(&body.argument::<abi::SetattrIn>()?.0),
        opcode::SETXATTR => set_xattr(body)?,
        opcode::REMOVEXATTR => Change::RemoveXattr { name: name(body.data())? },
        opcode::WRITE => write(body)?,
        opcode::FALLOCATE => {
            let abi::FallocateIn { offset, length, mode, .. } = body.argument()?.0;
            Change::Allocate { allocation: Allocation { offset, length, mode } }
        }
        opcode::FSYNC | opcode::FSYNCDIR => {
            let sync = body.argument::<abi::FsyncIn>()?.0;
            Change::Sync { handle: sync.handle, data_only: sync.fsync_flags & abi::DATA_ONLY != 0 }
        }
        _ => return Ok(None),
    }))
}

/// The kernel has applied the caller's umask.
fn permissions(mode: u32) -> u32 {
    mode & 0o7777
}

fn create(body: Body<'_>) -> Result<ChangeRequest<'_>, &'static str> {
    let (create, data) = body.argument::<abi::CreateIn>()?;
    Ok(ChangeRequest::Create { name: name(data)?, mode: permissions(create.mode), flags: create.flags })
}

fn make_node(body: Body<'_>) -> Result<ChangeRequest<'_>, &'static str> {
    let (made, data) = body.argument::<abi::MknodIn>()?;
    let kind = FileKind::from_mode(made.mode);
    Ok(ChangeRequest::MakeNode { name: name(data)?, kind, mode: permissions(made.mode), device: made.device })
}

fn renamed(new_parent: u64, flags: u32, data: &[u8]) -> Result<ChangeRequest<'_>, &'static str> {
    let (name, new_name) = two_names(data)?;
    let existing = match RenameFlags::from_bits_retain(flags) {
        flags if flags.is_empty() => Some(Existing::Replace),
        RenameFlags::NOREPLACE => Some(Existing::Refuse),
        RenameFlags::EXCHANGE => Some(Existing::Exchange),
        _ => None,
    };
    Ok(ChangeRequest::Rename { name, new_parent: NodeId(new_parent), new_name, existing })
}

fn set_attr(set: &abi::SetattrIn) -> ChangeRequest<'static> {
    let has = |flag| set.valid & flag != 0;
    let time = |flag, now, seconds: i64, ns: u32| match (has(flag), has(now)) {
        (false, _) => None,
        (true, true) => Some(NewTime::Now),
        (true, false) => Some(NewTime::At(seconds.saturating_mul(1_000_000_000).saturating_add(ns.into()))),
    };
    let attr = NewAttr {
        mode: has(set_flag::MODE).then_some(permissions(set.mode)),
        uid: has(set_flag::UID).then_some(set.uid),
        gid: has(set_flag::GID).then_some(set.gid),
        size: has(set_flag::SIZE).then_some(set.size),
        atime: time(set_flag::ATIME, set_flag::ATIME_NOW, set.atime, set.atime_ns),
        mtime: time(set_flag::MTIME, set_flag::MTIME_NOW, set.mtime, set.mtime_ns),
    };
    ChangeRequest::SetAttr { attr, drops_set_id: has(set_flag::KILL_SUIDGID) }
}

fn set_xattr(body: Body<'_>) -> Result<ChangeRequest<'_>, &'static str> {
    let (set, data) = body.argument::<abi::SetxattrIn>()?;
    let (name, value) = first_name(data)?;
    if value.len() != set.size as usize {
        return Err("its value has another length than it says");
    }
    let existing = match XattrFlags::from_bits_retain(set.flags) {
        flags if flags.is_empty() => Some(Existing::Replace),
        XattrFlags::CREATE => Some(Existing::Refuse),
        XattrFlags::REPLACE => Some(Existing::Exchange),
        _ => None,
    };
    Ok(ChangeRequest::SetXattr { name, value, existing })
}

fn write(body: Body<'_>) -> Result<ChangeRequest<'_>, &'static str> {
    let (write, data) = body.argument::<abi::WriteIn>()?;
    if data.len() != write.size as usize {
        return Err("it holds another number of bytes than it says");
    }
    // Another node may have appended meanwhile, so that the kernel's offset is no longer the end. Pages that were changed
    // in memory are where they are.
    let appends = write.flags & OFlags::APPEND.bits() != 0 && write.write_flags & write_flag::CACHE == 0;
    let drops_set_id = write.write_flags & write_flag::KILL_SUIDGID != 0;
    let offset = (!appends).then_some(write.offset);
    // `SYNC` has the bit of `DSYNC`, too.
    let is_sync = write.flags & (OFlags::DSYNC | OFlags::DIRECT).bits() != 0;
    Ok(ChangeRequest::Write(WriteRequest { handle: write.handle, offset, data, drops_set_id, is_sync }))
}

/// What stands before the first NUL, which is a name, and what comes behind it.
fn first_name(bytes: &[u8]) -> Result<(&[u8], &[u8]), &'static str> {
    match bytes.iter().position(|&byte| byte == 0) {
        Some(end) if end > 0 => Ok((&bytes[..end], &bytes[end + 1..])),
        _ => Err("its first name is empty or has no end"),
    }
}

fn two_names(bytes: &[u8]) -> Result<(&[u8], &[u8]), &'static str> {
    let (first, rest) = first_name(bytes)?;
    Ok((first, name(rest)?))
}

#[cfg(test)]
#[path = "change_request_tests.rs"]
mod tests;
