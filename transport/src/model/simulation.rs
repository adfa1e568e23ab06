//! A path in virtual time: senders of several kinds before one bottleneck with a drop-tail queue. The sender
//! with our controller paces, counts and detects loss as quinn does.

use super::congestion::Congestion;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

const PACKET: u64 = 1452;

/// What quinn allows a pacer to send at once.
const BURST: Duration = Duration::from_millis(2);

/// Packets by which another one may be overtaken before it counts as lost.
const REORDERING: u64 = 3;

/// How late a timer of the runtime rings.
const TIMER: Duration = Duration::from_millis(1);

/// A bottleneck.
#[derive(Debug, Clone, Copy)]
pub(super) struct Path {
    pub(super) bits_per_second: u64,
    pub(super) rtt: Duration,
    /// Lost at random, of a million.
    pub(super) loss_ppm: u64,
    pub(super) queue_bytes: u64,
}

/// Who decides about the window.
pub(super) enum Control {
    Ours(Box<Congestion>),
    Cubic(Cubic),
}

/// Congestion control as most TCPs have it (RFC 9438), to compete with.
pub(super) struct Cubic {
    window: f64,
    threshold: f64,
    highest: f64,
    epoch: Option<Duration>,
    recovered_at: Duration,
}

impl Cubic {
    pub(super) fn new() -> Self {
        let window = (10 * PACKET) as f64;
        Self { window, threshold: f64::MAX, highest: 0.0, epoch: None, recovered_at: Duration::ZERO }
    }

    fn on_acked(&mut self, now: Duration, srtt: Duration) {
        let packet = PACKET as f64;
        if self.window < self.threshold {
            self.window += packet;
            return;
        }
        let epoch = *self.epoch.get_or_insert(now);
        let t = (now - epoch + srtt).as_secs_f64();
        let k = (self.highest / packet * 0.3 / 0.4).cbrt();
        let target = (0.4 * (t - k).powi(3)) * packet + self.highest;
        let reno = packet * 0.53 * packet / self.window;
        self.window += ((target - self.window) / self.window * packet).max(reno).min(packet / 2.0);
    }

    fn on_lost(&mut self, now: Duration, sent: Duration) {
        if sent < self.recovered_at {
            return;
        }
        self.recovered_at = now;
        self.highest = self.window;
        self.window = (self.window * 0.7).max(2.0 * PACKET as f64);
        self.threshold = self.window;
        self.epoch = None;
    }
}

/// Who reads on as data comes, and asks for as much again ahead.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader {
    /// What it asks for first, bytes.
    pub(super) first: u64,
    /// The most that it has asked for and not got, bytes.
    pub(super) most: u64,
}

/// One connection.
pub(super) struct Flow {
    pub(super) control: Control,
    begins: Duration,
    tokens: u64,
    refilled: Duration,
    pub(super) srtt: Duration,
    next: u64,
    largest_acked: u64,
    sent: BTreeMap<u64, Duration>,
    in_flight: u64,
    unacknowledged: Vec<u64>,
    wakes: Option<Duration>,
    /// Only so many bytes in each such time are there to be sent.
    pub(super) application: Option<(u64, Duration)>,
    offered_before: u64,
    /// Only what a reader has asked for is there to be sent.
    pub(super) reader: Option<Reader>,
    acked: u64,
    pub(super) received: u64,
    pub(super) lost: u64,
    pub(super) largest_window: u64,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Wake { flow: usize },
    Arrive { flow: usize, packet: u64 },
    Acknowledge { flow: usize, packets: Vec<u64> },
}

/// All that goes on.
pub(super) struct World {
    pub(super) path: Path,
    pub(super) now: Duration,
    pub(super) flows: Vec<Flow>,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    sequence: u64,
    line_free_at: Duration,
    pub(super) longest_queue: Duration,
    random: u64,
    /// The senders' host does nothing for the second time after the first.
    pub(super) stalls: Option<(Duration, Duration)>,
}

impl World {
    pub(super) fn new(path: Path, seed: u64) -> Self {
        Self {
            path,
            now: Duration::ZERO,
            flows: Vec::new(),
            events: BinaryHeap::new(),
            sequence: 0,
            line_free_at: Duration::ZERO,
            longest_queue: Duration::ZERO,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            stalls: None,
        }
    }

    pub(super) fn add(&mut self, begins: Duration, control: Control) -> usize {
        self.flows.push(Flow {
            control,
            begins,
            tokens: 10 * PACKET,
            refilled: begins,
            srtt: self.path.rtt,
            next: 1,
            largest_acked: 0,
            sent: BTreeMap::new(),
            in_flight: 0,
            unacknowledged: Vec::new(),
            wakes: None,
            application: None,
            offered_before: 0,
            reader: None,
            acked: 0,
            received: 0,
            lost: 0,
            largest_window: 0,
        });
        let flow = self.flows.len() - 1;
        self.at(begins, Event::Wake { flow });
        flow
    }

    /// Lets time pass and gives the rate of each flow in it, as a share of the line.
    pub(super) fn run(&mut self, time: Duration) -> Vec<f64> {
        let end = self.now + time;
        let before: Vec<u64> = self.flows.iter().map(|flow| flow.received).collect();
        self.longest_queue = Duration::ZERO;
        while let Some(Reverse((at, _, _))) = self.events.peek()
            && *at <= end
        {
            let Some(Reverse((at, _, event))) = self.events.pop() else { break };
            self.now = at;
            self.happen(event);
        }
        self.now = end;
        let line = self.path.bits_per_second as f64 / 8.0 * time.as_secs_f64();
        let after = self.flows.iter().map(|flow| flow.received);
        after.zip(before).map(|(after, before)| (after - before) as f64 / line).collect()
    }

    fn at(&mut self, time: Duration, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((time, self.sequence, event)));
    }

    fn happen(&mut self, event: Event) {
        if let Some(later) = self.stalled(&event) {
            return self.at(later, event);
        }
        match event {
            Event::Wake { flow } => {
                self.flows[flow].wakes = None;
                self.send(flow);
            }
            Event::Arrive { flow, packet } => self.arrive(flow, packet),
            Event::Acknowledge { flow, packets } => {
                self.flows[flow].on_ack(self.now, &packets);
                self.send(flow);
            }
        }
    }

    /// When a busy host sees `event`, if not now.
    fn stalled(&self, event: &Event) -> Option<Duration> {
        let (runs, stops) = self.stalls.filter(|_| !matches!(event, Event::Arrive { .. }))?;
        let cycle = runs + stops;
        let within = Duration::from_nanos((self.now.as_nanos() % cycle.as_nanos()) as u64);
        (within > runs).then(|| self.now - within + cycle)
    }

    fn send(&mut self, flow: usize) {
        loop {
            match self.flows[flow].may_send(self.now) {
                Ok(()) => {}
                Err(None) => return,
                Err(Some(time)) => {
                    if self.flows[flow].wakes.is_none_or(|wakes| time < wakes) {
                        self.flows[flow].wakes = Some(time);
                        self.at(time, Event::Wake { flow });
                    }
                    return;
                }
            }
            let packet = self.flows[flow].take(self.now);
            self.enter_queue(flow, packet);
        }
    }

    fn enter_queue(&mut self, flow: usize, packet: u64) {
        let waits = self.line_free_at.saturating_sub(self.now);
        let queued = waits.as_secs_f64() * self.path.bits_per_second as f64 / 8.0;
        if queued as u64 + PACKET > self.path.queue_bytes {
            return;
        }
        self.longest_queue = self.longest_queue.max(waits);
        let line = Duration::from_nanos(PACKET * 8 * 1_000_000_000 / self.path.bits_per_second);
        self.line_free_at = self.line_free_at.max(self.now) + line;
        if self.random() % 1_000_000 >= self.path.loss_ppm {
            let at = self.line_free_at + self.path.rtt / 2;
            self.at(at, Event::Arrive { flow, packet });
        }
    }

    fn arrive(&mut self, flow: usize, packet: u64) {
        self.flows[flow].received += PACKET;
        self.flows[flow].unacknowledged.push(packet);
        if self.flows[flow].unacknowledged.len() >= 2 {
            let packets = std::mem::take(&mut self.flows[flow].unacknowledged);
            self.at(self.now + self.path.rtt / 2, Event::Acknowledge { flow, packets });
        }
    }

    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random >> 11
    }
}

impl Flow {
    pub(super) fn window(&self) -> u64 {
        match &self.control {
            Control::Ours(congestion) => congestion.window(),
            Control::Cubic(cubic) => cubic.window as u64,
        }
    }

    /// From now on only `bytes` in each `time` are there to be sent.
    pub(super) fn pause(&mut self, now: Duration, bytes: u64, time: Duration) {
        self.application = Some((bytes, time));
        self.begins = now;
        self.offered_before = self.next * PACKET;
    }

    /// Bytes that the application has had to send so far, and when there will be more, if not with what arrives.
    fn offered(&self, now: Duration) -> Option<(u64, Option<Duration>)> {
        if let Some(reader) = self.reader {
            return Some((self.acked + (reader.first + self.acked).min(reader.most), None));
        }
        let (bytes, time) = self.application?;
        let times = u32::try_from((now - self.begins).as_nanos() / time.as_nanos()).unwrap() + 1;
        Some((self.offered_before + u64::from(times) * bytes, Some(self.begins + time * times)))
    }

    /// `Err` with the time when to try again; with nothing when an acknowledgement has to come first.
    fn may_send(&mut self, now: Duration) -> Result<(), Option<Duration>> {
        if let Some((offered, more_at)) = self.offered(now)
            && self.next * PACKET > offered
        {
            return Err(more_at);
        }
        let window = self.window();
        if self.in_flight + PACKET >= window {
            return Err(None);
        }
        if matches!(self.control, Control::Cubic(_)) {
            return Ok(());
        }
        self.pace(now, window)
    }

    fn pace(&mut self, now: Duration, window: u64) -> Result<(), Option<Duration>> {
        let per_second = window as f64 / self.srtt.as_secs_f64();
        let capacity = ((per_second * BURST.as_secs_f64()) as u64).clamp(10 * PACKET, 256 * PACKET);
        self.tokens = self.tokens.min(capacity);
        if self.tokens >= PACKET {
            return Ok(());
        }
        let elapsed = (now - self.refilled).as_secs_f64();
        self.tokens = (self.tokens + (per_second * 1.25 * elapsed) as u64).min(capacity);
        self.refilled = now;
        if self.tokens >= PACKET {
            return Ok(());
        }
        let wait = Duration::from_secs_f64((capacity - self.tokens) as f64 / per_second * 0.8);
        let rings = (now + wait).as_micros().div_ceil(TIMER.as_micros()) as u64;
        Err(Some(Duration::from_micros(rings * TIMER.as_micros() as u64)))
    }

    fn take(&mut self, now: Duration) -> u64 {
        let packet = self.next;
        self.next += 1;
        self.tokens = self.tokens.saturating_sub(PACKET);
        self.in_flight += PACKET;
        self.sent.insert(packet, now);
        if let Control::Ours(congestion) = &mut self.control {
            congestion.on_sent(now, PACKET);
        }
        packet
    }

    fn on_ack(&mut self, now: Duration, packets: &[u64]) {
        let had_data = self.offered(now).is_none_or(|(offered, _)| self.next * PACKET <= offered);
        for packet in packets {
            let Some(sent) = self.sent.remove(packet) else { continue };
            self.in_flight -= PACKET;
            self.acked += PACKET;
            self.largest_acked = self.largest_acked.max(*packet);
            let rtt = now - sent;
            match &mut self.control {
                Control::Ours(congestion) => congestion.on_acked(sent, PACKET),
                Control::Cubic(cubic) => cubic.on_acked(now, self.srtt),
            }
            self.srtt = (self.srtt * 7 + rtt) / 8;
        }
        if let Control::Ours(congestion) = &mut self.control {
            congestion.on_batch(now, self.in_flight, !had_data);
            self.largest_window = self.largest_window.max(congestion.window());
        }
        self.find_lost(now);
    }

    fn find_lost(&mut self, now: Duration) {
        let below = self.largest_acked.saturating_sub(REORDERING - 1);
        let kept = self.sent.split_off(&below);
        let lost = std::mem::replace(&mut self.sent, kept);
        let Some((_, sent)) = lost.last_key_value() else { return };
        let bytes = lost.len() as u64 * PACKET;
        self.in_flight -= bytes;
        self.lost += bytes;
        match &mut self.control {
            Control::Ours(congestion) => congestion.on_lost(bytes),
            Control::Cubic(cubic) => cubic.on_lost(now, *sent),
        }
    }
}
