//! The form of a trace on disk and on the wire, frozen: `docs/format.md` tells it.
//!
//! *Invariant:* what is read is checked: a trace that comes out is sound, whatever went in.

use super::model::{MAX_FILES, MAX_READS, Trace, TracedFile, TracedRead};
use bytes::Bytes;
use globalfs_proto::limits::MAX_TRACE_BYTES;
use globalfs_proto::{ChunkIndex, ChunkSpan, DecodeError, Reader, Writer};

/// What a stored trace begins with; the last byte is the format.
const MAGIC: &[u8; 8] = b"GLFSTRC\x01";

/// Bytes of a trace once it is unpacked: its limits are far below.
const MAX_BODY_BYTES: usize = 32 * 1024 * 1024;

/// zstd's default: traces are small.
const LEVEL: i32 = 3;

/// Why bytes are not a trace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoredError {
    /// They begin otherwise: another format, or no trace at all.
    #[error("no trace of a known format")]
    Foreign,
    /// They cannot be unpacked.
    #[error("a damaged trace: {0}")]
    Damaged(String),
    /// What was unpacked contradicts itself.
    #[error("a damaged trace: {0}")]
    Malformed(#[from] DecodeError),
}

/// The stored form, at most [`MAX_TRACE_BYTES`]: the last reads are left out of one that is larger.
pub fn encode(trace: &Trace) -> Bytes {
    let whole = encode_all(trace);
    if whole.len() <= MAX_TRACE_BYTES {
        return whole;
    }
    let mut cut = Trace { truncated: true, ..trace.clone() };
    cut.reads.truncate(cut.reads.len() / 2);
    let last = cut.reads.iter().map(|read| read.file as usize + 1).max().unwrap_or(0);
    // Files come in the order of their first read, nearly; so this leaves out most of the others.
    cut.files.truncate(last);
    if cut.reads.is_empty() {
        cut.files.clear();
    }
    encode(&cut)
}

fn encode_all(trace: &Trace) -> Bytes {
    let packed = zstd::bulk::compress(&body(trace), LEVEL).expect("memory is packed into memory");
    [&MAGIC[..], &packed].concat().into()
}

fn body(trace: &Trace) -> Bytes {
    let mut w = Writer::new();
    w.u64(trace.run).i64(trace.recorded_at_ns).u32(trace.runs).u8(trace.truncated.into());
    w.u32(u32::try_from(trace.files.len()).expect("files have a limit"));
    for file in &trace.files {
        w.path(&file.path).u64(file.size);
    }
    w.u32(u32::try_from(trace.reads.len()).expect("reads have a limit"));
    for TracedRead { file, span, missed } in &trace.reads {
        w.u32(*file).u64(span.first.0).u64(span.count).u8(*missed);
    }
    w.finish()
}

/// The trace in `bytes`.
pub fn decode(bytes: &[u8]) -> Result<Trace, StoredError> {
    let packed = bytes.strip_prefix(&MAGIC[..]).ok_or(StoredError::Foreign)?;
    let body = zstd::bulk::decompress(packed, MAX_BODY_BYTES);
    let body = body.map_err(|error| StoredError::Damaged(error.to_string()))?;
    let trace = decode_body(body.into())?;
    if trace.is_sound() { Ok(trace) } else { Err(StoredError::Damaged("it contradicts itself".to_owned())) }
}

fn decode_body(body: Bytes) -> Result<Trace, DecodeError> {
    let mut r = Reader::new(body);
    let (run, recorded_at_ns, runs, truncated) = (r.u64()?, r.i64()?, r.u32()?, r.u8()? != 0);
    let count = limited(r.u32()?, MAX_FILES)?;
    let file = |r: &mut Reader| Ok(TracedFile { path: r.path()?, size: r.u64()? });
    let files = (0..count).map(|_| file(&mut r)).collect::<Result<_, DecodeError>>()?;
    let count = limited(r.u32()?, MAX_READS)?;
    let reads = (0..count).map(|_| decode_read(&mut r)).collect::<Result<_, _>>()?;
    r.finish()?;
    Ok(Trace { run, recorded_at_ns, runs, truncated, files, reads })
}

fn decode_read(r: &mut Reader) -> Result<TracedRead, DecodeError> {
    let file = r.u32()?;
    let span = ChunkSpan { first: ChunkIndex(r.u64()?), count: r.u64()? };
    Ok(TracedRead { file, span, missed: r.u8()? })
}

fn limited(count: u32, most: usize) -> Result<usize, DecodeError> {
    let count = count as usize;
    if count <= most { Ok(count) } else { Err(DecodeError::OutOfRange("the size of a trace")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use globalfs_proto::GlobalPath;

    fn trace() -> Trace {
        let file = |name: &[u8], size| TracedFile { path: GlobalPath::new(name).unwrap(), size };
        let span = ChunkSpan { first: ChunkIndex(1), count: 1 };
        Trace {
            run: 1,
            recorded_at_ns: -2,
            runs: 3,
            truncated: true,
            files: vec![file(b"/a", 4), file(b"/b\xff", 200_000)],
            reads: vec![TracedRead { file: 1, span, missed: 1 }],
        }
    }

    /// The bytes below lie on disks. Another form needs another number behind the magic word.
    #[test]
    fn a_trace_has_its_frozen_form() {
        let hex: String = body(&trace()).iter().map(|b| format!("{b:02x}")).collect();
        let golden = "0100000000000000feffffffffffffff0300000001\
                      02000000020000002f610400000000000000030000002f62ff400d030000000000\
                      0100000001000000010000000000000001000000000000000\
                      1";
        assert_eq!(hex, golden);
        let stored = encode(&trace());
        assert_eq!(&stored[..12], b"GLFSTRC\x01\x28\xb5\x2f\xfd");
        assert_eq!(decode(&stored).unwrap(), trace());
    }

    #[test]
    fn what_is_no_trace_is_told_apart() {
        assert_eq!(decode(b"GLFSTRC\x02"), Err(StoredError::Foreign));
        assert_eq!(decode(b""), Err(StoredError::Foreign));
        assert!(matches!(decode(b"GLFSTRC\x01junk"), Err(StoredError::Damaged(_))));
        let mut outside = trace();
        outside.reads[0].span.count = 2;
        assert!(matches!(decode(&encode(&outside)), Err(StoredError::Damaged(_))));
        outside.reads[0].file = 9;
        assert!(matches!(decode(&encode_all(&outside)), Err(StoredError::Damaged(_))));
    }

    #[test]
    fn a_trace_that_is_too_large_loses_its_end() {
        let noise = |n: u32| u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let path =
            |n: u32| GlobalPath::new(format!("/{:016x}{:016x}", noise(n), noise(!n)).as_bytes()).unwrap();
        let files = (0..30_000).map(|n| TracedFile { path: path(n), size: noise(n) | 1 << 40 }).collect();
        let span = ChunkSpan { first: ChunkIndex(0), count: 1 };
        let reads = (0..30_000).map(|file| TracedRead { file, span, missed: 0 }).collect();
        let stored = encode(&Trace { files, reads, ..Trace::default() });
        assert!(stored.len() <= MAX_TRACE_BYTES);
        let kept = decode(&stored).unwrap();
        assert!(kept.truncated && kept.reads.len() > 5_000 && kept.files.len() == kept.reads.len());
    }

    proptest::proptest! {
        #[test]
        fn never_panics_on_noise(noise in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let _ = decode(&noise);
            let _ = decode_body(noise.into());
        }
    }
}
