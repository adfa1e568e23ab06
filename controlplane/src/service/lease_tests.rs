//! Leases over loopback: real streams, a real store, holders with real files.

use super::SendHome;
use super::tests::{Running, options, site, site_joiner};
use crate::files::CertFiles;
use crate::leases::{AcquireError, AgentOptions, HeldLease, LeaseAgent, LeaseEvent};
use crate::model::lease::LeaseScope;
use crate::model::lease::holder::Ending;
use globalfs_proto::GlobalPath;
use std::path::Path;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(10);

struct Holder {
    agent: LeaseAgent,
    events: mpsc::UnboundedReceiver<LeaseEvent>,
    stop: CancellationToken,
}

fn path(text: &str) -> GlobalPath {
    GlobalPath::new(text.as_bytes()).unwrap()
}

fn scope(text: &str) -> LeaseScope {
    LeaseScope::subtree(path(text))
}

impl Holder {
    fn start(name: &str, endpoint: &str, files: &CertFiles, dir: &Path) -> Self {
        let stop = CancellationToken::new();
        let options = AgentOptions {
            site: site(name),
            coordinator: endpoint.to_owned(),
            files: files.clone(),
            file: dir.join(format!("{name}.json")),
            idle: Duration::from_secs(3600),
        };
        let (agent, events) = LeaseAgent::start(options, stop.clone()).unwrap();
        Self { agent, events, stop }
    }

    async fn acquire(&self, at: &str) -> Result<HeldLease, AcquireError> {
        let until = tokio::time::Instant::now() + SOON;
        loop {
            match self.agent.acquire(scope(at), Duration::from_secs(5)).await {
                Err(AcquireError::Unreachable) if tokio::time::Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                other => return other,
            }
        }
    }

    /// The next event that is no news of a view.
    async fn event(&mut self) -> LeaseEvent {
        loop {
            match tokio::time::timeout(SOON, self.events.recv()).await.unwrap().unwrap() {
                LeaseEvent::ViewChanged => {}
                other => return other,
            }
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[tokio::test]
async fn a_lease_is_granted_shown_recalled_and_given_to_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::in_dir(dir.path()).await;
    let cloud = running.joined(site_joiner("cloud")).await;
    let onprem = running.joined(site_joiner("onprem")).await;
    let mut one = Holder::start("cloud", &running.endpoint, &cloud, dir.path());
    let other = Holder::start("onprem", &running.endpoint, &onprem, dir.path());
    let lease = one.acquire("/results/job").await.unwrap();
    let masters = |view: crate::model::record::ClusterView| {
        view.masters.into_iter().map(|m| (m.master.to_string(), m.scope.path, m.ready)).collect::<Vec<_>>()
    };
    let admin = running.admin().await;
    assert_eq!(masters(admin.view().await.unwrap()), [("cloud".to_owned(), path("/results/job"), false)]);
    one.agent.ready(lease.request, SOON).await.unwrap();
    assert!(masters(admin.view().await.unwrap())[0].2);
    assert!(one.agent.held()[0].ready);

    let asked = tokio::spawn({
        let agent = other.agent.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            agent.acquire(scope("/results"), SOON).await
        }
    });
    let LeaseEvent::Drain(drained) = one.event().await else { panic!("it is recalled") };
    assert_eq!(drained.request, lease.request);
    assert!(!asked.is_finished(), "not before it was drained");
    one.agent.drained(lease.request);
    let next = asked.await.unwrap().unwrap();
    assert!(next.epoch > lease.epoch);
    assert!(matches!(one.event().await, LeaseEvent::Ended(_, Ending::Released)));
    assert_eq!(masters(admin.view().await.unwrap()), [("onprem".to_owned(), path("/results"), false)]);
    running.stop().await;
}

#[tokio::test]
async fn leases_outlive_coordinators_and_holders() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::in_dir(dir.path()).await;
    let cloud = running.joined(site_joiner("cloud")).await;
    let onprem = running.joined(site_joiner("onprem")).await;
    let holder = Holder::start("cloud", &running.endpoint, &cloud, dir.path());
    let lease = holder.acquire("/results/a").await.unwrap();
    holder.agent.ready(lease.request, SOON).await.unwrap();
    drop(holder);
    let listen = running.endpoint.parse().unwrap();
    running.stop().await;
    let running = Running::start(super::Options { listen, ..options(dir.path()) }).await;
    let mut holder = Holder::start("cloud", &running.endpoint, &cloud, dir.path());
    assert_eq!(holder.agent.held(), [HeldLease { ready: true, ..lease.clone() }]);
    let further = holder.acquire("/results/b").await.unwrap();
    assert!(further.epoch > lease.epoch);
    let other = Holder::start("onprem", &running.endpoint, &onprem, dir.path());
    let refused = other.agent.acquire(scope("/results/a/x"), Duration::from_secs(2)).await;
    assert!(matches!(refused, Err(AcquireError::TimedOut | AcquireError::Unreachable)), "{refused:?}");

    let admin = running.admin().await;
    let what = SendHome {
        site: Some(site("cloud")),
        path: Some(path("/results/b/x")),
        release: true,
        replica: None,
    };
    admin.send_home(&what).await.unwrap();
    loop {
        match holder.event().await {
            LeaseEvent::Drain(lease) => {
                holder.agent.drained(lease.request);
                if lease.request == further.request {
                    break;
                }
            }
            LeaseEvent::Hurry(lease) => assert_eq!(lease.request, further.request),
            LeaseEvent::Ended(..) => {}
            LeaseEvent::ViewChanged | LeaseEvent::Replicate(..) => {}
        }
    }
    let replica = SendHome { release: false, replica: Some(7), ..what };
    admin.send_home(&replica).await.unwrap();
    loop {
        match holder.event().await {
            LeaseEvent::Replicate(at, number) => break assert_eq!((at, number), (path("/results/b/x"), 7)),
            LeaseEvent::Ended(..) => {}
            other => panic!("{other:?}"),
        }
    }
    running.stop().await;
}

#[tokio::test]
async fn what_is_abandoned_is_fenced_and_its_holder_told() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::in_dir(dir.path()).await;
    let cloud = running.joined(site_joiner("cloud")).await;
    let mut holder = Holder::start("cloud", &running.endpoint, &cloud, dir.path());
    let lease = holder.acquire("/results/a").await.unwrap();
    holder.agent.ready(lease.request, SOON).await.unwrap();
    let admin = running.admin().await;
    let missing = admin.abandon(&path("/results")).await.unwrap_err().to_string();
    assert!(missing.contains("no lease on /results"), "{missing}");
    admin.abandon(&path("/results/a")).await.unwrap();
    assert!(
        matches!(holder.event().await, LeaseEvent::Ended(ended, Ending::Abandoned) if ended.epoch == lease.epoch)
    );
    assert!(holder.agent.held().is_empty());
    let until = tokio::time::Instant::now() + SOON;
    while !admin.view().await.unwrap().masters.is_empty() {
        assert!(tokio::time::Instant::now() < until, "the holder has confirmed it");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    running.stop().await;
}

#[tokio::test]
async fn a_disk_that_fails_for_a_while_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::in_dir(dir.path()).await;
    let cloud = running.joined(site_joiner("cloud")).await;
    let (state, away) = (dir.path().join("state"), dir.path().join("away"));
    std::fs::create_dir(&state).unwrap();
    let mut holder = Holder::start("cloud", &running.endpoint, &cloud, &state);
    let lease = holder.acquire("/results/a").await.unwrap();
    let fail_for_a_while = async || {
        std::fs::rename(&state, &away).unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        std::fs::rename(&away, &state).unwrap();
    };
    let (ready, ()) = tokio::join!(holder.agent.ready(lease.request, SOON), fail_for_a_while());
    ready.unwrap();
    drop(holder);
    holder = Holder::start("cloud", &running.endpoint, &cloud, &state);
    assert_eq!(holder.agent.held(), [HeldLease { ready: true, ..lease.clone() }], "it was kept");

    holder.agent.release(lease.request);
    assert!(matches!(holder.event().await, LeaseEvent::Drain(drained) if drained.request == lease.request));
    holder.agent.drained(lease.request);
    fail_for_a_while().await;
    assert!(matches!(holder.event().await, LeaseEvent::Ended(ended, Ending::Released) if ended.ready));
    let late = holder.agent.ready(lease.request, SOON).await;
    assert_eq!(late, Err(AcquireError::Refused(Ending::Released)));
    running.stop().await;
}

#[tokio::test]
async fn a_site_that_asks_for_a_path_twice_has_one_lease_and_one_record() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::in_dir(dir.path()).await;
    let cloud = running.joined(site_joiner("cloud")).await;
    let mut holder = Holder::start("cloud", &running.endpoint, &cloud, dir.path());
    let first = holder.acquire("/results/a").await.unwrap();
    let again = tokio::spawn({
        let agent = holder.agent.clone();
        async move { agent.acquire(scope("/results/a"), SOON).await }
    });
    assert!(matches!(holder.event().await, LeaseEvent::Drain(drained) if drained.request == first.request));
    holder.agent.drained(first.request);
    let second = again.await.unwrap().unwrap();
    assert!(second.epoch > first.epoch);
    let masters = running.admin().await.view().await.unwrap().masters;
    assert_eq!(masters.iter().map(|record| record.request).collect::<Vec<_>>(), [second.request]);
    running.stop().await;
}

#[tokio::test]
async fn sites_are_told_of_each_change_of_the_view_and_not_of_all_singly() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::in_dir(dir.path()).await;
    let cloud = running.joined(site_joiner("cloud")).await;
    let mut holder = Holder::start("cloud", &running.endpoint, &cloud, dir.path());
    let heard = async |holder: &mut Holder| {
        let event = tokio::time::timeout(SOON, holder.events.recv()).await.unwrap().unwrap();
        assert_eq!(event, LeaseEvent::ViewChanged);
    };
    heard(&mut holder).await;
    // Whoever connects is told so once more, as another site joins.
    let _ = running.joined(site_joiner("onprem")).await;
    heard(&mut holder).await;
    let admin = running.admin().await;
    let began = tokio::time::Instant::now();
    for n in 0..40 {
        let policies = if n % 2 == 0 { Vec::new() } else { options(dir.path()).policies };
        admin.set_policies(&crate::model::policy::PolicyFile { policies }).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let most = began.elapsed().as_millis() / 50 + 2;
    let mut told = 0;
    while holder.events.try_recv().is_ok() {
        told += 1;
    }
    assert!((1..=most).contains(&told), "{told} of at most {most}");
    running.stop().await;
}

/// Passes connections on to `endpoint` and cuts each after a while.
async fn cutting(endpoint: String) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        for n in 0_u64.. {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut far = tokio::net::TcpStream::connect(&endpoint).await.unwrap();
            let life = Duration::from_millis(60 + n % 5 * 70);
            let passing = async move {
                tokio::time::timeout(life, tokio::io::copy_bidirectional(&mut near, &mut far)).await
            };
            tokio::spawn(passing);
        }
    });
    address
}

#[tokio::test]
async fn connections_that_break_all_the_time_delay_leases_and_lose_none() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::in_dir(dir.path()).await;
    let cloud = running.joined(site_joiner("cloud")).await;
    let endpoint = cutting(running.endpoint.clone()).await;
    let mut holder = Holder::start("cloud", &endpoint, &cloud, dir.path());
    let long = Duration::from_secs(30);
    for n in 0..3 {
        let at = format!("/results/{n}");
        let lease = loop {
            match holder.agent.acquire(scope(&at), long).await {
                Err(AcquireError::Unreachable) => tokio::time::sleep(Duration::from_millis(10)).await,
                other => break other.unwrap(),
            }
        };
        holder.agent.ready(lease.request, long).await.unwrap();
        holder.agent.release(lease.request);
        assert!(matches!(holder.event().await, LeaseEvent::Drain(..)));
        holder.agent.drained(lease.request);
        assert!(matches!(holder.event().await, LeaseEvent::Ended(_, Ending::Released)));
    }
    let admin = running.admin().await;
    let until = tokio::time::Instant::now() + 2 * long;
    while !admin.view().await.unwrap().masters.is_empty() {
        assert!(tokio::time::Instant::now() < until, "a lost release is found");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    running.stop().await;
}
