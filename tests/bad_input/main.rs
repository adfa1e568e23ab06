//! What is wrong is told: what, where and what to do, with the right exit code, without a panic, and
//! without anything half done left behind.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod coordinator;
mod host;
mod mounting;
mod registration;
mod starting;
mod strangers;
mod usage;

use common::{Setup, TestCluster};
use std::path::PathBuf;

/// A third site that may register; it continues the list of sites, behind which policies would stand.
const SPARE: &str = "  - {name: spare, role: backup}\n";

/// A cluster whose site `spare` has not joined.
fn cluster_with_spare() -> TestCluster {
    Setup { policy_yaml: SPARE.into(), ..Setup::default() }.start(|_| {})
}

impl TestCluster {
    /// The configuration of the site `spare`, with other values for some keys.
    fn spare_config(&self, copy: &str, changes: &[(&str, &str)]) -> PathBuf {
        let of = |name: &str| self.scratch.path().join(name).display().to_string();
        let (state, origin) = (of("spare-state"), format!("file://{}", of("spare-origin")));
        let address = common::commands::free_address().to_string();
        let mut all = vec![("name", "spare"), ("state_dir", &state), ("origin", &origin)];
        all.extend([("listen", &*address), ("advertise", &address), ("metrics", &address)]);
        all.retain(|(key, _)| !changes.iter().any(|(changed, _)| changed == key));
        all.extend(changes);
        common::commands::altered(self.cluster.site_config("cloud"), copy, &all)
    }
}
