//! The answer to one request, seen from the side that gives it.

use crate::counters::Meter;
use crate::failure::{self, code};
use crate::frame;
use crate::options::GRACE;
use bytes::Bytes;
use globalfs_proto::limits::MAX_FRAME;
use globalfs_proto::{ChunkHeader, FsError, FsResult, PackHeader, Response};
use quinn::SendStream;
use std::future::Future;
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Sends frames and chunks to whoever asked. Each call waits until the windows of the connection have
/// room, so a slow reader slows the handler and nothing piles up.
pub struct Reply {
    stream: SendStream,
    meter: Meter,
    whom: String,
    stop: CancellationToken,
    /// Whether all that was begun was also written, so that a frame may follow.
    whole: bool,
}

impl Reply {
    pub(crate) fn new(stream: SendStream, meter: Meter, whom: String, stop: CancellationToken) -> Self {
        Self { stream, meter, whom, stop, whole: true }
    }

    /// Lets this answer go before those that are long, or, if it is long itself, before those that were asked
    /// for later: side by side they would all end at the same time, and then the line is empty for the round
    /// trip that the next requests take.
    pub(crate) fn queue(&self, bulk: bool) {
        let age = (self.stream.id().index() % (1 << 30)) as i32;
        // Fails when the peer has lost interest already, which others find out.
        let _ = self.stream.set_priority(if bulk { -age } else { 1 });
    }

    /// Resolves when the daemon stops. An answer that goes on for long, such as one that tells of changes,
    /// waits for this as well and ends; otherwise it is broken off after [`GRACE`].
    pub fn stopping(&self) -> impl Future<Output = ()> + Send + 'static {
        self.stop.clone().cancelled_owned()
    }

    /// Sends one frame. [`FsError::Limit`] when it is larger than a frame may be, and nothing is sent.
    pub async fn send(&mut self, response: &Response) -> FsResult<()> {
        let message = response.encode();
        if message.len() > MAX_FRAME {
            return Err(FsError::Limit(format!("an answer of {} bytes", message.len())));
        }
        self.write(&mut [frame::seal(&message)]).await
    }

    /// Sends a chunk: its header and the `header.wire_length` bytes of `payload`.
    pub async fn send_chunk(&mut self, header: ChunkHeader, payload: Bytes) -> FsResult<()> {
        assert_eq!(header.wire_length as usize, payload.len(), "a header tells the length of its payload");
        let header = frame::seal(&Response::Chunk(header).encode());
        self.write(&mut [header, payload]).await
    }

    /// Sends a pack of small files: its header and the `header.wire_length` bytes of `payload`.
    pub async fn send_pack(&mut self, header: PackHeader, payload: Bytes) -> FsResult<()> {
        assert_eq!(header.wire_length as usize, payload.len(), "a header tells the length of its payload");
        let header = frame::seal(&Response::Pack(header).encode());
        self.write(&mut [header, payload]).await
    }

    /// Ends the answer: with `error` as its last frame if there is one, so far as the stream still allows.
    /// What is on its way has the rest of the budget to arrive: on a busy link that takes its time.
    pub(crate) async fn end(mut self, error: Option<FsError>, budget_left: Duration) {
        if timeout(budget_left.max(GRACE), self.try_end(error)).await.is_err() {
            let _ = self.stream.reset(code::BROKEN_OFF);
        }
    }

    async fn try_end(&mut self, error: Option<FsError>) {
        match error {
            Some(error) if self.whole => drop(self.send(&Response::Error(error)).await),
            Some(FsError::Deadline) => drop(self.stream.reset(code::DEADLINE)),
            Some(_) => drop(self.stream.reset(code::BROKEN_OFF)),
            None => {}
        }
        let stopped = self.stream.stopped();
        if self.stream.finish().is_ok() {
            // Ends when the peer has everything, has lost interest, or is gone.
            let _ = stopped.await;
        }
    }

    /// Resolves when the peer no longer wants the answer.
    pub(crate) fn cancelled(&self) -> impl Future<Output = ()> + Send + 'static {
        let stopped = self.stream.stopped();
        async move { drop(stopped.await) }
    }

    async fn write(&mut self, parts: &mut [Bytes]) -> FsResult<()> {
        let length = parts.iter().map(Bytes::len).sum();
        self.whole = false;
        let written = self.stream.write_all_chunks(parts).await;
        written.map_err(|e| failure::of_write(&self.whom, &e))?;
        self.whole = true;
        self.meter.add(|live| &live.bytes_sent, length);
        Ok(())
    }
}
