//! Writes that are answered before they are sent, and who waits until they have been.
//!
//! *Invariants:* whoever asks for something of a file that depends on its content or attributes first waits until all has
//! left that was written to it before; what does not leave is told to every open handle of the file once.

use super::{Operations, Writing};
use crate::model::behind::{Behind, Next, Put, Start, Ticket};
use crate::model::{NodeId, Pages};
use crate::volume::Volume;
use globalfs_proto::limits::DEFAULT_DEADLINE;
use globalfs_proto::{Change, FsError, FsResult};
use parking_lot::Mutex;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

/// `EIO`.
const LOST: FsError = FsError::Os(5);

/// How long small writes wait for others with which they are sent.
const LINGER: Duration = Duration::from_millis(10);

/// Sees to it that what was written to a node is sent.
type Stream = Box<dyn Fn(NodeId, Start) + Send + Sync>;

/// What was written and is not sent yet.
#[derive(Default)]
pub(super) struct Unsent {
    queues: Mutex<Behind>,
    /// Rung when something has left.
    room: Notify,
    /// How it is sent unasked. Unset nothing is kept.
    stream: OnceLock<Stream>,
    /// Nothing is kept any more.
    is_off: AtomicBool,
}

/// While it exists a piece is on its way.
struct Leaving<'a, V: Volume + ?Sized> {
    operations: &'a Operations<V>,
    node: NodeId,
    begun: Instant,
    outcome: Option<FsResult<()>>,
}

impl<V: Volume + ?Sized> Drop for Leaving<'_, V> {
    fn drop(&mut self) {
        match self.outcome.take() {
            Some(Ok(())) => self.operations.unsent.queues.lock().end(self.node, self.begun.elapsed()),
            Some(Err(error)) => self.operations.lose(self.node, error),
            // A volume that panicked, or the end of the program: nobody knows whether it is there.
            None => self.operations.lose(self.node, LOST),
        }
        self.operations.unsent.room.notify_waiters();
    }
}

impl<V: Volume + ?Sized> Operations<V> {
    /// From now on writes may be answered before they are sent. `stream` has to see to it that [`Self::stream_out`]
    /// is called, and must not wait.
    pub fn stream_by(&self, stream: impl Fn(NodeId, Start) + Send + Sync + 'static) {
        // A second one is not heard: a volume is mounted once.
        let _ = self.unsent.stream.set(Box::new(stream));
    }

    /// From now on writes are answered when they have been sent.
    pub fn write_through(&self) {
        self.unsent.is_off.store(true, Ordering::Relaxed);
    }

    /// Keeps what is written to `id` by `handle`, to be sent later; whether it could.
    pub(super) async fn put_behind(&self, handle: u64, id: NodeId, writing: &Writing) -> FsResult<bool> {
        let (Some(stream), Some(offset)) = (self.unsent.stream.get(), writing.offset) else {
            return Ok(false);
        };
        let is_off = writing.is_sync || self.unsent.is_off.load(Ordering::Relaxed);
        let file = self.inodes.lock().attr(id)?.file;
        if is_off || !self.volume.may_write_behind(file) {
            return Ok(false);
        }
        loop {
            let mut room = std::pin::pin!(self.unsent.room.notified());
            room.as_mut().enable();
            let put = self.unsent.queues.lock().put(id, offset, &writing.data, self.born.elapsed());
            match put {
                Put::Taken => return Ok(true),
                Put::Begin(start) => {
                    stream(id, start);
                    return Ok(true);
                }
                Put::Crowded => return Ok(false),
                Put::Full => timeout(DEFAULT_DEADLINE, room).await.map_err(|_| FsError::Deadline)?,
            }
            // What this write waited for may have failed.
            self.take_error(handle)?;
        }
    }

    /// Sends what is kept of `id`, from `start` on, until there is nothing.
    pub async fn stream_out(&self, id: NodeId, start: Start) {
        let mut next = Some(start);
        while let Some(start) = next {
            if start == Start::Soon {
                sleep(LINGER).await;
                if !self.unsent.queues.lock().wake(id) {
                    return;
                }
            }
            self.send_one(id).await;
            next = self.unsent.queues.lock().go_on(id);
        }
    }

    /// Returns when all has left that was written to `id` until now, or has failed.
    pub async fn write_out(&self, id: NodeId) {
        let Some(ticket) = self.unsent.queues.lock().ticket(id) else { return };
        while self.is_pending(id, ticket) {
            self.send_one(id).await;
        }
    }

    /// The same for all files.
    pub async fn write_all_out(&self) {
        let nodes = self.unsent.queues.lock().nodes();
        for id in nodes {
            self.write_out(id).await;
        }
    }

    /// The same for those that a listing of `directory` may show.
    pub(super) async fn write_out_in(&self, directory: NodeId) {
        let nodes = self.unsent.queues.lock().nodes();
        for id in nodes {
            let is_shown = {
                let inodes = self.inodes.lock();
                inodes.parent(id) == Ok(directory) || inodes.attr(id).is_ok_and(|attr| !attr.has_one_name())
            };
            if is_shown {
                self.write_out(id).await;
            }
        }
    }

    fn is_pending(&self, id: NodeId, ticket: Ticket) -> bool {
        self.unsent.queues.lock().is_pending(id, ticket)
    }

    /// Sends the next piece of `id` when it is its turn, which bounds how long it takes.
    async fn send_one(&self, id: NodeId) {
        // Who has it is changing the file, and ends by a deadline.
        let Ok(_turn) = self.turns.take(id).await else { return };
        let next = self.unsent.queues.lock().begin(id, self.born.elapsed());
        match next {
            Next::Nothing => {}
            Next::TooLate => {
                self.lose(id, FsError::Deadline);
                self.unsent.room.notify_waiters();
            }
            Next::Piece(offset, data) => {
                let (node, begun) = (id, Instant::now());
                let mut leaving = Leaving { operations: self, node, begun, outcome: None };
                let change = |target| Change::Write { target, offset: Some(offset), data: data.clone() };
                leaving.outcome = Some(self.alter_in_turn(id, change).await);
            }
        }
    }

    /// What is kept of `id` is not sent, because of `error`. Its pages show what is not there.
    fn lose(&self, id: NodeId, error: FsError) {
        self.unsent.queues.lock().fail(id);
        if !self.handles.lock().fail(id, &error) {
            self.log_loss(id, &error);
        }
        self.settle(id, Pages::Drop);
    }

    fn log_loss(&self, id: NodeId, error: &FsError) {
        let path = self.path(id).map_or_else(|_| String::new(), |path| path.to_string());
        tracing::error!(path, %error, "what was written to a file is lost, and nobody is left to be told");
    }

    /// `handle` of `id` is closed, and tells nobody any more.
    pub(super) fn close_untold(&self, id: NodeId, handle: u64) {
        let error = self.handles.lock().untold(handle);
        error.iter().for_each(|error| self.log_loss(id, error));
    }

    /// An error of earlier writes of which `handle` was not told.
    pub(super) fn take_error(&self, handle: u64) -> FsResult<()> {
        self.handles.lock().take_error(handle).map_or(Ok(()), Err)
    }

    /// `handle`, or one of its copies, is about to be closed: what was written to `id` has left, and is home where that
    /// counts, or that it is not is told: that it has not left, to those who write.
    pub async fn flush(&self, id: NodeId, handle: u64) -> FsResult<()> {
        self.write_out(id).await;
        self.close_direct(id).await;
        if self.is_unconfirmed(id) {
            self.sync_file(id, false).await?;
        }
        self.handles.lock().tell_close(handle).map_or(Ok(()), Err)
    }
}
