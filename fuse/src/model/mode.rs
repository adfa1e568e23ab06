//! How the kernel reads each open file: through us and its page cache, or by itself from a local file.
//!
//! *Invariant:* all opens of a node that exist at a time are of one mode, and if the kernel reads by itself, of one
//! backing: the kernel refuses anything else with `EIO`.

use crate::model::NodeId;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

/// How one open file is read.
#[derive(Debug)]
pub(crate) enum Mode<B> {
    /// The kernel asks us, and keeps what it got.
    Cached,
    /// The kernel reads this by itself.
    Passed(Arc<B>),
}

impl<B> Clone for Mode<B> {
    fn clone(&self) -> Self {
        match self {
            Self::Cached => Self::Cached,
            Self::Passed(backing) => Self::Passed(backing.clone()),
        }
    }
}

#[derive(Debug)]
struct Opens<B> {
    mode: Mode<B>,
    count: usize,
}

/// The modes of all open nodes.
#[derive(Debug)]
pub(crate) struct Modes<B>(HashMap<NodeId, Opens<B>>);

impl<B> Default for Modes<B> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<B> Modes<B> {
    /// One more open of a node that is open: the mode that it must have. `None` when the node is not open.
    pub(crate) fn join(&mut self, node: NodeId) -> Option<Mode<B>> {
        let opens = self.0.get_mut(&node)?;
        opens.count += 1;
        Some(opens.mode.clone())
    }

    /// One more open: the mode `wanted`, unless another open was first.
    pub(crate) fn open(&mut self, node: NodeId, wanted: Mode<B>) -> Mode<B> {
        let opens = match self.0.entry(node) {
            Entry::Occupied(opens) => opens.into_mut(),
            Entry::Vacant(slot) => slot.insert(Opens { mode: wanted, count: 0 }),
        };
        opens.count += 1;
        opens.mode.clone()
    }

    /// The mode of a node that is open.
    pub(crate) fn mode(&self, node: NodeId) -> Option<&Mode<B>> {
        self.0.get(&node).map(|opens| &opens.mode)
    }

    /// One more open, which must be cached, since the file is to be written by us: whether it may. Not beside those that
    /// the kernel serves by itself.
    pub(crate) fn open_cached(&mut self, node: NodeId) -> bool {
        match self.0.entry(node) {
            Entry::Occupied(opens) if matches!(opens.get().mode, Mode::Passed(_)) => return false,
            Entry::Occupied(opens) => opens.into_mut().count += 1,
            Entry::Vacant(slot) => drop(slot.insert(Opens { mode: Mode::Cached, count: 1 })),
        }
        true
    }

    /// Whether the kernel reads `node` by itself.
    pub(crate) fn is_passed(&self, node: NodeId) -> bool {
        self.0.get(&node).is_some_and(|opens| matches!(opens.mode, Mode::Passed(_)))
    }

    /// One open less. Gives the mode back with the last one, so that what it holds ends outside any lock.
    pub(crate) fn close(&mut self, node: NodeId) -> Option<Mode<B>> {
        let Entry::Occupied(mut opens) = self.0.entry(node) else { return None };
        opens.get_mut().count -= 1;
        (opens.get().count == 0).then(|| opens.remove().mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NODE: NodeId = NodeId(7);

    fn backing(mode: &Mode<u32>) -> Option<u32> {
        match mode {
            Mode::Cached => None,
            Mode::Passed(backing) => Some(**backing),
        }
    }

    #[test]
    fn a_file_that_is_whole_later_waits_for_the_last_close() {
        let mut modes = Modes::default();
        assert!(modes.join(NODE).is_none());
        assert_eq!(backing(&modes.open(NODE, Mode::Cached)), None);
        assert_eq!(backing(&modes.open(NODE, Mode::Passed(Arc::new(1)))), None, "another open is cached");
        assert_eq!(backing(&modes.join(NODE).unwrap()), None);
        assert!(modes.close(NODE).is_none() && modes.close(NODE).is_none());
        assert!(matches!(modes.close(NODE), Some(Mode::Cached)));
        assert!(modes.join(NODE).is_none());
        assert_eq!(backing(&modes.open(NODE, Mode::Passed(Arc::new(2)))), Some(2));
        assert_eq!(backing(&modes.open(NODE, Mode::Passed(Arc::new(3)))), Some(2), "one backing for all");
        assert_eq!(backing(&modes.open(NODE, Mode::Cached)), Some(2));
    }

    #[test]
    fn who_writes_is_never_beside_a_local_file() {
        let mut modes = Modes::default();
        assert!(modes.open_cached(NODE) && modes.open_cached(NODE) && !modes.is_passed(NODE));
        assert_eq!(backing(&modes.open(NODE, Mode::Passed(Arc::new(1)))), None);
        (0..3).for_each(|_| drop(modes.close(NODE)));
        assert_eq!(backing(&modes.open(NODE, Mode::Passed(Arc::new(2)))), Some(2));
        assert!(!modes.open_cached(NODE) && modes.is_passed(NODE));
        assert!(modes.close(NODE).is_some(), "who was refused does not count");
    }

    proptest! {
        #[test]
        fn all_opens_of_a_node_agree(steps in prop::collection::vec((0..3u8, any::<bool>(), 0..3u64), 0..200)) {
            let (mut modes, mut open, mut next) = (Modes::default(), Vec::<(NodeId, Option<u32>)>::new(), 0);
            for (action, pass, node) in steps {
                let node = NodeId(node);
                let mode = match action {
                    0 if !open.is_empty() => {
                        let (node, mode) = open.swap_remove(pass as usize % open.len());
                        let is_last = !open.iter().any(|(other, _)| *other == node);
                        let closed = modes.close(node);
                        prop_assert_eq!(closed.is_some(), is_last);
                        prop_assert!(closed.is_none_or(|closed| backing(&closed) == mode));
                        continue;
                    }
                    1 => modes.join(node),
                    _ => {
                        next += 1;
                        Some(modes.open(node, if pass { Mode::Passed(Arc::new(next)) } else { Mode::Cached }))
                    }
                };
                let others: Vec<_> = open.iter().filter(|(other, _)| *other == node).collect();
                match mode {
                    None => prop_assert!(others.is_empty()),
                    Some(mode) => {
                        prop_assert!(others.iter().all(|(_, other)| *other == backing(&mode)));
                        open.push((node, backing(&mode)));
                    }
                }
            }
        }
    }
}
