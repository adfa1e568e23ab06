//! Which of several subtrees brings its changes home first.

use std::time::Duration;

/// How long a subtree lets more urgent ones go before it, at each of its turns: none waits for ever.
pub const YIELD: Duration = Duration::from_secs(2);

/// How urgent it is that a subtree's changes come home; the greater goes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Urgency {
    /// Something is owed for longer than its policy permits.
    pub is_late: bool,
    /// Of its policy.
    pub priority: i32,
}

/// What a policy says of a subtree's way home.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rank {
    /// Higher goes first.
    pub priority: i32,
    /// What is owed for longer is late.
    pub deadline: Option<Duration>,
}

impl Rank {
    /// How urgent it is, as the oldest change is of this age.
    pub fn urgency(&self, oldest: Option<Duration>) -> Urgency {
        let is_late = self.deadline.is_some_and(|deadline| oldest.is_some_and(|age| age > deadline));
        Urgency { is_late, priority: self.priority }
    }
}

/// Whether who has waited for `waited` lets others go first, whose changes are as urgent as `others`.
pub fn yields(own: Urgency, others: impl IntoIterator<Item = Urgency>, waited: Duration) -> bool {
    waited < YIELD && others.into_iter().any(|other| other > own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_late_goes_before_what_is_important() {
        let rank = |priority| Rank { priority, deadline: Some(Duration::from_secs(10)) };
        let age = |seconds| Some(Duration::from_secs(seconds));
        let (late, important) = (rank(0).urgency(age(11)), rank(9).urgency(age(10)));
        assert!(late > important && important > rank(8).urgency(None));
        assert!(!Rank::default().urgency(age(1_000_000)).is_late);
    }

    #[test]
    fn nobody_waits_for_ever() {
        let (low, high) = (Urgency::default(), Urgency { is_late: false, priority: 1 });
        assert!(yields(low, [low, high], Duration::ZERO) && !yields(low, [low, high], YIELD));
        assert!(!yields(high, [low, high], Duration::ZERO));
    }
}
