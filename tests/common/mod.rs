//! What the whole-system tests share: clusters of the real programs, data to read, and the rule for tests
//! that need more than a plain user has.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its own part")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

pub mod commands;
pub mod wan;

use globalfs::local::{LocalCluster, LocalOptions, LocalSiteOptions, Places, Programs};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Whether this test can run here: it needs root and FUSE. Says aloud that it skips; where everything has
/// to run (`GLOBALFS_TEST_FULL=1`, as in CI) a skip is a failure.
pub fn can_mount(test: &str) -> bool {
    let missing = match (rustix::process::geteuid().is_root(), Path::new("/dev/fuse").exists()) {
        (false, _) => "root",
        (_, false) => "/dev/fuse",
        _ => return true,
    };
    skip(test, missing);
    false
}

/// Says that `test` skips for want of `missing`; fails where nothing may be skipped.
pub fn skip(test: &str, missing: &str) {
    let full = std::env::var_os("GLOBALFS_TEST_FULL").is_some_and(|value| value == "1");
    assert!(!full, "{test} needs {missing}, and GLOBALFS_TEST_FULL=1 forbids to skip");
    eprintln!("SKIPPED: {test} needs {missing}");
}

/// The programs that cargo built for this test.
pub fn programs() -> Programs {
    Programs {
        globalfs: env!("CARGO_BIN_EXE_globalfs").into(),
        globalfs_fuse: env!("CARGO_BIN_EXE_globalfs-fuse").into(),
    }
}

/// A cluster of `onprem` and `cloud` in a folder of its own, which goes with this value.
pub struct TestCluster {
    /// The running programs. Declared before the folder, so that they end first.
    pub cluster: LocalCluster,
    /// The folder of everything.
    pub scratch: TempDir,
}

/// How a test wants its cluster.
pub struct Setup {
    /// The quota of the caches of both sites.
    pub cache_size: String,
    /// Policies, beginning with `policies:`.
    pub policy_yaml: String,
    /// Further lines of both sites' configuration.
    pub site_yaml: String,
    /// The `store:` part of coordinator.yaml.
    pub store_yaml: String,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            cache_size: "4GiB".into(),
            policy_yaml: String::new(),
            site_yaml: String::new(),
            store_yaml: "store: embedded".into(),
        }
    }
}

impl Setup {
    /// Starts the cluster on loopback; `fill` writes the primary's origin first.
    pub fn start(self, fill: impl FnOnce(&Path)) -> TestCluster {
        self.start_at(Places::default(), fill)
    }

    /// The same, each part at its place.
    pub fn start_at(self, places: Places, fill: impl FnOnce(&Path)) -> TestCluster {
        let scratch = TempDir::with_prefix("globalfs-test-").unwrap();
        let origin = |site: &str| scratch.path().join(format!("{site}-origin"));
        fs::create_dir_all(origin("onprem")).unwrap();
        fill(&origin("onprem"));
        let site = |name: &str| LocalSiteOptions {
            name: name.into(),
            origin: origin(name),
            cache_size: self.cache_size.clone(),
            extra_yaml: self.site_yaml.clone(),
        };
        let options = LocalOptions {
            dir: scratch.path().join("cluster"),
            store_yaml: self.store_yaml.clone(),
            policy_yaml: self.policy_yaml.clone(),
            sites: vec![site("onprem"), site("cloud")],
        };
        TestCluster { cluster: LocalCluster::start_at(programs(), options, places).unwrap(), scratch }
    }
}

impl TestCluster {
    /// The origin of a site.
    pub fn origin(&self, site: &str) -> PathBuf {
        self.scratch.path().join(format!("{site}-origin"))
    }

    /// Mounts the tree as a node of `site` and gives the mount point.
    pub fn mount(&mut self, node: &str, site: &str) -> PathBuf {
        let at = self.scratch.path().join(format!("mnt-{node}"));
        self.cluster.mount(node, site, &at).unwrap();
        at
    }

    /// Bytes that `site` received from other sites so far, as they travelled.
    pub fn wan_bytes(&self, site: &str) -> u64 {
        let metrics = self.cluster.metrics(site).unwrap();
        metrics.sum_where("globalfs_replication_bytes_transferred", &format!("dst=\"{site}\"")) as u64
    }
}

/// A number that a longer run by hand sets, see CONTRIBUTING.md, or what it is in the suite.
pub fn setting(variable: &str, in_the_suite: u64) -> u64 {
    let set = std::env::var(variable).ok();
    set.map_or(in_the_suite, |text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    SmallRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// Runs a shell command in `dir` and gives its standard output; fails with all it printed.
pub fn shell(dir: &Path, command: &str) -> String {
    let output =
        Command::new("bash").args(["-c", &format!("set -o pipefail; {command}")]).current_dir(dir).output();
    let output = output.unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}\n{stdout}\n{stderr}");
    stdout
}

/// Runs `program` and gives exit code, standard output and standard error.
pub fn run(program: &Path, args: &[&str]) -> (i32, String, String) {
    let output = Command::new(program).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}
