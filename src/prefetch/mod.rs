//! Brings files into the cache of this node's site before they are read: what `globalfs prefetch` and the
//! replay of traces do.
//!
//! A plan is a list of parts of files, made from a walk of trees or from a trace. The site's daemon is asked
//! in batches to warm its cache; it skips what it has, so doing it again goes on where it stopped.
//!
//! *Invariant:* what is reported as fetched was in the site's cache when it was told so; what is not there is
//! named as failed, left out or evicted, never passed over.

mod place;
mod walk;
mod warming;

pub use place::{PlaceError, namespace_path};
pub use walk::walk;
pub use warming::{Batches, Tally};

use globalfs_proto::limits::CHUNK_SIZE;
use globalfs_proto::warm::split;
use globalfs_proto::{FsError, GlobalPath, WarmFile};

/// Disk space that a cache may take for a file besides its bytes.
const FILE_COST: u64 = 4096;

/// Parts of files to bring, in this order, and what could not be planned.
#[derive(Debug, Default)]
pub struct Plan {
    /// The parts, none larger than one request may ask for.
    pub parts: Vec<WarmFile>,
    /// Regular files, empty ones included.
    pub files: u64,
    /// Symbolic links that were met and not followed.
    pub links: u64,
    /// What has no place in the plan, and why.
    pub failed: Vec<Failure>,
}

/// Something that was not brought.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Failure {
    /// The file or directory.
    pub path: String,
    /// Why.
    pub error: String,
}

impl Failure {
    /// `path` failed for `error`.
    pub fn new(path: &GlobalPath, error: &FsError) -> Self {
        Self { path: path.to_string(), error: error.to_string() }
    }
}

impl Plan {
    /// Adds a part of any size.
    pub fn add(&mut self, part: WarmFile) {
        self.parts.extend(split(part));
    }

    /// The bytes of all parts.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(WarmFile::bytes).sum()
    }

    /// Takes out the parts that a cache of `quota_bytes` would have to drop others of this plan for; gives
    /// what they are.
    pub fn cut_to(&mut self, quota_bytes: u64) -> Vec<WarmFile> {
        // The cache counts whole blocks, and the file system's own bookkeeping beside them.
        let room = quota_bytes - quota_bytes / 16;
        let mut used = 0_u64;
        let fits = self.parts.iter().take_while(|part| {
            used = used.saturating_add(disk_cost(part));
            used <= room
        });
        let count = fits.count();
        self.parts.split_off(count)
    }
}

fn disk_cost(part: &WarmFile) -> u64 {
    let chunks = part.span.count.saturating_mul(CHUNK_SIZE);
    part.bytes().next_multiple_of(4096).min(chunks) + FILE_COST
}

#[cfg(test)]
mod tests {
    use super::*;
    use globalfs_proto::{FileId, Version};

    fn part(size: u64) -> WarmFile {
        let version = Version { file: FileId { origin: 1, inode: 2 }, size, mtime_ns: 0, ctime_ns: 0 };
        WarmFile::whole(GlobalPath::root(), version).unwrap()
    }

    #[test]
    fn a_plan_is_cut_to_what_a_cache_can_hold() {
        let mut plan = Plan::default();
        (0..10).for_each(|_| plan.add(part(1 << 20)));
        assert_eq!(plan.bytes(), 10 << 20);
        assert!(plan.cut_to(u64::MAX).is_empty());
        let left_out = plan.cut_to(4 << 20);
        assert_eq!((plan.parts.len(), left_out.len()), (3, 7));
        assert_eq!(plan.cut_to(4096).len(), 3);
    }
}
