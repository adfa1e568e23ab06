//! The self-test of the link: what it is set to against what `ping`, TCP and UDP see of it.
//!
//! TCP is asked for the whole rate only where it can have it: CUBIC does not fill a link that loses.

mod ping;
mod traffic;

pub use ping::{RoundTrips, ping};
pub use traffic::{Datagrams, Transfer, datagrams, tcp};

use crate::model::LinkOptions;
use crate::wan::Wan;
use anyhow::Result;
use std::thread;
use std::time::Duration;

/// The share of the rate that TCP has to reach.
const MIN_RATE_SHARE: f64 = 0.90;

/// More than the rate is wrong; this much more is the error of measuring over a few seconds.
const MAX_RATE_SHARE: f64 = 1.005;

/// How far a round trip may be from its setting on the mean.
const RTT_ERROR_MS: f64 = 0.5;

/// What an unlimited link has to reach: several Gbit/s.
const MIN_UNLIMITED_BITS_PER_S: f64 = 4e9;

/// Headers of TCP with timestamps, which the rate counts and the payload does not.
const TCP_HEADER_BYTES: f64 = 52.0;

/// One line of the self-test.
#[derive(Debug, Clone)]
pub struct Row {
    /// What the link was set to.
    pub link: String,
    /// What was expected.
    pub expected: String,
    /// What was seen.
    pub measured: String,
    /// Whether the two agree.
    pub passed: bool,
}

/// The self-test measures the link and not who else is at work here.
const NICENESS: i32 = -19;

/// Lets the calling thread, and what it starts from now on, run before others where that is granted.
fn prefer_this_thread() {
    let _ = rustix::process::setpriority_process(None, NICENESS);
}

/// All rows, each given to `report` when it is there; says whether all passed. Takes about a minute.
pub fn run(mut report: impl FnMut(&Row)) -> Result<bool> {
    let rows: [&dyn Fn() -> Result<Row>; 15] = [
        &|| round_trip(5, 100),
        &|| round_trip(40, 100),
        &|| round_trip(150, 100),
        &|| rate(100_000_000, 40, Duration::from_secs(3), Duration::from_secs(4)),
        &|| rate(1_000_000_000, 5, Duration::from_secs(2), Duration::from_secs(4)),
        &|| rate(1_000_000_000, 40, Duration::from_secs(3), Duration::from_secs(4)),
        &|| rate(1_000_000_000, 150, Duration::from_secs(8), Duration::from_secs(4)),
        &unlimited,
        &|| loss(0.001, 64_000),
        &|| loss(0.01, 32_000),
        &|| reordering(0.02, 16_000),
        &|| tcp_under_loss(0.001, 20),
        &intact,
        &|| queue(100_000_000, Duration::from_millis(30)),
        &cut,
    ];
    let mut passed = true;
    for row in rows {
        let row = row()?;
        passed &= row.passed;
        report(&row);
    }
    Ok(passed)
}

/// Round trips of an empty link.
pub fn round_trip(rtt_ms: u64, count: u32) -> Result<Row> {
    let wan = Wan::start(LinkOptions { rtt: Duration::from_millis(rtt_ms), ..gigabit() })?;
    let trips = ping(&wan, count, Duration::from_millis(20))?;
    Ok(Row {
        link: format!("{rtt_ms} ms"),
        expected: format!("mean ping {rtt_ms} ms ± {RTT_ERROR_MS}"),
        measured: format!("{:.2} ms, at most {:.2}", trips.mean_ms, trips.max_ms),
        passed: trips.answers == count && (trips.mean_ms - rtt_ms as f64).abs() <= RTT_ERROR_MS,
    })
}

/// One TCP connection fills a link that does not lose.
pub fn rate(bits_per_s: u64, rtt_ms: u64, warm_up: Duration, measured: Duration) -> Result<Row> {
    let options = LinkOptions {
        rtt: Duration::from_millis(rtt_ms),
        rate_bits_per_s: Some(bits_per_s),
        ..LinkOptions::default()
    };
    let payload_share = 1.0 - TCP_HEADER_BYTES / f64::from(options.mtu);
    let transfer = tcp(&Wan::start(options)?, warm_up, measured)?;
    let share = transfer.bits_per_s / payload_share / bits_per_s as f64;
    Ok(Row {
        link: format!("{} Mbit/s, {rtt_ms} ms", bits_per_s / 1_000_000),
        expected: format!("one TCP: {MIN_RATE_SHARE} to 1 of the rate"),
        measured: format!("{share:.3}"),
        passed: transfer.intact && (MIN_RATE_SHARE..=MAX_RATE_SHARE).contains(&share),
    })
}

/// How fast the link itself is.
pub fn unlimited() -> Result<Row> {
    let options = LinkOptions { rtt: Duration::from_micros(200), rate_bits_per_s: None, ..gigabit() };
    let transfer = tcp(&Wan::start(options)?, Duration::from_secs(1), Duration::from_secs(3))?;
    Ok(Row {
        link: "unlimited, 0.2 ms".into(),
        expected: format!("one TCP: at least {:.0} Gbit/s", MIN_UNLIMITED_BITS_PER_S / 1e9),
        measured: format!("{:.1} Gbit/s", transfer.bits_per_s / 1e9),
        passed: transfer.intact && transfer.bits_per_s >= MIN_UNLIMITED_BITS_PER_S,
    })
}

/// The share of datagrams that are lost, where the bound is four standard deviations.
pub fn loss(share: f64, count: u32) -> Result<Row> {
    let wan = Wan::start(LinkOptions { loss: share, ..gigabit() })?;
    let seen = datagrams(&wan, count)?;
    let counted = wan.counters().near_to_far.lost;
    let (expected, measured) = (share * f64::from(count), seen.lost.len() as f64);
    let bound = 4.0 * (expected * (1.0 - share)).sqrt();
    Ok(Row {
        link: format!("{} % loss", share * 100.0),
        expected: format!("UDP: {expected:.0} ± {bound:.0} of {count} lost"),
        measured: format!("{measured:.0}, the link counts {counted}, {} broken", seen.broken),
        passed: (measured - expected).abs() <= bound
            && (seen.lost.len() as u64, seen.broken, seen.overtaken) == (counted, 0, 0),
    })
}

/// TCP falls to what its answer to loss permits: segment / RTT * 1.22 / sqrt(loss) of Mathis et al., "The
/// Macroscopic Behavior of the TCP Congestion Avoidance Algorithm" (1997), which CUBIC keeps to on short links.
pub fn tcp_under_loss(share: f64, rtt_ms: u64) -> Result<Row> {
    let options = LinkOptions { rtt: Duration::from_millis(rtt_ms), loss: share, ..gigabit() };
    let segment_bits = (f64::from(options.mtu) - TCP_HEADER_BYTES) * 8.0;
    let formula = segment_bits / options.rtt.as_secs_f64() * 1.22 / share.sqrt();
    let transfer = tcp(&Wan::start(options)?, Duration::from_secs(6), Duration::from_secs(8))?;
    let ratio = transfer.bits_per_s / formula;
    Ok(Row {
        link: format!("{} % loss, {rtt_ms} ms", share * 100.0),
        expected: format!("one TCP: {:.0} Mbit/s by formula, 0.4 to 2.5 of it", formula / 1e6),
        measured: format!("{ratio:.2}"),
        passed: transfer.intact && (0.4..=2.5).contains(&ratio),
    })
}

/// The share of datagrams that others overtake, where the bound is four standard deviations.
pub fn reordering(share: f64, count: u32) -> Result<Row> {
    let wan = Wan::start(LinkOptions { reorder: share, ..gigabit() })?;
    let seen = datagrams(&wan, count)?;
    let (expected, measured) = (share * f64::from(count), f64::from(seen.overtaken));
    let bound = 4.0 * (expected * (1.0 - share)).sqrt();
    Ok(Row {
        link: format!("{} % reordering", share * 100.0),
        expected: format!("UDP: {expected:.0} ± {bound:.0} of {count} overtaken"),
        measured: format!("{measured:.0}, {} lost", seen.lost.len()),
        passed: (measured - expected).abs() <= bound && seen.lost.is_empty() && seen.broken == 0,
    })
}

/// TCP over a link that does everything a link may do delivers what was sent.
pub fn intact() -> Result<Row> {
    let options = LinkOptions { rtt: Duration::from_millis(5), loss: 0.01, reorder: 0.02, ..gigabit() };
    let wan = Wan::start(options)?;
    let transfer = tcp(&wan, Duration::from_secs(1), Duration::from_secs(1))?;
    let counters = wan.counters().near_to_far;
    Ok(Row {
        link: "1 % loss, 2 % reordering".into(),
        expected: "TCP: all bytes, in order".into(),
        measured: format!("{} bytes, {} packets lost", transfer.bytes, counters.lost),
        passed: transfer.intact && counters.lost > 0 && counters.held_back > 0 && counters.failed == 0,
    })
}

/// A transfer fills the queue, and the queue has an end.
pub fn queue(bits_per_s: u64, wait: Duration) -> Result<Row> {
    let rtt = Duration::from_millis(10);
    let queue_bytes = Some(crate::model::bytes_in(wait, bits_per_s));
    let wan = Wan::start(LinkOptions { rtt, rate_bits_per_s: Some(bits_per_s), queue_bytes, ..gigabit() })?;
    let trips = thread::scope(|scope| {
        let transfer = scope.spawn(|| tcp(&wan, Duration::from_secs(1), Duration::from_secs(4)));
        thread::sleep(Duration::from_secs(2));
        let trips = ping(&wan, 100, Duration::from_millis(20));
        transfer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).and(trips)
    })?;
    let (least_ms, most_ms) = ((rtt + wait / 2).as_millis() as f64, (rtt + wait).as_millis() as f64);
    Ok(Row {
        link: format!("{} Mbit/s, 10 ms, queue {wait:?}", bits_per_s / 1_000_000),
        expected: format!("longest ping under TCP: {least_ms} to {most_ms} ms"),
        measured: format!("{:.1} ms, {} dropped", trips.max_ms, wan.counters().near_to_far.queue_full),
        passed: (least_ms..=most_ms + 2.0 * RTT_ERROR_MS).contains(&trips.max_ms),
    })
}

/// A link that is cut and mended while it is up.
pub fn cut() -> Result<Row> {
    let open = LinkOptions { rtt: Duration::from_millis(5), ..gigabit() };
    let wan = Wan::start(open.clone())?;
    wan.set(LinkOptions { loss: 1.0, ..open.clone() })?;
    let cut = ping(&wan, 10, Duration::from_millis(10))?;
    wan.set(open)?;
    let mended = ping(&wan, 10, Duration::from_millis(10))?;
    Ok(Row {
        link: "cut, then mended".into(),
        expected: "0, then 10 of 10 pings answered".into(),
        measured: format!("{}, then {}", cut.answers, mended.answers),
        passed: cut.answers == 0 && mended.answers == 10,
    })
}

fn gigabit() -> LinkOptions {
    LinkOptions { rtt: Duration::from_millis(5), ..LinkOptions::default() }
}
