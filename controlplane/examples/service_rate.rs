//! What a whole coordinator does with write leases, over mutual TLS on the loopback device: grants a second beside bare
//! transactions of its store, and how soon all sites are told of a change.
//! `cargo run --release -p globalfs-controlplane --features etcd --example service_rate [etcd | embedded] [sites]`.
#![allow(clippy::unwrap_used, reason = "an example ends at the first error")]

use globalfs_controlplane::client::{ControlClient, JoinRequest, join, new_key};
use globalfs_controlplane::files::CertFiles;
use globalfs_controlplane::leases::{AgentOptions, LeaseAgent, LeaseEvent};
use globalfs_controlplane::model::lease::LeaseScope;
use globalfs_controlplane::model::record::SiteRole;
use globalfs_controlplane::model::token::Joiner;
use globalfs_controlplane::service::{Coordinator, DeclaredSite, Options, Timing};
use globalfs_controlplane::store::testing::EtcdServer;
use globalfs_controlplane::store::{self, EtcdConfig, Key, StoreConfig, Txn};
use globalfs_proto::{GlobalPath, SiteName};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const GRANTS: usize = 2000;
/// Requests under way at a time.
const AHEAD: usize = 64;
const LIMIT: Duration = Duration::from_secs(60);
const CHANGES: usize = 10;

fn site(n: usize) -> SiteName {
    SiteName::new(&format!("site-{n}")).unwrap()
}

fn path(text: &str) -> GlobalPath {
    GlobalPath::new(text.as_bytes()).unwrap()
}

fn options(dir: &Path, store: StoreConfig, sites: usize) -> Options {
    let declared =
        |n| DeclaredSite { name: site(n), role: if n == 0 { SiteRole::Primary } else { SiteRole::Burst } };
    Options {
        cluster: "rate".into(),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        data_dir: dir.join("ca"),
        store,
        sites: (0..sites).map(declared).collect(),
        default_primary: site(0),
        policies: Vec::new(),
        timing: Timing::default(),
    }
}

/// Puts of some 200 bytes, as many under way as requests for leases are: how many a second.
async fn bare_rate(config: &StoreConfig) -> f64 {
    let store = store::open(config).await.unwrap();
    let begun = Instant::now();
    let mut under_way = JoinSet::new();
    for n in 0..GRANTS {
        if under_way.len() == AHEAD {
            under_way.join_next().await.unwrap().unwrap();
        }
        let (store, key) = (store.clone(), Key::new(format!("/globalfs/metadata/bare/{n}")).unwrap());
        under_way.spawn(async move { drop(store.txn(Txn::new().put(key, vec![b'x'; 200])).await.unwrap()) });
    }
    while under_way.join_next().await.is_some() {}
    let together = GRANTS as f64 / begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    for n in 0..GRANTS / 4 {
        let key = Key::new(format!("/globalfs/metadata/bare/{n}")).unwrap();
        store.txn(Txn::new().put(key, vec![b'y'; 200])).await.unwrap();
    }
    let alone = (GRANTS / 4) as f64 / begun.elapsed().as_secs_f64();
    println!("bare transactions: {together:.0} a second with {AHEAD} under way, {alone:.0} one by one");
    alone
}

async fn joined(endpoint: &str, admin: &ControlClient, n: usize) -> CertFiles {
    let joiner = Joiner::Site { name: site(n) };
    let token = admin.create_token(&joiner, LIMIT).await.unwrap();
    let request = JoinRequest { joiner, endpoint: "file:///x".into(), address: "127.0.0.1:1".into() };
    join(endpoint, &token, &request, &new_key().unwrap()).await.unwrap().files
}

/// Asked for by all sites in turn.
async fn grants(agents: &[LeaseAgent], bare: f64) {
    let begun = Instant::now();
    let mut under_way = JoinSet::new();
    for n in 0..GRANTS {
        if under_way.len() == AHEAD {
            under_way.join_next().await.unwrap().unwrap();
        }
        let agent = agents[n % agents.len()].clone();
        under_way.spawn(async move {
            agent.acquire(LeaseScope::subtree(path(&format!("/results/job-{n}"))), LIMIT).await.unwrap();
        });
    }
    while let Some(done) = under_way.join_next().await {
        done.unwrap();
    }
    let rate = GRANTS as f64 / begun.elapsed().as_secs_f64();
    println!("write leases granted: {rate:.0} a second, {:.2} of bare transactions one by one", rate / bare);
}

/// How long from asking for a lease until the last site has heard of it.
async fn told(agent: &LeaseAgent, events: &mut [UnboundedReceiver<LeaseEvent>]) {
    let mut times = Vec::new();
    for n in 0..CHANGES {
        // What was told before is over.
        tokio::time::sleep(Duration::from_secs(1)).await;
        events.iter_mut().for_each(|events| while events.try_recv().is_ok() {});
        let scope = LeaseScope::subtree(path(&format!("/told/{n}")));
        let asked = Instant::now();
        let acquired = tokio::spawn({
            let agent = agent.clone();
            async move { agent.acquire(scope, LIMIT).await.unwrap() }
        });
        for events in &mut *events {
            while !matches!(events.recv().await.unwrap(), LeaseEvent::ViewChanged) {}
        }
        times.push(asked.elapsed());
        acquired.await.unwrap();
    }
    times.sort();
    println!(
        "{} sites told after a lease was asked for, its commit included: median {:.1?}, longest {:.1?}",
        events.len(),
        times[CHANGES / 2],
        times[CHANGES - 1]
    );
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let kind = arguments.next().unwrap_or_else(|| "embedded".into());
    let sites = arguments.next().map_or(64, |text| text.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let etcd = (kind == "etcd").then(|| EtcdServer::start(&dir.path().join("etcd"), None).unwrap());
    let config = |name: &str| match &etcd {
        Some(etcd) => {
            StoreConfig::Etcd(EtcdConfig { endpoints: vec![etcd.endpoint()], ..EtcdConfig::default() })
        }
        None => StoreConfig::Embedded { dir: dir.path().join(name) },
    };
    let bare = bare_rate(&config("bare")).await;
    let coordinator = Coordinator::open(options(dir.path(), config("store"), sites)).await.unwrap();
    let (endpoint, admin) =
        (coordinator.local_addr().to_string(), CertFiles::load(coordinator.admin_dir()).unwrap());
    let stop = CancellationToken::new();
    tokio::spawn(coordinator.run(stop.clone()));
    let admin = ControlClient::connect(&endpoint, &admin).await.unwrap();
    let (mut agents, mut events) = (Vec::new(), Vec::new());
    for n in 0..sites {
        let options = AgentOptions {
            site: site(n),
            coordinator: endpoint.clone(),
            files: joined(&endpoint, &admin, n).await,
            file: dir.path().join(format!("{n}.json")),
            idle: Duration::from_secs(3600),
        };
        let (agent, told) = LeaseAgent::start(options, stop.clone()).unwrap();
        agents.push(agent);
        events.push(told);
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    told(&agents[0], &mut events).await;
    grants(&agents, bare).await;
}
