//! The bytes of a bundle: its table, and where each file lies. The parent module tells the format.

use super::sidecar::{HASH_LENGTH, key_of};
use crate::model::bundles::Bundled;
use crate::model::eviction::FileKey;
use crate::source::Chunk;
use bytes::{BufMut, Bytes, BytesMut};
use globalfs_proto::limits::CHUNK_SIZE;
use globalfs_proto::{ChunkHash, Reader, Version, Writer};

/// Files in one bundle, at most.
pub(super) const MAX_FILES: usize = 512;

/// Bytes of the longest table.
pub(super) const MAX_TABLE: usize = table_length(MAX_FILES);

const MAGIC: [u8; 8] = *b"GLFSBNDL";
const FORMAT: u32 = 1;
const FILES_AT: usize = 16;
const VERSION_LENGTH: usize = 40;
const FILE_LENGTH: usize = VERSION_LENGTH + HASH_LENGTH;

/// What a table tells.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Table {
    /// The name of the bundle.
    pub(super) key: FileKey,
    pub(super) files: Vec<Bundled>,
    /// Bytes of the bundle, its table included.
    pub(super) length: u64,
}

/// Whether the file is kept in a bundle: all of it is a part of a chunk.
pub(super) fn is_small(version: &Version) -> bool {
    (1..CHUNK_SIZE).contains(&version.size)
}

/// The table of a bundle of whole files, and the bundle's bytes.
pub(super) fn of<'a>(
    files: impl ExactSizeIterator<Item = (&'a Version, &'a Chunk)> + Clone,
) -> (Table, Bytes) {
    let mut head = Writer::new();
    MAGIC.iter().for_each(|b| {
        head.u8(*b);
    });
    head.u32(FORMAT).u32(u32::try_from(files.len()).expect("a bundle has few files"));
    for (version, chunk) in files.clone() {
        head.version(version);
        chunk.hash.0.iter().for_each(|b| {
            head.u8(*b);
        });
    }
    let head = head.finish();
    let bytes: usize = files.clone().map(|(_, chunk)| chunk.data.len()).sum();
    let mut all = BytesMut::with_capacity(head.len() + HASH_LENGTH + bytes);
    all.put_slice(&head);
    all.put_slice(blake3::hash(&head).as_bytes());
    files.for_each(|(_, chunk)| all.put_slice(&chunk.data));
    let table = table_in(&all).expect("what was just made is a table");
    (table, all.freeze())
}

/// The table at the beginning of a bundle; `None` when it is damaged or of another format.
pub(super) fn table_in(bytes: &[u8]) -> Option<Table> {
    let count = u32::from_le_bytes(bytes.get(12..FILES_AT)?.try_into().ok()?) as usize;
    if !(1..=MAX_FILES).contains(&count) || bytes[..8] != MAGIC || bytes[8..12] != FORMAT.to_le_bytes() {
        return None;
    }
    let (head, hash) = bytes.get(..table_length(count))?.split_at(table_length(count) - HASH_LENGTH);
    if blake3::hash(head).as_bytes() != hash {
        return None;
    }
    let (mut files, mut at) = (Vec::with_capacity(count), table_length(count) as u64);
    for entry in head[FILES_AT..].chunks_exact(FILE_LENGTH) {
        let (version, hash) = entry.split_at(VERSION_LENGTH);
        let version = Reader::new(Bytes::copy_from_slice(version)).version().ok().filter(is_small)?;
        let (offset, length) = (u32::try_from(at).ok()?, u32::try_from(version.size).ok()?);
        let hash = ChunkHash(hash.try_into().ok()?);
        files.push(Bundled { file: key_of(&version), offset, length, hash });
        at += version.size;
    }
    Some(Table { key: FileKey(hash[..16].try_into().ok()?), files, length: at })
}

const fn table_length(files: usize) -> usize {
    FILES_AT + files * FILE_LENGTH + HASH_LENGTH
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{chunk, version};
    use super::*;

    #[test]
    fn a_table_tells_where_files_lie_and_notices_every_flipped_bit() {
        let files: Vec<_> = [10, 4096, CHUNK_SIZE - 1].map(|size| version(size, size)).to_vec();
        let chunks: Vec<_> = files.iter().map(|version| chunk(version, 0)).collect();
        let (table, bytes) = of(files.iter().zip(&chunks));
        assert_eq!(table.length, bytes.len() as u64);
        for ((version, chunk), bundled) in files.iter().zip(&chunks).zip(&table.files) {
            assert_eq!((bundled.file, bundled.hash), (key_of(version), chunk.hash));
            let (from, length) = (bundled.offset as usize, bundled.length as usize);
            assert_eq!(bytes[from..][..length], chunk.data);
        }
        let end = table_length(3);
        assert_eq!(table_in(&bytes[..end]), Some(table));
        assert_eq!(table_in(&bytes[..end - 1]), None);
        for bit in 0..end * 8 {
            let mut torn = bytes[..end].to_vec();
            torn[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(table_in(&torn), None, "bit {bit}");
        }
    }
}
