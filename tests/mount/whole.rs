//! Files that are whole in the node's cache, or in an origin that the node sees, are read by the kernel itself.

use crate::common::{TestCluster, can_mount, noise};
use crate::{long_memory, mount_with, within};
use rustix::fs::{Advice, fadvise};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

const LENGTH: usize = 5_000_000;

const SOON: Duration = Duration::from_secs(10);

fn start(test: &str) -> Option<TestCluster> {
    let fill = |origin: &Path| {
        fs::write(origin.join("file"), noise(1, LENGTH)).unwrap();
        fs::write(origin.join("small"), noise(2, 5000)).unwrap();
    };
    can_mount(test).then(|| long_memory().start(fill))
}

/// Bytes that a node took from its cache or from its site's daemon, for the kernel.
fn delivered(test: &TestCluster, node: &str) -> f64 {
    let metrics = test.cluster.metrics(node).unwrap();
    metrics.sum("globalfs_cache_read_bytes_total") + metrics.sum("globalfs_fetched_bytes_total")
}

/// Opens the file anew and reads it past the page cache of the mount.
fn read_anew(path: &Path) -> Vec<u8> {
    fadvise(File::open(path).unwrap(), 0, None, Advice::DontNeed).unwrap();
    fs::read(path).unwrap()
}

fn is_read_by_the_kernel(test: &TestCluster, node: &str, path: &Path, want: &[u8]) -> Result<(), String> {
    let before = delivered(test, node);
    assert!(read_anew(path) == want);
    match delivered(test, node) - before {
        0.0 => Ok(()),
        bytes => Err(format!("{bytes} bytes came from the mount's program")),
    }
}

#[test]
fn a_whole_file_is_read_by_the_kernel_also_after_a_restart() {
    let Some(mut test) = start("a_whole_file_is_read_by_the_kernel_also_after_a_restart") else { return };
    let mount = mount_with(&mut test, "node", "cloud", "", &[]);
    let (path, content) = (mount.join("file"), noise(1, LENGTH));
    assert!(fs::read(&path).unwrap() == content);
    within(SOON, || is_read_by_the_kernel(&test, "node", &path, &content));
    let file = File::open(&path).unwrap();
    let mut part = [0; 1000];
    file.read_exact_at(&mut part, 4_000_000).unwrap();
    assert_eq!(part, content[4_000_000..4_001_000]);
    drop(file);
    test.cluster.stop("node").unwrap();
    test.cluster.start_mount("node", &mount, &[]).unwrap();
    assert!(fs::read(&path).unwrap() == content);
    within(SOON, || is_read_by_the_kernel(&test, "node", &path, &content));
    assert!(read_anew(&mount.join("small")) == noise(2, 5000));
}

#[test]
fn a_node_that_sees_the_origin_reads_it_directly() {
    let Some(mut test) = start("a_node_that_sees_the_origin_reads_it_directly") else { return };
    let direct = format!("direct: {}\n", test.origin("onprem").display());
    let mount = mount_with(&mut test, "node", "onprem", &direct, &[]);
    for (name, content) in [("file", noise(1, LENGTH)), ("small", noise(2, 5000))] {
        let before = delivered(&test, "node");
        assert!(read_anew(&mount.join(name)) == content);
        assert_eq!(delivered(&test, "node"), before, "{name}");
    }
    let origin = test.origin("onprem").join("file");
    fs::write(origin.with_extension("new"), noise(3, LENGTH)).unwrap();
    let old = File::open(mount.join("file")).unwrap();
    fs::rename(origin.with_extension("new"), &origin).unwrap();
    within(SOON, || match read_anew(&mount.join("file")) == noise(3, LENGTH) {
        true => Ok(()),
        false => Err("the old content".to_owned()),
    });
    let mut part = [0; 1000];
    old.read_exact_at(&mut part, 77).unwrap();
    assert_eq!(part, noise(1, LENGTH)[77..1077], "who has the old file open reads it to its end");
    // Another site's files are not in this origin, whatever lies at their names.
    let cloud = format!("direct: {}\n", test.origin("cloud").display());
    fs::write(test.origin("cloud").join("file"), "not the one").unwrap();
    let mount = mount_with(&mut test, "other", "cloud", &cloud, &[]);
    assert!(fs::read(mount.join("file")).unwrap() == noise(3, LENGTH));
}

#[test]
fn a_direct_origin_that_is_not_there_is_told() {
    let Some(mut test) = start("a_direct_origin_that_is_not_there_is_told") else { return };
    test.cluster.add_node("node", "onprem", "1GiB", "direct: /nowhere/at/all\n").unwrap();
    let at = test.scratch.path().join("mnt");
    let error = test.cluster.start_mount("node", &at, &[]).unwrap_err().to_string();
    assert!(error.contains("`direct`") && error.contains("/nowhere/at/all"), "{error}");
}
