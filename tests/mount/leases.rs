//! Writing at a site that is not the home of a path: it becomes the master of the subtree, everybody sees what it makes, and
//! that comes home by itself.

use super::within;
use crate::common::{Setup, TestCluster, can_mount, shell};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const POLICIES: &str = "\
policies:
  - name: results
    pattern: /results/**
    primary: onprem
    sync_mode: async
";

const SOON: Duration = Duration::from_secs(20);

struct Burst {
    test: TestCluster,
    home: PathBuf,
    cloud: PathBuf,
}

fn start() -> Burst {
    let mut test = Setup { policy_yaml: POLICIES.into(), ..Setup::default() }.start(|origin| {
        fs::create_dir_all(origin.join("results/old/deep")).unwrap();
        fs::write(origin.join("results/old/file"), "old content").unwrap();
        fs::write(origin.join("results/old/deep/file"), "deep").unwrap();
    });
    let (home, cloud) = (test.mount("node-1", "onprem"), test.mount("node-2", "cloud"));
    Burst { test, home, cloud }
}

impl Burst {
    fn leases(&self) -> Vec<serde_json::Value> {
        let text = self.test.cluster.admin(&["lease", "list", "--json"]).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    fn origin(&self, site: &str, path: &str) -> PathBuf {
        self.test.origin(site).join(path)
    }
}

/// Names, kinds, modes, owners, sizes, times, targets and contents below a directory; hidden names are not shown.
fn tree(dir: &Path) -> String {
    shell(
        dir,
        "find . -not -name '.globalfs-*' \\( -type d -printf '%P %y %m %U %G\\n' -o -printf '%P %y %m %U %G %n %s %T@ %l\\n' \\) | sort; \
         find . -type f -not -name '.globalfs-*' | sort | xargs -r md5sum",
    )
}

/// Holds promise 18 of docs/semantics.md.
#[test]
fn what_is_written_at_another_site_is_seen_at_once_and_comes_home() {
    if !can_mount("what_is_written_at_another_site_is_seen_at_once_and_comes_home") {
        return;
    }
    let burst = start();
    shell(
        &burst.cloud,
        "mkdir results/job && cd results/job && mkdir -p a/b && echo one > a/b/one && ln a/b/one two && ln -s two three",
    );
    let leases = burst.leases();
    assert_eq!(leases.len(), 1, "{leases:?}");
    assert_eq!((&leases[0]["path"], &leases[0]["master"]), (&"/results/job".into(), &"cloud".into()));
    assert_eq!(
        shell(&burst.home, "cat results/job/two results/job/three"),
        "one\none\n",
        "at once, before it is home"
    );
    shell(
        &burst.cloud,
        "cd results/job && mv a/b c && seq 100000 > c/numbers && rm two && chmod 600 c/one && touch -d @1000000000 c/one",
    );
    assert_eq!(
        shell(&burst.home, "cd results/job && find . | LC_ALL=C sort | xargs; wc -l < c/numbers"),
        ". ./a ./c ./c/numbers ./c/one ./three\n100000\n"
    );
    shell(&burst.home, "echo from home > results/job/home && rm results/job/three");
    assert_eq!(shell(&burst.cloud, "cat results/job/home"), "from home\n");
    burst.test.cluster.admin(&["sync", "/results/job", "--wait", "--timeout", "20s"]).unwrap();
    assert_eq!(tree(&burst.origin("onprem", "results/job")), tree(&burst.origin("cloud", "results/job")));
    assert_eq!(tree(&burst.home.join("results/job")), tree(&burst.cloud.join("results/job")));
    burst.test.cluster.admin(&["drain", "cloud", "--timeout", "20s"]).unwrap();
    assert!(burst.leases().is_empty());
    within(SOON, || {
        if burst.origin("cloud", "results/job").exists() { Err("still there".into()) } else { Ok(()) }
    });
    assert_eq!(tree(&burst.home.join("results/job")), tree(&burst.origin("onprem", "results/job")));
    assert_eq!(tree(&burst.cloud.join("results/job")), tree(&burst.origin("onprem", "results/job")));
    shell(&burst.cloud, "echo again > results/job/again");
    assert_eq!(shell(&burst.home, "cat results/job/again results/job/home"), "again\nfrom home\n");
}

#[test]
fn a_subtree_with_content_is_taken_over_whole() {
    if !can_mount("a_subtree_with_content_is_taken_over_whole") {
        return;
    }
    let burst = start();
    shell(&burst.cloud, "cd results/old && echo more >> file && rm deep/file && mkdir new");
    assert_eq!(burst.leases().len(), 1);
    assert_eq!(
        shell(&burst.home, "cd results/old && cat file && find . | LC_ALL=C sort | xargs"),
        "old contentmore\n. ./deep ./file ./new\n"
    );
    within(SOON, || {
        let home = fs::read_to_string(burst.origin("onprem", "results/old/file")).unwrap();
        if home == "old contentmore\n" { Ok(()) } else { Err(home) }
    });
    burst.test.cluster.admin(&["drain", "cloud", "--timeout", "20s"]).unwrap();
    assert_eq!(tree(&burst.cloud.join("results/old")), tree(&burst.origin("onprem", "results/old")));
}
