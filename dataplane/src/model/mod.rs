//! Decisions of the data plane without IO, clock or async: events in, actions out.

pub mod dedup;
pub mod eviction;
pub mod hash_index;
