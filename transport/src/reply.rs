//! The answer to one request, seen from the side that gives it.

use crate::counters::Meter;
use crate::failure::{self, code};
use crate::frame;
use crate::lane::Secure;
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
    way: Way,
    meter: Meter,
    whom: String,
    stop: CancellationToken,
    /// Whether all that was begun was also written, so that a frame may follow.
    whole: bool,
}

/// How the answer goes.
enum Way {
    Stream(SendStream),
    Lane(Secure),
}

impl Reply {
    pub(crate) fn new(stream: SendStream, meter: Meter, whom: String, stop: CancellationToken) -> Self {
        Self { way: Way::Stream(stream), meter, whom, stop, whole: true }
    }

    pub(crate) fn on_lane(lane: Secure, meter: Meter, whom: String, stop: CancellationToken) -> Self {
        Self { way: Way::Lane(lane), meter, whom, stop, whole: true }
    }

    /// Lets this answer go before those that are long, or, if it is long itself, before those that were asked
    /// for later: side by side they would all end at the same time, and then the line is empty for the round
    /// trip that the next requests take.
    pub(crate) fn queue(&self, bulk: bool) {
        let Way::Stream(stream) = &self.way else { return };
        let age = (stream.id().index() % (1 << 30)) as i32;
        // Fails when the peer has lost interest already, which others find out.
        let _ = stream.set_priority(if bulk { -age } else { 1 });
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
    /// What is on its way has the rest of the budget to arrive: on a busy link that takes its time. A lane that
    /// another request may use is given back.
    pub(crate) async fn end(mut self, error: Option<FsError>, budget_left: Duration) -> Option<Secure> {
        let ended = timeout(budget_left.max(GRACE), self.try_end(error)).await.unwrap_or(false);
        match self.way {
            Way::Stream(mut stream) if !ended => {
                let _ = stream.reset(code::BROKEN_OFF);
                None
            }
            Way::Stream(_) => None,
            Way::Lane(lane) => ended.then_some(lane),
        }
    }

    /// Whether it came to its proper end.
    async fn try_end(&mut self, error: Option<FsError>) -> bool {
        if let Some(error) = error {
            if !self.whole {
                return self.break_off(&error);
            }
            if self.send(&Response::Error(error)).await.is_err() {
                return false;
            }
        } else if let Way::Lane(lane) = &mut self.way {
            return self.whole && lane.send(&[frame::END]).await.is_ok();
        }
        let Way::Stream(stream) = &mut self.way else { return true };
        let stopped = stream.stopped();
        if stream.finish().is_ok() {
            // Ends when the peer has everything, has lost interest, or is gone.
            let _ = stopped.await;
        }
        true
    }

    /// Inside a chunk there is no other way to say so than to end the stream; a lane is closed.
    fn break_off(&mut self, error: &FsError) -> bool {
        let Way::Stream(stream) = &mut self.way else { return false };
        let reason = if *error == FsError::Deadline { code::DEADLINE } else { code::BROKEN_OFF };
        let _ = stream.reset(reason);
        true
    }

    /// Resolves when the peer no longer wants the answer.
    pub(crate) fn cancelled(&self) -> impl Future<Output = ()> + Send + 'static {
        let (stopped, stirred) = match &self.way {
            Way::Stream(stream) => (Some(stream.stopped()), None),
            Way::Lane(lane) => (None, Some(lane.socket_stirs())),
        };
        async move {
            match (stopped, stirred) {
                (Some(stopped), _) => drop(stopped.await),
                (None, Some(stirred)) => stirred.await,
                (None, None) => {}
            }
        }
    }

    async fn write(&mut self, parts: &mut [Bytes]) -> FsResult<()> {
        let length = parts.iter().map(Bytes::len).sum();
        self.whole = false;
        match &mut self.way {
            Way::Stream(stream) => {
                let written = stream.write_all_chunks(parts).await;
                written.map_err(|e| failure::of_write(&self.whom, &e))?;
            }
            Way::Lane(lane) => {
                let sent = lane.send(parts).await;
                sent.map_err(|e| FsError::Unreachable(format!("{} stopped listening: {e}", self.whom)))?;
            }
        }
        self.whole = true;
        self.meter.add(|live| &live.bytes_sent, length);
        Ok(())
    }
}
