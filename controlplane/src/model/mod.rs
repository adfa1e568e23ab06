//! Decisions of the control plane, pure: records and events and `now` in, answers out.
//!
//! *Invariant:* no IO, no clock, no async below this folder.

mod consistency;
pub mod lease;
mod on_disconnect;
pub mod pattern;
pub mod policy;
pub mod record;
mod replica;
pub mod replica_state;
mod sync_mode;
pub mod timestamp;
pub mod token;
pub mod travel;
