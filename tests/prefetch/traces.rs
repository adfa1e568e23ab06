//! What a job read is recorded, kept by its site and the primary, and brought again.

use crate::common::commands::{Outcome, command, eventually, globalfs, json};
use crate::common::{TestCluster, can_mount, noise, programs, shell};
use crate::{fetched_bytes, long_memory, node};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

fn fill(origin: &Path) {
    fs::create_dir_all(origin.join("data")).unwrap();
    for n in 0..20 {
        fs::write(origin.join(format!("data/small{n}")), noise(n, 10 * KIB)).unwrap();
    }
    fs::write(origin.join("data/large"), noise(99, 64 * MIB)).unwrap();
    fs::write(origin.join("data/unread"), noise(98, 4 * MIB)).unwrap();
}

/// Reads ten small files and two far parts of the large one, by children and grandchildren.
const JOB: &str = "cat data/small? | wc -c; sh -c 'dd if=data/large bs=1M skip=40 count=2 | wc -c' 2>/dev/null; \
                   dd if=data/large bs=128K skip=80 count=1 2>/dev/null | wc -c";

/// Bytes that the job asks for; the kernel reads ahead of it.
const JOB_BYTES: u64 = (10 * 10 * KIB + 2 * MIB + 128 * KIB) as u64;

/// What the kernel may read ahead of two readers.
const READ_AHEAD_BYTES: u64 = 2 * 2 * MIB as u64;

/// `globalfs trace record --config CONFIG -- COMMAND` in `dir`.
fn record(config: &Path, name: &str, dir: &Path, what: &[&str]) -> Outcome {
    let head = ["trace", "record", "--name", name, "--config", config.to_str().unwrap(), "--"];
    let mut command = command(&programs().globalfs, head.iter().chain(what));
    command.current_dir(dir);
    Outcome::of(command)
}

/// Another burst site would start with nothing: so does this one, once its cache is gone.
fn forget_everything(test: &mut TestCluster) {
    test.cluster.stop("cloud").unwrap();
    fs::remove_dir_all(test.cluster.site_cache_dir("cloud")).unwrap();
    test.cluster.start_site("cloud").unwrap();
}

fn config_of(test: &TestCluster, node: &str) -> PathBuf {
    test.cluster.dir().join(format!("{node}.yaml"))
}

fn traced_bytes(trace: &Value) -> u64 {
    trace["reads"].as_array().unwrap().iter().map(|read| read["length"].as_u64().unwrap()).sum()
}

#[test]
fn exactly_what_a_command_read_is_brought_again() {
    if !can_mount("exactly_what_a_command_read_is_brought_again") {
        return;
    }
    let mut test = long_memory().start(fill);
    let mount = test.mount("n1", "cloud");
    let config = config_of(&test, "n1");
    shell(&mount, "cat data/unread | wc -c");
    let recorded = record(&config, "train", &mount, &["bash", "-c", JOB]).works();
    assert_eq!(recorded, "102400\n2097152\n131072\n");
    let trace = json(&["trace", "show", "train"], &config);
    let bytes = traced_bytes(&trace);
    assert_eq!((&trace["files"], &trace["bytes"], &trace["runs"]), (&11.into(), &bytes.into(), &1.into()));
    assert!((JOB_BYTES..=JOB_BYTES + READ_AHEAD_BYTES).contains(&bytes), "{bytes}");
    let paths: Vec<_> =
        trace["reads"].as_array().unwrap().iter().map(|r| r["path"].as_str().unwrap()).collect();
    assert!(paths[..10].iter().enumerate().all(|(n, path)| *path == format!("/data/small{n}")), "{paths:?}");

    // The trace of a burst site survives it, at the primary.
    test.cluster.stop("n1").unwrap();
    let other = test.cluster.add_node("n0", "onprem", "1GiB", "").unwrap();
    eventually("the primary has the trace", || {
        let listed = json(&["trace", "list"], &other);
        (listed[0]["name"] == "train").then_some(()).ok_or(listed.to_string())
    });
    forget_everything(&mut test);
    fs::remove_dir_all(test.cluster.dir().join("cloud/state/traces")).unwrap();
    test.cluster.stop("cloud").unwrap();
    test.cluster.start_site("cloud").unwrap();
    // What was written just now comes along with its attributes.
    thread::sleep(Duration::from_secs(3));
    let (fetched, wan) = (fetched_bytes(&test), test.wan_bytes("cloud"));
    let done = json(&["prefetch", "--trace", "train"], &config);
    assert_eq!((&done["fetched_bytes"], &done["here_bytes"]), (&bytes.into(), &0.into()), "{done}");
    assert_eq!(fetched_bytes(&test) - fetched, bytes);
    let wan = test.wan_bytes("cloud") - wan;
    assert!(wan <= bytes + bytes / 20, "{wan} bytes for {bytes}");
    let fresh = test.mount("n2", "cloud");
    shell(&fresh, JOB);
    // Read-ahead may guess beyond what the job reads; what the job reads is here.
    let guessed = test.cluster.metrics("n2").unwrap().sum("globalfs_read_ahead_bytes_total") as u64;
    let moved = fetched_bytes(&test) - fetched;
    assert!(moved >= bytes && moved <= bytes + guessed, "{moved} bytes moved for {bytes}, {guessed} guessed");

    let fresh_config = config_of(&test, "n2");
    let failed = record(&fresh_config, "broken", &fresh, &["sh", "-c", "cat data/small1 >/dev/null; exit 7"]);
    assert_eq!(failed.code, 7, "{failed:?}");
    globalfs(&["trace", "show", "nope"], &config).fails(1, &["there is no trace 'nope'"]);
    globalfs(&["prefetch", "--trace", "nope"], &config).fails(1, &["there is no trace 'nope'"]);
    globalfs(&["trace", "remove", "../x"], &config).fails(2, &["not the name of a trace"]);
    globalfs(&["trace", "remove", "train"], &config).works();
    globalfs(&["trace", "remove", "train"], &config).fails(1, &["there is no trace"]);
    assert_eq!(json(&["trace", "list"], &config).as_array().unwrap().len(), 1);
}

#[test]
fn what_changed_or_went_since_is_handled() {
    if !can_mount("what_changed_or_went_since_is_handled") {
        return;
    }
    let mut test = long_memory().start(fill);
    let mount = test.mount("n1", "cloud");
    let config = config_of(&test, "n1");
    record(&config, "t", &mount, &["sh", "-c", "cat data/small1 data/small2 data/small3 >/dev/null"]).works();
    let origin = test.origin("onprem");
    fs::write(origin.join("data/small2"), noise(1000, 5 * KIB)).unwrap();
    fs::remove_file(origin.join("data/small3")).unwrap();
    forget_everything(&mut test);
    let done = globalfs(&["prefetch", "--trace", "t", "--json"], &config);
    assert_eq!(done.code, 1, "{done:?}");
    let report: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(report["fetched_bytes"], 15 * KIB);
    assert_eq!(report["failed"][0]["path"], "/data/small3");
}

/// Runs `what` as the job `train` of alice with this number.
fn run_job(mount: &Path, id: u32, what: &str) {
    let marks = format!("SLURM_JOB_NAME=train SLURM_JOB_ID={id} USER=alice");
    shell(mount, &format!("env {marks} bash -c '{what}'"));
}

#[test]
fn a_batch_job_is_recorded_and_replayed_by_itself() {
    if !can_mount("a_batch_job_is_recorded_and_replayed_by_itself") {
        return;
    }
    let mut test = long_memory().start(fill);
    let mount = test.mount("n1", "cloud");
    let config = config_of(&test, "n1");
    run_job(&mount, 1, "cat data/small* | wc -c; cat data/unread | wc -c");
    let trace = eventually("the job was recorded", || {
        let shown = globalfs(&["trace", "show", "job/alice/train", "--json"], &config);
        serde_json::from_str::<Value>(&shown.stdout).map_err(|_| shown.stderr)
    });
    let bytes = (20 * 10 * KIB + 4 * MIB) as u64;
    assert_eq!((&trace["files"], traced_bytes(&trace)), (&21.into(), bytes));
    test.cluster.stop("n1").unwrap();
    forget_everything(&mut test);
    let fresh = test.mount("n2", "cloud");
    assert_eq!(fetched_bytes(&test), 0);
    // The first access brings the rest before the job asks for it.
    run_job(&fresh, 2, "cat data/small0 | wc -c; sleep 3");
    assert_eq!(fetched_bytes(&test), bytes);
    let merged = eventually("both runs are in the trace", || {
        let shown = json(&["trace", "show", "job/alice/train"], &config);
        (shown["runs"] == 2).then_some(shown.clone()).ok_or(shown.to_string())
    });
    assert_eq!(traced_bytes(&merged), bytes, "one run that missed something drops nothing");
    run_job(&fresh, 3, "cat data/small1 | wc -c");
    eventually("what two runs did not read is dropped", || {
        let shown = json(&["trace", "show", "job/alice/train"], &config);
        let (runs, left) = (shown["runs"] == 3, traced_bytes(&shown));
        (runs && left == 20 * KIB as u64).then_some(()).ok_or(shown.to_string())
    });
}

#[test]
fn traces_can_be_turned_off() {
    if !can_mount("traces_can_be_turned_off") {
        return;
    }
    let mut test = long_memory().start(fill);
    let config = test.cluster.add_node("n1", "cloud", "1GiB", "traces: off\n").unwrap();
    let mount = test.scratch.path().join("mnt");
    test.cluster.start_mount("n1", &mount, &[]).unwrap();
    run_job(&mount, 1, "cat data/small0 | wc -c");
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(json(&["trace", "list"], &config), Value::Array(vec![]));
    record(&config, "asked", &mount, &["cat", "data/small1"]);
    assert_eq!(json(&["trace", "list"], &config)[0]["name"], "asked", "a recording that was asked for works");
    let idle = node(&mut test, "n2");
    record(&idle, "x", Path::new("/"), &["true"]).fails(1, &["cannot be asked to record"]);
}
