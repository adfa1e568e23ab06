//! Where bytes come from: a QUIC stream, or a lane.

use crate::failure;
use crate::lane::{LaneError, Lease, Secure};
use globalfs_proto::FsError;
use quinn::{ReadExactError, RecvStream};

/// A sequence of bytes in which frames are found.
pub(crate) trait Receive: Send {
    /// Whether a frame without content stands for the end of an answer, because the sequence itself goes on.
    const MARKS_END: bool;

    /// Fills `room`. Not cancel-safe.
    fn fill(&mut self, room: &mut [u8]) -> impl Future<Output = Result<(), ReceiveError>> + Send;
}

/// Why there are no more bytes.
#[derive(Debug)]
pub(crate) enum ReceiveError {
    /// The stream says so.
    Stream(ReadExactError),
    /// The lane says so.
    Lane(LaneError),
}

impl ReceiveError {
    /// What it means to the caller of `whom`.
    pub(crate) fn explain(&self, whom: &str) -> FsError {
        match self {
            Self::Stream(error) => failure::of_read_exact(whom, error),
            Self::Lane(LaneError::Closed) => FsError::Unreachable(format!("{whom} broke off its answer")),
            Self::Lane(error) => FsError::Unreachable(format!("{whom}: {error}")),
        }
    }
}

impl Receive for RecvStream {
    const MARKS_END: bool = false;

    async fn fill(&mut self, room: &mut [u8]) -> Result<(), ReceiveError> {
        self.read_exact(room).await.map_err(ReceiveError::Stream)
    }
}

impl Receive for Secure {
    const MARKS_END: bool = true;

    async fn fill(&mut self, room: &mut [u8]) -> Result<(), ReceiveError> {
        Self::fill(self, room).await.map_err(ReceiveError::Lane)
    }
}

impl Receive for Lease {
    const MARKS_END: bool = true;

    async fn fill(&mut self, room: &mut [u8]) -> Result<(), ReceiveError> {
        Self::fill(self, room).await.map_err(ReceiveError::Lane)
    }
}
