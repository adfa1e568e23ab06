//! What the congestion control must reach on paths of many kinds. Shares are of the line's rate, times in
//! round trips where the path is long.

use super::congestion::{Congestion, INITIAL_WINDOW, MAX_WINDOW};
use super::simulation::{Control, Cubic, Path, Reader, World};
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn ours() -> Control {
    beginning_with(INITIAL_WINDOW)
}

fn beginning_with(window: u64) -> Control {
    Control::Ours(Box::new(Congestion::new(1452, window)))
}

/// A path with a queue of `queue` hundredths of what fits on it; at least 100 kB.
fn path(mbit: u64, rtt_ms: u64, loss_ppm: u64, queue: u64) -> Path {
    let volume = mbit * 1_000_000 / 8 * rtt_ms / 1000;
    let queue_bytes = (volume * queue / 100).max(100_000);
    Path { bits_per_second: mbit * 1_000_000, rtt: rtt_ms as u32 * MS, loss_ppm, queue_bytes }
}

fn alone(path: Path) -> World {
    let mut world = World::new(path, 1);
    world.add(Duration::ZERO, ours());
    world
}

/// The share that one connection has once it has started, and the delay that its queue adds at most.
fn check_steady(path: Path, least: f64, longest_queue: Duration) {
    let mut world = alone(path);
    world.run(SECOND.max(12 * path.rtt));
    let share = world.run(3 * SECOND)[0];
    assert!(share >= least, "{path:?}: {share:.3} of the line");
    assert!(world.longest_queue <= longest_queue, "{path:?}: a queue of {:?}", world.longest_queue);
}

#[test]
fn the_line_is_full_whatever_is_lost_at_random() {
    for (loss_ppm, least) in [(0, 0.98), (1_000, 0.98), (10_000, 0.97), (30_000, 0.94)] {
        for queue in [25, 100, 400] {
            check_steady(path(1000, 40, loss_ppm, queue), least, 12 * MS);
        }
    }
}

#[test]
fn the_line_is_full_whatever_its_length_and_rate() {
    check_steady(path(1000, 5, 0, 100), 0.98, 3 * MS);
    check_steady(path(1000, 5, 10_000, 25), 0.97, 3 * MS);
    check_steady(path(1000, 150, 0, 100), 0.97, 40 * MS);
    check_steady(path(1000, 150, 10_000, 25), 0.95, 40 * MS);
    check_steady(path(100, 40, 1_000, 25), 0.98, 12 * MS);
    check_steady(path(10, 40, 0, 100), 0.96, 16 * MS);
    check_steady(path(8000, 1, 0, 400), 0.98, 2 * MS);
}

/// A host whose processors are taken by others for 6 ms of 16, as on a compute node under full load.
#[test]
fn a_busy_host_fills_the_line() {
    for rtt_ms in [5, 40] {
        let mut world = alone(path(1000, rtt_ms, 0, 400));
        world.stalls = Some((10 * MS, 6 * MS));
        world.run(2 * SECOND);
        let share = world.run(3 * SECOND)[0];
        assert!(share > 0.93, "{share:.3} at {rtt_ms} ms");
        assert!(world.longest_queue < 30 * MS, "{:?}", world.longest_queue);
    }
}

/// Bytes that the line could have carried and did not while the connection started, in time of the line.
fn cost_of_start(control: Control, path: Path, window: Duration) -> Duration {
    let mut world = World::new(path, 1);
    world.add(Duration::ZERO, control);
    let carried = window.mul_f64(world.run(window)[0]);
    // What is on the line at the end was sent in time.
    (window - path.rtt / 2).saturating_sub(carried)
}

#[test]
fn a_start_costs_two_round_trips() {
    let long = cost_of_start(ours(), path(1000, 150, 0, 100), 3 * SECOND);
    assert!(long < 340 * MS, "{long:?} on a long line");
    for loss_ppm in [0, 1_000, 10_000] {
        let lossy = path(1000, 40, loss_ppm, 100);
        let cost = cost_of_start(ours(), lossy, SECOND);
        assert!(cost < 90 * MS, "{cost:?} with {loss_ppm} ppm lost");
    }
    let known = cost_of_start(beginning_with(2_500_000), path(1000, 40, 0, 100), SECOND);
    assert!(known < 50 * MS, "{known:?} on a path that is known");
}

/// The first window and twice as much for each round trip fill a queue of one line and do not overflow it.
#[test]
fn the_start_of_a_reader_loses_little() {
    for (rtt_ms, least) in [(40, 0.86), (150, 0.78)] {
        let mut world = alone(path(1000, rtt_ms, 0, 100));
        world.flows[0].reader = Some(Reader { first: 2_000_000, most: 100_000_000 });
        let share = world.run(20 * rtt_ms as u32 * MS)[0];
        assert!(world.flows[0].lost < 10_000, "{} bytes lost at {rtt_ms} ms", world.flows[0].lost);
        assert!(share > least, "{share:.3} at {rtt_ms} ms");
    }
}

/// Of a reader that asks for less than the window there is always less to send than there might be: its start ends
/// all the same, as soon as a queue stands.
#[test]
fn a_reader_that_is_content_with_less_leaves_no_queue() {
    for rtt_ms in [5, 40, 150] {
        let path = path(1000, rtt_ms, 0, 100);
        let mut world = alone(path);
        world.flows[0].reader = Some(Reader { first: 2_000_000, most: 125_000 * rtt_ms * 16 / 10 });
        world.run(20 * path.rtt);
        let share = world.run(10 * path.rtt)[0];
        assert!(share > 0.95, "{share:.3} at {rtt_ms} ms");
        assert!(world.longest_queue < path.rtt / 3 + 2 * MS, "{:?} at {rtt_ms} ms", world.longest_queue);
    }
}

/// A handshake, keep-alives and small requests come before the first long answer, and are no start.
#[test]
fn small_talk_does_not_end_the_start() {
    for rtt_ms in [5, 40, 150] {
        let mut world = alone(path(1000, rtt_ms, 0, 100));
        world.flows[0].pause(Duration::ZERO, 5_000, 300 * MS);
        world.run(3 * SECOND);
        world.flows[0].application = None;
        world.flows[0].pause(world.now, 1 << 40, 60 * SECOND);
        world.run(10 * rtt_ms as u32 * MS);
        let share = world.run(SECOND)[0];
        assert!(share > 0.94, "{share:.3} at {rtt_ms} ms");
    }
}

#[test]
fn a_slow_line_survives_the_first_window() {
    let mut world = alone(path(10, 40, 0, 100));
    world.run(SECOND / 2);
    assert!(
        world.flows[0].lost <= 2_200_000,
        "{} bytes lost, of 50 MB/s for a round trip",
        world.flows[0].lost
    );
    let share = world.run(SECOND)[0];
    assert!(share > 0.9, "{share:.3}");
}

#[test]
fn the_window_is_bounded() {
    let mut world = alone(path(100_000, 100, 0, 1000));
    world.run(SECOND);
    assert!(world.flows[0].largest_window <= MAX_WINDOW);
    let mut congestion = Congestion::new(1452, u64::MAX);
    assert_eq!(congestion.window(), MAX_WINDOW);
    congestion.on_collapse();
    assert!(congestion.window() < 32 * 1452);
}

/// An application that sends little for a while neither forgets the rate nor starts again.
#[test]
fn a_pause_of_the_application_costs_nothing() {
    let mut world = alone(path(1000, 40, 0, 100));
    world.run(2 * SECOND);
    world.flows[0].pause(world.now, 20_000, 10 * MS);
    world.run(5 * SECOND);
    assert!(world.flows[0].window() >= 4_500_000, "{} of 5,000,000 on the line", world.flows[0].window());
    world.flows[0].application = None;
    world.run(80 * MS);
    let share = world.run(SECOND)[0];
    assert!(share > 0.95, "{share:.3}");
}

/// The line becomes narrower and wider below a connection that goes on.
#[test]
fn a_changed_line_is_noticed() {
    let mut world = alone(path(1000, 40, 0, 100));
    world.run(2 * SECOND);
    world.path.bits_per_second /= 4;
    world.run(4 * SECOND);
    let share = world.run(2 * SECOND)[0];
    assert!(share > 0.95 && world.longest_queue < 20 * MS, "{share:.3} and {:?}", world.longest_queue);
    world.path.bits_per_second *= 4;
    world.run(8 * SECOND);
    let share = world.run(2 * SECOND)[0];
    assert!(share > 0.9, "{share:.3}");
}

#[test]
fn two_of_ours_become_equal_and_keep_the_queue_short() {
    for queue in [25, 100, 400] {
        let mut world = alone(path(1000, 40, 0, queue));
        world.add(SECOND, ours());
        world.run(15 * SECOND);
        let shares = world.run(5 * SECOND);
        assert!(shares[0] + shares[1] > 0.98, "{shares:.2?}");
        assert!(shares[0].min(shares[1]) > 0.35, "{shares:.2?} at {queue}");
        assert!(world.longest_queue < 25 * MS, "{:?} at {queue}", world.longest_queue);
    }
}

/// Neither starves, whoever was there first, in a queue of what the line holds. In a quarter of that Cubic
/// cannot fill such a line even alone, and is left what it manages.
#[test]
fn ours_and_cubic_share_a_queue() {
    for ours_first in [true, false] {
        let mut world = World::new(path(1000, 40, 0, 100), 1);
        let begins = if ours_first { [Duration::ZERO, SECOND] } else { [SECOND, Duration::ZERO] };
        world.add(begins[0], ours());
        world.add(begins[1], Control::Cubic(Cubic::new()));
        world.run(5 * SECOND);
        let shares = world.run(15 * SECOND);
        assert!(shares[0] + shares[1] > 0.95, "{shares:.2?}");
        assert!(shares[0] > 0.12 && shares[1] > 0.25, "ours first {ours_first}: {shares:.2?}");
    }
}
