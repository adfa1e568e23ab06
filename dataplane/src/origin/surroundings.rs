//! What must be known before paths of an origin are made what they are elsewhere: which file systems are to be flushed
//! afterwards, and which times directories had that are not to change. The calls block.

use super::change::set_attr;
use super::tree::{Tree, device, os, statx};
use globalfs_proto::{Attr, FsResult, GlobalPath, NewAttr, NewTime};
use rustix::fd::OwnedFd;
use std::collections::BTreeSet;

/// Directories around what changes, as they were before.
pub(crate) struct Surroundings {
    /// Opened before anything is written: what a file system could not write since then is told when it is flushed.
    file_systems: Vec<OwnedFd>,
    /// Directories that only lose time stamps.
    times: Vec<(GlobalPath, Attr)>,
}

impl Tree {
    /// The surroundings of changes in `around`, of which the directories `bystanders` are to keep their times.
    pub(crate) fn surroundings(
        &self,
        around: &BTreeSet<GlobalPath>,
        bystanders: &BTreeSet<GlobalPath>,
    ) -> FsResult<Surroundings> {
        let (mut file_systems, mut devices) = (Vec::new(), Vec::new());
        for path in [GlobalPath::root()].iter().chain(around) {
            let directory = self.nearest_directory(path)?;
            let device = device(&statx(&directory).map_err(os)?);
            if !devices.contains(&device) {
                devices.push(device);
                file_systems.push(directory);
            }
        }
        // One that is not there yet has no times.
        let times =
            bystanders.iter().filter_map(|path| Some((path.clone(), self.attr(self.find(path).ok()?).ok()?)));
        Ok(Surroundings { file_systems, times: times.collect() })
    }

    /// The directory `path` or, as long as there is none, the one above it.
    fn nearest_directory(&self, path: &GlobalPath) -> FsResult<OwnedFd> {
        let mut path = path.clone();
        loop {
            match (self.open_directory(&path), path.parent()) {
                (Err(_), Some(parent)) => path = parent,
                (opened, _) => return opened,
            }
        }
    }

    /// Gives directories their times again.
    pub(crate) fn restore_times(&self, before: &Surroundings) {
        for (path, attr) in &before.times {
            let Ok(found) = self.find(path) else { continue };
            if self.attr(&found).is_ok_and(|now| now.file == attr.file && now.mtime_ns != attr.mtime_ns) {
                let times = NewAttr {
                    atime: Some(NewTime::At(attr.atime_ns)),
                    mtime: Some(NewTime::At(attr.mtime_ns)),
                    ..NewAttr::default()
                };
                // Where this is not permitted they only look younger than they are.
                let _ = set_attr(&found, attr, &times);
            }
        }
    }
}

impl Surroundings {
    /// All that was written since then survives a loss of power.
    pub(crate) fn flush(&self) -> FsResult<()> {
        self.file_systems.iter().try_for_each(|directory| rustix::fs::syncfs(directory).map_err(os))
    }
}
