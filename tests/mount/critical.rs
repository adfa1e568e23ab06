//! Policies with `consistency: critical`: what is closed or synced at a site that is not the home is home.

use super::{mount_with, within};
use crate::common::{Setup, TestCluster, can_mount, shell};
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const POLICIES: &str = "\
policies:
  - name: results
    pattern: /results/**
    primary: onprem
    sync_mode: async
    consistency: critical
  - name: other
    pattern: /other/**
    primary: onprem
    sync_mode: async
";

const SOON: Duration = Duration::from_secs(30);

fn start() -> (TestCluster, PathBuf) {
    let mut test = Setup { policy_yaml: POLICIES.into(), ..Setup::default() }.start(|origin| {
        fs::create_dir_all(origin.join("results")).unwrap();
        fs::create_dir_all(origin.join("other")).unwrap();
    });
    let cloud = mount_with(&mut test, "node-1", "cloud", "deadline: 4s\n", &[]);
    shell(&cloud, "mkdir results/job other/job");
    // A lease that is slow to be had leaves changes to home, and is not asked for again for 30 s.
    within(3 * SOON, || {
        shell(&cloud, "touch results/job/first other/job/first");
        let leases: Vec<serde_json::Value> =
            serde_json::from_str(&test.cluster.admin(&["lease", "list", "--json"]).unwrap()).unwrap();
        let held = leases.iter().filter(|lease| lease["state"] == "held").count();
        if held == 2 { Ok(()) } else { Err(format!("{leases:?}")) }
    });
    (test, cloud)
}

/// `dd` fails if its last `close(2)` does.
fn write(file: &str, text: &str) -> String {
    format!("printf {text} | dd of={file} status=none")
}

/// Holds promise 28 of docs/semantics.md.
#[test]
fn what_is_closed_under_a_critical_policy_is_home() {
    if !can_mount("what_is_closed_under_a_critical_policy_is_home") {
        return;
    }
    let (test, cloud) = start();
    let home = test.origin("onprem").join("results/job");
    for n in 0..20 {
        shell(&cloud, &write("results/job/f", &format!("content-{n}")));
        assert_eq!(fs::read_to_string(home.join("f")).unwrap(), format!("content-{n}"));
    }
    let mut file = File::create(cloud.join("results/job/open")).unwrap();
    for n in 0..20 {
        writeln!(file, "{n}").unwrap();
        file.sync_data().unwrap();
        assert_eq!(fs::read_to_string(home.join("open")).unwrap().lines().count(), n + 1);
    }
    shell(&cloud, "cd results/job && ln open other && rm open");
    writeln!(file, "by a lost name").unwrap();
    file.sync_data().unwrap();
    assert!(fs::read_to_string(home.join("other")).unwrap().ends_with("by a lost name\n"));
    drop(file);
    shell(&cloud, "cd results/job && mv other open");
    shell(&cloud, "cd results/job && ln f g && mv open moved && mkdir d && mv d e && touch e/f && sync .");
    assert_eq!(shell(&home, "ls | xargs"), "e f first g moved\n");
    shell(&cloud, &write("results/job/e/f", "moved"));
    shell(&cloud, &write("results/job/g", "linked"));
    assert_eq!(shell(&home, "cat e/f f g"), "movedlinkedlinked");
}

/// Writes to `file` and closes it in another process, and what that said.
fn finish(file: &File, text: &str) -> (bool, String, Duration) {
    let began = Instant::now();
    let mut dd = Command::new("dd");
    dd.args(["status=none"]).stdin(Stdio::piped()).stdout(file.try_clone().unwrap()).stderr(Stdio::piped());
    let mut child = dd.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned(), began.elapsed())
}

/// Holds promise 28 of docs/semantics.md.
#[test]
fn what_cannot_come_home_in_time_fails_and_stays_owed() {
    if !can_mount("what_cannot_come_home_in_time_fails_and_stays_owed") {
        return;
    }
    let (mut test, cloud) = start();
    let critical = File::create(cloud.join("results/job/f")).unwrap();
    let other = File::create(cloud.join("other/job/f")).unwrap();
    test.cluster.kill("onprem").unwrap();
    let (succeeded, said, _) = finish(&critical, "critical");
    assert!(!succeeded && said.contains("Input/output error"), "{succeeded} {said}");
    assert_eq!(critical.sync_all().unwrap_err().raw_os_error(), Some(5));
    // Else the next process would close its copy of it, which waits, too.
    drop(critical);
    let (succeeded, said, took) = finish(&other, "other");
    assert!(succeeded && took < Duration::from_secs(2), "others do not wait: {took:?} {said}");
    assert_eq!(fs::read_to_string(test.origin("cloud").join("results/job/f")).unwrap(), "critical");
    test.cluster.start_site("onprem").unwrap();
    let home = test.origin("onprem").join("results/job/f");
    within(SOON, || match fs::read_to_string(&home) {
        Ok(text) if text == "critical" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    shell(&cloud, &write("results/job/f", "again"));
    assert_eq!(fs::read_to_string(&home).unwrap(), "again");
}
