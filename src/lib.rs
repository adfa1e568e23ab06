//! GlobalFS: one file tree over an HPC centre's own storage and the cloud.
//!
//! *Invariant:* this package is the only place where the data plane, the control plane and the mount meet.

mod bench;
pub mod cli;
pub mod client;
pub mod config;
pub mod coordinator;
#[doc(hidden)]
pub mod demo;
#[doc(hidden)]
pub mod local;
pub mod mount;
pub mod node;
pub mod site;
pub mod telemetry;

pub use client::{Client, File};
