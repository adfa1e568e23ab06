//! The answer to one request, seen from the side that asked.

use crate::connect::Link;
use crate::counters::Meter;
use crate::frame::{self, FrameError};
use crate::lane::{LaneError, Lease};
use crate::receive::ReceiveError;
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
    /// On a lane, which is free for others at its end. It is taken out while bytes are awaited and put back only when
    /// they have come, so that who gives up meanwhile never leaves the rest of an answer to another request.
    Lane(Option<Lease>),
}

/// Of an answer that ended, or was given up.
const GONE: ReceiveError = ReceiveError::Lane(LaneError::Closed);

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

    /// The answer was one frame: its way is free for others when its end has come, which is there already.
    pub async fn end(mut self) {
        if matches!(self.way, Way::Lane(_)) {
            // If it goes on, or breaks, the lane is closed with it.
            let _ = self.next().await;
        }
    }

    /// The `length` bytes behind the frame of a chunk or pack.
    pub async fn payload(&mut self, length: u32) -> FsResult<Bytes> {
        let (way, link) = (&mut self.way, &self.link);
        let read = async { way.read_bytes(length as usize).await.map_err(|e| e.explain(&link.whom())) };
        let bytes = within(self.deadline, read).await?;
        self.meter.add(|live| &live.bytes_received, bytes.len());
        Ok(bytes)
    }

    async fn read(&mut self) -> FsResult<Option<Response>> {
        let message = match self.way.read_frame().await {
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
}

impl Way {
    async fn read_frame(&mut self) -> Result<Option<Bytes>, FrameError> {
        match self {
            Self::Stream(stream) => frame::read(stream, MAX_FRAME).await,
            Self::Lane(slot) => {
                let mut lane = slot.take().ok_or(FrameError::Stream(GONE))?;
                let message = frame::read(&mut lane, MAX_FRAME).await?;
                *slot = Some(lane);
                Ok(message)
            }
        }
    }

    async fn read_bytes(&mut self, length: usize) -> Result<Bytes, ReceiveError> {
        match self {
            Self::Stream(stream) => frame::read_bytes(stream, length).await,
            Self::Lane(slot) => {
                let mut lane = slot.take().ok_or(GONE)?;
                let bytes = frame::read_bytes(&mut lane, length).await?;
                *slot = Some(lane);
                Ok(bytes)
            }
        }
    }

    /// Nothing more comes.
    fn finish(&mut self) {
        if let Self::Lane(slot) = self
            && let Some(lane) = slot.take()
        {
            lane.finish();
        }
    }
}

async fn within<T>(deadline: Instant, work: impl Future<Output = FsResult<T>>) -> FsResult<T> {
    timeout_at(deadline, work).await.unwrap_or(Err(FsError::Deadline))
}
