//! Which changes one subscriber hears: those of the directories that it was told or asked about, and of what is
//! above these, whose move takes them along.
//!
//! A directory may change after it was read and before it is noted as told. So while a request of the subscriber is
//! under way it hears everything; what changed before the request began is in its answer.
//!
//! *Invariants:* what concerns a directory that was told is never left out, nor is a hand-over; memory is bounded, and who
//! was told of more directories hears everything.

use globalfs_proto::{ChangedDirectory, Changes, GlobalPath};
use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;

/// Directories that are told apart, those above others counted.
pub const MAX_DIRECTORIES: usize = 32 * 1024;

/// What a subscriber was told. Paths are kept as hashes: two that meet make it hear more than it has to.
#[derive(Debug, Default)]
pub struct Heard {
    hasher: RandomState,
    /// Directories that were told.
    told: HashSet<u64>,
    /// These, and all that are above them.
    reached: HashSet<u64>,
    /// Requests under way.
    requests: usize,
    /// There were too many.
    everything: bool,
}

impl Heard {
    /// A request of the subscriber begins. It must end.
    pub fn begin_request(&mut self) {
        self.requests += 1;
    }

    /// All that the request tells was told.
    pub fn end_request(&mut self) {
        self.requests -= 1;
    }

    /// The subscriber is about to be told of `directory`, by a request that is under way.
    pub fn tell(&mut self, directory: &GlobalPath) {
        assert!(self.requests > 0, "what is told belongs to a request");
        let hash = self.hash(directory);
        if self.everything || !self.told.insert(hash) {
            return;
        }
        let mut at = Some(directory.clone());
        while let Some(path) = at.filter(|path| self.reached.insert(self.hasher.hash_one(path.as_bytes()))) {
            at = path.parent();
        }
        if self.reached.len() > MAX_DIRECTORIES {
            *self = Self { requests: self.requests, everything: true, ..Self::default() };
        }
    }

    /// The part of `changes` that the subscriber hears; `None`: nothing of it. A sign of life is heard.
    pub fn part(&self, changes: Arc<Changes>) -> Option<Arc<Changes>> {
        if self.everything || self.requests > 0 || changes.everything || changes.is_empty() {
            return Some(changes);
        }
        let directories = changes.directories.iter().filter_map(|of| self.part_of(of)).collect();
        // Also where nothing was told: somebody may be in a directory all the same.
        let part = Changes { directories, handed_over: changes.handed_over.clone(), ..Changes::default() };
        (!part.is_empty()).then(|| Arc::new(part))
    }

    fn part_of(&self, changed: &ChangedDirectory) -> Option<ChangedDirectory> {
        if self.told.contains(&self.hash(&changed.path)) {
            return Some(changed.clone());
        }
        let is_reached =
            |name: &[u8]| changed.path.join(name).is_ok_and(|path| self.reached.contains(&self.hash(&path)));
        let names: Vec<_> = changed.names.iter().filter(|name| is_reached(name)).cloned().collect();
        (!names.is_empty()).then(|| ChangedDirectory { path: changed.path.clone(), names })
    }

    fn hash(&self, path: &GlobalPath) -> u64 {
        self.hasher.hash_one(path.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use globalfs_proto::{Fence, HandedOver};
    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};

    fn path(text: &str) -> GlobalPath {
        GlobalPath::new(text.as_bytes()).unwrap()
    }

    fn changed(directory: &str, names: &[&str]) -> ChangedDirectory {
        ChangedDirectory {
            path: path(directory),
            names: names.iter().map(|n| n.to_string().into()).collect(),
        }
    }

    fn changes(directories: Vec<ChangedDirectory>) -> Arc<Changes> {
        Arc::new(Changes::of(directories))
    }

    fn told(directories: &[&str]) -> Heard {
        let mut heard = Heard::default();
        heard.begin_request();
        directories.iter().for_each(|directory| heard.tell(&path(directory)));
        heard.end_request();
        heard
    }

    #[test]
    fn a_subscriber_hears_of_what_it_was_told_and_of_what_is_above() {
        let heard = told(&["/a/b"]);
        let all = changes(vec![
            changed("/a/b", &["file", "dir"]),
            changed("/a", &["b", "beside"]),
            changed("/", &["a", "z"]),
            changed("/a/b/c", &["below"]),
            changed("/a", &[]),
            changed("/a/b", &[]),
            changed("/z", &["elsewhere"]),
        ]);
        let mine = changes(vec![
            changed("/a/b", &["file", "dir"]),
            changed("/a", &["b"]),
            changed("/", &["a"]),
            changed("/a/b", &[]),
        ]);
        assert_eq!(heard.part(all.clone()), Some(mine));
        assert_eq!(heard.part(changes(vec![changed("/z", &["elsewhere"])])), None);
        assert_eq!(Heard::default().part(all), None);
        let handed_over = vec![HandedOver { scope: path("/z"), fence: Fence(1) }];
        let handed_over = Changes { handed_over, ..Changes::default() };
        for always in [Arc::default(), Arc::new(Changes::everything()), Arc::new(handed_over)] {
            assert_eq!(Heard::default().part(always.clone()), Some(always));
        }
    }

    #[test]
    fn who_is_being_answered_hears_everything() {
        let (mut heard, elsewhere) = (told(&["/a"]), changes(vec![changed("/z", &["x"])]));
        heard.begin_request();
        heard.begin_request();
        heard.end_request();
        assert_eq!(heard.part(elsewhere.clone()), Some(elsewhere.clone()));
        heard.end_request();
        assert_eq!(heard.part(elsewhere), None);
    }

    #[test]
    fn who_was_told_of_too_many_hears_everything() {
        let (mut heard, elsewhere) = (Heard::default(), changes(vec![changed("/z", &["x"])]));
        heard.begin_request();
        for n in 0..=MAX_DIRECTORIES {
            heard.tell(&path(&format!("/d/{n}")));
            assert!(heard.reached.len() <= MAX_DIRECTORIES && heard.told.len() <= MAX_DIRECTORIES);
        }
        heard.end_request();
        assert_eq!(heard.part(elsewhere.clone()), Some(elsewhere));
    }

    /// What a hop that was told `directory` forgets when `name` in `changed` changes, or all names.
    fn concerns(directory: &GlobalPath, changed: &GlobalPath, name: Option<&[u8]>) -> bool {
        let moved = name.is_some_and(|name| directory.starts_with(&changed.join(name).unwrap()));
        directory == changed || moved
    }

    #[test]
    fn nothing_that_concerns_a_subscriber_is_left_out_and_little_else_is_heard() {
        let mut random = SmallRng::seed_from_u64(7);
        for _ in 0..2_000 {
            let mut any = || {
                let depth = random.random_range(0..4);
                let names: String = (0..depth).map(|_| format!("/{}", random.random_range(0..3))).collect();
                if names.is_empty() { GlobalPath::root() } else { path(&names) }
            };
            let (first, second, at, name) = (any(), any(), any(), any());
            let mut heard = Heard::default();
            heard.begin_request();
            heard.tell(&first);
            heard.tell(&second);
            heard.end_request();
            let name = (!name.is_root()).then(|| name.name().to_vec());
            let names = name.iter().map(|name| bytes::Bytes::from(name.clone())).collect();
            let is_heard = heard.part(changes(vec![ChangedDirectory { path: at.clone(), names }])).is_some();
            let wanted = [&first, &second].iter().any(|told| concerns(told, &at, name.as_deref()));
            assert_eq!(is_heard, wanted, "{first} and {second} told, {name:?} in {at}");
        }
    }
}
