//! What this mount changes, in the table of nodes.

use super::super::tests::{at, attr, directory};
use super::*;
use globalfs_proto::GlobalPath;

const ROOT: NodeId = NodeId::ROOT;

fn regular(ctime_ns: i64) -> Attr {
    attr(5, FileKind::Regular, ctime_ns)
}

fn changed(before: &Attr, after: &Attr) -> Changed {
    Changed { before: Some(before.version()), attr: Some(*after), ..Changed::default() }
}

fn with_file() -> (InodeTable, NodeId) {
    let mut table = InodeTable::new();
    let id = table.look_up(at(ROOT, b"f"), &regular(0)).unwrap();
    (table, id)
}

#[test]
fn what_this_mount_changes_keeps_its_number() {
    let (mut table, id) = with_file();
    table.begin_change(id).unwrap();
    assert_eq!(table.end_change(id, Some(&changed(&regular(0), &regular(1)))), Pages::Keep);
    assert_eq!(table.look_up(at(ROOT, b"f"), &regular(1)).unwrap(), id);
    assert_eq!(table.look_up(at(ROOT, b"f"), &regular(0)).unwrap(), id, "an answer that was overtaken");
    assert_eq!(table.attr(id).unwrap().ctime_ns, 1);
    let other = table.look_up(at(ROOT, b"f"), &regular(2)).unwrap();
    assert_ne!(other, id, "others have changed it");
    table.forget(id, 3);
    table.forget(other, 1);
    assert_eq!((table.len(), table.own.len()), (1, 0));
}

#[test]
fn who_writes_follows_the_file() {
    let (mut table, id) = with_file();
    table.go_live(id).unwrap();
    table.pin(id).unwrap();
    let seen = table.sight(at(ROOT, b"f"), &regular(3)).unwrap();
    assert_eq!((seen.id, seen.pages, seen.attr.ctime_ns), (id, Pages::Drop, 3), "others wrote, too");
    table.begin_change(id).unwrap();
    let seen = table.sight(at(ROOT, b"f"), &regular(4)).unwrap();
    assert_eq!((seen.id, seen.pages, seen.attr.ctime_ns), (id, Pages::Keep, 3), "it may be our own");
    assert_eq!(table.end_change(id, Some(&changed(&regular(3), &regular(4)))), Pages::Keep);
    table.begin_change(id).unwrap();
    assert_eq!(table.end_change(id, Some(&changed(&regular(5), &regular(6)))), Pages::Drop);
    assert_eq!(table.refresh(id, &regular(7)), Ok(Pages::Drop));
    table.unpin(id);
    assert!(matches!(table.refresh(id, &regular(8)), Err(FsError::Stale(_))), "one version again");
    assert_ne!(table.look_up(at(ROOT, b"f"), &regular(8)).unwrap(), id);
}

#[test]
fn a_file_has_one_live_node() {
    let (mut table, id) = with_file();
    table.go_live(id).unwrap();
    table.pin(id).unwrap();
    table.part(id);
    let other = table.look_up(at(ROOT, b"f"), &regular(0)).unwrap();
    assert_ne!(other, id);
    table.go_live(other).unwrap();
    assert!(table.refresh(id, &regular(0)).is_err() && table.go_live(id).is_err());
    table.part_dead(at(ROOT, b"new"), &regular(9));
    assert!(!table.is_live(other), "a new file has the same number");
}

#[test]
fn what_moves_takes_along_what_lies_in_it() {
    let (mut table, id) = with_file();
    let d = table.look_up(at(ROOT, b"d"), &directory(1)).unwrap();
    let e = table.look_up(at(d, b"e"), &directory(2)).unwrap();
    table.relocate(id, at(e, b"g"));
    table.relocate(d, at(ROOT, b"moved"));
    assert_eq!(table.path(id).unwrap().to_string(), "/moved/e/g");
    assert_eq!(table.directory_at(&GlobalPath::new(b"/moved/e").unwrap()), Some(e));
    table.relocate(d, at(e, b"never"));
    assert_eq!(table.path(id).unwrap().to_string(), "/moved/e/g", "not into itself");
    assert_eq!(table.look_up(at(e, b"g"), &regular(1)).unwrap(), id, "by another name it is the same");
    assert_ne!(table.look_up(at(e, b"g"), &regular(2)).unwrap(), id, "but once");
    [(id, 2), (e, 1), (d, 1)].into_iter().for_each(|(id, count)| table.forget(id, count));
}

#[test]
fn a_hidden_name_stays_where_it_is_until_the_last_close() {
    let (mut table, id) = with_file();
    (0..2).for_each(|_| table.pin(id).unwrap());
    table.relocate(id, at(ROOT, b"hidden"));
    table.set_removed(id);
    assert_eq!(table.look_up(at(ROOT, b"second"), &regular(1)).unwrap(), id);
    assert_eq!(table.path(id).unwrap().to_string(), "/hidden");
    assert_eq!(table.attr(id).unwrap().nlink, 0);
    assert!(!table.begin_going(id));
    table.unpin(id);
    assert!(table.begin_going(id));
    table.end_removed(id);
    table.unpin(id);
    table.look_up(at(ROOT, b"second"), &regular(1)).unwrap();
    assert_eq!(table.path(id).unwrap().to_string(), "/second");
}

#[test]
fn a_directory_that_was_made_is_none_that_the_kernel_knows_as_dead() {
    let mut table = InodeTable::new();
    let id = table.look_up(at(ROOT, b"d"), &directory(5)).unwrap();
    table.pin(id).unwrap();
    assert_eq!(table.look_up(at(ROOT, b"d"), &directory(5)).unwrap(), id);
    table.part_dead(at(ROOT, b"e"), &directory(5));
    let other = table.look_up(at(ROOT, b"e"), &directory(5)).unwrap();
    assert_ne!(other, id);
    assert_eq!(table.look_up(at(ROOT, b"e"), &directory(5)).unwrap(), other);
    assert!(matches!(table.refresh(id, &directory(5)), Err(FsError::Stale(_))));
    let path = GlobalPath::new(b"/e").unwrap();
    assert_eq!((table.path(other), table.directory_at(&path)), (Ok(path), Some(other)));
}

#[test]
fn what_is_told_of_another_name_is_doubted_when_one_is_of_an_old_version() {
    let mut table = InodeTable::new();
    let id = table.look_up(at(ROOT, b"a"), &regular(0)).unwrap();
    assert_eq!(table.look_up(at(ROOT, b"b"), &regular(0)).unwrap(), id);
    assert!(!table.is_outdated(&regular(0)));
    assert!(matches!(table.refresh(id, &regular(1)), Err(FsError::Stale(_))));
    assert!(table.is_outdated(&regular(0)) && !table.is_outdated(&regular(1)));
    table.look_up(at(ROOT, b"a"), &regular(0)).unwrap();
    assert!(!table.is_outdated(&regular(0)), "it is what this name has");
}

#[test]
fn what_is_told_of_the_directories_above_is_doubted_until_they_are_looked_up() {
    let mut table = InodeTable::new();
    let top = table.look_up(at(ROOT, b"top"), &directory(5)).unwrap();
    let below = table.look_up(at(top, b"below"), &directory(6)).unwrap();
    let file = table.look_up(at(below, b"file"), &regular(0)).unwrap();
    table.look_up(at(ROOT, b"beside"), &directory(7)).unwrap();
    table.doubt(file);
    assert!(table.is_outdated(&directory(5)) && table.is_outdated(&directory(6)));
    assert!(!table.is_outdated(&directory(7)));
    table.look_up(at(ROOT, b"top"), &directory(5)).unwrap();
    assert!(!table.is_outdated(&directory(5)) && table.is_outdated(&directory(6)));
}
