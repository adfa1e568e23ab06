//! How a chunk travels: all zeros as nothing, what compresses as zstd, the rest as it is.
//!
//! *Invariant:* [`decode`] never makes more than the header's length, and never returns bytes that do not
//! have the header's hash.

use crate::source::Chunk;
use bytes::Bytes;
use globalfs_proto::{ChunkEncoding, ChunkHash, ChunkHeader, FsError, FsResult};
use std::cell::RefCell;
use std::io;
use zstd::bulk::{Compressor, Decompressor};

/// The level for what is worth compressing: 0.4 to 0.9 GB/s and core, 4.5 x on source text.
const LEVEL: i32 = 1;
/// The level of the probe: 10 GB/s on what does not compress.
const PROBE_LEVEL: i32 = -5;
/// Bytes that the probe looks at, taken from several places of the chunk.
const PROBE_SIZE: usize = 16 * 1024;
/// Places from which the probe takes its bytes.
const PROBE_PLACES: usize = 4;

/// A chunk as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// What precedes the bytes.
    pub header: ChunkHeader,
    /// The bytes on the wire, `header.wire_length` of them.
    pub payload: Bytes,
}

/// Encodes a chunk for the wire. Takes some 0.3 ms for a chunk that compresses.
pub fn encode(chunk: &Chunk) -> Encoded {
    let (encoding, payload) = if is_zero(&chunk.data) {
        (ChunkEncoding::Zero, Bytes::new())
    } else {
        match Codec::with(|codec| codec.compress(&chunk.data)) {
            Some(smaller) => (ChunkEncoding::Zstd, smaller),
            None => (ChunkEncoding::Raw, chunk.data.clone()),
        }
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

/// Decodes and verifies; [`FsError::Damaged`] when the bytes are not those that the header names.
pub fn decode(header: &ChunkHeader, payload: Bytes) -> FsResult<Chunk> {
    let length = header.length as usize;
    let data = match header.encoding {
        ChunkEncoding::Raw => payload,
        ChunkEncoding::Zero if payload.is_empty() => Bytes::from(vec![0; length]),
        ChunkEncoding::Zero => return Err(damaged(header, "has bytes but should have none")),
        ChunkEncoding::Zstd => Codec::with(|codec| codec.decompress(&payload, length))
            .map_err(|_| damaged(header, "does not decompress"))?,
    };
    if data.len() != length {
        return Err(damaged(header, "has the wrong length"));
    }
    if hash(&data) != header.hash {
        return Err(damaged(header, "does not have its hash"));
    }
    Ok(Chunk { index: header.index, hash: header.hash, data })
}

/// `data` as one zstd frame; `None` when a sample or the result says that it is not worth it.
pub(crate) fn compress(data: &[u8]) -> Option<Bytes> {
    Codec::with(|codec| codec.compress(data))
}

/// The bytes of a zstd frame, at most `length`.
pub(crate) fn decompress(payload: &[u8], length: usize) -> io::Result<Bytes> {
    Codec::with(|codec| codec.decompress(payload, length))
}

/// The name of a chunk with these bytes.
pub fn hash(data: &[u8]) -> ChunkHash {
    ChunkHash(*blake3::hash(data).as_bytes())
}

/// One thread's compression contexts, which are costly to make.
struct Codec {
    probe: Compressor<'static>,
    compressor: Compressor<'static>,
    decompressor: Decompressor<'static>,
    /// Where compressed bytes are made before their size is known.
    scratch: Vec<u8>,
}

impl Codec {
    fn new() -> io::Result<Self> {
        Ok(Self {
            probe: Compressor::new(PROBE_LEVEL)?,
            compressor: Compressor::new(LEVEL)?,
            decompressor: Decompressor::new()?,
            scratch: Vec::new(),
        })
    }

    fn with<T>(work: impl FnOnce(&mut Self) -> T) -> T {
        thread_local! {
            static CODEC: RefCell<Codec> =
                RefCell::new(Codec::new().expect("making a zstd context needs memory only"));
        }
        CODEC.with_borrow_mut(work)
    }

    /// `None` when it would not save at least one part in eleven.
    fn compress(&mut self, data: &[u8]) -> Option<Bytes> {
        if data.len() > PROBE_SIZE {
            let sample = sample(data);
            press(&mut self.probe, &mut self.scratch, &sample)?;
        }
        press(&mut self.compressor, &mut self.scratch, data).map(Bytes::copy_from_slice)
    }

    fn decompress(&mut self, payload: &[u8], length: usize) -> io::Result<Bytes> {
        let mut data = Vec::with_capacity(length);
        self.decompressor.decompress_to_buffer(payload, &mut data)?;
        Ok(data.into())
    }
}

/// Compresses into `scratch`, which is given only the room that a ratio of 1.1 leaves.
fn press<'a>(
    compressor: &mut Compressor<'static>,
    scratch: &'a mut Vec<u8>,
    data: &[u8],
) -> Option<&'a [u8]> {
    scratch.resize(data.len() * 10 / 11, 0);
    let made = compressor.compress_to_buffer(data, &mut scratch[..]).ok()?;
    Some(&scratch[..made])
}

fn sample(data: &[u8]) -> Vec<u8> {
    let piece = PROBE_SIZE / PROBE_PLACES;
    let step = (data.len() - piece) / (PROBE_PLACES - 1);
    (0..PROBE_PLACES).flat_map(|place| &data[place * step..place * step + piece]).copied().collect()
}

/// Looks at 64 bytes at a time, which compiles to vector instructions.
fn is_zero(data: &[u8]) -> bool {
    data.chunks(64).all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
}

fn damaged(header: &ChunkHeader, what: &str) -> FsError {
    FsError::Damaged(format!("chunk {} {what}", header.index.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use globalfs_proto::ChunkIndex;
    use globalfs_proto::limits::CHUNK_SIZE;
    use proptest::prelude::*;

    fn chunk(data: impl Into<Bytes>) -> Chunk {
        let data = data.into();
        Chunk { index: ChunkIndex(7), hash: hash(&data), data }
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut data = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut data);
        data
    }

    fn check(data: Vec<u8>, encoding: ChunkEncoding, most: usize) {
        let chunk = chunk(data);
        let encoded = encode(&chunk);
        assert_eq!(encoded.header.encoding, encoding);
        assert_eq!(encoded.payload.len(), encoded.header.wire_length as usize);
        assert!(encoded.payload.len() <= most, "{} bytes on the wire", encoded.payload.len());
        assert_eq!(decode(&encoded.header, encoded.payload).unwrap(), chunk);
    }

    #[test]
    fn each_kind_of_data_travels_as_it_should() {
        let whole = CHUNK_SIZE as usize;
        check(vec![0; whole], ChunkEncoding::Zero, 0);
        check(vec![0; 1], ChunkEncoding::Zero, 0);
        check(vec![1], ChunkEncoding::Raw, 1);
        check(noise(whole), ChunkEncoding::Raw, whole);
        check(b"a line of text\n".repeat(8000), ChunkEncoding::Zstd, 1000);
        check([noise(whole / 2), vec![0; whole / 2]].concat(), ChunkEncoding::Zstd, whole / 2 + 1000);
    }

    #[test]
    fn zeros_behind_a_long_start_are_not_taken_for_all_zeros() {
        let mut data = vec![0; 1000];
        *data.last_mut().unwrap() = 1;
        assert!(!is_zero(&data));
    }

    #[test]
    fn a_bomb_does_not_grow_past_its_header() {
        let mut encoded = encode(&chunk(vec![1; CHUNK_SIZE as usize]));
        assert_eq!(encoded.header.encoding, ChunkEncoding::Zstd);
        encoded.header.length = 100;
        assert!(matches!(decode(&encoded.header, encoded.payload), Err(FsError::Damaged(_))));
    }

    fn data() -> impl Strategy<Value = Vec<u8>> {
        let noise = proptest::collection::vec(any::<u8>(), 1..3000);
        let repeated = (proptest::collection::vec(any::<u8>(), 1..50), 1..2000_usize)
            .prop_map(|(piece, times)| piece.repeat(times));
        prop_oneof![noise, repeated, (1..CHUNK_SIZE as usize).prop_map(|n| vec![0; n])]
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_itself(data in data()) {
            let chunk = chunk(data);
            let encoded = encode(&chunk);
            prop_assert_eq!(decode(&encoded.header, encoded.payload).unwrap(), chunk);
        }

        #[test]
        fn any_flipped_bit_is_detected(
            data in data(),
            at in any::<prop::sample::Index>(),
            bit in 0..8_u8,
        ) {
            let chunk = chunk(data);
            let Encoded { mut header, payload } = encode(&chunk);
            let mut payload = payload.to_vec();
            let at = at.index(payload.len() + header.hash.0.len());
            match at.checked_sub(payload.len()) {
                Some(at) => header.hash.0[at] ^= 1 << bit,
                None => payload[at] ^= 1 << bit,
            }
            // zstd ignores some bits of its frame header; then the bytes are still the right ones.
            match decode(&header, payload.into()) {
                Ok(decoded) => prop_assert_eq!(decoded, chunk),
                Err(error) => prop_assert!(matches!(error, FsError::Damaged(_))),
            }
        }
    }
}
