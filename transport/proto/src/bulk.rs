//! Many small files in one request, and the packs in which they come: blocks of records, each a chunk of one of
//! the files or the reason why a file does not come.
//!
//! Paths that follow each other and share a directory are sent as the directory and their names.

use crate::attr::Version;
use crate::chunk::{ChunkHash, ChunkIndex, chunk_count};
use crate::codec::{DecodeError, Reader, Writer};
use crate::error::FsError;
use crate::error::{decode_error, encode_error};
use crate::limits::{
    CHUNK_SIZE, MAX_FILES_FRAME, MAX_FILES_PER_REQUEST, MAX_PACK, MAX_PACKED_BYTES, MAX_PACKED_FILE,
};
use crate::message::ChunkEncoding;
use crate::path::GlobalPath;
use bytes::Bytes;
use std::ops::Range;

/// Bytes of a file in a request beside its name: a length and the version.
const FILE_SIZE: usize = 4 + 40;

/// Bytes of a directory in a request beside its path: a length and the number of its files.
const DIRECTORY_SIZE: usize = 4 + 4;

/// Bytes of a request before its files: deadline, kind, number of directories.
const REQUEST_SIZE: usize = 4 + 1 + 4;

/// Bytes of a chunk's record beside its data: file, kind, index, hash, length.
pub const RECORD_SIZE: usize = 4 + 1 + 4 + 32 + 4;

/// A file that is wanted whole, in one content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedFile {
    /// The file.
    pub path: GlobalPath,
    /// The content; if it is no longer there, the file's record tells [`FsError::Stale`].
    pub version: Version,
}

impl WantedFile {
    /// Whether it may be asked for in bulk: not empty, and small.
    pub fn is_small(&self) -> bool {
        (1..=MAX_PACKED_FILE).contains(&self.version.size) && !self.path.is_root()
    }

    /// The number of its chunks.
    pub fn chunks(&self) -> u64 {
        chunk_count(self.version.size)
    }

    fn directory(&self) -> GlobalPath {
        self.path.parent().unwrap_or_else(GlobalPath::root)
    }
}

/// Parts of `files`, all of them small, that one request may ask for each.
pub fn requests(files: &[WantedFile]) -> Vec<Range<usize>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    let (mut frame, mut bytes) = (usize::MAX, u64::MAX);
    for (at, file) in files.iter().enumerate() {
        let same_directory =
            at.checked_sub(1).is_some_and(|last| files[last].directory() == file.directory());
        let directory = DIRECTORY_SIZE + file.path.as_bytes().len();
        let alone = FILE_SIZE + directory;
        let cost = if same_directory { FILE_SIZE + file.path.name().len() } else { alone + directory };
        (frame, bytes) = (frame.saturating_add(cost), bytes.saturating_add(file.version.size));
        match parts.last_mut() {
            Some(part)
                if part.len() < MAX_FILES_PER_REQUEST
                    && frame <= MAX_FILES_FRAME
                    && bytes <= MAX_PACKED_BYTES =>
            {
                part.end = at + 1;
            }
            _ => {
                parts.push(at..at + 1);
                (frame, bytes) = (REQUEST_SIZE + alone + directory, file.version.size);
            }
        }
    }
    parts
}

pub(crate) fn encode_files<'w>(w: &'w mut Writer, files: &[WantedFile]) -> &'w mut Writer {
    let groups = || files.chunk_by(|a, b| a.directory() == b.directory());
    w.u32(groups().count() as u32);
    for group in groups() {
        w.path(&group[0].directory()).u32(group.len() as u32);
        for file in group {
            w.bytes(file.path.name()).version(&file.version);
        }
    }
    w
}

pub(crate) fn decode_files(r: &mut Reader) -> Result<Vec<WantedFile>, DecodeError> {
    let (mut files, mut bytes) = (Vec::new(), 0);
    for _ in 0..r.u32()? {
        let (directory, count) = (r.path()?, r.u32()? as usize);
        if count == 0 || count > MAX_FILES_PER_REQUEST - files.len() {
            return Err(DecodeError::OutOfRange("the number of files"));
        }
        for _ in 0..count {
            let file = WantedFile { path: directory.join(&r.bytes()?)?, version: r.version()? };
            bytes += file.version.size.min(MAX_PACKED_BYTES + 1);
            if !file.is_small() || bytes > MAX_PACKED_BYTES {
                return Err(DecodeError::OutOfRange("the size of the files"));
            }
            files.push(file);
        }
    }
    if files.is_empty() { Err(DecodeError::OutOfRange("the number of files")) } else { Ok(files) }
}

/// What precedes the bytes of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackHeader {
    /// How its bytes travel: raw, or as one zstd frame.
    pub encoding: ChunkEncoding,
    /// Bytes that follow on the wire, at most [`MAX_PACK`].
    pub wire_length: u32,
    /// Bytes after decoding, 1 to [`MAX_PACK`].
    pub length: u32,
}

impl PackHeader {
    pub(crate) fn encode(self, w: &mut Writer) -> &mut Writer {
        w.u8(self.encoding as u8).u32(self.wire_length).u32(self.length)
    }

    pub(crate) fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        let encoding = match r.u8()? {
            0 => ChunkEncoding::Raw,
            1 => ChunkEncoding::Zstd,
            other => return Err(DecodeError::Unknown("pack encoding", other)),
        };
        let (wire_length, length) = (r.u32()?, r.u32()?);
        if wire_length as usize > MAX_PACK || length == 0 || length as usize > MAX_PACK {
            return Err(DecodeError::OutOfRange("the length of a pack"));
        }
        Ok(Self { encoding, wire_length, length })
    }
}

/// A part of a pack: what is told of one of the files that were asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its place in the request.
    pub file: u32,
    /// One of its chunks, or why it does not come; after an error no more is told of the file.
    pub told: Result<PackedChunk, FsError>,
}

/// One chunk in a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedChunk {
    /// Which chunk of the file.
    pub index: ChunkIndex,
    /// BLAKE3 of `data`, to be checked by the receiver.
    pub hash: ChunkHash,
    /// Its bytes, 1 to [`CHUNK_SIZE`].
    pub data: Bytes,
}

impl Record {
    /// Appends the record to a pack.
    pub fn encode(&self, w: &mut Writer) {
        match &self.told {
            Ok(chunk) => {
                let index = u32::try_from(chunk.index.0).expect("a packed file is small");
                w.u32(self.file).u8(0).u32(index).hash(&chunk.hash).bytes(&chunk.data)
            }
            Err(error) => encode_error(w.u32(self.file).u8(1), error),
        };
    }

    fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        let file = r.u32()?;
        let told = match r.u8()? {
            0 => Ok(PackedChunk { index: ChunkIndex(r.u32()?.into()), hash: r.hash()?, data: r.bytes()? }),
            1 => Err(decode_error(r)?),
            other => return Err(DecodeError::Unknown("record", other)),
        };
        match &told {
            Ok(chunk) if chunk.data.is_empty() || chunk.data.len() as u64 > CHUNK_SIZE => {
                Err(DecodeError::OutOfRange("the length of a chunk"))
            }
            _ => Ok(Self { file, told }),
        }
    }

    /// The records of a pack that was decoded; their data is shared with it.
    pub fn all(pack: Bytes) -> Result<Vec<Self>, DecodeError> {
        let (mut reader, mut records) = (Reader::new(pack), Vec::new());
        while reader.remaining() > 0 {
            records.push(Self::decode(&mut reader)?);
        }
        Ok(records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attr::FileId;
    use crate::message::{Request, RequestHeader, Response};
    use proptest::prelude::*;

    fn file(path: &str, size: u64) -> WantedFile {
        let file = FileId { origin: 1, inode: 2 };
        let version = Version { file, size, mtime_ns: 5, ctime_ns: -6 };
        WantedFile { path: GlobalPath::new(path.as_bytes()).unwrap(), version }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The bytes below are the protocol, as in `message_tests.rs`.
    #[test]
    fn the_request_has_its_frozen_form() {
        let files = vec![file("/a/b", 3), file("/a/c", 3), file("/d", 3)];
        let request = Request::ReadFiles(files);
        let frame = request.encode(RequestHeader { deadline_ms: 30_000 });
        let version = "010000000000000002000000000000000300000000000000\
                       0500000000000000faffffffffffffff";
        let want = format!(
            "307500000b02000000\
             020000002f6102000000\
             0100000062{version}0100000063{version}\
             010000002f01000000\
             0100000064{version}"
        );
        assert_eq!(hex(&frame), want);
        assert_eq!(Request::decode(frame).unwrap(), (RequestHeader { deadline_ms: 30_000 }, request));
    }

    #[test]
    fn packs_and_records_have_their_frozen_form() {
        let header = PackHeader { encoding: ChunkEncoding::Zstd, wire_length: 10, length: 20 };
        let response = Response::Pack(header);
        assert_eq!(hex(&response.encode()), "09010a00000014000000");
        assert_eq!(Response::decode(response.encode()).unwrap(), response);
        let data = Bytes::from_static(b"xy");
        let chunk = PackedChunk { index: ChunkIndex(7), hash: ChunkHash([0xab; 32]), data };
        let records =
            [Record { file: 1, told: Ok(chunk) }, Record { file: 2, told: Err(FsError::Stale(None)) }];
        let mut w = Writer::new();
        records.iter().for_each(|record| record.encode(&mut w));
        let pack = w.finish();
        let hash = "ab".repeat(32);
        assert_eq!(hex(&pack), format!("010000000007000000{hash}020000007879020000000102"));
        assert_eq!(pack.len(), RECORD_SIZE + 2 + 4 + 1 + 1);
        assert_eq!(Record::all(pack).unwrap(), records);
    }

    #[test]
    fn refuses_what_no_peer_may_ask() {
        let check = |files: Vec<WantedFile>, fine: bool| {
            let frame = Request::ReadFiles(files).encode(RequestHeader { deadline_ms: 1 });
            assert_eq!(Request::decode(frame).is_ok(), fine);
        };
        let many = |count: usize, size| (0..count).map(|n| file(&format!("/{n}"), size)).collect::<Vec<_>>();
        check(many(1, 1), true);
        check(vec![], false);
        check(many(1, 0), false);
        check(many(1, MAX_PACKED_FILE), true);
        check(many(1, MAX_PACKED_FILE + 1), false);
        check(many(1, u64::MAX), false);
        check(many(MAX_FILES_PER_REQUEST, 1), true);
        check(many(MAX_FILES_PER_REQUEST + 1, 1), false);
        check(many((MAX_PACKED_BYTES / MAX_PACKED_FILE) as usize, MAX_PACKED_FILE), true);
        check(many((MAX_PACKED_BYTES / MAX_PACKED_FILE) as usize + 1, MAX_PACKED_FILE), false);
    }

    fn any_file() -> impl Strategy<Value = WantedFile> {
        let name = prop_oneof![1..9_usize, 200..=255_usize];
        let size = prop_oneof![1..20_000_u64, 1..=MAX_PACKED_FILE];
        (0..4_usize, name, size).prop_map(|(directory, name, size)| {
            let directory = format!("/{}", "d".repeat(60)).repeat(directory);
            file(&format!("{directory}/{}", "n".repeat(name)), size)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn parts_cover_all_files_and_each_is_a_request(files in prop::collection::vec(any_file(), 0..1500)) {
            let parts = requests(&files);
            let mut next = 0;
            for part in parts {
                prop_assert_eq!(part.start, next);
                next = part.end;
                let request = Request::ReadFiles(files[part].to_vec());
                let frame = request.encode(RequestHeader { deadline_ms: 1 });
                prop_assert!(frame.len() <= MAX_FILES_FRAME);
                prop_assert_eq!(Request::decode(frame).unwrap().1, request);
            }
            prop_assert_eq!(next, files.len());
        }

        #[test]
        fn noise_is_no_pack(noise in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Record::all(noise.into());
        }
    }
}
