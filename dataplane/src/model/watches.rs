//! Which directories of an origin are watched, under which paths, and which of them may be given up.
//!
//! *Invariant:* with a directory all that are above it are watched, so that whoever moves one of them away is
//! seen: the kernel tells of a directory that was moved in the directories that held it, and not below it.

use globalfs_proto::GlobalPath;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

/// The kernel's number of a watch.
pub type WatchNumber = i32;

/// The directories watched.
#[derive(Debug, Default)]
pub struct Watches {
    /// In the order of their paths, so that what is below a directory lies together.
    by_path: BTreeMap<Box<[u8]>, Watch>,
    by_number: HashMap<WatchNumber, GlobalPath>,
    /// Those that were told to somebody, least recently told first.
    recency: BTreeMap<u64, GlobalPath>,
    uses: u64,
}

#[derive(Debug, Clone, Copy)]
struct Watch {
    number: WatchNumber,
    /// When it was last told to somebody that it is watched; 0: it is only above others.
    told: u64,
}

/// What the table says of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not watched.
    Unknown,
    /// Watched for what is below it.
    Above,
    /// Watched, and somebody was told so.
    Told,
}

impl Watches {
    /// Number of directories.
    pub fn len(&self) -> usize {
        self.by_path.len()
    }

    /// Whether nothing is watched.
    pub fn is_empty(&self) -> bool {
        self.by_path.is_empty()
    }

    /// How `path` is watched.
    pub fn state(&self, path: &GlobalPath) -> State {
        match self.by_path.get(path.as_bytes()) {
            None => State::Unknown,
            Some(Watch { told: 0, .. }) => State::Above,
            Some(_) => State::Told,
        }
    }

    /// The directory that `number` watches, and whether somebody was told of it.
    pub fn directory(&self, number: WatchNumber) -> Option<(GlobalPath, bool)> {
        let path = self.by_number.get(&number)?;
        Some((path.clone(), self.state(path) == State::Told))
    }

    /// Adds the watch `number` of `path`. Refused when another path has it: the kernel watches directories, and
    /// this one has, or had a moment ago, another name. Then it is false.
    pub fn add(&mut self, path: &GlobalPath, number: WatchNumber) -> bool {
        if self.by_number.get(&number).is_some_and(|known| known != path) {
            return false;
        }
        if self.by_path.get(path.as_bytes()).is_some_and(|watch| watch.number != number) {
            return false;
        }
        self.by_number.insert(number, path.clone());
        self.by_path.entry(path.as_bytes().into()).or_insert(Watch { number, told: 0 });
        true
    }

    /// Somebody is told that `path` is watched.
    pub fn tell(&mut self, path: &GlobalPath) {
        self.uses += 1;
        let Some(watch) = self.by_path.get_mut(path.as_bytes()) else { return };
        self.recency.remove(&watch.told);
        watch.told = self.uses;
        self.recency.insert(self.uses, path.clone());
    }

    /// `path` is gone, with all below it. The watches that are no longer wanted.
    pub fn remove_tree(&mut self, path: &GlobalPath) -> Vec<WatchNumber> {
        let below = self.below(path);
        below.into_iter().chain([path.clone()]).filter_map(|gone| self.remove(&gone)).collect()
    }

    /// The kernel dropped the watch by itself.
    pub fn dropped(&mut self, number: WatchNumber) -> Option<GlobalPath> {
        let path = self.by_number.get(&number)?.clone();
        self.remove(&path);
        Some(path)
    }

    /// Gives up one directory to make room for another: the one told longest ago, of those that are above no
    /// other one if that is soon found. The watch to remove, if any, and the directory that is watched no more.
    pub fn give_up(&mut self) -> Option<(Option<WatchNumber>, GlobalPath)> {
        /// How many are looked at for one that is above none.
        const LOOKED_AT: usize = 64;
        let leaf = self.recency.values().take(LOOKED_AT).find(|path| self.below_is_empty(path)).cloned();
        if let Some(path) = leaf {
            return Some((self.remove(&path), path));
        }
        let (_, path) = self.recency.pop_first()?;
        self.by_path.get_mut(path.as_bytes()).iter_mut().for_each(|watch| watch.told = 0);
        Some((None, path))
    }

    /// All watches, which are then forgotten.
    pub fn clear(&mut self) -> Vec<WatchNumber> {
        let all = self.by_number.keys().copied().collect();
        *self = Self { uses: self.uses, ..Self::default() };
        all
    }

    fn remove(&mut self, path: &GlobalPath) -> Option<WatchNumber> {
        let watch = self.by_path.remove(path.as_bytes())?;
        self.by_number.remove(&watch.number);
        self.recency.remove(&watch.told);
        Some(watch.number)
    }

    fn range(&self, path: &GlobalPath) -> impl Iterator<Item = &[u8]> {
        let stem = if path.is_root() { &[][..] } else { path.as_bytes() };
        let prefix: Box<[u8]> = [stem, b"/"].concat().into();
        let from = (Bound::Excluded(prefix.clone()), Bound::Unbounded);
        self.by_path.range(from).map(|(key, _)| &key[..]).take_while(move |key| key.starts_with(&prefix))
    }

    fn below(&self, path: &GlobalPath) -> Vec<GlobalPath> {
        self.range(path).filter_map(|key| GlobalPath::new(key).ok()).collect()
    }

    fn below_is_empty(&self, path: &GlobalPath) -> bool {
        self.range(path).next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> GlobalPath {
        GlobalPath::new(text.as_bytes()).unwrap()
    }

    fn watches(paths: &[&str]) -> Watches {
        let mut watches = Watches::default();
        for (n, text) in paths.iter().enumerate() {
            assert!(watches.add(&path(text), n as i32 + 1));
        }
        watches
    }

    #[test]
    fn what_is_moved_away_takes_what_is_below_it_along() {
        let mut watches = watches(&["/", "/a", "/a/b", "/a/b/c", "/ab", "/a-b"]);
        watches.tell(&path("/a/b"));
        let mut gone = watches.remove_tree(&path("/a"));
        gone.sort_unstable();
        assert_eq!(gone, [2, 3, 4]);
        assert_eq!(watches.len(), 3);
        assert_eq!(watches.directory(3), None);
        assert_eq!(watches.give_up(), None, "nobody was told of the others");
        assert_eq!(watches.dropped(5), Some(path("/ab")));
        assert_eq!(watches.clear().len(), 2);
        assert!(watches.is_empty());
    }

    #[test]
    fn a_directory_has_one_path() {
        let mut watches = watches(&["/", "/a"]);
        assert!(!watches.add(&path("/moved"), 2), "the event that it moved is on its way");
        assert!(!watches.add(&path("/a"), 7), "the event that another took its place is on its way");
        assert!(watches.add(&path("/a"), 2), "once more is as good as once");
        assert_eq!(watches.state(&path("/a")), State::Above);
        watches.tell(&path("/a"));
        assert_eq!(watches.directory(2), Some((path("/a"), true)));
    }

    #[test]
    fn the_one_told_longest_ago_is_given_up_and_none_above_another() {
        let mut watches = watches(&["/", "/a", "/a/b", "/c"]);
        for text in ["/", "/a", "/c", "/a/b", "/c"] {
            watches.tell(&path(text));
        }
        assert_eq!(watches.give_up(), Some((Some(3), path("/a/b"))));
        assert_eq!(watches.give_up(), Some((Some(2), path("/a"))));
        assert_eq!(watches.give_up(), Some((Some(4), path("/c"))));
        assert_eq!(watches.give_up(), Some((Some(1), path("/"))));
        assert_eq!(watches.give_up(), None);
    }
}
