//! The thread of one direction: frames from one device, the model's decision, frames to the other device when
//! they are due. Sleeps until the next frame comes or is due.

use super::counters::Counting;
use super::tun::{MAX_FRAME_BYTES, Tun};
use super::waiting::Waiting;
use crate::model::{Direction, LinkOptions, Packet, Unit, offer};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::num::NonZeroU64;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Frames that are read before the thread looks again what is due.
const MAX_BATCH_FRAMES: usize = 16;

/// How long a thread takes to run after its timer, about: it asks to be woken earlier by that much.
const WAKE_NS: u64 = 40_000;

/// What is delivered later than this counts as late.
const LATE_NS: u64 = 1_000_000;

/// For where no real-time priority is granted.
const NICENESS: i32 = -20;

/// How the threads of a link are told.
#[derive(Debug)]
pub(super) struct Control {
    options: Mutex<LinkOptions>,
    generation: AtomicU64,
    stopping: AtomicBool,
    wake: OwnedFd,
}

impl Control {
    pub(super) fn new(options: LinkOptions) -> Result<Self, Errno> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let (generation, stopping) = (AtomicU64::new(0), AtomicBool::new(false));
        Ok(Self { options: Mutex::new(options), generation, stopping, wake })
    }

    /// Holds for each packet that the link reads from now on.
    pub(super) fn set(&self, options: LinkOptions) {
        *self.options.lock().unwrap_or_else(PoisonError::into_inner) = options;
        self.generation.fetch_add(1, Ordering::Release);
    }

    pub(super) fn options(&self) -> LinkOptions {
        self.options.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the threads; the event stays readable, so each of them sees it.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

/// One direction at work.
pub(super) struct Driver {
    pub(super) from: Arc<Tun>,
    pub(super) to: Arc<Tun>,
    pub(super) control: Arc<Control>,
    pub(super) counting: Arc<Counting>,
    pub(super) link: Direction,
    pub(super) clock: Instant,
}

impl Driver {
    /// Moves frames until the link stops or a device is gone; drops `ready` when it is as exact as it gets.
    pub(super) fn run(mut self, ready: Sender<()>) {
        prefer_this_thread();
        drop(ready);
        let mut waiting = Waiting::default();
        let mut scratch = vec![0; MAX_FRAME_BYTES];
        let (mut generation, mut reached_ns) = (0, 0);
        while !self.control.stopping.load(Ordering::Acquire) {
            self.deliver(&mut waiting, reached_ns);
            reached_ns = self.sleep(&waiting);
            self.follow(&mut generation);
            if self.accept(&mut waiting, &mut scratch).is_err() {
                return;
            }
        }
    }

    fn follow(&mut self, generation: &mut u64) {
        let current = self.control.generation.load(Ordering::Acquire);
        if *generation != current {
            *generation = current;
            self.link.set(self.control.options());
        }
    }

    fn now_ns(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64
    }

    /// Sends what is due now, or was at the time that the thread slept for.
    fn deliver(&self, waiting: &mut Waiting, reached_ns: u64) {
        while let Some((at_ns, frame)) = waiting.pop_due(self.now_ns().max(reached_ns)) {
            self.counting.add_late(self.now_ns().saturating_sub(at_ns) > LATE_NS);
            if self.to.send(&frame).is_err() {
                self.counting.fail();
            }
            waiting.recycle(frame);
        }
    }

    /// Until a frame can be read, one is due, or the link stops. Gives the time that has come: where a frame
    /// is due the timer's, which is nearer to the truth than the clock, on the mean.
    fn sleep(&self, waiting: &Waiting) -> u64 {
        let target_ns = waiting.next_at_ns();
        let timeout = target_ns.map(|at_ns| timespec(at_ns.saturating_sub(self.now_ns() + WAKE_NS)));
        let mut events =
            [PollFd::new(self.from.fd(), PollFlags::IN), PollFd::new(&self.control.wake, PollFlags::IN)];
        // An interrupted or failed wait only means to look earlier.
        match (poll(&mut events, timeout.as_ref()), target_ns) {
            (Ok(0), Some(target_ns)) => target_ns,
            _ => 0,
        }
    }

    fn accept(&mut self, waiting: &mut Waiting, scratch: &mut [u8]) -> Result<(), Errno> {
        let mut units = Vec::new();
        for _ in 0..MAX_BATCH_FRAMES {
            let Some(length) = self.from.receive(scratch)? else { break };
            let Some(packet) = Packet::parse(&scratch[..length]) else { continue };
            let now_ns = self.now_ns();
            self.counting.add(offer(&mut self.link, now_ns, &packet, &mut units));
            units.drain(..).for_each(|unit| self.send_off(waiting, &packet, unit));
        }
        Ok(())
    }

    fn send_off(&self, waiting: &mut Waiting, packet: &Packet, unit: Unit) {
        let mut frame = waiting.buffer(packet.frame_bytes(unit.first, unit.count));
        packet.cut(unit.first, unit.count, &mut frame);
        if let Err(frame) = waiting.push(unit.at_ns, frame) {
            self.counting.fail();
            waiting.recycle(frame);
        }
    }
}

fn timespec(nanoseconds: u64) -> Timespec {
    let (seconds, rest) = (nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000);
    Timespec { tv_sec: seconds.try_into().unwrap_or(i64::MAX), tv_nsec: rest as i64 }
}

/// Exact timers, and precedence over the programs that use the link: their work must not look like jitter.
/// Where it is not granted the link is less exact, which the count of late frames tells.
fn prefer_this_thread() {
    let thread = rustix::thread::gettid();
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    let _ = rustix::process::setpriority_process(Some(thread), NICENESS);
    let thread = thread.as_raw_nonzero().to_string();
    let _ = Command::new("chrt").args(["--fifo", "--pid", "1", &thread]).output();
}
