//! What needs no machine: the link's decisions, the contents of files, statistics. Pure, so that a seed and the
//! times of arrival give the same losses and delays, a seed the same bytes, and samples the same figures.

mod content;
mod link;
#[cfg(test)]
mod link_tests;
mod options;
mod packet;
#[cfg(test)]
mod packet_tests;
mod statistics;
mod text;
mod unit;

pub(crate) use content::Content;
pub use link::{Direction, REORDER_HOLD_NS, Verdict};
pub use options::{LinkOptions, MIN_QUEUE_BYTES, bytes_in};
pub use packet::{Packet, VNET_HEADER_BYTES};
pub(crate) use statistics::{Better, Summary, number, ratio};
pub(crate) use text::Prose;
pub use unit::{MAX_UNIT_NS, Tally, Unit, offer};
