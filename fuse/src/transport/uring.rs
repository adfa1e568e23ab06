//! FUSE over io_uring: a ring for each CPU brings its requests and takes their answers in one call.
//!
//! The kernel sends what callers on a CPU ask for to the queue of that CPU, whose thread is bound there and works on
//! it. An answer that is made elsewhere is written into the slot there, and the thread is woken to hand it over.
//! Forgets and interrupts keep coming by the device.
//!
//! *Invariants:* once the kernel was told of rings, every queue registers or the kernel hears of a failure, for it
//! holds all requests back until then; when the mount ends, the threads end, and when one of them breaks, it ends.

use super::system::{Completion, Entry, Ring};
use super::{Device, Reply};
use crate::kernel::abi::{InHeader, OutHeader, RingEntry};
use crate::kernel::init::MAX_PAYLOAD;
use crate::kernel::request::{self, Body, Request};
use crate::serve::Server;
use bytes::Bytes;
use parking_lot::Mutex;
use rustix::event::EventfdFlags;
use rustix::io::Errno;
use rustix::thread::CpuSet;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tracing::{debug, info, warn};
use zerocopy::{FromBytes, IntoBytes};

/// Requests that one CPU may have here at a time; more wait in the kernel. Readers of a distant site wait long, and those
/// who want what is near wait behind them when this is used up.
const MAX_DEPTH: usize = 64;

/// Slots of all CPUs together. Each takes up to [`MAX_PAYLOAD`] and a page, as far as it was ever filled, and the
/// kernel prefers those that it used last: what is used at a time is what is paid for.
const MAX_SLOTS: usize = 1024;

/// How long the kernel may take to give slots back after the end of the mount.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// Slots for each of `online` CPUs; `None` when there are too many of them.
fn depth(online: usize) -> Option<u16> {
    let depth = (MAX_SLOTS / online.max(1)).min(MAX_DEPTH);
    (depth > 0).then_some(depth as u16)
}

/// What the thread of a queue shares with those who answer its requests.
#[derive(Debug)]
struct Queue {
    number: u16,
    /// Requests that may be here at a time.
    depth: u16,
    /// Those of them that wait for others.
    waiting: AtomicUsize,
    answered: Mutex<Answered>,
    /// The thread waits for the kernel and has to be woken.
    asleep: AtomicBool,
    bell: Arc<OwnedFd>,
}

#[derive(Debug, Default)]
struct Answered {
    entries: Vec<Entry>,
    /// The thread is to end, or has.
    closed: bool,
}

impl Queue {
    fn new(number: u16, depth: u16) -> io::Result<Self> {
        let bell = Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (answered, asleep) = (Mutex::default(), AtomicBool::new(false));
        Ok(Self { number, depth, waiting: AtomicUsize::new(0), answered, asleep, bell })
    }

    /// `entry` holds an answer. On the queue's own thread, which is awake, this is all that it takes.
    fn give_back(&self, entry: Entry) {
        let mut answered = self.answered.lock();
        if answered.closed {
            return;
        }
        answered.entries.push(entry);
        drop(answered);
        self.wake();
    }

    fn close(&self) {
        self.answered.lock().closed = true;
        self.wake();
    }

    fn wake(&self) {
        // Pairs with the fence in `Worker::submit`: either the thread sees the entry or we see it asleep.
        fence(Ordering::SeqCst);
        if self.asleep.swap(false, Ordering::SeqCst) {
            // A counter that is full wakes, too.
            let _ = rustix::io::write(&*self.bell, &1u64.to_ne_bytes());
        }
    }
}

/// A request's slot while it is worked on.
pub(super) struct Held {
    entry: Entry,
    queue: Arc<Queue>,
    waits: bool,
}

impl Held {
    /// Whether it may wait for other requests: half of the room is for those.
    pub(super) fn may_wait(&mut self) -> bool {
        let most = usize::from(self.queue.depth / 2);
        let more = |waiting: usize| (waiting < most).then_some(waiting + 1);
        self.waits = self.queue.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok();
        self.waits
    }

    /// Answers the request; `error` is 0 or a negative errno.
    pub(super) fn answer(mut self, unique: u64, error: i32, pieces: &[IoSlice<'_>]) {
        let (length, error) = match fill(self.entry.payload_mut(), pieces) {
            Some(length) => (length, error),
            None => {
                warn!(unique, "an answer is longer than the kernel takes; the request ends with EIO");
                (0, -Errno::IO.raw_os_error())
            }
        };
        let header = self.entry.header_mut();
        let out = OutHeader { length: (size_of::<OutHeader>() + length) as u32, error, unique };
        header.in_out[..size_of::<OutHeader>()].copy_from_slice(out.as_bytes());
        header.entry = RingEntry { payload_size: length as u32, ..header.entry };
        if self.waits {
            self.queue.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        self.queue.give_back(self.entry);
    }
}

/// Puts `pieces` one behind the other and gives their length; `None` when they are longer than there is room.
fn fill(mut room: &mut [u8], pieces: &[IoSlice<'_>]) -> Option<usize> {
    let mut length = 0;
    for piece in pieces {
        let (place, rest) = room.split_at_mut_checked(piece.len())?;
        place.copy_from_slice(piece);
        (room, length) = (rest, length + piece.len());
    }
    Some(length)
}

/// What a queue's thread needs to begin.
#[derive(Clone)]
struct Beginning {
    server: Arc<Server>,
    /// Set when requests of a CPU are served no more, which is the end of the mount.
    ended: watch::Sender<bool>,
}

/// Rings whose threads wait until the kernel has been told of them. Dropped, they are given up.
pub(crate) struct Rings {
    room: usize,
    refused: Arc<AtomicBool>,
    rings: Vec<Prepared>,
}

struct Prepared {
    queue: Arc<Queue>,
    begin: SyncSender<Beginning>,
    thread: JoinHandle<()>,
}

impl Rings {
    /// Sets up a ring for every CPU that the machine may have, as the kernel demands; an error when one cannot be.
    pub(crate) fn prepare(device: &Arc<Device>) -> io::Result<Self> {
        let (possible, online) = (cpus("possible")?, cpus("online")?);
        let too_many = || io::Error::other(format!("{} CPUs need too much memory", online.len()));
        let depth = depth(online.len()).ok_or_else(too_many)?;
        // What may come one day is served, too, if not as well.
        let depth_of = |cpu| if online.contains(&cpu) { depth } else { 1 };
        let refused = Arc::new(AtomicBool::new(false));
        let queues = 0..possible.len() as u16;
        let rings = queues.map(|cpu| Prepared::start(cpu, depth_of(cpu), device, &refused));
        let rings = rings.collect::<io::Result<_>>()?;
        Ok(Self { room: usize::from(depth) * online.len(), refused, rings })
    }

    /// Requests of all CPUs that may be here at a time.
    pub(crate) fn room(&self) -> usize {
        self.room
    }

    /// Becomes true when the kernel refuses them: then requests come by the device. Known when the first has come.
    pub(crate) fn refused(&self) -> Arc<AtomicBool> {
        self.refused.clone()
    }

    /// Registers them, now that the kernel waits for it, and hands what comes to `server`. Sets `ended` if one breaks.
    pub(crate) fn begin(self, server: &Arc<Server>, ended: &watch::Sender<bool>) -> RunningRings {
        let beginning = Beginning { server: server.clone(), ended: ended.clone() };
        debug!(queues = self.rings.len(), room = self.room, "the kernel's requests come over io_uring");
        let start = |prepared: Prepared| {
            // The thread waits for this and nothing else.
            let _ = prepared.begin.send(beginning.clone());
            (prepared.queue, prepared.thread)
        };
        RunningRings(self.rings.into_iter().map(start).collect())
    }
}

impl Prepared {
    fn start(cpu: u16, depth: u16, device: &Arc<Device>, refused: &Arc<AtomicBool>) -> io::Result<Self> {
        let queue = Arc::new(Queue::new(cpu, depth)?);
        let (ready, readiness) = sync_channel(1);
        let (begin, beginning) = sync_channel(1);
        let (own, device, refused) = (queue.clone(), device.clone(), refused.clone());
        // A ring is made on the thread that uses it.
        let run = move || {
            bind_to(cpu);
            match Ring::new(device.file(), cpu, depth.into(), MAX_PAYLOAD as usize, own.bell.clone()) {
                Ok(ring) => {
                    let _ = ready.send(Ok(()));
                    serve(ring, own, &beginning, refused);
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        };
        let thread = thread::Builder::new().name(format!("globalfs-ring-{cpu}")).spawn(run)?;
        readiness.recv().unwrap_or_else(|_| Err(io::Error::other("a ring's thread has ended")))?;
        Ok(Self { queue, begin, thread })
    }
}

/// A CPU that is offline, or not for us, leaves its thread where it is.
fn bind_to(cpu: u16) {
    let mut set = CpuSet::new();
    if usize::from(cpu) < CpuSet::MAX_CPU {
        set.set(usize::from(cpu));
        if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
            debug!(cpu, %error, "a ring's thread is not bound to its CPU");
        }
    }
}

/// The rings of a mount.
pub(crate) struct RunningRings(Vec<(Arc<Queue>, JoinHandle<()>)>);

impl RunningRings {
    /// Returns when all threads have ended, which they do when the kernel has given their slots back, or else soon.
    pub(crate) fn end(self) {
        let deadline = Instant::now() + END_TIMEOUT;
        while self.0.iter().any(|(_, thread)| !thread.is_finished()) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        for (queue, thread) in self.0 {
            queue.close();
            if thread.join().is_err() {
                warn!(queue = queue.number, "the thread of a ring had a bug");
            }
        }
    }
}

fn serve(ring: Ring, queue: Arc<Queue>, beginning: &Receiver<Beginning>, refused: Arc<AtomicBool>) {
    let Ok(Beginning { server, ended }) = beginning.recv() else { return };
    let mut worker = Worker { ring, queue, server, refused, answered: Vec::new() };
    let outcome = worker.ring.register().and_then(|()| worker.run());
    worker.queue.answered.lock().closed = true;
    if let Err(error) = outcome {
        warn!(%error, queue = worker.queue.number, "a ring of the mount broke");
        ended.send_replace(true);
    }
}

/// The thread of one queue.
struct Worker {
    ring: Ring,
    queue: Arc<Queue>,
    server: Arc<Server>,
    refused: Arc<AtomicBool>,
    /// Taken out of the queue, to be handed over.
    answered: Vec<Entry>,
}

impl Worker {
    /// Works until the kernel has taken all slots back, which it does when the mount ends.
    fn run(&mut self) -> io::Result<()> {
        let mut ended = false;
        while !(ended && self.ring.is_idle()) {
            if self.submit()? {
                return Ok(());
            }
            while let Some(completion) = self.ring.next()? {
                match completion {
                    Completion::Woken => {}
                    Completion::Request(entry) => self.take(entry),
                    Completion::Refused(error) => {
                        ended = true;
                        self.note_refusal(&error);
                    }
                }
            }
        }
        Ok(())
    }

    /// Hands answers over and sleeps until something comes; whether the thread is to end.
    fn submit(&mut self) -> io::Result<bool> {
        self.queue.asleep.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let closed = {
            let mut answered = self.queue.answered.lock();
            std::mem::swap(&mut self.answered, &mut answered.entries);
            answered.closed
        };
        self.answered.drain(..).try_for_each(|entry| self.ring.commit(entry))?;
        // What is answered from here on rings the bell.
        let outcome = if closed { Ok(()) } else { self.ring.submit_and_wait() };
        self.queue.asleep.store(false, Ordering::SeqCst);
        outcome.map(|()| closed)
    }

    fn take(&self, entry: Entry) {
        let header = *entry.header();
        let data = entry.payload().get(..header.entry.payload_size as usize).unwrap_or_default();
        // The slot goes with the duty to answer, so what is in it is copied, once.
        let data = Bytes::copy_from_slice(data);
        let Ok((start, _)) = InHeader::read_from_prefix(&header.in_out) else { return };
        let reply = Reply::by_ring(Held { entry, queue: self.queue.clone(), waits: false }, start.unique);
        match request::parse_parts(&start, Body::Apart { argument: &header.argument, data: &data }) {
            Ok(request) => drop(self.server.handle(&Request { buffer: Some(&data), ..request }, reply)),
            Err(error) => warn!(%error, "a request was refused"),
        }
    }

    /// Says once for a mount why its requests come by the device, if it is not that the mount has ended.
    fn note_refusal(&self, error: &io::Error) {
        const ENDS: [Errno; 4] = [Errno::NOTCONN, Errno::CONNABORTED, Errno::NODEV, Errno::CANCELED];
        let is_end = Errno::from_io_error(error).is_some_and(|errno| ENDS.contains(&errno));
        if !is_end && !self.refused.swap(true, Ordering::Relaxed) {
            info!(%error, "requests of the kernel come by /dev/fuse: it refused a ring");
        }
    }
}

/// The CPUs of the machine that are `state`.
fn cpus(state: &str) -> io::Result<Vec<u16>> {
    let list = std::fs::read_to_string(format!("/sys/devices/system/cpu/{state}"))?;
    parse_cpus(&list)
        .ok_or_else(|| io::Error::other(format!("the {state} CPUs are not known: '{}'", list.trim())))
}

/// The CPUs that a list such as `0-3,8` names.
fn parse_cpus(list: &str) -> Option<Vec<u16>> {
    let mut cpus = Vec::new();
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
        cpus.extend(first..=last);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_are_understood() {
        let check =
            |list: &str, want: Option<&[u16]>| assert_eq!(parse_cpus(list).as_deref(), want, "{list}");
        check("0-1\n", Some(&[0, 1]));
        check("0", Some(&[0]));
        check("0-3,8,10-11\n", Some(&[0, 1, 2, 3, 8, 10, 11]));
        for bad in ["", "x", "0-", "-1", "1,,2", "70000"] {
            check(bad, None);
        }
        assert!(!cpus("online").unwrap().is_empty());
        assert!(cpus("of no such state").is_err());
    }

    #[test]
    fn memory_is_bounded_on_machines_of_any_size() {
        for cpus in [1, 2, 15, 16, 17, 256, 1024] {
            let depth = depth(cpus).unwrap();
            let depth = usize::from(depth);
            assert!((1..=MAX_DEPTH).contains(&depth) && depth * cpus <= MAX_SLOTS, "{cpus}");
        }
        assert_eq!((depth(1), depth(1025)), (Some(MAX_DEPTH as u16), None));
    }

    #[test]
    fn answers_are_put_together_if_there_is_room() {
        let check = |pieces: &[&[u8]], want: Option<&[u8]>| {
            let mut room = [0; 8];
            let slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            let length = fill(&mut room, &slices);
            assert_eq!(length.map(|length| &room[..length]), want);
        };
        check(&[], Some(b""));
        check(&[b"abc", b"", b"defgh"], Some(b"abcdefgh"));
        check(&[b"abcd", b"efghi"], None);
    }
}
