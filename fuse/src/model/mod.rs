//! The tables behind a mount, without IO, clock and async: which nodes the kernel knows, what is open.

mod handle;
mod inode;
mod mode;

pub(crate) use handle::{DirPosition, Handle, HandleTable, OpenFile, dir_position, offset_after};
pub use inode::{Identity, NodeId};
pub(crate) use inode::{InodeTable, Place};
pub(crate) use mode::{Mode, Modes};
