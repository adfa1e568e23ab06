//! Names of which nobody knows what a change made of them, until the kernel is made to forget them.
//!
//! *Invariant:* no name is lost: when there are too many, all names are in doubt.

use crate::model::NodeId;

/// Names that are told apart.
const MAX_NAMES: usize = 1024;

/// A name in a directory.
pub(crate) type DoubtedName = (NodeId, Box<[u8]>);

/// What is in doubt.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Doubted {
    Names(Vec<DoubtedName>),
    All,
}

/// Collects it.
#[derive(Debug, Default)]
pub(crate) struct Doubts {
    names: Vec<DoubtedName>,
    all: bool,
}

impl Doubts {
    pub(crate) fn add(&mut self, name: DoubtedName) {
        if self.names.len() == MAX_NAMES {
            self.all = true;
            self.names.clear();
        }
        if !self.all {
            self.names.push(name);
        }
    }

    /// All that was added since; `None`: nothing.
    pub(crate) fn take(&mut self) -> Option<Doubted> {
        let Self { names, all } = std::mem::take(self);
        match (all, names.is_empty()) {
            (true, _) => Some(Doubted::All),
            (false, true) => None,
            (false, false) => Some(Doubted::Names(names)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_doubt_is_taken_once_and_never_lost() {
        let name = |n: usize| (NodeId(n as u64), Box::from(&b"name"[..]));
        let mut doubts = Doubts::default();
        assert_eq!(doubts.take(), None);
        (0..MAX_NAMES).for_each(|n| doubts.add(name(n)));
        assert_eq!(doubts.take(), Some(Doubted::Names((0..MAX_NAMES).map(name).collect())));
        assert_eq!(doubts.take(), None);
        (0..=MAX_NAMES).for_each(|n| doubts.add(name(n)));
        doubts.add(name(7));
        assert_eq!(doubts.take(), Some(Doubted::All));
        doubts.add(name(7));
        assert_eq!(doubts.take(), Some(Doubted::Names(vec![name(7)])));
    }
}
