//! Reading the tree through real mounts: what applications see, what moves, what damage and change do to it,
//! and the life of a mount.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../common/mod.rs"]
mod common;

#[path = "../../fuse/tests/common/steps.rs"]
mod steps;

mod applications;
mod bulk;
mod changing;
mod crashes;
mod critical;
mod daemon;
mod damage;
mod direct;
mod failures;
mod fan_out;
mod files;
mod hand_over;
mod ids;
mod leases;
mod life;
mod locks;
mod policy;
mod pushed;
mod ranges;
mod replicas;
mod snapshot;
mod tree;
mod two_sites_model;
mod whole;
mod write_model;
mod writes;

use common::{Setup, TestCluster};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Sites that repeat what they know of names for so long that no test sees them ask twice.
fn long_memory() -> Setup {
    Setup { site_yaml: "metadata_ttl: 1h\n".into(), ..Setup::default() }
}

/// Sites and nodes that ask about a name whenever they are asked.
fn no_memory() -> Setup {
    Setup { site_yaml: "metadata_ttl: 0s\n".into(), ..Setup::default() }
}

/// Mounts as [`TestCluster::mount`] does, with further lines of the node's configuration, and arguments.
fn mount_with(test: &mut TestCluster, node: &str, site: &str, yaml: &str, args: &[&str]) -> PathBuf {
    let at = test.scratch.path().join(format!("mnt-{node}"));
    test.cluster.add_node(node, site, "1GiB", yaml).unwrap();
    test.cluster.start_mount(node, &at, args).unwrap();
    at
}

/// Tries until it succeeds, for at most `limit`.
fn within<T>(limit: Duration, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let started = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(error) => assert!(started.elapsed() < limit, "not within {limit:?}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
