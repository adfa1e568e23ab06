//! The tables behind a mount, without IO, clock and async: which nodes the kernel knows, what is open.

pub(crate) mod behind;
mod doubts;
mod handle;
pub(crate) mod hidden;
mod inode;
mod kept_names;
mod listing;
mod mode;
mod moment;
mod touches;
mod unconfirmed;
pub(crate) mod xattr;

pub(crate) use doubts::{Doubted, Doubts};
pub(crate) use handle::HandleTable;
pub use inode::{Identity, NodeId};
pub(crate) use inode::{InodeTable, LocalAttr, Pages, Place, Sight};
pub(crate) use listing::{Listing, Listings, Mark, Offset, Position};
pub(crate) use mode::{Mode, Modes};
pub(crate) use moment::{Moment, NameChanges};
pub(crate) use touches::Touches;
pub(crate) use unconfirmed::Unconfirmed;
