//! Decisions of the data plane without IO, clock or async: events in, actions out.

pub mod eviction;
pub mod pace;
pub mod readahead;
pub mod walk;
