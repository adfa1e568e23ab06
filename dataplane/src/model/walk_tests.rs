//! Walks of every kind through trees, and what may never happen in any of them.

use super::*;
use bytes::Bytes;
use globalfs_proto::{Attr, FileId};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use std::collections::HashSet;

const MIB: u64 = 1024 * 1024;

fn path(text: &str) -> GlobalPath {
    GlobalPath::new(text.as_bytes()).unwrap()
}

fn entry(name: &str, inode: u64, kind: FileKind, size: u64) -> DirEntry {
    let attr = Attr {
        file: FileId { origin: 1, inode },
        kind,
        mode: 0o644,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        size,
        blocks: 0,
        atime_ns: 0,
        mtime_ns: 0,
        ctime_ns: 0,
        no_xattrs: false,
    };
    DirEntry::new(Bytes::copy_from_slice(name.as_bytes()), attr)
}

/// A tree of directories below `/t`, each with files, listed in no order of names.
struct Tree {
    listings: HashMap<GlobalPath, Arc<[DirEntry]>>,
    /// Every file in the order of the listings, depth first.
    files: Vec<(GlobalPath, u64)>,
}

impl Tree {
    fn new(seed: u64, directories: usize, files: usize, largest: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut tree = Self { listings: HashMap::new(), files: Vec::new() };
        let mut top = Vec::new();
        for d in 0..directories {
            let mut numbers: Vec<usize> = (0..files).collect();
            numbers.shuffle(&mut random);
            let at = path(&format!("/t/d{d:03}"));
            let list = |n: &usize| {
                let inode = (d * files + n) as u64 + 100;
                entry(&format!("f{n:04}"), inode, FileKind::Regular, random.random_range(1..=largest))
            };
            let listing: Arc<[DirEntry]> = numbers.iter().map(list).collect();
            tree.files.extend(listing.iter().map(|e| (at.join(&e.name).unwrap(), e.attr.size)));
            tree.listings.insert(at, listing);
            top.push(entry(&format!("d{d:03}"), d as u64, FileKind::Directory, 0));
        }
        tree.listings.insert(path("/t"), top.into());
        tree
    }

    fn known(&self) -> impl Fn(&GlobalPath) -> Option<Arc<[DirEntry]>> + '_ {
        |path| self.listings.get(path).cloned()
    }
}

fn first(length: u64) -> FileRead {
    FileRead { length, begins_afresh: false }
}

/// What a walk did.
#[derive(Default)]
struct Outcome {
    /// Files that were there, or on their way, before they were read.
    ahead: usize,
    read_bytes: u64,
    moved_bytes: u64,
    round_trips: usize,
}

/// Reads `files` one by one; what is asked for comes a round trip later. Checks at each step what must hold.
fn walk(tree: &Tree, files: &[(GlobalPath, u64)]) -> Outcome {
    let mut walks = Walks::new(32 * MIB);
    let mut outcome = Outcome::default();
    let (mut here, mut coming) = (HashSet::new(), HashSet::new());
    let mut asked_ever = HashSet::new();
    let mut unread = HashMap::new();
    for (file, size) in files {
        outcome.ahead += usize::from(here.contains(file) || coming.contains(file));
        outcome.moved_bytes += if asked_ever.insert(file.clone()) { *size } else { 0 };
        unread.remove(file);
        outcome.read_bytes += size;
        for ahead in walks.read(file, first(*size), u64::MAX, &tree.known()) {
            let (wanted, bytes) = match ahead {
                Ahead::Whole(wanted) => (wanted.clone(), wanted.version.size),
                Ahead::Part(wanted, span) => {
                    (wanted.clone(), (span.count * CHUNK_SIZE).min(wanted.version.size))
                }
            };
            assert!(asked_ever.insert(wanted.path.clone()), "{} is asked for twice", wanted.path);
            unread.insert(wanted.path.clone(), bytes);
            outcome.moved_bytes += bytes;
            coming.insert(wanted.path);
        }
        assert!(unread.values().sum::<u64>() <= outcome.read_bytes, "more ahead than was read");
        if !here.contains(file) {
            outcome.round_trips += 1;
            here.extend(coming.drain());
        }
    }
    assert!(outcome.moved_bytes <= 2 * outcome.read_bytes);
    outcome
}

#[test]
fn a_walk_in_the_order_of_the_listing_doubles_each_round_trip() {
    let tree = Tree::new(1, 40, 50, 16 * 1024);
    let outcome = walk(&tree, &tree.files);
    assert!(outcome.round_trips <= 18, "{} round trips", outcome.round_trips);
    assert_eq!(outcome.moved_bytes, outcome.read_bytes);
    assert!(outcome.ahead > 1980);
}

#[test]
fn a_walk_in_the_order_of_the_names_is_recognised() {
    let mut tree = Tree::new(2, 40, 50, 16 * 1024);
    tree.files.sort();
    let outcome = walk(&tree, &tree.files);
    assert!(outcome.round_trips <= 30, "{} round trips", outcome.round_trips);
}

/// Directories on a stack, the last one first; every fourth lies in the one before it.
#[test]
fn a_walk_from_the_last_directory_through_nested_ones_is_recognised() {
    let mut tree = Tree::new(14, 40, 50, 16 * 1024);
    let mut top = tree.listings[&path("/t")].to_vec();
    for d in (3..40).step_by(4) {
        let (old, parent) = (path(&format!("/t/d{d:03}")), path(&format!("/t/d{:03}", d - 1)));
        let new = parent.join(b"part").unwrap();
        let listing = tree.listings.remove(&old).unwrap();
        let mut above = tree.listings[&parent].to_vec();
        above.push(entry("part", d, FileKind::Directory, 0));
        tree.listings.insert(parent, above.into());
        tree.listings.insert(new, listing);
        top.retain(|entry| entry.name != old.name());
    }
    tree.listings.insert(path("/t"), top.into());
    let (mut files, mut stack) = (Vec::new(), vec![path("/t")]);
    while let Some(at) = stack.pop() {
        for entry in &*tree.listings[&at] {
            let path = at.join(&entry.name).unwrap();
            match entry.attr.kind {
                FileKind::Directory => stack.push(path),
                _ => files.push((path, entry.attr.size)),
            }
        }
    }
    assert_eq!(files.len(), 2000);
    let outcome = walk(&tree, &files);
    assert!(outcome.round_trips <= 20, "{} round trips", outcome.round_trips);
    assert_eq!(outcome.moved_bytes, outcome.read_bytes);
}

#[test]
fn a_walk_that_takes_the_last_directory_first_is_recognised() {
    let tree = Tree::new(2, 40, 50, 16 * 1024);
    let files: Vec<_> = tree.files.chunks(50).rev().flatten().cloned().collect();
    let outcome = walk(&tree, &files);
    assert!(outcome.round_trips <= 20, "{} round trips", outcome.round_trips);
}

#[test]
fn a_walk_through_directories_in_no_order_waits_once_for_each() {
    let tree = Tree::new(2, 40, 50, 16 * 1024);
    let mut directories: Vec<_> = tree.files.chunks(50).collect();
    directories.shuffle(&mut StdRng::seed_from_u64(4));
    let files: Vec<_> = directories.into_iter().flatten().cloned().collect();
    let outcome = walk(&tree, &files);
    assert!(outcome.round_trips <= 60, "{} round trips", outcome.round_trips);
}

#[test]
fn a_walk_in_no_order_gets_what_is_left() {
    let tree = Tree::new(3, 1, 1000, 16 * 1024);
    let mut files = tree.files.clone();
    files.shuffle(&mut StdRng::seed_from_u64(4));
    let outcome = walk(&tree, &files);
    assert!(outcome.ahead > 300, "{} were ahead", outcome.ahead);
}

#[test]
fn several_processes_that_share_a_walk_are_one() {
    let tree = Tree::new(5, 1, 1000, 16 * 1024);
    let mut files = tree.files.clone();
    let mut random = StdRng::seed_from_u64(6);
    files.chunks_mut(4).for_each(|group| group.shuffle(&mut random));
    let outcome = walk(&tree, &files);
    assert!(outcome.round_trips <= 25, "{} round trips", outcome.round_trips);
}

#[test]
fn a_lone_file_of_each_directory_fetches_nothing() {
    let tree = Tree::new(7, 40, 50, 16 * 1024);
    let lone: Vec<_> = tree.files.iter().step_by(50).cloned().collect();
    assert_eq!(walk(&tree, &lone).moved_bytes, lone.iter().map(|(_, size)| size).sum::<u64>());
}

#[test]
fn unknown_and_huge_directories_fetch_nothing() {
    let mut tree = Tree::new(8, 1, MAX_ENTRIES + 1, 100);
    assert_eq!(walk(&tree, &tree.files[..100]).ahead, 0);
    tree.listings.clear();
    assert_eq!(walk(&tree, &tree.files[..100]).ahead, 0);
}

#[test]
fn a_reader_of_one_directory_does_not_fetch_its_neighbours() {
    let tree = Tree::new(9, 40, 50, 16 * 1024);
    let outcome = walk(&tree, &tree.files[..50]);
    assert_eq!(outcome.moved_bytes, outcome.read_bytes);
}

#[test]
fn large_files_come_in_parts() {
    let tree = Tree::new(10, 1, 40, 40 * MIB);
    let mut walks = Walks::new(32 * MIB);
    let mut parts = 0;
    for (file, size) in &tree.files {
        for ahead in walks.read(file, first((*size).min(MIB)), u64::MAX, &tree.known()) {
            if let Ahead::Part(wanted, span) = ahead {
                parts += 1;
                assert!(span.count * CHUNK_SIZE <= MAX_OF_ONE_FILE && span.count <= wanted.chunks());
            }
        }
    }
    assert!(parts > 10, "{parts}");
}

#[test]
fn a_second_walk_over_what_has_left_the_cache_is_a_walk() {
    let tree = Tree::new(12, 1, 100, 16 * 1024);
    let mut walks = Walks::new(32 * MIB);
    let mut pass = |begins_afresh| -> usize {
        let read = |(file, length): &(GlobalPath, u64)| {
            walks.read(file, FileRead { length: *length, begins_afresh }, u64::MAX, &tree.known()).len()
        };
        tree.files.iter().map(read).sum()
    };
    assert!(pass(false) > 90);
    assert_eq!(pass(false), 0, "all of it is here");
    assert!(pass(true) > 0, "it is not here any more");
}

#[test]
fn files_that_changed_are_fetched_as_they_are_now() {
    let mut tree = Tree::new(13, 1, 50, 16 * 1024);
    let mut walks = Walks::new(32 * MIB);
    for (file, size) in &tree.files[..40] {
        walks.read(file, first(*size), u64::MAX, &tree.known());
    }
    let at = path("/t/d000");
    let mut changed = tree.listings[&at].to_vec();
    changed.iter_mut().for_each(|entry| entry.attr.mtime_ns += 1);
    tree.listings.insert(at, changed.into());
    let (file, size) = tree.files[0].clone();
    let mut asked = walks.read(&file, first(size), u64::MAX, &tree.known());
    let (file, size) = tree.files[1].clone();
    asked.extend(walks.read(&file, first(size), u64::MAX, &tree.known()));
    assert!(!asked.is_empty());
    assert!(asked.iter().all(|ahead| matches!(ahead, Ahead::Whole(file) if file.version.mtime_ns == 1)));
}

#[test]
fn room_is_a_limit() {
    let tree = Tree::new(11, 1, 100, 16 * 1024);
    let mut walks = Walks::new(32 * MIB);
    for (file, size) in &tree.files {
        assert_eq!(walks.read(file, first(*size), 0, &tree.known()), vec![]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// `walk` checks that never more is ahead than was read.
    #[test]
    fn nobody_moves_more_than_twice_what_it_reads(
        seed: u64,
        directories in 1..6_usize,
        files in 1..60_usize,
        largest in prop_oneof![Just(2000_u64), Just(200_000), Just(6 * MIB)],
        reads in 1..200_usize,
        shuffled: bool,
    ) {
        let tree = Tree::new(seed, directories, files, largest);
        let mut order = tree.files.clone();
        if shuffled {
            order.shuffle(&mut StdRng::seed_from_u64(seed));
        }
        order.truncate(reads);
        walk(&tree, &order);
    }
}
