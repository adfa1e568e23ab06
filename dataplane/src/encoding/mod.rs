//! How a chunk travels: all zeros as nothing; what compresses as zstd, arrays of numbers as planes of bytes
//! first; the rest as it is. Within a site nothing is compressed: its network is faster than the work.
//!
//! *Invariant:* [`decode`] never makes more than the header's length, and never returns bytes that do not
//! have the header's hash.

mod codec;
mod sample;
mod shuffle;

use crate::source::Chunk;
use bytes::Bytes;
use codec::Codec;
use globalfs_proto::limits::CHUNK_SIZE;
use globalfs_proto::{ChunkEncoding, ChunkHash, ChunkHeader, FsError, FsResult};
use sample::LEAST_GAIN;
use shuffle::Width;
use std::io;
use std::sync::LazyLock;

/// Chunks after which the choice is tried anew, though nothing seems to have changed.
const TRIAL_EVERY: u32 = 32;

/// A change of a chunk's promise against the last trial's that makes a new trial.
const SAME_PROMISE: f32 = 0.06;

/// The chunk of zeros, and its name.
static ZEROS: [u8; CHUNK_SIZE as usize] = [0; CHUNK_SIZE as usize];
static ZEROS_HASH: LazyLock<ChunkHash> = LazyLock::new(|| hash(&ZEROS));

/// What lies between the sender and the receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// The network of one site: bytes are cheaper than work.
    Lan,
    /// The way between sites: work is cheaper than bytes.
    Wan,
}

/// A chunk as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// What precedes the bytes.
    pub header: ChunkHeader,
    /// The bytes on the wire, `header.wire_length` of them.
    pub payload: Bytes,
}

/// Encodes the chunks of one content in turn, and remembers what was best for the last ones.
#[derive(Debug)]
pub struct Encoder {
    link: Link,
    last: Option<Choice>,
}

#[derive(Debug, Clone, Copy)]
struct Choice {
    encoding: ChunkEncoding,
    promise: f32,
    chunks_left: u32,
}

impl Encoder {
    /// An encoder that has seen nothing yet.
    pub fn new(link: Link) -> Self {
        Self { link, last: None }
    }

    /// Encodes a chunk. Takes 0.25 ms for a chunk that compresses, 2 us for one that does not.
    pub fn encode(&mut self, chunk: &Chunk) -> Encoded {
        let (encoding, payload) = match self.press(&chunk.data) {
            Some(pressed) => pressed,
            None => (ChunkEncoding::Raw, chunk.data.clone()),
        };
        let header = ChunkHeader {
            index: chunk.index,
            encoding,
            wire_length: payload.len() as u32,
            length: chunk.data.len() as u32,
            hash: chunk.hash,
        };
        Encoded { header, payload }
    }

    /// `None` when the bytes should go as they are.
    fn press(&mut self, data: &[u8]) -> Option<(ChunkEncoding, Bytes)> {
        if is_zero(data) {
            return Some((ChunkEncoding::Zero, Bytes::new()));
        }
        if self.link == Link::Lan {
            return None;
        }
        let encoding = self.choose(data);
        let width = width_of(encoding)?;
        let limit = data.len() - data.len() * LEAST_GAIN.0 / LEAST_GAIN.1;
        let payload = Codec::with(|codec| codec.compress(width, data, limit));
        if payload.is_none() {
            // The part that was tried was not like the whole.
            self.last = None;
        }
        payload.map(|payload| (encoding, payload))
    }

    /// The last choice, so long as the chunk promises the same.
    fn choose(&mut self, data: &[u8]) -> ChunkEncoding {
        let promise = sample::promise(data);
        if let Some(last) = &mut self.last
            && last.chunks_left > 0
            && (promise - last.promise).abs() < SAME_PROMISE
        {
            last.chunks_left -= 1;
            return last.encoding;
        }
        let encoding = if sample::is_worth_a_trial(promise) {
            Codec::with(|codec| sample::trial(codec, data))
        } else {
            ChunkEncoding::Raw
        };
        self.last = Some(Choice { encoding, promise, chunks_left: TRIAL_EVERY });
        encoding
    }
}

/// Encodes a single chunk for the way between sites.
pub fn encode(chunk: &Chunk) -> Encoded {
    Encoder::new(Link::Wan).encode(chunk)
}

/// Decodes and verifies; [`FsError::Damaged`] when the bytes are not those that the header names.
pub fn decode(header: &ChunkHeader, payload: Bytes) -> FsResult<Chunk> {
    let data = unpack(header, payload)?;
    if data.len() != header.length as usize {
        return Err(damaged(header, "has the wrong length"));
    }
    if !has_hash(&data, header) {
        return Err(damaged(header, "does not have its hash"));
    }
    Ok(Chunk { index: header.index, hash: header.hash, data })
}

fn unpack(header: &ChunkHeader, payload: Bytes) -> FsResult<Bytes> {
    let length = header.length as usize;
    if length as u64 > CHUNK_SIZE {
        return Err(damaged(header, "is too long"));
    }
    match (header.encoding, width_of(header.encoding)) {
        (ChunkEncoding::Zero, _) if payload.is_empty() => Ok(Bytes::from_static(&ZEROS[..length])),
        (ChunkEncoding::Zero, _) => Err(damaged(header, "has bytes but should have none")),
        (_, None) => Ok(payload),
        (_, Some(width)) => Codec::with(|codec| codec.decompress(width, &payload, length))
            .map_err(|_| damaged(header, "does not decompress")),
    }
}

/// How an encoding uses zstd: with planes of this width first, without planes, or not at all.
fn width_of(encoding: ChunkEncoding) -> Option<Option<Width>> {
    match encoding {
        ChunkEncoding::Raw | ChunkEncoding::Zero => None,
        ChunkEncoding::Zstd => Some(None),
        ChunkEncoding::Shuffle4 => Some(Some(Width::Four)),
        ChunkEncoding::Shuffle8 => Some(Some(Width::Eight)),
    }
}

fn has_hash(data: &[u8], header: &ChunkHeader) -> bool {
    let known = header.encoding == ChunkEncoding::Zero && data.len() == ZEROS.len();
    if known { *ZEROS_HASH == header.hash } else { hash(data) == header.hash }
}

/// Bytes of many chunks as one zstd frame; `None` when a sample or the result says that it is not worth it.
pub(crate) fn compress(data: &[u8]) -> Option<Bytes> {
    let limit = data.len() - data.len() * LEAST_GAIN.0 / LEAST_GAIN.1;
    Codec::with(|codec| {
        let pays = sample::zstd_pays(codec, data);
        pays.then(|| codec.compress(None, data, limit)).flatten()
    })
}

/// The bytes of a zstd frame, at most `length`.
pub(crate) fn decompress(payload: &[u8], length: usize) -> io::Result<Bytes> {
    Codec::with(|codec| codec.decompress_many(payload, length))
}

/// The name of a chunk with these bytes.
pub fn hash(data: &[u8]) -> ChunkHash {
    ChunkHash(*blake3::hash(data).as_bytes())
}

/// Whether a chunk of this name is all zeros and full.
pub(crate) fn is_hash_of_zeros(hash: &ChunkHash) -> bool {
    *hash == *ZEROS_HASH
}

/// A full chunk of zeros.
pub(crate) fn zeros() -> Bytes {
    Bytes::from_static(&ZEROS)
}

/// Looks at 64 bytes at a time, which compiles to vector instructions.
fn is_zero(data: &[u8]) -> bool {
    data.chunks(64).all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
}

fn damaged(header: &ChunkHeader, what: &str) -> FsError {
    FsError::Damaged(format!("chunk {} {what}", header.index.0))
}

#[cfg(test)]
mod tests;
