//! For how long answers count where no change is told, by path.

use super::Names;
use std::sync::Arc;
use std::time::Duration;

/// How old answers about a name may be or, of a directory, those which its listing tells; `None`: the time to live alone
/// counts.
pub type Bounds = Arc<dyn Fn(&[u8], Told) -> Option<Duration> + Send + Sync>;

/// What an answer is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// The name itself.
    Name,
    /// The names in the directory.
    Listing,
}

impl Names {
    /// Answers that are learned from now on count for no longer than `bounds` say.
    pub fn bound(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    /// For how long an answer counts that no change is told of.
    pub(super) fn ttl_of(&self, key: &[u8], told: Told) -> Duration {
        (self.bounds)(key, told).map_or(self.ttl, |bound| bound.min(self.ttl))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, known, learn, listing, path, watching};
    use super::*;
    use crate::testing::some_attr;

    #[test]
    fn answers_count_no_longer_than_their_bound_unless_their_changes_are_heard() {
        for is_watched in [false, true] {
            let mut names = if is_watched { watching() } else { Names::new(at(100), 1 << 20) };
            names.bound(Arc::new(|key, _| key.starts_with(b"/d").then_some(at(20))));
            for directory in ["/d", "/e"] {
                learn(&mut names, directory, listing(&[("x", some_attr(3))], is_watched), at(0));
                let ticket = names.ask();
                names.learn(ticket, &path(&format!("{directory}/y")), Some(some_attr(4)), at(0));
                names.close(ticket);
            }
            for name in ["x", "y"] {
                assert!(known(&mut names, &format!("/d/{name}"), at(19)).is_some());
                assert_eq!(known(&mut names, &format!("/d/{name}"), at(20)).is_some(), is_watched, "{name}");
                assert!(known(&mut names, &format!("/e/{name}"), at(99)).is_some());
            }
        }
    }
}
