//! The io_uring engine: threads that each own one ring, fed over a channel, answering through oneshots.
//! The only place of this crate with `unsafe`.
//!
//! *Invariants:* the memory and the file of an operation belong to the operation until the kernel has
//! completed it, also when nobody waits for the answer any more; every operation is answered, with an
//! error if its worker has ended; at most [`MAX_IN_FLIGHT`] operations are queued or running per worker.

mod operation;
mod worker;

use bytes::Bytes;
use crossbeam_channel::{Sender, bounded, unbounded};
use operation::{Operation, Reply, Work};
use std::fs::File;
use std::io;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use tokio::sync::{Semaphore, oneshot};
use worker::Worker;

/// Operations that one worker has queued or running; who asks for more waits.
pub(crate) const MAX_IN_FLIGHT: usize = 128;

/// Worker threads of one engine.
pub(crate) const MAX_WORKERS: usize = 16;

/// A running set of workers. Dropping it lets them finish what is in flight and end.
#[derive(Debug)]
pub(crate) struct Engine {
    workers: Box<[Inlet]>,
    next: AtomicUsize,
}

impl Engine {
    /// Starts `workers` threads, each of which has proven with a real write and read that its ring works.
    pub(crate) fn start(workers: usize) -> io::Result<Self> {
        let workers =
            (0..workers.clamp(1, MAX_WORKERS)).map(|_| Inlet::start()).collect::<io::Result<_>>()?;
        Ok(Self { workers, next: AtomicUsize::new(0) })
    }

    /// Reads at `offset` until `length` bytes are there or the file ends.
    pub(crate) async fn read(&self, file: &Arc<File>, offset: u64, length: usize) -> io::Result<Bytes> {
        if length == 0 {
            return Ok(Bytes::new());
        }
        self.submit(file, offset, Work::read(length)?).await
    }

    /// Returns when the file's content is on stable storage.
    pub(crate) async fn sync(&self, file: &Arc<File>) -> io::Result<()> {
        self.submit(file, 0, Work::Sync).await.map(drop)
    }

    async fn submit(&self, file: &Arc<File>, offset: u64, work: Work) -> io::Result<Bytes> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        self.workers[turn % self.workers.len()].submit(file.clone(), offset, work).await
    }
}

/// What a worker and those who submit to it share to wake it up.
#[derive(Debug)]
struct Bell {
    asleep: AtomicBool,
    socket: UnixStream,
}

impl Bell {
    /// Wakes the worker if it sleeps. A full socket means that it is being woken already.
    fn ring_if_asleep(&self) {
        // Pairs with the fence in `Worker::submit`: either the worker sees the message or we see it asleep.
        fence(Ordering::SeqCst);
        if self.asleep.swap(false, Ordering::SeqCst) {
            self.ring();
        }
    }

    fn ring(&self) {
        let _ = (&self.socket).write(&[1]);
    }
}

/// Where operations enter one worker.
#[derive(Debug)]
struct Inlet {
    /// `None` only while being dropped.
    queue: Option<Sender<Operation>>,
    bell: Arc<Bell>,
    room: Arc<Semaphore>,
}

impl Inlet {
    fn start() -> io::Result<Self> {
        let (socket, listener) = UnixStream::pair()?;
        socket.set_nonblocking(true)?;
        listener.set_nonblocking(true)?;
        let bell = Arc::new(Bell { asleep: AtomicBool::new(false), socket });
        // The permits bound it. A channel bounded by itself would keep what is queued, unanswered, when the
        // worker ends; this kind drops it.
        let (queue, inbox) = unbounded();
        let (started, start) = bounded(1);
        let worker_bell = bell.clone();
        // The ring is made on the thread that uses it: that lets the kernel skip its locking.
        std::thread::Builder::new().name("globalfs-ring".into()).spawn(move || {
            worker::run(|| Worker::new(inbox, worker_bell, listener), started);
        })?;
        start.recv().unwrap_or_else(|_| Err(worker_ended()))?;
        Ok(Self { queue: Some(queue), bell, room: Arc::new(Semaphore::new(MAX_IN_FLIGHT)) })
    }

    async fn submit(&self, file: Arc<File>, offset: u64, work: Work) -> io::Result<Bytes> {
        let permit = self.room.clone().acquire_owned().await.map_err(|_| worker_ended())?;
        let (sender, answer) = oneshot::channel();
        let reply = Reply { sender, _permit: Some(permit) };
        self.enqueue(Operation::new(file, offset, work, reply))?;
        answer.await.unwrap_or_else(|_| Err(worker_ended()))
    }

    fn enqueue(&self, operation: Operation) -> io::Result<()> {
        let queue = self.queue.as_ref().expect("the queue is there until the inlet is dropped");
        queue.send(operation).map_err(|_| worker_ended())?;
        self.bell.ring_if_asleep();
        Ok(())
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        self.queue = None;
        self.bell.ring();
    }
}

fn worker_ended() -> io::Error {
    io::Error::other("the io_uring worker has ended")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_worker_gives_an_error() {
        let (queue, inbox) = unbounded();
        drop(inbox);
        let socket = UnixStream::pair().unwrap().0;
        let bell = Arc::new(Bell { asleep: AtomicBool::new(true), socket });
        let inlet = Inlet { queue: Some(queue), bell, room: Arc::new(Semaphore::new(1)) };
        let file = Arc::new(tempfile::tempfile().unwrap());
        for _ in 0..3 {
            let error = inlet.submit(file.clone(), 0, Work::Sync).await.unwrap_err();
            assert_eq!(error.to_string(), "the io_uring worker has ended");
        }
    }

    #[tokio::test]
    async fn a_worker_that_dies_with_operations_queued_answers_all_that_wait() {
        let (queue, inbox) = unbounded();
        let bell = Arc::new(Bell { asleep: AtomicBool::new(false), socket: UnixStream::pair().unwrap().0 });
        let inlet = Arc::new(Inlet { queue: Some(queue), bell, room: Arc::new(Semaphore::new(2)) });
        let file = Arc::new(tempfile::tempfile().unwrap());
        let waiting: Vec<_> = (0..5)
            .map(|_| {
                let (inlet, file) = (inlet.clone(), file.clone());
                tokio::spawn(async move { inlet.submit(file, 0, Work::Sync).await })
            })
            .collect();
        while inbox.len() < 2 {
            tokio::task::yield_now().await;
        }
        drop(inbox);
        for answer in waiting {
            answer.await.unwrap().unwrap_err();
        }
    }
}
