//! Files of which a change of one name tells that they have changed under their other names: a directory in which a name
//! has changed, which is known by its listing and as an entry of another one, and a file that had several links.
//!
//! *Invariants:* of such a file nothing is given that was asked for before the change was known; memory stays bounded.

use super::super::directory::{Directory, Origin, is_seen};
use super::super::freshness::split;
use super::{Names, Slot};
use globalfs_proto::{Attr, FileId};
use std::collections::{BTreeMap, HashMap};

/// Files that are remembered one by one. Beyond, those longest changed stand for all whose changes no watch sees.
const MAX_FILES: usize = 1024;

/// When files have changed, in the order of requests and changes.
#[derive(Default)]
pub(super) struct Outdated {
    by_file: HashMap<FileId, u64>,
    by_number: BTreeMap<u64, FileId>,
    /// Whatever was asked for up to this request.
    everything: u64,
}

impl Outdated {
    /// What was asked for about `file` up to the request `number`, which no other note has, is out of date.
    fn note(&mut self, file: FileId, number: u64) {
        if let Some(before) = self.by_file.insert(file, number) {
            self.by_number.remove(&before);
        }
        self.by_number.insert(number, file);
        if self.by_number.len() > MAX_FILES
            && let Some((oldest, file)) = self.by_number.pop_first()
        {
            self.by_file.remove(&file);
            self.everything = oldest;
        }
    }

    fn contains(&self, file: FileId, asked: u64) -> bool {
        asked <= self.everything || self.by_file.get(&file).is_some_and(|number| asked <= *number)
    }
}

impl Names {
    /// `path` has changed: so has what it stood for, under whatever name, if no watch sees that there.
    pub(super) fn outdate(&mut self, path: &[u8]) {
        self.unseen_at(path).into_iter().flatten().for_each(|file| self.lost_a_name(file));
    }

    /// `file` has changed under all its names.
    pub fn lost_a_name(&mut self, file: FileId) {
        let number = self.asks.tick();
        self.outdated.note(file, number);
    }

    /// Whether what `origin` tells of a file has changed since by what happened to another name.
    pub(super) fn is_outdated(&self, origin: Origin, attr: Option<&Attr>) -> bool {
        let unseen = attr.filter(|attr| !is_seen(Some(attr)));
        unseen.is_some_and(|attr| self.outdated.contains(attr.file, origin.asked))
    }

    /// Whether that is so of an entry of `directory`.
    pub(super) fn is_partly_outdated(&self, directory: &Directory) -> bool {
        let Some(listing) = &directory.listing else { return false };
        let attr = |position: &u32| &listing.entries[*position as usize].attr;
        directory.unseen.iter().any(|at| self.is_outdated(directory.origin, Some(attr(at))))
    }

    /// What was ever told to be at `path` and is still remembered.
    fn unseen_at(&self, path: &[u8]) -> [Option<FileId>; 3] {
        let slot = self.slots.get(path);
        let directory = |slot: &Slot| Some(slot.directory.as_ref()?.listing.as_ref()?.attr);
        let listed = split(path).and_then(|(parent, name)| {
            let known = self.slots.get(parent)?.directory.as_ref()?;
            Some(known.listed(name)?.attr)
        });
        let own = slot.and_then(|slot| slot.own.as_ref()?.attr);
        let unseen = |attr: Option<Attr>| attr.filter(|attr| !is_seen(Some(attr))).map(|attr| attr.file);
        [unseen(own), unseen(slot.and_then(directory)), unseen(listed)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(inode: u64) -> FileId {
        FileId { origin: 1, inode }
    }

    #[test]
    fn what_was_asked_for_later_counts() {
        let mut outdated = Outdated::default();
        outdated.note(file(1), 5);
        assert!(outdated.contains(file(1), 4) && outdated.contains(file(1), 5));
        assert!(!outdated.contains(file(1), 6) && !outdated.contains(file(2), 4));
        outdated.note(file(1), 9);
        assert!(outdated.contains(file(1), 6) && outdated.by_number.len() == 1);
    }

    #[test]
    fn what_is_remembered_no_more_stands_for_all() {
        let mut outdated = Outdated::default();
        (0..=MAX_FILES as u64).for_each(|n| outdated.note(file(n), 10 + n));
        assert_eq!((outdated.by_file.len(), outdated.by_number.len()), (MAX_FILES, MAX_FILES));
        assert!(outdated.contains(file(0), 10) && outdated.contains(file(u64::MAX), 10));
        assert!(!outdated.contains(file(u64::MAX), 11) && outdated.contains(file(1), 11));
    }
}
