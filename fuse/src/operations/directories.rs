//! Reading directories.

use super::{Filled, Line, Node, OVERDUE, Operations, Reached};
use crate::model::{InodeTable, Listing, Mark, Moment, NodeId, Offset, Place, Position};
use crate::volume::{Names, Volume};
use globalfs_proto::{FsError, FsResult, Lasting};
use std::sync::atomic::Ordering;
use std::time::Duration;

impl<V: Volume + ?Sized> Operations<V> {
    /// Offers the lines of directory `id` behind `offset` to `take` until it is full. Counts no lookups.
    pub async fn read_dir(
        &self,
        id: NodeId,
        offset: u64,
        mut take: impl FnMut(Line<'_>) -> Filled,
    ) -> FsResult<Reached> {
        let (listing, mut next) = match self.go_on(id, offset).await? {
            Way::On(listing, position) => (listing, Some(position)),
            Way::Ended(reached) => return Ok(reached),
        };
        let inodes = self.inodes.lock();
        let is_settled = self.name_changes.none_since(listing.moment);
        while let Some(line) = next.and_then(|position| line_at(&inodes, id, &listing, position, is_settled))
        {
            if take(line) == Filled::Full {
                break;
            }
            next = following(line.offset_after);
        }
        Ok(Reached::More)
    }

    /// Like [`Self::read_dir`], and counts a lookup of each file taken, `.` and `..` apart.
    ///
    /// A file that cannot be made a node here (its place contradicts what is known) is left out; a
    /// lookup of its name says why.
    pub async fn read_dir_plus(
        &self,
        parent: NodeId,
        offset: u64,
        mut take: impl FnMut(Line<'_>) -> Filled,
    ) -> FsResult<Reached> {
        self.write_out_in(parent).await;
        let (listing, mut next) = match self.go_on(parent, offset).await? {
            Way::On(listing, position) => (listing, Some(position)),
            Way::Ended(reached) => return Ok(reached),
        };
        while let Some(position) = next {
            let mut inodes = self.inodes.lock();
            let is_settled = self.name_changes.none_since(listing.moment);
            let Some(line) = line_at(&inodes, parent, &listing, position, is_settled) else { break };
            next = following(line.offset_after);
            let Position::Entry(_) = position else {
                if take(line) == Filled::Full {
                    break;
                }
                continue;
            };
            let Ok(seen) = inodes.sight(Place { parent, name: line.name }, &line.node.attr) else { continue };
            let (id, mut attr) = (seen.id, seen.attr);
            self.settle(id, seen.pages);
            let mut lasting = line.node.lasting;
            if let Some(now) = self.local_attr(id) {
                inodes.is_written(id, now);
                (attr, lasting.attr) = (inodes.attr(id)?, Duration::ZERO);
            }
            if take(Line { node: Node { id, attr, lasting, ..line.node }, ..line }) == Filled::Full {
                inodes.forget(id, 1);
                break;
            }
        }
        Ok(Reached::More)
    }

    /// What a reader of `directory` goes through, and from where on.
    async fn go_on(&self, directory: NodeId, offset: u64) -> FsResult<Way> {
        match Offset::parse(offset) {
            Offset::Start => {
                let moment = self.name_changes.moment();
                let listing = self.listed(self.volume.list(&self.path(directory)?).await?, moment);
                self.listings.lock().begin(directory, &listing);
                Ok(Way::On(listing, Position::Itself))
            }
            Offset::Within(mark, position) => {
                let begun = self.listings.lock().go_on(directory, mark);
                let listing = match begun {
                    Some(listing) => listing,
                    None => self.known(directory, mark)?.ok_or(FsError::Stale(None))?,
                };
                Ok(Way::On(listing, position))
            }
            Offset::End(mark) => self.end(directory, mark).map(Way::Ended),
        }
    }

    fn listed(&self, names: Names, moment: Moment) -> Listing {
        Listing::of(names, self.unwatched_listings.fetch_add(1, Ordering::Relaxed), moment)
    }

    /// The listing with this mark, if it is what the volume knows now.
    fn known(&self, directory: NodeId, mark: Mark) -> FsResult<Option<Listing>> {
        let moment = self.name_changes.moment();
        let known = self.volume.known_names(&self.path(directory)?);
        Ok(known.filter(|names| mark.is_of(names)).map(|names| Listing::of(names, 0, moment)))
    }

    /// The kernel was told all of the listing with this mark, and keeps it once it hears that it was all. If that is up
    /// to date now, a later change makes the kernel forget it.
    fn end(&self, directory: NodeId, mark: Mark) -> FsResult<Reached> {
        let known = self.known(directory, mark)?;
        let lasting = known.and_then(|listing| listing.lasting.checked_sub(OVERDUE));
        let Some(lasting) = lasting else { return Ok(Reached::OutdatedEnd) };
        self.inodes.lock().keep_names(directory, self.born.elapsed() + lasting);
        Ok(Reached::End)
    }
}

/// Where a reader of a directory is.
enum Way {
    On(Listing, Position),
    Ended(Reached),
}

/// What comes behind a line in its listing.
fn following(offset_after: u64) -> Option<Position> {
    match Offset::parse(offset_after) {
        Offset::Within(_, position) => Some(position),
        _ => None,
    }
}

fn line_at<'a>(
    inodes: &InodeTable,
    directory: NodeId,
    listing: &'a Listing,
    position: Position,
    is_settled: bool,
) -> Option<Line<'a>> {
    let (id, attr, name): (_, _, &[u8]) = match position {
        Position::Itself => (directory, inodes.attr(directory).ok()?, b"."),
        Position::Parent => {
            let parent = inodes.parent(directory).ok()?;
            (parent, inodes.attr(parent).ok()?, b"..")
        }
        Position::Entry(index) => {
            let entry = listing.entries.get(index)?;
            (inodes.id_of(&entry.attr), entry.attr, &entry.name)
        }
    };
    let name_lasts = listing.lasting;
    let lasting =
        Lasting { name: name_lasts, attr: if attr.has_one_name() { name_lasts } else { Duration::ZERO } };
    Some(Line {
        node: Node { id, attr, lasting, is_settled },
        offset_after: listing.offset_after(position),
        name,
    })
}
