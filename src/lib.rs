//! GlobalFS: one file tree over an HPC centre's own storage and the cloud.
//!
//! Programs that want the tree without a mount use [`Client`]: it talks to its own site's daemon, which
//! fetches what is read from the site that has it, verifies it and keeps it. A machine has to be registered
//! once with `globalfs node register`; `examples/read.rs` is a whole program.
//!
//! ```no_run
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> anyhow::Result<()> {
//! let client = globalfs::Client::connect("/etc/globalfs/globalfs.yaml").await?;
//! for entry in client.read_dir("/datasets").await?.iter() {
//!     println!("{:>12} {}", entry.attr.size, String::from_utf8_lossy(&entry.name));
//! }
//! let file = client.open("/datasets/x").await?;
//! let middle = file.read_at(file.attr().size / 2, 1024 * 1024).await?;
//! println!("{} bytes, all of one version, each verified", middle.len());
//! # Ok(())
//! # }
//! ```
//!
//! The rest of this package is both programs: [`cli`] has a file per command, [`config`] the YAML files,
//! [`coordinator`], [`site`] and [`node`] put the daemons together. ARCHITECTURE.md is the map.
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
pub mod prefetch;
pub mod site;
pub mod telemetry;
pub mod trace;

pub use client::{Client, File};
pub use globalfs_proto::{Attr, DirEntry, FileKind, FsError, FsResult};
