//! What is measured across sites, and the WAN on one machine that it is measured over.

mod arguments;
mod build;
pub mod compare;
mod data;
mod limited;
pub mod link_test;
pub mod model;
mod reader;
pub mod sandbox;
mod systems;
mod table;
pub mod wan;
pub mod warm;
pub mod write;
