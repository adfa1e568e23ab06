//! The answer to one request, seen from the side that asked.

use crate::connect::Link;
use crate::counters::Meter;
use crate::{failure, frame};
use bytes::Bytes;
use globalfs_proto::limits::MAX_FRAME;
use globalfs_proto::{FsError, FsResult, Response};
use quinn::RecvStream;
use std::future::Future;
use std::sync::Arc;
use tokio::time::{Instant, timeout_at};

/// Frames and chunks as they arrive. Dropping it tells the peer to stop.
pub struct Answer {
    stream: RecvStream,
    /// The frame that was read ahead to learn that the peer answers at all.
    first: Option<Response>,
    deadline: Instant,
    meter: Meter,
    link: Arc<Link>,
}

impl Answer {
    /// Waits for the first frame.
    pub(crate) async fn begin(
        stream: RecvStream,
        deadline: Instant,
        meter: Meter,
        link: Arc<Link>,
    ) -> FsResult<Self> {
        let mut answer = Self { stream, first: None, deadline, meter, link };
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
        let read = async {
            let bytes = frame::read_bytes(&mut self.stream, length as usize).await;
            bytes.map_err(|e| failure::of_read_exact(&self.link.whom(), &e))
        };
        let bytes = within(self.deadline, read).await?;
        self.meter.add(|live| &live.bytes_received, bytes.len());
        Ok(bytes)
    }

    async fn read(&mut self) -> FsResult<Option<Response>> {
        let message = match frame::read(&mut self.stream, MAX_FRAME).await {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(None),
            Err(error) => return Err(error.explain(&self.link.whom())),
        };
        self.meter.add(|live| &live.bytes_received, frame::PREFIX + message.len());
        let decoded = Response::decode(message);
        decoded.map(Some).map_err(|e| FsError::Protocol(format!("{} sent nonsense: {e}", self.link.whom())))
    }
}

async fn within<T>(deadline: Instant, work: impl Future<Output = FsResult<T>>) -> FsResult<T> {
    timeout_at(deadline, work).await.unwrap_or(Err(FsError::Deadline))
}
