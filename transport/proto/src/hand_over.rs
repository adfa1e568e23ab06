//! Subtrees that a site took by a write lease. Who holds one makes its directories anew, so after the next grant each is
//! another file at the same place, although it is the same directory to everybody who is in it.
//!
//! *Invariant:* a hand-over that was told of once is no news when it is told of again, as it is after each connection.

use crate::codec::{DecodeError, Reader, Writer};
use crate::home::Fence;
use crate::limits::{MAX_CHANGES, MAX_HAND_OVERS};
use crate::path::GlobalPath;
use std::collections::BTreeMap;
use std::iter::successors;

/// A subtree has the master of this grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandedOver {
    /// The subtree.
    pub scope: GlobalPath,
    /// The grant's epoch.
    pub fence: Fence,
}

/// The last one of each subtree that somebody was told of, of no more than [`MAX_HAND_OVERS`].
#[derive(Debug, Clone, Default)]
pub struct HandOvers(BTreeMap<GlobalPath, Fence>);

impl HandOvers {
    /// Whether `told` is news.
    pub fn learn(&mut self, told: &HandedOver) -> bool {
        if self.0.get(&told.scope).is_some_and(|known| *known >= told.fence) {
            return false;
        }
        self.0.insert(told.scope.clone(), told.fence);
        if self.0.len() > MAX_HAND_OVERS {
            self.forget_oldest();
        }
        true
    }

    /// All that are known.
    pub fn all(&self) -> Vec<HandedOver> {
        let told = |(scope, fence): (&GlobalPath, &Fence)| HandedOver { scope: scope.clone(), fence: *fence };
        self.0.iter().map(told).collect()
    }

    /// Whether `path` lies in one of them.
    pub fn cover(&self, path: &GlobalPath) -> bool {
        !self.0.is_empty()
            && successors(Some(path.clone()), GlobalPath::parent).any(|at| self.0.contains_key(&at))
    }

    fn forget_oldest(&mut self) {
        let oldest = self.0.iter().min_by_key(|(_, fence)| **fence).map(|(scope, _)| scope.clone());
        if let Some(scope) = oldest {
            self.0.remove(&scope);
        }
    }
}

/// Nothing where there is none, as in nearly all messages.
pub(crate) fn encode<'w>(w: &'w mut Writer, told: &[HandedOver]) -> &'w mut Writer {
    if told.is_empty() {
        return w;
    }
    w.u32(u32::try_from(told.len()).expect("they are below their limit"));
    told.iter().fold(w, |w, HandedOver { scope, fence }| w.path(scope).u64(fence.0))
}

pub(crate) fn decode(r: &mut Reader) -> Result<Vec<HandedOver>, DecodeError> {
    if r.remaining() == 0 {
        return Ok(Vec::new());
    }
    match r.u32()? as usize {
        count @ 1..=MAX_CHANGES => {
            (0..count).map(|_| Ok(HandedOver { scope: r.path()?, fence: Fence(r.u64()?) })).collect()
        }
        _ => Err(DecodeError::OutOfRange("the number of hand-overs")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> GlobalPath {
        GlobalPath::new(text.as_bytes()).unwrap()
    }

    fn handed(scope: &str, fence: u64) -> HandedOver {
        HandedOver { scope: path(scope), fence: Fence(fence) }
    }

    #[test]
    fn only_a_later_grant_is_news() {
        let mut known = HandOvers::default();
        assert!(known.learn(&handed("/r/a", 3)) && known.learn(&handed("/r/b", 2)));
        assert!(!known.learn(&handed("/r/a", 3)) && !known.learn(&handed("/r/a", 1)));
        assert!(known.learn(&handed("/r/a", 4)));
        assert_eq!(known.all(), [handed("/r/a", 4), handed("/r/b", 2)]);
        let covered = ["/r/a", "/r/a/x/y", "/r/b/z"].map(|at| known.cover(&path(at)));
        assert_eq!(covered, [true; 3]);
        assert!(!known.cover(&path("/r")) && !known.cover(&path("/r/ab")));
    }

    #[test]
    fn of_too_many_the_oldest_is_forgotten() {
        let mut known = HandOvers::default();
        for n in 0..=MAX_HAND_OVERS {
            assert!(known.learn(&handed(&format!("/{n}"), 1 + n as u64)));
        }
        assert_eq!(known.all().len(), MAX_HAND_OVERS);
        assert!(!known.cover(&path("/0")) && known.cover(&path("/1")));
    }
}
