//! Which directories' names the kernel keeps: so long as nothing in them changes it lists them by itself.
//!
//! The kernel fills its memory of a directory from what readers are told, and shows it to later readers who are allowed
//! to see it. It drops what it has when a reader is opened who is not.
//!
//! *Invariant:* a reader is shown what the kernel kept only if all of that is of the edition that counts when the reader
//! is opened. So readers who fill are of one edition at a time.

use crate::model::NodeId;
use std::collections::HashMap;

/// What a new reader of a directory may do with the kernel's memory of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    /// Pass it by.
    Nothing,
    /// Drop it and fill it anew.
    Anew,
    /// See it, or go on to fill it.
    On,
}

#[derive(Debug)]
struct Kept {
    edition: u64,
    readers: u32,
}

/// The directories of which the kernel may keep names.
#[derive(Debug, Default)]
pub(crate) struct KeptNames(HashMap<NodeId, Kept>);

impl KeptNames {
    /// A reader is opened while `edition` counts; `None`: nobody would tell that it counts no more.
    pub(crate) fn open(&mut self, directory: NodeId, edition: Option<u64>) -> Keeping {
        let Some(edition) = edition else { return Keeping::Nothing };
        let kept = self.0.entry(directory).or_insert(Kept { edition: 0, readers: 0 });
        if kept.edition == edition {
            kept.readers += 1;
            return Keeping::On;
        }
        if kept.readers > 0 {
            return Keeping::Nothing;
        }
        *kept = Kept { edition, readers: 1 };
        Keeping::Anew
    }

    /// A reader who did not pass it by is closed.
    pub(crate) fn close(&mut self, directory: NodeId) {
        if let Some(kept) = self.0.get_mut(&directory) {
            kept.readers -= 1;
        }
    }

    /// The kernel has forgotten the directory and all that it kept of it.
    pub(crate) fn forget(&mut self, directory: NodeId) {
        self.0.remove(&directory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: NodeId = NodeId(5);

    #[test]
    fn what_was_kept_is_shown_in_its_own_edition_alone() {
        let mut kept = KeptNames::default();
        assert_eq!(kept.open(D, None), Keeping::Nothing);
        assert_eq!(kept.open(D, Some(1)), Keeping::Anew);
        assert_eq!(kept.open(D, Some(1)), Keeping::On, "two may fill it together");
        assert_eq!(kept.open(D, Some(2)), Keeping::Nothing, "while others fill it with what was before");
        kept.close(D);
        assert_eq!(kept.open(D, Some(2)), Keeping::Nothing);
        kept.close(D);
        assert_eq!(kept.open(D, Some(2)), Keeping::Anew);
        kept.close(D);
        assert_eq!(kept.open(D, Some(2)), Keeping::On);
        kept.close(D);
        kept.forget(D);
        assert_eq!(kept.open(D, Some(2)), Keeping::Anew);
    }
}
