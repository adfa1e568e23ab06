//! Two sites and their nodes as users run them: the tree, the bytes that moved, the commands.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::{Setup, can_mount, noise, shell};
use std::fs;

#[test]
fn a_file_moves_once() {
    if !can_mount("a_file_moves_once") {
        return;
    }
    let content = noise(1, 3_000_000);
    let mut test = Setup::default().start(|origin| {
        fs::create_dir_all(origin.join("datasets")).unwrap();
        fs::write(origin.join("datasets/x"), &content).unwrap();
    });
    let (first, second) = (test.mount("node-1", "cloud"), test.mount("node-2", "cloud"));
    assert_eq!(fs::read(first.join("datasets/x")).unwrap(), content);
    let moved = test.wan_bytes("cloud");
    assert!((3_000_000..3_200_000).contains(&moved), "{moved}");
    assert_eq!(fs::read(second.join("datasets/x")).unwrap(), content);
    let data = shell(&second, "sha256sum datasets/x");
    assert!(data.contains("datasets/x"));
    let metrics = test.cluster.metrics("cloud").unwrap();
    assert_eq!(metrics.sum("globalfs_fetched_bytes_total"), 3_000_000.0);
}

/// A node knows its daemon's address from last time; that must not hide that it was removed since.
#[test]
fn a_removed_node_is_told_so_at_once() {
    let mut test = Setup::default().start(|_| {});
    let config = test.cluster.add_node("node-1", "cloud", "1GiB", "").unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let connect = || runtime.block_on(globalfs::Client::connect(&config)).map(drop);
    connect().unwrap();
    test.cluster.admin(&["node", "remove", "node-1", "--site", "cloud"]).unwrap();
    let error = connect().unwrap_err().to_string();
    assert!(error.contains("node node-1 of site cloud is not registered"), "{error}");
    test.cluster.kill("coordinator").unwrap();
    connect().unwrap();
}
