//! The tables behind a mount, without IO, clock and async: which nodes the kernel knows, what is open.

mod handle;
mod inode;

pub(crate) use handle::{DirPosition, Handle, HandleTable, OpenFile, dir_position, offset_after};
pub use inode::{Identity, NodeId};
pub(crate) use inode::{InodeTable, Place};
