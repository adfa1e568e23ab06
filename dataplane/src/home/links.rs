//! The names of files that have several, in one subtree: when one of them changes, all have to be told home together, or
//! there they would be files of their own.

use globalfs_proto::{Attr, FileId, FileKind, GlobalPath};
use std::collections::{BTreeSet, HashMap};

/// What is known. A name may have gone since; who uses it looks.
#[derive(Debug, Default)]
pub(super) struct Links(HashMap<FileId, BTreeSet<GlobalPath>>);

impl Links {
    /// `path` is a name of the file with these attributes.
    pub(super) fn see(&mut self, path: &GlobalPath, attr: &Attr) {
        if is_linked(attr) {
            self.0.entry(attr.file).or_default().insert(path.clone());
        }
    }

    /// `path` is no name of it.
    pub(super) fn forget(&mut self, path: &GlobalPath, file: FileId) {
        if let Some(names) = self.0.get_mut(&file) {
            names.remove(path);
            if names.is_empty() {
                self.0.remove(&file);
            }
        }
    }

    /// The names of a file.
    pub(super) fn names(&self, file: FileId) -> Vec<GlobalPath> {
        self.0.get(&file).into_iter().flatten().cloned().collect()
    }
}

/// Whether a file has several names that matter.
pub(super) fn is_linked(attr: &Attr) -> bool {
    attr.kind != FileKind::Directory && attr.nlink > 1
}
