//! The tables behind a mount, without IO, clock and async: which nodes the kernel knows, what is open.

mod handle;
mod inode;
mod kept_names;
mod mode;
mod touches;

pub(crate) use handle::{DirPosition, Handle, HandleTable, Listing, OpenFile, dir_position, offset_after};
pub use inode::{Identity, NodeId};
pub(crate) use inode::{InodeTable, Place};
pub use kept_names::Keeping;

pub(crate) use mode::{Mode, Modes};
pub(crate) use touches::Touches;
