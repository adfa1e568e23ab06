//! A coordinator that cannot start says why, and leaves what it has as it is.

use crate::common::commands::{altered, free_address, globalfs, value};
use crate::common::{Setup, TestCluster};
use std::fs;
use std::path::Path;

fn cannot_start(test: &TestCluster, changes: &[(&str, &str)], words: &[&str]) {
    let config = altered(&test.cluster.coordinator_config(), "wrong.yaml", changes);
    globalfs(&["coordinator", "start"], &config).fails(1, words);
}

#[test]
fn a_coordinator_that_cannot_start() {
    let mut test = Setup::default().start(|_| {});
    let config = test.cluster.coordinator_config();
    let (listen, free) = (value(&config, "listen"), free_address().to_string());
    let elsewhere = [("listen", free.as_str()), ("metrics", free.as_str())];
    // While the first one runs.
    cannot_start(&test, &elsewhere, &["coordinator/store is in use by another process"]);
    let beside = [("data_dir", "beside"), ("listen", &listen), ("metrics", &free)];
    cannot_start(&test, &beside, &["cannot listen on", &listen, "Address already in use"]);
    let metrics = value(&config, "metrics");
    let no_metrics = [("data_dir", "third"), ("listen", &free), ("metrics", &*metrics)];
    cannot_start(&test, &no_metrics, &["cannot serve metrics on", &metrics, "Address already in use"]);
    let below = format!("{}/data", config.display());
    cannot_start(&test, &[("data_dir", &below)], &["coordinator.yaml/data", "Not a directory"]);

    assert!(test.cluster.stop("coordinator").unwrap());
    cannot_start(
        &test,
        &[("cluster", "other")],
        &["the metadata store belongs to cluster 'local', not 'other'"],
    );
    let data = test.cluster.dir().join("coordinator");
    without(&data.join("ca.key"), || {
        cannot_start(&test, &[], &["ca.key is missing", "restore the key from a backup"]);
    });
    let damaged = data.join("ca.crt");
    let good = fs::read(&damaged).unwrap();
    fs::write(&damaged, "nonsense").unwrap();
    cannot_start(&test, &[], &["ca.crt: ", "restore it from a backup"]);
    fs::write(&damaged, good).unwrap();
    without(&damaged, || {
        without(&data.join("ca.key"), || {
            cannot_start(&test, &[], &["is not the authority of this cluster", "copy ca.crt and ca.key"]);
            // The authority that it made for itself gives way to the true one.
        })
    });
    test.cluster.start_coordinator().unwrap();
    assert!(test.cluster.admin(&["status"]).unwrap().contains("sites joined 2 of 2"));
}

/// Runs `check` while the file is not there, and puts it back.
fn without(file: &Path, check: impl FnOnce()) {
    let aside = file.with_added_extension("aside");
    fs::rename(file, &aside).unwrap();
    check();
    fs::rename(&aside, file).unwrap();
}

#[test]
fn an_administrator_needs_a_coordinator_and_its_certificate() {
    let mut test = Setup::default().start(|_| {});
    let config = test.cluster.coordinator_config();
    let policies = config.with_file_name("policy.yaml");
    fs::write(&policies, "policies: []\n").unwrap();
    globalfs(&["status"], &policies).fails(1, &["policy.yaml has policies only", "expected a coordinator's"]);
    let elsewhere = altered(&config, "elsewhere.yaml", &[("data_dir", "elsewhere")]);
    globalfs(&["status"], &elsewhere)
        .fails(1, &["no administrator's certificate in", "elsewhere/admin", "at its first start"]);
    assert!(test.cluster.stop("coordinator").unwrap());
    let listen = value(&config, "listen");
    for args in [&["status"][..], &["site", "list"], &["token", "create", "--site", "cloud"]] {
        globalfs(args, &config).fails(1, &[&listen, "does not answer", "is it running"]);
    }
}
