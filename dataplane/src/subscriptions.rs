//! Who listens to changes: the subscriptions of a server, by peer and number.
//!
//! A listing is told as watched only to a subscription that was live before the source was asked for the listing.
//! So the client need not wait for its subscription to be confirmed before it asks for names; the two requests
//! may overtake each other on the last few metres, so who names a subscription that is yet to begin waits for it
//! a moment.

use globalfs_proto::PeerIdentity;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How much later than a request that names it a subscription may begin.
const OVERTAKING_LIMIT: Duration = Duration::from_millis(20);

type Key = (PeerIdentity, u64);

/// The live subscriptions, each with the number of answers that serve it: two while a client renews one.
#[derive(Default)]
pub(crate) struct Subscriptions {
    live: Arc<Mutex<HashMap<Key, usize>>>,
    begun: Notify,
    end: CancellationToken,
}

/// One answer that tells changes, while it lives.
pub(crate) struct Registered {
    live: Arc<Mutex<HashMap<Key, usize>>>,
    key: Key,
    end: CancellationToken,
}

impl Subscriptions {
    /// From now on `number` of `peer` is told what changes.
    pub(crate) fn begin(&self, peer: &PeerIdentity, number: u64) -> Registered {
        let key = (peer.clone(), number);
        *self.live.lock().entry(key.clone()).or_default() += 1;
        self.begun.notify_waiters();
        Registered { live: self.live.clone(), key, end: self.end.clone() }
    }

    /// Whether `number` of `peer` is told what changes, now or in a moment.
    pub(crate) async fn is_begun(&self, peer: &PeerIdentity, number: u64) -> bool {
        let begun = async {
            loop {
                let next = self.begun.notified();
                if self.is_live(peer, number) {
                    return;
                }
                next.await;
            }
        };
        number != 0 && timeout(OVERTAKING_LIMIT, begun).await.is_ok()
    }

    fn is_live(&self, peer: &PeerIdentity, number: u64) -> bool {
        number != 0 && self.live.lock().contains_key(&(peer.clone(), number))
    }

    /// Ends all of them for good.
    pub(crate) fn end(&self) {
        self.end.cancel();
    }
}

impl Registered {
    /// What `next` gives, or `None` once all subscriptions end.
    pub(crate) async fn until_end<T>(&self, next: impl Future<Output = T>) -> Option<T> {
        self.end.run_until_cancelled(next).await
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut live = self.live.lock();
        if let Some(answers) = live.get_mut(&self.key) {
            *answers -= 1;
            if *answers == 0 {
                live.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use globalfs_proto::SiteName;

    #[tokio::test]
    async fn a_subscription_lives_as_long_as_one_answer_serves_it() {
        let (all, peer) = (Subscriptions::default(), PeerIdentity::Site(SiteName::new("a").unwrap()));
        let (first, second) = (all.begin(&peer, 7), all.begin(&peer, 7));
        drop(first);
        assert!(all.is_live(&peer, 7) && !all.is_live(&peer, 8) && !all.is_live(&peer, 0));
        assert!(!all.is_live(&PeerIdentity::Coordinator, 7));
        assert_eq!(second.until_end(async { 1 }).await, Some(1));
        all.end();
        assert_eq!(second.until_end(std::future::pending::<()>()).await, None);
        drop(second);
        assert!(!all.is_live(&peer, 7) && !all.is_begun(&peer, 7).await);
        let (late, _begun) = tokio::join!(all.is_begun(&peer, 9), async { all.begin(&peer, 9) });
        assert!(late, "it began a moment later");
    }
}
