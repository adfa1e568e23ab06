//! All that there is in a tree at one moment, to be compared with another.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    mode: u32,
    links: u64,
    mtime: (i64, i64),
    content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    Directory,
    Target(PathBuf),
    Bytes(Vec<u8>),
}

/// Paths from the root of a tree and what is there. Names that begin with `.globalfs-` are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Snapshot(pub(super) BTreeMap<PathBuf, Entry>);

impl Snapshot {
    /// Reads all below `root`. Fails when something goes meanwhile.
    pub(super) fn of(root: &Path) -> io::Result<Self> {
        let mut found = BTreeMap::new();
        let mut directories = vec![PathBuf::new()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(root.join(&directory))? {
                let name = entry?.file_name();
                if name.to_string_lossy().starts_with(".globalfs-") {
                    continue;
                }
                let path = directory.join(name);
                let entry = Entry::of(&root.join(&path))?;
                if entry.content == Content::Directory {
                    directories.push(path.clone());
                }
                found.insert(path, entry);
            }
        }
        Ok(Self(found))
    }

    /// Without what a second tree in which the same was done cannot have.
    pub(super) fn without_times(mut self) -> Self {
        self.0.values_mut().for_each(|entry| entry.mtime = (0, 0));
        self
    }

    /// Without the number of names of files, to which hidden names add.
    pub(super) fn without_links(mut self) -> Self {
        self.0.values_mut().for_each(|entry| entry.links = 0);
        self
    }

    /// The paths that differ, and how, in few words; nothing if none does.
    pub(super) fn compare(&self, other: &Self) -> Result<(), String> {
        let paths = self.0.keys().chain(other.0.keys());
        let mut said: Vec<String> = paths
            .filter(|path| self.0.get(*path) != other.0.get(*path))
            .map(|path| {
                format!("{}: {} | {}", path.display(), show(self.0.get(path)), show(other.0.get(path)))
            })
            .collect();
        said.sort();
        said.dedup();
        if said.is_empty() { Ok(()) } else { Err(said.join("\n")) }
    }

    /// Whether it is one of `before` and `after`; where both have the same file with other bytes, it may have others, as
    /// when a machine dies while it writes.
    pub(super) fn is_between(&self, before: &Self, after: &Self) -> bool {
        let same_names = before.0.keys().eq(after.0.keys());
        let is_torn = |path: &PathBuf| before.0[path] != after.0[path] && before.0[path].is_file();
        let holds = |(path, entry): (&PathBuf, &Entry)| {
            before.0.get(path).is_some_and(|old| old == entry || (is_torn(path) && entry.is_torn_of(old)))
        };
        self == before
            || self == after
            || (same_names && self.0.len() == before.0.len() && self.0.iter().all(holds))
    }
}

impl Entry {
    fn of(path: &Path) -> io::Result<Self> {
        let meta = fs::symlink_metadata(path)?;
        let content = match () {
            () if meta.is_dir() => Content::Directory,
            () if meta.is_symlink() => Content::Target(fs::read_link(path)?),
            () => Content::Bytes(fs::read(path)?),
        };
        let links = if meta.is_dir() { 0 } else { meta.nlink() };
        Ok(Self { mode: meta.mode(), links, mtime: (meta.mtime(), meta.mtime_nsec()), content })
    }

    fn is_file(&self) -> bool {
        matches!(self.content, Content::Bytes(_))
    }

    fn is_torn_of(&self, old: &Self) -> bool {
        self.is_file() && (self.mode, self.links) == (old.mode, old.links)
    }
}

fn show(entry: Option<&Entry>) -> String {
    let Some(Entry { mode, links, mtime, content }) = entry else { return "nothing".into() };
    let content = match content {
        Content::Directory => "directory".into(),
        Content::Target(target) => target.display().to_string(),
        Content::Bytes(bytes) => format!("{} bytes {:?}..", bytes.len(), &bytes[..bytes.len().min(8)]),
    };
    format!("{mode:o} {links} {}.{:09} {content}", mtime.0, mtime.1)
}
