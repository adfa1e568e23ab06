//! What went over the wire, counted per endpoint and per peer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts at one moment. Bytes are those of streams and lanes: frames and chunks, not QUIC's or TLS's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Bytes sent on streams.
    pub bytes_sent: u64,
    /// Bytes received on streams.
    pub bytes_received: u64,
    /// Requests that we sent.
    pub requests_started: u64,
    /// Of these, those that the transport could not get answered.
    pub requests_failed: u64,
    /// Requests of others that we answered, in data or with an error.
    pub requests_served: u64,
    /// Requests of others that were broken off: cancelled, out of time, malformed, connection lost.
    pub requests_broken_off: u64,
    /// Connections that we made.
    pub connections_opened: u64,
    /// Connections of others that we let in.
    pub connections_accepted: u64,
    /// Connections of others that we turned away.
    pub connections_refused: u64,
    /// TCP connections that we made beside them.
    pub lanes_opened: u64,
    /// TCP connections of others that we let in.
    pub lanes_accepted: u64,
    /// TCP connections of others that we turned away.
    pub lanes_refused: u64,
    /// Requests of ours that were sent over TCP.
    pub requests_on_lanes: u64,
}

macro_rules! live {
    ($($field:ident),*) => {
        /// The counts as they grow.
        #[derive(Debug, Default)]
        pub(crate) struct Live { $(pub(crate) $field: AtomicU64),* }

        impl Live {
            pub(crate) fn snapshot(&self) -> Counters {
                Counters { $($field: self.$field.load(Ordering::Relaxed)),* }
            }
        }
    };
}

live!(
    bytes_sent,
    bytes_received,
    requests_started,
    requests_failed,
    requests_served,
    requests_broken_off,
    connections_opened,
    connections_accepted,
    connections_refused,
    lanes_opened,
    lanes_accepted,
    lanes_refused,
    requests_on_lanes
);

/// Counts for the endpoint and, where there is one, for the peer as well.
#[derive(Debug, Clone)]
pub(crate) struct Meter {
    endpoint: Arc<Live>,
    peer: Option<Arc<Live>>,
}

impl Meter {
    pub(crate) fn new(endpoint: Arc<Live>, peer: Option<Arc<Live>>) -> Self {
        Self { endpoint, peer }
    }

    /// Adds `amount` to the count that `which` picks.
    pub(crate) fn add(&self, which: impl Fn(&Live) -> &AtomicU64, amount: usize) {
        for live in [Some(&self.endpoint), self.peer.as_ref()].into_iter().flatten() {
            which(live).fetch_add(amount as u64, Ordering::Relaxed);
        }
    }
}
