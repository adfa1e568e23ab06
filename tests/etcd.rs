//! The whole cluster with its metadata in a real etcd; and what a build without etcd support says.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

#[cfg(not(feature = "etcd"))]
#[test]
fn a_build_without_etcd_says_so() {
    let scratch = tempfile::tempdir().unwrap();
    let config = scratch.path().join("c.yaml");
    let listen = common::commands::free_address();
    let text = format!(
        "cluster: c\nlisten: {listen}\ndata_dir: data\nsites:\n  - {{name: onprem, role: primary}}\n\
         store:\n  etcd:\n    endpoints: [http://127.0.0.1:1]\n"
    );
    std::fs::write(&config, text).unwrap();
    common::commands::globalfs(&["coordinator", "start"], &config)
        .fails(1, &["globalfs: this build has no etcd support: build with --features etcd"]);
    assert!(!scratch.path().join("data").exists(), "nothing was made");
}

#[cfg(feature = "etcd")]
mod with_etcd {
    use crate::common::commands::{altered, eventually, free_address, globalfs, http_get, json, value};
    use crate::common::{Setup, TestCluster, programs, shell, skip};
    use globalfs::Client;
    use globalfs::local::Process;
    use globalfs_controlplane::store::testing::{EtcdServer, is_etcd_installed};
    use serde_json::Value;
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;
    use std::process::Command;
    use std::time::{Duration, Instant};
    use tempfile::TempDir;
    use tokio::runtime::Runtime;

    /// A cluster and the etcd that holds its metadata.
    struct OnEtcd {
        test: TestCluster,
        etcd: EtcdServer,
        _data: TempDir,
    }

    fn start(name: &str, policy_yaml: &str) -> Option<OnEtcd> {
        let etcdctl = Command::new("etcdctl").arg("version").output();
        if !is_etcd_installed() || etcdctl.is_err() {
            skip(name, "etcd and etcdctl (Debian: etcd-server, etcd-client)");
            return None;
        }
        let data = tempfile::tempdir().unwrap();
        let etcd = EtcdServer::start(&data.path().join("etcd"), None).unwrap();
        let store_yaml = format!("store:\n  etcd:\n    endpoints: [{}]", etcd.endpoint());
        let setup = Setup { store_yaml, policy_yaml: policy_yaml.into(), ..Setup::default() };
        let test = setup.start(|origin| {
            for n in 0..4 {
                fs::write(origin.join(format!("f{n}")), format!("text {n}")).unwrap();
            }
        });
        Some(OnEtcd { test, etcd, _data: data })
    }

    /// What an operator sees.
    fn records(etcd: &EtcdServer) -> BTreeMap<String, Value> {
        let get = format!("ETCDCTL_API=3 etcdctl --endpoints {} get --prefix /globalfs/", etcd.endpoint());
        let text = shell(Path::new("/"), &get);
        let lines: Vec<&str> = text.lines().collect();
        let parse = |two: &[&str]| {
            let json = serde_json::from_str(two[1]).unwrap_or_else(|e| panic!("{e}: {two:?}"));
            (two[0].to_owned(), json)
        };
        // The leader's key comes and goes with coordinators.
        lines.chunks(2).map(parse).filter(|(key, _)| key != "/globalfs/metadata/leader").collect()
    }

    async fn text_of(client: &Client, path: &str) -> String {
        let file = client.open(path).await.unwrap();
        String::from_utf8(file.read_at(0, 100).await.unwrap().to_vec()).unwrap()
    }

    #[test]
    fn the_cluster_lives_in_etcd() {
        let policies = "policies:\n  - {name: s, pattern: '/s/**', primary: null, sync_mode: never}\n";
        let Some(mut on) = start("the_cluster_lives_in_etcd", policies) else { return };
        let node = on.test.cluster.add_node("n1", "cloud", "64MiB", "").unwrap();
        let runtime = Runtime::new().unwrap();
        let client = runtime.block_on(Client::connect(&node)).unwrap();
        assert_eq!(runtime.block_on(text_of(&client, "/f0")), "text 0");

        let before = records(&on.etcd);
        let record = |key: &str| before.get(key).unwrap_or_else(|| panic!("no {key} in {before:#?}"));
        let cloud = record("/globalfs/metadata/sites/cloud");
        assert_eq!((&cloud["name"], &cloud["role"]), (&"cloud".into(), &"burst".into()));
        assert_eq!(cloud["address"], on.test.cluster.site_address("cloud").to_string());
        assert_eq!(record("/globalfs/metadata/sites/onprem")["status"], "active");
        assert_eq!(record("/globalfs/metadata/nodes/cloud/n1")["site"], "cloud");
        assert_eq!(record("/globalfs/metadata/policies")["policies"][0]["name"], "s");
        assert_eq!(record("/globalfs/metadata/cluster")["cluster"], "local");
        let tokens: Vec<_> = before.iter().filter(|(key, _)| key.contains("/tokens/")).collect();
        assert_eq!(tokens.len(), 3, "two sites, one node");
        assert!(
            tokens.iter().all(|(_, token)| token["secret_hash"].is_string() && token["used"].is_object())
        );
        assert_eq!(before.len(), 2 + 1 + 1 + 1 + 3, "and nothing per file: {before:#?}");

        let admin = on.test.cluster.coordinator_config();
        let seen =
            |status: Value| [status["nodes"].clone(), status["policies"].clone(), status["revision"].clone()];
        let shown = seen(json(&["status"], &admin));
        on.test.cluster.kill("coordinator").unwrap();
        on.test.cluster.start_coordinator().unwrap();
        assert_eq!(seen(json(&["status"], &admin)), shown, "a restart keeps everything");
        assert_eq!(records(&on.etcd).keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
        assert_eq!(runtime.block_on(text_of(&client, "/f1")), "text 1");
    }

    fn store_reachable(test: &TestCluster) -> (u16, bool) {
        let address = test.cluster.metrics_address("coordinator").unwrap().to_string();
        let (status, body) = http_get(&address, "/health");
        let body: Value = serde_json::from_str(&body).unwrap();
        (status, body["store_reachable"] == true)
    }

    #[test]
    fn an_etcd_that_is_down_stops_the_control_plane_alone() {
        let Some(mut on) = start("an_etcd_that_is_down_stops_the_control_plane_alone", "") else { return };
        let node = on.test.cluster.add_node("n1", "cloud", "64MiB", "").unwrap();
        let admin = on.test.cluster.coordinator_config();
        let runtime = Runtime::new().unwrap();
        let client = runtime.block_on(Client::connect(&node)).unwrap();
        // The daemon has heard of the node then, and will remember.
        assert_eq!(runtime.block_on(text_of(&client, "/f0")), "text 0");
        on.etcd.kill().unwrap();
        let asked = Instant::now();
        globalfs(&["status"], &admin).fails(1, &["the metadata store does not answer"]);
        assert!(asked.elapsed() < Duration::from_secs(25), "{:?}", asked.elapsed());
        eventually("the coordinator's health", || match store_reachable(&on.test) {
            (503, false) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        assert_eq!(runtime.block_on(text_of(&client, "/f2")), "text 2", "data goes on");
        // Also when a site's daemon has to start meanwhile.
        on.test.cluster.kill("cloud").unwrap();
        on.test.cluster.start_site("cloud").unwrap();
        assert_eq!(runtime.block_on(text_of(&client, "/f3")), "text 3");
        // A coordinator does not start without its store.
        on.test.cluster.kill("coordinator").unwrap();
        globalfs(&["coordinator", "start"], &admin).fails(1, &["the metadata store does not answer"]);
        on.etcd.restart().unwrap();
        on.test.cluster.start_coordinator().unwrap();
        let status = json(&["status"], &admin);
        assert_eq!(status["nodes"][0]["name"], "n1", "{status}");
        eventually("both sites' heartbeats", || {
            let sites = json(&["site", "list"], &admin);
            let all = sites.as_array().unwrap().iter().all(|site| site["status"] == "active");
            if all { Ok(()) } else { Err(sites.to_string()) }
        });
    }

    #[test]
    fn two_coordinators_share_one_etcd() {
        let Some(mut on) = start("two_coordinators_share_one_etcd", "") else { return };
        let first = on.test.cluster.coordinator_config();
        let dir = on.test.cluster.dir().to_owned();
        // An own authority is not the cluster's.
        let (listen, metrics) = (free_address().to_string(), free_address().to_string());
        let own = [("data_dir", "second"), ("listen", &*listen), ("metrics", &*metrics)];
        let second = altered(&first, "second.yaml", &own);
        globalfs(&["coordinator", "start"], &second)
            .fails(1, &["is not the authority of this cluster", "copy ca.crt and ca.key"]);
        shell(&dir, "cp coordinator/ca.crt coordinator/ca.key second/");
        let mut daemon = Command::new(programs().globalfs);
        daemon.args(["coordinator", "start", "--config"]).arg(&second);
        let process = Process::spawn(daemon, dir.join("second.log")).unwrap();
        eventually("the second coordinator", || {
            let asked = globalfs(&["status"], &second);
            if asked.code == 0 { Ok(()) } else { Err(asked.stderr) }
        });
        let sites = json(&["site", "list"], &second);
        assert_eq!(sites.as_array().unwrap().len(), 2, "{sites}");

        // A token of one is good at the other, once.
        let token = globalfs(&["token", "create", "--site", "cloud", "--node", "n1"], &second).works();
        let coordinator = value(on.test.cluster.site_config("cloud"), "coordinator");
        let node = dir.join("n1.yaml");
        let yaml = format!("site: cloud\nnode: n1\ncoordinator: {coordinator}\nstate_dir: n1\n");
        fs::write(&node, yaml).unwrap();
        globalfs(&["node", "register", "n1", "--token", token.trim()], &node).works();
        assert_eq!(json(&["node", "list"], &second)[0]["name"], "n1");
        let again = altered(&node, "again.yaml", &[("state_dir", "again"), ("coordinator", &listen)]);
        globalfs(&["node", "register", "n1", "--token", token.trim()], &again)
            .fails(1, &["token was used at"]);

        // The first one dies; the second one has everything.
        on.test.cluster.kill("coordinator").unwrap();
        let moved = altered(&node, "moved.yaml", &[("coordinator", &listen)]);
        assert_eq!(json(&["status"], &moved)["nodes"][0]["name"], "n1");
        assert!(process.terminate().unwrap());
    }
}
