//! Directories of subtrees that went from one site to another. Each is another file then, and the same directory to who is in it.
//!
//! Which site tells of a file is part of what it is, so another site's word is known by itself. A site that gave a subtree
//! back and took it again made its directories anew, with numbers of which some may be old ones of others: that is told, and
//! then no number counts that was known before. What is found at the place of such a directory is that directory, once.
//!
//! *Invariants:* a directory that is replaced without a hand-over is another one; one that this mount has removed is none
//! that is found later.

use super::{FoundBy, InodeTable, Node, NodeId, Place};
use globalfs_proto::{Attr, FileId, FileKind, GlobalPath, HandedOver};

/// Of no site: the number of a directory between a hand-over and the first look at its place.
const NOBODYS: FileId = FileId { origin: 0, inode: 0 };

impl InodeTable {
    /// Takes note of hand-overs, and gives back the subtrees of which they are news.
    pub(crate) fn hear(&mut self, told: &[HandedOver]) -> Vec<GlobalPath> {
        let news = told.iter().filter(|told| self.hand_overs.learn(told));
        let scopes: Vec<_> = news.map(|told| told.scope.clone()).collect();
        scopes.iter().for_each(|scope| drop(self.outdate_numbers(scope)));
        scopes
    }

    /// What was told of the directories at and beneath `scope` is of before a hand-over. Gives them back.
    pub(crate) fn outdate_numbers(&mut self, scope: &GlobalPath) -> Vec<NodeId> {
        let (mut below, mut directories) = (self.all_at(scope), Vec::new());
        while let Some(id) = below.pop() {
            below.extend(self.nodes_in(Some(id)));
            if id != NodeId::ROOT && self.living(id).attr.kind == FileKind::Directory {
                self.outdate_number(id);
                directories.push(id);
            }
        }
        directories
    }

    fn outdate_number(&mut self, id: NodeId) {
        let before = self.living(id).attr;
        self.leave_own(id, &before);
        self.living(id).attr.file = NOBODYS;
    }

    /// A new file at `place` is what `attr` says: what was the same before is gone, or has another number since a hand-over
    /// that was not heard of yet.
    pub(crate) fn part_dead(&mut self, place: Place<'_>, attr: &Attr) {
        let directory = self.living_id(attr).filter(|_| attr.kind == FileKind::Directory);
        let dead = [self.own.get(&attr.file).copied(), directory];
        for id in dead.into_iter().flatten() {
            match self.may_be_elsewhere(id, place) {
                true => self.outdate_number(id),
                false => self.part(id),
            }
        }
    }

    fn may_be_elsewhere(&self, id: NodeId, place: Place<'_>) -> bool {
        let Some(node) = self.nodes.get(&id).filter(|node| node.attr.kind == FileKind::Directory) else {
            return false;
        };
        !node.is_at(place) && self.path(id).is_ok_and(|path| self.hand_overs.cover(&path))
    }

    /// All that were last seen at `path`: the kernel may still be in one of which this was found to be out of date.
    fn all_at(&self, path: &GlobalPath) -> Vec<NodeId> {
        path.components().fold(vec![NodeId::ROOT], |above, name| {
            above.into_iter().flat_map(|id| self.named_in(id, name)).collect()
        })
    }

    /// Whether `attr`, which was found at the place of the directory `id`, may be of after a hand-over that was not heard of
    /// yet.
    pub(crate) fn awaits_word(&self, id: NodeId, attr: &Attr) -> bool {
        let is_other = self.nodes.get(&id).is_some_and(|node| node.is_replaced(attr));
        is_other && self.path(id).is_ok_and(|path| self.hand_overs.cover(&path))
    }

    /// The directory that was last seen at `place`, if `attr` is what became of it by a hand-over: who is in it stays there.
    pub(super) fn handed_over(&self, place: Place<'_>, attr: &Attr) -> Option<NodeId> {
        if attr.kind != FileKind::Directory {
            return None;
        }
        // One that was seen there before knows by itself that it is this one.
        if self.own_id(attr).is_some_and(|id| self.nodes.get(&id).is_some_and(|node| node.is_at(place))) {
            return None;
        }
        let id = *self.directories.get(&(place.parent, place.name.into()))?;
        self.nodes.get(&id)?.is_handed_over(attr).then_some(id)
    }

    /// The node that stands for `attr`, which was found at `place`, if it lives.
    pub(crate) fn living_at(&mut self, place: Place<'_>, attr: &Attr) -> Option<NodeId> {
        let handed_over = self.handed_over(place, attr);
        handed_over.iter().for_each(|id| self.hand_over(*id, attr));
        handed_over.or_else(|| self.living_id(attr))
    }

    /// From now on `id` is found by what is told of it after a hand-over.
    pub(super) fn hand_over(&mut self, id: NodeId, attr: &Attr) {
        let before = self.living(id).attr;
        self.leave_own(id, &before);
        self.living(id).attr = *attr;
        self.own.insert(attr.file, id);
    }
}

impl Node {
    /// Whether `attr` is of this directory, as another site tells it than the one that told of it before, or after a hand-over.
    pub(super) fn is_handed_over(&self, attr: &Attr) -> bool {
        self.is_directory_as(attr) && self.attr.file.origin != attr.file.origin
    }

    /// Whether `attr` is of another directory than this one, as the same site tells.
    fn is_replaced(&self, attr: &Attr) -> bool {
        self.is_directory_as(attr)
            && self.attr.file.origin == attr.file.origin
            && self.attr.file.inode != attr.file.inode
    }

    fn is_at(&self, place: Place<'_>) -> bool {
        self.parent == place.parent && *self.name == *place.name
    }

    fn is_directory_as(&self, attr: &Attr) -> bool {
        let kinds = (self.attr.kind, attr.kind);
        kinds == (FileKind::Directory, FileKind::Directory) && self.found_by != FoundBy::Nothing
    }
}

#[cfg(test)]
#[path = "moved_tests.rs"]
mod tests;
