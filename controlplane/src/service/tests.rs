//! The control plane over loopback: coordinator, joiners and administrators with real TLS.

use super::{Coordinator, DeclaredSite, Options, Reason, StartError, Timing};
use crate::ca::Authority;
use crate::client::{ClientError, ControlClient, JoinRequest, join, join_into, new_key};
use crate::files::CertFiles;
use crate::model::policy::{Consistency, OnDisconnect, Policy, PolicyFile, SyncMode};
use crate::model::record::{Health, SiteRole, SiteStatus};
use crate::model::token::Joiner;
use crate::store::{MetaStore, StoreConfig};
use globalfs_proto::{NodeName, PeerIdentity, SiteName};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const HOUR: Duration = Duration::from_secs(3600);

/// A coordinator that runs until it is stopped.
pub(super) struct Running {
    pub(super) endpoint: String,
    observer: super::Observer,
    admin: CertFiles,
    stop: CancellationToken,
    task: JoinHandle<Result<(), StartError>>,
}

impl Running {
    pub(super) async fn start(options: Options) -> Self {
        Self::run(Coordinator::open(options).await.unwrap())
    }

    fn run(coordinator: Coordinator) -> Self {
        let stop = CancellationToken::new();
        Self {
            endpoint: coordinator.local_addr().to_string(),
            observer: coordinator.observer(),
            admin: CertFiles::load(coordinator.admin_dir()).unwrap(),
            task: tokio::spawn(coordinator.run(stop.clone())),
            stop,
        }
    }

    pub(super) async fn in_dir(dir: &Path) -> Self {
        Self::start(options(dir)).await
    }

    async fn connect(&self, files: &CertFiles) -> ControlClient {
        ControlClient::connect(&self.endpoint, files).await.unwrap()
    }

    pub(super) async fn admin(&self) -> ControlClient {
        self.connect(&self.admin).await
    }

    async fn token(&self, joiner: &Joiner) -> String {
        self.admin().await.create_token(joiner, HOUR).await.unwrap()
    }

    /// Joins with a new token and key.
    pub(super) async fn joined(&self, joiner: Joiner) -> CertFiles {
        let token = self.token(&joiner).await;
        let joined = join(&self.endpoint, &token, &request(joiner), &new_key().unwrap()).await;
        joined.unwrap().files
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

pub(super) fn site(name: &str) -> SiteName {
    SiteName::new(name).unwrap()
}

pub(super) fn site_joiner(name: &str) -> Joiner {
    Joiner::Site { name: site(name) }
}

fn node_joiner(name: &str) -> Joiner {
    Joiner::Node { name: NodeName::new(name).unwrap(), site: site("cloud") }
}

fn request(joiner: Joiner) -> JoinRequest {
    JoinRequest { joiner, endpoint: "file:///mnt/cloud".into(), address: "127.0.0.1:7440".into() }
}

fn policy(name: &str) -> Policy {
    Policy {
        name: name.into(),
        pattern: "/results/**".parse().unwrap(),
        primary: Some(site("onprem")),
        replicate_to: Vec::new(),
        sync_mode: SyncMode::Async,
        on_disconnect: OnDisconnect::Fail,
        consistency: Consistency::Eventual,
        staleness: None,
        sync_deadline: None,
        bandwidth: None,
        priority: 0,
    }
}

pub(super) fn options(dir: &Path) -> Options {
    Options {
        cluster: "test".into(),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        data_dir: dir.join("ca"),
        store: StoreConfig::Embedded { dir: dir.join("store") },
        sites: vec![
            DeclaredSite { name: site("onprem"), role: SiteRole::Primary },
            DeclaredSite { name: site("cloud"), role: SiteRole::Burst },
        ],
        default_primary: site("onprem"),
        policies: vec![policy("results")],
        timing: Timing::default(),
    }
}

fn token_reason<T: std::fmt::Debug>(result: Result<T, ClientError>) -> Reason {
    match result {
        Err(ClientError::Token { reason, .. }) => reason,
        other => panic!("expected a refused token, got {other:?}"),
    }
}

#[tokio::test]
async fn a_site_and_a_node_join_and_see_the_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::in_dir(dir.path()).await;
    let token = running.token(&site_joiner("cloud")).await;
    let at = dir.path().join("identity");
    let joined = join_into(&at, &running.endpoint, &token, &request(site_joiner("cloud"))).await.unwrap();
    assert_eq!(CertFiles::load(&at).unwrap(), joined.files);
    assert_eq!(joined.files.identity(), Ok(PeerIdentity::Site(site("cloud"))));
    let record = joined.view.site(&site("cloud")).unwrap();
    assert_eq!((record.role, record.address.as_str()), (SiteRole::Burst, "127.0.0.1:7440"));

    let node = running.joined(node_joiner("n1")).await;
    let view = running.connect(&node).await.view().await.unwrap();
    assert_eq!((view.sites.len(), view.nodes.len(), view.policies[0].name.as_str()), (1, 1, "results"));
    let peer = crate::tls::peer(&node.certificate).unwrap();
    assert!(view.admits(&peer.identity, &peer.key_fingerprint) && !view.admits(&peer.identity, ""));
    let status = running.observer.status().await.unwrap();
    assert_eq!((status.declared.len(), status.view), (2, view));
    assert_eq!(running.observer.counters().joins, 2);
    running.stop().await;
}

#[tokio::test]
async fn a_token_admits_one_key_and_repeats_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::in_dir(dir.path()).await;
    let token = running.token(&site_joiner("cloud")).await;
    let (key, request) = (new_key().unwrap(), request(site_joiner("cloud")));
    let first = join(&running.endpoint, &token, &request, &key).await.unwrap();
    let again = join(&running.endpoint, &token, &request, &key).await.unwrap();
    assert_eq!(first.view.revision, again.view.revision, "a repeated join changes nothing");
    running.connect(&again.files).await.view().await.unwrap();
    let other = join(&running.endpoint, &token, &request, &new_key().unwrap()).await;
    assert_eq!(token_reason(other), Reason::TokenUsed);

    running.admin().await.remove_site(&site("cloud")).await.unwrap();
    let back = join(&running.endpoint, &token, &request, &key).await;
    assert!(matches!(back, Err(ClientError::NotRegistered(_))), "a used token brings nobody back: {back:?}");
    running.stop().await;
}

#[tokio::test]
async fn ten_keys_race_for_one_token_and_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::in_dir(dir.path()).await;
    let token = running.token(&site_joiner("cloud")).await;
    let racers = (0..10).map(|_| {
        let (endpoint, token) = (running.endpoint.clone(), token.clone());
        tokio::spawn(async move {
            join(&endpoint, &token, &request(site_joiner("cloud")), &new_key().unwrap()).await
        })
    });
    let results = futures_util::future::join_all(racers).await;
    let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().map(Result::unwrap).partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    lost.into_iter().for_each(|result| assert_eq!(token_reason(result), Reason::TokenUsed));
    running.stop().await;
}

#[tokio::test]
async fn bad_tokens_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::in_dir(dir.path()).await;
    let key = new_key().unwrap();
    let try_join = |token: String, joiner| {
        let (endpoint, key) = (running.endpoint.clone(), key.clone());
        async move { token_reason(join(&endpoint, &token, &request(joiner), &key).await) }
    };
    let token = running.token(&site_joiner("cloud")).await;
    assert_eq!(try_join("gfs1.x".into(), site_joiner("cloud")).await, Reason::TokenMalformed);
    assert_eq!(try_join(token.clone(), site_joiner("onprem")).await, Reason::TokenOtherName);
    assert_eq!(try_join(token.clone(), node_joiner("cloud")).await, Reason::TokenOtherName);
    let mut parts: Vec<&str> = token.split('.').collect();
    parts[1] = "0000000000000000";
    assert_eq!(try_join(parts.join("."), site_joiner("cloud")).await, Reason::TokenUnknown);

    let brief = Duration::from_millis(20);
    let short = running.admin().await.create_token(&site_joiner("cloud"), brief).await.unwrap();
    tokio::time::sleep(brief * 2).await;
    assert_eq!(try_join(short, site_joiner("cloud")).await, Reason::TokenExpired);
    let undeclared = running.admin().await.create_token(&site_joiner("mars"), HOUR).await.unwrap_err();
    assert!(
        undeclared.to_string().contains("'mars' is not in the coordinator's configuration"),
        "{undeclared}"
    );
    running.stop().await;
}

#[tokio::test]
async fn without_a_certificate_only_join_answers() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::in_dir(dir.path()).await;
    let client = ControlClient::connect_as(&running.endpoint, &running.admin.ca, None).await.unwrap();
    let (cloud, node) = (site("cloud"), NodeName::new("n1").unwrap());
    let results = [
        client.view().await.map(drop),
        client.status().await.map(drop),
        client.heartbeat(&Health::default(), "a:1", 0).await.map(drop),
        client.create_token(&site_joiner("cloud"), HOUR).await.map(drop),
        client.remove_site(&cloud).await,
        client.remove_node(&node, &cloud).await,
        client.set_policies(&PolicyFile::default()).await,
    ];
    for result in results {
        let text = result.unwrap_err().to_string();
        assert!(text.contains("needs a certificate"), "{text}");
    }
    assert_eq!(running.observer.counters().refusals, 7);
    running.stop().await;
}

#[tokio::test]
async fn members_may_not_do_what_administrators_do() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::in_dir(dir.path()).await;
    let cloud = running.joined(site_joiner("cloud")).await;
    let node = running.joined(node_joiner("n1")).await;
    for files in [&cloud, &node] {
        let client = running.connect(files).await;
        let refused = client.create_token(&site_joiner("cloud"), HOUR).await;
        assert!(matches!(refused, Err(ClientError::NotPermitted(_))), "{refused:?}");
        assert!(matches!(client.remove_site(&site("cloud")).await, Err(ClientError::NotPermitted(_))));
        assert!(matches!(
            client.set_policies(&PolicyFile::default()).await,
            Err(ClientError::NotPermitted(_))
        ));
    }
    let beat = running.connect(&node).await.heartbeat(&Health::default(), "a:1", 0).await;
    assert!(beat.unwrap_err().to_string().contains("only sites send heartbeats"));
    running.stop().await;
}

#[tokio::test]
async fn a_removed_member_is_refused_at_once_and_its_nodes_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::in_dir(dir.path()).await;
    let cloud = running.joined(site_joiner("cloud")).await;
    let nodes = [running.joined(node_joiner("n1")).await, running.joined(node_joiner("n2")).await];
    let connected = running.connect(&cloud).await;
    connected.heartbeat(&Health::default(), "a:1", 0).await.unwrap();
    let admin = running.admin().await;
    admin.remove_node(&NodeName::new("n1").unwrap(), &site("cloud")).await.unwrap();
    let refused = running.connect(&nodes[0]).await.view().await;
    assert!(matches!(refused, Err(ClientError::NotRegistered(_))), "{refused:?}");
    running.connect(&nodes[1]).await.view().await.unwrap();

    admin.remove_site(&site("cloud")).await.unwrap();
    let refused = connected.heartbeat(&Health::default(), "a:1", 0).await.unwrap_err();
    assert!(refused.to_string().contains("site cloud is not registered"), "{refused}");
    assert!(running.connect(&nodes[1]).await.view().await.is_err());
    assert!(admin.remove_site(&site("cloud")).await.unwrap_err().to_string().contains("not registered"));

    let again = running.joined(site_joiner("cloud")).await;
    running.connect(&again).await.view().await.unwrap();
    let old = running.connect(&cloud).await.view().await;
    assert!(matches!(old, Err(ClientError::NotRegistered(_))), "the old key stays refused: {old:?}");
    running.stop().await;
}

#[tokio::test]
async fn each_change_of_the_cluster_makes_a_new_view() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::in_dir(dir.path()).await;
    let admin = running.admin().await;
    let last = std::cell::Cell::new(admin.view().await.unwrap().revision);
    let check = |now: u64, what: &str| assert!(now > last.replace(now), "{what}");
    let cloud = running.connect(&running.joined(site_joiner("cloud")).await).await;
    check(admin.view().await.unwrap().revision, "a site registers");
    admin.set_policies(&PolicyFile { policies: vec![policy("other")] }).await.unwrap();
    let changed =
        cloud.heartbeat(&Health::default(), "127.0.0.1:7440", last.get()).await.unwrap().view.unwrap();
    assert_eq!(changed.policies[0].name, "other");
    check(changed.revision, "policies change");
    let known = cloud.heartbeat(&Health::default(), "127.0.0.1:7440", changed.revision).await.unwrap();
    assert!(known.view.is_none(), "nothing changed");
    assert_eq!(known.interval, super::HEARTBEAT_INTERVAL);
    cloud.heartbeat(&Health::default(), "127.0.0.1:7441", changed.revision).await.unwrap();
    check(admin.view().await.unwrap().revision, "a site moves");
    admin.remove_site(&site("cloud")).await.unwrap();
    check(admin.view().await.unwrap().revision, "a site is removed");
    let unknown_site = Policy { primary: Some(site("mars")), ..policy("bad") };
    let refused = admin.set_policies(&PolicyFile { policies: vec![unknown_site] }).await.unwrap_err();
    assert!(refused.to_string().contains("'bad'"), "{refused}");
    running.stop().await;
}

#[tokio::test]
async fn a_restart_keeps_members_tokens_and_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::in_dir(dir.path()).await;
    let cloud = running.joined(site_joiner("cloud")).await;
    let (token, admin) = (running.token(&node_joiner("n1")).await, running.admin.clone());
    let before = running.admin().await.view().await.unwrap();
    running.stop().await;

    let running = Running::in_dir(dir.path()).await;
    assert_eq!(running.admin, admin);
    let after = running.connect(&cloud).await.view().await.unwrap();
    assert_eq!(after, before);
    join(&running.endpoint, &token, &request(node_joiner("n1")), &new_key().unwrap()).await.unwrap();
    running.stop().await;

    let mut promoted = options(dir.path());
    promoted.sites[1].role = SiteRole::Backup;
    let running = Running::start(promoted).await;
    let view = running.admin().await.view().await.unwrap();
    assert_eq!(view.site(&site("cloud")).unwrap().role, SiteRole::Backup, "the configuration names the role");
    running.stop().await;

    let lost_ca = Options { data_dir: dir.path().join("elsewhere"), ..options(dir.path()) };
    let error = Coordinator::open(lost_ca).await.err().unwrap().to_string();
    assert!(error.contains("not the authority of this cluster"), "{error}");
    let renamed = Options { cluster: "other".into(), ..options(dir.path()) };
    let error = Coordinator::open(renamed).await.err().unwrap().to_string();
    assert!(error.contains("belongs to cluster 'test'"), "{error}");
}

#[tokio::test]
async fn silence_makes_a_site_unreachable_and_a_heartbeat_active() {
    let dir = tempfile::tempdir().unwrap();
    let timing = Timing {
        heartbeat_interval: Duration::from_millis(20),
        record_write_interval: HOUR,
        unreachable_after: Duration::from_secs(2),
    };
    let running = Running::start(Options { timing, ..options(dir.path()) }).await;
    let cloud = running.connect(&running.joined(site_joiner("cloud")).await).await;
    let health = Health { disk_free_bytes: 7, ..Health::default() };
    let status = || async {
        let view = running.observer.status().await.unwrap().view;
        let site = view.site(&site("cloud")).unwrap();
        (site.status, site.health.disk_free_bytes)
    };
    for _ in 0..3 {
        cloud.heartbeat(&health, "127.0.0.1:7440", 0).await.unwrap();
    }
    assert_eq!(status().await, (SiteStatus::Active, 7), "health is shown before it is written");
    assert_eq!(running.observer.counters().record_writes, 0, "heartbeats alone write nothing");
    let silent = async {
        while running.observer.counters().record_writes == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), silent).await.expect("silence is written down");
    assert_eq!(status().await.0, SiteStatus::Unreachable);
    cloud.heartbeat(&health, "127.0.0.1:7440", 0).await.unwrap();
    assert_eq!(status().await, (SiteStatus::Active, 7));
    assert_eq!(running.observer.counters().record_writes, 2, "the return is written at once");
    running.stop().await;
}

#[tokio::test]
async fn other_clusters_and_dead_ends_are_explained() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let running = Running::in_dir(dir.path()).await;
    let stranger = Authority::open(other.path()).unwrap();
    let files = stranger.own_files(&PeerIdentity::Admin).unwrap();
    let error = ControlClient::connect(&running.endpoint, &files).await.err().unwrap();
    assert!(matches!(error, ClientError::WrongAuthority { .. }), "{error:?}");

    // The right authority, but a certificate that another one signed: the coordinator refuses it.
    let forged = CertFiles { ca: running.admin.ca.clone(), ..files };
    let error = match ControlClient::connect(&running.endpoint, &forged).await {
        Ok(client) => client.view().await.err().unwrap(),
        Err(error) => error,
    };
    assert!(matches!(error, ClientError::WrongAuthority { .. }), "{error:?}");

    let token = running.token(&site_joiner("cloud")).await;
    let (stem, _) = token.rsplit_once('.').unwrap();
    let token = format!("{stem}.{}", stranger.fingerprint());
    let error = join(&running.endpoint, &token, &request(site_joiner("cloud")), &new_key().unwrap()).await;
    assert!(matches!(error, Err(ClientError::WrongAuthority { .. })), "{error:?}");
    let endpoint = running.endpoint.clone();
    let admin = running.admin.clone();
    running.stop().await;
    let error = ControlClient::connect(&endpoint, &admin).await.err().unwrap();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn what_is_not_tls_is_counted_and_holds_up_nobody() {
    use tokio::io::AsyncWriteExt;
    let dir = tempfile::tempdir().unwrap();
    let running = Running::in_dir(dir.path()).await;
    let _silent = tokio::net::TcpStream::connect(&running.endpoint).await.unwrap();
    let mut plain = tokio::net::TcpStream::connect(&running.endpoint).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    running.admin().await.view().await.unwrap();
    let counted = async {
        while running.observer.counters().failed_handshakes == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), counted).await.expect("the failed handshake is counted");
    running.stop().await;
}

#[tokio::test]
async fn an_expired_certificate_is_named_by_client_and_coordinator() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::in_dir(dir.path()).await;
    let authority = Authority::open(&dir.path().join("ca")).unwrap();
    let expired = authority.files_valid_for(&PeerIdentity::Admin, Duration::ZERO).unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let error = ControlClient::connect(&running.endpoint, &expired).await.err().unwrap();
    assert!(matches!(error, ClientError::CertificateExpired(_)), "{error:?}");

    let identity = tonic::transport::Identity::from_pem(&expired.certificate, &expired.key);
    let error = match ControlClient::connect_as(&running.endpoint, &expired.ca, Some(identity)).await {
        Ok(client) => client.view().await.err().unwrap(),
        Err(error) => error,
    };
    assert!(matches!(error, ClientError::CertificateExpired(_)), "{error:?}");
    running.stop().await;
}

/// Two coordinators on one store, with the same authority, are one control plane.
async fn check_two_coordinators(dir: &Path, store: Arc<dyn MetaStore>) {
    let open = || Coordinator::open_with(options(dir), store.clone());
    let (first, second) = (Running::run(open().await.unwrap()), Running::run(open().await.unwrap()));
    let token = first.token(&site_joiner("cloud")).await;
    let key = new_key().unwrap();
    let joined = join(&second.endpoint, &token, &request(site_joiner("cloud")), &key).await.unwrap();
    let client = first.connect(&joined.files).await;
    assert_eq!(client.view().await.unwrap().revision, joined.view.revision);
    second.admin().await.remove_site(&site("cloud")).await.unwrap();
    assert!(matches!(client.view().await, Err(ClientError::NotRegistered(_))));
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn coordinators_share_an_embedded_store() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig::Embedded { dir: dir.path().join("store") };
    check_two_coordinators(dir.path(), crate::store::open(&config).await.unwrap()).await;
}

#[cfg(feature = "etcd")]
#[tokio::test]
async fn coordinators_share_an_etcd() {
    use crate::store::EtcdConfig;
    use crate::store::testing::{EtcdServer, is_etcd_installed};
    if !is_etcd_installed() {
        let full = std::env::var_os("GLOBALFS_TEST_FULL").is_some_and(|value| value == "1");
        assert!(!full, "etcd is not installed and GLOBALFS_TEST_FULL=1");
        eprintln!("SKIPPED: etcd is not installed (Debian: etcd-server)");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let server = EtcdServer::start(&dir.path().join("etcd"), None).unwrap();
    let config = EtcdConfig { endpoints: vec![server.endpoint()], ..EtcdConfig::default() };
    check_two_coordinators(dir.path(), crate::store::open(&StoreConfig::Etcd(config)).await.unwrap()).await;
}
