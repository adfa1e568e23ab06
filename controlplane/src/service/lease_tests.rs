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
    let what = SendHome { site: Some(site("cloud")), path: Some(path("/results/b/x")), release: true };
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
            LeaseEvent::ViewChanged => {}
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
