//! The names of files that have several, in one subtree: when one of them changes, all have to be told home together, or
//! there they would be files of their own.

use globalfs_proto::{Attr, FileId, FileKind, GlobalPath};
use std::collections::{BTreeSet, HashMap};

/// What is known. A name may have gone since; who uses it looks.
#[derive(Debug, Default)]
pub(super) struct Links {
    names: HashMap<FileId, BTreeSet<GlobalPath>>,
    /// Which file each name was seen of last.
    files: HashMap<GlobalPath, FileId>,
}

impl Links {
    /// `path` is a name of the file with these attributes.
    pub(super) fn see(&mut self, path: &GlobalPath, attr: &Attr) {
        if !is_linked(attr) {
            return;
        }
        if let Some(before) = self.files.insert(path.clone(), attr.file).filter(|file| *file != attr.file) {
            self.leave(path, before);
        }
        self.names.entry(attr.file).or_default().insert(path.clone());
    }

    /// `path` is no name of it.
    pub(super) fn forget(&mut self, path: &GlobalPath, file: FileId) {
        if self.files.get(path) == Some(&file) {
            self.files.remove(path);
        }
        self.leave(path, file);
    }

    fn leave(&mut self, path: &GlobalPath, file: FileId) {
        if let Some(names) = self.names.get_mut(&file) {
            names.remove(path);
            if names.is_empty() {
                self.names.remove(&file);
            }
        }
    }

    /// The names of a file.
    pub(super) fn names(&self, file: FileId) -> Vec<GlobalPath> {
        self.names.get(&file).into_iter().flatten().cloned().collect()
    }

    /// The other names of the file that `path` is a name of.
    pub(super) fn beside(&self, path: &GlobalPath) -> Vec<GlobalPath> {
        let names = self.files.get(path).map(|file| self.names(*file)).unwrap_or_default();
        names.into_iter().filter(|name| name != path).collect()
    }
}

/// Whether a file has several names that matter.
pub(super) fn is_linked(attr: &Attr) -> bool {
    attr.kind != FileKind::Directory && attr.nlink > 1
}
