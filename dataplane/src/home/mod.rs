//! Subtrees whose master is another site than their home: what the holder owes, and how it comes home.

mod confirm;
mod content;
pub mod holdings;
mod links;
pub mod receive;
pub mod side;
mod small;
pub mod survey;
pub mod syncer;
