//! Decisions of the data plane without IO, clock or async: events in, actions out.

mod directory;
pub mod eviction;
pub mod freshness;
pub mod names;
pub mod watches;
