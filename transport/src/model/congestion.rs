//! How many bytes may be in flight: a model of the path instead of a reaction to each loss.
//!
//! The path is described by the highest rate that it delivered lately and the lowest round trip. Their product
//! is what fits on the line; the window is kept at that and a little more, and now and then a round with a
//! larger window asks whether there is room. After draft-ietf-ccwg-bbr, changed where the sender can set
//! only a window, at which quinn paces: 1.25 windows a round trip, in bursts of up to 2 ms.
//!
//! *Invariants:* the window lies between [`MIN_PACKETS`] and [`MAX_WINDOW`]; loss below [`LOSS_LIMIT`] alone
//! never makes it smaller; the queue that it makes of its own is below half a round trip once started.

use super::clumps::Clumps;
use super::delivery::{Delivery, Sample};
use super::rate::{HighestRate, Rate};
use std::time::Duration;

/// The most that may be in flight: 10 Gbit/s at 100 ms.
pub(crate) const MAX_WINDOW: u64 = 128 * 1024 * 1024;

/// Packets that may always be in flight, so that acknowledgements never dry up.
const MIN_PACKETS: u64 = 16;

/// Window per round trip while a path is unknown. quinn paces it, so it is no burst.
pub(crate) const INITIAL_WINDOW: u64 = 512 * 1024;

/// The rate to begin with, where that is more: a doubling less per round trip on long lines between sites. A
/// slower line loses most of it once, and starts again from what came through.
const INITIAL_RATE: Rate = Rate::per_second(50_000_000);

/// The most that this makes.
const MAX_FIRST_WINDOW: u64 = 8 * 1024 * 1024;

/// Lost out of sent in one round that means a queue overflows. Links lose up to a percent for other reasons.
const LOSS_LIMIT: f64 = 0.04;

/// Lost packets on top of that share which are taken for chance.
const LOSS_BY_CHANCE: u64 = 8;

/// What remains of the window after a round that lost too much.
const BACKOFF: f64 = 0.85;

/// Growth of the rate in a round without which the path is taken for full.
const GROWTH: f64 = 1.25;

/// Rounds without growth that end the start.
const ROUNDS_WITHOUT_GROWTH: u32 = 3;

/// The window of the start, in what fits on the line as known so far.
const STARTUP_GAIN: f64 = 2.0;

/// The same in a steady state. What is more than 1 waits in the bottleneck's queue, and covers lost packets
/// that are in flight only by name.
const CRUISE_GAIN: f64 = 1.03;

/// In the round that asks for more.
const UP_GAIN: f64 = 1.25;

/// In the round after that, which empties the queue again.
const DOWN_GAIN: f64 = 0.95;

/// When others keep the queue full whatever we do, as Cubic does, the queue counts as part of the line, up to
/// so many times the lowest round trip.
const COMPETING_RTTS: u32 = 3;

/// In the round that measures the path empty.
const PROBE_RTT_GAIN: f64 = 0.5;

/// Rounds and time between two questions for more: time, as rounds in a LAN are shorter than its jitter.
const CRUISE_ROUNDS: u64 = 6;
const CRUISE_TIME: Duration = Duration::from_millis(60);

/// The time doubles up to this with each question that was answered by no, for it costs others their queue.
const CRUISE_TIME_MAX: Duration = Duration::from_secs(1);

/// Growth of the rate that is a yes: of several connections the smaller ones hear it more often.
const YES: f64 = 1.1;

/// How long the lowest round trip is believed. A lower or about equal one renews it.
const MIN_RTT_LIFE: Duration = Duration::from_secs(10);

/// How late machines are: bursts of the pacer, wake-ups, acknowledgements held back. What arrives in that
/// time is allowed in flight on top, which is all of the window in a LAN and little of it in a WAN.
const HOST_DELAY: Duration = Duration::from_millis(1);

/// The most of it that is believed where acknowledgements were seen to come in such clumps: busy hosts.
const MAX_HOST_DELAY: Duration = Duration::from_millis(12);

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Doubling each round, until the rate no longer follows.
    Startup,
    /// Emptying the queue that this has made.
    Drain,
    /// Holding what fits, until this time and round.
    Cruise { until: Duration, until_round: u64 },
    /// Asking for more, until this round is over.
    Up { until_round: u64 },
    /// Emptying the queue, and then looking for a round whether it is empty.
    Down { empty_since: Option<u64> },
    /// Nearly empty, until this round is over.
    ProbeRtt { until_round: Option<u64> },
}

/// What happens from one round trip to the next.
#[derive(Debug, Clone, Copy, Default)]
struct Round {
    number: u64,
    /// Over when a packet arrives that was sent after so much had been delivered.
    ends_at: u64,
    begun_at: u64,
    lost: u64,
    marked: bool,
    /// The highest one.
    rate: Rate,
    lowest_rtt: Option<Duration>,
}

/// The congestion controller of one path. Times count from when it was made.
#[derive(Debug, Clone)]
pub(crate) struct Congestion {
    delivery: Delivery,
    phase: Phase,
    round: Round,
    rate: HighestRate,
    clumps: Clumps,
    full_rate: Rate,
    rounds_without_growth: u32,
    min_rtt: Option<Duration>,
    /// Of the last round.
    lowest_rtt: Option<Duration>,
    min_rtt_at: Duration,
    /// Bytes since the connection began.
    lost: u64,
    /// What was begun with was too much.
    restarted: bool,
    competing: bool,
    /// Cycles since something was lost.
    cycles_without_loss: u32,
    cruise_time: Duration,
    rate_before_up: Rate,
    /// What the window must not pass, for more was lost.
    ceiling: u64,
    window: u64,
    initial_window: u64,
    packet: u64,
}

impl Congestion {
    /// For packets of `packet` bytes, beginning with `initial_window`.
    pub(crate) fn new(packet: u16, initial_window: u64) -> Self {
        let packet = u64::from(packet);
        let initial_window = initial_window.clamp(MIN_PACKETS * packet, MAX_WINDOW);
        Self {
            delivery: Delivery::default(),
            phase: Phase::Startup,
            round: Round::default(),
            rate: HighestRate::default(),
            clumps: Clumps::default(),
            full_rate: Rate::default(),
            rounds_without_growth: 0,
            min_rtt: None,
            lowest_rtt: None,
            min_rtt_at: Duration::ZERO,
            lost: 0,
            restarted: false,
            competing: false,
            cycles_without_loss: 0,
            cruise_time: CRUISE_TIME,
            rate_before_up: Rate::default(),
            ceiling: MAX_WINDOW,
            window: initial_window,
            initial_window,
            packet,
        }
    }

    /// Bytes that may be in flight.
    pub(crate) fn window(&self) -> u64 {
        self.window
    }

    pub(crate) fn initial_window(&self) -> u64 {
        self.initial_window
    }

    /// What fits on the line, once that is known.
    pub(crate) fn known_volume(&self) -> Option<u64> {
        (self.phase != Phase::Startup).then(|| self.volume(1.0))
    }

    pub(crate) fn on_packet_size(&mut self, packet: u16) {
        self.packet = packet.into();
        self.window = self.bounded(self.window);
    }

    pub(crate) fn on_sent(&mut self, now: Duration, bytes: u64) {
        self.delivery.on_sent(now, bytes);
    }

    /// A packet that left at `sent` has arrived; [`Congestion::on_batch`] follows.
    pub(crate) fn on_acked(&mut self, sent: Duration, bytes: u64) {
        self.delivery.on_acked(sent, bytes);
    }

    pub(crate) fn on_lost(&mut self, bytes: u64) {
        self.delivery.on_lost(bytes);
        self.round.lost += bytes;
        self.lost += bytes;
        self.cycles_without_loss = 0;
        if self.lost_too_much() && matches!(self.phase, Phase::Startup | Phase::Up { .. }) {
            self.back_off();
        }
    }

    /// Routers have marked packets instead of dropping them.
    pub(crate) fn on_marked(&mut self) {
        self.round.marked = true;
    }

    /// Nothing came through for several round trips: the path may be another one.
    pub(crate) fn on_collapse(&mut self) {
        let packet = u16::try_from(self.packet).unwrap_or(u16::MAX);
        let delivery = self.delivery.clone();
        *self = Self { delivery, initial_window: self.initial_window, ..Self::new(packet, 0) };
        self.round.ends_at = self.delivery.delivered();
        self.round.begun_at = self.round.ends_at;
    }

    /// The end of a batch of acknowledgements, after which `in_flight` bytes are left. `app_limited` when
    /// there was nothing to send before it came.
    pub(crate) fn on_batch(&mut self, now: Duration, in_flight: u64, app_limited: bool) {
        let Some(sample) = self.delivery.on_batch(now, in_flight, app_limited) else { return };
        self.learn(now, &sample);
        if sample.delivered_before >= self.round.ends_at {
            self.end_round(&sample);
        }
        self.watch_start(&sample);
        self.step(now, in_flight);
        self.resize(&sample, app_limited);
    }

    fn learn(&mut self, now: Duration, sample: &Sample) {
        let rtt = sample.rtt;
        self.round.lowest_rtt = Some(self.round.lowest_rtt.map_or(rtt, |lowest| lowest.min(rtt)));
        if self.min_rtt.is_none() && self.phase == Phase::Startup {
            let first = INITIAL_RATE.bytes_in(rtt).min(MAX_FIRST_WINDOW);
            self.initial_window = self.bounded(self.initial_window.max(first));
            self.window = self.window.max(self.initial_window);
        }
        if self.min_rtt.is_none_or(|min| rtt <= min + min / 32) {
            self.min_rtt = Some(self.min_rtt.map_or(rtt, |min| min.min(rtt)));
            self.min_rtt_at = now;
        }
        self.round.rate = self.round.rate.max(sample.rate);
        if !sample.app_limited || sample.rate > self.rate.get() {
            self.rate.put(sample.rate);
        }
        if matches!(self.phase, Phase::Cruise { .. } | Phase::Down { .. }) {
            self.clumps.put(now, sample.acked, self.rate.get());
        }
    }

    fn end_round(&mut self, sample: &Sample) {
        if self.lost_too_much() || self.round.marked {
            self.back_off();
        }
        if self.phase == Phase::Startup && self.used(sample.delivered - sample.delivered_before) {
            self.judge_growth(sample.app_limited);
        }
        self.lowest_rtt = self.round.lowest_rtt;
        self.round = Round {
            number: self.round.number + 1,
            ends_at: sample.delivered,
            begun_at: sample.delivered,
            ..Round::default()
        };
    }

    /// A round that left most of the window unused says nothing about the line.
    fn used(&self, delivered: u64) -> bool {
        delivered >= self.window / 4
    }

    /// Whether the rate still follows the window: not if it did not for some rounds in which there was enough to send.
    fn judge_growth(&mut self, app_limited: bool) {
        let rate = self.rate.get();
        if rate >= self.full_rate.times(GROWTH) {
            self.full_rate = rate;
            self.rounds_without_growth = 0;
        } else if !app_limited {
            self.rounds_without_growth += 1;
            if self.rounds_without_growth >= ROUNDS_WITHOUT_GROWTH {
                self.phase = Phase::Drain;
            }
        }
    }

    /// A queue that never was empty in a round so far, while the rate does not grow, says at once that the line is
    /// full, also of an application that pauses now and then: the rest of the round would overflow that queue.
    fn watch_start(&mut self, sample: &Sample) {
        let grows = self.rate.get() >= self.full_rate.times(GROWTH);
        let queued = self.round.lowest_rtt > self.min_rtt.map(|min| min + min / 8 + HOST_DELAY);
        // Whoever was turned away at the start has met a queue of others, which says nothing.
        let full = queued && !grows && !self.restarted && self.used(sample.delivered - self.round.begun_at);
        if full && self.phase == Phase::Startup {
            self.phase = Phase::Drain;
        }
    }

    fn lost_too_much(&self) -> bool {
        let lost = self.round.lost;
        let sent = lost + self.delivery.delivered() - self.round.begun_at;
        // In the middle of a round the share is taken of a window, not of the little that has come back.
        let sent = sent.max(self.window / 2);
        lost as f64 > sent as f64 * LOSS_LIMIT + (LOSS_BY_CHANCE * self.packet) as f64
    }

    /// Less from now on, but not less than what gets through.
    fn back_off(&mut self) {
        let less = (self.window as f64 * BACKOFF) as u64;
        let time = self.min_rtt.unwrap_or_default() + HOST_DELAY;
        let kept = self.bounded(less.max(self.round.rate.bytes_in(time)).min(self.window));
        self.window = kept;
        self.round.lost = 0;
        self.ceiling = kept;
        match self.phase {
            Phase::Startup => self.phase = Phase::Drain,
            Phase::Up { .. } => self.phase = Phase::Down { empty_since: None },
            _ => {}
        }
    }

    /// Too much to begin with: a slow line, or one that others have filled. Once more, from what came through.
    fn restart(&mut self) {
        self.restarted = true;
        self.phase = Phase::Startup;
        self.ceiling = MAX_WINDOW;
        self.initial_window = self.bounded(self.volume(1.0));
        self.window = self.initial_window;
        self.rate = HighestRate::default();
    }

    /// From phase to phase.
    fn step(&mut self, now: Duration, in_flight: u64) {
        let round = self.round.number;
        let empty = in_flight <= self.target() + self.packet;
        match self.phase {
            Phase::Startup => {}
            Phase::Drain if empty && !self.restarted && self.lost > self.delivery.delivered() => {
                self.restart()
            }
            Phase::Drain if empty => self.cruise(now),
            Phase::Drain => {}
            Phase::Cruise { until, until_round } if now >= until && round >= until_round => {
                if now.saturating_sub(self.min_rtt_at) > MIN_RTT_LIFE {
                    self.phase = Phase::ProbeRtt { until_round: None };
                } else {
                    self.rate_before_up = self.rate.get();
                    self.rate.turn();
                    self.clumps.turn();
                    self.phase = Phase::Up { until_round: round + 2 };
                }
            }
            Phase::Cruise { .. } => {}
            Phase::Up { until_round } if round >= until_round => {
                self.ceiling = self.bounded((self.ceiling as f64 * UP_GAIN) as u64);
                self.phase = Phase::Down { empty_since: None };
            }
            Phase::Up { .. } => {}
            Phase::Down { empty_since: None } if empty => {
                self.phase = Phase::Down { empty_since: Some(round) };
            }
            Phase::Down { empty_since: Some(since) } if round > since => {
                self.look_for_others();
                self.cruise(now);
            }
            Phase::Down { .. } => {}
            Phase::ProbeRtt { until_round: None } if empty => {
                self.phase = Phase::ProbeRtt { until_round: Some(round + 1) };
                (self.min_rtt, self.min_rtt_at) = (None, now);
            }
            Phase::ProbeRtt { until_round: Some(until) } if round > until => self.cruise(now),
            Phase::ProbeRtt { .. } => {}
        }
    }

    fn cruise(&mut self, now: Duration) {
        let more = self.rate.get() > self.rate_before_up.times(YES);
        self.cruise_time = if more { CRUISE_TIME } else { (self.cruise_time * 2).min(CRUISE_TIME_MAX) };
        // Connections that ask at the same time understand nothing: no two take equally long.
        let spread = (self.delivery.delivered() / self.packet % 16) as u32;
        let until = now + self.cruise_time * (16 + spread) / 24;
        self.phase = Phase::Cruise { until, until_round: self.round.number + CRUISE_ROUNDS };
    }

    /// A queue that stays when ours is gone is that of others; if they fill it until it overflows, being
    /// modest would leave us nothing. Others like us lose nothing.
    fn look_for_others(&mut self) {
        let (Some(lowest), Some(min)) = (self.lowest_rtt, self.min_rtt) else { return };
        self.competing = self.cycles_without_loss < 2 && lowest > min + min / 8 + 2 * HOST_DELAY;
        self.cycles_without_loss = self.cycles_without_loss.saturating_add(1);
    }

    /// What fits on the line, times `gain`.
    fn volume(&self, gain: f64) -> u64 {
        self.rate.get().times(gain).bytes_in(self.min_rtt.unwrap_or_default())
    }

    /// What fits on the line and in the queue that others keep, times `gain`.
    fn share(&self, gain: f64) -> u64 {
        let min = self.min_rtt.unwrap_or_default();
        let rtt = self.lowest_rtt.unwrap_or(min).clamp(min, min * COMPETING_RTTS);
        self.rate.get().times(gain).bytes_in(rtt)
    }

    /// What is under way only because somebody will look at it late. A queue that is never empty does that as
    /// well, and need not be made longer.
    fn late(&self) -> u64 {
        let rate = self.rate.get();
        let standing = self.lowest_rtt.unwrap_or_default().saturating_sub(self.min_rtt.unwrap_or_default());
        let clumps = self.clumps.largest().min(rate.bytes_in(MAX_HOST_DELAY));
        clumps.saturating_sub(rate.bytes_in(standing)).max(rate.bytes_in(HOST_DELAY))
    }

    fn target(&self) -> u64 {
        let late = self.late();
        late + match self.phase {
            // As much again is what a queue of one line holds. In a LAN the line is mostly what is late.
            Phase::Startup => self.volume(STARTUP_GAIN).max(self.volume(1.0) + 2 * late) - late,
            Phase::Drain => self.volume(1.0),
            Phase::Cruise { .. } if self.competing => self.share(CRUISE_GAIN),
            Phase::Cruise { .. } => self.volume(CRUISE_GAIN),
            Phase::Up { .. } if self.competing => self.share(UP_GAIN),
            Phase::Up { .. } => self.volume(UP_GAIN),
            Phase::Down { .. } => self.volume(DOWN_GAIN),
            Phase::ProbeRtt { .. } => self.volume(PROBE_RTT_GAIN),
        }
    }

    /// Grows at most by what was acknowledged, and shrinks at once.
    fn resize(&mut self, sample: &Sample, app_limited: bool) {
        let grown = if app_limited { self.window } else { self.window + sample.acked };
        let target = self.target();
        let window = match self.phase {
            // A first window that was paced over a round trip shows about half its rate.
            Phase::Startup if sample.delivered < 2 * self.initial_window => grown,
            Phase::Startup => grown.min(target).max(self.window),
            _ => grown.min(target),
        };
        self.window = self.bounded(window.min(self.ceiling));
    }

    fn bounded(&self, window: u64) -> u64 {
        window.clamp(MIN_PACKETS * self.packet, MAX_WINDOW)
    }
}
