//! What is known of names after changes: those that are heard, and those that were asked for here.

use super::super::directory::is_seen;
use super::super::freshness::{Ticket, split};
use super::{Names, is_in, join};
use bytes::Bytes;
use globalfs_proto::{Attr, Changes, FileKind, GlobalPath};
use std::time::Duration;

/// What became of the directory of a name that was changed.
#[derive(Debug, Clone, Copy)]
pub enum Parent {
    /// Nothing: what changed is what the name stands for.
    Same,
    /// The name was made or taken away. The directory's attributes since, if they were told.
    Changed(Option<Attr>),
}

impl Names {
    /// What is known of `path` is out of date, as who asks here knows, and so are the attributes of its directory.
    pub fn forget(&mut self, path: &GlobalPath) {
        let Some((directory, name)) = split(path.as_bytes()) else { return self.clear() };
        // Not when a change is heard: who walks through a directory in which others work would ask all the time.
        self.outdate(directory);
        self.name_changed(directory, name);
    }

    /// `path` was changed by the request of `ticket`, which may have told what `attr` it has since. What is on its way may be
    /// from before.
    pub fn change_done(
        &mut self,
        ticket: Ticket,
        path: &GlobalPath,
        (attr, of_directory): (Option<Attr>, Parent),
        now: Duration,
    ) {
        let key = path.as_bytes();
        let is_overtaken = self.asks.is_overtaken(ticket, key);
        let since = match of_directory {
            Parent::Changed(attr) => attr,
            Parent::Same => None,
        };
        let since = since.filter(|_| !self.asks.has_changed_in(ticket, path) && !self.ttl.is_zero());
        self.asks.note_name(key);
        match (of_directory, split(key)) {
            (Parent::Same, Some((directory, name))) => self.name_changed(directory, name),
            _ => self.forget(path),
        }
        if let (Some(attr), Some((parent, _))) = (since, split(key)) {
            // As if it had been asked for now: since the change nothing was heard of it.
            let asked = self.asks.open(ticket.subscription);
            self.keep(asked, parent, Some(attr), now);
            self.asks.close(asked);
        }
        // Of a file with several links another name may be changed next, and nobody here need know that both are one file.
        let may_keep = |attr: &Attr| attr.kind == FileKind::Directory || is_seen(Some(attr));
        if let Some(attr) = attr.filter(may_keep).filter(|_| !self.ttl.is_zero() && !is_overtaken) {
            self.drop_contradicted(key, Some(&attr));
            self.keep(ticket, key, Some(attr), now);
        }
    }

    pub(super) fn changed(&mut self, changes: &Changes) {
        self.asks.note(changes);
        if changes.everything {
            self.clear();
        }
        for directory in &changes.directories {
            let path = directory.path.as_bytes();
            if directory.names.is_empty() {
                self.directory_changed(path);
            }
            directory.names.iter().for_each(|name| self.name_changed(path, name));
        }
    }

    fn clear(&mut self) {
        self.slots.clear();
        self.recency.clear();
        self.used = 0;
    }

    /// All names of `directory` may have changed; what is below its directories has watches of its own.
    fn directory_changed(&mut self, directory: &[u8]) {
        self.change(directory, |slot| slot.directory = None);
        let children: Vec<Box<[u8]>> = self.below(directory).filter(|key| is_in(key, directory)).collect();
        children.iter().for_each(|child| self.change(child, |slot| slot.own = None));
    }

    /// `name` may now be anything, and so may all below it.
    fn name_changed(&mut self, directory: &[u8], name: &[u8]) {
        let path = join(directory, name);
        self.outdate(&path);
        let gone: Vec<Box<[u8]>> = self.below(&path).chain([path.clone().into()]).collect();
        gone.iter().for_each(|key| self.remove(key));
        self.change(directory, |slot| {
            let Some(known) = &mut slot.directory else { return };
            known.touched = true;
            known.changed.insert(Bytes::copy_from_slice(name));
            if known.changed.len() > known.max_changed() {
                slot.directory = None;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, known, path, watching};
    use super::*;
    use crate::testing::some_attr;

    #[test]
    fn a_change_tells_of_its_directory_unless_others_have_changed_it_meanwhile() {
        let mut names = watching();
        let directory = |size| Some(Attr { kind: FileKind::Directory, ..some_attr(size) });
        let change = names.ask();
        names.change_done(change, &path("/d/f"), (None, Parent::Changed(directory(9))), at(0));
        names.close(change);
        assert_eq!(known(&mut names, "/d", at(0)), Some(Some(9)));
        let (first, second) = (names.ask(), names.ask());
        names.change_done(second, &path("/d/b"), (None, Parent::Changed(directory(11))), at(0));
        assert_eq!(known(&mut names, "/d", at(0)), Some(Some(11)));
        names.change_done(first, &path("/d/a"), (None, Parent::Changed(directory(10))), at(0));
        assert_eq!(known(&mut names, "/d", at(0)), None, "which of both is newer is not known");
    }

    #[test]
    fn who_writes_to_a_file_has_not_changed_its_directory() {
        let mut names = watching();
        let made = names.ask();
        let directory = Attr { kind: FileKind::Directory, ..some_attr(9) };
        names.change_done(made, &path("/d/f"), (Some(some_attr(0)), Parent::Changed(Some(directory))), at(0));
        let written = names.ask();
        names.change_done(written, &path("/d/f"), (Some(some_attr(7)), Parent::Same), at(0));
        assert_eq!(known(&mut names, "/d", at(0)), Some(Some(9)));
        assert_eq!(known(&mut names, "/d/f", at(0)), Some(Some(7)));
        let removed = names.ask();
        names.change_done(removed, &path("/d/f"), (None, Parent::Changed(None)), at(0));
        assert_eq!(known(&mut names, "/d", at(0)), None, "its times are others");
    }
}
