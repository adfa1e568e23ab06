//! What requests mean, tested without a kernel over a volume in memory.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{MemoryVolume, path};
use globalfs_fuse::operations::{Filled, Line, Operations, Reached};
use globalfs_fuse::{Identity, NodeId};
use globalfs_proto::{FileKind, FsError, FsResult, Owner};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const ROOT: NodeId = NodeId::ROOT;
const ENAMETOOLONG: FsError = FsError::Os(36);
const EBADF: FsError = FsError::Os(9);
const EIO: FsError = FsError::Os(5);

fn mounted() -> (Arc<MemoryVolume>, Operations<MemoryVolume>) {
    let volume = MemoryVolume::new();
    (volume.clone(), Operations::new(volume))
}

async fn read_all(operations: &Operations<MemoryVolume>, handle: u64) -> FsResult<Vec<u8>> {
    let (mut content, step) = (Vec::new(), 100_000);
    loop {
        let pieces = operations.read(handle, content.len() as u64, step).await?;
        if pieces.is_empty() {
            return Ok(content);
        }
        pieces.iter().for_each(|p| content.extend_from_slice(p));
    }
}

fn is_stale<T>(result: FsResult<T>) -> bool {
    matches!(result, Err(FsError::Stale(_)))
}

#[tokio::test]
async fn a_file_is_found_opened_and_read() {
    let (volume, operations) = mounted();
    let content: Vec<u8> = (0..250_000u32).map(|n| n as u8).collect();
    volume.directory("/d");
    let attr = volume.file("/d/f", content.clone());
    let directory = operations.look_up(ROOT, b"d").await.unwrap();
    let file = operations.look_up(directory.id, b"f").await.unwrap();
    assert_eq!((file.attr, file.id), (attr, Identity::of(&attr).preferred_id()));
    let handle = operations.open(file.id).await.unwrap();
    assert_eq!(read_all(&operations, handle).await.unwrap(), content);
    assert_eq!(operations.read(handle, 250_000, 10).await.unwrap().len(), 0);
    assert_eq!(operations.read(handle, u64::MAX, 10).await.unwrap().len(), 0);
    operations.release(handle).unwrap();
    assert_eq!(operations.read(handle, 0, 10).await, Err(EBADF));
    assert_eq!(operations.release(handle), Err(EBADF));
}

#[tokio::test]
async fn names_that_cannot_be_are_refused() {
    let (_, operations) = mounted();
    let error = async |name: &[u8]| operations.look_up(ROOT, name).await.unwrap_err();
    assert_eq!(error(b"none").await, FsError::NOT_FOUND);
    assert_eq!(error(&[b'x'; 256]).await, ENAMETOOLONG);
    assert_eq!(error(b"..").await, FsError::Os(22));
    assert!(is_stale(operations.look_up(NodeId(99), b"f").await));
}

#[tokio::test]
async fn a_changed_file_is_another_node() {
    let (volume, operations) = mounted();
    volume.file("/f", "old");
    let old = operations.look_up(ROOT, b"f").await.unwrap();
    volume.change("/f", "newer", false);
    assert!(is_stale(operations.get_attr(old.id).await));
    assert!(is_stale(operations.open(old.id).await));
    let new = operations.look_up(ROOT, b"f").await.unwrap();
    assert_ne!(old.id, new.id);
    let handle = operations.open(new.id).await.unwrap();
    assert_eq!(read_all(&operations, handle).await.unwrap(), b"newer");
}

#[tokio::test]
async fn an_open_file_keeps_its_version_or_fails() {
    let (volume, operations) = mounted();
    for keep in [true, false] {
        volume.file("/f", "old");
        let node = operations.look_up(ROOT, b"f").await.unwrap();
        let handle = operations.open(node.id).await.unwrap();
        volume.change("/f", "newer", keep);
        assert_eq!(operations.get_attr(node.id).await.unwrap().attr, node.attr, "pinned");
        match read_all(&operations, handle).await {
            Ok(content) => assert!(keep && content == b"old"),
            Err(error) => assert!(!keep && matches!(error, FsError::Stale(_))),
        }
        operations.release(handle).unwrap();
        assert!(is_stale(operations.get_attr(node.id).await), "no longer pinned");
    }
}

#[tokio::test]
async fn a_short_read_in_the_middle_is_an_error() {
    let (volume, operations) = mounted();
    volume.file("/f", vec![7; 1000]);
    let node = operations.look_up(ROOT, b"f").await.unwrap();
    let handle = operations.open(node.id).await.unwrap();
    volume.cut_short(1);
    assert!(matches!(operations.read(handle, 0, 100).await, Err(FsError::Protocol(_))));
    assert!(matches!(operations.read(handle, 900, 4096).await, Err(FsError::Protocol(_))));
}

#[tokio::test]
async fn what_is_gone_is_looked_up_again() {
    let (volume, operations) = mounted();
    volume.file("/f", "x");
    volume.symlink("/l", "f");
    let file = operations.look_up(ROOT, b"f").await.unwrap();
    let link = operations.look_up(ROOT, b"l").await.unwrap();
    assert_eq!(operations.read_link(link.id).await.unwrap(), "f");
    let handle = operations.open(file.id).await.unwrap();
    volume.remove("/f");
    volume.remove("/l");
    assert!(is_stale(operations.open(file.id).await));
    assert!(is_stale(operations.read_link(link.id).await));
    assert!(is_stale(operations.get_attr(link.id).await));
    assert!(is_stale(operations.read(handle, 0, 1).await));
    assert_eq!(operations.get_attr(file.id).await.unwrap().attr.size, 1, "fstat goes on");
}

#[tokio::test]
async fn a_file_renamed_at_the_origin_is_followed() {
    let (volume, operations) = mounted();
    volume.directory("/a");
    volume.directory("/b");
    volume.file("/a/f", "content");
    let a = operations.look_up(ROOT, b"a").await.unwrap();
    let file = operations.look_up(a.id, b"f").await.unwrap();
    let handle = operations.open(file.id).await.unwrap();
    volume.rename("/a", "/b/c");
    let b = operations.look_up(ROOT, b"b").await.unwrap();
    assert_eq!(operations.look_up(b.id, b"c").await.unwrap().id, a.id);
    assert_eq!(read_all(&operations, handle).await.unwrap(), b"content");
}

type Seen = Vec<(Vec<u8>, NodeId, u64)>;

async fn list(operations: &Operations<MemoryVolume>, directory: NodeId, from: u64, room: usize) -> Seen {
    let mut seen = Seen::new();
    let take = |line: Line<'_>| {
        if seen.len() == room {
            return Filled::Full;
        }
        seen.push((line.name.to_vec(), line.node.id, line.offset_after));
        Filled::Taken
    };
    operations.read_dir_plus(directory, from, take).await.unwrap();
    seen
}

#[tokio::test]
async fn a_listing_stays_what_it_was_until_rewound() {
    let (volume, operations) = mounted();
    for n in 0..5 {
        volume.file(&format!("/{n}"), "");
    }
    let first = list(&operations, ROOT, 0, 4).await;
    let names: Vec<_> = first.iter().map(|(name, ..)| &name[..]).collect();
    assert_eq!(names, [&b"."[..], b"..", b"0", b"1"]);
    volume.remove("/3");
    let rest = list(&operations, ROOT, first[3].2, 100).await;
    assert_eq!(rest.iter().map(|(name, ..)| &name[..]).collect::<Vec<_>>(), [&b"2"[..], b"3", b"4"]);
    assert_eq!(list(&operations, ROOT, rest[2].2, 100).await.len(), 0);
    assert_eq!(list(&operations, ROOT, first[3].2, 1).await[0].0, b"2", "seekable");
    assert_eq!(volume.lists.load(Ordering::Relaxed), 1);
    assert_eq!(list(&operations, ROOT, 0, 100).await.len(), 2 + 4);
    assert_eq!(volume.lists.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn listings_count_lookups_of_what_was_taken_alone() {
    let (volume, operations) = mounted();
    for n in 0..10 {
        volume.file(&format!("/{n}"), "");
    }
    let seen = list(&operations, ROOT, 0, 5).await;
    assert_eq!(operations.counts(), (1 + 3, 0), "the root and three files");
    let mut plain = 0;
    let count = |_: Line<'_>| {
        plain += 1;
        Filled::Taken
    };
    operations.read_dir(ROOT, 0, count).await.unwrap();
    assert_eq!((plain, operations.counts().0), (12, 4), "plain listings count none");
    seen[2..].iter().for_each(|(_, id, _)| operations.forget(*id, 1));
    assert_eq!(operations.counts(), (1, 0));
}

#[tokio::test]
async fn the_kernel_keeps_what_it_was_told_while_it_counts() {
    let (volume, operations) = mounted();
    volume.file("/f", "");
    let end = async |from| {
        let mut after = from;
        loop {
            let before = after;
            let take = |line: Line<'_>| {
                after = line.offset_after;
                Filled::Taken
            };
            let reached = operations.read_dir(ROOT, before, take).await.unwrap();
            if after == before {
                return (reached, before);
            }
        }
    };
    let (reached, unwatched) = end(0).await;
    assert_eq!(reached, Reached::OutdatedEnd, "nobody would tell");
    volume.set_edition(7);
    let (reached, seventh) = end(0).await;
    assert_eq!(reached, Reached::End);
    assert_eq!(end(unwatched).await.0, Reached::OutdatedEnd);
    volume.set_edition(8);
    assert_eq!(end(seventh).await.0, Reached::OutdatedEnd);
    volume.remove("/f");
    volume.set_edition(9);
    assert_eq!(end(0).await.0, Reached::End);
    assert_eq!(end(seventh).await.0, Reached::OutdatedEnd);
}

#[tokio::test]
async fn a_listing_of_long_ago_is_stale() {
    let (volume, operations) = mounted();
    volume.directory("/d");
    for n in 0..3 {
        volume.file(&format!("/{n}"), "");
    }
    volume.set_edition(1);
    let first = list(&operations, ROOT, 0, 3).await[2].2;
    let d = operations.look_up(ROOT, b"d").await.unwrap().id;
    let others = async |editions: std::ops::Range<u64>| {
        for edition in editions {
            volume.set_edition(edition);
            list(&operations, d, 0, 3).await;
        }
    };
    others(1000..20_000).await;
    volume.set_edition(1);
    assert_eq!(list(&operations, ROOT, first, 9).await.len(), 3, "that is known again");
    others(1000..20_000).await;
    assert!(is_stale(operations.read_dir(ROOT, first, |_| Filled::Taken).await));
}

#[tokio::test]
async fn both_kinds_of_listing_and_a_lookup_agree_on_numbers() {
    let (volume, operations) = mounted();
    volume.file("/f", "x");
    volume.hard_link("/f", "/g");
    volume.put(&path("/p"), FileKind::Fifo, 0o600, "".into());
    for (name, id, _) in list(&operations, ROOT, 0, 10).await.split_off(2) {
        assert_eq!(operations.look_up(ROOT, &name).await.unwrap().id, id);
    }
    let f = operations.look_up(ROOT, b"f").await.unwrap();
    assert_eq!(operations.look_up(ROOT, b"g").await.unwrap().id, f.id);
}

#[tokio::test]
async fn errors_of_the_volume_pass_through() {
    let (volume, operations) = mounted();
    volume.file("/f", "x");
    let node = operations.look_up(ROOT, b"f").await.unwrap();
    volume.fail(Some(FsError::Deadline));
    assert_eq!(operations.get_attr(ROOT).await.unwrap_err(), FsError::Deadline);
    assert_eq!(operations.open(node.id).await, Err(FsError::Deadline));
    assert_eq!(operations.fs_stat(ROOT).await, Err(FsError::Deadline));
    assert_eq!(operations.list_xattr(node.id, 0).await, Err(FsError::Deadline));
    assert_eq!(operations.counts(), (2, 0), "a failed open pins nothing");
    volume.fail(None);
    assert!(operations.get_attr(ROOT).await.is_ok());
}

#[tokio::test]
async fn extended_attributes_are_handed_on() {
    let (volume, operations) = mounted();
    volume.file("/f", "x");
    volume.set_xattr("/f", "user.a", b"1");
    volume.set_xattr("/f", "user.b", b"");
    let node = operations.look_up(ROOT, b"f").await.unwrap();
    assert_eq!(operations.get_xattr(node.id, b"user.a").await.unwrap(), "1");
    assert_eq!(operations.get_xattr(node.id, b"user.c").await, Err(FsError::Os(common::ENODATA)));
    assert_eq!(operations.list_xattr(node.id, 0).await.unwrap(), "user.a\0user.b\0");
    volume.set_xattr("/f", "security.selinux", b"label");
    assert_eq!(operations.get_xattr(node.id, b"security.selinux").await, Err(FsError::Os(95)));
    assert_eq!(operations.list_xattr(node.id, 0).await.unwrap(), "user.a\0user.b\0");
}

#[tokio::test]
async fn a_close_counts_when_what_was_changed_is_confirmed() {
    let (volume, operations) = mounted();
    volume.make_writable();
    let sure = |answer: FsResult<()>| *volume.confirmed.lock() = Some(answer);
    sure(Ok(()));
    let owner = Owner { uid: 0, gid: 0, mode: 0o644 };
    let (file, handle) = operations.create(ROOT, b"f", owner, true, false).await.unwrap();
    sure(Err(EIO));
    // Of one lookup of several, which says nothing of the file.
    operations.look_up(ROOT, b"f").await.unwrap();
    operations.forget(file.id, 1);
    for _ in 0..2 {
        assert_eq!(operations.flush(file.id, handle).await, Err(EIO), "as often as it is closed");
    }
    sure(Ok(()));
    assert_eq!(operations.flush(file.id, handle).await, Ok(()));
    sure(Err(EIO));
    assert_eq!(operations.flush(file.id, handle).await, Ok(()), "nothing has changed since");
}
