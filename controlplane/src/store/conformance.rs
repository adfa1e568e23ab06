//! One suite that every implementation of [`MetaStore`] passes: `conformance_suite!` makes a test of each
//! case, given an expression that opens a fresh store (or `None` where it cannot run).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::StreamExt;

use super::*;

/// More than an expiry takes anywhere: the longest minimum TTL, and the intervals at which leases are checked.
const PATIENCE: Duration = Duration::from_secs(10);

/// A store under test with what must live as long as it.
pub(super) struct Fixture {
    pub(super) store: Arc<dyn MetaStore>,
    pub(super) _keep: Box<dyn std::any::Any + Send>,
}

macro_rules! conformance_suite {
    ($fixture:expr) => {
        $crate::store::conformance::conformance_suite!(
            $fixture;
            a_hundred_increments_count_to_a_hundred
            a_transaction_happens_whole_or_not_at_all
            conditions_look_at_absence_revision_and_value
            revisions_count_changes_only
            a_range_is_ordered_and_ends_with_its_prefix
            a_large_range_is_complete
            a_watch_from_the_past_has_no_gaps_while_writers_run
            a_watch_sees_its_prefix_only
            a_watch_from_the_future_waits
            values_of_any_bytes_up_to_the_limit
            limits_are_errors
            keys_vanish_with_their_lease
            a_kept_alive_lease_stays
            revoking_deletes_keys_at_once
            a_put_without_lease_unbinds
            a_missing_lease_is_an_error
        );
    };
    ($fixture:expr; $($case:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                if let Some(fixture) = $fixture.await {
                    $crate::store::conformance::$case(fixture.store.as_ref()).await;
                }
            }
        )*
    };
}
pub(super) use conformance_suite;

pub(super) fn key(name: &str) -> Key {
    Key::new(format!("/globalfs/{name}")).unwrap()
}

pub(super) async fn put(store: &dyn MetaStore, name: &str, value: &[u8]) -> Revision {
    committed(store.txn(Txn::new().put(key(name), value)).await)
}

pub(super) fn committed(outcome: Result<TxnOutcome>) -> Revision {
    match outcome {
        Ok(TxnOutcome::Committed { revision }) => revision,
        other => panic!("not committed: {other:?}"),
    }
}

fn refused(outcome: Result<TxnOutcome>) -> Vec<Entry> {
    match outcome {
        Ok(TxnOutcome::Refused { current }) => current,
        other => panic!("not refused: {other:?}"),
    }
}

pub(super) async fn next(stream: &mut WatchStream) -> Event {
    let item = tokio::time::timeout(PATIENCE, stream.next()).await;
    item.expect("an event in time").expect("the stream goes on").expect("no error")
}

async fn current_revision(store: &dyn MetaStore) -> Revision {
    store.range(&key("")).await.unwrap().revision
}

async fn value(store: &dyn MetaStore, name: &str) -> Option<Vec<u8>> {
    store.get(&key(name)).await.unwrap().map(|entry| entry.value)
}

async fn increment(store: &dyn MetaStore, name: &str) {
    loop {
        let entry = store.get(&key(name)).await.unwrap().unwrap();
        let count: u32 = String::from_utf8(entry.value).unwrap().parse().unwrap();
        let condition = Condition::Unchanged(key(name), entry.mod_revision);
        let txn = Txn::new().when(condition).put(key(name), (count + 1).to_string());
        match store.txn(txn).await.unwrap() {
            TxnOutcome::Committed { .. } => return,
            // Somebody was faster: with a hundred at once that is the usual case.
            TxnOutcome::Refused { current } => assert_eq!(current.len(), 1),
        }
    }
}

pub(super) async fn a_hundred_increments_count_to_a_hundred(store: &dyn MetaStore) {
    put(store, "counter", b"0").await;
    let tasks = (0..100).map(|_| increment(store, "counter"));
    futures_util::future::join_all(tasks).await;
    assert_eq!(value(store, "counter").await, Some(b"100".to_vec()));
}

pub(super) async fn a_transaction_happens_whole_or_not_at_all(store: &dyn MetaStore) {
    put(store, "old", b"1").await;
    let change =
        |condition| Txn::new().when(condition).put(key("a"), "x").put(key("b"), "y").delete(key("old"));
    let before = store.range(&key("")).await.unwrap();
    let current = refused(store.txn(change(Condition::Absent(key("old")))).await);
    assert_eq!(current, before.entries);
    assert_eq!(store.range(&key("")).await.unwrap(), before);

    let revision = committed(store.txn(change(Condition::Absent(key("a")))).await);
    let after = store.range(&key("")).await.unwrap();
    assert_eq!(after.revision, revision);
    let names: Vec<_> = after.entries.iter().map(|entry| (entry.key.clone(), entry.mod_revision)).collect();
    assert_eq!(names, [(key("a"), revision), (key("b"), revision)]);

    let mut events = store.watch(&key(""), before.revision).await.unwrap();
    for _ in 0..3 {
        assert_eq!(next(&mut events).await.revision, revision);
    }
}

pub(super) async fn conditions_look_at_absence_revision_and_value(store: &dyn MetaStore) {
    let revision = put(store, "k", b"v").await;
    let missing = || key("missing");
    for condition in [
        Condition::Absent(missing()),
        Condition::Unchanged(key("k"), revision),
        Condition::Value(key("k"), b"v".to_vec()),
    ] {
        committed(store.txn(Txn::new().when(condition)).await);
    }
    for condition in [
        Condition::Absent(key("k")),
        Condition::Unchanged(key("k"), Revision(revision.0 - 1)),
        Condition::Unchanged(missing(), Revision(0)),
        Condition::Unchanged(missing(), revision),
        Condition::Value(key("k"), b"w".to_vec()),
        Condition::Value(missing(), Vec::new()),
    ] {
        let txn = Txn::new().when(Condition::Absent(missing())).when(condition.clone()).put(key("n"), "");
        let current = refused(store.txn(txn).await);
        assert!(current.iter().all(|entry| entry.key == key("k")), "{condition:?}");
    }
    assert_eq!(value(store, "n").await, None);
}

pub(super) async fn revisions_count_changes_only(store: &dyn MetaStore) {
    let first = put(store, "k", b"1").await;
    let second = put(store, "k", b"1").await;
    assert_eq!(second.0, first.0 + 1);
    assert_eq!(committed(store.txn(Txn::new().delete(key("missing"))).await), second);
    assert_eq!(committed(store.txn(Txn::new()).await), second);
    let entry = store.get(&key("k")).await.unwrap().unwrap();
    assert_eq!((entry.create_revision, entry.mod_revision), (first, second));

    committed(store.txn(Txn::new().delete(key("k"))).await);
    let recreated = put(store, "k", b"1").await;
    assert_eq!(recreated.0, second.0 + 2);
    assert_eq!(store.get(&key("k")).await.unwrap().unwrap().create_revision, recreated);
}

pub(super) async fn a_range_is_ordered_and_ends_with_its_prefix(store: &dyn MetaStore) {
    let names = ["a", "a/1", "a/\u{10ffff}", "ab", "a\u{7f}", "b", "\u{10ffff}", "\u{10ffff}\u{10ffff}"];
    for name in names {
        put(store, name, b"").await;
    }
    let beneath = async |prefix: &str| -> Vec<String> {
        let found = store.range(&key(prefix)).await.unwrap().entries;
        found.iter().map(|entry| entry.key.as_str()["/globalfs/".len()..].to_owned()).collect()
    };
    assert_eq!(beneath("").await, names);
    assert_eq!(beneath("a").await, ["a", "a/1", "a/\u{10ffff}", "ab", "a\u{7f}"]);
    assert_eq!(beneath("a/").await, ["a/1", "a/\u{10ffff}"]);
    assert_eq!(beneath("\u{10ffff}").await, ["\u{10ffff}", "\u{10ffff}\u{10ffff}"]);
    assert_eq!(beneath("c").await, [""; 0]);
}

pub(super) async fn a_large_range_is_complete(store: &dyn MetaStore) {
    let names: Vec<_> = (0..1000).map(|i| format!("n/{i:04}")).collect();
    for part in names.chunks(MAX_TXN_OPERATIONS) {
        let txn = part.iter().fold(Txn::new(), |txn, name| txn.put(key(name), name.as_bytes()));
        committed(store.txn(txn).await);
    }
    let found = store.range(&key("n/")).await.unwrap();
    assert_eq!(found.entries.len(), names.len());
    for (entry, name) in found.entries.iter().zip(&names) {
        assert_eq!((&entry.key, entry.value.as_slice()), (&key(name), name.as_bytes()));
    }
}

pub(super) async fn a_watch_from_the_past_has_no_gaps_while_writers_run(store: &dyn MetaStore) {
    const WRITERS: usize = 4;
    const WRITES: usize = 50;
    let start = current_revision(store).await;
    put(store, "w/first", b"").await;
    let writer = async |writer: usize| {
        for write in 0..WRITES {
            put(store, &format!("w/{writer}"), write.to_string().as_bytes()).await;
        }
    };
    let reader = async {
        let mut events = store.watch(&key("w/"), start).await.unwrap();
        let mut last: BTreeMap<Key, Vec<u8>> = BTreeMap::new();
        for expected in start.0 + 1..=start.0 + 1 + (WRITERS * WRITES) as u64 {
            let event = next(&mut events).await;
            assert_eq!(event.revision, Revision(expected));
            let Change::Put(entry) = event.change else { panic!("nothing is deleted") };
            assert_eq!(entry.mod_revision, event.revision);
            last.insert(entry.key, entry.value);
        }
        last
    };
    let (last, _) = tokio::join!(reader, futures_util::future::join_all((0..WRITERS).map(writer)));
    let stored = store.range(&key("w/")).await.unwrap().entries;
    assert_eq!(stored.into_iter().map(|entry| (entry.key, entry.value)).collect::<BTreeMap<_, _>>(), last);
}

pub(super) async fn a_watch_sees_its_prefix_only(store: &dyn MetaStore) {
    let mut events = store.watch(&key("a/"), current_revision(store).await).await.unwrap();
    for name in ["a", "ab", "a/1", "b", "a/\u{10ffff}", "a0"] {
        put(store, name, b"").await;
    }
    committed(store.txn(Txn::new().delete(key("a")).delete(key("a/1"))).await);
    assert_eq!(next(&mut events).await.change.key(), &key("a/1"));
    assert_eq!(next(&mut events).await.change.key(), &key("a/\u{10ffff}"));
    assert_eq!(next(&mut events).await.change, Change::Delete(key("a/1")));
}

pub(super) async fn a_watch_from_the_future_waits(store: &dyn MetaStore) {
    let now = current_revision(store).await;
    let mut events = store.watch(&key(""), Revision(now.0 + 2)).await.unwrap();
    for name in ["one", "two", "three"] {
        put(store, name, b"").await;
    }
    let event = next(&mut events).await;
    assert_eq!((event.revision, event.change.key()), (Revision(now.0 + 3), &key("three")));
}

pub(super) async fn values_of_any_bytes_up_to_the_limit(store: &dyn MetaStore) {
    let bytes: Vec<u8> = (0..MAX_VALUE_BYTES).map(|i| (i % 256) as u8).collect();
    let start = current_revision(store).await;
    for name in ["big/1", "big/2", "big/3", "big/4", "big/5"] {
        put(store, name, &bytes).await;
    }
    put(store, "empty", b"").await;
    assert_eq!(value(store, "big/3").await.as_ref(), Some(&bytes));
    assert_eq!(value(store, "empty").await, Some(Vec::new()));
    assert_eq!(store.range(&key("big/")).await.unwrap().entries.len(), 5);
    let mut events = store.watch(&key("big/"), start).await.unwrap();
    for _ in 0..5 {
        assert!(matches!(next(&mut events).await.change, Change::Put(entry) if entry.value == bytes));
    }
    let names = ["big/1", "big/2", "big/3", "big/4", "big/5", "empty"];
    let check = names.iter().fold(Txn::new(), |txn, name| txn.when(Condition::Absent(key(name))));
    assert_eq!(refused(store.txn(check).await).len(), names.len());
}

pub(super) async fn limits_are_errors(store: &dyn MetaStore) {
    let operations = |count: usize| (0..count).fold(Txn::new(), |txn, i| txn.put(key(&i.to_string()), ""));
    committed(store.txn(operations(MAX_TXN_OPERATIONS)).await);
    let conditions = |count: usize| {
        (0..count).fold(Txn::new(), |txn, i| txn.when(Condition::Absent(key(&format!("no/{i}")))))
    };
    committed(store.txn(conditions(MAX_TXN_OPERATIONS)).await);
    let half = vec![0; MAX_TXN_BYTES / 2];
    for too_much in [
        operations(MAX_TXN_OPERATIONS + 1),
        conditions(MAX_TXN_OPERATIONS + 1),
        Txn::new().put(key("k"), vec![0; MAX_VALUE_BYTES + 1]),
        Txn::new().put(key("k"), half.clone()).put(key("l"), half),
    ] {
        assert!(matches!(store.txn(too_much).await, Err(StoreError::Limit { .. })));
    }
    let twice = Txn::new().put(key("k"), "").delete(key("k"));
    assert!(matches!(store.txn(twice).await, Err(StoreError::Invalid(_))));
    let mut watches = Vec::new();
    for _ in 0..MAX_WATCHERS {
        watches.push(store.watch(&key("k"), Revision(0)).await.unwrap());
    }
    assert!(matches!(store.watch(&key("k"), Revision(0)).await, Err(StoreError::Limit { .. })));
    watches.pop();
    assert!(store.watch(&key("k"), Revision(0)).await.is_ok());
    assert!(matches!(store.lease_grant(Duration::MAX / 4).await, Err(StoreError::Limit { .. })));
}

async fn leased(store: &dyn MetaStore, names: &[&str]) -> (Lease, Revision) {
    let lease = store.lease_grant(MIN_LEASE_TTL).await.unwrap();
    assert!(lease.ttl >= MIN_LEASE_TTL && lease.ttl < PATIENCE / 2);
    let txn = names.iter().fold(Txn::new(), |txn, name| txn.put_leased(key(name), "v", lease.id));
    let revision = committed(store.txn(txn).await);
    (lease, revision)
}

async fn assert_deleted(store: &dyn MetaStore, names: &[&str], after: Revision) {
    let mut events = store.watch(&key(""), after).await.unwrap();
    let mut deleted = Vec::new();
    for _ in names {
        let event = next(&mut events).await;
        assert_eq!(event.revision, Revision(after.0 + 1));
        assert!(matches!(event.change, Change::Delete(_)));
        deleted.push(event.change.key().clone());
    }
    deleted.sort();
    assert_eq!(deleted, names.iter().map(|name| key(name)).collect::<Vec<_>>());
    for name in names {
        assert_eq!(value(store, name).await, None);
    }
}

pub(super) async fn keys_vanish_with_their_lease(store: &dyn MetaStore) {
    put(store, "stays", b"").await;
    let (lease, revision) = leased(store, &["l/1", "l/2"]).await;
    let start = tokio::time::Instant::now();
    assert_deleted(store, &["l/1", "l/2"], revision).await;
    // The lease began a moment before `start`.
    assert!(start.elapsed() > lease.ttl - Duration::from_millis(500));
    assert_eq!(store.lease_keep_alive(lease.id).await, Err(StoreError::LeaseGone(lease.id)));
    assert_eq!(value(store, "stays").await, Some(Vec::new()));
}

pub(super) async fn a_kept_alive_lease_stays(store: &dyn MetaStore) {
    let (lease, revision) = leased(store, &["l"]).await;
    let start = tokio::time::Instant::now();
    while start.elapsed() < lease.ttl * 3 {
        tokio::time::sleep(lease.ttl / 4).await;
        store.lease_keep_alive(lease.id).await.unwrap();
    }
    assert_eq!(value(store, "l").await, Some(b"v".to_vec()));
    assert_deleted(store, &["l"], revision).await;
}

pub(super) async fn revoking_deletes_keys_at_once(store: &dyn MetaStore) {
    let lease = store.lease_grant(MAX_LEASE_TTL).await.unwrap().id;
    let txn = Txn::new().put_leased(key("l/1"), "", lease).put_leased(key("l/2"), "", lease);
    let revision = committed(store.txn(txn).await);
    store.lease_revoke(lease).await.unwrap();
    assert_deleted(store, &["l/1", "l/2"], revision).await;
    assert_eq!(store.lease_revoke(lease).await, Err(StoreError::LeaseGone(lease)));
}

pub(super) async fn a_put_without_lease_unbinds(store: &dyn MetaStore) {
    let lease = store.lease_grant(MAX_LEASE_TTL).await.unwrap().id;
    committed(store.txn(Txn::new().put_leased(key("l"), "1", lease)).await);
    put(store, "l", b"2").await;
    store.lease_revoke(lease).await.unwrap();
    assert_eq!(value(store, "l").await, Some(b"2".to_vec()));
}

pub(super) async fn a_missing_lease_is_an_error(store: &dyn MetaStore) {
    let lease = LeaseId(12345);
    let gone = StoreError::LeaseGone(lease);
    let txn = Txn::new().put(key("a"), "").put_leased(key("b"), "", lease);
    assert_eq!(store.txn(txn.clone()).await, Err(gone.clone()));
    // The conditions come first: then the lease does not matter.
    assert_eq!(refused(store.txn(txn.when(Condition::Value(key("a"), Vec::new()))).await), []);
    assert_eq!(store.lease_keep_alive(lease).await, Err(gone));
    assert_eq!(value(store, "a").await, None);
}
