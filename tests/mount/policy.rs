//! Directories with other masters than the primary: what each site shows, and whose bytes are read.

use crate::common::{Setup, TestCluster, can_mount, shell};
use std::fs;
use std::path::Path;

const POLICIES: &str = "\
policies:
  - name: results
    pattern: /results/**
    primary: cloud
    sync_mode: async
  - name: scratch
    pattern: /scratch/**
    primary: null
    sync_mode: never
";

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn cluster() -> TestCluster {
    let test = Setup { policy_yaml: POLICIES.into(), ..crate::no_memory() }.start(|origin| {
        write(&origin.join("datasets/x"), "x of onprem");
        write(&origin.join("results/shadowed"), "cloud is master of this directory");
        write(&origin.join("scratch/mine"), "scratch of onprem");
    });
    let cloud = test.origin("cloud");
    write(&cloud.join("results/run/out"), "result of cloud");
    write(&cloud.join("scratch/mine"), "scratch of cloud");
    write(&cloud.join("datasets/x"), "onprem is master of this file");
    write(&cloud.join("stray"), "onprem is master of the root");
    test
}

#[test]
fn each_directory_is_its_masters() {
    if !can_mount("each_directory_is_its_masters") {
        return;
    }
    let mut test = cluster();
    let (onprem, cloud) = (test.mount("node-1", "onprem"), test.mount("node-2", "cloud"));
    for (mount, site) in [(&onprem, "onprem"), (&cloud, "cloud")] {
        assert_eq!(shell(mount, "LC_ALL=C ls"), "datasets\nresults\nscratch\n", "at {site}");
        assert_eq!(shell(mount, "find results datasets -type f | sort"), "datasets/x\nresults/run/out\n");
        let check = |path: &str, text: &str| assert_eq!(fs::read_to_string(mount.join(path)).unwrap(), text);
        check("datasets/x", "x of onprem");
        check("results/run/out", "result of cloud");
        check("scratch/mine", &format!("scratch of {site}"));
        assert!(!mount.join("stray").exists() && !mount.join("results/shadowed").exists(), "at {site}");
    }
    assert!(test.wan_bytes("onprem") > 0 && test.wan_bytes("cloud") > 0, "each asked the other");
}

#[test]
fn names_come_and_go_with_their_master() {
    if !can_mount("names_come_and_go_with_their_master") {
        return;
    }
    let mut test = cluster();
    let mount = crate::mount_with(&mut test, "node", "onprem", "attribute_ttl: 0s\n", &[]);
    let (cloud, results) = (test.origin("cloud"), mount.join("results"));
    fs::rename(cloud.join("results"), cloud.join("away")).unwrap();
    assert!(!results.exists() && !shell(&mount, "ls").contains("results"));
    fs::rename(cloud.join("away"), cloud.join("results")).unwrap();
    assert!(results.join("run/out").exists() && shell(&mount, "ls").contains("results"));
    write(&cloud.join("results/late"), "late");
    assert_eq!(fs::read_to_string(results.join("late")).unwrap(), "late");

    test.cluster.kill("cloud").unwrap();
    assert_eq!(
        fs::read_to_string(mount.join("datasets/x")).unwrap(),
        "x of onprem",
        "without the other site"
    );
    assert!(shell(&mount, "ls").starts_with("datasets\n"));
}

/// Holds promise 30 and promise 31 of docs/semantics.md.
#[test]
fn names_are_no_older_than_their_policy_says_where_no_change_is_told() {
    if !can_mount("names_are_no_older_than_their_policy_says_where_no_change_is_told") {
        return;
    }
    const POLICIES: &str = "policies:
  - {name: fresh, pattern: /fresh/**, primary: onprem, sync_mode: lazy, staleness: 1s}
  - {name: leased, pattern: /leased/**, primary: onprem, sync_mode: lazy, consistency: lease}
";
    let site_yaml = "metadata_ttl: 1h\n".into();
    let mut test = Setup { policy_yaml: POLICIES.into(), site_yaml, ..Setup::default() }.start(|origin| {
        for name in ["fresh", "leased", "other"] {
            write(&origin.join(format!("{name}/x")), "old");
            // By this name it is changed, which nobody watches.
            fs::hard_link(origin.join(format!("{name}/x")), origin.with_file_name(name)).unwrap();
        }
    });
    let cloud = crate::mount_with(&mut test, "node-1", "cloud", "attribute_ttl: 0s\n", &[]);
    let size = |name: &str| fs::metadata(cloud.join(name).join("x")).unwrap().len();
    assert_eq!((size("fresh"), size("leased"), size("other")), (3, 3, 3));
    shell(test.scratch.path(), "for name in fresh leased other; do echo longer >> $name; done");
    assert_eq!(size("leased"), 10, "at once");
    crate::within(std::time::Duration::from_secs(10), || match size("fresh") {
        3 => Err("still old".into()),
        _ => Ok(()),
    });
    assert_eq!(size("other"), 3, "as long as the site says");
}
