//! Several coordinators over one etcd: who grants leases, and what happens when that one dies or stands still.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::tests::{options, site_joiner};
use super::{Coordinator, Options};
use crate::client::{ClientError, ControlClient, JoinRequest, join, new_key};
use crate::files::CertFiles;
use crate::leases::{AcquireError, AgentOptions, HeldLease, LeaseAgent, LeaseEvent};
use crate::model::lease::LeaseScope;
use crate::model::lease::holder::Ending;
use crate::store::testing::{EtcdServer, is_etcd_installed};
use crate::store::{EtcdConfig, StoreConfig};
use globalfs_proto::{GlobalPath, SiteName};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Another leader is found within the leader's time to live, and sites notice that theirs is gone.
const FAILOVER: Duration = Duration::from_secs(40);

/// A coordinator with threads of its own, so that it can stand still or die alone.
struct Apart {
    endpoint: String,
    admin: CertFiles,
    runtime: tokio::runtime::Handle,
    killed: CancellationToken,
    thread: std::thread::JoinHandle<()>,
}

impl Apart {
    async fn start(options: Options) -> Self {
        let (told, started) = oneshot::channel();
        let killed = CancellationToken::new();
        let kill = killed.clone();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let coordinator = Coordinator::open(options).await.expect("it starts");
                let admin = CertFiles::load(coordinator.admin_dir()).expect("they are there");
                let handle = tokio::runtime::Handle::current();
                told.send((coordinator.local_addr().to_string(), admin, handle)).ok().unwrap();
                // Nobody stops it: its tasks end where they stand.
                let run = coordinator.run(CancellationToken::new());
                kill.run_until_cancelled(run).await;
            });
            runtime.shutdown_background();
        });
        let (endpoint, admin, runtime) = started.await.unwrap();
        Self { endpoint, admin, runtime, killed, thread }
    }

    fn kill(self) {
        self.killed.cancel();
        self.thread.join().unwrap();
    }

    /// As after SIGSTOP: no timer, no connection, nothing. Returns when it stands.
    async fn stand_still(&self, time: Duration) -> JoinHandle<()> {
        let (told, stands) = oneshot::channel();
        let standing = self.runtime.spawn(async move {
            let _ = told.send(());
            std::thread::sleep(time);
        });
        stands.await.unwrap();
        standing
    }

    async fn admin(&self) -> ControlClient {
        ControlClient::connect(&self.endpoint, &self.admin).await.unwrap()
    }

    async fn joined(&self, name: &str) -> CertFiles {
        let joiner = site_joiner(name);
        let token = self.admin().await.create_token(&joiner, Duration::from_secs(60)).await.unwrap();
        let (endpoint, address) = ("file:///mnt/x".into(), "127.0.0.1:7441".into());
        let request = JoinRequest { joiner, endpoint, address };
        join(&self.endpoint, &token, &request, &new_key().unwrap()).await.unwrap().files
    }
}

/// Two coordinators, of which the first one leads.
struct Two {
    first: Apart,
    second: Apart,
    dir: tempfile::TempDir,
    _etcd: EtcdServer,
}

impl Two {
    async fn start() -> Option<Self> {
        if !is_etcd_installed() {
            let is_full = std::env::var_os("GLOBALFS_TEST_FULL").is_some_and(|full| full == "1");
            assert!(!is_full, "etcd is not installed");
            eprintln!("SKIPPED: etcd is not installed (Debian: etcd-server)");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let etcd = EtcdServer::start(&dir.path().join("etcd"), None).unwrap();
        let store = EtcdConfig { endpoints: vec![etcd.endpoint()], ..EtcdConfig::default() };
        let options = Options { store: StoreConfig::Etcd(store), ..options(dir.path()) };
        let first = Apart::start(options.clone()).await;
        until_leader(&first).await;
        let second = Apart::start(options).await;
        Some(Self { first, second, dir, _etcd: etcd })
    }
}

/// Asks for what is not there: only a leader knows that.
async fn is_leader(coordinator: &Apart) -> Result<bool, ClientError> {
    match coordinator.admin().await.abandon(&path("/nowhere")).await {
        Err(ClientError::Invalid(_)) => Ok(true),
        Err(ClientError::NotLeader { .. }) => Ok(false),
        other => Err(other.unwrap_err()),
    }
}

async fn until_leader(coordinator: &Apart) {
    let began = Instant::now();
    while !is_leader(coordinator).await.unwrap() {
        assert!(began.elapsed() < FAILOVER, "it leads in time");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn path(text: &str) -> GlobalPath {
    GlobalPath::new(text.as_bytes()).unwrap()
}

fn agent(
    name: &str,
    endpoint: &str,
    files: &CertFiles,
    dir: &Path,
) -> (LeaseAgent, mpsc::UnboundedReceiver<LeaseEvent>) {
    let options = AgentOptions {
        site: SiteName::new(name).unwrap(),
        coordinator: endpoint.to_owned(),
        files: files.clone(),
        file: dir.join(format!("{name}.json")),
        idle: Duration::from_secs(3600),
    };
    LeaseAgent::start(options, CancellationToken::new()).unwrap()
}

/// As long as a failover may take. One wait: who gives up gets a lease that has to be drained.
async fn acquired(agent: &LeaseAgent, at: &str) -> HeldLease {
    let began = Instant::now();
    loop {
        match agent.acquire(LeaseScope::subtree(path(at)), FAILOVER).await {
            Ok(lease) => return lease,
            Err(error @ AcquireError::Refused(_)) => panic!("{error}"),
            Err(error) => assert!(began.elapsed() < FAILOVER, "in time: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn ended(events: &mut mpsc::UnboundedReceiver<LeaseEvent>) -> Vec<Ending> {
    let mut all = Vec::new();
    while let Ok(event) = events.try_recv() {
        if let LeaseEvent::Ended(_, ending) = event {
            all.push(ending);
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_go_on_when_the_leader_dies() {
    let Some(two) = Two::start().await else { return };
    assert!(!is_leader(&two.second).await.unwrap());
    let files = two.first.joined("cloud").await;
    // The second one says who leads.
    let (cloud, mut events) = agent("cloud", &two.second.endpoint, &files, two.dir.path());
    let before = acquired(&cloud, "/results/a").await;
    cloud.ready(before.request, FAILOVER).await.unwrap();
    two.first.kill();
    let died = Instant::now();
    until_leader(&two.second).await;
    println!("another leader after {:?}", died.elapsed());
    let after = acquired(&cloud, "/results/b").await;
    println!("another lease after {:?}", died.elapsed());
    assert!(after.epoch > before.epoch);
    let masters = two.second.admin().await.view().await.unwrap().masters;
    let seen: Vec<_> = masters.into_iter().map(|record| (record.request, record.ready)).collect();
    assert_eq!(seen, [(before.request, true), (after.request, false)]);
    assert_eq!(ended(&mut events), [], "no lease has ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stood_still_changes_nothing_and_says_nothing() {
    let Some(two) = Two::start().await else { return };
    let (cloud_files, onprem_files) = (two.first.joined("cloud").await, two.first.joined("onprem").await);
    let (cloud, mut cloud_events) = agent("cloud", &two.first.endpoint, &cloud_files, two.dir.path());
    let (onprem, mut onprem_events) = agent("onprem", &two.second.endpoint, &onprem_files, two.dir.path());
    let kept = acquired(&cloud, "/results/cloud").await;
    let still = Duration::from_secs(25);
    let standing = two.first.stand_still(still).await;
    // What sites ask of it meanwhile waits for it in its sockets.
    let waiting = tokio::spawn({
        let cloud = cloud.clone();
        async move { cloud.acquire(LeaseScope::subtree(path("/results/new")), still + FAILOVER).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    until_leader(&two.second).await;
    let other = acquired(&onprem, "/results/new/onprem").await;
    onprem.ready(other.request, FAILOVER).await.unwrap();
    assert!(other.epoch > kept.epoch);
    standing.await.unwrap();
    // It finds that it leads no more before it answers anything.
    assert!(!is_leader(&two.first).await.unwrap());
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!waiting.is_finished(), "the other site has it");
    assert_eq!(cloud.held(), [kept]);
    let masters = two.first.admin().await.view().await.unwrap().masters;
    assert_eq!(masters.len(), 2, "{masters:?}");
    assert_eq!((ended(&mut cloud_events), ended(&mut onprem_events)), (Vec::new(), Vec::new()));
    // Its sites come to the one that leads.
    onprem.drained(other.request);
    onprem.release(other.request);
    let drained = async {
        while let Some(event) = onprem_events.recv().await {
            if let LeaseEvent::Drain(lease) = event {
                onprem.drained(lease.request);
            }
        }
    };
    tokio::select! {
        granted = waiting => assert!(granted.unwrap().unwrap().epoch > other.epoch),
        () = drained => panic!("the agent has ended"),
    }
}
