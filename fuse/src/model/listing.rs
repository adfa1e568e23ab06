//! Directories as their readers go through them.
//!
//! Readers have no handles: the kernel opens directories by itself. What a reader has seen lies in the offset that it goes
//! on from: which listing, how many of its entries, and whether that was all.
//!
//! *Invariants:* an offset means the same entry for as long as its listing is known; it is in no other listing of the same
//! directory the same.

use crate::model::{Moment, NodeId, hidden};
use crate::volume::Names;
use globalfs_proto::DirEntry;
use lru::LruCache;
use std::sync::Arc;
use std::time::Duration;

/// Entries of listings that are remembered for readers under way, which is some 150 MB if nothing else holds them. One
/// listing may be longer.
const MAX_ENTRIES: usize = 1 << 20;

/// Listings that are remembered, however short.
const MAX_LISTINGS: usize = 16 * 1024;

/// What tells the listings of a directory apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Mark(u32);

impl Mark {
    const BITS: u32 = 30;

    /// Set in marks of listings of which nobody would tell that they count no more.
    const UNWATCHED: u32 = 1 << (Self::BITS - 1);

    /// Of an edition of the volume's, or the `unwatched`-th listing without one.
    pub(crate) fn of(names: &Names, unwatched: u64) -> Self {
        let mask = u64::from(Self::UNWATCHED - 1);
        Self(match names.edition {
            Some(edition) => (edition.number & mask) as u32,
            None => (unwatched & mask) as u32 | Self::UNWATCHED,
        })
    }

    /// Whether it is that of `names`, of whose changes somebody would tell.
    pub(crate) fn is_of(self, names: &Names) -> bool {
        names.edition.is_some() && self == Self::of(names, 0)
    }
}

/// A directory's entries as its readers go through them.
#[derive(Debug, Clone)]
pub(crate) struct Listing {
    /// In the order of their offsets.
    pub(crate) entries: Arc<[DirEntry]>,
    /// What its offsets are told apart by.
    pub(crate) mark: Mark,
    /// For how long the names count, so long as no change is told.
    pub(crate) lasting: Duration,
    /// When it was asked for.
    pub(crate) moment: Moment,
}

/// What comes next for a reader of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Position {
    /// `.`
    Itself,
    /// `..`
    Parent,
    /// The entry with this index.
    Entry(usize),
}

/// An offset in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offset {
    /// Where a reader begins, and begins anew.
    Start,
    /// In the listing with this mark.
    Within(Mark, Position),
    /// Behind the last entry of the listing with this mark.
    End(Mark),
}

/// Bits of an offset that count lines; above them is whether that was the last, then the mark. The sign stays positive.
const COUNT_BITS: u32 = 32;
const LAST: u64 = 1 << COUNT_BITS;

impl Offset {
    /// What the kernel's number means: one that [`Listing::offset_after`] gave, or zero.
    pub(crate) fn parse(number: u64) -> Self {
        let mark = Mark((number >> (COUNT_BITS + 1)) as u32 & ((1 << Mark::BITS) - 1));
        match number & (LAST - 1) {
            0 => Self::Start,
            _ if number & LAST != 0 => Self::End(mark),
            1 => Self::Within(mark, Position::Parent),
            n => Self::Within(mark, Position::Entry((n - 2) as usize)),
        }
    }
}

impl Listing {
    /// `names` as they were told just now; see [`Mark::of`].
    pub(crate) fn of(names: Names, unwatched: u64, moment: Moment) -> Self {
        let (mark, lasting) = (Mark::of(&names, unwatched), names.edition.map(|edition| edition.lasting));
        let entries = without_hidden(names.entries);
        Self { entries, mark, lasting: lasting.unwrap_or_default(), moment }
    }

    /// The kernel's number for the offset behind `position`, where its reader goes on.
    pub(crate) fn offset_after(&self, position: Position) -> u64 {
        let count = match position {
            Position::Itself => 1,
            Position::Parent => 2,
            Position::Entry(index) => index as u64 + 3,
        };
        let is_last = count == self.entries.len() as u64 + 2;
        u64::from(self.mark.0) << (COUNT_BITS + 1) | u64::from(is_last) << COUNT_BITS | count
    }
}

/// What a mount shows of `entries`.
fn without_hidden(entries: Arc<[DirEntry]>) -> Arc<[DirEntry]> {
    if entries.iter().all(|entry| !hidden::is_hidden(&entry.name)) {
        return entries;
    }
    entries.iter().filter(|entry| !hidden::is_hidden(&entry.name)).cloned().collect()
}

/// Listings that readers may be going through.
#[derive(Debug)]
pub(crate) struct Listings {
    begun: LruCache<(NodeId, Mark), Listing>,
    entries: usize,
}

impl Default for Listings {
    fn default() -> Self {
        Self { begun: LruCache::unbounded(), entries: 0 }
    }
}

impl Listings {
    /// A reader of `directory` begins.
    pub(crate) fn begin(&mut self, directory: NodeId, listing: &Listing) {
        self.entries += listing.entries.len();
        let before = self.begun.put((directory, listing.mark), listing.clone());
        self.entries -= before.map_or(0, |before| before.entries.len());
        while self.begun.len() > 1 && (self.entries > MAX_ENTRIES || self.begun.len() > MAX_LISTINGS) {
            let (_, oldest) = self.begun.pop_lru().expect("there are two");
            self.entries -= oldest.entries.len();
        }
    }

    /// A reader goes on in the listing with this mark; `None` when it is long forgotten.
    pub(crate) fn go_on(&mut self, directory: NodeId, mark: Mark) -> Option<Listing> {
        let begun = self.begun.get(&(directory, mark))?.clone();
        Some(Listing { lasting: Duration::ZERO, ..begun })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::inode::tests::attr;
    use bytes::Bytes;
    use globalfs_proto::{Edition, FileKind};

    fn names(count: usize, edition: Option<u64>) -> Names {
        let attr = attr(1, FileKind::Fifo, 0);
        let entries = (0..count).map(|n| DirEntry::new(Bytes::from(n.to_string()), attr)).collect();
        let lasting = Duration::from_secs(9);
        Names { entries, edition: edition.map(|number| Edition { number, lasting }) }
    }

    #[test]
    fn offsets_lead_from_entry_to_entry_and_to_the_end() {
        for edition in [None, Some(0), Some(77), Some(u64::MAX)] {
            let listing = Listing::of(names(2, edition), u64::MAX - 5, Moment::default());
            assert_eq!(Offset::parse(0), Offset::Start);
            let mut at = Position::Itself;
            for next in [Position::Parent, Position::Entry(0), Position::Entry(1)] {
                let number = listing.offset_after(at);
                assert_eq!(Offset::parse(number), Offset::Within(listing.mark, next));
                assert!(i64::try_from(number).is_ok(), "the kernel takes it");
                at = next;
            }
            assert_eq!(Offset::parse(listing.offset_after(at)), Offset::End(listing.mark));
        }
        let empty = Listing::of(names(0, None), 1, Moment::default());
        assert_eq!(Offset::parse(empty.offset_after(Position::Parent)), Offset::End(empty.mark));
        assert!(matches!(Offset::parse(u64::MAX), Offset::End(_)), "whatever the kernel is told to seek to");
    }

    #[test]
    fn marks_tell_listings_apart() {
        let mark = |edition, unwatched| Mark::of(&names(1, edition), unwatched);
        assert_ne!(mark(Some(5), 0), mark(Some(6), 0));
        assert_ne!(mark(None, 5), mark(None, 6));
        assert_ne!(mark(None, 5), mark(Some(5), 0));
        assert!(mark(Some(5), 0).is_of(&names(3, Some(5))));
        assert!(!mark(Some(5), 0).is_of(&names(3, Some(6))));
        assert!(!mark(None, 5).is_of(&names(3, None)), "nobody would tell");
    }

    #[test]
    fn listings_are_remembered_within_bounds() {
        let mut listings = Listings::default();
        let long = Listing::of(names(3 * MAX_ENTRIES / 4, Some(1)), 0, Moment::default());
        listings.begin(NodeId(1), &long);
        listings.begin(NodeId(1), &long);
        assert_eq!(listings.entries, long.entries.len(), "it is one");
        assert!(listings.go_on(NodeId(1), long.mark).is_some());
        listings.begin(NodeId(2), &long);
        assert!(listings.go_on(NodeId(1), long.mark).is_none(), "both are too much");
        assert_eq!(listings.go_on(NodeId(2), long.mark).unwrap().entries.len(), long.entries.len());
        let short = Listing::of(names(1, None), 1, Moment::default());
        (0..2 * MAX_LISTINGS as u64).for_each(|n| listings.begin(NodeId(n), &short));
        assert_eq!((listings.begun.len(), listings.entries), (MAX_LISTINGS, MAX_LISTINGS));
    }
}
