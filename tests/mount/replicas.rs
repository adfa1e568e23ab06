//! Replicas: whole copies in another site's origin, which are read there although the WAN is down.

use super::leases::tree;
use super::within;
use crate::common::wan::Wan;
use crate::common::{Setup, TestCluster, can_mount, noise, programs, run, shell};
use globalfs::local::Places;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

fn policies(mode: &str) -> String {
    format!(
        "policies:\n  - name: hot\n    pattern: /hot/**\n    primary: onprem\n    replicate_to: [cloud]\n    \
         sync_mode: {mode}\n    on_disconnect: stale\n"
    )
}

fn start(mode: &str, places: Places) -> TestCluster {
    let setup = Setup { policy_yaml: policies(mode), ..Setup::default() };
    setup.start_at(places, |origin| {
        fs::create_dir_all(origin.join("hot/dir/empty")).unwrap();
        (0..50).for_each(|n| fs::write(origin.join(format!("hot/dir/{n}")), format!("{n}\n")).unwrap());
        fs::write(origin.join("hot/large"), noise(1, 5 << 20)).unwrap();
        shell(&origin.join("hot"), "ln -s dir/1 link && chmod 640 dir/2 && touch -d @1000000000 dir/3");
        fs::write(origin.join("beside"), "beside").unwrap();
    })
}

/// Waits until the copies are what they are at home.
fn replicated(test: &TestCluster) {
    let (home, copy) = (test.origin("onprem").join("hot"), test.origin("cloud").join("hot"));
    within(SOON, || {
        if !copy.exists() {
            return Err("nothing yet".into());
        }
        let (home, copy) = (tree(&home), tree(&copy));
        if home == copy { Ok(()) } else { Err(format!("{home}\n{copy}")) }
    });
}

/// Waits until nothing is missing at the cloud.
fn complete(test: &TestCluster) {
    within(SOON, || {
        let status: serde_json::Value =
            serde_json::from_str(&test.cluster.admin(&["status", "--json"]).unwrap()).unwrap();
        let sites = status["sites"].as_array().unwrap();
        let cloud = sites.iter().find(|site| site["name"] == "cloud").unwrap();
        let replicas = &cloud["health"]["replicas"];
        let is_complete = replicas["surveyed"] == true && replicas["missing"].as_array().unwrap().is_empty();
        if is_complete { Ok(()) } else { Err(replicas.to_string()) }
    });
}

fn copy_of(test: &TestCluster, path: &str) -> PathBuf {
    test.origin("cloud").join(path)
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| error.to_string())
}

/// Holds promise 29 of docs/semantics.md.
#[test]
fn an_eager_replica_is_read_while_the_wan_is_down() {
    if !can_mount("an_eager_replica_is_read_while_the_wan_is_down") {
        return;
    }
    let wan = Wan::new();
    let mut test = start("eager", wan.places());
    replicated(&test);
    complete(&test);
    let cloud = test.mount("node-1", "cloud");
    let kept = test.cluster.metrics("cloud").unwrap().sum_where("globalfs_cache_stored_bytes_total", "site");
    assert_eq!(kept, 0.0, "replicas are not in the cache");
    wan.cut();
    // The mount knows no name yet.
    within(SOON, || read(&cloud.join("hot/dir/7")));
    let home = test.origin("onprem");
    assert_eq!(tree(&cloud.join("hot")), tree(&home.join("hot")));
    assert_eq!(fs::read(cloud.join("hot/large")).unwrap(), noise(1, 5 << 20));
    shell(&cloud, "! echo x > hot/new && ! rm hot/dir/1 && ! cat hot/absent && ! cat beside");
    shell(&home, "echo changed > hot/dir/7");
    assert_eq!(read(&cloud.join("hot/dir/7")).unwrap(), "7\n", "what came last");
    wan.heal();
    within(SOON, || match read(&cloud.join("hot/dir/7")) {
        Ok(text) if text == "changed\n" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    replicated(&test);
}

/// Holds promise 29 of docs/semantics.md.
#[test]
fn a_replica_follows_its_master_and_leaves_alone_what_it_did_not_bring() {
    if !can_mount("a_replica_follows_its_master_and_leaves_alone_what_it_did_not_bring") {
        return;
    }
    let mut test = start("eager", Places::default());
    let cloud = test.mount("node-1", "cloud");
    replicated(&test);
    let home = test.origin("onprem");
    shell(
        &home.join("hot"),
        "echo more >> dir/1 && rm dir/2 && mv dir/4 dir/moved && mkdir -p new/deep && echo x > new/deep/x && \
         printf changed | dd of=large bs=1 seek=3000000 conv=notrunc status=none && rm link && ln -s dir/5 link",
    );
    replicated(&test);
    assert_eq!(tree(&cloud.join("hot")), tree(&home.join("hot")));
    // Somebody's own files at the places of others: they stay, and the tree shows its master's.
    fs::write(copy_of(&test, "hot/dir/mine"), "mine").unwrap();
    fs::write(home.join("hot/dir/mine"), "of home").unwrap();
    within(SOON, || {
        let obstructed = test.cluster.metrics("cloud").unwrap();
        let obstructed = obstructed.sum_where("globalfs_replica_obstructed", "site");
        if obstructed == 1.0 { Ok(()) } else { Err(format!("{obstructed}")) }
    });
    within(SOON, || match read(&cloud.join("hot/dir/mine")) {
        Ok(text) if text == "of home" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    shell(&home, "rm -r hot/dir");
    within(SOON, || {
        let left = shell(&test.origin("cloud"), "find hot -type f | sort | xargs");
        if left == "hot/dir/mine hot/large hot/new/deep/x\n" { Ok(()) } else { Err(left) }
    });
    assert_eq!(read(&copy_of(&test, "hot/dir/mine")).unwrap(), "mine");
}

/// Holds promise 29 of docs/semantics.md.
#[test]
fn a_damaged_copy_is_not_read_and_is_mended() {
    if !can_mount("a_damaged_copy_is_not_read_and_is_mended") {
        return;
    }
    let mut test = start("eager", Places::default());
    replicated(&test);
    complete(&test);
    let damaged = fs::File::options().write(true).open(copy_of(&test, "hot/dir/8")).unwrap();
    let time = damaged.metadata().unwrap().modified().unwrap();
    (&damaged).write_all(b"X").unwrap();
    damaged.set_modified(time).unwrap();
    drop(damaged);
    let cloud = test.mount("node-1", "cloud");
    assert_eq!(read(&cloud.join("hot/dir/8")).unwrap(), "8\n");
    within(SOON, || match read(&copy_of(&test, "hot/dir/8")) {
        Ok(text) if text == "8\n" => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// Holds promise 29 of docs/semantics.md.
#[test]
fn a_daemon_that_is_killed_goes_on_with_its_replicas() {
    if !can_mount("a_daemon_that_is_killed_goes_on_with_its_replicas") {
        return;
    }
    let mut test = start("eager", Places::default());
    let home = test.origin("onprem");
    for round in 0..4 {
        shell(
            &home.join("hot"),
            &format!("mkdir r{round} && for n in $(seq 500); do echo {round}-$n > r{round}/$n; done"),
        );
        fs::write(home.join(format!("hot/large-{round}")), noise(round, 20 << 20)).unwrap();
        shell(&home.join("hot/dir"), &format!("for n in $(seq 0 9); do echo {round} >> $n; done"));
        std::thread::sleep(Duration::from_millis(150 + 200 * round));
        test.cluster.kill("cloud").unwrap();
        test.cluster.start_site("cloud").unwrap();
    }
    replicated(&test);
    complete(&test);
    let obstructed = test.cluster.metrics("cloud").unwrap().sum_where("globalfs_replica_obstructed", "site");
    assert_eq!(obstructed, 0.0, "its own copies are its own after a crash");
}

#[test]
fn a_lazy_replica_is_made_of_what_is_read_or_asked_for() {
    if !can_mount("a_lazy_replica_is_made_of_what_is_read_or_asked_for") {
        return;
    }
    let mut test = start("lazy", Places::default());
    let cloud = test.mount("node-1", "cloud");
    assert_eq!(read(&cloud.join("hot/dir/7")).unwrap(), "7\n");
    within(SOON, || read(&copy_of(&test, "hot/dir/7")));
    assert_eq!(shell(&test.origin("cloud"), "find hot -type f"), "hot/dir/7\n");
    shell(&test.origin("onprem"), "echo changed > hot/dir/7");
    within(SOON, || match read(&copy_of(&test, "hot/dir/7")) {
        Ok(text) if text == "changed\n" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    test.cluster.admin(&["sync", "/hot/dir", "--to", "cloud", "--wait", "--timeout", "60s"]).unwrap();
    assert_eq!(shell(&test.origin("cloud"), "ls hot/dir | wc -l; ls hot"), "51\ndir\n");
    let shown = test.cluster.admin(&["where", "/hot/dir/7"]).unwrap();
    assert!(shown.contains("cloud") && shown.contains("complete"), "{shown}");
    // What is in the cache of a node's own site.
    let beside = |config: &Path| {
        let args = ["where", "/beside", "--config", config.to_str().unwrap()];
        run(&programs().globalfs, &args).1
    };
    let node = test.cluster.dir().join("node-1.yaml");
    assert!(beside(&node).contains("here      nothing"), "{}", beside(&node));
    assert_eq!(read(&cloud.join("beside")).unwrap(), "beside");
    within(SOON, || {
        let shown = beside(&node);
        if shown.contains("here      bytes 0-5") { Ok(()) } else { Err(shown) }
    });
    let refused = test.cluster.admin(&["sync", "/beside", "--to", "cloud"]).unwrap_err();
    assert!(format!("{refused:#}").contains("replicate_to"), "{refused:#}");
}

#[test]
fn a_replica_comes_no_faster_than_its_policy_says() {
    if !can_mount("a_replica_comes_no_faster_than_its_policy_says") {
        return;
    }
    let policy_yaml = policies("eager") + "    bandwidth: 1MB/s\n";
    let began = std::time::Instant::now();
    let test = Setup { policy_yaml, ..Setup::default() }.start(|origin| {
        fs::create_dir_all(origin.join("hot")).unwrap();
        (0..4).for_each(|n| fs::write(origin.join(format!("hot/{n}")), noise(n, 1_000_000)).unwrap());
    });
    replicated(&test);
    assert!(began.elapsed() > Duration::from_secs(3), "{:?} for 4 MB", began.elapsed());
}

/// Holds promise 28 of docs/semantics.md.
#[test]
fn what_is_closed_under_a_critical_policy_is_at_its_replicas() {
    if !can_mount("what_is_closed_under_a_critical_policy_is_at_its_replicas") {
        return;
    }
    let policy_yaml = policies("async") + "    consistency: critical\n";
    let mut test = Setup { policy_yaml, ..Setup::default() }.start(|origin| {
        fs::create_dir_all(origin.join("hot")).unwrap();
    });
    let home = super::mount_with(&mut test, "node-1", "onprem", "deadline: 4s\n", &[]);
    for n in 0..20 {
        shell(
            &home,
            &format!("echo {n} | dd of=hot/{n} status=none && echo more >> hot/all && sync hot/all"),
        );
        assert_eq!(read(&copy_of(&test, &format!("hot/{n}"))).unwrap(), format!("{n}\n"));
        assert_eq!(read(&copy_of(&test, "hot/all")).unwrap(), "more\n".repeat(n + 1));
    }
    test.cluster.kill("cloud").unwrap();
    shell(&home, "! echo late | dd of=hot/late status=none 2> /dev/null");
    test.cluster.start_site("cloud").unwrap();
    within(SOON, || read(&copy_of(&test, "hot/late")));
}

#[test]
fn a_site_changes_what_it_has_replicas_of() {
    if !can_mount("a_site_changes_what_it_has_replicas_of") {
        return;
    }
    let mut test = start("async", Places::default());
    replicated(&test);
    let (home, cloud) = (test.mount("node-1", "onprem"), test.mount("node-2", "cloud"));
    shell(&cloud, "cd hot/dir && echo of cloud > 1 && rm 2 && mkdir made && echo x > made/x");
    let leases = test.cluster.admin(&["lease", "list", "--json"]).unwrap();
    assert!(leases.contains("\"/hot/dir\""), "its replicas are not in the way of a lease: {leases}");
    assert_eq!(shell(&home, "cat hot/dir/1 hot/dir/made/x"), "of cloud\nx\n");
    test.cluster.admin(&["drain", "cloud", "--timeout", "30s"]).unwrap();
    replicated(&test);
    complete(&test);
    assert_eq!(tree(&cloud.join("hot")), tree(&test.origin("onprem").join("hot")));
}

#[test]
fn copies_that_no_policy_wants_any_more_go() {
    if !can_mount("copies_that_no_policy_wants_any_more_go") {
        return;
    }
    let mut test = start("eager", Places::default());
    replicated(&test);
    complete(&test);
    fs::write(copy_of(&test, "hot/mine"), "mine").unwrap();
    let config = test.cluster.coordinator_config();
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("replicate_to: [cloud]", "replicate_to: []")).unwrap();
    test.cluster.kill("coordinator").unwrap();
    test.cluster.start_coordinator().unwrap();
    within(SOON, || {
        let left = shell(&test.origin("cloud"), "find . -mindepth 1 | sort | xargs");
        if left == "./hot ./hot/mine\n" { Ok(()) } else { Err(left) }
    });
}

#[test]
fn what_is_owed_for_too_long_is_told() {
    if !can_mount("what_is_owed_for_too_long_is_told") {
        return;
    }
    let policy_yaml = policies("async") + "    sync_deadline: 1s\n";
    let mut test = Setup { policy_yaml, ..Setup::default() }.start(|origin| {
        fs::create_dir_all(origin.join("hot/job")).unwrap();
    });
    let cloud = test.mount("node-1", "cloud");
    shell(&cloud, "echo one > hot/job/one");
    test.cluster.kill("onprem").unwrap();
    shell(&cloud, "echo two > hot/job/two");
    within(SOON, || {
        let status = test.cluster.admin(&["status"]).unwrap();
        let late = test.cluster.metrics("cloud").unwrap().sum_where("globalfs_pending_late_files", "site");
        if status.contains("AT RISK") && late >= 1.0 { Ok(()) } else { Err(format!("{late} {status}")) }
    });
}
