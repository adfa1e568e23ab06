//! The client library against a running cluster: links, directories, reads, errors. Needs no root.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::{Setup, TestCluster, noise};
use globalfs::{Client, FsError};
use std::fs;
use std::os::unix::fs::symlink;

const ENOENT: i32 = 2;
const ENOTDIR: i32 = 20;
const EISDIR: i32 = 21;
const ELOOP: i32 = 40;

fn cluster(content: &[u8]) -> TestCluster {
    Setup::default().start(|origin| {
        fs::create_dir_all(origin.join("a/b")).unwrap();
        fs::write(origin.join("a/b/file"), content).unwrap();
        symlink("b/file", origin.join("a/relative")).unwrap();
        symlink("/a/b", origin.join("absolute")).unwrap();
        symlink("../a/b/../relative", origin.join("a/winding")).unwrap();
        symlink("loop", origin.join("loop")).unwrap();
        symlink("gone", origin.join("dangling")).unwrap();
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_are_resolved_as_the_kernel_would() {
    let content = noise(7, 400_000);
    let mut test = cluster(&content);
    let config = test.cluster.add_node("node-1", "cloud", "1GiB", "").unwrap();
    let client = Client::connect(&config).await.unwrap();
    let file = client.stat("/a/b/file").await.unwrap();
    for path in ["/a/relative", "/absolute/file", "/a/winding", "//a/./b//file", "/a/b/../b/file"] {
        assert_eq!(client.stat(path).await.unwrap(), file, "{path}");
    }
    let check =
        |result: Result<_, FsError>, errno| assert_eq!(result.map(|_| ()).unwrap_err(), FsError::Os(errno));
    check(client.stat("/loop").await, ELOOP);
    check(client.stat("/dangling").await, ENOENT);
    check(client.stat("/a/none").await, ENOENT);
    check(client.stat("/a/b/file/x").await, ENOTDIR);
    assert_eq!(&client.read_link("/a/relative").await.unwrap()[..], b"b/file");
    assert_eq!(client.read_dir("/absolute").await.unwrap().len(), 1);
    assert_eq!(client.open("/a").await.err().unwrap(), FsError::Os(EISDIR));
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_give_the_bytes_that_are_there() {
    let content = noise(8, 400_000);
    let mut test = cluster(&content);
    let config = test.cluster.add_node("node-1", "cloud", "1GiB", "").unwrap();
    let file = Client::connect(&config).await.unwrap().open("/a/relative").await.unwrap();
    assert_eq!(file.attr().size, 400_000);
    let ranges =
        [(0, 10), (131_070, 4), (0, 400_000), (399_999, 10), (400_000, 1), (500_000, 1), (200_000, 0)];
    for (offset, length) in ranges {
        let (from, to) = (offset.min(400_000), (offset + length).min(400_000));
        assert_eq!(
            file.read_at(offset as u64, length).await.unwrap(),
            content[from..to],
            "{offset}+{length}"
        );
    }
    fs::write(test.origin("onprem").join("a/b/file"), b"another content").unwrap();
    let stale = file.read_at(300_000, 10).await;
    assert!(matches!(&stale, Ok(bytes) if bytes[..] == content[300_000..300_010]), "cached here: {stale:?}");
}
