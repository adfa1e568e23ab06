//! Which chunks of an open file will be wanted next: readers that go forwards, backwards or by equal strides are
//! recognised from their reads, several of them in one file.
//!
//! A reader's window grows with each stall towards the bandwidth-delay product, but never beyond what the reader
//! has read: so whoever stops early has moved at most twice what it read. One exception: a reader that begins at
//! the start of a file with a large read is believed at once ([`Limits::first_bytes`]), so far as that goes.
//!
//! *Invariants:* a read that continues no other causes nothing, unless it is such a first one; chunks are asked
//! for once by a reader; the table is bounded.

use super::pace::Pace;
use globalfs_proto::limits::CHUNK_SIZE;
use globalfs_proto::{ByteRange, ChunkIndex, ChunkSpan, Version};
use lru::LruCache;
use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::time::Duration;

/// Contents of files that are known; the one that was read longest ago is forgotten.
const MAX_CONTENTS: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

/// Readers of one content that are told apart.
const MAX_READERS: usize = 16;

/// How far a late request may lie behind its reader: kernels send several at a time, and they overtake each
/// other.
const LATE_BYTES: u64 = 4 * 1024 * 1024;

/// By how much a stride may vary: kernels read whole pages.
const STRIDE_SLACK_BYTES: u64 = 4096;

/// Strides that are asked for ahead, at most.
const MAX_STRIDES: u64 = 256;

/// A stall multiplies the window by this.
const GROWTH: u64 = 4;

/// Hits without which a window does not grow, unless its reader began at the start: kernels read ahead themselves,
/// and so one read of a megabyte arrives as two or three that follow each other.
const HITS_TO_GROW: u64 = 3;

/// No smaller than this is a window made from measurements, which begin too low.
const MIN_CEILING_BYTES: u64 = 4 * 1024 * 1024;

/// The window at most, in what the upstream has under way at its measured rate.
const CEILING: u64 = 2;

/// The same while that rate grows, for it was measured a round trip or two ago and was twice to eight times less
/// then; the reader's credit is the bound that remains.
const CEILING_OF_START: u64 = 8;

/// Bytes beyond that, for what waits between upstream and reader.
const SLACK_BYTES: u64 = 1024 * 1024;

/// Chunks of one request: several are under way at the same time.
const REQUEST_CHUNKS: u64 = 16;

/// How much a reader may cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// What a large first read at the start of a file asks for ahead; also the first window of any reader.
    pub first_bytes: u64,
    /// The largest window of one reader.
    pub reader_bytes: u64,
}

/// A read that an application made.
#[derive(Debug, Clone, Copy)]
pub struct Read {
    /// Which bytes.
    pub range: ByteRange,
    /// Whether it has to wait for the upstream.
    pub stalled: bool,
}

/// All readers of a hop.
pub struct ReadAhead {
    limits: Limits,
    contents: LruCache<Version, Content>,
}

/// What is known of one content.
#[derive(Default)]
struct Content {
    pace: Pace,
    /// The one that read last is last.
    readers: Vec<Reader>,
    last_start: Option<u64>,
    /// Reads of strides, the latest first: readers that go forward side by side look like one that goes by strides,
    /// until each of them reads on.
    of_strides: VecDeque<ByteRange>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Unknown,
    Forward,
    Backward,
    Strided,
}

struct Reader {
    direction: Direction,
    last: ByteRange,
    /// The read before the last one, while the last one is taken in.
    before_last: ByteRange,
    /// The distance of its first read from the read before it, whoever made that.
    stride: Option<i64>,
    /// Its first read was a large one of the file's beginning.
    began_at_start: bool,
    /// Reads that continued it.
    hits: u64,
    /// What it has read, and so may cause to be fetched ahead.
    credit: u64,
    /// What it may cause while that is less.
    believed: u64,
    window: u64,
    /// The offset up to which chunks were asked for (down to which, when it goes backwards).
    frontier: u64,
    /// Strides beyond the last read that were asked for.
    strides: u64,
}

impl ReadAhead {
    /// Knows no reader.
    pub fn new(limits: Limits) -> Self {
        Self { limits, contents: LruCache::new(MAX_CONTENTS) }
    }

    /// What to fetch ahead, given `read`, in the order in which it will be wanted; at most `room` bytes. All of
    /// it lies within the file.
    pub fn read(&mut self, content: Version, read: Read, room: u64) -> Vec<ChunkSpan> {
        let limits = self.limits;
        let known = self.contents.get_or_insert_mut(content, Content::default);
        let reader = known.reader_of(read.range, limits);
        let times = if known.pace.is_growing() { CEILING_OF_START } else { CEILING };
        let ceiling = known.pace.bandwidth_delay_product().map_or(limits.reader_bytes, |product| {
            (times * product + SLACK_BYTES)
                .clamp(MIN_CEILING_BYTES, limits.reader_bytes.max(MIN_CEILING_BYTES))
        });
        let reader = &mut known.readers[reader];
        if read.stalled && reader.hits >= if reader.began_at_start { 1 } else { HITS_TO_GROW } {
            reader.window = (reader.window * GROWTH).min(ceiling.min(limits.reader_bytes));
        }
        reader.ask(content.size, room)
    }

    /// The first chunk of an answer came this long after it was asked for.
    pub fn answered(&mut self, content: Version, latency: Duration) {
        if let Some(known) = self.contents.peek_mut(&content) {
            known.pace.answered(latency);
        }
    }

    /// Bytes of `content` came at `now`.
    pub fn delivered(&mut self, content: Version, bytes: u64, now: Duration) {
        if let Some(known) = self.contents.peek_mut(&content) {
            known.pace.delivered(bytes, now);
        }
    }
}

impl Content {
    /// The place of the reader that made this read, brought up to date.
    fn reader_of(&mut self, range: ByteRange, limits: Limits) -> usize {
        let mut reader = self.take_reader(range, limits);
        self.last_start = Some(range.start());
        if reader.direction == Direction::Strided {
            self.remember_stride(reader.before_last);
            self.remember_stride(range);
        }
        reader.before_last = range;
        self.readers.push(reader);
        self.readers.len() - 1
    }

    /// Who goes on from its last place comes before who makes equal jumps.
    fn take_reader(&mut self, range: ByteRange, limits: Limits) -> Reader {
        let near = self.readers.iter().rposition(|reader| reader.goes_on_near(range));
        let side_by_side = || self.of_strides.iter().position(|last| last.end() == range.start());
        let mut reader = if let Some(place) = near {
            self.readers.remove(place)
        } else if let Some(place) = side_by_side() {
            let last = self.of_strides.remove(place).expect("it was found just now");
            Reader::new(last, None, limits)
        } else if let Some(place) = self.readers.iter().rposition(|reader| reader.goes_on_by_strides(range)) {
            self.readers.remove(place)
        } else {
            return self.new_reader(range, limits);
        };
        reader.advance(range);
        self.make_room();
        reader
    }

    fn remember_stride(&mut self, range: ByteRange) {
        if !self.of_strides.contains(&range) {
            self.of_strides.truncate(MAX_READERS - 1);
            self.of_strides.push_front(range);
        }
    }

    fn make_room(&mut self) {
        if self.readers.len() == MAX_READERS {
            self.readers.remove(0);
        }
    }

    fn new_reader(&mut self, range: ByteRange, limits: Limits) -> Reader {
        self.make_room();
        // Whoever jumped away may have been this one: it is to be more careful should it go on.
        if let Some(last) = self.readers.last_mut() {
            last.window = (last.window / 2).max(CHUNK_SIZE);
        }
        let stride = self.last_start.map(|last| distance(last, range.start()));
        Reader::new(range, stride, limits)
    }
}

impl Reader {
    fn new(range: ByteRange, stride: Option<i64>, limits: Limits) -> Self {
        let believed = range.start() == 0 && range.length() >= CHUNK_SIZE;
        Self {
            direction: if believed { Direction::Forward } else { Direction::Unknown },
            last: range,
            before_last: range,
            stride: stride.filter(|stride| stride.unsigned_abs() > range.length()),
            began_at_start: believed,
            hits: 0,
            credit: if believed { range.length() } else { 0 },
            believed: if believed { limits.first_bytes } else { 0 },
            window: limits.first_bytes,
            frontier: range.end(),
            strides: 0,
        }
    }

    fn goes_on_near(&self, range: ByteRange) -> bool {
        match self.direction {
            Direction::Forward => self.goes_forward(range),
            Direction::Backward => self.goes_backward(range),
            Direction::Strided => false,
            Direction::Unknown => self.goes_forward(range) || self.goes_backward(range),
        }
    }

    fn goes_on_by_strides(&self, range: ByteRange) -> bool {
        matches!(self.direction, Direction::Strided | Direction::Unknown) && self.goes_by_strides(range)
    }

    /// From where the last read ended or a little later; from before that, when it is a late one.
    fn goes_forward(&self, range: ByteRange) -> bool {
        let late = if self.hits > 1 { LATE_BYTES.min(self.credit) } else { 0 };
        let earliest = self.last.start().saturating_sub(late);
        (earliest..=self.last.end() + 2 * range.length()).contains(&range.start())
    }

    fn goes_backward(&self, range: ByteRange) -> bool {
        let nearest = self.last.start().saturating_sub(2 * range.length());
        range.start() < self.last.start() && (nearest..=self.last.end()).contains(&range.end())
    }

    fn goes_by_strides(&self, range: ByteRange) -> bool {
        let expected = self.stride.and_then(|stride| self.last.start().checked_add_signed(stride));
        expected.is_some_and(|expected| expected.abs_diff(range.start()) <= STRIDE_SLACK_BYTES)
    }

    /// Takes in a read that continues this reader.
    fn advance(&mut self, range: ByteRange) {
        if self.may_have_been_overtaken(range) {
            return self.join(range);
        }
        if self.direction == Direction::Unknown {
            self.direction = if self.goes_forward(range) {
                Direction::Forward
            } else if self.goes_backward(range) {
                Direction::Backward
            } else {
                Direction::Strided
            };
            self.credit += self.last.length();
            self.frontier = self.far_end(self.last);
        }
        self.hits += 1;
        self.credit += match self.direction {
            Direction::Forward => range.end().saturating_sub(self.last.end()),
            Direction::Backward => self.last.start().saturating_sub(range.start()),
            // A read from each chunk moves all of it.
            _ => range.chunks().count * CHUNK_SIZE,
        };
        self.strides = self.strides.saturating_sub(1);
        let goes_on = match self.direction {
            Direction::Forward => range.end() > self.last.end(),
            _ => true,
        };
        if goes_on {
            self.last = range;
        }
    }

    /// Whether two large requests that touch, the later one first, tell no direction yet.
    fn may_have_been_overtaken(&self, range: ByteRange) -> bool {
        let touches = self.goes_backward(range) && range.end() == self.last.start();
        self.direction == Direction::Unknown && self.hits == 0 && touches && range.length() >= CHUNK_SIZE
    }

    fn join(&mut self, range: ByteRange) {
        let length = self.last.end() - range.start();
        self.last = ByteRange::new(range.start(), length).expect("both ends are a file's");
        self.hits = 1;
    }

    fn far_end(&self, range: ByteRange) -> u64 {
        if self.direction == Direction::Backward { range.start() } else { range.end() }
    }

    fn ask(&mut self, size: u64, room: u64) -> Vec<ChunkSpan> {
        let allowed = self.window.min(self.credit.max(self.believed));
        match self.direction {
            Direction::Unknown => Vec::new(),
            Direction::Forward => self.ask_forward(size, allowed, room),
            Direction::Backward => self.ask_backward(allowed, room),
            Direction::Strided => self.ask_strides(size, allowed, room),
        }
    }

    /// Whole chunks only, and not a few at a time while enough is under way.
    fn ask_forward(&mut self, size: u64, allowed: u64, room: u64) -> Vec<ChunkSpan> {
        let first = self.frontier.max(self.last.end()).div_ceil(CHUNK_SIZE);
        let target = self.last.end().saturating_add(allowed);
        let all = size.div_ceil(CHUNK_SIZE);
        let end = if target >= size { all } else { target / CHUNK_SIZE };
        let end = end.min(first + room / CHUNK_SIZE);
        let enough = (allowed / 4).min(REQUEST_CHUNKS * CHUNK_SIZE) / CHUNK_SIZE;
        if end <= first || end - first < enough && end < all {
            return Vec::new();
        }
        self.frontier = end * CHUNK_SIZE;
        spans(first, end)
    }

    fn ask_backward(&mut self, allowed: u64, room: u64) -> Vec<ChunkSpan> {
        let end = self.frontier.min(self.last.start()) / CHUNK_SIZE;
        let target = self.last.start().saturating_sub(allowed).div_ceil(CHUNK_SIZE);
        let first = target.max(end.saturating_sub(room / CHUNK_SIZE));
        let enough = (allowed / 4).min(REQUEST_CHUNKS * CHUNK_SIZE) / CHUNK_SIZE;
        if end <= first || end - first < enough && first > 0 {
            return Vec::new();
        }
        self.frontier = first * CHUNK_SIZE;
        spans(first, end).into_iter().rev().collect()
    }

    /// The reads that will come if it goes on so: never more of them than came.
    fn ask_strides(&mut self, size: u64, allowed: u64, room: u64) -> Vec<ChunkSpan> {
        let Some(stride) = self.stride.filter(|_| self.hits > 1) else { return Vec::new() };
        let cost = (self.last.chunks().count + 1) * CHUNK_SIZE;
        let most = (allowed / cost).min(MAX_STRIDES).min(self.strides + room / cost);
        let mut asked: Vec<ChunkSpan> = Vec::new();
        for n in self.strides + 1..=most {
            let start = i64::try_from(n).ok().and_then(|n| stride.checked_mul(n));
            let start = start.and_then(|jump| self.last.start().checked_add_signed(jump));
            let range = start.and_then(|start| ByteRange::of_read(start, self.last.length(), size));
            let Some(span) = range.map(ByteRange::chunks) else { break };
            if asked.last() != Some(&span) {
                asked.push(span);
            }
        }
        self.strides = self.strides.max(most);
        asked
    }
}

fn distance(from: u64, to: u64) -> i64 {
    i64::try_from(i128::from(to) - i128::from(from)).unwrap_or(0)
}

/// The chunks from `first` to before `end`, in pieces of a request.
fn spans(first: u64, end: u64) -> Vec<ChunkSpan> {
    let starts = (first..end).step_by(REQUEST_CHUNKS as usize);
    starts
        .map(|start| ChunkSpan { first: ChunkIndex(start), count: REQUEST_CHUNKS.min(end - start) })
        .collect()
}

#[cfg(test)]
#[path = "readahead_tests.rs"]
mod tests;
