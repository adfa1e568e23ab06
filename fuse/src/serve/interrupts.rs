//! Who waits for a lock may be interrupted, or killed: the kernel says so by the number of the request.
//!
//! *Invariant:* what is remembered of a request that waits goes with it; numbers that came before their request are few.

use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use tokio::sync::oneshot;

/// Numbers that are remembered for requests that have not come yet. They come by another way than the interrupts.
const MAX_EARLY: usize = 1024;

/// The requests that wait.
#[derive(Debug, Default)]
pub(super) struct Interrupts(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<u64, oneshot::Sender<()>>,
    early: VecDeque<u64>,
}

impl Interrupts {
    /// Request `unique` begins to wait. What is given completes when it is interrupted.
    pub(super) fn begin(&self, unique: u64) -> oneshot::Receiver<()> {
        let (sender, interrupted) = oneshot::channel();
        let mut state = self.0.lock();
        match state.early.iter().position(|early| *early == unique) {
            Some(at) => {
                state.early.remove(at);
                let _ = sender.send(());
            }
            None => drop(state.waiting.insert(unique, sender)),
        }
        interrupted
    }

    /// It waits no longer.
    pub(super) fn end(&self, unique: u64) {
        self.0.lock().waiting.remove(&unique);
    }

    /// Request `unique` is interrupted. Most of them cannot be: they end by their deadlines.
    pub(super) fn interrupt(&self, unique: u64) {
        let mut state = self.0.lock();
        if let Some(waiting) = state.waiting.remove(&unique) {
            // Who has left needs no word.
            let _ = waiting.send(());
            return;
        }
        if state.early.len() == MAX_EARLY {
            state.early.pop_front();
        }
        state.early.push_back(unique);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_is_told_also_when_the_word_comes_first() {
        let interrupts = Interrupts::default();
        let mut waits = interrupts.begin(2);
        assert!(waits.try_recv().is_err());
        interrupts.interrupt(2);
        waits.await.unwrap();
        interrupts.interrupt(4);
        interrupts.begin(4).await.unwrap();
        let undisturbed = interrupts.begin(6);
        interrupts.end(6);
        assert!(undisturbed.await.is_err());
        (0..5000).for_each(|unique| interrupts.interrupt(unique));
        assert_eq!(interrupts.0.lock().early.len(), MAX_EARLY);
    }
}
