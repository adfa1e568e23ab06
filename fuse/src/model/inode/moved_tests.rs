//! Directories of subtrees that are handed over, in the table of nodes.

use super::super::tests::{at, attr, directory, path_of};
use super::*;
use globalfs_proto::{Fence, FsError};

const ROOT: NodeId = NodeId::ROOT;

fn file(inode: u64) -> Attr {
    attr(inode, FileKind::Regular, 0)
}

fn path(text: &str) -> GlobalPath {
    GlobalPath::new(text.as_bytes()).unwrap()
}

fn handed(scope: &str, fence: u64) -> [HandedOver; 1] {
    [HandedOver { scope: path(scope), fence: Fence(fence) }]
}

/// `/r/job/a/b`: each a directory, its inode's number by its depth.
fn with_job() -> (InodeTable, [NodeId; 4]) {
    let mut table = InodeTable::new();
    let mut parent = ROOT;
    let names: [&[u8]; 4] = [b"r", b"job", b"a", b"b"];
    let mut inode = 0;
    let nodes = names.map(|name| {
        inode += 1;
        parent = table.look_up(at(parent, name), &directory(inode)).unwrap();
        parent
    });
    (table, nodes)
}

#[test]
fn a_directory_that_another_site_has_now_is_the_same_one() {
    let mut table = InodeTable::new();
    let of_site = |origin, inode| Attr { file: FileId { origin, inode }, ..directory(inode) };
    let id = table.look_up(at(ROOT, b"d"), &of_site(1, 5)).unwrap();
    let inside = table.look_up(at(id, b"f"), &file(9)).unwrap();
    assert_eq!(table.look_up(at(ROOT, b"d"), &of_site(2, 6)).unwrap(), id);
    assert_eq!((table.id_of(&of_site(2, 6)), path_of(&table, inside)), (id, "/d/f".to_owned()));
    assert!(table.refresh(id, &of_site(1, 5)).is_ok(), "and back");
    assert_eq!(table.id_of(&of_site(1, 5)), id);
    assert_ne!(table.look_up(at(ROOT, b"d"), &of_site(1, 7)).unwrap(), id, "another one took the place");
    assert_ne!(table.look_up(at(ROOT, b"e"), &of_site(3, 5)).unwrap(), id, "another place");
}

#[test]
fn a_directory_of_a_subtree_that_was_taken_is_found_at_its_place() {
    let there = |attr: Attr| Attr { file: FileId { origin: 8, ..attr.file }, ..attr };
    let mut table = InodeTable::new();
    let id = table.look_up(at(ROOT, b"d"), &directory(5)).unwrap();
    assert_eq!(table.living_id(&there(directory(6))), None);
    assert_eq!(table.living_at(at(ROOT, b"d"), &there(directory(6))), Some(id));
    table.relocate(id, at(ROOT, b"e"));
    assert_eq!(table.path(id).unwrap(), GlobalPath::new(b"/e").unwrap());
    table.part(id);
    assert_eq!(table.living_at(at(ROOT, b"e"), &directory(7)), None, "a dead one is not taken for a new one");
}

#[test]
fn who_is_in_a_directory_of_a_subtree_that_was_taken_anew_stays_there() {
    let (mut table, [r, job, a, b]) = with_job();
    assert_eq!(table.hear(&handed("/r/job", 1)), [path("/r/job")]);
    assert_eq!(table.refresh(b, &directory(14)).map(drop), Ok(()), "by its number");
    assert_eq!(table.look_up(at(r, b"job"), &directory(12)).unwrap(), job);
    assert_eq!(table.look_up(at(job, b"a"), &directory(13)).unwrap(), a, "by its place");
    assert_eq!(path_of(&table, b), "/r/job/a/b");
    assert_eq!([12, 13, 14].map(|inode| table.id_of(&directory(inode))), [job, a, b]);
    assert!(matches!(table.refresh(r, &directory(11)), Err(FsError::Stale(_))), "it is above");
}

#[test]
fn a_directory_is_found_anew_once_for_each_hand_over() {
    let (mut table, [_, job, a, _]) = with_job();
    let is_stale = |table: &mut InodeTable, id, inode| table.refresh(id, &directory(inode)).is_err();
    assert!(is_stale(&mut table, job, 12), "no hand-over");
    table.hear(&handed("/r/job", 1));
    assert!(!is_stale(&mut table, job, 12));
    assert!(is_stale(&mut table, job, 13), "removed, and another one made");
    assert!(table.hear(&handed("/r/job", 1)).is_empty(), "told again with each connection");
    assert!(is_stale(&mut table, job, 13));
    assert_ne!(table.look_up(at(job, b"a"), &directory(23)).unwrap(), ROOT);
    table.hear(&handed("/r/job", 2));
    assert!(!is_stale(&mut table, job, 13) && !is_stale(&mut table, a, 24));
}

#[test]
fn a_directory_that_was_removed_here_is_none_that_is_found_after_a_hand_over() {
    let (mut table, [_, job, a, _]) = with_job();
    table.part(a);
    table.hear(&handed("/r/job", 1));
    assert!(table.refresh(a, &directory(13)).is_err());
    assert_ne!(table.look_up(at(job, b"a"), &directory(13)).unwrap(), a);
}

#[test]
fn an_old_number_is_another_directorys_after_a_hand_over() {
    let (mut table, [_, job, a, b]) = with_job();
    table.hear(&handed("/r/job", 1));
    let new = table.look_up(at(job, b"new"), &directory(3)).unwrap();
    assert!(new != a && new != b);
    assert_eq!(table.look_up(at(job, b"a"), &directory(4)).unwrap(), a);
    assert_eq!(table.look_up(at(a, b"b"), &directory(5)).unwrap(), b);
    assert_eq!(path_of(&table, b), "/r/job/a/b");
}

#[test]
fn a_directory_of_which_another_one_was_found_at_its_place_comes_back() {
    let (mut table, [_, job, a, b]) = with_job();
    let early = table.look_up(at(job, b"a"), &directory(13)).unwrap();
    assert_ne!(early, a, "before the word of it");
    assert!(table.refresh(b, &directory(14)).is_err());
    table.hear(&handed("/r/job", 1));
    assert!(table.refresh(a, &directory(13)).is_ok() && table.refresh(b, &directory(14)).is_ok());
    assert_eq!(table.look_up(at(job, b"a"), &directory(13)).unwrap(), a);
}

#[test]
fn what_was_found_too_early_is_not_taken_for_a_replacement_where_subtrees_are_handed_over() {
    let (mut table, [r, job, a, _]) = with_job();
    assert!(!table.awaits_word(a, &directory(13)), "no subtree ever was");
    table.hear(&handed("/r/job", 1));
    assert!(!table.awaits_word(a, &directory(13)), "it is known to have another number");
    table.refresh(a, &directory(13)).unwrap();
    assert!(table.awaits_word(a, &directory(23)) && !table.awaits_word(a, &directory(13)));
    assert!(!table.awaits_word(r, &directory(21)));
    assert!(!table.awaits_word(a, &file(23)));
    // The number of what is made is what `a` had at first.
    table.hear(&handed("/r/job", 2));
    table.refresh(a, &directory(30)).unwrap();
    table.part_dead(at(job, b"new"), &directory(30));
    assert!(table.refresh(a, &directory(31)).is_ok());
    table.part_dead(at(job, b"a"), &directory(31));
    assert!(table.refresh(a, &directory(31)).is_err(), "it was removed elsewhere, and made here");
}
