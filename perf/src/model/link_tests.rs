//! What a link promises, for any packets at any times.

use super::link::{Direction, REORDER_HOLD_NS, Verdict};
use super::options::{LinkOptions, bytes_in, transmit_ns};
use proptest::prelude::*;
use std::time::Duration;

/// Packets as (nanoseconds since the one before, bytes with headers).
fn packets() -> impl Strategy<Value = Vec<(u64, u32)>> {
    prop::collection::vec((0..2_000_000_u64, 28..=9000_u32), 1..200)
}

fn options() -> impl Strategy<Value = LinkOptions> {
    let rate = prop::option::of(1_000_000..10_000_000_000_u64);
    let queue = prop::option::of(0..4_000_000_u64);
    (0..300_u64, rate, 0.0..0.5, queue, any::<u64>()).prop_map(
        |(rtt_ms, rate_bits_per_s, loss, queue, seed)| {
            let rtt = Duration::from_millis(rtt_ms);
            LinkOptions { rtt, rate_bits_per_s, loss, queue_bytes: queue, seed, ..LinkOptions::default() }
        },
    )
}

/// What becomes of each packet, as (when it came, bytes, verdict).
fn offer_all(link: &mut Direction, packets: &[(u64, u32)]) -> Vec<(u64, u32, Verdict)> {
    let mut now_ns = 1_000;
    let offer = |&(pause_ns, bytes): &(u64, u32)| {
        now_ns += pause_ns;
        (now_ns, bytes, link.offer(now_ns, bytes))
    };
    packets.iter().map(offer).collect()
}

fn arrival_ns(verdict: Verdict) -> Option<u64> {
    match verdict {
        Verdict::Arrives { at_ns, .. } => Some(at_ns),
        _ => None,
    }
}

proptest! {
    #[test]
    fn the_rate_is_never_passed_between_any_two_arrivals(options in options(), packets in packets()) {
        let Some(rate) = options.rate_bits_per_s else { return Ok(()) };
        let offered = offer_all(&mut Direction::new(options, 0), &packets);
        let arrived: Vec<_> =
            offered.iter().filter_map(|(_, bytes, verdict)| Some((arrival_ns(*verdict)?, *bytes))).collect();
        for (first, (start_ns, _)) in arrived.iter().enumerate() {
            let mut bytes = 0;
            for (at_ns, more) in &arrived[first + 1..] {
                bytes += u64::from(*more);
                let may = u128::from(at_ns - start_ns) * u128::from(rate);
                prop_assert!(u128::from(bytes) * 8_000_000_000 <= may);
            }
        }
    }

    #[test]
    fn nothing_overtakes_unless_held_back_also_when_the_link_gets_shorter(
        before in options(), after in options(), packets in packets(),
    ) {
        let mut link = Direction::new(before, 0);
        let mut offered = offer_all(&mut link, &packets);
        link.set(after);
        let start_ns = offered.last().map_or(0, |(now_ns, ..)| *now_ns);
        let later = packets.iter().scan(start_ns, |now_ns, (pause_ns, bytes)| {
            *now_ns += pause_ns;
            Some((*now_ns, *bytes, link.offer(*now_ns, *bytes)))
        });
        offered.extend(later);
        let arrivals: Vec<u64> = offered.iter().filter_map(|(_, _, verdict)| arrival_ns(*verdict)).collect();
        prop_assert!(arrivals.is_sorted());
    }

    #[test]
    fn a_packet_waits_no_longer_than_the_queue_is_long(options in options(), packets in packets()) {
        let (one_way_ns, longest_ns) = (options.one_way_ns(), options.max_wait().as_nanos() as u64);
        let rate = options.rate_bits_per_s;
        for (now_ns, bytes, verdict) in offer_all(&mut Direction::new(options, 0), &packets) {
            let own_ns = rate.map_or(0, |rate| transmit_ns(bytes.into(), rate));
            let Some(at_ns) = arrival_ns(verdict) else { continue };
            prop_assert!(at_ns >= now_ns + one_way_ns + own_ns);
            prop_assert!(at_ns <= now_ns + one_way_ns + own_ns + longest_ns);
        }
    }

    #[test]
    fn a_free_link_takes_each_packet(mut options in options(), bytes in 28..=9000_u32) {
        options.loss = 0.0;
        let own_ns = options.rate_bits_per_s.map_or(0, |rate| transmit_ns(bytes.into(), rate));
        let at_ns = 5_000 + options.one_way_ns() + own_ns;
        let verdict = Direction::new(options, 0).offer(5_000, bytes);
        prop_assert_eq!(verdict, Verdict::Arrives { at_ns, held_back: false });
    }

    #[test]
    fn which_packets_are_lost_follows_from_the_seed_and_their_number(
        options in options(), packets in packets(), others in packets(), reorder in 0.0..0.5,
    ) {
        let count = packets.len().min(others.len());
        let lost = |options: LinkOptions, packets: &[(u64, u32)]| -> Vec<bool> {
            let options = LinkOptions { queue_bytes: Some(u64::MAX), ..options };
            let offered = offer_all(&mut Direction::new(options, 0), packets);
            offered.iter().map(|(_, _, verdict)| *verdict == Verdict::Lost).collect()
        };
        let other = LinkOptions { rate_bits_per_s: None, rtt: Duration::ZERO, reorder, ..options.clone() };
        prop_assert_eq!(lost(options, &packets[..count]), lost(other, &others[..count]));
    }
}

#[test]
fn shares_are_as_set_and_directions_differ() {
    let options = LinkOptions { loss: 0.01, reorder: 0.02, rate_bits_per_s: None, ..LinkOptions::default() };
    let verdicts = |stream| -> Vec<Verdict> {
        let mut link = Direction::new(options.clone(), stream);
        (0..1_000_000).map(|now_ns| link.offer(now_ns, 1500)).collect()
    };
    let there = verdicts(0);
    let lost = there.iter().filter(|verdict| **verdict == Verdict::Lost).count();
    let held =
        there.iter().filter(|verdict| matches!(verdict, Verdict::Arrives { held_back: true, .. })).count();
    assert!((9_600..10_400).contains(&lost), "{lost}");
    assert!((19_200..20_400).contains(&held), "{held}");
    assert_ne!(there, verdicts(1));
}

#[test]
fn a_loss_of_one_cuts_the_link_and_of_zero_spares_all() {
    let lost = |loss: f64| {
        let mut link = Direction::new(LinkOptions { loss, ..LinkOptions::default() }, 0);
        (0..10_000_u64).filter(|n| link.offer(n * 1_000_000, 1500) == Verdict::Lost).count()
    };
    assert_eq!((lost(0.0), lost(1.0)), (0, 10_000));
}

#[test]
fn what_is_held_back_comes_later_and_delays_nobody() {
    let options = LinkOptions { rate_bits_per_s: None, ..LinkOptions::default() };
    let mut link = Direction::new(LinkOptions { reorder: 1.0, ..options.clone() }, 0);
    let at_ns = options.one_way_ns() + REORDER_HOLD_NS;
    assert_eq!(link.offer(0, 1500), Verdict::Arrives { at_ns, held_back: true });
    link.set(options.clone());
    let at_ns = options.one_way_ns() + 1;
    assert_eq!(link.offer(1, 1500), Verdict::Arrives { at_ns, held_back: false });
}

#[test]
fn the_default_queue_is_a_round_trip_at_the_rate() {
    let options = LinkOptions::default();
    assert_eq!(options.queue_limit_bytes(), 5_000_000);
    assert_eq!(options.queue_limit_bytes(), bytes_in(options.rtt, 1_000_000_000));
    assert_eq!(options.max_wait(), options.rtt);
    let short = LinkOptions { rtt: Duration::from_micros(200), ..options };
    assert_eq!(short.queue_limit_bytes(), super::MIN_QUEUE_BYTES);
}

#[test]
fn a_burst_fills_the_queue_and_the_rest_is_dropped() {
    let options = LinkOptions { queue_bytes: Some(15_000), ..LinkOptions::default() };
    let mut link = Direction::new(options, 0);
    let taken = (0..100).filter(|_| arrival_ns(link.offer(0, 1500)).is_some()).count();
    assert_eq!(taken, 10);
}
