//! What moves between the sites: the ranges that were read, once a site.

use crate::common::{Setup, TestCluster, can_mount, noise, shell};
use crate::long_memory;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The most that may move for one read of a megabyte.
const MAX_MOVED_BYTES: u64 = 8 * MIB;

/// Questions about names that `cloud` has put to the other site.
fn names_asked(test: &TestCluster) -> u64 {
    test.cluster.metrics("cloud").unwrap().sum("globalfs_names_asked_total") as u64
}

fn fetched_bytes(test: &TestCluster) -> u64 {
    test.cluster.metrics("cloud").unwrap().sum("globalfs_fetched_bytes_total") as u64
}

#[test]
fn the_second_mount_of_a_site_moves_nothing() {
    if !can_mount("the_second_mount_of_a_site_moves_nothing") {
        return;
    }
    let (large, text) = (noise(1, 20_000_003), "line of text\n".repeat(40_000));
    let mut test = long_memory().start(|origin| {
        fs::create_dir_all(origin.join("data/deep")).unwrap();
        fs::write(origin.join("data/deep/large"), &large).unwrap();
        fs::write(origin.join("data/text"), &text).unwrap();
        fs::write(origin.join("data/empty"), "").unwrap();
    });
    let read_all = |mount: &Path| {
        assert!(fs::read(mount.join("data/deep/large")).unwrap() == large);
        assert!(fs::read_to_string(mount.join("data/text")).unwrap() == text);
        assert!(fs::read(mount.join("data/empty")).unwrap().is_empty());
        shell(mount, "ls -lR")
    };
    let first = test.mount("node-1", "cloud");
    assert_eq!(test.wan_bytes("onprem"), 0);
    let listing = read_all(&first);
    let (wire, chunks) = (test.wan_bytes("cloud"), fetched_bytes(&test));
    let asked = names_asked(&test);
    assert_eq!(chunks, (large.len() + text.len()) as u64);
    assert!(
        wire > large.len() as u64 && wire < large.len() as u64 + 200_000,
        "text travels compressed: {wire}"
    );

    let second = test.mount("node-2", "cloud");
    assert_eq!(read_all(&second), listing);
    assert_eq!(fetched_bytes(&test), chunks);
    assert_eq!(names_asked(&test), asked, "names included");
    let moved = test.wan_bytes("cloud") - wire;
    assert!(moved < 20_000, "{moved} bytes besides the signs of life");
    let node = test.cluster.metrics("node-2").unwrap();
    assert_eq!(node.sum("globalfs_fetched_bytes_total") as u64, chunks, "the site gave it all");
}

#[test]
fn a_megabyte_in_a_large_file_moves_little() {
    if !can_mount("a_megabyte_in_a_large_file_moves_little") {
        return;
    }
    let around = noise(2, 64 * MIB as usize);
    let (small, huge) = (10 * GIB, 100 * GIB);
    let mut test = Setup::default().start(|origin| {
        let ten = File::create(origin.join("ten")).unwrap();
        ten.set_len(small).unwrap();
        ten.write_all_at(&around, small / 2 - 32 * MIB).unwrap();
        let hundred = File::create(origin.join("hundred")).unwrap();
        hundred.set_len(huge).unwrap();
        for at in [0, huge / 2 - 32 * MIB, huge - 64 * MIB] {
            hundred.write_all_at(&around, at).unwrap();
        }
    });
    let mount = test.mount("node-1", "cloud");
    let read = |name: &str, at: u64, want: &[u8]| {
        let before = test.wan_bytes("cloud");
        let mut got = vec![1; want.len()];
        File::open(mount.join(name)).unwrap().read_exact_at(&mut got, at).unwrap();
        assert!(got == want, "{name} at {at}");
        let moved = test.wan_bytes("cloud") - before;
        assert!(moved <= MAX_MOVED_BYTES, "{name} at {at} moved {moved} bytes");
        moved
    };
    let part = |at: u64| &around[at as usize..(at + MIB) as usize];
    let moved = read("ten", small / 2 + 12_345, part(32 * MIB + 12_345));
    assert!(moved >= MIB, "{moved}");
    read("ten", GIB, &vec![0; MIB as usize]);
    read("hundred", 0, part(0));
    read("hundred", huge / 2 - 777, part(32 * MIB - 777));
    read("hundred", huge - MIB, part(63 * MIB));
    read("hundred", huge / 4, &vec![0; MIB as usize]);
    let file = File::open(mount.join("hundred")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), huge);
    assert_eq!(file.read_at(&mut [0; 10], huge).unwrap(), 0, "nothing behind the end");
    assert_eq!(file.read_at(&mut [0; 10], huge - 3).unwrap(), 3);
}
