//! Decisions of the data plane without IO, clock or async: events in, actions out.

pub mod along;
pub mod batch_order;
pub mod batches;
pub mod bucket;
pub mod bundles;
pub mod dedup;
pub mod direct;
mod directory;
pub mod eviction;
pub mod freshness;
pub mod hash_index;
pub mod heard;
pub mod ids;
pub mod locks;
pub mod names;
pub mod pace;
pub mod pending;
pub mod readahead;
pub mod replicas;
pub mod urgency;
pub mod walk;
mod walk_order;
pub mod wanted;
pub mod watches;
