//! What is measured across sites, and the WAN on one machine that it is measured over.

mod arguments;
mod build;
pub mod compare;
mod data;
mod limited;
pub mod link_test;
pub mod model;
mod plain_tls;
mod reader;
pub mod sandbox;
mod systems;
mod table;
mod tls;
pub mod wan;
pub mod warm;
pub mod write;
