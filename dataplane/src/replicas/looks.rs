//! What is to be looked at: names of which it was heard that they changed, or that are read here.

use globalfs_proto::{ChangedDirectory, GlobalPath};
use std::collections::{BTreeMap, BTreeSet};

/// Names of one directory that are asked for one by one; for more its listing is read.
const MAX_NAMES: usize = 32;

/// Directories that are remembered; beyond, all is looked at again.
const MAX_DIRECTORIES: usize = 16 * 1024;

/// What is to be looked at in one directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Names {
    Some(BTreeSet<GlobalPath>),
    All,
}

/// The set. A name that was read here is wanted whatever its mode.
#[derive(Debug, Default)]
pub(super) struct Looks {
    directories: BTreeMap<GlobalPath, Names>,
    read: BTreeSet<GlobalPath>,
}

impl Looks {
    /// The name `path`.
    pub(super) fn add(&mut self, path: &GlobalPath) {
        let Some(parent) = path.parent() else { return };
        let names = self.directories.entry(parent).or_insert_with(|| Names::Some(BTreeSet::new()));
        if let Names::Some(some) = names {
            some.insert(path.clone());
            if some.len() > MAX_NAMES {
                *names = Names::All;
            }
        }
    }

    /// The name `path`, which was read here. False: that is known. Its directory is listed, so that changes in it are told
    /// from then on.
    pub(super) fn add_read(&mut self, path: &GlobalPath) -> bool {
        let is_new = self.read.len() < MAX_DIRECTORIES && self.read.insert(path.clone());
        if let Some(parent) = path.parent().filter(|_| is_new) {
            self.directories.insert(parent, Names::All);
        }
        is_new
    }

    /// What has changed.
    pub(super) fn hear(&mut self, changed: &ChangedDirectory) {
        if changed.names.is_empty() || changed.names.len() > MAX_NAMES {
            self.directories.insert(changed.path.clone(), Names::All);
            return;
        }
        changed.names.iter().filter_map(|name| changed.path.join(name).ok()).for_each(|path| self.add(&path));
    }

    /// What could not be looked at yet.
    pub(super) fn put_back(&mut self, directory: GlobalPath, names: Names, read: &BTreeSet<GlobalPath>) {
        self.read.extend(read.iter().filter(|path| path.parent().as_ref() == Some(&directory)).cloned());
        match names {
            Names::All => drop(self.directories.insert(directory, Names::All)),
            Names::Some(paths) => paths.iter().for_each(|path| self.add(path)),
        }
    }

    /// Whether there is more than is worth to be looked at one by one.
    pub(super) fn is_full(&self) -> bool {
        self.directories.len() > MAX_DIRECTORIES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.directories.is_empty()
    }

    /// All of it, and what of it was read here.
    pub(super) fn take(&mut self) -> (BTreeMap<GlobalPath, Names>, BTreeSet<GlobalPath>) {
        (std::mem::take(&mut self.directories), std::mem::take(&mut self.read))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> GlobalPath {
        GlobalPath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn many_names_of_one_directory_are_its_listing() {
        let mut looks = Looks::default();
        looks.add(&path("/a/x"));
        assert!(looks.add_read(&path("/b/y")) && !looks.add_read(&path("/b/y")));
        (0..=MAX_NAMES).for_each(|n| looks.add(&path(&format!("/c/{n}"))));
        looks.hear(&ChangedDirectory { path: path("/d"), names: Vec::new() });
        looks.add(&path("/d/z"));
        let (directories, read) = looks.take();
        assert_eq!(directories[&path("/a")], Names::Some([path("/a/x")].into()));
        assert!(["/b", "/c", "/d"].iter().all(|name| directories[&path(name)] == Names::All));
        assert_eq!(read, [path("/b/y")].into());
        assert!(looks.is_empty());
    }
}
