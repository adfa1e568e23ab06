//! What a batch of paths says of itself: which of them go with the others, and which name of a file comes first.
//!
//! Paths are looked at one after another while they change, so a batch may say that a directory is gone and that something
//! is in it. Which of the two is so now, the next batch tells.

use globalfs_proto::{FileKind, GlobalPath, HomeItem};
use std::collections::HashMap;

/// Items by their paths.
pub struct BatchOrder<'b> {
    items: &'b [HomeItem],
    places: HashMap<&'b GlobalPath, usize>,
}

impl<'b> BatchOrder<'b> {
    /// Of `items`.
    pub fn of(items: &'b [HomeItem]) -> Self {
        let mut places = HashMap::with_capacity(items.len());
        for (place, item) in items.iter().enumerate() {
            places.entry(&item.path).or_insert(place);
        }
        Self { items, places }
    }

    /// Whether the item at `place` goes with the others: no other one speaks of the same path before, nothing above it is
    /// said to be anything but a directory, and its names lead to a file.
    pub fn fits(&self, place: usize) -> bool {
        let item = &self.items[place];
        let is_first = self.places.get(&item.path) == Some(&place);
        let has_file = item.same_as.is_none() || self.first_name(place).is_some();
        is_first && has_file && (item.attr.is_none() || self.lies_in_directories(&item.path))
    }

    fn lies_in_directories(&self, path: &GlobalPath) -> bool {
        let above = std::iter::successors(path.parent(), GlobalPath::parent);
        above
            .filter_map(|path| self.places.get(&path))
            .all(|place| self.items[*place].attr.is_some_and(|attr| attr.kind == FileKind::Directory))
    }

    /// The name by which the file of the item at `place`, which is another name, is to be found; `None`: its names lead in a
    /// circle, or to none.
    pub fn first_name(&self, place: usize) -> Option<&'b GlobalPath> {
        let mut name = self.items[place].same_as.as_ref()?;
        for _ in 0..self.items.len() {
            match self.places.get(name).map(|place| &self.items[*place]) {
                Some(HomeItem { same_as: Some(next), .. }) => name = next,
                Some(HomeItem { attr: None, .. }) => return None,
                _ => return Some(name),
            }
        }
        None
    }

    /// Where `path` is spoken of.
    pub fn place(&self, path: &GlobalPath) -> Option<usize> {
        self.places.get(path).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use globalfs_proto::Attr;

    fn path(text: &str) -> GlobalPath {
        GlobalPath::new(text.as_bytes()).unwrap()
    }

    /// `/a` is gone, `/a/` a directory, `/a f` a file, `/a =/b` another name of `/b`.
    fn item(text: &str) -> HomeItem {
        let attr = |kind| Some(Attr { kind, ..crate::testing::some_attr(1) });
        let gone = HomeItem { path: GlobalPath::root(), attr: None, same_as: None };
        if let Some(name) = text.strip_suffix('/') {
            return HomeItem { path: path(name), attr: attr(FileKind::Directory), ..gone };
        }
        match text.split_once(' ') {
            None => HomeItem { path: path(text), ..gone },
            Some((name, "f")) => HomeItem { path: path(name), attr: attr(FileKind::Regular), ..gone },
            Some((name, other)) => {
                HomeItem { path: path(name), attr: attr(FileKind::Regular), same_as: Some(path(&other[1..])) }
            }
        }
    }

    #[test]
    fn who_speaks_against_another_does_not_fit() {
        let check = |items: &[&str], fit: &[bool]| {
            let items: Vec<_> = items.iter().map(|text| item(text)).collect();
            let order = BatchOrder::of(&items);
            assert_eq!((0..items.len()).map(|place| order.fits(place)).collect::<Vec<_>>(), fit, "{items:?}");
        };
        check(&["/a/", "/a/b f", "/c"], &[true; 3]);
        check(&["/a/b f", "/a"], &[false, true]);
        check(&["/a f", "/a/b/c/"], &[true, false]);
        check(&["/a", "/a/b", "/a-b f"], &[true; 3]);
        check(&["/a f", "/a f", "/a"], &[true, false, false]);
        check(&["/a =/b", "/b =/c"], &[true, true]);
        check(&["/a =/b", "/b =/a", "/c =/c"], &[false; 3]);
        check(&["/a =/b", "/b"], &[false, true]);
    }

    #[test]
    fn names_lead_to_the_first() {
        let items = ["/a =/b", "/b =/c", "/c =/d", "/e f"].map(item);
        let order = BatchOrder::of(&items);
        assert!((0..3).all(|place| order.first_name(place) == Some(&path("/d"))));
        assert_eq!((order.first_name(3), order.place(&path("/e"))), (None, Some(3)));
    }
}
