//! Warnings about what may happen a thousand times a second, at a rate that a log bears.

use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// The least time between two warnings of one kind.
const INTERVAL: Duration = Duration::from_secs(10);

/// Lets one warning pass in each interval and counts the others.
pub(crate) struct Throttle(Mutex<State>);

struct State {
    next: Option<Instant>,
    silent: u64,
}

impl Throttle {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State { next: None, silent: 0 }))
    }

    /// The number of warnings held back since the last one, when it is time for another.
    pub(crate) fn admit(&self) -> Option<u64> {
        let (mut state, now) = (self.0.lock(), Instant::now());
        if state.next.is_some_and(|next| now < next) {
            state.silent += 1;
            return None;
        }
        state.next = Some(now + INTERVAL);
        Some(std::mem::take(&mut state.silent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_passes_and_the_next_are_counted() {
        let throttle = Throttle::new();
        assert_eq!(throttle.admit(), Some(0));
        assert_eq!((throttle.admit(), throttle.admit()), (None, None));
        throttle.0.lock().next = Some(Instant::now());
        assert_eq!(throttle.admit(), Some(2));
    }
}
