//! Suites that were written for local file systems, in full on a mount of a path's home and on one of the site that holds
//! its subtree. `scripts/test` installs them below `target/tools`; CONTRIBUTING.md says how to run them for longer.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../common/mod.rs"]
mod common;

mod fsx;
mod local;
mod pjdfstest;

use common::{Setup, TestCluster, can_mount, shell, skip};
use std::fs;
use std::path::{Path, PathBuf};

const POLICIES: &str = "\
policies:
  - {name: results, pattern: /r/**, primary: onprem, sync_mode: async}
";

/// The directory in which the suites work. It is short, since of sockets all of the path has to fit into 108 bytes.
const SUBTREE: &str = "r/j";

/// Where a suite runs whose directory has its home at `onprem`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// On a mount of the home.
    Home,
    /// On a mount of `cloud`, which masters the subtree by a lease.
    Held,
}

/// A mount with a directory to work in.
struct Mounted {
    test: TestCluster,
    place: Place,
    directory: PathBuf,
}

impl Mounted {
    fn at(place: Place) -> Self {
        let setup = Setup { policy_yaml: POLICIES.into(), ..Setup::default() };
        let mut test = setup.start(|origin| fs::create_dir_all(origin.join(SUBTREE)).unwrap());
        let site = if place == Place::Home { "onprem" } else { "cloud" };
        let at = test.scratch.path().join("m");
        test.cluster.add_node("node-1", site, "1GiB", "").unwrap();
        test.cluster.start_mount("node-1", &at, &["-o", "rw,dev,suid,allow_other"]).unwrap();
        let directory = at.join(SUBTREE);
        // The first change: from here on `cloud` is the master, if it is to be.
        fs::write(directory.join("first"), "").unwrap();
        let mounted = Self { test, place, directory };
        mounted.is_held_as_meant();
        mounted
    }

    /// It was the site that was meant that made the changes.
    fn is_held_as_meant(&self) {
        let leases = self.test.cluster.admin(&["lease", "list", "--json"]).unwrap();
        assert_eq!(leases.contains("\"cloud\""), self.place == Place::Held, "{leases}");
    }

    /// What was left lies at home, and is the same at both sites if both have it.
    fn all_is_home(&self) {
        self.is_held_as_meant();
        if self.place == Place::Held {
            self.test.cluster.admin(&["sync", "/r", "--wait", "--timeout", "60s"]).unwrap();
        }
        let [home, cloud] = ["onprem", "cloud"].map(|site| self.test.origin(site).join(SUBTREE));
        let other = if self.place == Place::Held { cloud } else { self.directory.clone() };
        shell(Path::new("/"), &format!("diff -r {} {}", home.display(), other.display()));
    }
}

/// A program that `scripts/test` installs, if `test` can run with it here.
fn tool(test: &str, name: &str) -> Option<PathBuf> {
    if !can_mount(test) {
        return None;
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("tools/bin").join(name);
    let is_there = path.exists();
    if !is_there {
        skip(test, &format!("{}, which scripts/test installs", path.display()));
    }
    is_there.then_some(path)
}
