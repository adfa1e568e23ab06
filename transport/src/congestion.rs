//! Our congestion control in quinn's terms, and what was learned of each peer's path for the next connection.

use crate::model::congestion::{Congestion, INITIAL_WINDOW};
use lru::LruCache;
use parking_lot::Mutex;
use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics};
use quinn_proto::RttEstimator;
use std::any::Any;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Paths that are remembered, least recently used forgotten first.
const MAX_PATHS: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

/// The share of what a path was last seen to hold that a new connection begins with: others may be there.
const TRUST: f64 = 0.5;

/// The most of it.
const MAX_INITIAL_WINDOW: u64 = 16 * 1024 * 1024;

/// How long a path stays as it was seen.
const MEMORY: Duration = Duration::from_secs(600);

/// What the paths to other hosts hold, by address. Only what arrived there is counted, so an address that
/// somebody pretends to have is not entered.
#[derive(Debug)]
pub(crate) struct Paths(Mutex<LruCache<IpAddr, (u64, Instant)>>);

impl Default for Paths {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MAX_PATHS)))
    }
}

impl Paths {
    fn initial_window(&self, remote: IpAddr) -> u64 {
        let known = self.0.lock().get(&remote).copied();
        let fresh = known.filter(|(_, seen)| seen.elapsed() < MEMORY);
        let window = fresh.map_or(0, |(volume, _)| (volume as f64 * TRUST) as u64);
        window.clamp(INITIAL_WINDOW, MAX_INITIAL_WINDOW)
    }

    fn remember(&self, remote: IpAddr, volume: u64) {
        self.0.lock().put(remote, (volume, Instant::now()));
    }
}

/// Makes controllers for connections with one host.
pub(crate) struct Factory {
    paths: Arc<Paths>,
    remote: IpAddr,
}

impl Factory {
    pub(crate) fn new(paths: Arc<Paths>, remote: IpAddr) -> Self {
        Self { paths, remote }
    }
}

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let congestion = Congestion::new(current_mtu, self.paths.initial_window(self.remote));
        Box::new(Adapter { congestion, begun: now, factory: self })
    }
}

/// One path of one connection.
#[derive(Clone)]
struct Adapter {
    congestion: Congestion,
    begun: Instant,
    factory: Arc<Factory>,
}

impl Adapter {
    fn time(&self, instant: Instant) -> Duration {
        instant.saturating_duration_since(self.begun)
    }
}

impl Drop for Adapter {
    fn drop(&mut self) {
        if let Some(volume) = self.congestion.known_volume() {
            self.factory.paths.remember(self.factory.remote, volume);
        }
    }
}

impl Controller for Adapter {
    fn on_sent(&mut self, now: Instant, bytes: u64, _last_packet_number: u64) {
        self.congestion.on_sent(self.time(now), bytes);
    }

    fn on_ack(&mut self, _now: Instant, sent: Instant, bytes: u64, _app_limited: bool, _rtt: &RttEstimator) {
        self.congestion.on_acked(self.time(sent), bytes);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        _largest_packet_num_acked: Option<u64>,
    ) {
        self.congestion.on_batch(self.time(now), in_flight, app_limited);
    }

    /// `lost_bytes` of 0 stands for packets that a router has marked.
    fn on_congestion_event(
        &mut self,
        _now: Instant,
        _sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        match lost_bytes {
            _ if is_persistent_congestion => self.congestion.on_collapse(),
            0 => self.congestion.on_marked(),
            lost => self.congestion.on_lost(lost),
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.congestion.on_packet_size(new_mtu);
    }

    fn window(&self) -> u64 {
        self.congestion.window()
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.window();
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.congestion.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
