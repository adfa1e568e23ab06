//! From the kernel's bytes to a request. What is short or does not fit together is an error, never a guess.

use crate::kernel::abi::{self, InHeader, opcode};
use crate::kernel::change_request::{self, ChangeRequest};
use crate::kernel::lock_request::{self, LockRequest};
use crate::model::NodeId;
use bytes::Bytes;
use globalfs_proto::LockOwner;
use rustix::fs::OFlags;
use zerocopy::FromBytes;

/// A request: which one, of which node, by which thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request<'a> {
    /// The number that its answer names.
    pub(crate) unique: u64,
    /// The node, as far as the operation has one.
    pub(crate) node: NodeId,
    /// The thread that asks; 0 for the kernel's own.
    pub(crate) tid: u32,
    /// The user who asks.
    pub(crate) uid: u32,
    /// The group of who asks.
    pub(crate) gid: u32,
    /// What its data lies in, if that can be kept without a copy.
    pub(crate) buffer: Option<&'a Bytes>,
    /// What is to be done.
    pub(crate) operation: Operation<'a>,
}

/// What a request wants. Sizes, offsets and lengths are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation<'a> {
    LookUp {
        name: &'a [u8],
    },
    Forget {
        lookups: u64,
    },
    BatchForget {
        nodes: &'a [u8],
    },
    GetAttr,
    ReadLink,
    Open {
        flags: u32,
    },
    Read {
        handle: u64,
        offset: u64,
        length: u32,
        /// Past the page cache.
        is_direct: bool,
    },
    /// Where data begins, or a hole.
    Seek {
        handle: u64,
        offset: u64,
        whence: u32,
    },
    Release {
        handle: u64,
        /// Whose lock of the whole file goes with it.
        unlocks: Option<LockOwner>,
    },
    ReadDir {
        offset: u64,
        size: u32,
    },
    ReadDirPlus {
        offset: u64,
        size: u32,
    },
    StatFs,
    GetXattr {
        name: &'a [u8],
        size: u32,
    },
    ListXattr {
        size: u32,
    },
    Ioctl,
    Destroy,
    /// Something is to be changed.
    Change(ChangeRequest<'a>),
    /// Something about locks.
    Lock(LockRequest),
    /// The answer to a question that is never asked here.
    NotifyReply,
    /// What the kernel does alone when nobody else does.
    Other {
        opcode: u32,
    },
}

/// Why bytes are no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequestError {
    /// There is nobody to answer.
    #[error("{0} bytes are too few for a request of the kernel")]
    NoHeader(usize),
    /// To be answered with an error, unless [`Self::has_answer`] says that nobody waits.
    #[error("request {unique} of kind {opcode} is malformed: {what}")]
    Malformed {
        /// Its number.
        unique: u64,
        /// Its kind.
        opcode: u32,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl RequestError {
    /// The number of the request that waits for an answer.
    pub(crate) fn unique(&self) -> Option<u64> {
        match self {
            Self::Malformed { unique, opcode, .. } if !is_forget(*opcode) => Some(*unique),
            _ => None,
        }
    }
}

fn is_forget(opcode: u32) -> bool {
    matches!(opcode, opcode::FORGET | opcode::BATCH_FORGET)
}

/// What comes behind a request's header.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Body<'a> {
    /// From the device: all in one.
    Joined(&'a [u8]),
    /// From a ring: the operation's structure, in a place that may be longer, and what comes behind it.
    Apart { argument: &'a [u8], data: &'a [u8] },
}

impl<'a> Body<'a> {
    /// The operation's structure and what comes behind it.
    pub(crate) fn argument<T: FromBytes>(self) -> Result<(T, &'a [u8]), &'static str> {
        const SHORT: &str = "its structure is cut short";
        match self {
            Self::Joined(bytes) => T::read_from_prefix(bytes).map_err(|_| SHORT),
            Self::Apart { argument, data } => {
                T::read_from_prefix(argument).map(|(structure, _)| (structure, data)).map_err(|_| SHORT)
            }
        }
    }

    /// What there is when the operation has no structure.
    pub(crate) fn data(self) -> &'a [u8] {
        match self {
            Self::Joined(data) | Self::Apart { data, .. } => data,
        }
    }
}

/// The request in `bytes`, which the device gave in one piece.
pub(crate) fn parse(bytes: &[u8]) -> Result<Request<'_>, RequestError> {
    let (header, rest) =
        InHeader::read_from_prefix(bytes).map_err(|_| RequestError::NoHeader(bytes.len()))?;
    if header.length as usize != bytes.len() {
        return Err(malformed(&header, "its length is another than was read"));
    }
    parse_parts(&header, Body::Joined(rest))
}

/// The request of which header and body are known.
pub(crate) fn parse_parts<'a>(header: &InHeader, body: Body<'a>) -> Result<Request<'a>, RequestError> {
    let operation = operation(header.opcode, body).map_err(|what| malformed(header, what))?;
    let InHeader { unique, node, uid, gid, pid: tid, .. } = *header;
    Ok(Request { unique, node: NodeId(node), tid, uid, gid, buffer: None, operation })
}

fn malformed(header: &InHeader, what: &'static str) -> RequestError {
    RequestError::Malformed { unique: header.unique, opcode: header.opcode, what }
}

fn operation(opcode: u32, body: Body<'_>) -> Result<Operation<'_>, &'static str> {
    Ok(match opcode {
        opcode::LOOKUP => Operation::LookUp { name: name(body.data())? },
        opcode::FORGET => Operation::Forget { lookups: body.argument::<abi::ForgetIn>()?.0.lookups },
        opcode::BATCH_FORGET => Operation::BatchForget { nodes: batch(body)? },
        opcode::GETATTR => body.argument::<abi::GetattrIn>().map(|_| Operation::GetAttr)?,
        opcode::READLINK => Operation::ReadLink,
        opcode::OPEN => Operation::Open { flags: body.argument::<abi::OpenIn>()?.0.flags },
        opcode::READ => {
            let read = body.argument::<abi::ReadIn>()?.0;
            let is_direct = read.flags & OFlags::DIRECT.bits() != 0;
            Operation::Read { handle: read.handle, offset: read.offset, length: read.size, is_direct }
        }
        opcode::LSEEK => {
            let seek = body.argument::<abi::LseekIn>()?.0;
            Operation::Seek { handle: seek.handle, offset: seek.offset, whence: seek.whence }
        }
        opcode::RELEASE => {
            let release = body.argument::<abi::ReleaseIn>()?.0;
            Operation::Release { handle: release.handle, unlocks: lock_request::released(&release) }
        }
        opcode::READDIR => {
            let read = body.argument::<abi::ReadIn>()?.0;
            Operation::ReadDir { offset: read.offset, size: read.size }
        }
        opcode::READDIRPLUS => {
            let read = body.argument::<abi::ReadIn>()?.0;
            Operation::ReadDirPlus { offset: read.offset, size: read.size }
        }
        opcode::STATFS => Operation::StatFs,
        opcode::GETXATTR => {
            let (wanted, data) = body.argument::<abi::GetxattrIn>()?;
            Operation::GetXattr { name: name(data)?, size: wanted.size }
        }
        opcode::LISTXATTR => Operation::ListXattr { size: body.argument::<abi::GetxattrIn>()?.0.size },
        opcode::IOCTL => Operation::Ioctl,
        opcode::DESTROY => Operation::Destroy,
        opcode::NOTIFY_REPLY => Operation::NotifyReply,
        opcode => other(opcode, body)?,
    })
}

fn other(opcode: u32, body: Body<'_>) -> Result<Operation<'_>, &'static str> {
    if let Some(lock) = lock_request::parse(opcode, body)? {
        return Ok(Operation::Lock(lock));
    }
    let change = change_request::parse(opcode, body)?;
    Ok(change.map_or(Operation::Other { opcode }, Operation::Change))
}

/// A name ends with the only NUL.
pub(crate) fn name(bytes: &[u8]) -> Result<&[u8], &'static str> {
    match bytes.split_last() {
        Some((0, name)) if !name.is_empty() && !name.contains(&0) => Ok(name),
        _ => Err("its name is empty or does not end with the only NUL"),
    }
}

fn batch(body: Body<'_>) -> Result<&[u8], &'static str> {
    let (batch, nodes) = body.argument::<abi::BatchForgetIn>()?;
    let wanted = (batch.count as usize).saturating_mul(size_of::<abi::ForgetOne>());
    if nodes.len() == wanted { Ok(nodes) } else { Err("it holds another number of nodes than it says") }
}

/// The nodes of a [`Operation::BatchForget`], each with the number of lookups to forget.
pub(crate) fn forgotten(nodes: &[u8]) -> impl Iterator<Item = (NodeId, u64)> + '_ {
    let each = nodes.chunks_exact(size_of::<abi::ForgetOne>());
    each.filter_map(|one| abi::ForgetOne::read_from_bytes(one).ok())
        .map(|one| (NodeId(one.node), one.lookups))
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
