//! Writing at a site that is not the home of a path: it becomes the master of the subtree, everybody sees what it makes, and
//! that comes home by itself.

use super::within;
use crate::common::{Setup, TestCluster, can_mount, shell};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

const POLICIES: &str = "\
policies:
  - name: results
    pattern: /results/**
    primary: onprem
    sync_mode: async
";

const SOON: Duration = Duration::from_secs(20);

pub(super) struct Burst {
    pub(super) test: TestCluster,
    home: PathBuf,
    pub(super) cloud: PathBuf,
}

pub(super) fn start() -> Burst {
    start_with(POLICIES)
}

fn start_with(policies: &str) -> Burst {
    let mut test = Setup { policy_yaml: policies.into(), ..Setup::default() }.start(|origin| {
        fs::create_dir_all(origin.join("results/old/deep")).unwrap();
        fs::write(origin.join("results/old/file"), "old content").unwrap();
        fs::write(origin.join("results/old/deep/file"), "deep").unwrap();
    });
    let (home, cloud) = (test.mount("node-1", "onprem"), test.mount("node-2", "cloud"));
    Burst { test, home, cloud }
}

impl Burst {
    fn leases(&self) -> Vec<serde_json::Value> {
        let text = self.test.cluster.admin(&["lease", "list", "--json"]).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    pub(super) fn origin(&self, site: &str, path: &str) -> PathBuf {
        self.test.origin(site).join(path)
    }
}

/// Names, kinds, modes, owners, sizes, times, targets and contents below a directory; hidden names are not shown.
pub(super) fn tree(dir: &Path) -> String {
    shell(
        dir,
        "find . -not -name '.globalfs-*' \\( -type d -printf '%P %y %m %U %G\\n' -o -printf '%P %y %m %U %G %n %s %T@ %l\\n' \\) | sort; \
         find . -type f -not -name '.globalfs-*' | sort | xargs -r md5sum",
    )
}

/// Holds promise 18 of docs/semantics.md.
#[test]
fn what_is_written_at_another_site_is_seen_at_once_and_comes_home() {
    if !can_mount("what_is_written_at_another_site_is_seen_at_once_and_comes_home") {
        return;
    }
    let burst = start();
    shell(
        &burst.cloud,
        "mkdir results/job && cd results/job && mkdir -p a/b && echo one > a/b/one && ln a/b/one two && ln -s two three",
    );
    let leases = burst.leases();
    assert_eq!(leases.len(), 1, "{leases:?}");
    assert_eq!((&leases[0]["path"], &leases[0]["master"]), (&"/results/job".into(), &"cloud".into()));
    assert_eq!(
        shell(&burst.home, "cat results/job/two results/job/three"),
        "one\none\n",
        "at once, before it is home"
    );
    shell(
        &burst.cloud,
        "cd results/job && mv a/b c && seq 100000 > c/numbers && rm two && chmod 600 c/one && touch -d @1000000000 c/one",
    );
    assert_eq!(
        shell(&burst.home, "cd results/job && find . | LC_ALL=C sort | xargs; wc -l < c/numbers"),
        ". ./a ./c ./c/numbers ./c/one ./three\n100000\n"
    );
    shell(&burst.home, "echo from home > results/job/home && rm results/job/three");
    assert_eq!(shell(&burst.cloud, "cat results/job/home"), "from home\n");
    burst.test.cluster.admin(&["sync", "/results/job", "--wait", "--timeout", "20s"]).unwrap();
    assert_eq!(tree(&burst.origin("onprem", "results/job")), tree(&burst.origin("cloud", "results/job")));
    assert_eq!(tree(&burst.home.join("results/job")), tree(&burst.cloud.join("results/job")));
    burst.test.cluster.admin(&["drain", "cloud", "--timeout", "20s"]).unwrap();
    assert!(burst.leases().is_empty());
    within(SOON, || {
        if burst.origin("cloud", "results/job").exists() { Err("still there".into()) } else { Ok(()) }
    });
    assert_eq!(tree(&burst.home.join("results/job")), tree(&burst.origin("onprem", "results/job")));
    assert_eq!(tree(&burst.cloud.join("results/job")), tree(&burst.origin("onprem", "results/job")));
    shell(&burst.cloud, "echo again > results/job/again");
    assert_eq!(shell(&burst.home, "cat results/job/again results/job/home"), "again\nfrom home\n");
}

#[test]
fn a_subtree_with_content_is_taken_over_whole() {
    if !can_mount("a_subtree_with_content_is_taken_over_whole") {
        return;
    }
    let burst = start();
    shell(&burst.cloud, "cd results/old && echo more >> file && rm deep/file && mkdir new");
    assert_eq!(burst.leases().len(), 1);
    assert_eq!(
        shell(&burst.home, "cd results/old && cat file && find . | LC_ALL=C sort | xargs"),
        "old contentmore\n. ./deep ./file ./new\n"
    );
    within(SOON, || {
        let home = fs::read_to_string(burst.origin("onprem", "results/old/file")).unwrap();
        if home == "old contentmore\n" { Ok(()) } else { Err(home) }
    });
    burst.test.cluster.admin(&["drain", "cloud", "--timeout", "20s"]).unwrap();
    assert_eq!(tree(&burst.cloud.join("results/old")), tree(&burst.origin("onprem", "results/old")));
}

/// Holds promise 19 of docs/semantics.md.
#[test]
fn writing_goes_on_while_home_and_the_coordinator_are_away() {
    if !can_mount("writing_goes_on_while_home_and_the_coordinator_are_away") {
        return;
    }
    let mut burst = start();
    shell(&burst.cloud, "mkdir results/job && echo one > results/job/one");
    burst.test.cluster.kill("onprem").unwrap();
    burst.test.cluster.kill("coordinator").unwrap();
    shell(
        &burst.cloud,
        "cd results/job && mkdir d && seq 1000 > d/two && mv one d/one && echo three >> d/one && sync d/two",
    );
    assert_eq!(shell(&burst.cloud, "cat results/job/d/one"), "one\nthree\n");
    // Longer than what is above the subtree counts without its master's word, and by a daemon that never had it.
    for round in 0..2 {
        shell(
            &burst.cloud,
            "for n in $(seq 32); do echo $n > results/job/d/by-path && cat results/job/d/one > results/job/d/$n && sleep 0.25; done",
        );
        if round == 0 {
            burst.test.cluster.kill("cloud").unwrap();
            burst.test.cluster.start_site("cloud").unwrap();
        }
    }
    burst.test.cluster.start_coordinator().unwrap();
    burst.test.cluster.start_site("onprem").unwrap();
    within(SOON, || {
        let (home, here) = (burst.origin("onprem", "results/job"), burst.origin("cloud", "results/job"));
        let (home, here) = (tree(&home), tree(&here));
        if home == here { Ok(()) } else { Err(format!("{home}\n{here}")) }
    });
    assert_eq!(shell(&burst.home, "cat results/job/d/one"), "one\nthree\n");
    burst.test.cluster.admin(&["drain", "cloud", "--timeout", "20s"]).unwrap();
    assert_eq!(shell(&burst.cloud, "cat results/job/d/one"), "one\nthree\n");
}

/// Holds promise 18 of docs/semantics.md.
#[test]
fn what_is_written_by_a_name_that_was_lost_comes_home_by_the_others() {
    if !can_mount("what_is_written_by_a_name_that_was_lost_comes_home_by_the_others") {
        return;
    }
    let burst = start();
    let sync = || burst.test.cluster.admin(&["sync", "/results/job", "--wait", "--timeout", "30s"]).unwrap();
    shell(&burst.cloud, "mkdir results/job && echo one > results/job/x && echo other > results/job/y");
    let mut file = fs::File::options().append(true).open(burst.cloud.join("results/job/x")).unwrap();
    shell(&burst.cloud.join("results/job"), "ln x z && mv y x");
    sync();
    file.write_all(b"two\n").unwrap();
    file.sync_all().unwrap();
    sync();
    let home = burst.origin("onprem", "results/job");
    assert_eq!(shell(&home, "cat x z"), "other\none\ntwo\n");
}

/// Holds promise 18 of docs/semantics.md.
#[test]
fn a_directory_that_takes_the_name_of_a_moved_one_has_nothing_of_it_at_home() {
    if !can_mount("a_directory_that_takes_the_name_of_a_moved_one_has_nothing_of_it_at_home") {
        return;
    }
    let burst = start();
    let sync = || burst.test.cluster.admin(&["sync", "/results/job", "--wait", "--timeout", "30s"]).unwrap();
    shell(&burst.cloud, "mkdir -p results/job/a/d results/job/e && cd results/job && touch a/x a/d/y e/z");
    for step in [
        "mv a b && mkdir a && touch a/new",
        "mv b c && mkdir f && echo f > f/x && mv f b",
        "mkdir g && rm c/x && mv c h && mv g c",
        "python3 -c \"import ctypes; ctypes.CDLL(None).renameat2(-100, b'e', -100, b'h', 2)\"; ls e h",
    ] {
        sync();
        shell(&burst.cloud.join("results/job"), step);
        sync();
        let (home, here) = (burst.origin("onprem", "results/job"), burst.origin("cloud", "results/job"));
        assert_eq!(tree(&home), tree(&here), "{step}");
    }
    assert_eq!(shell(&burst.cloud.join("results/job"), "ls e | xargs"), "d\n", "they were exchanged");
}

/// Holds promise 18 of docs/semantics.md.
#[test]
fn the_first_change_may_be_of_a_file_with_other_names_and_of_directories() {
    if !can_mount("the_first_change_may_be_of_a_file_with_other_names_and_of_directories") {
        return;
    }
    let burst = start();
    shell(&burst.home.join("results/old"), "mkdir sub && ln file sub/again && touch deep/more");
    let (seen, old) = (burst.cloud.join("results/old"), burst.origin("onprem", "results/old"));
    within(SOON, || match fs::metadata(seen.join("deep/more")) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    });
    // The name that was seen last is not the one that is opened.
    shell(&seen, "stat file sub/again && echo more >> file && cat sub/again");
    assert_eq!(burst.leases().len(), 1);
    burst.test.cluster.admin(&["drain", "cloud", "--timeout", "20s"]).unwrap();
    assert_eq!(shell(&old, "cat sub/again"), "old contentmore\n");
    let exchange =
        "ls -lR && python3 -c \"import ctypes; ctypes.CDLL(None).renameat2(-100, b'deep', -100, b'sub', 2)\"";
    shell(&seen, exchange);
    assert_eq!(burst.leases().len(), 1);
    let there = "test ! -e deep/more && test ! -e deep/file && cat deep/again sub/file && touch sub/new && rm -r deep && mkdir deep";
    assert_eq!(shell(&seen, there), "old contentmore\ndeep");
    burst.test.cluster.admin(&["sync", "/results/old", "--wait", "--timeout", "30s"]).unwrap();
    assert_eq!(tree(&old), tree(&burst.origin("cloud", "results/old")));
    assert_eq!(shell(&seen, "touch deep/again && ls deep sub | xargs"), "deep: again sub: file more new\n");
}

/// What was under way when a daemon died may fail; it says what has not failed, which is known when the file is closed.
const WRITER: &str = "import os, sys
place, stop, n = sys.argv[1], sys.argv[2], 0
while not os.path.exists(stop):
    n += 1
    try:
        f = os.open(f'{place}/{n}', os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            os.write(f, str(n).encode())
            if n % 3 == 0: os.fsync(f)
        finally:
            os.close(f)
        print(n, flush=True)
    except OSError: pass
";

/// Holds promise 20 of docs/semantics.md.
#[test]
fn what_was_closed_comes_home_although_daemons_are_killed() {
    if !can_mount("what_was_closed_comes_home_although_daemons_are_killed") {
        return;
    }
    let mut burst = start();
    shell(&burst.cloud, "mkdir results/job && echo 0 > results/job/0");
    let (stop, program) =
        (burst.test.scratch.path().join("stop"), burst.test.scratch.path().join("writer.py"));
    fs::write(&program, WRITER).unwrap();
    let mut writer = std::process::Command::new("python3");
    let writer = writer.arg(&program).arg(burst.cloud.join("results/job")).arg(&stop);
    let writer = writer.stdout(std::process::Stdio::piped()).spawn().unwrap();
    for round in 0..6 {
        std::thread::sleep(Duration::from_millis(400));
        let site = if round % 3 == 2 { "onprem" } else { "cloud" };
        burst.test.cluster.kill(site).unwrap();
        burst.test.cluster.start_site(site).unwrap();
    }
    std::thread::sleep(Duration::from_millis(300));
    fs::write(&stop, "").unwrap();
    let said = String::from_utf8(writer.wait_with_output().unwrap().stdout).unwrap();
    let written: Vec<u32> = said.lines().map(|line| line.parse().unwrap()).collect();
    assert!(written.len() > 50, "{}", written.len());
    burst.test.cluster.admin(&["sync", "/results/job", "--wait", "--timeout", "30s"]).unwrap();
    for n in &written {
        let home = fs::read_to_string(burst.origin("onprem", &format!("results/job/{n}")));
        assert_eq!(home.ok(), Some(n.to_string()), "of {} files", written.len());
    }
    assert_eq!(tree(&burst.origin("onprem", "results/job")), tree(&burst.origin("cloud", "results/job")));
}

/// Holds promise 21, promise 22 of docs/semantics.md.
#[test]
fn what_a_lost_site_has_is_given_up_by_an_administrator_alone() {
    if !can_mount("what_a_lost_site_has_is_given_up_by_an_administrator_alone") {
        return;
    }
    let mut burst = start_with(&format!("{POLICIES}    on_disconnect: stale\n"));
    shell(&burst.cloud, "mkdir results/job && echo first > results/job/f && sync results/job/f");
    burst.test.cluster.admin(&["sync", "/results/job", "--wait", "--timeout", "20s"]).unwrap();
    burst.test.cluster.kill("onprem").unwrap();
    shell(&burst.cloud, "echo second > results/job/f && echo new > results/job/new");
    burst.test.cluster.kill("cloud").unwrap();
    burst.test.cluster.start_site("onprem").unwrap();
    let (home, read) = (burst.home.clone(), || fs::read_to_string(burst.home.join("results/job/f")));
    assert!(read().is_err(), "not before it is known that the other site is away");
    within(Duration::from_secs(60), || match read() {
        Ok(text) if text == "first\n" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    shell(&home, "! echo x >> results/job/f");
    let denied = burst.test.cluster.admin(&["reclaim", "/results/job", "--abandon"]).unwrap_err();
    assert!(format!("{denied:#}").contains("--yes"), "{denied:#}");
    burst.test.cluster.admin(&["reclaim", "/results/job", "--abandon", "--yes"]).unwrap();
    within(Duration::from_secs(60), || {
        if burst.leases().is_empty() { Ok(()) } else { Err("still held".into()) }
    });
    within(SOON, || match fs::read_to_string(burst.home.join("results/job/f")) {
        Ok(text) if text == "first\n" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    within(SOON, || fs::write(burst.home.join("results/job/g"), "home\n").map_err(|error| error.to_string()));
    burst.test.cluster.start_site("cloud").unwrap();
    within(SOON, || {
        let aside =
            shell(&burst.origin("cloud", "results"), "cat .globalfs-abandoned-*/f 2>/dev/null || true");
        if aside == "second\n" { Ok(()) } else { Err(aside) }
    });
    within(SOON, || {
        let seen = shell(&burst.cloud, "cat results/job/f results/job/g 2>&1 || true");
        if seen == "first\nhome\n" { Ok(()) } else { Err(seen) }
    });
    assert!(!burst.home.join("results/job/new").exists());
}
