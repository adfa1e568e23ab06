//! Bringing files to a site before they are read: by path, and by what jobs read before.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../common/mod.rs"]
mod common;

mod traces;
mod trees;

use common::{Setup, TestCluster};
use std::path::PathBuf;

/// Sites that repeat what they know of names for so long that no test sees them ask twice.
fn long_memory() -> Setup {
    Setup { site_yaml: "metadata_ttl: 1h\n".into(), ..Setup::default() }
}

/// A registered node of `cloud` without a mount; gives its configuration.
fn node(test: &mut TestCluster, name: &str) -> PathBuf {
    test.cluster.add_node(name, "cloud", "1GiB", "").unwrap()
}

/// Contents of files that `cloud` fetched from other sites so far.
fn fetched_bytes(test: &TestCluster) -> u64 {
    test.cluster.metrics("cloud").unwrap().sum("globalfs_fetched_bytes_total") as u64
}
