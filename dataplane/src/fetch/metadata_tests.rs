//! Names through a hop: what is repeated, for how long, and what is forgotten.

use super::tests::{Hop, hop, path, soon};
use super::*;
use crate::cache::fixture::{MIB, open};
use crate::testing::{Distant, MemorySource};
use globalfs_proto::{ChangedDirectory, Changes};
use std::time::Instant;
use tempfile::tempdir;
use tokio::time::sleep;

const ENODATA: FsError = FsError::Os(61);
const LONG: Duration = Duration::from_secs(60);

fn long_hop() -> Hop {
    hop(64 * MIB, LONG)
}

#[tokio::test]
async fn answers_are_repeated_within_the_ttl_and_no_longer() {
    let hop = hop(64 * MIB, Duration::from_millis(300));
    let old = hop.upstream.put_file("/a", "old");
    assert_eq!(hop.cached.stat(&path("/a"), soon()).await.unwrap(), old);
    let new = hop.upstream.put_file("/a", "new");
    assert_eq!(hop.cached.stat(&path("/a"), soon()).await.unwrap(), old);
    sleep(Duration::from_millis(500)).await;
    assert_eq!(hop.cached.stat(&path("/a"), soon()).await.unwrap(), new);
    assert_eq!(hop.upstream.calls(), 2);
}

#[tokio::test]
async fn a_listing_answers_for_the_entries() {
    let hop = long_hop();
    let attrs: Vec<_> = (0..100).map(|n| hop.upstream.put_file(&format!("/{n}"), "x")).collect();
    assert_eq!(hop.cached.list(&path("/"), soon()).await.unwrap().len(), 100);
    for (n, attr) in attrs.iter().enumerate() {
        assert_eq!(hop.cached.stat(&path(&format!("/{n}")), soon()).await.unwrap(), *attr);
    }
    assert_eq!(hop.upstream.calls(), 1);
    hop.upstream.put_file("/late", "x");
    assert_eq!(
        hop.cached.stat(&path("/late"), soon()).await,
        Err(FsError::NOT_FOUND),
        "nor that it is not there"
    );
    assert_eq!(hop.upstream.calls(), 1);
}

#[tokio::test]
async fn missing_names_and_links_are_repeated_other_errors_are_not() {
    let hop = long_hop();
    hop.upstream.put_symlink("/link", "target");
    for _ in 0..2 {
        assert_eq!(hop.cached.stat(&path("/none"), soon()).await, Err(FsError::NOT_FOUND));
        assert_eq!(hop.cached.list(&path("/none"), soon()).await.err(), Some(FsError::NOT_FOUND));
        assert_eq!(hop.cached.read_link(&path("/link"), soon()).await.unwrap(), "target");
    }
    assert_eq!(hop.upstream.calls(), 2);
    let failure = FsError::Unreachable("gone".to_owned());
    hop.upstream.set_failure(Some(failure.clone()));
    for _ in 0..2 {
        assert_eq!(hop.cached.stat(&path("/unknown/other"), soon()).await, Err(failure.clone()));
    }
    assert_eq!(hop.upstream.calls(), 4);
}

#[tokio::test]
async fn stat_fresh_asks_and_its_answer_is_known_from_then_on() {
    let hop = long_hop();
    let old = hop.upstream.put_file("/a", "old");
    hop.cached.list(&path("/"), soon()).await.unwrap();
    assert_eq!(hop.cached.stat(&path("/a"), soon()).await.unwrap(), old);
    let new = hop.upstream.put_file("/a", "new");
    assert_eq!(hop.cached.stat_fresh(&path("/a"), soon()).await.unwrap(), new);
    assert_eq!(hop.cached.stat(&path("/a"), soon()).await.unwrap(), new);
    hop.upstream.remove("/a");
    assert_eq!(hop.cached.stat_fresh(&path("/a"), soon()).await, Err(FsError::NOT_FOUND));
    assert_eq!(hop.cached.stat(&path("/a"), soon()).await, Err(FsError::NOT_FOUND));
    assert!(hop.cached.list(&path("/"), soon()).await.unwrap().is_empty());
}

#[tokio::test]
async fn many_askers_are_one_question() {
    let hop = long_hop();
    hop.upstream.put_file("/a", "x");
    hop.upstream.set_delay(Duration::from_millis(50));
    let asks = (0..50).map(|_| async { hop.cached.stat(&path("/a"), soon()).await.unwrap() });
    futures_util::future::join_all(asks).await;
    assert_eq!(hop.upstream.calls(), 1);
}

#[tokio::test]
async fn an_asker_with_a_short_deadline_harms_no_other() {
    let hop = long_hop();
    hop.upstream.put_file("/a", "x");
    hop.upstream.set_delay(Duration::from_millis(200));
    let short = Deadline::after(Duration::from_millis(40));
    let (asked, also) = (path("/a"), path("/a"));
    let (hasty, patient) = tokio::join!(hop.cached.stat(&asked, short), hop.cached.stat(&also, soon()));
    assert_eq!(hasty, Err(FsError::Deadline));
    assert!(patient.is_ok(), "{patient:?}");
}

#[tokio::test]
async fn extended_attributes_are_repeated_also_that_there_is_none() {
    let hop = long_hop();
    hop.upstream.put_file("/a", "x");
    hop.upstream.put_xattr("/a", "user.k", b"v");
    let before = hop.upstream.calls();
    for _ in 0..2 {
        assert_eq!(hop.cached.get_xattr(&path("/a"), b"user.k", soon()).await.unwrap(), "v");
        assert_eq!(hop.cached.list_xattr(&path("/a"), soon()).await.unwrap(), "user.k\0");
        assert_eq!(hop.cached.get_xattr(&path("/a"), b"user.none", soon()).await, Err(ENODATA));
        assert_eq!(hop.cached.get_xattr(&path("/none"), b"user.k", soon()).await, Err(FsError::NOT_FOUND));
    }
    assert_eq!(hop.upstream.calls() - before, 4);
}

#[tokio::test]
async fn what_a_listing_tells_is_not_asked_for() {
    let hop = long_hop();
    hop.upstream.set_details(true);
    for (name, with) in [("/plain", false), ("/with", true)] {
        hop.upstream.put_file(name, "x");
        if with {
            hop.upstream.put_xattr(name, "user.k", b"v");
        }
    }
    hop.upstream.put_symlink("/link", "target");
    hop.cached.list(&path("/"), soon()).await.unwrap();
    let before = hop.upstream.calls();
    for _ in 0..2 {
        assert_eq!(hop.cached.read_link(&path("/link"), soon()).await.unwrap(), "target");
        for (name, key) in [("/plain", "system.posix_acl_access"), ("/link", "security.selinux")] {
            assert_eq!(hop.cached.list_xattr(&path(name), soon()).await.unwrap(), "");
            assert_eq!(hop.cached.get_xattr(&path(name), key.as_bytes(), soon()).await, Err(ENODATA));
        }
    }
    assert_eq!(hop.upstream.calls(), before);
    assert_eq!(hop.cached.get_xattr(&path("/with"), b"user.k", soon()).await.unwrap(), "v");
    assert_eq!(hop.cached.read_link(&path("/plain"), soon()).await, Err(FsError::Os(22)));
    assert_eq!(hop.upstream.calls(), before + 2, "of these nothing was told");
}

#[tokio::test]
async fn what_a_listing_tells_counts_as_long_as_its_names() {
    let ttl = Duration::from_millis(300);
    let hop = hop(64 * MIB, ttl);
    hop.upstream.set_details(true);
    hop.upstream.set_watched(true);
    hop.upstream.put_file("/a", "x");
    hop.upstream.put_symlink("/link", "old");
    hop.cached.list(&path("/"), soon()).await.unwrap();
    let heard = async || {
        while !hop.cached.name_counters().is_watching {
            sleep(ttl / 50).await
        }
    };
    heard().await;
    sleep(ttl * 2).await;
    heard().await;
    hop.cached.list(&path("/"), soon()).await.unwrap();
    hop.upstream.put_xattr("/a", "user.k", b"v");
    hop.upstream.put_symlink("/link", "new");
    let before = hop.upstream.calls();
    assert_eq!(hop.cached.list_xattr(&path("/a"), soon()).await.unwrap(), "", "watched, and no change heard");
    assert_eq!(hop.upstream.calls(), before);
    tell(&hop, "/", &["a", "link"]).await;
    assert_eq!(hop.cached.list_xattr(&path("/a"), soon()).await.unwrap(), "user.k\0");
    assert_eq!(hop.cached.read_link(&path("/link"), soon()).await.unwrap(), "new");
}

#[tokio::test]
async fn who_asks_after_a_change_is_not_answered_with_what_was_before_it() {
    let delay = Duration::from_millis(300);
    let hop = long_hop();
    hop.upstream.set_watched(true);
    hop.cached.list(&path("/"), soon()).await.unwrap();
    while !hop.cached.name_counters().is_watching {
        sleep(delay / 50).await;
    }
    hop.upstream.put_directory("/late");
    tell(&hop, "/", &["late"]).await;
    hop.upstream.set_answer_delay(delay);
    let (at, cached) = (path("/late"), hop.cached.clone());
    let early = tokio::spawn(async move { cached.list(&at, soon()).await.unwrap().len() });
    sleep(delay / 3).await;
    hop.upstream.put_file("/late/new", "x");
    tell(&hop, "/late", &["new"]).await;
    assert!(!early.is_finished(), "its answer is on the way");
    assert_eq!(hop.cached.list(&path("/late"), soon()).await.unwrap().len(), 1);
    assert_eq!(early.await.unwrap(), 0, "that was so when it was asked");
    assert_eq!(hop.cached.list(&path("/late"), soon()).await.unwrap().len(), 1);
}

/// A file appears, and is written while its attributes are asked for.
#[tokio::test]
async fn what_changes_while_it_is_asked_for_is_asked_for_again_at_once() {
    let (dir, round_trip, upstream) = (tempdir().unwrap(), Duration::from_millis(300), MemorySource::new());
    upstream.set_watched(true);
    let distant = Distant::new(Arc::new(upstream.clone()), round_trip, 1 << 30);
    let options = Options { metadata_ttl: LONG, ..Options::default() };
    let cached = Cached::new(Arc::new(distant.clone()), open(dir.path(), 64 * MIB), options);
    let hop = Hop { upstream, cached, dir };
    hop.cached.list(&path("/"), soon()).await.unwrap();
    hop.upstream.put_file("/a", "");
    tell(&hop, "/", &["a"]).await;
    let (before, begun) = (distant.requests(), Instant::now());
    let (at, cached) = (path("/a"), hop.cached.clone());
    let first = tokio::spawn(async move { cached.stat(&at, soon()).await.unwrap() });
    sleep(round_trip / 6).await;
    let new = hop.upstream.put_file("/a", "written");
    tell(&hop, "/", &["a"]).await;
    first.await.unwrap();
    assert_eq!(hop.cached.stat_fresh(&path("/a"), soon()).await.unwrap(), new);
    assert!(
        begun.elapsed() < round_trip * 3 / 2,
        "{:?}: two round trips one after the other",
        begun.elapsed()
    );
    assert_eq!(distant.requests() - before, 2);
    assert_eq!(hop.cached.stat(&path("/a"), soon()).await.unwrap(), new);
    assert_eq!(distant.requests() - before, 2);
}

/// Returns when the hop has heard that `names` in `directory` changed.
async fn tell(hop: &Hop, directory: &str, names: &[&str]) {
    let names = names.iter().map(|name| Bytes::copy_from_slice(name.as_bytes())).collect();
    let directories = vec![ChangedDirectory { path: path(directory), names }];
    let before = hop.cached.name_counters().changes;
    hop.upstream.hub().tell(Arc::new(Changes::of(directories)));
    while hop.cached.name_counters().changes == before {
        sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn totals_pass_through() {
    let hop = long_hop();
    let before = hop.upstream.calls();
    for _ in 0..2 {
        hop.cached.fs_stat(&path("/"), soon()).await.unwrap();
    }
    assert_eq!(hop.upstream.calls() - before, 2);
}
