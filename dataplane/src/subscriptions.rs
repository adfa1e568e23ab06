//! Who listens to changes: the subscriptions of a server, by peer and number.
//!
//! A listing is told as watched only to a subscription that was live before the source was asked for the listing.
//! So the client need not wait for its subscription to be confirmed before it asks for names; the two requests
//! may overtake each other on the last few metres, so who names a subscription that is yet to begin waits for it
//! a moment.
//!
//! *Invariant:* a directory is noted as told before it is sent, and the request that tells it is under way from
//! before the source is asked.

use crate::model::heard::Heard;
use crate::source::ChangeStream;
use futures_util::StreamExt;
use globalfs_proto::{GlobalPath, PeerIdentity};
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

type Live = Arc<Mutex<HashMap<Key, Subscription>>>;

/// A subscription that is live.
#[derive(Default)]
struct Subscription {
    /// The answers that serve it: two while a client renews it.
    answers: usize,
    heard: Arc<Mutex<Heard>>,
}

/// The live subscriptions.
#[derive(Default)]
pub(crate) struct Subscriptions {
    live: Live,
    begun: Notify,
    end: CancellationToken,
}

/// One answer that tells changes, while it lives.
pub(crate) struct Registered {
    live: Live,
    key: Key,
    heard: Arc<Mutex<Heard>>,
    end: CancellationToken,
}

/// A request that names a live subscription, while it is answered.
pub(crate) struct Asking(Arc<Mutex<Heard>>);

impl Subscriptions {
    /// From now on `number` of `peer` is told what changes.
    pub(crate) fn begin(&self, peer: &PeerIdentity, number: u64) -> Registered {
        let key = (peer.clone(), number);
        let heard = {
            let mut live = self.live.lock();
            let subscription = live.entry(key.clone()).or_default();
            subscription.answers += 1;
            subscription.heard.clone()
        };
        self.begun.notify_waiters();
        Registered { live: self.live.clone(), key, heard, end: self.end.clone() }
    }

    /// A request of `peer` that names `number` begins; `None` unless that is told what changes, now or in a moment.
    pub(crate) async fn ask(&self, peer: &PeerIdentity, number: u64) -> Option<Asking> {
        let key = (peer.clone(), number);
        let begun = async {
            loop {
                let next = self.begun.notified();
                let heard = self.live.lock().get(&key).map(|subscription| subscription.heard.clone());
                match heard {
                    Some(heard) => return heard,
                    None => next.await,
                }
            }
        };
        if number == 0 {
            return None;
        }
        timeout(OVERTAKING_LIMIT, begun).await.ok().map(Asking::new)
    }

    /// Ends all of them for good.
    pub(crate) fn end(&self) {
        self.end.cancel();
    }
}

impl Asking {
    fn new(heard: Arc<Mutex<Heard>>) -> Self {
        heard.lock().begin_request();
        Self(heard)
    }

    /// What changes in `directory` is to be heard.
    pub(crate) fn tell(&self, directory: &GlobalPath) {
        self.0.lock().tell(directory);
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.lock().end_request();
    }
}

impl Registered {
    /// Of `changes` what this subscription hears.
    pub(crate) fn part_of(&self, changes: ChangeStream) -> ChangeStream {
        let heard = self.heard.clone();
        changes.filter_map(move |changes| std::future::ready(heard.lock().part(changes))).boxed()
    }

    /// What `next` gives, or `None` once all subscriptions end.
    pub(crate) async fn until_end<T>(&self, next: impl Future<Output = T>) -> Option<T> {
        self.end.run_until_cancelled(next).await
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut live = self.live.lock();
        if let Some(subscription) = live.get_mut(&self.key) {
            subscription.answers -= 1;
            if subscription.answers == 0 {
                live.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use globalfs_proto::{ChangedDirectory, Changes, SiteName};

    #[tokio::test]
    async fn a_subscription_lives_as_long_as_one_answer_serves_it() {
        let (all, peer) = (Subscriptions::default(), PeerIdentity::Site(SiteName::new("a").unwrap()));
        let (first, second) = (all.begin(&peer, 7), all.begin(&peer, 7));
        drop(first);
        let is_live = async |peer: &PeerIdentity, number| all.ask(peer, number).await.is_some();
        assert!(is_live(&peer, 7).await && !is_live(&peer, 8).await && !is_live(&peer, 0).await);
        assert!(!is_live(&PeerIdentity::Coordinator, 7).await);
        assert_eq!(second.until_end(async { 1 }).await, Some(1));
        all.end();
        assert_eq!(second.until_end(std::future::pending::<()>()).await, None);
        drop(second);
        assert!(!is_live(&peer, 7).await);
        let (late, _begun) = tokio::join!(is_live(&peer, 9), async { all.begin(&peer, 9) });
        assert!(late, "it began a moment later");
    }

    #[tokio::test]
    async fn both_answers_of_a_subscription_hear_of_what_any_request_was_told() {
        let (all, peer) = (Subscriptions::default(), PeerIdentity::Site(SiteName::new("a").unwrap()));
        let path = |text: &str| GlobalPath::new(text.as_bytes()).unwrap();
        let (first, other) = (all.begin(&peer, 7), all.begin(&peer, 8));
        all.ask(&peer, 7).await.unwrap().tell(&path("/d"));
        let second = all.begin(&peer, 7);
        let directories = vec![ChangedDirectory { path: path("/d"), names: vec!["x".into()] }];
        let changes = Arc::new(Changes::of(directories));
        for (answer, hears) in [(&first, true), (&second, true), (&other, false)] {
            let mut heard = answer.part_of(futures_util::stream::iter([changes.clone()]).boxed());
            assert_eq!(heard.next().await.is_some(), hears);
        }
    }
}
