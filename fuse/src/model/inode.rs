//! The nodes that the kernel knows: what each stands for, where it was last seen, how often it is held.
//!
//! What this mount changes by itself leaves the rule that a node is one version: see `own.rs`. So does what another site
//! has now: see `moved.rs`.
//!
//! *Invariants:* a node lives as long as the kernel holds a lookup of it, a handle is open on it, or a
//! living node lies in it. While it lives, its number stands for nothing else. Walking up from any node
//! ends at the root.

mod moved;
mod own;

pub(crate) use own::{LocalAttr, Pages};

use crate::model::kept_names::KeptNames;
use globalfs_proto::limits::MAX_PATH;
use globalfs_proto::{Attr, FileId, FileKind, FsError, FsResult, GlobalPath, HandOvers};
use own::FoundBy;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Duration;

/// The number of a node, which is also the `st_ino` that applications see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The root of the mount; its number is fixed by the protocol.
    pub const ROOT: Self = Self(1);
    /// Numbers below this are not given to hashes: 0 means "no node", 1 is the root.
    const FIRST: u64 = 2;
}

/// What a node stands for. Content that can change is named with its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    file: FileId,
    kind: FileKind,
    /// Size, mtime and ctime of regular files and symbolic links, which the kernel caches the content of.
    content: Option<(u64, i64, i64)>,
}

impl Identity {
    /// The identity of the file that `attr` describes.
    pub fn of(attr: &Attr) -> Self {
        let cached = matches!(attr.kind, FileKind::Regular | FileKind::Symlink);
        let content = cached.then_some((attr.size, attr.mtime_ns, attr.ctime_ns));
        Self { file: attr.file, kind: attr.kind, content }
    }

    /// The number that this identity has at every mount unless another identity holds it already.
    pub fn preferred_id(&self) -> NodeId {
        let (size, mtime, ctime) = self.content.unwrap_or_default();
        let parts = [self.file.origin, self.file.inode, self.kind as u64, size, mtime as u64, ctime as u64];
        NodeId(parts.into_iter().fold(0x9e37_79b9_7f4a_7c15, mix).max(NodeId::FIRST))
    }
}

/// One round of a multiply-and-fold hash: the 128-bit product of both inputs, folded to 64 bits.
fn mix(state: u64, part: u64) -> u64 {
    let product = u128::from(state ^ 0xa076_1d64_78bd_642f) * u128::from(part ^ 0xe703_7ed1_a0b4_28db);
    (product as u64 ^ (product >> 64) as u64).wrapping_add(state.rotate_left(23))
}

/// Where a node was last seen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// The directory.
    pub(crate) parent: NodeId,
    /// The name in it.
    pub(crate) name: &'a [u8],
}

/// A file as it was just seen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sight {
    /// Its node.
    pub(crate) id: NodeId,
    /// What is known of it.
    pub(crate) attr: Attr,
    /// What becomes of its pages.
    pub(crate) pages: Pages,
}

#[derive(Debug)]
struct Node {
    attr: Attr,
    parent: NodeId,
    name: Box<[u8]>,
    lookups: u64,
    open_handles: u32,
    found_by: FoundBy,
    /// It has changed, or may have, by this mount's own doing since it was first seen.
    is_own: bool,
    /// And what came of it is not known: its content is the same.
    is_loose: bool,
    /// At its place, or beneath it, something else was found: what is told of it, and of its other names, may be old, too.
    is_outdated: bool,
    /// This mount is changing it: what comes of it will be told.
    is_changing: bool,
    /// Its name was taken away while it was open; it has one that nobody sees.
    is_removed: bool,
    /// That name is on its way out.
    is_going: bool,
    /// What was last seen in it, as a chain.
    first_child: Option<NodeId>,
    previous: Option<NodeId>,
    next: Option<NodeId>,
}

impl Node {
    fn new(attr: &Attr, place: Place<'_>) -> Self {
        let (parent, name) = (place.parent, place.name.into());
        let (first_child, previous, next) = (None, None, None);
        Self {
            attr: *attr,
            parent,
            name,
            lookups: 1,
            open_handles: 0,
            found_by: FoundBy::Version,
            is_own: false,
            is_loose: false,
            is_outdated: false,
            is_changing: false,
            is_removed: false,
            is_going: false,
            first_child,
            previous,
            next,
        }
    }

    fn is_held(&self) -> bool {
        self.lookups > 0 || self.open_handles > 0 || self.first_child.is_some()
    }
}

/// Node numbers are hashes already.
#[derive(Debug, Default)]
struct PassThrough(u64);

impl Hasher for PassThrough {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&b| self.0 = mix(self.0, b.into()));
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}

/// All nodes that the kernel holds.
#[derive(Debug)]
pub(crate) struct InodeTable {
    /// Boxed, so that the empty half of the map costs a pointer a slot.
    nodes: HashMap<NodeId, Box<Node>, BuildHasherDefault<PassThrough>>,
    /// Directories by where they were last seen.
    directories: HashMap<(NodeId, Box<[u8]>), NodeId>,
    /// Of directories that live.
    kept_names: KeptNames,
    /// Nodes that this mount has changed, by what they are, as their numbers are those of what they were.
    own: HashMap<FileId, NodeId>,
    /// Of which was heard.
    hand_overs: HandOvers,
}

impl Default for InodeTable {
    fn default() -> Self {
        Self::new()
    }
}

impl InodeTable {
    /// A table with the root alone, which the kernel holds from the start to the end.
    pub(crate) fn new() -> Self {
        let file = FileId { origin: 0, inode: 0 };
        let attr = Attr {
            file,
            kind: FileKind::Directory,
            mode: 0o755,
            nlink: 2,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 0,
            blocks: 0,
            atime_ns: 0,
            mtime_ns: 0,
            ctime_ns: 0,
            no_xattrs: false,
        };
        let root = Node::new(&attr, Place { parent: NodeId::ROOT, name: b"" });
        let nodes = HashMap::from_iter([(NodeId::ROOT, Box::new(root))]);
        let (directories, kept_names, own, hand_overs) = Default::default();
        Self { nodes, directories, kept_names, own, hand_overs }
    }

    /// Number of living nodes, the root included.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The number that `attr`'s identity has, or would have if it were looked up now.
    pub(crate) fn id_of(&self, attr: &Attr) -> NodeId {
        if let Some(id) = self.own_id(attr) {
            return id;
        }
        let identity = Identity::of(attr);
        let mut id = identity.preferred_id();
        while self.nodes.get(&id).is_some_and(|n| !n.is_of(&identity)) {
            id = NodeId(id.0.wrapping_add(1).max(NodeId::FIRST));
        }
        id
    }

    /// The kernel is about to be told of `attr` at `place`: counts one lookup and remembers the place.
    ///
    /// `Stale` when the parent is not known, or when the place lies inside the node itself, which only a
    /// view mixed from before and after a rename can show.
    pub(crate) fn sight(&mut self, place: Place<'_>, attr: &Attr) -> FsResult<Sight> {
        let handed_over = self.handed_over(place, attr);
        handed_over.iter().for_each(|id| self.hand_over(*id, attr));
        let id = handed_over.unwrap_or_else(|| self.id_of(attr));
        if !self.nodes.contains_key(&place.parent) || self.is_inside(place.parent, id) {
            return Err(FsError::Stale(None));
        }
        if let Some(node) = self.nodes.get_mut(&id).filter(|node| node.is_removed) {
            // Its hidden name is the one that stays as long as it is open.
            node.lookups += 1;
            let pages = node.take_over(attr);
            return Ok(Sight { id, attr: node.shown_attr(), pages });
        }
        self.see_directory(id, place, attr);
        let before = self.nodes.get(&id).map(|node| node.parent);
        let left = before.filter(|parent| *parent != place.parent);
        left.iter().for_each(|_| self.unchain(id));
        let pages = self.see(id, place, attr);
        if before != Some(place.parent) {
            self.chain(id);
        }
        left.into_iter().for_each(|parent| self.drop_unheld(parent));
        Ok(Sight { id, attr: self.living(id).attr, pages })
    }

    /// The directory at `path`, if it and all above it are known.
    pub(crate) fn directory_at(&self, path: &GlobalPath) -> Option<NodeId> {
        path.components().try_fold(NodeId::ROOT, |at, name| self.directories.get(&(at, name.into())).copied())
    }

    fn see_directory(&mut self, id: NodeId, place: Place<'_>, attr: &Attr) {
        if attr.kind != FileKind::Directory {
            return;
        }
        let old = self.nodes.get(&id).map(|node| (node.parent, node.name.clone()));
        if let Some((parent, name)) = old.filter(|(p, n)| *p != place.parent || **n != *place.name) {
            self.leave_place(id, parent, name);
        }
        self.directories.insert((place.parent, place.name.into()), id);
    }

    /// Another directory may have taken the place since.
    fn leave_place(&mut self, id: NodeId, parent: NodeId, name: Box<[u8]>) {
        let place = (parent, name);
        if self.directories.get(&place) == Some(&id) {
            self.directories.remove(&place);
        }
    }

    /// The kernel drops `count` lookups of `id`.
    pub(crate) fn forget(&mut self, id: NodeId, count: u64) {
        if id == NodeId::ROOT {
            return;
        }
        if let Some(node) = self.nodes.get_mut(&id) {
            node.lookups = node.lookups.saturating_sub(count);
            self.drop_unheld(id);
        }
    }

    /// Whether the kernel knows `id`, or has it open.
    pub(crate) fn lives(&self, id: NodeId) -> bool {
        self.nodes.contains_key(&id)
    }

    /// A handle was opened on `id`.
    pub(crate) fn pin(&mut self, id: NodeId) -> FsResult<()> {
        self.node_mut(id).map(|n| n.open_handles += 1)
    }

    /// A handle on `id` was closed.
    pub(crate) fn unpin(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).expect("a node lives while a handle is open on it");
        node.open_handles -= 1;
        if node.open_handles == 0 && node.found_by == FoundBy::File {
            node.found_by = FoundBy::Version;
        }
        self.drop_unheld(id);
    }

    /// The kernel keeps the names in the directory `id`, which count until then.
    pub(crate) fn keep_names(&mut self, id: NodeId, until: Duration) {
        if self.nodes.contains_key(&id) {
            self.kept_names.keep(id, until);
        }
    }

    /// The kernel is about to forget the names in `id`.
    pub(crate) fn forget_names(&mut self, id: NodeId) {
        self.kept_names.forget(id);
    }

    /// Takes out the directories whose names the kernel may keep no longer.
    pub(crate) fn take_outlasted(&mut self, now: Duration) -> Vec<NodeId> {
        self.kept_names.take_due(now)
    }

    /// Nodes last seen in `directory`, or anywhere.
    pub(crate) fn nodes_in(&self, directory: Option<NodeId>) -> Vec<NodeId> {
        let Some(directory) = directory else { return self.nodes.keys().copied().collect() };
        let first = self.nodes.get(&directory).and_then(|node| node.first_child);
        std::iter::successors(first, |id| self.nodes.get(id)?.next).collect()
    }

    /// Nodes last seen as `name` in `directory`.
    pub(crate) fn named_in(&self, directory: NodeId, name: &[u8]) -> Vec<NodeId> {
        let is_so_called = |id: &NodeId| self.nodes.get(id).is_some_and(|node| *node.name == *name);
        self.nodes_in(Some(directory)).into_iter().filter(is_so_called).collect()
    }

    /// Where `id` was last seen.
    pub(crate) fn place(&self, id: NodeId) -> Option<(NodeId, Box<[u8]>)> {
        self.nodes.get(&id).map(|node| (node.parent, node.name.clone()))
    }

    /// Whether handles are open on `id`.
    pub(crate) fn is_open(&self, id: NodeId) -> bool {
        self.nodes.get(&id).is_some_and(|n| n.open_handles > 0)
    }

    /// The attributes last seen of `id`, without a hidden name.
    pub(crate) fn attr(&self, id: NodeId) -> FsResult<Attr> {
        self.node(id).map(Node::shown_attr)
    }

    /// The directory in which `id` was last seen; the root's is the root.
    pub(crate) fn parent(&self, id: NodeId) -> FsResult<NodeId> {
        self.node(id).map(|n| n.parent)
    }

    /// The path of `id` by the places where it and its parents were last seen; `ENAMETOOLONG` when it
    /// passes `PATH_MAX`.
    pub(crate) fn path(&self, id: NodeId) -> FsResult<GlobalPath> {
        const ENAMETOOLONG: i32 = 36;
        let (mut names, mut length, mut at) = (Vec::new(), 0, id);
        while at != NodeId::ROOT {
            let node = self.node(at)?;
            length += 1 + node.name.len();
            if length > MAX_PATH {
                return Err(FsError::Os(ENAMETOOLONG));
            }
            names.push(&node.name);
            at = node.parent;
        }
        let mut bytes = Vec::with_capacity(length + 1);
        names.iter().rev().for_each(|name| {
            bytes.push(b'/');
            bytes.extend_from_slice(name);
        });
        if bytes.is_empty() {
            return Ok(GlobalPath::root());
        }
        GlobalPath::new(&bytes).map_err(|e| FsError::Protocol(e.to_string()))
    }

    fn node(&self, id: NodeId) -> FsResult<&Node> {
        self.nodes.get(&id).map(|n| &**n).ok_or(FsError::Stale(None))
    }

    fn node_mut(&mut self, id: NodeId) -> FsResult<&mut Node> {
        self.nodes.get_mut(&id).map(|n| &mut **n).ok_or(FsError::Stale(None))
    }

    /// Whether `at` is `node` or lies below it. A node without children holds nothing, which spares the
    /// walk for files.
    fn is_inside(&self, mut at: NodeId, node: NodeId) -> bool {
        if at != node && self.nodes.get(&node).is_none_or(|n| n.first_child.is_none()) {
            return false;
        }
        while at != node {
            match self.nodes.get(&at) {
                Some(n) if at != NodeId::ROOT => at = n.parent,
                _ => return false,
            }
        }
        true
    }

    /// The kernel is told of `id` once more.
    fn see(&mut self, id: NodeId, place: Place<'_>, attr: &Attr) -> Pages {
        match self.nodes.entry(id) {
            Entry::Occupied(slot) => slot.into_mut().see_again(place, attr),
            Entry::Vacant(slot) => {
                slot.insert(Box::new(Node::new(attr, place)));
                Pages::Keep
            }
        }
    }

    /// Puts `id` before the other children of its parent.
    fn chain(&mut self, id: NodeId) {
        let parent = self.living(id).parent;
        let next = self.living(parent).first_child.replace(id);
        next.into_iter().for_each(|next| self.living(next).previous = Some(id));
        (self.living(id).previous, self.living(id).next) = (None, next);
    }

    /// Takes `id` out of the children of its parent.
    fn unchain(&mut self, id: NodeId) {
        let node = self.living(id);
        let (parent, previous, next) = (node.parent, node.previous.take(), node.next.take());
        match previous {
            Some(previous) => self.living(previous).next = next,
            None => self.living(parent).first_child = next,
        }
        next.into_iter().for_each(|next| self.living(next).previous = previous);
    }

    /// A node that another one refers to, which is why it lives.
    fn living(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).expect("a node lives while another refers to it")
    }

    /// Drops `id` when nothing holds it, then its parents for which that was the last hold.
    fn drop_unheld(&mut self, mut id: NodeId) {
        while id != NodeId::ROOT && self.nodes.get(&id).is_some_and(|n| !n.is_held()) {
            self.unchain(id);
            let gone = self.nodes.remove(&id).expect("it was found above");
            if gone.attr.kind == FileKind::Directory {
                self.kept_names.forget(id);
                self.leave_place(id, gone.parent, gone.name);
            }
            self.leave_own(id, &gone.attr);
            id = gone.parent;
        }
    }
}

impl Node {
    fn see_again(&mut self, place: Place<'_>, attr: &Attr) -> Pages {
        self.lookups += 1;
        self.is_outdated = false;
        if *self.name != *place.name {
            self.name = place.name.into();
        }
        self.parent = place.parent;
        self.take_over(attr)
    }
}

#[cfg(test)]
#[path = "inode_tests.rs"]
pub(super) mod tests;
