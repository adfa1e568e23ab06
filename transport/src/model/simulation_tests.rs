//! What the congestion control must reach on paths of many kinds.

use super::congestion::{Congestion, INITIAL_WINDOW};
use super::simulation::{Control, Cubic, Path, World};
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn ours() -> Control {
    Control::Ours(Congestion::new(1452, INITIAL_WINDOW))
}

/// A path with a queue of `queue_bdp` hundredths of what fits on it.
fn path(mbit: u64, rtt_ms: u64, loss_ppm: u64, queue_bdp: u64) -> Path {
    let volume = mbit * 1_000_000 / 8 * rtt_ms / 1000;
    let queue_bytes = (volume * queue_bdp / 100).max(100_000);
    Path { bits_per_second: mbit * 1_000_000, rtt: rtt_ms as u32 * MS, loss_ppm, queue_bytes }
}

#[test]
fn explore() {
    for (mbit, rtt) in [(1000, 5), (10, 40)] {
        for loss in [0, 10_000] {
            for queue in [25, 100] {
                let mut world = World::new(path(mbit, rtt, loss, queue), 1);
                world.add(Duration::ZERO, ours());
                let start = (0..10).map(|_| world.run(rtt as u32 * MS)[0]).map(|x| format!("{x:.2}")).collect::<Vec<_>>().join(" ");
                let q = world.longest_queue;
                let start_lost = world.flows[0].lost;
                let s = world.run(SECOND)[0];
                let mut qs = vec![];
                let mut rs = vec![];
                for _ in 0..3 { rs.push(format!("{:.3}", world.run(SECOND)[0])); qs.push(world.longest_queue.as_micros() as f64/1000.0); }
                println!("{mbit} {rtt}ms loss {loss} queue {queue}: start {start} lost {start_lost} q {q:?}; first {s:.3} then {rs:?} q {qs:?} lost {} win {}", world.flows[0].lost, world.flows[0].window());
            }
        }
    }
}

#[test]
fn explore_sharing() {
    for queue in [25, 100, 200, 400] {
        let mut world = World::new(path(1000, 40, 0, queue), 1);
        world.add(Duration::ZERO, ours());
        world.add(SECOND, ours());
        world.run(SECOND);
        for _ in 0..4 { println!("two of ours {queue}: {:.2?} {:?}", world.run(5*SECOND), world.longest_queue); }
        let mut world = World::new(path(1000, 40, 0, queue), 1);
        world.add(Duration::ZERO, ours());
        world.add(SECOND, Control::Cubic(Cubic::new()));
        world.run(SECOND);
        for _ in 0..4 { println!("cubic joins {queue}: {:.2?} {:?}", world.run(5*SECOND), world.longest_queue); }
        let mut world = World::new(path(1000, 40, 0, queue), 1);
        world.add(Duration::ZERO, Control::Cubic(Cubic::new()));
        world.add(SECOND, ours());
        world.run(SECOND);
        for _ in 0..4 { println!("we join cubic {queue}: {:.2?} {:?}", world.run(5*SECOND), world.longest_queue); }
    }
}
