//! The coordinator dies: what goes on without it, and what it knows when it is back.

use super::common::{Setup, TestCluster, can_mount, noise, run};
use super::{MIB, file_path, write_files};
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::fs;
use std::thread;
use std::time::Duration;

/// All that goes on without the coordinator.
#[test]
fn the_data_plane_goes_on_without_coordinator() {
    if !can_mount("the_data_plane_goes_on_without_coordinator") {
        return;
    }
    let files: Vec<Vec<u8>> = (0..3).map(|n| noise(n, MIB)).collect();
    let mut test = Setup::default().start(|origin| write_files(origin, &files));
    let first = test.mount("first", "cloud");
    let second = test.mount("second", "cloud");
    assert!(test.cluster.stop("second").unwrap());
    test.cluster.add_node("never-mounted", "cloud", "1GiB", "").unwrap();
    assert_eq!(fs::read(first.join(file_path(0))).unwrap(), files[0]);
    test.cluster.kill("coordinator").unwrap();

    assert_eq!(fs::read(first.join(file_path(1))).unwrap(), files[1], "a mount goes on");
    for site in ["onprem", "cloud"] {
        test.cluster.kill(site).unwrap();
        test.cluster.start_site(site).unwrap();
    }
    assert_eq!(fs::read(first.join(file_path(2))).unwrap(), files[2], "sites serve by their last view");
    test.cluster.start_mount("second", &second, &[]).unwrap();
    for (n, content) in files.iter().enumerate() {
        assert_eq!(fs::read(second.join(file_path(n))).unwrap(), *content, "a node finds its site again");
    }
    let unknown = test.cluster.start_mount("never-mounted", &test.scratch.path().join("mnt"), &[]);
    let why = unknown.unwrap_err().to_string();
    assert!(why.contains("coordinator"), "{why}");

    test.cluster.start_coordinator().unwrap();
    let late = test.mount("late", "cloud");
    assert_eq!(fs::read(late.join(file_path(0))).unwrap(), files[0], "new nodes are let in again");
}

/// What the coordinator has confirmed is in its store, whenever it dies.
#[test]
fn confirmed_changes_survive_the_coordinator() {
    let mut test = Setup::default().start(|_| {});
    let seed: u64 = rand::random();
    eprintln!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    for round in 0..5 {
        let (node, unused) = (format!("node-{round}"), format!("unused-{round}"));
        test.cluster.add_node(&node, "cloud", "1GiB", "").unwrap();
        let token = test.cluster.admin(&["token", "create", "--node", &unused, "--site", "cloud"]).unwrap();
        let confirmed = confirmed_until_killed(&mut test, &format!("burst-{round}"), &mut random);
        test.cluster.start_coordinator().unwrap();
        let listed = test.cluster.admin(&["node", "list", "--json"]).unwrap();
        for name in 0..=round {
            assert!(listed.contains(&format!("\"node-{name}\"")), "{listed}");
        }
        join(&test, &unused, &token).unwrap();
        assert!(join(&test, &unused, &token).is_err(), "a token is good once");
        for (name, token) in confirmed {
            join(&test, &name, &token).unwrap();
        }
    }
    let sites = test.cluster.admin(&["site", "list", "--json"]).unwrap();
    assert!(sites.contains("\"onprem\"") && sites.contains("\"cloud\""), "{sites}");
    test.cluster.admin(&["site", "remove", "cloud"]).unwrap();
    test.cluster.kill("coordinator").unwrap();
    test.cluster.start_coordinator().unwrap();
    let sites = test.cluster.admin(&["site", "list", "--json"]).unwrap();
    assert!(!sites.contains("\"cloud\""), "{sites}");
}

/// Makes tokens while the coordinator is killed, and gives the ones that were confirmed.
fn confirmed_until_killed(
    test: &mut TestCluster,
    prefix: &str,
    random: &mut SmallRng,
) -> Vec<(String, String)> {
    let (program, config) = (test.cluster.programs().globalfs.clone(), test.cluster.coordinator_config());
    thread::scope(|scope| {
        let making = scope.spawn(|| {
            let mut confirmed = Vec::new();
            for n in 0.. {
                let name = format!("{prefix}-{n}");
                let args = ["token", "create", "--site", "cloud", "--node", &name, "--config"];
                let (code, token, _) = run(&program, &[&args[..], &[config.to_str().unwrap()]].concat());
                if code != 0 {
                    return confirmed;
                }
                confirmed.push((name, token));
            }
            unreachable!("the coordinator is killed before the numbers end")
        });
        thread::sleep(Duration::from_millis(random.random_range(50..400)));
        test.cluster.kill("coordinator").unwrap();
        making.join().unwrap()
    })
}

/// Registers a node with a token that was made before.
fn join(test: &TestCluster, node: &str, token: &str) -> Result<(), String> {
    let yaml = fs::read_to_string(test.cluster.dir().join("node-0.yaml")).unwrap();
    let config = test.cluster.dir().join(format!("{node}.yaml"));
    fs::write(&config, yaml.replace("node-0", node)).unwrap();
    fs::create_dir_all(test.cluster.dir().join(node)).unwrap();
    let args = ["node", "register", node, "--token", token.trim(), "--config", config.to_str().unwrap()];
    let (code, _, errors) = run(&test.cluster.programs().globalfs, &args);
    if code == 0 { Ok(()) } else { Err(errors) }
}
