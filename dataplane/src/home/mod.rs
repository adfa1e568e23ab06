//! Subtrees whose master is another site than their home: what the holder owes, and how it comes home.

pub mod holdings;
mod links;
pub mod syncer;
