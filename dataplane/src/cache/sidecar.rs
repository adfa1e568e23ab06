//! The bytes of a sidecar: where each field lies, and its header. The parent module tells the format.

use crate::model::eviction::{FileKey, Place, SEGMENT_CHUNKS};
use bytes::{BufMut, Bytes, BytesMut};
use globalfs_proto::limits::CHUNK_SIZE;
use globalfs_proto::{Reader, Version, Writer};

/// Bytes of a page, the sidecar's part for one segment.
pub(super) const PAGE: u64 = 4096;
/// Bytes of a hash.
pub(super) const HASH_LENGTH: usize = 32;
/// Bytes from the start of a file that hold key, mask and header.
pub(super) const FIRST_LENGTH: usize = HEADER_AT + HEADER_LENGTH;

const HEADER_AT: usize = 64;
const HEADER_LENGTH: usize = 56 + HASH_LENGTH;
const HASHES_AT: u64 = 2048;
const MAGIC: [u8; 8] = *b"GLFSSIDE";
const FORMAT: u32 = 1;

const _: () = assert!(HASHES_AT + SEGMENT_CHUNKS as u64 * HASH_LENGTH as u64 == PAGE);
const _: () = assert!(FIRST_LENGTH as u64 <= HASHES_AT);

/// The name of a version's files.
pub(super) fn key_of(version: &Version) -> FileKey {
    let mut wire = Writer::new();
    wire.version(version);
    let hash = blake3::hash(&wire.finish());
    FileKey(hash.as_bytes()[..16].try_into().expect("16 of 32 bytes"))
}

/// Where a segment's page begins.
pub(super) fn page_offset(segment: u32) -> u64 {
    u64::from(segment) * PAGE
}

/// Where a chunk's hash lies.
pub(super) fn hash_offset(place: &Place) -> u64 {
    let chunk = u64::from(place.bit.trailing_zeros());
    page_offset(place.segment.number) + HASHES_AT + chunk * HASH_LENGTH as u64
}

/// The first bytes of a page: whose it is, and which chunks are present.
pub(super) fn page_start(key: FileKey, present: u64) -> Bytes {
    let mut bytes = BytesMut::with_capacity(24);
    bytes.put_slice(&key.0);
    bytes.put_u64_le(present);
    bytes.freeze()
}

/// The first bytes of a new sidecar.
pub(super) fn first_bytes(key: FileKey, version: &Version) -> Vec<u8> {
    let mut bytes = page_start(key, 0).to_vec();
    bytes.resize(HEADER_AT, 0);
    let mut header = Writer::new();
    MAGIC.iter().for_each(|b| {
        header.u8(*b);
    });
    header.u32(FORMAT).u32(CHUNK_SIZE as u32).version(version);
    let header = header.finish();
    bytes.extend_from_slice(&header);
    bytes.extend_from_slice(blake3::hash(&header).as_bytes());
    bytes
}

/// The version in a sidecar's header; `None` when the header is damaged or of another format.
pub(super) fn version_in(first: &[u8]) -> Option<Version> {
    let header = first.get(HEADER_AT..FIRST_LENGTH)?;
    let (fields, hash) = header.split_at(56);
    let mut reader = Reader::new(Bytes::copy_from_slice(fields));
    let magic: Vec<u8> = (0..8).map(|_| reader.u8()).collect::<Result<_, _>>().ok()?;
    let known = magic == MAGIC && reader.u32() == Ok(FORMAT) && reader.u32() == Ok(CHUNK_SIZE as u32);
    (known && blake3::hash(fields).as_bytes() == hash).then(|| reader.version().ok())?
}

/// The mask of a page; 0 when the page is torn or another file's.
pub(super) fn present_in(page: &[u8], key: FileKey) -> u64 {
    match (page.get(..16), page.get(16..24)) {
        (Some(owner), Some(mask)) if owner == key.0 => {
            u64::from_le_bytes(mask.try_into().expect("8 bytes were taken"))
        }
        _ => 0,
    }
}

/// The stored hash of the page's chunk `bit_number`; zeros where the page ends before it.
pub(super) fn hash_in(page: &[u8], bit_number: u32) -> &[u8] {
    let start = HASHES_AT as usize + bit_number as usize * HASH_LENGTH;
    page.get(start..start + HASH_LENGTH).unwrap_or(&[0; HASH_LENGTH])
}

#[cfg(test)]
mod tests {
    use super::*;
    use globalfs_proto::FileId;

    #[test]
    fn the_header_has_its_documented_form_and_notices_every_flipped_bit() {
        let file = FileId { origin: 1, inode: 2 };
        let version = Version { file, size: 3, mtime_ns: 4, ctime_ns: 5 };
        let key = key_of(&version);
        let first = first_bytes(key, &version);
        assert_eq!((first.len(), &first[..16], &first[64..72]), (FIRST_LENGTH, &key.0[..], &b"GLFSSIDE"[..]));
        assert_eq!(first[72..80], [1, 0, 0, 0, 0, 0, 2, 0], "format 1, chunks of 128 KiB");
        assert_eq!(version_in(&first), Some(version));
        for bit in HEADER_AT * 8..FIRST_LENGTH * 8 {
            let mut torn = first.clone();
            torn[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(version_in(&torn), None, "bit {bit}");
        }
        assert_eq!(version_in(&first[..FIRST_LENGTH - 1]), None);
    }

    #[test]
    fn a_page_of_another_file_says_nothing() {
        let (mine, other) = (FileKey([1; 16]), FileKey([2; 16]));
        assert_eq!(present_in(&page_start(mine, 5), mine), 5);
        assert_eq!(present_in(&page_start(other, 5), mine), 0);
        assert_eq!(present_in(&[1; 20], mine), 0);
    }
}
