//! A thread that owns one ring: takes operations from its inbox, submits them in batches, answers what
//! completes, and ends when its inbox is closed and nothing is in flight.
//!
//! *Invariants:* an operation stays in [`InFlight`] from before its submission until its completion; if the
//! worker ends early, by error or panic, what is in flight is answered with an error and its memory leaked.

use super::operation::{Operation, Reply, Work};
use super::{Bell, MAX_IN_FLIGHT};
use crossbeam_channel::{Receiver, Sender, TryRecvError};
use io_uring::{IoUring, opcode, squeue, types};
use rustix::fs::MemfdFlags;
use std::fs::File;
use std::io;
use std::io::Read as _;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;
use tokio::sync::oneshot;

/// Submission slots: every operation has at most one entry at a time, and one is for the wake-up.
const ENTRIES: u32 = (MAX_IN_FLIGHT + 1).next_power_of_two() as u32;

/// The tag of the wake-up's completion; operations have their slot's number.
const WAKE_UP: u64 = u64::MAX;

/// `POLLIN` of poll(2).
const POLL_IN: u32 = 0x001;

/// How often in a row the kernel may be too busy for a submission before the worker gives up.
const MAX_BUSY: u32 = 1000;

/// The pause after each of these.
const BUSY_PAUSE: Duration = Duration::from_millis(1);

/// What the probe writes and reads back.
const PROBE: &[u8] = b"globalfs";

/// The body of a worker thread: tells through `started` whether the ring works, then serves.
pub(super) fn run(make: impl FnOnce() -> io::Result<Worker>, started: Sender<io::Result<()>>) {
    let worker = make().and_then(|mut worker| worker.probe().map(|()| worker));
    let (outcome, worker) = match worker {
        Ok(worker) => (Ok(()), Some(worker)),
        Err(error) => (Err(error), None),
    };
    let _ = started.send(outcome);
    if let Some(Err(error)) = worker.map(Worker::serve) {
        tracing::error!(%error, "an io_uring worker failed; its requests end in errors");
    }
}

/// One ring and what is in flight on it.
pub(super) struct Worker {
    ring: IoUring,
    inbox: Receiver<Operation>,
    bell: Arc<Bell>,
    listener: UnixStream,
    in_flight: InFlight,
    /// Nobody can submit any more.
    closed: bool,
    busy: u32,
}

impl Worker {
    /// Sets up a ring; to be called on the thread that will use it.
    pub(super) fn new(inbox: Receiver<Operation>, bell: Arc<Bell>, listener: UnixStream) -> io::Result<Self> {
        let ring = set_up_ring()?;
        let in_flight = InFlight::default();
        Ok(Self { ring, inbox, bell, listener, in_flight, closed: false, busy: 0 })
    }

    /// Writes and reads a file in memory through the ring: set-up alone does not prove that the kernel
    /// has, and permits, the operations.
    fn probe(&mut self) -> io::Result<()> {
        let file = Arc::new(File::from(rustix::fs::memfd_create("globalfs-probe", MemfdFlags::CLOEXEC)?));
        self.run_alone(&file, Work::Write(PROBE.into()))?;
        let back = self.run_alone(&file, Work::read(PROBE.len())?)?;
        if back == PROBE { Ok(()) } else { Err(io::Error::other("io_uring reads back other bytes")) }
    }

    fn run_alone(&mut self, file: &Arc<File>, work: Work) -> io::Result<bytes::Bytes> {
        let (sender, mut answer) = oneshot::channel();
        self.start(Operation::new(file.clone(), 0, work, Reply { sender, _permit: None }))?;
        while !self.in_flight.is_empty() {
            self.enter(1)?;
            self.reap()?;
        }
        answer.try_recv().unwrap_or_else(|_| Err(super::worker_ended()))
    }

    fn serve(mut self) -> io::Result<()> {
        self.listen()?;
        loop {
            self.take_new()?;
            if self.closed && self.in_flight.is_empty() {
                return Ok(());
            }
            self.submit()?;
            self.reap()?;
        }
    }

    fn take_new(&mut self) -> io::Result<()> {
        loop {
            match self.inbox.try_recv() {
                Ok(operation) if operation.is_pointless() => {}
                Ok(operation) => self.start(operation)?,
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => {
                    self.closed = true;
                    return Ok(());
                }
            }
        }
    }

    /// Submits what was pushed, and sleeps until something completes unless new operations came meanwhile.
    fn submit(&mut self) -> io::Result<()> {
        self.bell.asleep.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let outcome = self.enter(usize::from(self.inbox.is_empty()));
        self.bell.asleep.store(false, Ordering::SeqCst);
        outcome
    }

    fn enter(&mut self, wait_for: usize) -> io::Result<()> {
        match self.ring.submit_and_wait(wait_for) {
            Ok(_) => self.busy = 0,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_busy(&error) && self.busy < MAX_BUSY => {
                self.busy += 1;
                std::thread::sleep(BUSY_PAUSE);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn reap(&mut self) -> io::Result<()> {
        while let Some(completion) = { self.ring.completion().next() } {
            match completion.user_data() {
                WAKE_UP => self.listen()?,
                slot => self.complete(slot as usize, completion.result())?,
            }
        }
        Ok(())
    }

    fn start(&mut self, operation: Operation) -> io::Result<()> {
        let slot = self.in_flight.insert(operation);
        let entry = self.in_flight.entry(slot);
        self.push(entry)
    }

    fn complete(&mut self, slot: usize, result: i32) -> io::Result<()> {
        // SAFETY: the kernel has just reported `result` for the entry with this slot's number, and a slot
        // has one entry at a time.
        let outcome = unsafe { self.in_flight.get(slot).advance(result) };
        match outcome {
            Some(outcome) => self.in_flight.remove(slot).answer(outcome),
            None => {
                let entry = self.in_flight.entry(slot);
                self.push(entry)?;
            }
        }
        Ok(())
    }

    /// Swallows the wake-ups so far and asks for the next. A poll needs no memory that outlives us.
    fn listen(&mut self) -> io::Result<()> {
        while matches!((&self.listener).read(&mut [0; 64]), Ok(n) if n > 0) {}
        let entry = opcode::PollAdd::new(types::Fd(self.listener.as_raw_fd()), POLL_IN).build();
        self.push(entry.user_data(WAKE_UP))
    }

    fn push(&mut self, entry: squeue::Entry) -> io::Result<()> {
        // SAFETY: entries are made here for operations that stay in `in_flight`, with their file and
        // memory, until completion, or for a poll, which has neither.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.map_err(|_| io::Error::other("the submission queue has room for all that may be in flight"))
    }
}

/// Operations that the kernel may be working on, by slot.
#[derive(Default)]
struct InFlight {
    slots: Vec<Option<Operation>>,
    free: Vec<usize>,
}

impl InFlight {
    fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    fn insert(&mut self, operation: Operation) -> usize {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(operation);
        slot
    }

    fn get(&mut self, slot: usize) -> &mut Operation {
        self.slots[slot].as_mut().expect("the kernel completes what is in flight")
    }

    fn entry(&mut self, slot: usize) -> squeue::Entry {
        self.get(slot).entry().user_data(slot as u64)
    }

    fn remove(&mut self, slot: usize) -> Operation {
        let operation = self.slots[slot].take().expect("the kernel completes what is in flight");
        self.free.push(slot);
        operation
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.slots.drain(..).flatten().for_each(Operation::abandon);
    }
}

/// A ring with the cheapest way of completion that this kernel knows: deferred (Linux 6.1), cooperative
/// (5.19), plain.
fn set_up_ring() -> io::Result<IoUring> {
    let mut deferred = IoUring::builder();
    deferred.setup_single_issuer().setup_defer_taskrun().setup_coop_taskrun();
    let mut cooperative = IoUring::builder();
    cooperative.setup_coop_taskrun();
    deferred
        .build(ENTRIES)
        .or_else(|error| if is_unknown(&error) { cooperative.build(ENTRIES) } else { Err(error) })
        .or_else(|error| if is_unknown(&error) { IoUring::new(ENTRIES) } else { Err(error) })
}

fn is_unknown(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidInput
}

fn is_busy(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ResourceBusy)
}
