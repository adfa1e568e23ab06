//! The order in which a walk goes from one directory to the next: that of the listing or that of the names, and
//! either from its end, as walkers do that keep directories on a stack.

use globalfs_proto::{DirEntry, FileKind, GlobalPath};

/// A step counts as one of an order also when so many directories are passed over.
const NEAR: usize = 2;

/// Steps that were seen of each order, and thereby the order that is most likely.
#[derive(Debug, Default)]
pub(super) struct DirectoryOrder([u64; 4]);

/// The orders, the most usual first.
const ORDERS: [(bool, bool); 4] = [(false, false), (true, false), (false, true), (true, true)];

impl DirectoryOrder {
    /// The walk went from `from` to `to`, two entries of one directory.
    pub(super) fn learn(&mut self, listing: &[DirEntry], from: &[u8], to: &[u8]) {
        for (votes, (by_name, backwards)) in self.0.iter_mut().zip(ORDERS) {
            let names = names(listing, by_name, backwards);
            let place = |wanted: &[u8]| names.iter().position(|name| *name == wanted);
            if let (Some(from), Some(to)) = (place(from), place(to)) {
                *votes += u64::from(to > from && to - from <= NEAR);
            }
        }
    }

    /// The directories of a listing in the present order.
    pub(super) fn names<'l>(&self, listing: &'l [DirEntry]) -> Vec<&'l [u8]> {
        let most = self.0.iter().copied().max().unwrap_or(0);
        let best = self.0.iter().position(|votes| *votes == most).unwrap_or(0);
        let (by_name, backwards) = ORDERS[best];
        names(listing, by_name, backwards)
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
