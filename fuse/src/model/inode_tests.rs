//! The inode table against a naive model, and what a million nodes cost.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

impl InodeTable {
    pub(super) fn look_up(&mut self, place: Place<'_>, attr: &Attr) -> FsResult<NodeId> {
        self.sight(place, attr).map(|sight| sight.id)
    }
}

pub(in crate::model) fn attr(inode: u64, kind: FileKind, ctime_ns: i64) -> Attr {
    let file = FileId { origin: 7, inode };
    let (mode, nlink, uid, gid, rdev, size, blocks) = (0o644, 1, 0, 0, 0, 3, 8);
    let (atime_ns, mtime_ns, no_xattrs) = (0, 0, false);
    Attr { file, kind, mode, nlink, uid, gid, rdev, size, blocks, atime_ns, mtime_ns, ctime_ns, no_xattrs }
}

fn file(inode: u64) -> Attr {
    attr(inode, FileKind::Regular, 0)
}

pub(super) fn directory(inode: u64) -> Attr {
    attr(inode, FileKind::Directory, 0)
}

pub(super) fn at(parent: NodeId, name: &[u8]) -> Place<'_> {
    Place { parent, name }
}

pub(super) fn path_of(table: &InodeTable, id: NodeId) -> String {
    table.path(id).unwrap().to_string()
}

#[test]
fn a_new_version_is_a_new_node_and_a_hard_link_is_not() {
    let mut table = InodeTable::new();
    let old = table.look_up(at(NodeId::ROOT, b"f"), &file(5)).unwrap();
    let new = table.look_up(at(NodeId::ROOT, b"f"), &attr(5, FileKind::Regular, 1)).unwrap();
    let link = table.look_up(at(NodeId::ROOT, b"g"), &file(5)).unwrap();
    assert_ne!(old, new);
    assert_eq!(old, link);
    assert_eq!(path_of(&table, old), "/g");
}

#[test]
fn a_directory_keeps_its_node_when_it_changes() {
    let mut table = InodeTable::new();
    let old = table.look_up(at(NodeId::ROOT, b"d"), &directory(5)).unwrap();
    let new = table.look_up(at(NodeId::ROOT, b"d"), &attr(5, FileKind::Directory, 9)).unwrap();
    assert_eq!((old, table.attr(old).unwrap().ctime_ns), (new, 9));
}

#[test]
fn numbers_are_the_same_at_every_mount() {
    assert_eq!(InodeTable::new().id_of(&file(5)), Identity::of(&file(5)).preferred_id());
    let ids: BTreeSet<_> = (0..100_000).map(|i| InodeTable::new().id_of(&file(i))).collect();
    assert_eq!(ids.len(), 100_000, "the hash spreads");
}

#[test]
fn a_number_taken_by_another_identity_is_passed_over() {
    let mut table = InodeTable::new();
    let id = table.look_up(at(NodeId::ROOT, b"a"), &file(5)).unwrap();
    let node = table.nodes.get_mut(&id).unwrap();
    node.attr = file(6);
    let other = table.look_up(at(NodeId::ROOT, b"b"), &file(5)).unwrap();
    assert_eq!(other.0, id.0 + 1);
    assert_eq!(path_of(&table, id), "/a");
}

#[test]
fn a_directory_is_not_put_into_itself() {
    let mut table = InodeTable::new();
    let a = table.look_up(at(NodeId::ROOT, b"a"), &directory(1)).unwrap();
    let b = table.look_up(at(a, b"b"), &directory(2)).unwrap();
    assert!(matches!(table.look_up(at(b, b"a"), &directory(1)), Err(FsError::Stale(_))));
    assert!(matches!(table.look_up(at(a, b"a"), &directory(1)), Err(FsError::Stale(_))));
    assert_eq!(path_of(&table, b), "/a/b");
}

#[test]
fn a_directory_is_found_by_its_path_wherever_it_moves() {
    let mut table = InodeTable::new();
    let path = |text: &str| GlobalPath::new(text.as_bytes()).unwrap();
    let a = table.look_up(at(NodeId::ROOT, b"a"), &directory(1)).unwrap();
    let b = table.look_up(at(a, b"b"), &directory(2)).unwrap();
    let f = table.look_up(at(a, b"f"), &file(3)).unwrap();
    assert_eq!(table.directory_at(&path("/")), Some(NodeId::ROOT));
    assert_eq!(table.directory_at(&path("/a/b")), Some(b));
    assert_eq!((table.directory_at(&path("/a/f")), table.directory_at(&path("/a/x"))), (None, None));
    table.look_up(at(NodeId::ROOT, b"moved"), &directory(1)).unwrap();
    let other = table.look_up(at(NodeId::ROOT, b"a"), &directory(4)).unwrap();
    assert_eq!(table.directory_at(&path("/moved/b")), Some(b));
    assert_eq!(table.directory_at(&path("/a")), Some(other));
    [(b, 1), (f, 1), (a, 2), (other, 1)].into_iter().for_each(|(id, count)| table.forget(id, count));
    assert_eq!((table.len(), table.directories.len()), (1, 0));
}

#[test]
fn a_path_has_the_length_that_the_system_allows() {
    let mut table = InodeTable::new();
    let mut parent = NodeId::ROOT;
    for inode in 0..15 {
        parent = table.look_up(at(parent, &[b'x'; 255]), &directory(inode)).unwrap();
    }
    let longest = table.look_up(at(parent, &[b'y'; 254]), &file(100)).unwrap();
    assert_eq!(table.path(longest).unwrap().as_bytes().len(), MAX_PATH);
    let above = table.look_up(at(parent, &[b'y'; 255]), &file(101)).unwrap();
    assert_eq!(table.path(above), Err(FsError::Os(36)));
}

/// Room for the kernel's caches and everything else below the gigabyte that a mount may take.
const MAX_BYTES_PER_NODE: u64 = 400;

#[test]
fn a_million_nodes_are_small() {
    const COUNT: u64 = 1_000_000;
    let before = resident_bytes();
    let mut table = InodeTable::new();
    for inode in 0..COUNT {
        let name = format!("sample-{inode:012}.dat");
        table.look_up(at(NodeId::ROOT, name.as_bytes()), &file(inode)).unwrap();
    }
    let used = resident_bytes().saturating_sub(before);
    eprintln!("{} bytes a node", used / COUNT);
    assert_eq!(table.len() as u64, COUNT + 1);
    assert!(used > 0 && used < COUNT * MAX_BYTES_PER_NODE, "{} bytes a node", used / COUNT);
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// What the kernel does, in the small numbers that make collisions of names and files likely.
#[derive(Debug, Clone)]
enum Step {
    LookUp { parent: usize, name: u8, inode: u64, version: i64 },
    Forget { node: usize },
    Open { node: usize },
    Close { handle: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (any::<usize>(), 0..6u8, 0..12u64, 0..3i64)
            .prop_map(|(parent, name, inode, version)| Step::LookUp { parent, name, inode, version }),
        2 => any::<usize>().prop_map(|node| Step::Forget { node }),
        1 => any::<usize>().prop_map(|node| Step::Open { node }),
        1 => any::<usize>().prop_map(|handle| Step::Close { handle }),
    ];
    prop::collection::vec(step, 0..200)
}

/// The naive model: what the kernel holds and where each identity was last seen; nothing is ever dropped.
#[derive(Default)]
struct Kernel {
    lookups: BTreeMap<NodeId, u64>,
    handles: Vec<NodeId>,
    places: BTreeMap<NodeId, (NodeId, u8)>,
    attrs: BTreeMap<NodeId, Attr>,
}

impl Kernel {
    fn directories(&self) -> Vec<NodeId> {
        let held = self.lookups.keys().filter(|id| self.attrs[id].kind == FileKind::Directory);
        std::iter::once(NodeId::ROOT).chain(held.copied()).collect()
    }

    fn path(&self, mut id: NodeId) -> String {
        let mut path = String::new();
        while id != NodeId::ROOT {
            let (parent, name) = self.places[&id];
            path.insert_str(0, &format!("/{name}"));
            id = parent;
        }
        path
    }

    fn held(&self) -> BTreeSet<NodeId> {
        let mut held = BTreeSet::from([NodeId::ROOT]);
        for mut id in self.lookups.keys().chain(&self.handles).copied() {
            while held.insert(id) {
                id = self.places[&id].0;
            }
        }
        held
    }

    fn apply(&mut self, table: &mut InodeTable, step: &Step) {
        match *step {
            Step::LookUp { parent, name, inode, version } => {
                self.look_up(table, parent, name, inode, version)
            }
            Step::Forget { node } => {
                let Some((&id, _)) = self.lookups.iter().nth(node % self.lookups.len().max(1)) else {
                    return;
                };
                table.forget(id, self.lookups.remove(&id).unwrap());
            }
            Step::Open { node } => {
                let Some((&id, _)) = self.lookups.iter().nth(node % self.lookups.len().max(1)) else {
                    return;
                };
                table.pin(id).unwrap();
                self.handles.push(id);
            }
            Step::Close { handle } if !self.handles.is_empty() => {
                table.unpin(self.handles.swap_remove(handle % self.handles.len()));
            }
            Step::Close { .. } => {}
        }
    }

    fn look_up(&mut self, table: &mut InodeTable, parent: usize, name: u8, inode: u64, version: i64) {
        let kind = if inode < 6 { FileKind::Directory } else { FileKind::Regular };
        let attr = attr(inode, kind, version);
        let directories = self.directories();
        let parent = directories[parent % directories.len()];
        let name_text = name.to_string();
        if let Ok(id) = table.look_up(at(parent, name_text.as_bytes()), &attr) {
            let before = self.attrs.insert(id, attr);
            assert!(before.is_none_or(|b| Identity::of(&b) == Identity::of(&attr)), "a number was reused");
            *self.lookups.entry(id).or_default() += 1;
            self.places.insert(id, (parent, name));
        }
    }
}

proptest! {
    #[test]
    fn agrees_with_the_naive_model(steps in steps()) {
        let (mut table, mut kernel) = (InodeTable::new(), Kernel::default());
        for step in &steps {
            kernel.apply(&mut table, step);
            let held = kernel.held();
            let living: BTreeSet<_> = table.nodes.keys().copied().collect();
            prop_assert_eq!(&living, &held);
            for &id in held.iter().filter(|id| **id != NodeId::ROOT) {
                prop_assert_eq!(path_of(&table, id), kernel.path(id));
                prop_assert_eq!(table.is_open(id), kernel.handles.contains(&id));
            }
            for &directory in &held {
                let children: BTreeSet<_> = table.nodes_in(Some(directory)).into_iter().collect();
                let is_in = |id: &&NodeId| kernel.places.get(id).is_some_and(|place| place.0 == directory);
                prop_assert_eq!(children, held.iter().filter(is_in).copied().collect::<BTreeSet<_>>());
            }
        }
        for (id, count) in std::mem::take(&mut kernel.lookups) {
            table.forget(id, count);
        }
        for id in kernel.handles.drain(..) {
            table.unpin(id);
        }
        prop_assert_eq!(table.len(), 1, "nothing leaks");
        prop_assert_eq!(table.nodes_in(Some(NodeId::ROOT)), []);
    }
}
