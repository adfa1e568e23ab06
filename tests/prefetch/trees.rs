//! `globalfs prefetch PATH...`: what moves, what is told, how it ends.

use crate::common::commands::{Outcome, command, eventually, globalfs, json};
use crate::common::{Setup, can_mount, noise, shell};
use crate::{fetched_bytes, long_memory, node};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;

const MIB: usize = 1 << 20;

/// 40 small files, one of several chunks, an empty one, and links: 5,490,017 bytes.
const TREE_BYTES: u64 = 40 * 6_000 + 5 * MIB as u64 + 7_137;

fn fill(origin: &Path) {
    for n in 0..40 {
        let dir = origin.join(format!("data/d{}/e", n % 4));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("f{n}")), noise(n, 6_000)).unwrap();
    }
    fs::write(origin.join("data/large"), noise(99, 5 * MIB + 7_137)).unwrap();
    fs::write(origin.join("data/empty"), "").unwrap();
    fs::write(origin.join("outside"), noise(98, MIB)).unwrap();
    symlink("large", origin.join("data/inside-link")).unwrap();
    symlink("../outside", origin.join("data/outside-link")).unwrap();
}

#[test]
fn a_prefetched_tree_is_read_without_the_wan() {
    if !can_mount("a_prefetched_tree_is_read_without_the_wan") {
        return;
    }
    let mut test = long_memory().start(fill);
    let config = node(&mut test, "n1");
    let planned = json(&["prefetch", "/data", "--dry-run"], &config);
    assert_eq!((&planned["missing_bytes"], &planned["here_bytes"]), (&TREE_BYTES.into(), &0.into()));
    assert_eq!(fetched_bytes(&test), 0, "looking moves no contents");
    let done = json(&["prefetch", "/data"], &config);
    assert_eq!((&done["files"], &done["links_not_followed"]), (&42.into(), &2.into()), "{done}");
    assert_eq!((&done["fetched_bytes"], &done["here_bytes"]), (&TREE_BYTES.into(), &0.into()));
    assert_eq!(fetched_bytes(&test), TREE_BYTES);
    let mount = test.mount("n2", "cloud");
    shell(&mount, "ls -lR >/dev/null; cat outside | wc -c");
    let before = test.wan_bytes("cloud");
    shell(&mount.join("data"), "cat $(find . -type f) inside-link | sha256sum; tar c . | wc -c");
    let moved = test.wan_bytes("cloud") - before;
    assert!(moved < 1024, "{moved} bytes moved: that is more than a question about a name");
    assert_eq!(fetched_bytes(&test), TREE_BYTES + MIB as u64, "the file outside was read by its name alone");
    let below_mount = mount.join("data");
    let again = globalfs(&["prefetch", below_mount.to_str().unwrap()], &config).works();
    assert!(again.contains("0B fetched") && again.contains("5.2MiB were here already"), "{again}");
    // At home nothing moves at all.
    let home = test.cluster.add_node("n3", "onprem", "1GiB", "").unwrap();
    assert_eq!(json(&["prefetch", "/data"], &home)["here_bytes"], TREE_BYTES);
}

#[test]
fn an_interrupted_prefetch_goes_on_where_it_stopped() {
    const FILES: u64 = 24;
    let mut test = long_memory().start(|origin| {
        (0..FILES).for_each(|n| fs::write(origin.join(format!("f{n}")), noise(n, 8 * MIB)).unwrap());
    });
    let config = node(&mut test, "n1");
    let args = ["prefetch", "/", "--jobs", "1", "--config", config.to_str().unwrap()];
    let mut started = std::process::Command::new(&crate::common::programs().globalfs);
    started.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = started.spawn().unwrap();
    eventually("a part was fetched", || match fetched_bytes(&test) {
        bytes if bytes > 8 * MIB as u64 => Ok(()),
        bytes => Err(bytes.to_string()),
    });
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("interrupted; run it again"), "{said}");
    let total = FILES * 8 * MIB as u64;
    assert!(fetched_bytes(&test) < total, "it stopped early");
    let done = json(&["prefetch", "/"], &config);
    let (fetched, here) = (done["fetched_bytes"].as_u64().unwrap(), done["here_bytes"].as_u64().unwrap());
    assert_eq!(fetched + here, total);
    assert!(here >= 8 * MIB as u64 && fetched > 0, "{done}");
    assert_eq!(fetched_bytes(&test), total, "each byte moved once");
}

#[test]
fn what_does_not_fit_the_cache_is_left_out_and_named() {
    let setup = Setup { cache_size: "16MiB".into(), ..long_memory() };
    let mut test = setup.start(|origin| {
        (0..10).for_each(|n| fs::write(origin.join(format!("f{n}")), noise(n, 3 * MIB)).unwrap());
    });
    let config = node(&mut test, "n1");
    let warned = globalfs(&["prefetch", "/"], &config);
    assert_eq!(warned.code, 1, "{warned:?}");
    for word in
        ["30MiB do not fit the site's cache of 16MiB", "left out: the site's cache is too small", "/f9"]
    {
        assert!(warned.stderr.contains(word), "{warned:?}");
    }
    let metrics = test.cluster.metrics("cloud").unwrap();
    assert_eq!(metrics.sum("globalfs_cache_evicted_bytes_total"), 0.0, "nothing was brought in vain");
    assert_eq!(fetched_bytes(&test), 4 * 3 * MIB as u64);
}

#[test]
fn what_is_wrong_is_told() {
    let mut test = long_memory().start(fill);
    let config = node(&mut test, "n1");
    let failed = globalfs(&["prefetch", "/data/large", "/nope"], &config);
    assert_eq!(failed.code, 1);
    assert!(failed.stdout.contains("1 files") && failed.stderr.contains("/nope: No such file"), "{failed:?}");
    globalfs(&["prefetch", "data/no-such-relative"], &config).fails(2, &["neither below a mount"]);
    globalfs(&["prefetch", "/a/../b"], &config).fails(2, &["is not a path of the namespace"]);
    Outcome::of(command(&crate::common::programs().globalfs, ["prefetch"])).fails(2, &["<PATH>"]);
    let stranger = crate::common::commands::altered(&config, "stranger.yaml", &[("state_dir", "nowhere")]);
    globalfs(&["prefetch", "/data"], &stranger).fails(1, &["register"]);
    test.cluster.stop("cloud").unwrap();
    globalfs(&["prefetch", "/data"], &config).fails(1, &["the daemon of site cloud", "cannot be asked"]);
}
