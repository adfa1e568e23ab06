//! Which files nodes write to by themselves, on disk: a file for each, named by which it is, with its path, so that a
//! daemon which was killed goes on looking after them. They need not survive a loss of power, which closes all files.

use globalfs_proto::{FileId, GlobalPath};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// The folder of these files. Its calls block.
#[derive(Debug, Clone)]
pub(super) struct Records(PathBuf);

impl Records {
    /// Opens `dir`, which is made if it is not there, and gives what it tells of.
    pub(super) fn open(dir: &Path) -> io::Result<(Self, Vec<(FileId, GlobalPath)>)> {
        fs::create_dir_all(dir)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let file = entry.file_name().to_str().and_then(parse);
            let path = fs::read(entry.path()).ok().and_then(|bytes| GlobalPath::new(&bytes).ok());
            match file.zip(path) {
                Some(record) => found.push(record),
                None => tracing::warn!(record = %entry.path().display(), "not the record of an open file"),
            }
        }
        Ok((Self(dir.to_owned()), found))
    }

    /// `file` is at `path`. Returns when the kernel has it.
    pub(super) fn put(&self, file: FileId, path: &GlobalPath) -> io::Result<()> {
        // Never half a path under the right name.
        let half = self.0.join(format!("{}.new", name(file)));
        fs::write(&half, path.as_bytes())?;
        fs::rename(half, self.0.join(name(file)))
    }

    /// A record that stays costs a look after the next restart and nothing else.
    pub(super) fn remove(&self, file: FileId) {
        if let Err(error) = fs::remove_file(self.0.join(name(file)))
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!(%error, "the record of a file that was open stays");
        }
    }
}

fn name(file: FileId) -> String {
    format!("{:016x}.{:016x}", file.origin, file.inode)
}

fn parse(name: &str) -> Option<FileId> {
    let (origin, inode) = name.split_once('.')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some(FileId { origin: number(origin)?, inode: number(inode)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = |text: &str| GlobalPath::new(text.as_bytes()).unwrap();
        let file = |inode| FileId { origin: 1, inode };
        let (records, found) = Records::open(dir.path()).unwrap();
        assert!(found.is_empty());
        records.put(file(1), &path("/a")).unwrap();
        records.put(file(2), &path("/b")).unwrap();
        records.put(file(2), &path("/c")).unwrap();
        records.remove(file(1));
        records.remove(file(1));
        fs::write(dir.path().join("0000000000000001.0000000000000009.new"), "/half").unwrap();
        assert_eq!(Records::open(dir.path()).unwrap().1, [(file(2), path("/c"))]);
    }
}
