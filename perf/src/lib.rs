//! What is measured across sites, and the WAN on one machine that it is measured over.

pub mod compare;
pub mod link_test;
pub mod model;
pub mod sandbox;
pub mod wan;
