//! Hash-ahead: which hashes of a content to ask for, when to stop asking, and what they say about a chunk.
//!
//! A reader that goes through a large content makes its hop ask for the hashes a window ahead of the data, so
//! that chunks which are here already under another name or version need not travel. Hashes are small: those
//! of 8 MiB take 2 KiB.
//!
//! *Invariants:* a content is asked for at most once at a time on behalf of its readers; one whose first hashes
//! showed nothing that is here is not asked for again; at most [`MAX_HASHES`] hashes are kept of each.

use globalfs_proto::ChunkHash;
use globalfs_proto::chunk::chunk_count;
use globalfs_proto::limits::MAX_HASHES_PER_REQUEST;
use std::collections::BTreeMap;
use std::ops::Range;

/// Chunks of the smallest content that is asked for: 4 MiB take about a round trip anyway.
pub const MIN_CHUNKS: u64 = 32;

/// Chunks that a reader must want at once, unless it begins at the start of the file: who reads here and there
/// should not make the master hash what lies between.
pub const MIN_RUN: u64 = 4;

/// Chunks of the first question about a content: 32 MiB cost the master 10 ms.
pub const FIRST_ASK: u64 = 256;

/// Chunks whose hashes should be known ahead of the reader: 128 MiB, a second at 1 Gbit/s.
pub const AHEAD: u64 = 1024;

/// Chunks in a row that were not here, after which nothing more is asked for: before the first hit, and later.
pub const HITLESS_AT_FIRST: u64 = 256;
/// As [`HITLESS_AT_FIRST`], once something was here.
pub const HITLESS_LATER: u64 = 4096;

/// Hashes kept of one content: 1 GiB of it, some 0.5 MB.
pub const MAX_HASHES: usize = 8192;

/// Chunks ahead of a reader up to which what is missing is fetched in place of what is here: 128 MiB.
pub const MAX_REACH: u64 = 1024;

const _: () = assert!(AHEAD as usize + MAX_HASHES_PER_REQUEST as usize <= MAX_HASHES);

/// Whether a file of `size` bytes is large enough to ask for its hashes.
pub fn is_worth_asking(size: u64) -> bool {
    chunk_count(size) >= MIN_CHUNKS
}

/// What is known of one chunk's hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// The hash.
    Known(ChunkHash),
    /// It was asked for.
    Coming,
    /// Nobody asked for it.
    Unknown,
}

/// The hashes of one version of one file, so far as they are known.
#[derive(Debug)]
pub struct Content {
    chunks: u64,
    hashes: BTreeMap<u64, ChunkHash>,
    coming: Vec<Range<u64>>,
    wanted: Range<u64>,
    /// Chunks that readers wanted and that were not in the cache under this version.
    missed: u64,
    hits: u64,
    /// Chunks learnt since the last hit.
    hitless: u64,
    given_up: bool,
    /// Missing chunks before this one were fetched ahead of their reader.
    reached: u64,
}

impl Content {
    /// A content of `size` bytes of which nothing is known.
    pub fn new(size: u64) -> Self {
        Self {
            chunks: chunk_count(size),
            hashes: BTreeMap::new(),
            coming: Vec::new(),
            wanted: 0..0,
            missed: 0,
            hits: 0,
            hitless: 0,
            given_up: false,
            reached: 0,
        }
    }

    /// A reader wants these chunks, and the cache holds `held` chunks of all contents. Gives what to ask for
    /// now, which then counts as coming.
    pub fn want(&mut self, run: Range<u64>, held: u64) -> Option<Range<u64>> {
        let is_sequential = run.start == 0 || run.end - run.start >= MIN_RUN;
        // What the cache holds may all be of this very content.
        let may_pay = held > self.missed;
        self.missed += run.end - run.start;
        self.wanted = run;
        if is_sequential && may_pay { self.next_ask() } else { None }
    }

    fn next_ask(&mut self) -> Option<Range<u64>> {
        if self.given_up || !self.coming.is_empty() {
            return None;
        }
        let start = (self.wanted.start..self.chunks).find(|index| !self.hashes.contains_key(index))?;
        let most = if self.hits == 0 { FIRST_ASK } else { MAX_HASHES_PER_REQUEST.into() };
        let needed = start < self.wanted.end.saturating_add(AHEAD);
        needed.then(|| self.ask(start..self.chunks.min(start + most)))
    }

    /// These are asked for, whoever needs them.
    pub fn ask(&mut self, range: Range<u64>) -> Range<u64> {
        self.coming.push(range.clone());
        range
    }

    /// One hash has come; `held` tells whether the chunk is here under another name.
    pub fn learn(&mut self, index: u64, hash: ChunkHash, held: bool) {
        if index < self.chunks && self.hashes.insert(index, hash).is_none() {
            self.hits += u64::from(held);
            self.hitless = if held { 0 } else { self.hitless + 1 };
        }
        while self.hashes.len() > MAX_HASHES {
            self.drop_farthest();
        }
    }

    fn drop_farthest(&mut self) {
        let ends = (self.hashes.first_key_value(), self.hashes.last_key_value());
        let (Some((&first, _)), Some((&last, _))) = ends else { return };
        let at = self.wanted.start;
        let farthest = if at.abs_diff(first) > at.abs_diff(last) { first } else { last };
        self.hashes.remove(&farthest);
    }

    /// What was asked for on behalf of readers has come, or will not. Gives what to ask for next.
    #[must_use = "what it gives counts as coming"]
    pub fn ended(&mut self, asked: &Range<u64>, complete: bool) -> Option<Range<u64>> {
        self.told(asked);
        let limit = if self.hits == 0 { HITLESS_AT_FIRST } else { HITLESS_LATER };
        self.given_up |= !complete || self.hitless >= limit.min(self.chunks);
        if self.hits > 0 { self.next_ask() } else { None }
    }

    /// What was asked for on behalf of somebody else has come, or will not.
    pub fn told(&mut self, asked: &Range<u64>) {
        if let Some(at) = self.coming.iter().position(|range| range == asked) {
            self.coming.swap_remove(at);
        }
    }

    /// An announced hash was wrong: nothing of this content is believed any more, nor asked for.
    pub fn distrust(&mut self) {
        self.hashes.clear();
        self.given_up = true;
    }

    /// What is known of a chunk.
    pub fn look(&self, index: u64) -> Look {
        match self.hashes.get(&index) {
            Some(hash) => Look::Known(*hash),
            None if self.coming.iter().any(|range| range.contains(&index)) => Look::Coming,
            None => Look::Unknown,
        }
    }

    /// Whether it pays to wait for a hash that is coming: much of this content is here.
    pub fn is_promising(&self) -> bool {
        self.hits > 0 && !self.given_up
    }

    /// Up to `count` chunks behind `end` that are known and missing here, each given out once: they take the
    /// place of chunks that need no transfer, so that the way to the upstream stays as full as it was meant.
    pub fn reach(&mut self, end: u64, count: usize, held: impl Fn(&ChunkHash) -> bool) -> Vec<u64> {
        let mut missing = Vec::new();
        let mut index = self.reached.max(end);
        while missing.len() < count
            && index < end.saturating_add(MAX_REACH)
            && let Some(hash) = self.hashes.get(&index)
        {
            if !held(hash) {
                missing.push(index);
            }
            index += 1;
        }
        self.reached = index;
        missing
    }
}

#[cfg(test)]
#[path = "dedup_tests.rs"]
mod tests;
