//! Warming: a peer is asked to bring chunks into its own cache, and tells how far it is. No data travels to
//! who asks.
//!
//! *Invariant:* what is decoded is within the limits: spans lie inside their file, and no request names more
//! than [`MAX_WARM_FILES`] files or [`MAX_WARM_CHUNKS`] chunks.

use crate::attr::Version;
use crate::chunk::{ByteRange, ChunkIndex, ChunkSpan};
use crate::codec::{DecodeError, Reader, Writer};
use crate::error::FsError;
use crate::error::{decode_error, encode_error};
use crate::limits::{CHUNK_SIZE, MAX_WARM_CHUNKS, MAX_WARM_FILES, WARM_FRAME_TARGET};
use crate::path::GlobalPath;

/// A part of one version of a file that is wanted in a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WarmFile {
    /// The file.
    pub path: GlobalPath,
    /// Its content.
    pub version: Version,
    /// The chunks, all inside the file.
    pub span: ChunkSpan,
}

/// What [`crate::Request::Warm`] asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warm {
    /// Whether what is missing is fetched; otherwise the answer only tells what is there.
    pub fetch: bool,
    /// The parts, in the order in which they will be read.
    pub files: Vec<WarmFile>,
}

/// A step of warming one part: what was added since the step before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warmed {
    /// Which part, counted from 0 in the request.
    pub file: u32,
    /// Bytes that were in the cache before.
    pub here_bytes: u64,
    /// Bytes that were brought.
    pub fetched_bytes: u64,
    /// Bytes that are not in the cache: nobody was asked to fetch them, or the cache had no room.
    pub missing_bytes: u64,
    /// The quota of the cache, disk space in bytes; `u64::MAX` where the bytes are at home and need none.
    pub quota_bytes: u64,
    /// How the part ended, if it did.
    pub end: Option<Result<(), FsError>>,
}

impl WarmFile {
    /// The bytes of the part, at least 1.
    pub fn bytes(&self) -> u64 {
        let start = self.span.first.0 * CHUNK_SIZE;
        let end = (self.span.first.0 + self.span.count).saturating_mul(CHUNK_SIZE).min(self.version.size);
        end.saturating_sub(start)
    }

    /// The whole file; `None` when it is empty.
    pub fn whole(path: GlobalPath, version: Version) -> Option<Self> {
        Some(Self { path, version, span: ByteRange::new(0, version.size)?.chunks() })
    }

    /// Whether the span is not empty and lies inside the file.
    pub fn is_inside(&self) -> bool {
        let last = self.span.count.checked_sub(1).and_then(|n| self.span.first.0.checked_add(n));
        last.and_then(|last| ChunkIndex(last).bytes(self.version.size)).is_some()
    }

    /// Bytes of its wire form.
    fn wire_length(&self) -> usize {
        const FIXED: usize = 4 + 40 + 8 + 4;
        FIXED + self.path.as_bytes().len()
    }
}

impl Warm {
    /// How many of `files` fit into one request, at least one. Spans above [`MAX_WARM_CHUNKS`] have to be cut
    /// before, by [`split`].
    pub fn batch(files: &[WarmFile]) -> usize {
        let (mut wire, mut chunks) = (0, 0);
        let fits = files.iter().take(MAX_WARM_FILES).take_while(|file| {
            wire += file.wire_length();
            chunks += file.span.count;
            wire <= WARM_FRAME_TARGET && chunks <= MAX_WARM_CHUNKS.into()
        });
        fits.count().max(1)
    }

    pub(crate) fn encode<'w>(&self, w: &'w mut Writer) -> &'w mut Writer {
        let count = u32::try_from(self.files.len()).expect("files fit a request");
        w.u8(self.fetch.into()).u32(count);
        for file in &self.files {
            let chunks = u32::try_from(file.span.count).expect("chunks fit a request");
            w.path(&file.path).version(&file.version).u64(file.span.first.0).u32(chunks);
        }
        w
    }

    pub(crate) fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        let (fetch, count) = (r.u8()? != 0, r.u32()? as usize);
        if count == 0 || count > MAX_WARM_FILES {
            return Err(DecodeError::OutOfRange("the number of files to warm"));
        }
        let files = (0..count).map(|_| decode_file(r)).collect::<Result<Vec<_>, _>>()?;
        let chunks: u64 = files.iter().map(|file| file.span.count).sum();
        if chunks > MAX_WARM_CHUNKS.into() {
            return Err(DecodeError::OutOfRange("the number of chunks to warm"));
        }
        Ok(Self { fetch, files })
    }
}

fn decode_file(r: &mut Reader) -> Result<WarmFile, DecodeError> {
    let (path, version) = (r.path()?, r.version()?);
    let span = ChunkSpan { first: ChunkIndex(r.u64()?), count: r.u32()?.into() };
    let file = WarmFile { path, version, span };
    if file.is_inside() { Ok(file) } else { Err(DecodeError::OutOfRange("the chunks to warm")) }
}

/// `file` in parts of at most [`MAX_WARM_CHUNKS`] chunks.
pub fn split(file: WarmFile) -> impl Iterator<Item = WarmFile> {
    let (most, span) = (u64::from(MAX_WARM_CHUNKS), file.span);
    (0..span.count.div_ceil(most)).map(move |n| {
        let first = ChunkIndex(span.first.0 + n * most);
        WarmFile { span: ChunkSpan { first, count: most.min(span.count - n * most) }, ..file.clone() }
    })
}

impl Warmed {
    pub(crate) fn encode<'w>(&self, w: &'w mut Writer) -> &'w mut Writer {
        w.u32(self.file).u64(self.here_bytes).u64(self.fetched_bytes).u64(self.missing_bytes);
        w.u64(self.quota_bytes);
        match &self.end {
            None => w.u8(0),
            Some(Ok(())) => w.u8(1),
            Some(Err(error)) => encode_error(w.u8(2), error),
        }
    }

    pub(crate) fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        let (file, here_bytes, fetched_bytes) = (r.u32()?, r.u64()?, r.u64()?);
        let (missing_bytes, quota_bytes) = (r.u64()?, r.u64()?);
        let end = match r.u8()? {
            0 => None,
            1 => Some(Ok(())),
            2 => Some(Err(decode_error(r)?)),
            other => return Err(DecodeError::Unknown("end of warming", other)),
        };
        Ok(Self { file, here_bytes, fetched_bytes, missing_bytes, quota_bytes, end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attr::FileId;
    use crate::message::{Request, RequestHeader, Response};

    fn file(name: &str, size: u64, first: u64, count: u64) -> WarmFile {
        let file = FileId { origin: 1, inode: 2 };
        let version = Version { file, size, mtime_ns: 5, ctime_ns: -6 };
        let span = ChunkSpan { first: ChunkIndex(first), count };
        WarmFile { path: GlobalPath::new(name.as_bytes()).unwrap(), version, span }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    fn request(files: Vec<WarmFile>) -> bytes::Bytes {
        Request::Warm(Warm { fetch: true, files }).encode(RequestHeader { deadline_ms: 1 })
    }

    #[test]
    fn messages_have_their_frozen_form() {
        let frame = request(vec![file("/a", 3, 0, 1)]);
        let again = Request::Warm(Warm { fetch: true, files: vec![file("/a", 3, 0, 1)] });
        let golden = "010000000d01010000000200000\
                      02f610100000000000000020000000000000003000000000000000500000000000000faffffffffffffff\
                      000000000000000001000000";
        assert_eq!(hex(&frame), golden);
        assert_eq!(Request::decode(frame).unwrap().1, again);
        let check = |end, golden: &str| {
            let step =
                Warmed { file: 7, here_bytes: 1, fetched_bytes: 2, missing_bytes: 3, quota_bytes: 4, end };
            let response = Response::Warmed(step);
            let head = "0b070000000100000000000000020000000000000003000000000000000400000000000000";
            assert_eq!(hex(&response.encode()), format!("{head}{golden}"));
            assert_eq!(Response::decode(response.encode()).unwrap(), response);
        };
        check(None, "00");
        check(Some(Ok(())), "01");
        check(Some(Err(FsError::NOT_FOUND)), "02010200000000000000");
    }

    #[test]
    fn refuses_what_no_peer_may_send() {
        assert!(Request::decode(request(vec![file("/a", CHUNK_SIZE + 1, 1, 1)])).is_ok());
        for bad in [
            vec![],
            vec![file("/a", 3, 0, 0)],
            vec![file("/a", 3, 1, 1)],
            vec![file("/a", 0, 0, 1)],
            vec![file("/a", u64::MAX, u64::MAX, 1)],
            vec![file("/a", 3, 0, 1); MAX_WARM_FILES + 1],
            vec![file("/a", u64::MAX, 0, u64::from(MAX_WARM_CHUNKS) + 1)],
        ] {
            assert!(Request::decode(request(bad)).is_err());
        }
    }

    #[test]
    fn batches_fit_a_request_and_parts_cover_a_file() {
        let long = format!("/{}", "x".repeat(255));
        let files = vec![file(&long, 3, 0, 1); 500];
        let count = Warm::batch(&files);
        assert!(count > 10 && count < 500);
        assert!(request(files[..count].to_vec()).len() <= WARM_FRAME_TARGET + 64);
        assert_eq!(Warm::batch(&[]), 1);
        let most = u64::from(MAX_WARM_CHUNKS);
        let whole = file("/a", (most * 2 + 1) * CHUNK_SIZE - 5, 0, most * 2 + 1);
        let parts: Vec<_> = split(whole.clone()).collect();
        assert_eq!(parts.iter().map(|part| part.span.count).collect::<Vec<_>>(), [most, most, 1]);
        assert_eq!(parts.iter().map(WarmFile::bytes).sum::<u64>(), whole.version.size);
    }
}
