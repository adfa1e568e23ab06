//! One directory as it is known: its entries by name, and what changed since it was told.

use crate::source::Listing;
use bytes::Bytes;
use globalfs_proto::{Attr, DirEntry};
use std::collections::BTreeSet;
use std::time::Duration;

/// When and how something was learned.
#[derive(Clone, Copy)]
pub(super) struct Origin {
    pub(super) asked: u64,
    pub(super) learned_at: Duration,
    /// For how long it counts where its changes are not heard.
    pub(super) ttl: Duration,
    /// The subscription that hears its changes; 0: none.
    pub(super) subscription: u64,
}

/// Names of a directory that may change before it is asked for as a whole, however small it is.
const MIN_CHANGED_NAMES: usize = 64;

/// A directory's listing, or that it is not told unasked.
pub(super) struct Directory {
    pub(super) listing: Option<Listing>,
    /// Positions of the entries in the order of their names.
    by_name: Box<[u32]>,
    /// Positions of the entries whose attributes the watch does not see.
    pub(super) unseen: Box<[u32]>,
    /// Names that changed since.
    pub(super) changed: BTreeSet<Bytes>,
    /// Something in it changed, so its own attributes have.
    pub(super) touched: bool,
    /// Names asked for after it had grown old.
    pub(super) misses: u32,
    pub(super) origin: Origin,
    listing_bytes: usize,
}

impl Directory {
    pub(super) fn new(listing: Option<Listing>, changed: BTreeSet<Bytes>, origin: Origin) -> Self {
        let entries = listing.as_ref().map_or(&[][..], |listing| &listing.entries);
        let mut by_name: Vec<u32> = (0..u32::try_from(entries.len()).unwrap_or(u32::MAX)).collect();
        let unseen = by_name.iter().copied().filter(|n| !is_seen(Some(&entries[*n as usize].attr))).collect();
        by_name.sort_unstable_by(|a, b| entries[*a as usize].name.cmp(&entries[*b as usize].name));
        let (by_name, touched) = (by_name.into(), !changed.is_empty());
        let listing_bytes = bytes_of(entries);
        Self { listing, by_name, unseen, changed, touched, misses: 0, origin, listing_bytes }
    }

    /// How many names may change before it is better asked for as a whole: as many as it has, so that asking costs a
    /// directory that grows, or is emptied, no more than its changes do.
    pub(super) fn max_changed(&self) -> usize {
        MIN_CHANGED_NAMES.max(self.by_name.len())
    }

    /// The attributes that it tells of `name`, or that there is no such name; `None`: nothing.
    pub(super) fn find(&self, name: &[u8]) -> Option<Option<Attr>> {
        Some(self.entry(name)?.map(|entry| entry.attr))
    }

    /// What it tells of `name`, or that there is no such name; `None`: nothing.
    pub(super) fn entry(&self, name: &[u8]) -> Option<Option<&DirEntry>> {
        let listing = self.listing.as_ref().filter(|_| !self.changed.contains(name))?;
        match self.listed(name) {
            None => listing.complete.then_some(None),
            entry => Some(entry),
        }
    }

    /// What it told of `name`, whether or not that has changed since.
    pub(super) fn listed(&self, name: &[u8]) -> Option<&DirEntry> {
        let listing = self.listing.as_ref()?;
        let entry = |n: &u32| &listing.entries[*n as usize];
        let at = self.by_name.binary_search_by(|n| entry(n).name[..].cmp(name)).ok()?;
        Some(entry(&self.by_name[at]))
    }

    pub(super) fn bytes(&self) -> usize {
        self.listing_bytes + self.changed.len() * 64
    }
}

fn bytes_of(entries: &[DirEntry]) -> usize {
    let target = |entry: &DirEntry| entry.target.as_ref().map_or(0, |target| target.len());
    let names: usize = entries.iter().map(|entry| entry.name.len() + target(entry)).sum();
    names + entries.len() * (size_of::<DirEntry>() + size_of::<u32>())
}

/// Whether the watch of its directory sees each change of what has these attributes, or of an absent name.
pub(super) fn is_seen(attr: Option<&Attr>) -> bool {
    attr.is_none_or(Attr::has_one_name)
}
