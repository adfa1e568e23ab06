//! Wrong command lines, and configurations that the commands that run things refuse.

use crate::common::commands::{Outcome, command};
use crate::common::programs;
use std::fs;

#[test]
fn wrong_command_lines_end_with_2() {
    let check = |args: &str, words: &[&str]| {
        Outcome::of(command(&programs().globalfs, args.split(' '))).fails(2, words);
    };
    check("sites list", &["unrecognized subcommand 'sites'", "tip: ", "'site'"]);
    check("site strat", &["unrecognized subcommand 'strat'", "'start'"]);
    check("site start --confg x", &["unexpected argument '--confg'", "'--config'"]);
    check("site show", &["required arguments were not provided", "<NAME>"]);
    check("site register no_good --token x", &["invalid value 'no_good' for '<NAME>'"]);
    check("site register spare --config x", &["--token <TOKEN>|--token-file <FILE>"]);
    check("site register spare --token a --token-file b", &["cannot be used with '--token-file <FILE>'"]);
    check("token create --site a --ttl soon", &["invalid value 'soon' for '--ttl <DURATION>'"]);
    check("coordinator start --log-format xml", &["invalid value 'xml'", "possible values: json, text"]);
    let fuse = |args: &str, words: &[&str]| {
        Outcome::of(command(&programs().globalfs_fuse, args.split(' '))).fails(2, words);
    };
    fuse("mont /globalfs", &["unrecognized subcommand 'mont'", "'mount'"]);
    fuse("mount", &["<MOUNTPOINT>"]);
}

/// Each command that reads a configuration, what is before the configuration's path, and a valid file.
const READERS: [(&str, &str); 5] = [
    ("coordinator start", COORDINATOR),
    ("site start", SITE),
    ("site register cloud --token x", SITE),
    ("node register n1 --token x", NODE),
    ("mount /nowhere", NODE),
];
const COORDINATOR: &str = "cluster: c\nsites:\n  - {name: onprem, role: primary}\n";
const SITE: &str =
    "name: cloud\ncoordinator: gfs:7440\nadvertise: gfs:7441\norigin: file:///d\ncache: {size: 1GiB}\n";
const NODE: &str = "site: cloud\ncoordinator: gfs:7440\nnode: n1\n";

#[test]
fn every_command_refuses_a_bad_configuration() {
    let scratch = tempfile::tempdir().unwrap();
    for (args, valid) in READERS {
        let check = |text: &[u8], words: &[&str]| {
            let file = scratch.path().join("f.yaml");
            fs::write(&file, text).unwrap();
            let config = ["--config", file.to_str().unwrap()];
            Outcome::of(command(&programs().globalfs, args.split(' ').chain(config))).fails(1, words);
        };
        let line = valid.lines().count() + 1;
        let at = |column: usize| format!("f.yaml:{line}:{column}: ");
        check(format!("{valid}metrcs: 127.0.0.1:1\n").as_bytes(), &[&at(1), "did you mean `metrics`?"]);
        check(format!("{valid}metrics: often\n").as_bytes(), &[&at(10), "expected IP:PORT"]);
        check(format!("{valid}metrics: [\n").as_bytes(), &["globalfs: ", "f.yaml:", "not valid YAML"]);
        check(b"policies: []\n", &["f.yaml:1:1: this is a policy file; expected a "]);
        check(b"", &["f.yaml:"]);
        check(b"\xff\xfe", &["f.yaml:"]);
        let gone = ["--config", "no/such/file.yaml"];
        Outcome::of(command(&programs().globalfs, args.split(' ').chain(gone)))
            .fails(1, &["globalfs: no/such/file.yaml: cannot be read: No such file or directory"]);
    }
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 1, "nothing was made");
}

#[test]
fn values_of_each_kind_are_checked_before_a_start() {
    let scratch = tempfile::tempdir().unwrap();
    let check = |args: &str, text: String, words: &[&str]| {
        let file = scratch.path().join("f.yaml");
        fs::write(&file, text).unwrap();
        let config = ["--config", file.to_str().unwrap()];
        Outcome::of(command(&programs().globalfs, args.split(' ').chain(config))).fails(1, words);
    };
    let policy = "policies:\n  - {name: a, pattern: /a, primary: onprm, sync_mode: lazy}\n";
    let coordinator = |text: &str| format!("{COORDINATOR}{text}");
    check("coordinator start", coordinator(policy), &["f.yaml:5:37: ", "onprm", "onprem"]);
    check("coordinator start", coordinator("store: etcd\n"), &["f.yaml:4:8: ", "endpoints"]);
    check("coordinator start", coordinator("policy_file: p.yaml\n"), &["p.yaml: cannot be read"]);
    check("coordinator start", "cluster: c\nsites: []\n".into(), &["none is primary"]);
    check("site start", SITE.replace("1GiB", "1 giga"), &["f.yaml:5:15: ", "a size such as 512MiB"]);
    check("site start", format!("{SITE}deadline: 30\n"), &["f.yaml:6:11: ", "such as 30s"]);
    check("site start", SITE.replace("file:///d", "/d"), &["f.yaml:4:9: `origin`"]);
    check("mount /nowhere", format!("{NODE}cache: {{size: 1KiB}}\n"), &["1KiB is too small"]);
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 1, "nothing was made");
}

#[test]
fn a_wrong_log_filter_is_told() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("c.yaml");
    let text = format!("{COORDINATOR}listen: 127.0.0.1:0\ndata_dir: data\n");
    fs::write(&file, text).unwrap();
    for args in ["coordinator start", "status"] {
        let config = ["--config", file.to_str().unwrap()];
        let mut command = command(&programs().globalfs, args.split(' ').chain(config));
        command.env("RUST_LOG", "globalfs=loud");
        Outcome::of(command).fails(1, &["RUST_LOG is not a log filter"]);
    }
    assert!(!scratch.path().join("data").exists(), "nothing was made");
}
