//! Frames on a stream: a 32-bit little-endian length and that many bytes of one message.
//!
//! *Invariant:* nothing is allocated for a frame before its length was checked against its limit, and then
//! in steps as its bytes arrive: an announcement alone holds no memory.

use crate::failure;
use crate::pool::Buffer;
use bytes::{BufMut, Bytes, BytesMut};
use globalfs_proto::FsError;
use quinn::{ReadExactError, RecvStream};

/// Bytes for which memory is taken before they have arrived.
const STEP: usize = 64 * 1024;

/// Bytes of a frame's length.
pub(crate) const PREFIX: usize = 4;

/// Why there is no frame.
#[derive(Debug)]
pub(crate) enum FrameError {
    /// The stream broke.
    Stream(ReadExactError),
    /// The peer announced this many bytes.
    TooLong(usize),
}

impl FrameError {
    /// What it means to the caller of `whom`.
    pub(crate) fn explain(&self, whom: &str) -> FsError {
        match self {
            Self::Stream(error) => failure::of_read_exact(whom, error),
            Self::TooLong(length) => FsError::Protocol(format!("{whom} sent a frame of {length} bytes")),
        }
    }
}

/// `message` behind its length.
pub(crate) fn seal(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(PREFIX + message.len());
    frame.put_u32_le(u32::try_from(message.len()).expect("a message is below 4 GiB"));
    frame.put_slice(message);
    frame.freeze()
}

/// The next message of at most `limit` bytes; `None` when the stream ended before it.
pub(crate) async fn read(stream: &mut RecvStream, limit: usize) -> Result<Option<Bytes>, FrameError> {
    let mut prefix = [0; PREFIX];
    match stream.read_exact(&mut prefix).await {
        Ok(()) => {}
        Err(ReadExactError::FinishedEarly(0)) => return Ok(None),
        Err(error) => return Err(FrameError::Stream(error)),
    }
    let length = u32::from_le_bytes(prefix) as usize;
    if length > limit {
        return Err(FrameError::TooLong(length));
    }
    read_bytes(stream, length).await.map(Some).map_err(FrameError::Stream)
}

/// Exactly `length` bytes.
pub(crate) async fn read_bytes(stream: &mut RecvStream, length: usize) -> Result<Bytes, ReadExactError> {
    if let Some(mut buffer) = Buffer::of(length) {
        stream.read_exact(buffer.room()).await?;
        return Ok(buffer.freeze());
    }
    let mut bytes = BytesMut::zeroed(length.min(STEP));
    stream.read_exact(&mut bytes).await?;
    while bytes.len() < length {
        let read = bytes.len();
        // Doubling, so that a long frame is copied once on average.
        bytes.resize(length.min(read * 2), 0);
        stream.read_exact(&mut bytes[read..]).await?;
    }
    Ok(bytes.freeze())
}
