//! The subscription to the upstream's changes: what is heard is applied here first and then told on.
//!
//! *Invariant:* whoever hears a change from this hop and asks again is not answered with what was before it.

use super::metadata::{Metadata, Shared};
use crate::source::ChangeStream;
use futures_util::StreamExt;
use globalfs_proto::Changes;
use globalfs_proto::limits::{MAX_HEARTBEAT, MIN_HEARTBEAT};
use std::sync::atomic::Ordering::{AcqRel, Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::timeout;

/// Signs of life within the time to live, so that one that is late does no harm.
const BEATS_PER_TTL: u32 = 4;

/// The pauses before a subscription is tried again, from the first to the longest.
const RETRY_AFTER: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(5)];

impl Metadata {
    /// Subscribes, unless that was done or nothing is kept anyway. Returns with the subscription begun, so that
    /// what is asked from now on can be watched.
    pub(super) fn start_watching(&self) {
        if self.0.ttl.is_zero() || self.0.watching.load(Relaxed) || self.0.watching.swap(true, AcqRel) {
            return;
        }
        let heartbeat = (self.0.ttl / BEATS_PER_TTL).clamp(MIN_HEARTBEAT, MAX_HEARTBEAT);
        let patience = self.0.ttl.max(heartbeat * 2);
        let first = subscribe(&self.0, heartbeat);
        tokio::spawn(keep_watching(Arc::downgrade(&self.0), first, heartbeat, patience));
    }
}

fn subscribe(shared: &Shared, heartbeat: Duration) -> ChangeStream {
    let changes = shared.upstream.watch(heartbeat);
    shared.state.lock().names.subscribed();
    changes
}

/// Hears changes as long as the hop lives, over any number of subscriptions.
async fn keep_watching(hop: Weak<Shared>, first: ChangeStream, heartbeat: Duration, patience: Duration) {
    let [mut pause, longest] = RETRY_AFTER;
    let mut changes = first;
    loop {
        if hear_all(&hop, &mut changes, patience).await {
            [pause, _] = RETRY_AFTER;
        }
        let Some(shared) = hop.upgrade() else { return };
        shared.state.lock().names.lost();
        shared.hub.tell(Arc::new(Changes::everything()));
        drop(shared);
        tokio::time::sleep(pause).await;
        pause = longest.min(pause * 2);
        let Some(shared) = hop.upgrade() else { return };
        changes = subscribe(&shared, heartbeat);
    }
}

/// Hears one subscription to its end, or the hop's. Whether anything was heard.
async fn hear_all(hop: &Weak<Shared>, changes: &mut ChangeStream, patience: Duration) -> bool {
    let (mut was_heard, mut is_silent) = (false, true);
    loop {
        let heard = timeout(patience, changes.next()).await;
        let Some(shared) = hop.upgrade() else { return was_heard };
        match heard {
            Ok(Some(changes)) => {
                (was_heard, is_silent) = (true, false);
                hear(&shared, &changes).await;
            }
            Ok(None) => return was_heard,
            // Who was told that something is watched has to know that for now it is not.
            Err(_) if !is_silent => {
                is_silent = true;
                shared.hub.tell(Arc::new(Changes::everything()));
            }
            Err(_) => {}
        }
    }
}

async fn hear(shared: &Arc<Shared>, changes: &Arc<Changes>) {
    let now = shared.now();
    shared.state.lock().names.heard(changes, now);
    if changes.is_empty() {
        return;
    }
    shared.counts.changes.fetch_add(1, Relaxed);
    Metadata(shared.clone()).ask_again();
    for directory in &changes.directories {
        for path in directory.names.iter().filter_map(|name| directory.path.join(name).ok()) {
            shared.small.forget(&path).await;
        }
    }
    shared.hub.tell(changes.clone());
}
