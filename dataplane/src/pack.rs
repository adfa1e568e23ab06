//! Packs of many files' chunks: filled from a stream of chunks, and taken apart and verified.
//!
//! *Invariant:* a chunk that [`open`] gives has its hash; a pack never grows beyond what its header tells.

use crate::encoding;
use crate::source::{Chunk, FileChunks};
use bytes::Bytes;
use globalfs_proto::limits::{MAX_PACK, PACK_TARGET};
use globalfs_proto::{ChunkEncoding, FsError, FsResult, PackHeader, PackedChunk, Record, Writer};
use std::time::Duration;
use tokio::time::timeout;

/// How long a pack that is not full waits for more when nothing comes.
const PATIENCE: Duration = Duration::from_millis(1);

/// Bytes of a record of an error: its numbers, attributes, or a text of limited length.
const ERROR_RECORD_SIZE: usize = 1024;

const _: () = assert!(globalfs_proto::limits::MAX_ERROR_TEXT + 64 < ERROR_RECORD_SIZE);
const _: () = assert!(PACK_TARGET + ERROR_RECORD_SIZE < MAX_PACK);

/// A pack as it is sent.
pub(crate) struct Pack {
    pub(crate) header: PackHeader,
    pub(crate) payload: Bytes,
    /// The number of its chunks.
    pub(crate) chunks: u64,
    /// Their bytes as files have them.
    pub(crate) bytes: u64,
}

/// Makes packs of chunks as they come.
pub(crate) struct Packs {
    chunks: FileChunks,
    compress: bool,
}

impl Packs {
    pub(crate) fn new(chunks: FileChunks, compress: bool) -> Self {
        Self { chunks, compress }
    }

    /// The next pack; `None` behind the last chunk. Not cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Pack> {
        let (mut w, mut chunks, mut bytes) = (Writer::new(), 0, 0);
        while w.len() < PACK_TARGET {
            let wait = if w.is_empty() { Duration::MAX } else { PATIENCE };
            let Ok(Some((file, told))) = timeout(wait, self.chunks.recv()).await else { break };
            if let Ok(chunk) = &told {
                (chunks, bytes) = (chunks + 1, bytes + chunk.data.len() as u64);
            }
            record(file, told).encode(&mut w);
        }
        let plain = w.finish();
        (!plain.is_empty()).then(|| {
            let (header, payload) = self.seal(plain);
            Pack { header, payload, chunks, bytes }
        })
    }

    fn seal(&self, plain: Bytes) -> (PackHeader, Bytes) {
        let length = plain.len() as u32;
        let smaller = if self.compress { encoding::compress(&plain) } else { None };
        let (encoding, payload) = match smaller {
            Some(smaller) => (ChunkEncoding::Zstd, smaller),
            None => (ChunkEncoding::Raw, plain),
        };
        (PackHeader { encoding, wire_length: payload.len() as u32, length }, payload)
    }
}

fn record(file: usize, told: FsResult<Chunk>) -> Record {
    let told = told.map(|chunk| PackedChunk { index: chunk.index, hash: chunk.hash, data: chunk.data });
    Record { file: u32::try_from(file).expect("a request has few files"), told }
}

/// The records of a pack. [`FsError::Damaged`] when its bytes do not decode.
pub(crate) fn open(header: &PackHeader, payload: Bytes) -> FsResult<Vec<Record>> {
    let damaged = |_| FsError::Damaged("a pack does not decompress".to_owned());
    let plain = match header.encoding {
        ChunkEncoding::Raw => payload,
        _ => encoding::decompress(&payload, header.length as usize).map_err(damaged)?,
    };
    if plain.len() != header.length as usize {
        return Err(FsError::Damaged("a pack has the wrong length".to_owned()));
    }
    Record::all(plain).map_err(|error| FsError::Damaged(format!("a pack has no records: {error}")))
}

/// The chunk, if its bytes have their hash.
pub(crate) fn verify(packed: PackedChunk) -> Option<Chunk> {
    let PackedChunk { index, hash, data } = packed;
    (encoding::hash(&data) == hash).then_some(Chunk { index, hash, data })
}

#[cfg(test)]
mod tests {
    use super::*;
    use globalfs_proto::ChunkIndex;
    use globalfs_proto::bulk::RECORD_SIZE;
    use tokio::sync::mpsc;

    fn chunk(index: u64, data: Vec<u8>) -> Chunk {
        let data = Bytes::from(data);
        Chunk { index: ChunkIndex(index), hash: encoding::hash(&data), data }
    }

    async fn packs(told: Vec<(usize, FsResult<Chunk>)>, compress: bool) -> Vec<Pack> {
        let (sender, chunks) = mpsc::channel(told.len().max(1));
        for one in told {
            sender.try_send(one).unwrap();
        }
        drop(sender);
        let (mut packs, mut made) = (Packs::new(chunks, compress), Vec::new());
        while let Some(pack) = packs.next().await {
            made.push(pack);
        }
        made
    }

    #[tokio::test]
    async fn what_is_packed_comes_out_in_packs_of_limited_size() {
        let text = b"a line of text\n".repeat(8000);
        let told: Vec<_> = (0..20)
            .map(|n| (n, if n == 7 { Err(FsError::NOT_FOUND) } else { Ok(chunk(0, text.clone())) }))
            .collect();
        for compress in [false, true] {
            let made = packs(told.clone(), compress).await;
            assert!(made.len() > 5 && made.iter().all(|pack| pack.header.length as usize <= MAX_PACK));
            let wire: usize = made.iter().map(|pack| pack.payload.len()).sum();
            assert_eq!(wire < text.len(), compress, "{wire} bytes on the wire");
            assert_eq!(made.iter().map(|pack| pack.bytes).sum::<u64>(), 19 * text.len() as u64);
            let records: Vec<Record> =
                made.into_iter().flat_map(|pack| super::open(&pack.header, pack.payload).unwrap()).collect();
            assert_eq!(records.len(), told.len());
            for (record, (file, told)) in records.into_iter().zip(&told) {
                assert_eq!(record.file as usize, *file);
                assert_eq!(&record.told.map(|packed| verify(packed).unwrap()), told);
            }
        }
    }

    #[tokio::test]
    async fn a_flipped_bit_is_found_and_a_bomb_does_not_grow() {
        let made = packs(vec![(0, Ok(chunk(0, vec![7; 1000])))], true).await;
        let (header, payload) = (made[0].header, made[0].payload.clone());
        assert_eq!(header.encoding, ChunkEncoding::Zstd);
        let small = PackHeader { length: 100, ..header };
        assert!(matches!(super::open(&small, payload), Err(FsError::Damaged(_))));
        let raw = packs(vec![(0, Ok(chunk(0, vec![7; 1000])))], false).await;
        let mut bytes = raw[0].payload.to_vec();
        bytes[RECORD_SIZE + 500] ^= 1;
        let records = super::open(&raw[0].header, bytes.into()).unwrap();
        assert_eq!(verify(records[0].told.clone().unwrap()), None);
    }
}
