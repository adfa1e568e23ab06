//! The answer to one request, seen from the side that asked.

use crate::connect::Link;
use crate::counters::Meter;
use crate::frame;
use crate::frame::FrameError;
use crate::lane::Lease;
use bytes::Bytes;
use globalfs_proto::limits::MAX_FRAME;
use globalfs_proto::{FsError, FsResult, Response};
use quinn::RecvStream;
use std::future::Future;
use std::sync::Arc;
use tokio::time::{Instant, timeout_at};

/// Frames and chunks as they arrive. Dropping it tells the peer to stop.
pub struct Answer {
    way: Way,
    /// The frame that was read ahead to learn that the peer answers at all.
    first: Option<Response>,
    deadline: Instant,
    meter: Meter,
    link: Arc<Link>,
}

/// How the answer comes.
pub(crate) enum Way {
    /// On a stream of its own.
    Stream(RecvStream),
    /// On a lane, which is free for others at its end.
    Lane(Lease),
}

impl Answer {
    /// Waits for the first frame.
    pub(crate) async fn begin(way: Way, deadline: Instant, meter: Meter, link: Arc<Link>) -> FsResult<Self> {
        let mut answer = Self { way, first: None, deadline, meter, link };
        answer.first = answer.read().await?;
        match &answer.first {
            Some(_) => Ok(answer),
            None => Err(FsError::Protocol(format!("{} gave an empty answer", answer.link.whom()))),
        }
    }

    pub(crate) fn check_first(mut self) -> FsResult<Self> {
        match self.first.take_if(|first| matches!(first, Response::Error(_))) {
            Some(Response::Error(error)) => Err(error),
            _ => Ok(self),
        }
    }

    /// The next frame; `None` when the answer is complete. Error frames are returned as `Err`.
    ///
    /// After a [`Response::Chunk`] or [`Response::Pack`] its bytes have to be taken by [`Answer::payload`] first.
    pub async fn next(&mut self) -> FsResult<Option<Response>> {
        let response = match self.first.take() {
            Some(first) => Some(first),
            None => within(self.deadline, self.read()).await?,
        };
        match response {
            Some(Response::Error(error)) => Err(error),
            response => Ok(response),
        }
    }

    /// The `length` bytes behind the frame of a chunk or pack.
    pub async fn payload(&mut self, length: u32) -> FsResult<Bytes> {
        let (way, link) = (&mut self.way, &self.link);
        let read = async {
            let bytes = match way {
                Way::Stream(stream) => frame::read_bytes(stream, length as usize).await,
                Way::Lane(lane) => frame::read_bytes(lane, length as usize).await,
            };
            bytes.map_err(|e| e.explain(&link.whom()))
        };
        let bytes = within(self.deadline, read).await?;
        self.meter.add(|live| &live.bytes_received, bytes.len());
        Ok(bytes)
    }

    async fn read(&mut self) -> FsResult<Option<Response>> {
        let message = match self.read_frame().await {
            Ok(Some(message)) => message,
            Ok(None) => {
                self.way.finish();
                return Ok(None);
            }
            Err(error) => return Err(error.explain(&self.link.whom())),
        };
        self.meter.add(|live| &live.bytes_received, frame::PREFIX + message.len());
        let decoded = Response::decode(message);
        let response =
            decoded.map_err(|e| FsError::Protocol(format!("{} sent nonsense: {e}", self.link.whom())))?;
        if matches!(response, Response::Error(_)) {
            self.way.finish();
        }
        Ok(Some(response))
    }

    async fn read_frame(&mut self) -> Result<Option<Bytes>, FrameError> {
        match &mut self.way {
            Way::Stream(stream) => frame::read(stream, MAX_FRAME).await,
            Way::Lane(lane) => frame::read(lane, MAX_FRAME).await,
        }
    }
}

impl Way {
    /// Nothing more comes.
    fn finish(&mut self) {
        if let Self::Lane(lane) = self {
            lane.finish();
        }
    }
}

async fn within<T>(deadline: Instant, work: impl Future<Output = FsResult<T>>) -> FsResult<T> {
    timeout_at(deadline, work).await.unwrap_or(Err(FsError::Deadline))
}
