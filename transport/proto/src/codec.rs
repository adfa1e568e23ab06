//! The frozen binary form of messages: little-endian integers of fixed width, byte strings behind a
//! 32-bit length. `docs/protocol.md` tells it for people; the golden tests in `message.rs` hold it still.
//!
//! *Invariant:* decoding never allocates more than the frame that it was given, and never panics.

use crate::attr::{Attr, FileId, FileKind, FsStat, Version};
use crate::chunk::ChunkHash;
use crate::path::{GlobalPath, PathError};
use bytes::{BufMut, Bytes, BytesMut};

/// Why bytes are not a message. The connection that sent them is closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The frame ends inside a field.
    #[error("the message ends too early")]
    Truncated,
    /// The frame goes on behind its last field.
    #[error("the message is followed by {0} unknown bytes")]
    Trailing(usize),
    /// A tag that this version does not know.
    #[error("unknown {0} {1}")]
    Unknown(&'static str, u8),
    /// A path that breaks the rules of [`GlobalPath`].
    #[error("bad path: {0}")]
    Path(#[from] PathError),
    /// A value outside its limit.
    #[error("{0} is outside its limit")]
    OutOfRange(&'static str),
}

/// Appends fields to a frame. What is large may stand at its end without being copied.
#[derive(Debug, Default)]
pub struct Writer(BytesMut, Bytes);

impl Writer {
    /// An empty frame.
    pub fn new() -> Self {
        Self::default()
    }

    /// The finished frame.
    pub fn finish(mut self) -> Bytes {
        self.0.extend_from_slice(&self.1);
        self.0.freeze()
    }

    /// The finished frame in two parts, of which the second was not copied.
    pub(crate) fn finish_apart(self) -> [Bytes; 2] {
        [self.0.freeze(), self.1]
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One byte.
    pub fn u8(&mut self, n: u8) -> &mut Self {
        self.0.put_u8(n);
        self
    }

    /// 32 bits.
    pub fn u32(&mut self, n: u32) -> &mut Self {
        self.0.put_u32_le(n);
        self
    }

    /// 64 bits.
    pub fn u64(&mut self, n: u64) -> &mut Self {
        self.0.put_u64_le(n);
        self
    }

    /// 64 bits with a sign.
    pub fn i64(&mut self, n: i64) -> &mut Self {
        self.0.put_i64_le(n);
        self
    }

    /// Bytes behind their length.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(u32::try_from(bytes.len()).expect("a field is below 4 GiB"));
        self.0.put_slice(bytes);
        self
    }

    /// The same at the end of the frame: nothing may follow.
    pub(crate) fn last_bytes(&mut self, bytes: &Bytes) -> &mut Self {
        self.u32(u32::try_from(bytes.len()).expect("a field is below 4 GiB"));
        self.1 = bytes.clone();
        self
    }

    /// Bytes whose number is known otherwise.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.put_slice(bytes);
        self
    }

    /// A hash.
    pub fn hash(&mut self, hash: &ChunkHash) -> &mut Self {
        self.0.put_slice(&hash.0);
        self
    }

    /// A path.
    pub fn path(&mut self, path: &GlobalPath) -> &mut Self {
        self.bytes(path.as_bytes())
    }

    /// A version, 40 bytes.
    pub fn version(&mut self, v: &Version) -> &mut Self {
        self.u64(v.file.origin).u64(v.file.inode).u64(v.size).i64(v.mtime_ns).i64(v.ctime_ns)
    }

    /// Attributes, 82 bytes.
    pub fn attr(&mut self, a: &Attr) -> &mut Self {
        self.version(&a.version()).u8(a.kind as u8).u32(a.mode).u32(a.nlink).u32(a.uid).u32(a.gid);
        self.u64(a.rdev).u64(a.blocks).i64(a.atime_ns).u8(u8::from(a.no_xattrs))
    }

    /// Totals of a file system.
    pub fn fs_stat(&mut self, s: &FsStat) -> &mut Self {
        self.u64(s.block_size).u64(s.blocks).u64(s.blocks_free).u64(s.blocks_available);
        self.u64(s.files).u64(s.files_free)
    }
}

/// Takes fields from a frame.
#[derive(Debug)]
pub struct Reader(Bytes);

impl Reader {
    /// Reads from the start of `frame`.
    pub fn new(frame: Bytes) -> Self {
        Self(frame)
    }

    /// Bytes not yet read.
    pub fn remaining(&self) -> usize {
        self.0.len()
    }

    /// Checks that nothing is left.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.0.is_empty() { Ok(()) } else { Err(DecodeError::Trailing(self.0.len())) }
    }

    fn take(&mut self, n: usize) -> Result<Bytes, DecodeError> {
        if n <= self.0.len() { Ok(self.0.split_to(n)) } else { Err(DecodeError::Truncated) }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let bytes = self.take(N)?;
        Ok(bytes[..].try_into().expect("take gives what was asked"))
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    /// 32 bits.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    /// 32 bits, at most `most`; otherwise `what` is said to be out of range.
    pub(crate) fn up_to(&mut self, most: u32, what: &'static str) -> Result<u32, DecodeError> {
        self.u32().and_then(|n| if n > most { Err(DecodeError::OutOfRange(what)) } else { Ok(n) })
    }

    /// 64 bits.
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    /// 64 bits with a sign.
    pub fn i64(&mut self) -> Result<i64, DecodeError> {
        self.array().map(i64::from_le_bytes)
    }

    /// Bytes behind their length, shared with the frame.
    pub fn bytes(&mut self) -> Result<Bytes, DecodeError> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    /// `length` bytes without a length before them, shared with the frame.
    pub fn raw(&mut self, length: usize) -> Result<Bytes, DecodeError> {
        self.take(length)
    }

    /// Text; what is not UTF-8 is replaced.
    pub fn text(&mut self) -> Result<String, DecodeError> {
        Ok(String::from_utf8_lossy(&self.bytes()?).into_owned())
    }

    /// A hash.
    pub fn hash(&mut self) -> Result<ChunkHash, DecodeError> {
        self.array().map(ChunkHash)
    }

    /// A path, checked.
    pub fn path(&mut self) -> Result<GlobalPath, DecodeError> {
        Ok(GlobalPath::new(&self.bytes()?)?)
    }

    /// A version.
    pub fn version(&mut self) -> Result<Version, DecodeError> {
        Ok(Version {
            file: FileId { origin: self.u64()?, inode: self.u64()? },
            size: self.u64()?,
            mtime_ns: self.i64()?,
            ctime_ns: self.i64()?,
        })
    }

    /// Attributes.
    pub fn attr(&mut self) -> Result<Attr, DecodeError> {
        let Version { file, size, mtime_ns, ctime_ns } = self.version()?;
        let kind = self.u8()?;
        let kind = FileKind::from_wire(kind).ok_or(DecodeError::Unknown("file kind", kind))?;
        let (mode, nlink, uid, gid) = (self.u32()?, self.u32()?, self.u32()?, self.u32()?);
        let (rdev, blocks, atime_ns) = (self.u64()?, self.u64()?, self.i64()?);
        let no_xattrs = match self.u8()? {
            0 => false,
            1 => true,
            other => return Err(DecodeError::Unknown("attribute flags", other)),
        };
        Ok(Attr {
            file,
            kind,
            mode,
            nlink,
            uid,
            gid,
            rdev,
            size,
            blocks,
            atime_ns,
            mtime_ns,
            ctime_ns,
            no_xattrs,
        })
    }

    /// A name in a directory, checked.
    pub fn name(&mut self) -> Result<Bytes, DecodeError> {
        let name = self.bytes()?;
        GlobalPath::root().join(&name)?;
        Ok(name)
    }

    /// Totals of a file system.
    pub fn fs_stat(&mut self) -> Result<FsStat, DecodeError> {
        Ok(FsStat {
            block_size: self.u64()?,
            blocks: self.u64()?,
            blocks_free: self.u64()?,
            blocks_available: self.u64()?,
            files: self.u64()?,
            files_free: self.u64()?,
        })
    }
}
