//! The conformance suite and interruptions, against a real etcd.

use std::time::Instant;

use futures_util::StreamExt;

use super::*;
use crate::store::{
    conformance::{Fixture, conformance_suite, key, next, put},
    testing::{EtcdServer, EtcdTls, is_etcd_installed},
};

/// A server with its directory, in the order in which they are to be dropped.
struct Server {
    etcd: EtcdServer,
    _dir: tempfile::TempDir,
}

fn start_server() -> Option<Server> {
    start_server_with(|_| None)
}

fn start_server_with(tls: impl FnOnce(&Path) -> Option<EtcdTls>) -> Option<Server> {
    if !is_etcd_installed() {
        assert!(
            std::env::var_os("GLOBALFS_TEST_FULL").is_none_or(|full| full != "1"),
            "etcd is not installed"
        );
        eprintln!("SKIPPED: etcd is not installed (Debian: etcd-server)");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    Some(Server { etcd: EtcdServer::start(&dir.path().join("data"), tls(dir.path())).unwrap(), _dir: dir })
}

async fn connect(server: &Server) -> EtcdStore {
    let config = EtcdConfig { endpoints: vec![server.etcd.endpoint()], ..EtcdConfig::default() };
    EtcdStore::connect(&config).await.unwrap()
}

async fn fixture() -> Option<Fixture> {
    let server = start_server()?;
    Some(Fixture { store: Arc::new(connect(&server).await), _keep: Box::new(server) })
}

conformance_suite!(fixture());

fn is_unavailable<T>(result: &Result<T>) -> bool {
    matches!(result, Err(StoreError::Unavailable(_)))
}

async fn assert_unavailable_in_time<T>(call: impl Future<Output = Result<T>>) {
    let start = Instant::now();
    assert!(is_unavailable(&call.await));
    assert!(start.elapsed() < CALL_DEADLINE + Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_fail_in_time_while_etcd_is_down_and_work_again() {
    let Some(mut server) = start_server() else { return };
    let store = connect(&server).await;
    put(&store, "before", b"").await;
    let lease = store.lease_grant(Duration::from_secs(60)).await.unwrap().id;
    server.etcd.kill().unwrap();
    let (before, all) = (key("before"), key(""));
    tokio::join!(
        assert_unavailable_in_time(store.get(&before)),
        assert_unavailable_in_time(store.range(&all)),
        assert_unavailable_in_time(store.txn(Txn::new().put(key("k"), ""))),
        assert_unavailable_in_time(store.lease_grant(Duration::from_secs(60))),
        assert_unavailable_in_time(store.lease_keep_alive(lease)),
        assert_unavailable_in_time(store.lease_revoke(lease)),
    );
    server.etcd.restart().unwrap();
    let start = Instant::now();
    while is_unavailable(&store.get(&key("before")).await) {
        assert!(start.elapsed() < Duration::from_secs(20), "it does not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    store.lease_keep_alive(lease).await.unwrap();
    assert!(store.get(&key("before")).await.unwrap().is_some());
}

/// Writes until told otherwise, and gives the revisions that were acknowledged.
async fn write_through_restarts(store: &EtcdStore, stop: &tokio_util::sync::CancellationToken) -> Vec<u64> {
    let mut acknowledged = Vec::new();
    while !stop.is_cancelled() {
        let write = Txn::new().put(key("w/a"), "1").put(key("w/b"), "2").put(key("w/c"), "3");
        match store.txn(write).await {
            Ok(TxnOutcome::Committed { revision }) => acknowledged.push(revision.0),
            Err(StoreError::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
            other => panic!("{other:?}"),
        }
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_loses_and_repeats_nothing_when_etcd_restarts() {
    let Some(mut server) = start_server() else { return };
    let store = connect(&server).await;
    let start = put(&store, "w/a", b"").await;
    let mut events = store.watch(&key("w/"), start).await.unwrap();
    // Read while it happens: a watch that nobody reads would not notice the restarts.
    let (sender, mut received) = tokio::sync::mpsc::unbounded_channel();
    let reader = tokio::spawn(async move { while sender.send(events.next().await).is_ok() {} });
    let stop = tokio_util::sync::CancellationToken::new();
    let restarts = async {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            tokio::task::block_in_place(|| {
                server.etcd.kill().unwrap();
                server.etcd.restart().unwrap();
            });
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        stop.cancel();
    };
    let writer = write_through_restarts(&store, &stop);
    let ((), acknowledged) = tokio::join!(restarts, writer);
    // Unacknowledged writes may have happened too, so each revision counts, not only the acknowledged ones.
    let end = store.range(&key("")).await.unwrap().revision;
    assert!(acknowledged.len() > 10 && acknowledged.iter().all(|revision| *revision <= end.0));
    for revision in start.0 + 1..=end.0 {
        for name in ["w/a", "w/b", "w/c"] {
            let received = tokio::time::timeout(Duration::from_secs(10), received.recv()).await;
            let event = received.expect("in time").flatten().expect("no end").expect("no error");
            assert_eq!((event.revision.0, event.change.key()), (revision, &key(name)));
        }
    }
    reader.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_of_compacted_revisions_says_so() {
    let Some(server) = start_server() else { return };
    let store = connect(&server).await;
    let first = put(&store, "k", b"1").await;
    put(&store, "k", b"2").await;
    let last = put(&store, "k", b"3").await;
    store.client.kv_client().compact(last.0 as i64, None).await.unwrap();
    let mut events = store.watch(&key(""), first).await.unwrap();
    assert_eq!(events.next().await, Some(Err(StoreError::Compacted)));
    assert_eq!(events.next().await, None);
    let mut events = store.watch(&key(""), last).await.unwrap();
    let newer = put(&store, "k", b"4").await;
    assert_eq!(next(&mut events).await.revision, newer);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_are_not_ours_are_passed_over() {
    let Some(server) = start_server() else { return };
    let store = connect(&server).await;
    let start = put(&store, "a", b"").await;
    store.client.kv_client().put(b"/globalfs/\xff".to_vec(), "", None).await.unwrap();
    store.client.kv_client().put("/other/b", "", None).await.unwrap();
    let last = put(&store, "c", b"").await;
    let found = store.range(&key("")).await.unwrap();
    assert_eq!(found.entries.iter().map(|entry| &entry.key).collect::<Vec<_>>(), [&key("a"), &key("c")]);
    let mut events = store.watch(&key(""), start).await.unwrap();
    assert_eq!(next(&mut events).await.revision, last);
}

#[tokio::test]
async fn nobody_at_the_endpoint_is_unavailable() {
    // Bound and never accepting: connections succeed, answers do not come.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = "http://127.0.0.1:1".to_owned();
    for endpoint in [format!("http://{}", silent.local_addr().unwrap()), closed] {
        let config = EtcdConfig { endpoints: vec![endpoint], ..EtcdConfig::default() };
        assert_unavailable_in_time(EtcdStore::connect(&config)).await;
    }
}

#[tokio::test]
async fn wrong_configurations_are_told() {
    let check = async |endpoints: &[&str], change: fn(&mut EtcdConfig), expected: &str| {
        let endpoints = endpoints.iter().map(|url| (*url).to_owned()).collect();
        let mut config = EtcdConfig { endpoints, ..EtcdConfig::default() };
        change(&mut config);
        let error = EtcdStore::connect(&config).await.err().unwrap();
        assert!(matches!(&error, StoreError::Invalid(text) if text.contains(expected)), "{error}");
    };
    let (plain, secure) = ("http://127.0.0.1:1", "https://127.0.0.1:1");
    check(&[], |_| {}, "at least one endpoint").await;
    check(&["127.0.0.1:2379"], |_| {}, "at least one endpoint").await;
    check(&[plain, "127.0.0.1:2379"], |_| {}, "an endpoint is").await;
    check(&[plain, secure], |_| {}, "either").await;
    check(&[plain], |config| config.ca = Some("ca.pem".into()), "https://").await;
    check(&[plain], |config| config.user = Some("u".into()), "user and password").await;
    check(&[secure], |config| config.cert = Some("c.pem".into()), "cert and key").await;
    check(&[secure], |config| config.ca = Some("/nowhere/ca.pem".into()), "/nowhere/ca.pem").await;
    check(&["http://a b"], |_| {}, "").await;
}

/// A CA and one certificate of it, for the server and its clients alike.
fn make_certificates(dir: &Path) -> EtcdTls {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new([]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(params, key);
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    let cert = params.signed_by(&key, &issuer).unwrap();
    let write = |name: &str, pem: String| {
        let path = dir.join(name);
        std::fs::write(&path, pem).unwrap();
        path
    };
    let ca = write("ca.pem", ca.pem());
    EtcdTls { ca, cert: write("cert.pem", cert.pem()), key: write("key.pem", key.serialize_pem()) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_shown_and_needed() {
    let mut made = None;
    let Some(server) = start_server_with(|dir| made.insert(make_certificates(dir)).clone().into()) else {
        return;
    };
    let EtcdTls { ca, cert, key: private_key } = made.unwrap();
    let config = EtcdConfig {
        endpoints: vec![server.etcd.endpoint()],
        ca: Some(ca),
        cert: Some(cert),
        key: Some(private_key),
        ..EtcdConfig::default()
    };
    let store = EtcdStore::connect(&config).await.unwrap();
    let start = put(&store, "k", b"1").await;
    put(&store, "k", b"2").await;
    let mut events = store.watch(&key("k"), start).await.unwrap();
    assert_eq!(next(&mut events).await.revision.0, start.0 + 1);

    let anonymous = EtcdConfig { cert: None, key: None, ..config.clone() };
    assert!(EtcdStore::connect(&anonymous).await.is_err());
    let trusting_nobody = EtcdConfig { ca: None, ..config };
    assert!(EtcdStore::connect(&trusting_nobody).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_and_passwords_are_checked() {
    let Some(server) = start_server() else { return };
    let mut auth = connect(&server).await.client.auth_client();
    auth.user_add("root", "secret", None).await.unwrap();
    auth.user_grant_role("root", "root").await.unwrap();
    auth.auth_enable().await.unwrap();
    let config = |password: &str| EtcdConfig {
        endpoints: vec![server.etcd.endpoint()],
        user: Some("root".into()),
        password: Some(password.into()),
        ..EtcdConfig::default()
    };
    let store = EtcdStore::connect(&config("secret")).await.unwrap();
    put(&store, "k", b"").await;
    let denied = EtcdStore::connect(&config("guess")).await.err().unwrap();
    assert!(matches!(denied, StoreError::Denied(_)), "{denied:?}");
    let nameless = EtcdConfig { user: None, password: None, ..config("") };
    let denied = EtcdStore::connect(&nameless).await.err().unwrap();
    assert!(matches!(denied, StoreError::Denied(_)), "{denied:?}");
}
