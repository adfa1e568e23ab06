//! The messages of the data plane, `globalfs/1`: one request per stream, then frames of answer.
//!
//! A frame on the wire is a 32-bit little-endian length and that many bytes of one message; a
//! [`Response::Chunk`] or [`Response::Pack`] is followed by its encoded bytes outside the frame.

use crate::attr::{Attr, FsStat, Version};
use crate::bulk::{PackHeader, WantedFile, decode_files, encode_files};
use crate::change::Change;
use crate::changed::Changed;
use crate::chunk::{ChunkHash, ChunkIndex};
use crate::codec::{DecodeError, Reader, Writer};
use crate::error::{FsError, decode_error, encode_error};
use crate::home::{BringHome, Fence, Settled};
use crate::limits::{
    CHUNK_SIZE, MAX_CHUNKS_PER_READ, MAX_CONTENT_ALONG, MAX_ENTRIES_BELOW, MAX_HASHES_PER_FRAME,
    MAX_HASHES_PER_REQUEST, MAX_HEARTBEAT, MIN_HEARTBEAT,
};
use crate::listing::{self, Changes, DirectoryPart};
use crate::lock::{KeepLocks, LockRequest, Locked};
use crate::path::GlobalPath;
use crate::trace::{PutTrace, TraceName, decode_name};
use crate::warm::{Warm, Warmed};
use bytes::Bytes;
use std::time::Duration;

/// What precedes each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHeader {
    /// Milliseconds that the caller will still wait.
    pub deadline_ms: u32,
}

/// What a peer can be asked. Paths are of the namespace; no request follows a symbolic link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Attributes of a path. Answer: [`Response::Attr`].
    Stat(GlobalPath),
    /// A whole directory with attributes, then what is below it. Answer: the [`Response::Directory`] parts of
    /// the directory, then for directories below it, breadth first, their parts or [`Response::LeftOut`].
    List {
        /// The directory.
        path: GlobalPath,
        /// Entries that may be told of directories below it, at most [`MAX_ENTRIES_BELOW`].
        below: u32,
        /// The subscription to which changes of what is told shall be told; 0: none.
        subscription: u64,
    },
    /// The target of a symbolic link. Answer: [`Response::Bytes`].
    ReadLink(GlobalPath),
    /// One extended attribute. Answer: [`Response::Bytes`].
    GetXattr(GlobalPath, Bytes),
    /// The names of extended attributes, each with a final NUL. Answer: [`Response::Bytes`].
    ListXattr(GlobalPath),
    /// Totals of the file system that holds a path. Answer: [`Response::FsStat`].
    FsStat(GlobalPath),
    /// Chunks of one version. Answer: a [`Response::Chunk`] for each, in order, or an error in between.
    Read {
        /// The file.
        path: GlobalPath,
        /// The content that is wanted; if it is no longer there the answer is [`FsError::Stale`].
        version: Version,
        /// The first chunk.
        first: ChunkIndex,
        /// How many, 1 to [`MAX_CHUNKS_PER_READ`].
        count: u32,
    },
    /// Does nothing, measures the round trip. Answer: [`Response::Bytes`], empty.
    Ping,
    /// The hashes of chunks of one version. Answer: [`Response::Hashes`] until all are told, in order, or an
    /// error in between.
    Hashes {
        /// The file.
        path: GlobalPath,
        /// The content that is meant; if it is no longer there the answer is [`FsError::Stale`].
        version: Version,
        /// The first chunk.
        first: ChunkIndex,
        /// How many, 1 to [`MAX_HASHES_PER_REQUEST`].
        count: u32,
    },
    /// Attributes of a path, and with them what is likely to be asked next. Answer: perhaps the [`Response::Chunk`] that is all
    /// of the file; [`Response::Attr`] or [`Response::Missing`]; then for the directory itself, the one that holds the path, and
    /// those below it, breadth first, their [`Response::Directory`] parts or [`Response::LeftOut`].
    Lookup {
        /// The path.
        path: GlobalPath,
        /// Entries that may be told in all, at most [`MAX_ENTRIES_BELOW`]; with 0 no directory is told.
        below: u32,
        /// Bytes, at most [`MAX_CONTENT_ALONG`], of a file's content that may be told if it was changed just now.
        content: u32,
        /// The subscription to which changes of what is told shall be told; 0: none.
        subscription: u64,
    },
    /// What changes. Answer: [`Response::Changes`], the first at once, until the deadline.
    Watch {
        /// Chosen by the client, not 0; further requests name it.
        subscription: u64,
        /// The longest silence, [`MIN_HEARTBEAT`] to [`MAX_HEARTBEAT`].
        heartbeat_ms: u32,
    },
    /// Small files, whole. Answer: a [`Response::Pack`] after the other, until each file is complete or failed.
    ReadFiles(Vec<WantedFile>),
    /// Brings chunks into the peer's cache. Answer: [`Response::Warmed`] until every part has ended.
    Warm(Warm),
    /// Keeps what a job read. Answer: [`Response::Bytes`], empty.
    PutTrace(PutTrace),
    /// A trace. Answer: [`Response::Bytes`], its stored form; `ENOENT` when there is none.
    GetTrace(TraceName),
    /// All traces. Answer: [`Response::Bytes`], as [`crate::trace::encode_summaries`] makes them.
    ListTraces,
    /// Forgets a trace. Answer: [`Response::Bytes`], empty; `ENOENT` when there is none.
    RemoveTrace(TraceName),
    /// Changes a name, attributes or content. Answer: [`Response::Changed`].
    Change(Change),
    /// The site that asks holds a write lease on a subtree whose home is here: nothing is changed there by this site from
    /// the answer on. Answer: [`Response::Bytes`], empty.
    TakeOver {
        /// The subtree.
        scope: GlobalPath,
        /// The lease's epoch.
        fence: Fence,
    },
    /// What a holder has changed is to come home. Answer: a [`Response::Settled`] for each path, in any order.
    BringHome(BringHome),
    /// Sets, tests and gives up locks. Answer: [`Response::Locked`].
    Lock(LockRequest),
    /// Begins, keeps and ends the session that locks belong to. Answer: [`Response::Locked`].
    KeepLocks(KeepLocks),
    /// Where data, or a hole, of one version begins at or behind an offset; `ENXIO` when nowhere. Answer:
    /// [`Response::Offset`].
    Seek(Seek),
    /// The site that asks masters a file, and waits until a replica at this site is of this content. Answer:
    /// [`Response::Bytes`], empty.
    Replicate(GlobalPath, Attr),
}

/// What [`Request::Seek`] looks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seek {
    /// The file.
    pub path: GlobalPath,
    /// The content that is meant; if it is no longer there the answer is [`FsError::Stale`].
    pub version: Version,
    /// From where on.
    pub offset: u64,
    /// A hole, not data.
    pub hole: bool,
}

/// How the bytes of a chunk travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ChunkEncoding {
    /// As they are.
    Raw = 0,
    /// One zstd frame.
    Zstd = 1,
    /// No bytes: the chunk is all zeros.
    Zero = 2,
    /// One zstd frame of the chunk as planes: byte 0 of each of its 4-byte numbers, then all bytes 1, 2, 3;
    /// what is left over behind the last whole number follows as it is.
    Shuffle4 = 3,
    /// The same for 8-byte numbers.
    Shuffle8 = 4,
}

impl ChunkEncoding {
    /// How many there are.
    pub const COUNT: usize = 5;

    /// Every encoding in the order of its number.
    pub const ALL: [Self; Self::COUNT] = [Self::Raw, Self::Zstd, Self::Zero, Self::Shuffle4, Self::Shuffle8];

    /// Its name for people and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Zstd => "zstd",
            Self::Zero => "zero",
            Self::Shuffle4 => "shuffle4",
            Self::Shuffle8 => "shuffle8",
        }
    }
}

/// What precedes the bytes of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkHeader {
    /// Which chunk of the file.
    pub index: ChunkIndex,
    /// How its bytes travel.
    pub encoding: ChunkEncoding,
    /// Bytes that follow on the wire, at most [`CHUNK_SIZE`].
    pub wire_length: u32,
    /// Bytes after decoding, 1 to [`CHUNK_SIZE`].
    pub length: u32,
    /// BLAKE3 of the decoded bytes.
    pub hash: ChunkHash,
}

/// A frame of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// Attributes.
    Attr(Attr),
    /// A part of a directory.
    Directory(DirectoryPart),
    /// A link's target, an attribute's value, a list of names, or nothing.
    Bytes(Bytes),
    /// Totals of a file system.
    FsStat(FsStat),
    /// The chunk whose bytes follow this frame.
    Chunk(ChunkHeader),
    /// The request failed; nothing follows.
    Error(FsError),
    /// Hashes of consecutive chunks, 1 to [`MAX_HASHES_PER_FRAME`].
    Hashes {
        /// The chunk of the first hash.
        first: ChunkIndex,
        /// The hashes.
        hashes: Vec<ChunkHash>,
    },
    /// The path that was looked up does not exist.
    Missing,
    /// What became out of date since the last of these; nothing, as a sign of life.
    Changes(Changes),
    /// A directory that is not told in this answer, so that nobody waits for it.
    LeftOut(GlobalPath),
    /// The pack whose bytes follow this frame.
    Pack(PackHeader),
    /// How far the warming of one part is.
    Warmed(Warmed),
    /// What came of a change.
    Changed(Changed),
    /// A path is home, or why it is not.
    Settled(Settled),
    /// What came of a lock.
    Locked(Locked),
    /// A place in a file, in bytes from its beginning.
    Offset(u64),
}

impl Request {
    /// Whether it may be asked again by who does not know whether it was carried out. No change may: the first one may be
    /// late, and then it would undo what was changed after the second was answered.
    pub fn may_repeat(&self) -> bool {
        match self {
            Self::Change(change) => change.is_without_effect(),
            // Who does not know what came of it says what it holds.
            Self::Lock(_) => false,
            // Bringing home too: what comes late is told by its number.
            _ => true,
        }
    }

    /// The frame of this request behind its header.
    pub fn encode(&self, header: RequestHeader) -> Bytes {
        self.write(header).finish()
    }

    /// The same in two parts, the second one content that was not copied, or nothing.
    pub fn encode_apart(&self, header: RequestHeader) -> [Bytes; 2] {
        self.write(header).finish_apart()
    }

    fn write(&self, header: RequestHeader) -> Writer {
        let mut w = Writer::new();
        w.u32(header.deadline_ms);
        match self {
            Self::Stat(path) => w.u8(1).path(path),
            Self::List { path, below, subscription } => w.u8(2).path(path).u32(*below).u64(*subscription),
            Self::ReadLink(path) => w.u8(3).path(path),
            Self::GetXattr(path, name) => w.u8(4).path(path).bytes(name),
            Self::ListXattr(path) => w.u8(5).path(path),
            Self::FsStat(path) => w.u8(6).path(path),
            Self::Read { path, version, first, count } => {
                w.u8(7).path(path).version(version).u64(first.0).u32(*count)
            }
            Self::Ping => w.u8(8),
            Self::Hashes { path, version, first, count } => {
                w.u8(12).path(path).version(version).u64(first.0).u32(*count)
            }
            Self::Lookup { path, below, content, subscription } => {
                w.u8(9).path(path).u32(*below).u32(*content).u64(*subscription)
            }
            Self::Watch { subscription, heartbeat_ms } => w.u8(10).u64(*subscription).u32(*heartbeat_ms),
            Self::ReadFiles(files) => encode_files(w.u8(11), files),
            Self::Warm(warm) => warm.encode(w.u8(13)),
            Self::PutTrace(put) => put.encode(w.u8(14)),
            Self::GetTrace(name) => w.u8(15).bytes(name.as_str().as_bytes()),
            Self::ListTraces => w.u8(16),
            Self::RemoveTrace(name) => w.u8(17).bytes(name.as_str().as_bytes()),
            Self::Change(change) => change.encode(w.u8(18)),
            Self::TakeOver { scope, fence } => w.u8(19).path(scope).u64(fence.0),
            Self::BringHome(bring) => bring.encode(w.u8(20)),
            Self::Lock(lock) => lock.encode(w.u8(21)),
            Self::KeepLocks(keep) => keep.encode(w.u8(22)),
            Self::Seek(Seek { path, version, offset, hole }) => {
                w.u8(23).path(path).version(version).u64(*offset).u8((*hole).into())
            }
            Self::Replicate(path, attr) => w.u8(24).path(path).attr(attr),
        };
        w
    }

    /// The request in `frame`.
    pub fn decode(frame: Bytes) -> Result<(RequestHeader, Self), DecodeError> {
        let mut r = Reader::new(frame);
        let header = RequestHeader { deadline_ms: r.u32()? };
        let request = match r.u8()? {
            1 => Self::Stat(r.path()?),
            2 => Self::List {
                path: r.path()?,
                below: r.up_to(MAX_ENTRIES_BELOW, "the number of entries")?,
                subscription: r.u64()?,
            },
            3 => Self::ReadLink(r.path()?),
            4 => Self::GetXattr(r.path()?, r.bytes()?),
            5 => Self::ListXattr(r.path()?),
            6 => Self::FsStat(r.path()?),
            7 => Self::decode_read(&mut r)?,
            8 => Self::Ping,
            12 => Self::decode_hashes(&mut r)?,
            9 => {
                let (path, below) = (r.path()?, r.up_to(MAX_ENTRIES_BELOW, "the number of entries")?);
                let content = r.up_to(MAX_CONTENT_ALONG, "the length of the content")?;
                Self::Lookup { path, below, content, subscription: r.u64()? }
            }
            10 => Self::decode_watch(&mut r)?,
            11 => Self::ReadFiles(decode_files(&mut r)?),
            13 => Self::Warm(Warm::decode(&mut r)?),
            14 => Self::PutTrace(PutTrace::decode(&mut r)?),
            15 => Self::GetTrace(decode_name(&mut r)?),
            16 => Self::ListTraces,
            17 => Self::RemoveTrace(decode_name(&mut r)?),
            18 => Self::Change(Change::decode(&mut r)?),
            19 => Self::TakeOver { scope: r.path()?, fence: Fence(r.u64()?) },
            20 => Self::BringHome(BringHome::decode(&mut r)?),
            21 => Self::Lock(LockRequest::decode(&mut r)?),
            22 => Self::KeepLocks(KeepLocks::decode(&mut r)?),
            23 => Self::decode_seek(&mut r)?,
            24 => Self::Replicate(r.path()?, r.attr()?),
            other => return Err(DecodeError::Unknown("request", other)),
        };
        r.finish().map(|()| (header, request))
    }

    fn decode_read(r: &mut Reader) -> Result<Self, DecodeError> {
        let (path, version) = (r.path()?, r.version()?);
        let (first, count) = decode_span(r, MAX_CHUNKS_PER_READ)?;
        Ok(Self::Read { path, version, first, count })
    }

    fn decode_hashes(r: &mut Reader) -> Result<Self, DecodeError> {
        let (path, version) = (r.path()?, r.version()?);
        let (first, count) = decode_span(r, MAX_HASHES_PER_REQUEST)?;
        Ok(Self::Hashes { path, version, first, count })
    }

    fn decode_seek(r: &mut Reader) -> Result<Self, DecodeError> {
        let (path, version, offset) = (r.path()?, r.version()?, r.u64()?);
        let hole = match r.u8()? {
            0 => false,
            1 => true,
            other => return Err(DecodeError::Unknown("thing to seek", other)),
        };
        Ok(Self::Seek(Seek { path, version, offset, hole }))
    }

    fn decode_watch(r: &mut Reader) -> Result<Self, DecodeError> {
        let (subscription, heartbeat_ms) = (r.u64()?, r.u32()?);
        let heartbeat = Duration::from_millis(heartbeat_ms.into());
        if subscription == 0 || !(MIN_HEARTBEAT..=MAX_HEARTBEAT).contains(&heartbeat) {
            return Err(DecodeError::OutOfRange("a subscription"));
        }
        Ok(Self::Watch { subscription, heartbeat_ms })
    }
}

impl Response {
    /// The frame of this answer.
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::new();
        match self {
            Self::Attr(attr) => w.u8(1).attr(attr),
            Self::Directory(part) => listing::encode_part(w.u8(2), part),
            Self::Bytes(bytes) => w.u8(3).bytes(bytes),
            Self::FsStat(stat) => w.u8(4).fs_stat(stat),
            Self::Chunk(h) => {
                w.u8(5).u64(h.index.0).u8(h.encoding as u8).u32(h.wire_length).u32(h.length).hash(&h.hash)
            }
            Self::Error(error) => encode_error(w.u8(6), error),
            Self::Hashes { first, hashes } => {
                w.u8(10).u64(first.0).u32(u32::try_from(hashes.len()).expect("hashes fit a frame"));
                hashes.iter().fold(&mut w, |w, hash| w.hash(hash))
            }
            Self::Missing => w.u8(7),
            Self::Changes(changes) => listing::encode_changes(w.u8(8), changes),
            Self::LeftOut(path) => w.u8(12).path(path),
            Self::Pack(header) => header.encode(w.u8(9)),
            Self::Warmed(step) => step.encode(w.u8(11)),
            Self::Changed(changed) => changed.encode(w.u8(13)),
            Self::Settled(settled) => settled.encode(w.u8(14)),
            Self::Locked(locked) => locked.encode(w.u8(15)),
            Self::Offset(offset) => w.u8(16).u64(*offset),
        };
        w.finish()
    }

    /// The answer in `frame`.
    pub fn decode(frame: Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(frame);
        let response = match r.u8()? {
            1 => Self::Attr(r.attr()?),
            2 => Self::Directory(listing::decode_part(&mut r)?),
            3 => Self::Bytes(r.bytes()?),
            4 => Self::FsStat(r.fs_stat()?),
            5 => Self::Chunk(decode_chunk(&mut r)?),
            6 => Self::Error(decode_error(&mut r)?),
            10 => decode_hashes(&mut r)?,
            7 => Self::Missing,
            8 => Self::Changes(listing::decode_changes(&mut r)?),
            12 => Self::LeftOut(r.path()?),
            9 => Self::Pack(PackHeader::decode(&mut r)?),
            11 => Self::Warmed(Warmed::decode(&mut r)?),
            13 => Self::Changed(Changed::decode(&mut r)?),
            14 => Self::Settled(Settled::decode(&mut r)?),
            15 => Self::Locked(Locked::decode(&mut r)?),
            16 => Self::Offset(r.u64()?),
            other => return Err(DecodeError::Unknown("response", other)),
        };
        r.finish().map(|()| response)
    }
}

/// The first chunk and the number of chunks, 1 to `most`.
fn decode_span(r: &mut Reader, most: u32) -> Result<(ChunkIndex, u32), DecodeError> {
    let (first, count) = (ChunkIndex(r.u64()?), r.u32()?);
    if count == 0 || count > most || first.0.checked_add(count.into()).is_none() {
        return Err(DecodeError::OutOfRange("the number of chunks"));
    }
    Ok((first, count))
}

fn decode_hashes(r: &mut Reader) -> Result<Response, DecodeError> {
    let (first, count) = (ChunkIndex(r.u64()?), r.u32()?);
    let most = MAX_HASHES_PER_FRAME.min(r.remaining() / 32);
    if count == 0 || count as usize > most || first.0.checked_add(count.into()).is_none() {
        return Err(DecodeError::OutOfRange("the number of hashes"));
    }
    let hashes = (0..count).map(|_| r.hash()).collect::<Result<_, _>>()?;
    Ok(Response::Hashes { first, hashes })
}

fn decode_chunk(r: &mut Reader) -> Result<ChunkHeader, DecodeError> {
    let index = ChunkIndex(r.u64()?);
    let number = r.u8()?;
    let encoding = ChunkEncoding::ALL.get(usize::from(number)).copied();
    let encoding = encoding.ok_or(DecodeError::Unknown("chunk encoding", number))?;
    let (wire_length, length, hash) = (r.u32()?, r.u32()?, r.hash()?);
    if u64::from(wire_length) > CHUNK_SIZE || length == 0 || u64::from(length) > CHUNK_SIZE {
        return Err(DecodeError::OutOfRange("the length of a chunk"));
    }
    Ok(ChunkHeader { index, encoding, wire_length, length, hash })
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
