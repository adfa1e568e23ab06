//! The link's decisions: pure, so that a seed and the times of arrival give the same losses and delays.

mod link;
#[cfg(test)]
mod link_tests;
mod options;
mod packet;
#[cfg(test)]
mod packet_tests;
mod unit;

pub use link::{Direction, REORDER_HOLD_NS, Verdict};
pub use options::{LinkOptions, MIN_QUEUE_BYTES, bytes_in};
pub use packet::{Packet, VNET_HEADER_BYTES};
pub use unit::{MAX_UNIT_NS, Tally, Unit, offer};
