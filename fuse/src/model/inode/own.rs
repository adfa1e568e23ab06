//! Nodes that this mount changes by itself.
//!
//! They keep their numbers, so that who writes a file and who reads it here share the kernel's pages. A node that is open
//! for writing is found by which file it is, whatever its version; afterwards by the version that was last known of it.
//! Each change tells the version before it, so one that others have made does not stay hidden: then the pages are dropped.
//!
//! *Invariant:* attributes of such a node only go forward: an answer that an own change has overtaken does not count.

use super::{Identity, InodeTable, Node, NodeId, Place, Sight};
use globalfs_proto::{Attr, Changed, FileKind, FsError, FsResult, Version};

/// What becomes of the pages that the kernel has of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pages {
    /// They are right.
    Keep,
    /// Others have changed the content.
    Drop,
}

/// What a file of this machine is that the kernel writes to by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LocalAttr {
    /// Bytes.
    pub(crate) size: u64,
    /// Allocated, in units of 512 bytes.
    pub(crate) blocks: u64,
    /// Last access.
    pub(crate) atime_ns: i64,
    /// Last change of the content.
    pub(crate) mtime_ns: i64,
    /// Last change of the attributes.
    pub(crate) ctime_ns: i64,
}

/// By what a node is found when its file is seen again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FoundBy {
    /// By its version.
    Version,
    /// It is open for writing: by which file it is.
    File,
    /// Not at all. Whoever has it open goes on, and others get another node.
    Nothing,
}

impl InodeTable {
    /// The node that this mount has changed and that `attr` describes, or did before the last change.
    pub(super) fn own_id(&self, attr: &Attr) -> Option<NodeId> {
        let id = *self.own.get(&attr.file)?;
        let node = self.nodes.get(&id)?;
        (node.attr.kind == attr.kind && node.is_own_of(attr)).then_some(id)
    }

    /// Takes over fresh attributes of `id`; `Stale` when they describe something else.
    pub(crate) fn refresh(&mut self, id: NodeId, attr: &Attr) -> FsResult<Pages> {
        if self.node(id)?.is_handed_over(attr) {
            self.hand_over(id, attr);
        }
        let node = self.node_mut(id)?;
        let is_it = node.is_live_of(attr) || node.is_loose_of(attr) || node.is_of(&Identity::of(attr));
        if id != NodeId::ROOT && !is_it {
            // If it is older, that is the truth all the same: the clock may have been set back.
            let before = node.attr;
            self.doubt(id);
            self.leave_own(id, &before);
            return Err(FsError::Stale(Some(Box::new(*attr))));
        }
        Ok(node.take_over(attr))
    }

    /// At the place of `id` is something else, or nothing. So what is told of the directories above may be old, too: a subtree
    /// that another site has taken has others. The kernel looks the whole path up again once, and no more.
    pub(crate) fn doubt(&mut self, id: NodeId) {
        let mut at = id;
        while at != NodeId::ROOT
            && let Some(node) = self.nodes.get_mut(&at)
        {
            node.is_outdated = true;
            at = node.parent;
        }
    }

    /// Whether the node of `attr` was found to be of an old version, or something beneath it was, by this name or another one.
    pub(crate) fn is_outdated(&self, attr: &Attr) -> bool {
        self.nodes.get(&self.id_of(attr)).is_some_and(|node| node.is_outdated)
    }

    /// `id` is opened for writing. `Stale` when another node of the file is, which the kernel then finds.
    pub(crate) fn go_live(&mut self, id: NodeId) -> FsResult<()> {
        let file = self.node(id)?.attr.file;
        let other = self.own.get(&file).filter(|other| **other != id);
        if other.is_some_and(|other| self.is_live(*other)) {
            return Err(FsError::Stale(None));
        }
        let node = self.node_mut(id)?;
        (node.found_by, node.is_own) = (FoundBy::File, true);
        self.own.insert(file, id);
        Ok(())
    }

    /// Whether `id` is found by which file it is.
    pub(crate) fn is_live(&self, id: NodeId) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.found_by == FoundBy::File)
    }

    /// Whether attributes of `id` may have changed while it was open: it is live, or what this mount did to it is not known.
    pub(crate) fn follows(&self, id: NodeId) -> bool {
        self.is_live(id) || self.nodes.get(&id).is_some_and(|node| node.is_loose)
    }

    /// Whether `attr` is of the same content as `id`.
    pub(crate) fn keeps_content(&self, id: NodeId, attr: &Attr) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.is_loose_of(attr))
    }

    /// From now on `id` is not found any more: its file will be another node.
    pub(crate) fn part(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.found_by = FoundBy::Nothing;
            let attr = node.attr;
            self.leave_own(id, &attr);
        }
    }

    /// This mount begins to change `id`, which it does once at a time.
    pub(crate) fn begin_change(&mut self, id: NodeId) -> FsResult<()> {
        self.node_mut(id).map(|node| node.is_changing = true)
    }

    /// Whether it does.
    pub(crate) fn is_changing(&self, id: NodeId) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.is_changing)
    }

    /// It has, or failed. Only attributes that are still those of the file at the node count.
    pub(crate) fn end_change(&mut self, id: NodeId, changed: Option<&Changed>) -> Pages {
        let Some(node) = self.nodes.get_mut(&id) else { return Pages::Keep };
        node.is_changing = false;
        let Some(Changed { before, attr: Some(attr), .. }) = changed else { return Pages::Keep };
        if (attr.file, attr.kind) != (node.attr.file, node.attr.kind) || node.found_by == FoundBy::Nothing {
            return Pages::Keep;
        }
        let is_ours = before.is_none_or(|before| before == node.attr.version());
        node.attr = *attr;
        if !has_content(attr) {
            return Pages::Keep;
        }
        (node.is_own, node.is_loose) = (true, false);
        self.own.insert(attr.file, id);
        if is_ours { Pages::Keep } else { Pages::Drop }
    }

    /// This mount has given `id` another place.
    pub(crate) fn relocate(&mut self, id: NodeId, place: Place<'_>) {
        if !self.nodes.contains_key(&place.parent) || self.is_inside(place.parent, id) {
            return;
        }
        let Some(before) = self.nodes.get(&id).filter(|node| !node.is_removed).map(|node| node.attr) else {
            return self.loosen(id);
        };
        self.see_directory(id, place, &before);
        self.unchain(id);
        let node = self.living(id);
        let left = std::mem::replace(&mut node.parent, place.parent);
        node.name = place.name.into();
        self.chain(id);
        self.drop_unheld(left);
        self.loosen(id);
    }

    /// This mount has changed `id` in a way that leaves its content, by another name or one less. What its attributes are
    /// now is not known until it is seen again.
    pub(crate) fn loosen(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.found_by == FoundBy::Nothing || !has_content(&node.attr) {
            return;
        }
        (node.is_own, node.is_loose) = (true, true);
        let file = node.attr.file;
        if self.own.get(&file).is_none_or(|other| !self.is_live(*other)) {
            self.own.insert(file, id);
        }
    }

    /// The node that stands for `attr`, if it lives.
    pub(crate) fn living_id(&self, attr: &Attr) -> Option<NodeId> {
        Some(self.id_of(attr)).filter(|id| self.nodes.contains_key(id))
    }

    /// The kernel writes to `id` by itself, and its file is this now.
    pub(crate) fn is_written(&mut self, id: NodeId, now: LocalAttr) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let LocalAttr { size, blocks, atime_ns, mtime_ns, ctime_ns } = now;
        node.attr = Attr { size, blocks, atime_ns, mtime_ns, ctime_ns, ..node.attr };
        node.is_own = true;
    }

    /// What was read of the live `id` is not there any more, and no change of ours is under way: its attributes are these.
    pub(crate) fn correct(&mut self, id: NodeId, attr: &Attr) -> bool {
        let Some(node) = self.nodes.get_mut(&id) else { return false };
        let is_new = attr.version() != node.attr.version();
        let counts = (node.is_live_of(attr) || node.is_loose_of(attr)) && !node.is_changing && is_new;
        if counts {
            (node.attr, node.is_loose) = (*attr, false);
        }
        counts
    }

    /// The name of `id` was taken away while it is open: it has one that nobody sees, and that goes with the last close.
    /// Until then it is found by that one alone, whatever further names it has.
    pub(crate) fn set_removed(&mut self, id: NodeId) {
        self.nodes.get_mut(&id).into_iter().for_each(|node| node.is_removed = true);
    }

    /// Whether the last handle of `id`, which has a hidden name, is being closed: then that name goes from now on.
    pub(crate) fn begin_going(&mut self, id: NodeId) -> bool {
        let Some(node) = self.nodes.get_mut(&id) else { return false };
        node.is_going = node.is_removed && node.open_handles == 1;
        node.is_going
    }

    /// Whether a hidden name of the file of `attr` is on its way out.
    pub(crate) fn is_going(&self, attr: &Attr) -> bool {
        self.nodes.get(&self.id_of(attr)).is_some_and(|node| node.is_going)
    }

    /// The hidden name of `id` is gone.
    pub(crate) fn end_removed(&mut self, id: NodeId) {
        let node = self.living(id);
        node.attr = node.shown_attr();
        (node.is_removed, node.is_going) = (false, false);
        self.loosen(id);
    }

    /// Whether it was.
    pub(crate) fn is_removed(&self, id: NodeId) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.is_removed)
    }

    /// This mount has given `id`, of which all is known, the further name `place`; counts one lookup of it.
    pub(crate) fn see_link(&mut self, id: NodeId, place: Place<'_>) -> FsResult<Sight> {
        let attr = self.node(id)?.attr;
        self.sight(place, &attr)
    }

    /// The content that is read of `id` when it is open.
    pub(crate) fn version(&self, id: NodeId) -> FsResult<Version> {
        self.node(id).map(|node| node.attr.version())
    }

    pub(super) fn leave_own(&mut self, id: NodeId, attr: &Attr) {
        if self.own.get(&attr.file) == Some(&id) && !self.is_live(id) {
            self.own.remove(&attr.file);
        }
    }
}

impl Node {
    /// What applications see: a hidden name does not count.
    pub(super) fn shown_attr(&self) -> Attr {
        Attr { nlink: self.attr.nlink.saturating_sub(self.is_removed.into()), ..self.attr }
    }

    /// Whether it stands for `identity` alone.
    pub(super) fn is_of(&self, identity: &Identity) -> bool {
        self.found_by != FoundBy::Nothing && Identity::of(&self.attr) == *identity
    }

    fn is_live_of(&self, attr: &Attr) -> bool {
        self.found_by == FoundBy::File && (self.attr.file, self.attr.kind) == (attr.file, attr.kind)
    }

    /// Of a node of the file of `attr`: whether it stands for that version, or did.
    fn is_own_of(&self, attr: &Attr) -> bool {
        let is_older = attr.ctime_ns < self.attr.ctime_ns;
        self.found_by == FoundBy::File
            || is_older
            || self.is_loose_of(attr)
            || self.is_of(&Identity::of(attr))
    }

    fn is_loose_of(&self, attr: &Attr) -> bool {
        let content = |attr: &Attr| (attr.file, attr.kind, attr.size, attr.mtime_ns);
        self.is_loose && self.found_by != FoundBy::Nothing && content(attr) == content(&self.attr)
    }

    /// Takes `attr` over unless it is older than an own change, or one is under way.
    pub(super) fn take_over(&mut self, attr: &Attr) -> Pages {
        let is_same = !has_content(attr) || attr.version() == self.attr.version();
        if self.is_own && !is_same && (self.is_changing || attr.ctime_ns <= self.attr.ctime_ns) {
            return Pages::Keep;
        }
        let keeps = is_same || self.is_loose_of(attr);
        self.is_loose &= is_same;
        self.attr = *attr;
        if keeps { Pages::Keep } else { Pages::Drop }
    }
}

/// Whether the kernel keeps content of it.
fn has_content(attr: &Attr) -> bool {
    matches!(attr.kind, FileKind::Regular | FileKind::Symlink)
}

#[cfg(test)]
#[path = "own_tests.rs"]
mod tests;
