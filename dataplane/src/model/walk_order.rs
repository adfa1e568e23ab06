//! The order in which a walk goes from one directory to the next: that of the listing or that of the names, and
//! either from its end, as walkers do that keep directories on a stack.

use globalfs_proto::{DirEntry, FileKind, GlobalPath};

/// A step counts as one of an order also when so many directories are passed over.
const NEAR: usize = 2;

/// Directories that are planned before the reader has come to any of them, at most.
const MAX_AHEAD: u32 = 255;

/// Steps that were seen of each order, and thereby the order that is most likely.
#[derive(Debug, Default)]
pub(super) struct DirectoryOrder {
    votes: [u64; 4],
    /// Grows with each step that was foretold, and halves with each that was not.
    trust: u32,
}

/// The orders, the most usual first.
const ORDERS: [(bool, bool); 4] = [(false, false), (true, false), (false, true), (true, true)];

impl DirectoryOrder {
    /// The walk went from `from` to `to`, two entries of one directory; `by_name`: its files follow their names.
    pub(super) fn learn(&mut self, listing: &[DirEntry], from: &[u8], to: &[u8], by_name: bool) {
        let best = self.best(by_name);
        let foretold = ORDERS.map(|(by_name, backwards)| {
            let names = names(listing, by_name, backwards);
            let place = |wanted: &[u8]| names.iter().position(|name| *name == wanted);
            let (from, to) = (place(from), place(to));
            from.zip(to).is_some_and(|(from, to)| to > from && to - from <= NEAR)
        });
        self.trust = if foretold[best] { self.trust.saturating_add(1) } else { self.trust / 2 };
        self.votes.iter_mut().zip(foretold).for_each(|(votes, foretold)| *votes += u64::from(foretold));
    }

    /// How many directories the order is good for: what is fetched of a wrong one is credit that lies idle.
    pub(super) fn reach(&self) -> u32 {
        1_u32.checked_shl(self.trust).map_or(MAX_AHEAD, |reach| (reach - 1).min(MAX_AHEAD))
    }

    /// The directories of a listing in the present order.
    pub(super) fn names<'l>(&self, listing: &'l [DirEntry], by_name: bool) -> Vec<&'l [u8]> {
        let (by_name, backwards) = ORDERS[self.best(by_name)];
        names(listing, by_name, backwards)
    }

    /// Among equals that of the files.
    fn best(&self, by_name: bool) -> usize {
        let rank = |n: &usize| (self.votes[*n], ORDERS[*n].0 == by_name, ORDERS.len() - n);
        (0..ORDERS.len()).max_by_key(rank).unwrap_or(0)
    }
}

fn names(listing: &[DirEntry], by_name: bool, backwards: bool) -> Vec<&[u8]> {
    let directories = listing.iter().filter(|entry| entry.attr.kind == FileKind::Directory);
    let mut names: Vec<&[u8]> = directories.map(|entry| &entry.name[..]).collect();
    if by_name {
        names.sort_unstable();
    }
    if backwards {
        names.reverse();
    }
    names
}

/// Where the ways to two paths part: the directory, and the entry of it on each way. `None` when one path lies
/// on the way to the other.
pub(super) fn fork<'p>(from: &'p GlobalPath, to: &'p GlobalPath) -> Option<(GlobalPath, &'p [u8], &'p [u8])> {
    let mut at = GlobalPath::root();
    for (a, b) in from.components().zip(to.components()) {
        if a != b {
            return Some((at, a, b));
        }
        at = at.join(a).ok()?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> GlobalPath {
        GlobalPath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn ways_part_where_the_first_difference_is() {
        let (from, to) = (path("/t/run-02/part"), path("/t/run-01"));
        let (at, a, b) = fork(&from, &to).unwrap();
        assert_eq!((at, a, b), (path("/t"), &b"run-02"[..], &b"run-01"[..]));
        assert!(fork(&path("/t"), &path("/t/a")).is_none());
    }
}
