//! How fast a path delivers: what was acknowledged between a packet's departure and its acknowledgement, by
//! the time that took. After draft-ietf-ccwg-bbr, section 4.1 (delivery rate samples).
//!
//! *Invariants:* a sample never exceeds the rate at which its packets were sent; one that was taken while
//! the application had nothing to send says so; memory is bounded by [`MAX_DEPARTURES`].

use super::rate::Rate;
use std::collections::VecDeque;
use std::time::Duration;

/// Departures that are remembered: 300 MB in flight, as each is a burst of some 20 packets. Beyond it
/// packets are counted to an earlier departure, which only makes the sample lower.
const MAX_DEPARTURES: usize = 10_000;

/// What was known when a burst of packets left.
#[derive(Debug, Clone, Copy)]
struct Departure {
    at: Duration,
    delivered: u64,
    delivered_at: Duration,
    first_sent: Duration,
    app_limited: bool,
}

/// What one batch of acknowledgements tells.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Bytes that were acknowledged.
    pub(crate) acked: u64,
    /// Bytes delivered on the path so far.
    pub(crate) delivered: u64,
    /// The same when the newest packet of this batch was sent.
    pub(crate) delivered_before: u64,
    /// From the departure of the newest packet until now.
    pub(crate) rtt: Duration,
    /// Delivered per time since its departure.
    pub(crate) rate: Rate,
    /// The path could have done more.
    pub(crate) app_limited: bool,
}

/// Watches packets leave and arrive.
#[derive(Debug, Clone, Default)]
pub(crate) struct Delivery {
    departures: VecDeque<Departure>,
    delivered: u64,
    delivered_at: Duration,
    /// When the newest packet left that the last sample was taken from.
    first_sent: Duration,
    in_flight: u64,
    /// Samples are application limited until more than this is delivered.
    app_limited_until: Option<u64>,
    acked: u64,
    newest: Option<Departure>,
}

impl Delivery {
    /// `bytes` left.
    pub(crate) fn on_sent(&mut self, now: Duration, bytes: u64) {
        if self.in_flight == 0 {
            (self.first_sent, self.delivered_at) = (now, now);
        }
        self.in_flight += bytes;
        let known = self.departures.back().is_some_and(|last| last.at >= now);
        if !known && self.departures.len() < MAX_DEPARTURES {
            self.departures.push_back(Departure {
                at: now,
                delivered: self.delivered,
                delivered_at: self.delivered_at,
                first_sent: self.first_sent,
                app_limited: self.app_limited_until.is_some(),
            });
        }
    }

    /// `bytes` that left at `sent` have arrived.
    pub(crate) fn on_acked(&mut self, sent: Duration, bytes: u64) {
        self.delivered += bytes;
        self.acked += bytes;
        let later = self.departures.partition_point(|departure| departure.at <= sent);
        let departure = later.checked_sub(1).map(|at| self.departures[at]);
        if let Some(departure) = departure
            && self.newest.is_none_or(|newest| departure.at > newest.at)
        {
            self.newest = Some(departure);
        }
    }

    /// Nothing of `bytes` will arrive.
    pub(crate) fn on_lost(&mut self, bytes: u64) {
        self.in_flight = self.in_flight.saturating_sub(bytes);
    }

    /// A batch of acknowledgements is complete, and `in_flight` bytes are left. `app_limited` when there was
    /// nothing to send before it came.
    pub(crate) fn on_batch(&mut self, now: Duration, in_flight: u64, app_limited: bool) -> Option<Sample> {
        self.in_flight = in_flight;
        let acked = std::mem::take(&mut self.acked);
        let newest = self.newest.take();
        if app_limited {
            self.app_limited_until = Some(self.delivered + in_flight);
        }
        self.app_limited_until = self.app_limited_until.filter(|until| self.delivered <= *until);
        if acked > 0 {
            self.delivered_at = now;
        }
        let departure = newest?;
        self.first_sent = departure.at;
        let rtt = now.saturating_sub(departure.at);
        self.forget(departure.at.saturating_sub(rtt));
        let receiving = now.saturating_sub(departure.delivered_at);
        let sending = departure.at.saturating_sub(departure.first_sent);
        Some(Sample {
            acked,
            delivered: self.delivered,
            delivered_before: departure.delivered,
            rtt,
            rate: Rate::of(self.delivered - departure.delivered, receiving.max(sending)),
            app_limited: departure.app_limited,
        })
    }

    /// Drops departures before `time`: what is still acknowledged of them comes too late to tell anything.
    fn forget(&mut self, time: Duration) {
        while self.departures.front().is_some_and(|departure| departure.at < time) {
            self.departures.pop_front();
        }
    }

    /// Bytes delivered so far.
    pub(crate) fn delivered(&self) -> u64 {
        self.delivered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// Sends 1,000 bytes each ms for 30 ms over 10 ms; the first sample comes at 10 ms.
    fn steady(app_limited: bool) -> Vec<Sample> {
        let mut delivery = Delivery::default();
        let mut samples = Vec::new();
        for now in 0..30 {
            if now >= 10 {
                delivery.on_acked(ms(now - 10), 1000);
                samples.extend(delivery.on_batch(ms(now), 9000, app_limited));
            }
            delivery.on_sent(ms(now), 1000);
        }
        samples
    }

    #[test]
    fn a_steady_flow_has_its_rate() {
        let samples = steady(false);
        assert_eq!(samples.len(), 20);
        let last = samples.last().unwrap();
        assert_eq!((last.rtt, last.acked, last.delivered), (ms(10), 1000, 20_000));
        assert!(!last.app_limited);
        let rate = last.rate.bytes_in(Duration::from_secs(1));
        assert!((900_000..=1_000_000).contains(&rate), "{rate}");
    }

    #[test]
    fn acknowledgements_that_come_all_at_once_do_not_raise_the_rate() {
        let mut delivery = Delivery::default();
        (0..10).for_each(|now| delivery.on_sent(ms(now), 1000));
        (0..10).for_each(|sent| delivery.on_acked(ms(sent), 1000));
        let sample = delivery.on_batch(ms(10), 0, false).unwrap();
        assert!(sample.rate.bytes_in(Duration::from_secs(1)) <= 1_200_000);
    }

    #[test]
    fn samples_tell_that_the_application_was_the_limit() {
        let mut delivery = Delivery::default();
        let mut sample = |sent: u64, in_flight: u64, app_limited: bool| {
            delivery.on_sent(ms(sent), 1000);
            delivery.on_acked(ms(sent), 1000);
            delivery.on_batch(ms(sent + 10), in_flight, app_limited).unwrap().app_limited
        };
        assert!(!sample(0, 0, true), "nobody knew when it was sent");
        assert!(sample(11, 0, true), "also when nothing was in flight");
        assert!(sample(22, 0, false));
        assert!(!sample(33, 0, false));
    }

    #[test]
    fn idle_time_does_not_lower_the_rate() {
        let mut delivery = Delivery::default();
        delivery.on_sent(ms(0), 1000);
        delivery.on_acked(ms(0), 1000);
        delivery.on_batch(ms(10), 0, false);
        delivery.on_sent(ms(5000), 1000);
        delivery.on_acked(ms(5000), 1000);
        let sample = delivery.on_batch(ms(5010), 0, false).unwrap();
        assert_eq!(sample.rate, Rate::of(1000, ms(10)));
    }

    #[test]
    fn memory_is_bounded() {
        let mut delivery = Delivery::default();
        (0..2 * MAX_DEPARTURES as u64).for_each(|now| delivery.on_sent(ms(now), 1000));
        assert_eq!(delivery.departures.len(), MAX_DEPARTURES);
        delivery.on_acked(ms(MAX_DEPARTURES as u64 * 2), 1000);
        assert!(delivery.on_batch(ms(MAX_DEPARTURES as u64 * 2 + 10), 0, false).is_some());
    }
}
