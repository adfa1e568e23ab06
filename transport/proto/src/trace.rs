//! The names of traces: what a job read, kept by sites under a name that people and batch systems give.
//!
//! *Invariant:* a [`TraceName`] has 1 to [`MAX_TRACE_PARTS`] parts of letters, digits and `._+@=,:-`, none of
//! which begins with a dot; so it can neither leave a directory nor hide in it, and `%` can stand for its `/`.

use crate::codec::{DecodeError, Reader, Writer};
use crate::limits::{MAX_TRACE_BYTES, MAX_TRACES};
use bytes::Bytes;
use std::fmt;

/// Parts of a name, as in `job/alice/train`.
pub const MAX_TRACE_PARTS: usize = 6;

/// Bytes of a name, so that it is a file name with room for an ending.
pub const MAX_TRACE_NAME: usize = 200;

/// Characters beside letters and digits.
const MARKS: &[u8] = b"._+@=,:-";

/// The name of a trace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TraceName(Box<str>);

/// Why text is not a name of a trace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not the name of a trace: 1 to {MAX_TRACE_PARTS} parts of letters, digits and ._+@=,:- between \
     slashes, {MAX_TRACE_NAME} bytes in all, no part beginning with a dot"
)]
pub struct TraceNameError(pub String);

impl TraceName {
    /// Checks `text`.
    pub fn new(text: &str) -> Result<Self, TraceNameError> {
        let parts = text.split('/').count();
        let fine = text.len() <= MAX_TRACE_NAME && parts <= MAX_TRACE_PARTS && text.split('/').all(is_part);
        let shown = || text.chars().take(MAX_TRACE_NAME).flat_map(char::escape_default).collect();
        if fine { Ok(Self(text.into())) } else { Err(TraceNameError(shown())) }
    }

    /// The name of the trace of a batch job: parts that anybody may have chosen, made harmless and short.
    pub fn of_job(user: &str, parts: &[&str]) -> Self {
        const LONGEST: usize = 60;
        let clean = |part: &str| {
            let kept = part.bytes().take(LONGEST).map(|b| if is_allowed(b) { char::from(b) } else { '_' });
            let text: String = kept.collect();
            match text.strip_prefix('.') {
                Some(rest) => format!("_{rest}"),
                None if text.is_empty() => "_".to_owned(),
                None => text,
            }
        };
        let parts = std::iter::once(&user).chain(parts).take(3).map(|part| clean(part));
        let text = std::iter::once("job".to_owned()).chain(parts).collect::<Vec<_>>().join("/");
        Self::new(&text).expect("parts were made harmless and short")
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_part(part: &str) -> bool {
    !part.is_empty() && !part.starts_with('.') && part.bytes().all(is_allowed)
}

fn is_allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || MARKS.contains(&byte)
}

impl fmt::Display for TraceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for TraceName {
    type Err = TraceNameError;
    fn from_str(text: &str) -> Result<Self, TraceNameError> {
        Self::new(text)
    }
}

/// What [`crate::Request::PutTrace`] asks to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutTrace {
    /// Under which name.
    pub name: TraceName,
    /// Whether an earlier trace of the name is replaced; otherwise the two are merged.
    pub replace: bool,
    /// The trace in its stored form, at most [`MAX_TRACE_BYTES`].
    pub trace: Bytes,
}

impl PutTrace {
    pub(crate) fn encode<'w>(&self, w: &'w mut Writer) -> &'w mut Writer {
        w.bytes(self.name.as_str().as_bytes()).u8(self.replace.into()).bytes(&self.trace)
    }

    pub(crate) fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        let (name, replace, trace) = (decode_name(r)?, r.u8()? != 0, r.bytes()?);
        if trace.len() > MAX_TRACE_BYTES {
            return Err(DecodeError::OutOfRange("the size of a trace"));
        }
        Ok(Self { name, replace, trace })
    }
}

/// What a list of traces tells of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceSummary {
    /// Its name.
    pub name: TraceName,
    /// Files in it.
    pub files: u32,
    /// Bytes of them that were read, in whole chunks.
    pub bytes: u64,
    /// Runs that it was made of.
    pub runs: u32,
    /// When the last of them was recorded, ns since 1970.
    pub recorded_at_ns: i64,
}

/// The frozen form of a list, for the answer's bytes.
pub fn encode_summaries(traces: &[TraceSummary]) -> Bytes {
    let mut w = Writer::new();
    w.u32(u32::try_from(traces.len()).expect("a list is short"));
    for trace in traces {
        w.bytes(trace.name.as_str().as_bytes());
        w.u32(trace.files).u64(trace.bytes).u32(trace.runs).i64(trace.recorded_at_ns);
    }
    w.finish()
}

/// The list in `bytes`.
pub fn decode_summaries(bytes: Bytes) -> Result<Vec<TraceSummary>, DecodeError> {
    let mut r = Reader::new(bytes);
    let count = r.u32()? as usize;
    if count > MAX_TRACES {
        return Err(DecodeError::OutOfRange("the number of traces"));
    }
    let summary = |r: &mut Reader| {
        Ok(TraceSummary {
            name: decode_name(r)?,
            files: r.u32()?,
            bytes: r.u64()?,
            runs: r.u32()?,
            recorded_at_ns: r.i64()?,
        })
    };
    let traces = (0..count).map(|_| summary(&mut r)).collect::<Result<_, DecodeError>>()?;
    r.finish().map(|()| traces)
}

pub(crate) fn decode_name(r: &mut Reader) -> Result<TraceName, DecodeError> {
    let bytes = r.bytes()?;
    let name = std::str::from_utf8(&bytes).ok().and_then(|text| TraceName::new(text).ok());
    name.ok_or(DecodeError::OutOfRange("the name of a trace"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Request, RequestHeader};

    #[test]
    fn names_cannot_leave_a_directory() {
        for good in ["a", "job/alice/train", "A.b_c+d@e=f,g:h-1", &"x".repeat(200)] {
            assert!(TraceName::new(good).is_ok(), "{good}");
        }
        let long = "x".repeat(201);
        for bad in
            ["", "/a", "a/", "a//b", "..", "a/../b", ".a", "a b", "a%b", "a\n", "ü", "a/b/c/d/e/f/g", &long]
        {
            assert!(TraceName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn jobs_have_harmless_names() {
        let check = |user, parts: &[&str], want| assert_eq!(TraceName::of_job(user, parts).as_str(), want);
        check("alice", &["train"], "job/alice/train");
        check("alice", &["a/../b c", "7"], "job/alice/a_.._b_c/7");
        check("", &["..", "ü"], "job/_/_./__");
        let long = "x".repeat(500);
        assert!(TraceName::of_job(&long, &[&long, &long, "more"]).as_str().len() <= MAX_TRACE_NAME);
    }

    #[test]
    fn requests_and_lists_have_their_frozen_form() {
        let check = |request: Request, golden: &str| {
            let frame = request.encode(RequestHeader { deadline_ms: 1 });
            let hex: String = frame[4..].iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(hex, golden);
            assert_eq!(Request::decode(frame).unwrap().1, request);
        };
        let name = || TraceName::new("a/b").unwrap();
        let trace = Bytes::from_static(b"xy");
        check(
            Request::PutTrace(PutTrace { name: name(), replace: true, trace }),
            "0e03000000612f6201020000007879",
        );
        check(Request::GetTrace(name()), "0f03000000612f62");
        check(Request::ListTraces, "10");
        check(Request::RemoveTrace(name()), "1103000000612f62");
        let list = vec![TraceSummary { name: name(), files: 1, bytes: 2, runs: 3, recorded_at_ns: 4 }];
        let frame = encode_summaries(&list);
        let golden = b"\x01\0\0\0\x03\0\0\0a/b\x01\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\x04\0\0\0\0\0\0\0";
        assert_eq!(&frame[..], golden);
        assert_eq!(decode_summaries(frame).unwrap(), list);
        assert!(decode_summaries(Bytes::from_static(b"\xff\xff\xff\xff")).is_err());
    }
}
