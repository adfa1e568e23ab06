//! The embedded store: the conformance suite, recovery, compaction, and kill -9.

use std::{
    io::{BufRead, BufReader, Write as _},
    process::{Command, Stdio},
};

use futures_util::StreamExt;

use super::*;
use crate::store::{
    Change, MIN_LEASE_TTL, StoreConfig,
    conformance::{Fixture, committed, conformance_suite, key, next, put},
};

async fn fixture() -> Option<Fixture> {
    let dir = tempfile::tempdir().unwrap();
    let store =
        crate::store::open(&StoreConfig::Embedded { dir: dir.path().join("new/store") }).await.unwrap();
    Some(Fixture { store, _keep: Box::new(dir) })
}

conformance_suite!(fixture());

#[tokio::test]
async fn reopening_keeps_entries_revisions_and_events() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(dir.path()).await.unwrap();
    put(&store, "a", b"1").await;
    put(&store, "a", b"2").await;
    let last = committed(store.txn(Txn::new().put(key("b"), "3")).await);
    let before = store.range(&key("")).await.unwrap();
    drop(store);

    let store = EmbeddedStore::open(dir.path()).await.unwrap();
    assert_eq!(store.range(&key("")).await.unwrap(), before);
    let mut events = store.watch(&key(""), Revision(0)).await.unwrap();
    for revision in 1..=last.0 {
        assert_eq!(next(&mut events).await.revision, Revision(revision));
    }
    assert_eq!(put(&store, "c", b"").await, Revision(last.0 + 1));
}

#[tokio::test]
async fn a_lease_gets_its_whole_time_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(dir.path()).await.unwrap();
    let lease = store.lease_grant(MIN_LEASE_TTL).await.unwrap();
    let revision = committed(store.txn(Txn::new().put_leased(key("l"), "", lease.id)).await);
    drop(store);
    tokio::time::sleep(lease.ttl).await;

    let store = EmbeddedStore::open(dir.path()).await.unwrap();
    let start = Instant::now();
    store.lease_keep_alive(lease.id).await.unwrap();
    let mut events = store.watch(&key("l"), revision).await.unwrap();
    assert_eq!(next(&mut events).await.change, Change::Delete(key("l")));
    assert!(start.elapsed() >= lease.ttl);
}

#[tokio::test]
async fn a_second_opening_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _store = EmbeddedStore::open(dir.path()).await.unwrap();
    let error = EmbeddedStore::open(dir.path()).await.err().unwrap();
    assert_eq!(error, StoreError::Locked(dir.path().to_owned()));
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_is_an_error() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = EmbeddedStore::open(file.path()).await.err().unwrap();
    assert!(matches!(error, StoreError::Broken(_)), "{error}");
}

/// Expects the oldest revisions to be gone, and a watch after them to work.
async fn check_compacted(store: &EmbeddedStore, last: Revision, kept: u64) {
    for after in [0, last.0 - kept - 1] {
        let mut events = store.watch(&key("elsewhere"), Revision(after)).await.unwrap();
        assert_eq!(events.next().await, Some(Err(StoreError::Compacted)));
        assert_eq!(events.next().await, None);
    }
    let mut events = store.watch(&key(""), Revision(last.0 - kept)).await.unwrap();
    for revision in last.0 - kept + 1..=last.0 {
        assert_eq!(next(&mut events).await.revision, Revision(revision));
    }
}

#[tokio::test]
async fn the_log_keeps_its_last_revisions() {
    let dir = tempfile::tempdir().unwrap();
    let limits = LogLimits { revisions: 10, size_bytes: u64::MAX };
    let store = EmbeddedStore::open_with(dir.path(), limits).await.unwrap();
    for _ in 0..49 {
        put(&store, "k", b"v").await;
    }
    let last = put(&store, "k", b"v").await;
    check_compacted(&store, last, 10).await;
    drop(store);
    let store = EmbeddedStore::open_with(dir.path(), limits).await.unwrap();
    check_compacted(&store, last, 10).await;
    check_compacted(&store, put(&store, "k", b"v").await, 10).await;
}

#[tokio::test]
async fn the_log_keeps_to_its_size_but_never_drops_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let limits = LogLimits { revisions: 1000, size_bytes: 3500 };
    let store = EmbeddedStore::open_with(dir.path(), limits).await.unwrap();
    for _ in 0..9 {
        put(&store, "k", &[0; 1000]).await;
    }
    check_compacted(&store, put(&store, "k", &[0; 1000]).await, 3).await;
    let last = put(&store, "k", &[0; 10_000]).await;
    check_compacted(&store, last, 1).await;
    drop(store);
    let store = EmbeddedStore::open_with(dir.path(), limits).await.unwrap();
    assert_eq!(put(&store, "k", b"").await, Revision(last.0 + 1));
}

#[tokio::test]
async fn a_slow_watcher_that_is_overtaken_hears_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let limits = LogLimits { revisions: 10, size_bytes: u64::MAX };
    let store = EmbeddedStore::open_with(dir.path(), limits).await.unwrap();
    let mut events = store.watch(&key(""), Revision(0)).await.unwrap();
    put(&store, "k", b"").await;
    assert_eq!(next(&mut events).await.revision, Revision(1));
    for _ in 0..20 {
        put(&store, "k", b"").await;
    }
    assert_eq!(events.next().await, Some(Err(StoreError::Compacted)));
}

#[tokio::test]
async fn closing_ends_watches() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(dir.path()).await.unwrap();
    let mut events = store.watch(&key(""), Revision(0)).await.unwrap();
    put(&store, "k", b"").await;
    drop(store);
    assert!(events.next().await.is_some_and(|event| event.is_ok()));
    assert_eq!(events.next().await, None);
}

const CRASH_DIR: &str = "GLOBALFS_TEST_STORE_CRASH_DIR";
const CRASH_ROUNDS: u32 = 6;
const CRASH_WRITERS: usize = 8;

/// The parent starts this same test as a child, which writes and reports what was acknowledged, and kills it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_transactions_survive_kill_9() {
    if let Some(dir) = std::env::var_os(CRASH_DIR) {
        write_until_killed(Path::new(&dir)).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    for _ in 0..CRASH_ROUNDS {
        let before = acknowledged.len();
        // The directory is opened and recovered by each child, so late rounds start from many crashes.
        acknowledged.extend(run_and_kill(dir.path()));
        assert!(acknowledged.len() > before, "the child wrote nothing");
        check_acknowledged(dir.path(), &acknowledged).await;
    }
}

async fn write_until_killed(dir: &Path) -> ! {
    let store = EmbeddedStore::open(dir).await.unwrap();
    let write = async |writer: usize| loop {
        let name = format!("{writer}/{:016x}", rand::random::<u64>());
        let txn =
            Txn::new().put(key(&format!("left/{name}")), &*name).put(key(&format!("right/{name}")), &*name);
        let revision = committed(store.txn(txn).await);
        let mut out = std::io::stdout().lock();
        writeln!(out, "ACK {revision} {name}").and_then(|()| out.flush()).unwrap();
    };
    futures_util::future::join_all((0..CRASH_WRITERS).map(write)).await;
    unreachable!("the writers never end")
}

/// Lets a child write for a random time after its first acknowledgement; gives all that it acknowledged.
fn run_and_kill(dir: &Path) -> Vec<(u64, String)> {
    let name = std::thread::current().name().map(str::to_owned);
    let test = name.filter(|name| name.contains("kill_9"));
    let test =
        test.unwrap_or_else(|| concat!(module_path!(), "::acknowledged_transactions_survive_kill_9").into());
    let test = test.trim_start_matches("globalfs_controlplane::");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(CRASH_DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut acknowledged: Vec<_> =
        lines.by_ref().find_map(|line| parse_ack(&line.unwrap())).into_iter().collect();
    let killer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_micros(rand::random_range(0..200_000)));
        child.kill().unwrap();
        child.wait().unwrap()
    });
    // A line that the kill cut in two was not acknowledged in full, and does not parse.
    acknowledged.extend(lines.filter_map(|line| parse_ack(&line.ok()?)));
    killer.join().unwrap();
    acknowledged
}

fn parse_ack(line: &str) -> Option<(u64, String)> {
    // The harness writes `test NAME ...` in front of the first line.
    let (_, ack) = line.split_once("ACK ")?;
    let (revision, name) = ack.split_once(' ')?;
    (name.len() == "0/".len() + 16)
        .then(|| (revision.parse().ok(), name.to_owned()))
        .and_then(|(r, n)| Some((r?, n)))
}

async fn check_acknowledged(dir: &Path, acknowledged: &[(u64, String)]) {
    let store = EmbeddedStore::open(dir).await.unwrap();
    let side = async |side: &str| -> Vec<(String, u64)> {
        let prefix = key(side);
        let entries = store.range(&prefix).await.unwrap().entries;
        let name = |entry: &Entry| entry.key.as_str()[prefix.as_str().len()..].to_owned();
        entries.iter().map(|entry| (name(entry), entry.mod_revision.0)).collect()
    };
    let left = side("left/").await;
    assert_eq!(left, side("right/").await, "a transaction was torn");
    let stored: std::collections::HashMap<_, _> = left.into_iter().collect();
    for (revision, name) in acknowledged {
        assert_eq!(stored.get(name), Some(revision), "{name} was acknowledged");
    }
}
