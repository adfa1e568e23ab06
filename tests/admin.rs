//! What an administrator and an operator look at: status, lists, metrics, health, logs.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::commands::{
    Outcome, altered, command, eventually, free_address, globalfs, http_get, json, logged,
};
use common::{Setup, TestCluster, can_mount, noise, programs};
use globalfs::Client;
use globalfs::local::Process;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;
use tokio::runtime::Runtime;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The element of a JSON list with this name.
#[track_caller]
fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    let found = list.as_array().unwrap().iter().find(|item| item["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {list}"))
}

fn positive(value: &Value) -> bool {
    value.as_u64().is_some_and(|number| number > 0)
}

/// Waits until every site has told how it is.
fn await_health(config: &Path) -> Value {
    eventually("the health of all sites", || {
        let status = json(&["status"], config);
        let told =
            status["sites"].as_array().unwrap().iter().all(|s| positive(&s["health"]["disk_total_bytes"]));
        if told { Ok(status) } else { Err(status.to_string()) }
    })
}

/// Waits until the site has told anew how it is.
fn await_heartbeat(config: &Path, site: &str) {
    let last = || json(&["site", "show", site], config)["last_heartbeat"].clone();
    let before = last();
    eventually("the next heartbeat", || match last() {
        now if now != before => Ok(()),
        now => Err(now.to_string()),
    });
}

fn is_time(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.ends_with('Z') && text.parse::<jiff::Timestamp>().is_ok())
}

#[track_caller]
fn check_site(site: &Value, role: &str, test: &TestCluster) {
    let name = site["name"].as_str().unwrap();
    assert_eq!((&site["role"], &site["status"]), (&role.into(), &"active".into()), "{site}");
    assert_eq!(site["address"], test.cluster.site_address(name).to_string());
    assert_eq!(site["endpoint"], format!("file://{}", test.origin(name).display()));
    let health = &site["health"];
    assert!(positive(&health["disk_free_bytes"]), "{site}");
    assert!(health["disk_free_bytes"].as_u64() <= health["disk_total_bytes"].as_u64(), "{site}");
    assert!(health["cpu_load_percent"].is_u64(), "{site}");
    assert_eq!(health["origin_reachable"], true);
    assert_eq!(health["cache_quota_bytes"], 4_u64 << 30);
    assert!(health["cache_used_bytes"].is_u64() && health["version"] == VERSION, "{site}");
    assert!(is_time(&site["last_heartbeat"]) && is_time(&site["registered_at"]), "{site}");
}

const POLICIES: &str = "  - {name: later, role: backup}\npolicies:\n  \
    - {name: scratch, pattern: '/scratch/**', primary: null, sync_mode: never}\n";

#[test]
fn the_cluster_is_shown_to_people_and_machines() {
    let mut test = Setup { policy_yaml: POLICIES.into(), ..Setup::default() }.start(|_| {});
    let node = test.cluster.add_node("n1", "cloud", "64MiB", "").unwrap();
    let admin = test.cluster.coordinator_config();
    let status = await_health(&admin);
    assert_eq!((&status["cluster"], &status["default_primary"]), (&"local".into(), &"onprem".into()));
    assert_eq!(status["version"], VERSION);
    check_site(named(&status["sites"], "onprem"), "primary", &test);
    check_site(named(&status["sites"], "cloud"), "burst", &test);
    assert_eq!(named(&status["declared"], "later")["role"], "backup");
    assert_eq!(named(&status["policies"], "scratch")["pattern"], "/scratch/**");
    let listed = named(&status["nodes"], "n1");
    assert!(listed["site"] == "cloud" && is_time(&listed["registered_at"]), "{listed}");

    // Members may look, too.
    let site = test.cluster.site_config("cloud").to_owned();
    for config in [&admin, &site, &node] {
        let sites = json(&["site", "list"], config);
        assert_eq!(sites.as_array().unwrap().len(), 2);
        check_site(&json(&["site", "show", "onprem"], config), "primary", &test);
        let nodes = json(&["node", "list"], config);
        assert_eq!(
            (named(&nodes, "n1")["site"].as_str(), nodes.as_array().unwrap().len()),
            (Some("cloud"), 1)
        );
        assert_eq!(json(&["status"], config)["cluster"], "local");
    }
    let said = |args: &[&str], words: &[&str]| {
        let text = globalfs(args, &admin).works();
        words.iter().for_each(|word| assert!(text.contains(word), "no {word} in\n{text}"));
    };
    let head = "cluster local: sites joined 2 of 3, nodes 1, policies 1, home of all other paths onprem";
    said(
        &["status"],
        &[head, "later has not joined yet: globalfs token create --site later", "SITE", "cloud"],
    );
    said(&["site", "list"], &["ROLE", "STATUS", "DISK FREE", "active", "primary", "burst", "0B of 4GiB"]);
    said(&["site", "show", "cloud"], &["origin reachable", "yes", "last heartbeat", "cache quota", VERSION]);
    said(&["node", "list"], &["NODE", "REGISTERED", "n1"]);
}

#[test]
fn only_an_administrator_changes_things() {
    let mut test = Setup::default().start(|_| {});
    let node = test.cluster.add_node("n1", "cloud", "64MiB", "").unwrap();
    let (admin, site) = (test.cluster.coordinator_config(), test.cluster.site_config("cloud").to_owned());
    let changes: [&[&str]; 3] = [
        &["site", "remove", "onprem"],
        &["node", "remove", "n1", "--site", "cloud"],
        &["token", "create", "--site", "onprem"],
    ];
    for args in changes {
        for (config, who) in [(&node, "node n1 of site cloud"), (&site, "site cloud")] {
            let rule = format!("only an administrator may do this, and this is {who}");
            globalfs(args, config).fails(1, &[&rule, "'admin' of the coordinator's data directory"]);
        }
    }
    assert_eq!(json(&["status"], &node)["sites"].as_array().unwrap().len(), 2, "nothing was changed");

    let token = json(&["token", "create", "--node", "n2", "--site", "cloud"], &admin);
    let text = token["token"].as_str().unwrap();
    assert!(text.starts_with("gfs1.") && text.split('.').count() == 4, "{token}");
    let missing = |args: &[&str], words: &[&str]| drop(globalfs(args, &admin).fails(1, words));
    missing(&["site", "show", "later"], &["site later is not registered", "globalfs site list"]);
    missing(&["site", "remove", "later"], &["site later is not registered"]);
    missing(&["node", "remove", "n2", "--site", "cloud"], &["node n2 of site cloud is not registered"]);
    let said = globalfs(&["node", "remove", "n1", "--site", "cloud"], &admin).works();
    assert_eq!(said, "node n1 of site cloud is removed\n");
    assert_eq!(json(&["node", "list"], &admin), serde_json::json!([]));
    let node = test.cluster.add_node("n3", "cloud", "64MiB", "").unwrap();
    assert_eq!(globalfs(&["site", "remove", "cloud"], &admin).works(), "site cloud is removed\n");
    let left = json(&["status"], &admin);
    assert_eq!(left["sites"].as_array().unwrap().len(), 1, "{left}");
    assert_eq!(left["nodes"], serde_json::json!([]), "its nodes went with it");
    globalfs(&["status"], &node).fails(1, &["node n3 of site cloud is not registered"]);
}

fn page(test: &TestCluster, name: &str, path: &str) -> (u16, String) {
    http_get(&test.cluster.metrics_address(name).unwrap().to_string(), path)
}

#[track_caller]
fn has_lines(page: &str, beginnings: &[&str]) {
    for beginning in beginnings {
        assert!(page.lines().any(|line| line.starts_with(beginning)), "no line '{beginning}' in\n{page}");
    }
}

/// What a daemon's `/health` says, with its HTTP status.
fn health(test: &TestCluster, name: &str) -> (u16, Value) {
    let (status, body) = page(test, name, "/health");
    (status, serde_json::from_str(&body).unwrap())
}

#[test]
fn daemons_tell_metrics_and_health() {
    let content = noise(3, 1 << 20);
    let mut test = Setup::default().start(|origin| fs::write(origin.join("f"), &content).unwrap());
    let node = test.cluster.add_node("n1", "cloud", "64MiB", "").unwrap();
    let read = || {
        Runtime::new().unwrap().block_on(async {
            let client = Client::connect(&node).await.unwrap();
            client.open("/f").await.unwrap().read_at(0, 1 << 20).await.unwrap()
        })
    };
    assert!(read() == content);
    // What arrives is served before it is kept: until then a second reader joins the first one's transfer.
    eventually("the cache keeps the file", || {
        let (_, text) = page(&test, "cloud", "/metrics");
        let kept = "globalfs_cache_stored_bytes_total{site=\"cloud\"} 1048576\n";
        if text.contains(kept) { Ok(()) } else { Err(text) }
    });
    assert!(read() == content);
    let (status, site) = page(&test, "cloud", "/metrics");
    assert_eq!(status, 200);
    has_lines(
        &site,
        &[
            "globalfs_cache_hits{site=\"cloud\"} 8",
            "globalfs_cache_misses{site=\"cloud\"} 8",
            "globalfs_replication_bytes_transferred{src=\"onprem\",dst=\"cloud\"} 10",
            "globalfs_fetched_bytes_total{src=\"onprem\",dst=\"cloud\"} 1048576",
            "globalfs_origin_reachable{site=\"cloud\"} 1",
            "globalfs_cache_used_bytes{site=\"cloud\"} 1",
            "# EOF",
        ],
    );
    let active = "globalfs_site_status{site=\"onprem\",role=\"primary\"} 1";
    let coordinator = eventually("the coordinator's metrics", || {
        let (_, text) = page(&test, "coordinator", "/metrics");
        if text.contains(active) && text.contains("site=\"cloud\"") { Ok(text) } else { Err(text) }
    });
    has_lines(&coordinator, &["globalfs_site_status{site=\"cloud\",role=\"burst\"} 1"]);
    has_lines(&coordinator, &["globalfs_control_requests_total ", "globalfs_control_joins_total 3"]);
    for name in ["onprem", "cloud"] {
        assert_eq!(
            health(&test, name),
            (200, serde_json::json!({"healthy": true, "origin_reachable": true}))
        );
    }
    let told = serde_json::json!({"healthy": true, "store_reachable": true, "sites": 2});
    assert_eq!(health(&test, "coordinator"), (200, told));
    assert_eq!(page(&test, "cloud", "/nothing").0, 404);
}

#[test]
fn a_mount_tells_metrics_and_logs() {
    if !can_mount("a_mount_tells_metrics_and_logs") {
        return;
    }
    let content = noise(4, 1 << 20);
    let mut test = Setup::default().start(|origin| fs::write(origin.join("f"), &content).unwrap());
    let at = test.mount("n1", "cloud");
    assert!(fs::read(at.join("f")).unwrap() == content);
    let (status, text) = page(&test, "n1", "/metrics");
    assert_eq!(status, 200);
    has_lines(
        &text,
        &[
            "globalfs_cache_hits{site=\"cloud\",node=\"n1\"} ",
            "globalfs_cache_misses{site=\"cloud\",node=\"n1\"} 8",
            "globalfs_fetched_bytes_total{from=\"cloud\"} 1048576",
        ],
    );
    assert_eq!(health(&test, "n1"), (200, serde_json::json!({"healthy": true})));
    assert!(test.cluster.stop("n1").unwrap());
    let lines = check_log(&test, "n1", "mount");
    for event in ["mounted", "unmounted"] {
        assert!(lines.iter().any(|line| line["event"] == event), "no {event} in {lines:?}");
    }
}

/// Every line of a log is a JSON object with the fields of the design; gives them.
#[track_caller]
fn check_log(test: &TestCluster, name: &str, component: &str) -> Vec<Value> {
    let text = fs::read_to_string(test.cluster.log_path(name)).unwrap();
    let parse = |line: &str| -> Value {
        let fields: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(is_time(&fields["timestamp"]), "{line}");
        let level = fields["level"].as_str().unwrap();
        assert!(["error", "warn", "info", "debug", "trace"].contains(&level), "{line}");
        assert_eq!(fields["component"], component, "{line}");
        assert!(fields["event"].as_str().is_some_and(|event| !event.is_empty()), "{line}");
        fields
    };
    text.lines().map(parse).collect()
}

#[test]
fn logs_are_json_lines() {
    let mut test = Setup::default().start(|_| {});
    for name in ["cloud", "onprem", "coordinator"] {
        assert!(test.cluster.stop(name).unwrap(), "{name} ends with 0");
        let component = if name == "coordinator" { "coordinator" } else { "site" };
        let lines = check_log(&test, name, component);
        for event in ["started", "stopped"] {
            let event = format!("{component}_{event}");
            assert!(lines.iter().any(|line| line["event"] == *event), "no {event} in {lines:?}");
        }
        assert!(lines.iter().all(|line| line["level"] != "error"), "{lines:?}");
    }
}

/// Runs a coordinator of its own with `RUST_LOG` until it answers; gives its log.
fn log_with(filter: &str, args: &[&str]) -> String {
    let scratch = tempfile::tempdir().unwrap();
    let (listen, config) = (free_address(), scratch.path().join("c.yaml"));
    let yaml = "cluster: c\ndata_dir: data\nsites:\n  - {name: onprem, role: primary}\n";
    fs::write(&config, format!("{yaml}listen: {listen}\n")).unwrap();
    let mut daemon = Command::new(programs().globalfs);
    daemon.args(["coordinator", "start", "--config"]).arg(&config).args(args).env("RUST_LOG", filter);
    let log = scratch.path().join("log");
    let process = Process::spawn(daemon, log.clone()).unwrap();
    eventually("the coordinator's answer", || {
        let asked = globalfs(&["status"], &config);
        if asked.code == 0 { Ok(()) } else { Err(asked.stderr) }
    });
    assert!(process.terminate().unwrap());
    fs::read_to_string(log).unwrap()
}

#[test]
fn rust_log_chooses_what_is_logged() {
    assert_eq!(log_with("error", &[]), "");
    let debug = log_with("debug", &[]);
    assert!(debug.contains("\"level\":\"debug\"") && debug.contains("coordinator_started"), "{debug}");
    assert!(debug.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{debug}");
    let text = log_with("globalfs=info", &["--log-format", "text"]);
    assert!(text.contains("INFO") && text.contains("coordinator_started") && !text.contains('{'), "{text}");
    // Results stay apart from logs.
    let mut version = command(&programs().globalfs, ["version", "--json"]);
    version.env("RUST_LOG", "trace");
    let printed: Value = serde_json::from_str(&Outcome::of(version).works()).unwrap();
    assert_eq!(printed["version"], VERSION);
}

#[test]
fn a_silent_site_becomes_unreachable_and_comes_back() {
    let mut test = Setup::default().start(|_| {});
    let admin = test.cluster.coordinator_config();
    await_health(&admin);
    test.cluster.kill("cloud").unwrap();
    let status_is = |status: &str, value: &str| {
        eventually(&format!("status {status}"), || {
            let site = json(&["site", "show", "cloud"], &admin);
            if site["status"] == status { Ok(()) } else { Err(site.to_string()) }
        });
        let line = format!("globalfs_site_status{{site=\"cloud\",role=\"burst\"}} {value}");
        eventually(&line, || {
            let (_, text) = page(&test, "coordinator", "/metrics");
            if text.contains(&line) { Ok(()) } else { Err(text) }
        });
    };
    status_is("unreachable", "0");
    assert!(globalfs(&["status"], &admin).works().contains("UNREACHABLE"));
    assert_eq!(json(&["site", "show", "onprem"], &admin)["status"], "active");
    logged(&test.cluster.log_path("coordinator"), &["site is silent", "\"site\":\"cloud\""]);
    test.cluster.start_site("cloud").unwrap();
    eventually("the site's return", || {
        let site = json(&["site", "show", "cloud"], &admin);
        if site["status"] == "active" { Ok(()) } else { Err(site.to_string()) }
    });
}

#[test]
fn an_origin_that_goes_away_is_told() {
    let mut test = Setup::default().start(|_| {});
    let admin = test.cluster.coordinator_config();
    await_health(&admin);
    let (origin, aside) = (test.origin("onprem"), test.scratch.path().join("aside"));
    let told = |test: &TestCluster, reachable: bool| {
        let want = (if reachable { 200 } else { 503 }, reachable.into());
        eventually("what /health says", || match health(test, "onprem") {
            (status, body) if (status, body["origin_reachable"].clone()) == want => Ok(()),
            other => Err(format!("{other:?}")),
        });
    };
    let shown = |reachable: bool| {
        eventually("what the coordinator says", || {
            let site = json(&["site", "show", "onprem"], &admin);
            if site["health"]["origin_reachable"] == reachable { Ok(()) } else { Err(site.to_string()) }
        });
    };
    fs::rename(&origin, &aside).unwrap();
    told(&test, false);
    shown(false);
    assert!(globalfs(&["site", "show", "onprem"], &admin).works().contains("origin reachable  NO"));
    assert!(globalfs(&["site", "list"], &admin).works().contains("UNREACHABLE"));
    has_lines(&page(&test, "onprem", "/metrics").1, &["globalfs_origin_reachable{site=\"onprem\"} 0"]);
    logged(&test.cluster.log_path("onprem"), &["\"level\":\"error\"", "origin_unreachable", "No such file"]);
    // Another directory in its place is not the origin.
    fs::create_dir(&origin).unwrap();
    for _ in 0..2 {
        await_heartbeat(&admin, "onprem");
    }
    told(&test, false);
    shown(false);
    fs::remove_dir(&origin).unwrap();
    fs::rename(&aside, &origin).unwrap();
    told(&test, true);
    shown(true);
    // It is told without a coordinator, too.
    test.cluster.kill("coordinator").unwrap();
    fs::rename(&origin, &aside).unwrap();
    told(&test, false);
}

#[test]
fn two_clusters_do_not_mix() {
    let test = Setup::default().start(|_| {});
    let other = Setup::default().start(|_| {});
    let theirs = common::commands::value(&other.cluster.coordinator_config(), "listen");
    let lost = altered(test.cluster.site_config("cloud"), "lost.yaml", &[("coordinator", &theirs)]);
    let words = ["belongs to another cluster than the token or certificate", "check the address"];
    globalfs(&["status"], &lost).fails(1, &words);
    let token = test.cluster.admin(&["token", "create", "--site", "cloud"]).unwrap();
    globalfs(&["site", "register", "cloud", "--token", token.trim()], &lost).fails(1, &words);
    globalfs(&["status"], test.cluster.site_config("cloud")).works();
}
