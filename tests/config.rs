//! Configuration files: every example loads, and every kind of mistake is told with its place, what was
//! expected and what was probably meant.

// The functions beside the tests fail a test as the tests themselves do.
#![allow(clippy::unwrap_used)]

use globalfs::config::{
    ByteSize, CoordinatorConfig, Document, MAX_FILE_BYTES, MountConfig, OriginUrl, PolicyConfig, SiteConfig,
    StoreConfig,
};
use globalfs_controlplane::model::policy::{Primary, SyncMode};
use globalfs_controlplane::model::record::SiteRole;
use globalfs_dataplane::disk::Preference;
use globalfs_proto::GlobalPath;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const COORDINATOR: &str =
    "cluster: c\nsites:\n  - {name: onprem, role: primary}\n  - {name: cloud, role: burst}\n";
const SITE: &str =
    "name: cloud\ncoordinator: gfs:7440\nadvertise: gfs:7441\norigin: file:///data\ncache: {size: 1GiB}\n";
const MOUNT: &str = "site: cloud\ncoordinator: gfs:7440\n";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn example(name: &str) -> PathBuf {
    root().join("examples").join(name)
}

/// The error for a file with `bytes`, without the file's directory.
fn error(bytes: &[u8]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("f");
    fs::write(&file, bytes).unwrap();
    match Document::load(&file) {
        Ok(document) => panic!("loads as {}:\n{}", document.kind(), String::from_utf8_lossy(bytes)),
        Err(error) => error.to_string().replace(&format!("{}/", directory.path().display()), ""),
    }
}

/// Checks that `text` is refused with exactly the problems `want`.
#[track_caller]
fn check(text: &str, want: &str) {
    assert_eq!(error(text.as_bytes()), want, "\n{text}");
}

/// Checks that `text` is refused and the message begins with `place` and contains `part`.
#[track_caller]
fn check_part(text: &str, place: &str, part: &str) {
    let error = error(text.as_bytes());
    assert!(error.starts_with(place) && error.contains(part), "{error}\nfor\n{text}");
}

/// [`check_part`] for one line after a valid file's lines.
#[track_caller]
fn check_line(valid: &str, line: &str, part: &str) {
    let place = format!("f:{}:", valid.lines().count() + 1);
    check_part(&format!("{valid}{line}\n"), &place, part);
}

fn load<T, E: std::fmt::Display>(text: &str, read: impl Fn(&Path) -> Result<T, E>) -> T {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("f");
    fs::write(&file, text).unwrap();
    read(&file).unwrap_or_else(|error| panic!("{error}\nfor\n{text}"))
}

#[test]
fn every_example_loads_as_its_kind() {
    let kinds = [
        ("coordinator.yaml", "coordinator"),
        ("coordinator-etcd.yaml", "coordinator"),
        ("site-onprem.yaml", "site"),
        ("site-cloud.yaml", "site"),
        ("globalfs.yaml", "mount"),
        ("globalfs-policy.yaml", "policy"),
    ];
    for (name, kind) in kinds {
        let document = Document::load(&example(name)).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(document.kind(), kind, "{name}");
    }
    let there = fs::read_dir(root().join("examples")).unwrap().map(|entry| entry.unwrap().file_name());
    let yaml = there.filter(|name| name.to_string_lossy().ends_with(".yaml"));
    assert_eq!(yaml.count(), kinds.len(), "every example is tested");
}

#[test]
fn examples_show_the_defaults() {
    let shown = SiteConfig::load(&example("site-onprem.yaml")).unwrap();
    let plain = load(SITE, SiteConfig::load);
    assert_eq!((shown.listen, shown.disk, shown.deadline), (plain.listen, plain.disk, plain.deadline));
    assert_eq!((shown.state_dir, shown.metadata_ttl), (plain.state_dir, plain.metadata_ttl));
    assert_eq!((shown.read_only, plain.read_only), (false, false));
    assert_eq!(shown.cache.dir, plain.cache.dir);
    let shown = MountConfig::load(&example("globalfs.yaml")).unwrap();
    let plain = load(MOUNT, MountConfig::load);
    assert_eq!((shown.cache, shown.disk, shown.node), (plain.cache, plain.disk, plain.node));
    assert_eq!((shown.attribute_ttl, shown.deadline), (plain.attribute_ttl, plain.deadline));
    assert_eq!((shown.state_dir, plain.daemon, shown.traces), (plain.state_dir, None, plain.traces));
    let shown = CoordinatorConfig::load(&example("coordinator.yaml")).unwrap();
    let plain = load(COORDINATOR, CoordinatorConfig::load);
    assert_eq!((plain.policies.policies().len(), plain.primary().as_str()), (0, "onprem"));
    assert_eq!((shown.listen, shown.data_dir, shown.store), (plain.listen, plain.data_dir, plain.store));
}

#[test]
fn the_policy_file_of_the_design_is_accepted_as_it_stands() {
    let set = PolicyConfig::load(&root().join("tests/fixtures/globalfs-policy.yaml")).unwrap().policies;
    let check = |path: &str, name: Option<&str>, primary: &str, replicas: usize, mode: SyncMode| {
        let path = GlobalPath::new(path.as_bytes()).unwrap();
        let decision = set.decide(&path);
        assert_eq!(decision.policy.map(|policy| policy.name.as_str()), name);
        assert_eq!((decision.primary.to_string().as_str(), decision.replicas.len()), (primary, replicas));
        assert_eq!(decision.sync_mode, mode);
    };
    check("/datasets/hot/a", Some("hot_datasets"), "onprem", 1, SyncMode::Eager);
    check("/datasets/hot/a/b", None, "onprem", 0, SyncMode::Lazy);
    check("/inputs/a/b", Some("input_data"), "onprem", 1, SyncMode::Lazy);
    check("/results/job-1234/out", Some("output_data"), "onprem", 0, SyncMode::Async);
    check("/scratch/x", Some("scratch"), &Primary::EachSite.to_string(), 0, SyncMode::Never);
}

#[test]
fn values_are_read() {
    let site = load(
        "name: cloud\ncoordinator: '[fd00::1]:7440'\nlisten: 10.0.0.1:1\norigin: file:///a b/c\nstate_dir: var\n\
         cache: {size: 1.5GiB}\ndisk: posix\nmetrics: '[::1]:9'\nmetadata_ttl: 0s\ndeadline: 1m 30s\n\
         read_only: true\n",
        SiteConfig::load,
    );
    assert_eq!((site.coordinator.host.as_str(), site.coordinator.port), ("fd00::1", 7440));
    assert_eq!(site.advertise.to_string(), "10.0.0.1:1", "what is listened on is advertised");
    assert_eq!(site.origin, OriginUrl::File("/a b/c".into()));
    assert!(site.state_dir.is_absolute() && site.state_dir.ends_with("var"), "relative to the file");
    assert!(site.cache.dir.ends_with("var/cache") && site.cache.size == ByteSize(3 << 29));
    assert_eq!((site.disk, site.metadata_ttl, site.read_only), (Preference::Posix, Duration::ZERO, true));
    assert_eq!((site.deadline, site.metrics.unwrap().port()), (Duration::from_secs(90), 9));
    let coordinator = CoordinatorConfig::load(&example("coordinator-etcd.yaml")).unwrap();
    let StoreConfig::Etcd(etcd) = coordinator.store else { panic!("the store is etcd") };
    assert_eq!((etcd.endpoints.len(), etcd.login.unwrap().user.as_str()), (3, "globalfs"));
    assert!(etcd.identity.unwrap().key.is_absolute() && coordinator.sites[2].role == SiteRole::Backup);
    let mount =
        load(&format!("{MOUNT}node: c001\ndaemon: d:1\ncache: {{size: 4194304}}\n"), MountConfig::load);
    assert_eq!((mount.node.as_str(), mount.cache.size), ("c001", ByteSize(4 << 20)));
    assert_eq!(mount.daemon.unwrap().to_string(), "d:1");
}

#[test]
fn sites_may_have_names_that_yaml_11_took_for_truth_values() {
    let text = "cluster: off\nsites: [{name: on, role: primary}, {name: no, role: burst}]\n";
    assert_eq!(load(text, CoordinatorConfig::load).primary().as_str(), "on");
}

#[test]
fn anchors_and_merges_work() {
    let text = format!("{MOUNT}cache: &c {{size: 1GiB}}\n");
    assert_eq!(load(&text, MountConfig::load).cache.size, ByteSize(1 << 30));
    let text = "policies:\n  - &base {name: a, pattern: /a, primary: x, sync_mode: lazy}\n  - {<<: *base, name: b}\n";
    assert_eq!(load(text, PolicyConfig::load).policies.policies()[1].name, "b");
}

#[test]
fn all_problems_of_a_file_are_told_at_once() {
    check(
        "name: Cloud\ncoordinatr: gfs:7440\nlisten: 7441\norgin: file:///data\ncache: {size: 10 parsecs}\n",
        "f:1:1: missing key `advertise`; expected HOST:PORT at which others reach it, such as gfs.example.org:7441\n\
         f:1:7: `name`: found \"Cloud\"; expected a name: 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit\n\
         f:2:1: unknown key `coordinatr`; did you mean `coordinator`?\n\
         f:3:9: `listen`: found the number 7441, which quotes would make text; expected IP:PORT of this machine, such as 0.0.0.0:7440 or [::]:7440\n\
         f:4:1: unknown key `orgin`; did you mean `origin`?\n\
         f:5:15: `size`: found \"10 parsecs\"; expected a size such as 512MiB, 10GB, 1.5TiB or a whole number of bytes",
    );
}

#[test]
fn unknown_keys() {
    let check = |valid: &str, line: &str, part: &str| check_line(valid, line, part);
    check(SITE, "metdata_ttl: 5s", ":1: unknown key `metdata_ttl`; did you mean `metadata_ttl`?");
    check(SITE, "Deadline: 5s", "did you mean `deadline`?");
    check(SITE, "state-dir: /x", "did you mean `state_dir`?");
    check(SITE, "zebra: 1", "expected one of name, coordinator, listen, advertise, origin,");
    check(SITE, "? [a, b]\n: 1", "not valid YAML");
    check(MOUNT, "atribute_ttl: 5s", "did you mean `attribute_ttl`?");
    check(MOUNT, "cache: {sise: 1GiB}", ":9: unknown key `sise`; did you mean `size`?");
    check(COORDINATOR, "metric: 127.0.0.1:1", "did you mean `metrics`?");
    check(COORDINATOR, "store: {etdc: {}}", "did you mean `etcd`?");
    check(COORDINATOR, "store: {etcd: {endpoint: [a:1]}}", "did you mean `endpoints`?");
    check_part(
        "cluster: c\nsites: [{nam: onprem, role: primary}]\n",
        "f:2:10: unknown key `nam`; did you mean `name`?",
        "",
    );
    check_part("policies: []\npolices: []\n", "f:2:1:", "did you mean `policies`?");
    check(SITE, &format!("{}: 1", "x".repeat(500)), "unknown key");
}

#[test]
fn missing_keys() {
    let without = |text: &str, key: &str, wanted: &str| {
        let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with(key)).collect();
        check_part(&kept.join("\n"), "f:1:1: missing key `", wanted);
    };
    without(SITE, "name", "`name`; expected a name");
    without(SITE, "coordinator", "`coordinator`; expected HOST:PORT");
    without(SITE, "advertise", "`advertise`; expected HOST:PORT");
    without(SITE, "origin", "`origin`; expected file://");
    without(SITE, "cache", "`cache`; expected the cache's quota such as {size: 100GiB}");
    without(&format!("{MOUNT}node: n\n"), "site", "`site`; expected a name");
    without(MOUNT, "coordinator", "`coordinator`; expected HOST:PORT");
    without(COORDINATOR, "cluster", "`cluster`; expected a name");
    check(
        "cluster: c\n",
        "f:1:1: missing key `sites`; expected a list of sites such as [{name: onprem, role: primary}]",
    );
    check_part(
        "name: a\norigin: file:///a\ncoordinator: a:1\nadvertise: a:1\ncache: {dir: /x}\n",
        "f:5:8: missing key `size`",
        "a size such as",
    );
}

#[test]
fn wrong_types() {
    check_line(
        SITE,
        "deadline: [30s]",
        ":11: `deadline`: found a list; expected a duration from 100ms to 10m",
    );
    check_line(SITE, "deadline: 30", "found the number 30, which quotes would make text");
    check_line(SITE, "disk: true", ":7: `disk`: found the truth value true");
    check_line(SITE, "disk:", "`disk`: found nothing; expected one of auto, uring, posix");
    check_line(SITE, "metrics: {port: 1}", "found a map; expected IP:PORT");
    check_line(MOUNT, "cache: 1GiB", ":8: `cache`: found \"1GiB\"; expected keys with values");
    check_line(MOUNT, "cache: {size: 1.5}", "`size`: found the number 1.5; expected a size");
    check_line(MOUNT, "node: 12", "`node`: found the number 12, which quotes would make text");
    check_line(COORDINATOR, "store: [embedded]", "found a list; expected `embedded` or `etcd:");
    check_line(COORDINATOR, "store: etcd", "etcd needs its endpoints");
    check_line(COORDINATOR, "store: {etcd: [a:1]}", "`etcd`: found a list; expected keys with values");
    check_line(COORDINATOR, "policies: x", ":11: `policies`: found \"x\"; expected a list of policies");
    check_line(COORDINATOR, "policies: [x]", ":12: a policy: found \"x\"; expected keys with values");
    check_part("cluster: c\nsites: {onprem: primary}\n", "f:2:8: `sites`: found a map", "a list of sites");
    check_part(
        "cluster: c\nsites: [onprem]\n",
        "f:2:9: a site: found \"onprem\"",
        "expected keys with values",
    );
    check_part("- a\n- b\n", "f:1:1: cannot tell", "`origin` (site)");
    check_part("just text\n", "f:1:1: cannot tell", "`cluster` (coordinator)");
    check_part("colour: red\n", "f:1:1: cannot tell", "`policies` (policy)");
}

#[test]
fn bad_sizes_and_durations() {
    for bad in ["10 parsecs", "-1", "1.5", "GiB", "1.2.3GiB", "''", "1e3MiB", "99999999PiB", "-1GiB"] {
        check_line(MOUNT, &format!("cache: {{size: {bad}}}"), "expected a size such as 512MiB");
    }
    check_line(MOUNT, "cache: {size: .inf}", "non-finite");
    check_line(
        MOUNT,
        "cache: {size: 10G}",
        "the unit G is ambiguous: write GiB (powers of 1024) or GB (of 1000)",
    );
    check_line(MOUNT, "cache: {size: 1MiB}", ":15: `size`: 1MiB is too small; expected at least 4MiB");
    for bad in ["5 parsecs", "0s", "11m", "-5s", "''", "1ms"] {
        check_line(SITE, &format!("deadline: {bad}"), "expected a duration from 100ms to 10m, such as 30s");
    }
    for bad in ["yes", "1", "'true'"] {
        check_line(SITE, &format!("read_only: {bad}"), "expected true or false");
    }
    for bad in ["5", "2days", "soon"] {
        check_line(SITE, &format!("metadata_ttl: {bad}"), "expected a duration from 0s to 1day");
    }
}

#[test]
fn bad_addresses_and_origins() {
    for bad in ["localhost:7441", "0.0.0.0", "1.2.3.4:70000", "'::1:7441'", "1.2.3:4"] {
        check_line(SITE, &format!("listen: {bad}"), "`listen`: found \"");
    }
    for bad in [
        "gfs",
        "gfs:0",
        "gfs:70000",
        ":7440",
        "a b:1",
        "-a:1",
        "http://gfs:1",
        "0.0.0.0:1",
        "256.1.1.1:1",
        "a..b:1",
    ] {
        check_line("site: cloud\n", &format!("coordinator: '{bad}'"), "`coordinator`: found \"");
    }
    let origin = |url: &str, part: &str| {
        check_part(&SITE.replace("file:///data", url), "f:4:9: `origin`: ", part);
    };
    origin("s3://bucket/x", "the scheme s3:// is for a later release; expected file://");
    origin("file://data", "whose directory is not absolute");
    origin("/data", "found \"/data\"; expected file:// and an absolute directory");
    for listen in ["0.0.0.0:1", "'[::]:1'", "127.0.0.1:0"] {
        let text = SITE.replace("advertise: gfs:7441", &format!("listen: {listen}"));
        check_part(&text, "f:1:1: missing key `advertise`; expected HOST:PORT", "gfs.example.org:7441");
    }
}

#[test]
fn bad_names_and_choices() {
    for bad in ["Cloud", "a.b", "-a", "a_b", "''", "ü"] {
        check_part(
            &MOUNT.replace("cloud", bad),
            "f:1:7: `site`: found \"",
            "expected a name: 1 to 63 of a-z",
        );
        check_part(
            &COORDINATOR.replace(": c\n", &format!(": {bad}\n")),
            "f:1:10: `cluster`: found",
            "a name",
        );
    }
    check_line(SITE, "disk: io_uring", "`disk`: found \"io_uring\"; expected one of auto, uring, posix");
    check_line(
        SITE,
        "disk: urin",
        "found \"urin\" (did you mean `uring`?); expected one of auto, uring, posix",
    );
    check_part(&COORDINATOR.replace("burst", "brust"), "f:4:25: `role`: ", "did you mean `burst`?");
}

#[test]
fn sites_that_do_not_fit_together() {
    check_part(
        &COORDINATOR.replace("primary", "backup"),
        "f:2:1: `sites`: none is primary",
        "`role: primary`",
    );
    check_part(
        &COORDINATOR.replace("burst", "primary"),
        "f:4:5: both onprem and cloud are primary",
        "one primary",
    );
    check_part(
        &COORDINATOR.replace("cloud", "onprem"),
        "f:4:5: the site onprem stands here for the second",
        "",
    );
    check_part("cluster: c\nsites: []\n", "f:2:1: `sites`: none is primary", "");
}

/// Checks the text of one policy within the cluster of [`COORDINATOR`].
#[track_caller]
fn check_policy(policy: &str, column: usize, part: &str) {
    check_part(&format!("{COORDINATOR}policies:\n  - {policy}\n"), &format!("f:6:{column}: "), part);
}

#[test]
fn bad_policies() {
    let unknown = "unknown site onprm (did you mean `onprem`?); expected one of onprem, cloud";
    check_policy("{name: a, pattern: /a, primary: onprm, sync_mode: lazy}", 37, unknown);
    let unknown = "`replicate_to`: unknown site mars; expected one of onprem, cloud";
    check_policy("{name: a, pattern: /a, primary: null, replicate_to: [mars], sync_mode: lazy}", 58, unknown);
    check_policy("{name: a, pattern: a, primary: null, sync_mode: lazy}", 24, "begin with '/'");
    check_policy("{name: a, pattern: '/a[', primary: null, sync_mode: lazy}", 24, "without its ']'");
    check_policy("{name: a, pattern: /a**, primary: null, sync_mode: lazy}", 24, "whole component");
    check_policy(
        "{name: a, pattern: /a, sync_mode: lazy}",
        5,
        "missing key `primary`; expected a site's name, or null",
    );
    check_policy(
        "{name: a, pattern: /a, primary: null}",
        5,
        "missing key `sync_mode`; expected one of eager, lazy",
    );
    check_policy("{pattern: /a, primary: null, sync_mode: lazy}", 5, "missing key `name`");
    check_policy("{name: a, primary: null, sync_mode: lazy}", 5, "missing key `pattern`");
    check_policy("{name: a, pattern: /a, primary: null, sync_mode: eagre}", 54, "did you mean `eager`?");
    check_policy(
        "{name: a, pattern: /a, primary: null, sync_mode: lazy, priority: high}",
        70,
        "a whole number",
    );
    check_policy(
        "{name: a, pattern: /a, primary: null, sync_mode: lazy, replicate: []}",
        60,
        "did you mean `replicate_to`?",
    );
    check_policy(
        "{name: a, pattern: /a, primary: onprem, replicate_to: cloud, sync_mode: lazy}",
        59,
        "expected a list of sites",
    );
    check_policy(
        "{name: a, pattern: /a, primary: onprem, replicate_to: [onprem], sync_mode: lazy}",
        5,
        "contains the primary",
    );
    check_policy(
        "{name: a, pattern: /a, primary: onprem, replicate_to: [cloud], sync_mode: never}",
        5,
        "never contradicts",
    );
    check_policy(
        "{name: a, pattern: /a, primary: null, replicate_to: [cloud], sync_mode: lazy}",
        5,
        "needs a primary",
    );
    let two = "policies:\n- {name: a, pattern: /a, primary: x, sync_mode: lazy}\n- {name: a, pattern: /b, primary: x, sync_mode: lazy}\n";
    check_part(two, "f:3:3: policy 'a': the name is used twice", "");
}

#[test]
fn policy_files_are_checked_with_their_cluster() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    let load = || CoordinatorConfig::load(&directory.path().join("c.yaml"));
    let told = || load().unwrap_err().to_string().replace(&format!("{}/", directory.path().display()), "");
    write("c.yaml", &format!("{COORDINATOR}policy_file: p.yaml\n"));
    assert_eq!(told(), "p.yaml: cannot be read: No such file or directory");
    write("p.yaml", "policies:\n  - name: a\n    pattern: /a\n    primary: clod\n    sync_mode: lazy\n");
    assert_eq!(
        told(),
        "p.yaml:4:14: `primary`: unknown site clod (did you mean `cloud`?); expected one of onprem, cloud"
    );
    write("p.yaml", "policies:\n  - {name: a, pattern: /a, primary: cloud, sync_mode: lazy}\n");
    assert_eq!(load().unwrap().policies.policies().len(), 1);
    write("c.yaml", &format!("{COORDINATOR}policy_file: p.yaml\npolicies: []\n"));
    assert_eq!(told(), "c.yaml:5:1: both `policies` and `policy_file` are given; expected one of them");
}

#[test]
fn bad_etcd_settings() {
    let check = |etcd: &str, part: &str| check_line(COORDINATOR, &format!("store: {{etcd: {etcd}}}"), part);
    check("{}", "missing key `endpoints`; expected a list such as [https://etcd-1:2379");
    check("{endpoints: []}", "`endpoints`: found none");
    check("{endpoints: https://a:1}", "`endpoints`: found \"https://a:1\"; expected a list");
    check("{endpoints: [a:1]}", "`endpoints`: found \"a:1\"; expected https://HOST:PORT");
    check("{endpoints: ['https://a:1'], cert: c}", "`cert` is given without `key`; expected both");
    check("{endpoints: ['https://a:1'], password_file: p}", "`password_file` is given without `user`");
    check("{endpoints: ['https://a:1'], password: p}", "did you mean `password_file`?");
}

#[test]
fn text_that_is_not_configuration() {
    check("", "f: the file is empty");
    check("\n# only a comment\n", "f: the file is empty");
    check("---\n", "f: the file is empty");
    check_part("name: a\nname: b\n", "f:2:1: duplicate key `name`", "once");
    check_part("name: [a\n", "f:", "not valid YAML");
    check_part("name: 'a\n", "f:", "not valid YAML");
    check_part("name: a\n\tx: b\n", "f:1:7: ", "not valid YAML");
    check_part("a: 1\n---\nb: 2\n", "f:3:1: a second document", "expected one document");
    check_part("name: *nobody\n", "f:1:7: not valid YAML", "");
    assert_eq!(error(b"name: a\nsite: \xff\n"), "f:2:7: not UTF-8; expected a text file");
    assert!(error(b"\x00\x01\x02").starts_with("f:"));
    check_part("name: \"a\\x1b[31m\"\norigin: x\n", "f:", "expected");
    assert!(!error(b"name: \"a\\x1b[31m\"\norigin: x\n").contains('\x1b'), "nothing reaches the terminal");
}

#[test]
fn floods_end_early() {
    let bomb: String =
        (1..9).map(|n| format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 9].join(", "))).collect();
    check_part(
        &format!("a0: &a0 [x, x, x, x, x, x, x, x, x]\n{bomb}"),
        "f:",
        "too deeply nested, or too large",
    );
    check_part(&format!("name: {}{}", "[".repeat(5000), "]".repeat(5000)), "f:1:", "");
    let many: String = (0..1000).map(|n| format!("key{n}: 1\n")).collect();
    let told = error(format!("{SITE}{many}").as_bytes());
    assert!(told.lines().count() == 21 && told.ends_with("... and 980 more"), "{told}");
    let large = vec![b'#'; MAX_FILE_BYTES as usize + 1];
    assert_eq!(error(&large), "f: is larger than 1048576 bytes, the most that a configuration may have");
}

#[test]
fn files_of_another_kind() {
    let told =
        |result: Result<(), globalfs::config::ConfigError>| result.unwrap_err().problems[0].message.clone();
    let site = told(SiteConfig::load(&example("globalfs.yaml")).map(drop));
    assert_eq!(site, "this is a mount file; expected a site file");
    let policy = told(PolicyConfig::load(&example("coordinator.yaml")).map(drop));
    assert_eq!(policy, "this is a coordinator file; expected a policy file");
}

#[test]
fn files_that_cannot_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let told = |path: &Path| Document::load(path).unwrap_err().to_string();
    let at = directory.path().display();
    assert_eq!(told(directory.path()), format!("{at}: is a directory; expected a file"));
    let missing = directory.path().join("none.yaml");
    assert_eq!(told(&missing), format!("{at}/none.yaml: cannot be read: No such file or directory"));
    fs::write(directory.path().join("file"), "x").unwrap();
    let below = told(&directory.path().join("file/x.yaml"));
    assert_eq!(below, format!("{at}/file/x.yaml: cannot be read: Not a directory"));
}
