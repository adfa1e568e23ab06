//! A WAN on one machine: two network namespaces, a TUN device in each, and a thread per direction that
//! moves packets between the devices as [`crate::model`] decides.
//!
//! *Invariant:* what a [`Wan`] made goes with it, with all processes that run inside.

mod arguments;
mod counters;
mod driver;
mod namespace;
mod signals;
mod tun;
mod waiting;

pub use arguments::{LinkArgs, Queue, Rate};
pub use counters::{DirectionCounters, LinkCounters};
pub use namespace::{Namespace, clean};
pub use signals::remove_when_killed;

use crate::model::Direction;
pub use crate::model::LinkOptions;
use anyhow::{Context, Result, ensure};
use counters::Counting;
use driver::{Control, Driver};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tun::Tun;

/// The two ends: the halves of 198.18.0.0/15, which RFC 2544 sets aside for benchmarks.
const NEAR: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);

/// The longest round trip: four times one by way of a geostationary satellite and back.
const MAX_RTT: Duration = Duration::from_secs(2);

/// The least largest packet: what IPv4 asks each host to take.
const MIN_MTU: u16 = 576;

/// The largest packet of a TUN device.
const MAX_MTU: u16 = 65_521;

/// A link that is up, and its two sides.
#[derive(Debug)]
pub struct Wan {
    near: Namespace,
    far: Namespace,
    control: Arc<Control>,
    counting: [Arc<Counting>; 2],
    threads: Vec<JoinHandle<()>>,
}

impl Wan {
    /// Makes both sides and the link. Removes first what killed runs left.
    pub fn start(options: LinkOptions) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        check(&options)?;
        namespace::check_machine()?;
        clean();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let near = Namespace::create(number, "near", NEAR)?;
        let far = Namespace::create(number, "far", FAR)?;
        let tuns = [near.connect(FAR, options.mtu)?, far.connect(NEAR, options.mtu)?].map(Arc::new);
        let control = Arc::new(Control::new(options)?);
        let mut wan = Self { near, far, control, counting: Default::default(), threads: Vec::new() };
        wan.start_threads(&tuns)?;
        Ok(wan)
    }

    /// The side that reads and mounts.
    pub fn near(&self) -> &Namespace {
        &self.near
    }

    /// The side that holds the data.
    pub fn far(&self) -> &Namespace {
        &self.far
    }

    /// Changes the link while it is up; a loss of 1 cuts it. Holds for packets that the link has not taken
    /// yet. The random decisions go on where they were: the seed is not taken again.
    pub fn set(&self, options: LinkOptions) -> Result<()> {
        check(&options)?;
        if options.mtu != self.control.options().mtu {
            self.near.set_mtu(options.mtu)?;
            self.far.set_mtu(options.mtu)?;
        }
        self.control.set(options);
        Ok(())
    }

    /// What crossed the link so far and what did not.
    pub fn counters(&self) -> LinkCounters {
        let [near_to_far, far_to_near] = self.counting.each_ref().map(|counting| counting.read());
        LinkCounters { near_to_far, far_to_near }
    }

    fn start_threads(&mut self, tuns: &[Arc<Tun>; 2]) -> Result<()> {
        let clock = Instant::now();
        let (ready, all_ready) = mpsc::channel();
        for (direction, counting) in self.counting.iter().enumerate() {
            let driver = Driver {
                from: tuns[direction].clone(),
                to: tuns[1 - direction].clone(),
                control: self.control.clone(),
                counting: counting.clone(),
                link: Direction::new(self.control.options(), direction as u64),
                clock,
            };
            let thread = std::thread::Builder::new().name(format!("wan-{direction}"));
            let ready = ready.clone();
            let thread = thread.spawn(|| driver.run(ready)).context("cannot start a thread of the link")?;
            self.threads.push(thread);
        }
        drop(ready);
        // Ends when each thread has dropped its sender; nothing is ever sent.
        all_ready.iter().for_each(drop);
        Ok(())
    }
}

impl Drop for Wan {
    /// The link is the last to go, so that what runs inside can end in peace.
    fn drop(&mut self) {
        namespace::end_processes(&[self.near.name(), self.far.name()]);
        self.control.stop();
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

fn check(options: &LinkOptions) -> Result<()> {
    ensure!(options.rtt <= MAX_RTT, "a round trip of {:?}: at most {MAX_RTT:?}", options.rtt);
    ensure!(options.rate_bits_per_s != Some(0), "a rate of 0; a loss of 100 % cuts the link");
    for (name, share) in [("loss", options.loss), ("reordering", options.reorder)] {
        ensure!((0.0..=1.0).contains(&share), "a {name} of {share}: between 0 and 1");
    }
    ensure!((MIN_MTU..=MAX_MTU).contains(&options.mtu), "an MTU of {}: {MIN_MTU} to {MAX_MTU}", options.mtu);
    Ok(())
}
