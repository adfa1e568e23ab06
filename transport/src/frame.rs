//! Frames on a stream: a 32-bit little-endian length and that many bytes of one message.
//!
//! *Invariant:* nothing is allocated for a frame before its length was checked against its limit, and then
//! in steps as its bytes arrive: an announcement alone holds no memory.

use crate::pool::Buffer;
use crate::receive::{Receive, ReceiveError};
use bytes::{BufMut, Bytes, BytesMut};
use globalfs_proto::FsError;
use quinn::ReadExactError;

/// Bytes for which memory is taken before they have arrived.
const STEP: usize = 64 * 1024;

/// Bytes of a frame's length.
pub(crate) const PREFIX: usize = 4;

/// Why there is no frame.
#[derive(Debug)]
pub(crate) enum FrameError {
    /// The stream broke.
    Stream(ReceiveError),
    /// The peer announced this many bytes.
    TooLong(usize),
}

impl FrameError {
    /// What it means to the caller of `whom`.
    pub(crate) fn explain(&self, whom: &str) -> FsError {
        match self {
            Self::Stream(error) => error.explain(whom),
            Self::TooLong(length) => FsError::Protocol(format!("{whom} sent a frame of {length} bytes")),
        }
    }
}

/// What stands at the end of an answer where the stream itself goes on.
pub(crate) const END: Bytes = Bytes::from_static(&[0; PREFIX]);

/// `message` behind its length.
pub(crate) fn seal(message: &[u8]) -> Bytes {
    behind_length(message, message.len())
}

/// A message in two parts behind its length. The second is not copied.
pub(crate) fn seal_apart([head, tail]: [Bytes; 2]) -> [Bytes; 2] {
    [behind_length(&head, head.len() + tail.len()), tail]
}

fn behind_length(message: &[u8], length: usize) -> Bytes {
    let mut frame = BytesMut::with_capacity(PREFIX + message.len());
    frame.put_u32_le(u32::try_from(length).expect("a message is below 4 GiB"));
    frame.put_slice(message);
    frame.freeze()
}

/// The next message of at most `limit` bytes; `None` when the answer, or the stream, ended before it.
pub(crate) async fn read<R: Receive>(stream: &mut R, limit: usize) -> Result<Option<Bytes>, FrameError> {
    let mut prefix = [0; PREFIX];
    match stream.fill(&mut prefix).await {
        Ok(()) => {}
        Err(ReceiveError::Stream(ReadExactError::FinishedEarly(0))) => return Ok(None),
        Err(error) => return Err(FrameError::Stream(error)),
    }
    let length = u32::from_le_bytes(prefix) as usize;
    if length == 0 && R::MARKS_END {
        return Ok(None);
    }
    if length > limit {
        return Err(FrameError::TooLong(length));
    }
    read_bytes(stream, length).await.map(Some).map_err(FrameError::Stream)
}

/// Exactly `length` bytes.
pub(crate) async fn read_bytes<R: Receive>(stream: &mut R, length: usize) -> Result<Bytes, ReceiveError> {
    if let Some(mut buffer) = Buffer::of(length) {
        stream.fill(buffer.room()).await?;
        return Ok(buffer.freeze());
    }
    let mut bytes = BytesMut::zeroed(length.min(STEP));
    stream.fill(&mut bytes).await?;
    while bytes.len() < length {
        let read = bytes.len();
        // Doubling, so that a long frame is copied once on average.
        bytes.resize(length.min(read * 2), 0);
        stream.fill(&mut bytes[read..]).await?;
    }
    Ok(bytes.freeze())
}
