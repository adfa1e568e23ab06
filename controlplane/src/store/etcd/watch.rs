//! A watch over etcd that outlives its connections.
//!
//! *Invariant:* an event is handed out once. After a break the watch asks again from the last revision that
//! it saw and passes over as many events of it as it had handed out: etcd splits large answers anywhere,
//! also within a revision, and repeats a revision's events in the same order.

use std::{collections::VecDeque, time::Duration};

use etcd_client::{EventType, WatchClient, WatchOptions, WatchResponse};
use futures_util::stream;
use tokio::sync::OwnedSemaphorePermit;

use super::{entry_from, key_from, prefix_end, within_deadline};
use crate::store::{Change, Event, Key, Result, Revision, StoreError, WatchStream};

/// The pause after a failed attempt to connect, doubled up to the second.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The state of one watch between two events.
pub(super) struct Watch {
    client: WatchClient,
    prefix: Key,
    /// The revision to ask for after a break, and how many of its events have been received.
    position: Revision,
    seen: usize,
    /// Events that the present connection repeats.
    repeated: usize,
    connection: Option<etcd_client::WatchStream>,
    pending: VecDeque<Event>,
    pause: Duration,
    ended: bool,
    _permit: OwnedSemaphorePermit,
}

impl Watch {
    pub(super) fn new(
        client: WatchClient,
        prefix: Key,
        after: Revision,
        permit: OwnedSemaphorePermit,
    ) -> Watch {
        Watch {
            client,
            prefix,
            position: Revision(after.0.saturating_add(1)),
            seen: 0,
            repeated: 0,
            connection: None,
            pending: VecDeque::new(),
            pause: FIRST_PAUSE,
            ended: false,
            _permit: permit,
        }
    }

    pub(super) fn into_stream(self) -> WatchStream {
        Box::pin(stream::unfold(self, |mut watch| async move {
            let item = watch.next_event().await?;
            watch.ended = item.is_err();
            Some((item, watch))
        }))
    }

    /// The next event; none after an error.
    async fn next_event(&mut self) -> Option<Result<Event>> {
        while !self.ended {
            if let Some(event) = self.pending.pop_front() {
                return Some(Ok(event));
            }
            match self.receive().await {
                Ok(()) => {}
                Err(StoreError::Unavailable(reason)) => self.pause_before_reconnect(&reason).await,
                Err(error) => return Some(Err(error)),
            }
        }
        None
    }

    async fn receive(&mut self) -> Result<()> {
        let Some(connection) = &mut self.connection else { return self.connect().await };
        let lost = || StoreError::Unavailable("the connection ended".into());
        let response = connection.message().await.map_err(super::sort_error)?.ok_or_else(lost)?;
        self.handle_response(&response)
    }

    async fn connect(&mut self) -> Result<()> {
        let options = WatchOptions::new()
            .with_range(prefix_end(&self.prefix))
            .with_start_revision(self.position.0.min(i64::MAX as u64) as i64)
            .with_fragment();
        let connection = within_deadline(self.client.watch(self.prefix.as_bytes(), Some(options))).await?;
        self.connection = Some(connection);
        self.repeated = self.seen;
        Ok(())
    }

    fn handle_response(&mut self, response: &WatchResponse) -> Result<()> {
        if response.compact_revision() > 0 {
            return Err(StoreError::Compacted);
        }
        if response.canceled() {
            return Err(sort_cancel(response.cancel_reason()));
        }
        self.pause = FIRST_PAUSE;
        response.events().iter().for_each(|event| self.handle_event(event));
        Ok(())
    }

    fn handle_event(&mut self, event: &etcd_client::Event) {
        let Some(kv) = event.kv() else { return };
        let revision = Revision(kv.mod_revision() as u64);
        if revision == self.position && self.repeated > 0 {
            self.repeated -= 1;
            return;
        }
        if revision != self.position {
            (self.position, self.seen, self.repeated) = (revision, 0, 0);
        }
        self.seen += 1;
        let change = match event.event_type() {
            EventType::Put => entry_from(kv).map(Change::Put),
            EventType::Delete => key_from(kv).map(Change::Delete),
        };
        self.pending.extend(change.map(|change| Event { revision, change }));
    }

    async fn pause_before_reconnect(&mut self, reason: &str) {
        tracing::debug!(prefix = %self.prefix, reason, "a watch reconnects");
        self.connection = None;
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}

fn sort_cancel(reason: &str) -> StoreError {
    let text = reason.to_lowercase();
    if text.contains("compacted") {
        StoreError::Compacted
    } else if text.contains("permission denied") {
        StoreError::Denied(reason.to_owned())
    } else {
        StoreError::Unavailable(format!("etcd ended the watch: {reason}"))
    }
}
