//! Joining: tokens that admit nobody, coordinators that are none, and that a failed join leaves no trace.

use crate::cluster_with_spare;
use crate::common::TestCluster;
use crate::common::commands::{Outcome, free_address, globalfs, json};
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

fn token(test: &TestCluster, args: &[&str]) -> String {
    let args = [&["token", "create"], args].concat();
    test.cluster.admin(&args).unwrap().trim().to_owned()
}

fn register(config: &Path, token: &str) -> Outcome {
    globalfs(&["site", "register", "spare", "--token", token], config)
}

/// No certificate was stored, and the coordinator knows nothing of a site `spare`.
fn assert_not_joined(test: &TestCluster) {
    for file in ["identity.crt", "identity.key", "ca.crt"] {
        assert!(!test.scratch.path().join("spare-state").join(file).exists(), "{file} is there");
    }
    let sites = json(&["site", "list"], &test.cluster.coordinator_config());
    assert_eq!(sites.as_array().unwrap().len(), 2, "{sites}");
}

#[test]
fn tokens_that_admit_nobody() {
    let test = cluster_with_spare();
    let config = test.spare_config("spare.yaml", &[]);
    let refused = |token: &str, words: &[&str]| {
        register(&config, token).fails(1, words);
        assert_not_joined(&test);
    };
    let new = "globalfs token create";
    refused("nonsense", &["not a join token", "gfs1.ID.SECRET.FINGERPRINT"]);
    let good = token(&test, &["--site", "spare"]);
    refused(&good[..good.len() - 1], &["not a join token"]);
    let parts: Vec<&str> = good.split('.').collect();
    let zeros = |part: &str| "0".repeat(part.len());
    let other_cluster = [parts[0], parts[1], parts[2], &zeros(parts[3])].join(".");
    refused(&other_cluster, &["belongs to another cluster than the token", "check the address"]);
    let other_secret = [parts[0], parts[1], &zeros(parts[2]), parts[3]].join(".");
    refused(&other_secret, &["the join token is unknown", new]);
    let other_id = [parts[0], &zeros(parts[1]), parts[2], parts[3]].join(".");
    refused(&other_id, &["the join token is unknown", new]);
    let expired = token(&test, &["--site", "spare", "--ttl", "1s"]);
    thread::sleep(Duration::from_millis(1100));
    refused(&expired, &["the join token expired at 2", new]);
    refused(&token(&test, &["--site", "cloud"]), &["the join token is for site cloud"]);
    let of_node = token(&test, &["--site", "cloud", "--node", "n1"]);
    refused(&of_node, &["the join token is for node n1"]);

    // After all that the right one still works, once.
    register(&config, &good).works();
    let again = test.spare_config("again.yaml", &[("state_dir", "again")]);
    register(&again, &good).fails(1, &["the join token was used at 2", new]);
    assert!(!again.with_file_name("again").join("identity.crt").exists());
}

#[test]
fn names_that_do_not_fit() {
    let test = cluster_with_spare();
    let config = test.spare_config("spare.yaml", &[]);
    let good = token(&test, &["--site", "spare"]);
    globalfs(&["site", "register", "cloud", "--token", &good], &config)
        .fails(1, &["is the configuration of site spare, not of cloud"]);
    let undeclared = test.spare_config("mars.yaml", &[("name", "mars")]);
    globalfs(&["site", "register", "mars", "--token", &good], &undeclared)
        .fails(1, &["the join token is for site spare"]);
    globalfs(&["token", "create", "--site", "mars"], &test.cluster.coordinator_config())
        .fails(1, &["site 'mars' is not in the coordinator's configuration", "add it under 'sites'"]);
    let ttl = ["token", "create", "--site", "spare", "--ttl", "31days"];
    globalfs(&ttl, &test.cluster.coordinator_config()).fails(1, &["at most 30 days"]);
    globalfs(&["site", "register", "spare", "--token-file", "no/such"], &config)
        .fails(1, &["cannot read no/such", "No such file"]);
    let below_a_file = config.display().to_string();
    let nowhere = test.spare_config("nowhere.yaml", &[("state_dir", &format!("{below_a_file}/state"))]);
    register(&nowhere, &good).fails(1, &["spare.yaml/state", "Not a directory"]);
    // A node joins only a site that is there.
    let of_node = token(&test, &["--site", "spare", "--node", "n1"]);
    let node = config.with_file_name("n1.yaml");
    let coordinator = crate::common::commands::value(&config, "coordinator");
    fs::write(&node, format!("site: spare\nnode: n1\ncoordinator: {coordinator}\nstate_dir: n1\n")).unwrap();
    globalfs(&["node", "register", "n1", "--token", &of_node], &node)
        .fails(1, &["site spare is not registered; register it before its nodes"]);
    assert_not_joined(&test);
    register(&config, &good).works();
}

/// Listens, and does to each connection what `with` says.
fn listen(with: impl Fn(std::net::TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || listener.incoming().flatten().for_each(with));
    address
}

#[test]
fn coordinators_that_are_none() {
    let test = cluster_with_spare();
    let good = token(&test, &["--site", "spare"]);
    let check = |address: &str, limit_s: u64, words: &[&str]| {
        let config = test.spare_config("far.yaml", &[("coordinator", address)]);
        let started = Instant::now();
        register(&config, &good).fails(1, &[&[address], words].concat());
        assert!(started.elapsed() < Duration::from_secs(limit_s), "took {:?}", started.elapsed());
        assert_not_joined(&test);
    };
    let asks = "is it running, and is the port open?";
    check(&free_address().to_string(), 8, &["does not answer", "Connection refused", asks]);
    let talks = listen(|mut stream| drop(stream.write_all(b"220 mail.example.org ESMTP\r\n")));
    check(&talks, 8, &["no GlobalFS coordinator"]);
    let held = std::sync::Mutex::new(Vec::new());
    let silent = listen(move |stream| held.lock().unwrap().push(stream));
    check(&silent, 25, &["does not answer", "no TLS handshake in time", asks]);
    check("no-such-host.invalid:7440", 25, &["does not answer", asks]);
}
