//! Readers that go through directories file by file: `tar`, `cp -r`, `grep -r`, imports of packages, several
//! processes that share the work.
//!
//! From the second file of a directory on the others are fetched ahead, in the order in which the reader seems to
//! go: that of the listing or that of the names. When a directory is done, planning goes on in the next one as
//! `find` would, inside what the reader has already shown to cross.
//!
//! *Invariant:* of each walk, the bytes that were fetched ahead and not asked for are never more than those that
//! were read: so who stops early has moved at most twice what it read. Each read gives new credit at once, so that
//! with every round trip twice as much is under way.

use super::walk_order::{DirectoryOrder, fork};
use globalfs_proto::limits::{CHUNK_SIZE, MAX_FILES_PER_REQUEST, MAX_PACKED_FILE};
use globalfs_proto::{ChunkIndex, ChunkSpan, DirEntry, FileKind, GlobalPath, WantedFile};
use std::collections::HashMap;
use std::sync::Arc;

/// Walks that are told apart; the one that read longest ago is forgotten.
const MAX_WALKS: usize = 16;

/// Directories of one walk. One that has seen more begins anew.
const MAX_DIRECTORIES: usize = 4096;

/// Entries of a directory that is walked: above this, the order of names would take too long to find.
const MAX_ENTRIES: usize = 32_768;

/// Files that are passed over because the credit is too small for them.
const MAX_PASSED_OVER: usize = 64;

/// The most of one file that is fetched ahead; the rest is up to who reads it.
const MAX_OF_ONE_FILE: u64 = 4 * 1024 * 1024;

/// A file counts as the next one of an order also when so many others come in between: parallel readers.
const NEAR: usize = 4;

/// New credit is used when it is this part of what is under way, so that requests are few.
const BATCH_PART: u64 = 8;
const MAX_BATCH_BYTES: u64 = 256 * 1024;

/// Tells the listing of a directory, if it is known already.
pub type Known<'a> = &'a dyn Fn(&GlobalPath) -> Option<Arc<[DirEntry]>>;

/// What to fetch ahead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ahead {
    /// All of a small file.
    Whole(WantedFile),
    /// The beginning of a larger one.
    Part(WantedFile, ChunkSpan),
}

/// A read of a file.
#[derive(Debug, Clone, Copy)]
pub struct FileRead {
    /// The bytes of the chunks that it touches.
    pub length: u64,
    /// It wants the beginning of the file, and has to wait for it.
    pub begins_afresh: bool,
}

/// All walks of a hop.
pub struct Walks {
    /// What one walk may have under way.
    walk_bytes: u64,
    /// The one that read last is last.
    walks: Vec<Walk>,
}

/// A walk through the files of directories.
struct Walk {
    directories: HashMap<GlobalPath, Directory>,
    /// Where it read last.
    at: GlobalPath,
    /// The directory below which it has been seen to go from one directory to another.
    top: GlobalPath,
    /// Where planning goes on.
    front: GlobalPath,
    /// Whether it has gone on from a directory of which it had read all.
    steady: bool,
    read_bytes: u64,
    ahead_bytes: u64,
    votes: Votes,
    order: DirectoryOrder,
    /// Nothing is left to plan until the reader goes elsewhere.
    exhausted: bool,
    /// Directories that were planned and not read in yet.
    directories_ahead: u32,
}

/// Reads that followed the order of the listing, and those that followed the order of the names.
#[derive(Default)]
struct Votes {
    listing: u64,
    name: u64,
}

impl Votes {
    fn by_name(&self) -> bool {
        self.name > self.listing
    }
}

/// A directory whose listing is known.
struct Directory {
    listing: Arc<[DirEntry]>,
    /// Places in `listing` by name.
    by_name: Box<[u32]>,
    state: Vec<State>,
    /// Files that were read.
    read: usize,
    /// The file that was read last.
    last: Option<usize>,
    /// Everything before this place of the present order has been looked at.
    cursor: usize,
    /// Planned before the reader came to it.
    planned: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Untouched,
    /// Fetched ahead, so many bytes.
    Ahead(u64),
    Read,
}

impl Walks {
    /// No walk; each may have `walk_bytes` under way.
    pub fn new(walk_bytes: u64) -> Self {
        Self { walk_bytes, walks: Vec::new() }
    }

    /// What to fetch ahead, given that `path` is read; at most `room` bytes. Only the first read of a file matters.
    pub fn read(&mut self, path: &GlobalPath, read: FileRead, room: u64, known: Known<'_>) -> Vec<Ahead> {
        let Some(directory) = path.parent() else { return Vec::new() };
        let mut walk = match self.walks.iter().rposition(|walk| walk.includes(&directory)) {
            Some(place) => self.walks.remove(place),
            None => Walk::new(directory.clone()),
        };
        let first = walk.note(&directory, path.name(), read, known);
        let limit = room.min(self.walk_bytes.saturating_sub(walk.ahead_bytes));
        let asked = if first && walk.is_under_way(&directory) { walk.plan(limit, known) } else { Vec::new() };
        assert!(walk.ahead_bytes <= walk.read_bytes, "never more ahead than was read");
        if walk.directories.len() <= MAX_DIRECTORIES {
            self.walks.push(walk);
        }
        if self.walks.len() > MAX_WALKS {
            self.walks.remove(0);
        }
        asked
    }
}

impl Walk {
    fn new(at: GlobalPath) -> Self {
        Self {
            directories: HashMap::new(),
            top: at.clone(),
            front: at.clone(),
            at,
            steady: false,
            read_bytes: 0,
            ahead_bytes: 0,
            votes: Votes::default(),
            order: DirectoryOrder::default(),
            exhausted: false,
            directories_ahead: 0,
        }
    }

    /// Known, below where it goes, or next to that.
    fn includes(&self, directory: &GlobalPath) -> bool {
        let above = self.top.parent();
        self.directories.contains_key(directory)
            || directory.starts_with(&self.top)
            || directory.parent() == above
            || above.as_ref() == Some(directory)
    }

    /// Takes in a read; whether it is the first one of a file in a known directory.
    fn note(&mut self, directory: &GlobalPath, name: &[u8], read: FileRead, known: Known<'_>) -> bool {
        if self.at != *directory {
            self.cross(directory, known);
        }
        let Some(found) = open(&mut self.directories, directory, known) else { return false };
        let Some(place) = found.find(name) else { return false };
        match found.state[place] {
            // What was read is no longer here: a new walk over the same files.
            State::Read if read.begins_afresh => found.begin_anew(),
            State::Read => return false,
            State::Ahead(bytes) => self.ahead_bytes -= bytes,
            State::Untouched => {}
        }
        if self.exhausted && found.state[place] == State::Untouched {
            // Something was left after all.
            (self.front, self.exhausted) = (directory.clone(), false);
        }
        if std::mem::take(&mut found.planned) {
            self.directories_ahead -= 1;
        }
        found.read_file(place, &mut self.votes);
        self.read_bytes += read.length.min(found.listing[place].attr.size);
        true
    }

    /// Planning follows when the reader goes where nothing was planned.
    fn cross(&mut self, directory: &GlobalPath, known: Known<'_>) {
        if let Some((at, from, to)) = fork(&self.at, directory)
            && let Some(listing) = known(&at).filter(|listing| listing.len() <= MAX_ENTRIES)
        {
            let by_name = self.votes.by_name();
            self.order.learn(&listing, from, to, by_name);
        }
        self.exhausted = false;
        while !directory.starts_with(&self.top) {
            self.top = self.top.parent().unwrap_or_else(GlobalPath::root);
        }
        if !self.directories.contains_key(directory) {
            self.front = directory.clone();
        }
        self.steady = self.directories.get(&self.at).is_some_and(Directory::was_walked);
        self.at = directory.clone();
    }

    /// Whether this is more than a lone file of its directory.
    fn is_under_way(&self, directory: &GlobalPath) -> bool {
        self.steady || self.directories.get(directory).is_some_and(|d| d.read > 1 || d.cursor > 0)
    }

    fn plan(&mut self, limit: u64, known: Known<'_>) -> Vec<Ahead> {
        let mut credit = (self.read_bytes - self.ahead_bytes).min(limit);
        if self.exhausted || credit < (self.ahead_bytes / BATCH_PART).min(MAX_BATCH_BYTES) {
            return Vec::new();
        }
        let mut asked = Vec::new();
        loop {
            let by_name = self.votes.by_name();
            let Some(front) = open(&mut self.directories, &self.front, known) else { break };
            let before = credit;
            let done = front.plan(&self.front, by_name, &mut credit, &mut asked);
            self.ahead_bytes += before - credit;
            self.exhausted = done && !self.move_on(known);
            if !done || self.exhausted {
                break;
            }
        }
        asked
    }

    /// Puts the front into the next directory, if there is one whose listing is known.
    fn move_on(&mut self, known: Known<'_>) -> bool {
        if self.directories_ahead >= self.order.reach() {
            return false;
        }
        let mut at = self.front.clone();
        let mut after: Option<Vec<u8>> = None;
        loop {
            if let Some(next) = self.next_within(&at, after.as_deref(), known) {
                self.front = next;
                return self.plan_into(known);
            }
            if at == self.top {
                return false;
            }
            let Some(parent) = at.parent() else { return false };
            after = Some(at.name().to_vec());
            at = parent;
        }
    }

    fn plan_into(&mut self, known: Known<'_>) -> bool {
        let Some(found) = open(&mut self.directories, &self.front, known) else { return false };
        found.planned = true;
        self.directories_ahead += 1;
        true
    }

    /// The next directory in `at` behind `after` that was not looked at and whose listing is known.
    fn next_within(&self, at: &GlobalPath, after: Option<&[u8]>, known: Known<'_>) -> Option<GlobalPath> {
        let listing = known(at).filter(|listing| listing.len() <= MAX_ENTRIES)?;
        let names = self.order.names(&listing, self.votes.by_name());
        let begin = after.and_then(|after| names.iter().position(|name| *name == after)).map_or(0, |n| n + 1);
        let mut paths = names[begin..].iter().filter_map(|name| at.join(name).ok());
        paths.find(|path| !self.directories.contains_key(path) && known(path).is_some())
    }
}

/// The directory with what is known of its files; `None` when nothing is, or it is too large.
fn open<'d>(
    directories: &'d mut HashMap<GlobalPath, Directory>,
    path: &GlobalPath,
    known: Known<'_>,
) -> Option<&'d mut Directory> {
    let listing = known(path).filter(|listing| listing.len() <= MAX_ENTRIES)?;
    match directories.get(path) {
        Some(same) if Arc::ptr_eq(&same.listing, &listing) => {}
        Some(old) => drop(directories.insert(path.clone(), old.renewed(listing))),
        None => drop(directories.insert(path.clone(), Directory::new(listing))),
    }
    directories.get_mut(path)
}

impl Directory {
    fn new(listing: Arc<[DirEntry]>) -> Self {
        let mut by_name: Vec<u32> = (0..listing.len() as u32).collect();
        by_name.sort_unstable_by(|a, b| listing[*a as usize].name.cmp(&listing[*b as usize].name));
        let state = vec![State::Untouched; listing.len()];
        Self { listing, by_name: by_name.into(), state, read: 0, last: None, cursor: 0, planned: false }
    }

    /// The same directory as it is now: files that are still what they were keep their state. What was fetched of
    /// others stays counted as fetched and not read.
    fn renewed(&self, listing: Arc<[DirEntry]>) -> Self {
        let mut new = Self::new(listing);
        for (place, entry) in new.listing.iter().enumerate() {
            let before = self.find(&entry.name);
            if let Some(before) = before.filter(|n| self.listing[*n].attr.version() == entry.attr.version()) {
                new.state[place] = self.state[before];
            }
        }
        Self { read: self.read, planned: self.planned, ..new }
    }

    fn begin_anew(&mut self) {
        self.state
            .iter_mut()
            .filter(|state| **state == State::Read)
            .for_each(|state| *state = State::Untouched);
        (self.read, self.last, self.cursor) = (0, None, 0);
    }

    /// The place of `name` among the names.
    fn rank(&self, name: &[u8]) -> Option<usize> {
        self.by_name.binary_search_by(|n| self.listing[*n as usize].name[..].cmp(name)).ok()
    }

    fn find(&self, name: &[u8]) -> Option<usize> {
        Some(self.by_name[self.rank(name)?] as usize)
    }

    /// The place in the listing of the `n`th entry of an order.
    fn nth(&self, n: usize, by_name: bool) -> usize {
        if by_name { self.by_name[n] as usize } else { n }
    }

    fn is_file(&self, place: usize) -> bool {
        let attr = &self.listing[place].attr;
        attr.kind == FileKind::Regular && attr.size > 0
    }

    fn read_file(&mut self, place: usize, votes: &mut Votes) {
        if let Some(last) = self.last {
            let rank = |place: usize| self.rank(&self.listing[place].name).unwrap_or(0);
            votes.listing += u64::from(self.is_near(last, place, false));
            votes.name += u64::from(self.is_near(rank(last), rank(place), true));
        }
        self.state[place] = State::Read;
        self.read += 1;
        self.last = Some(place);
    }

    /// Whether several files were read and nothing is left of it.
    fn was_walked(&self) -> bool {
        self.read > 1 && self.cursor == self.listing.len()
    }

    /// Whether `to` is among the next few files behind `from` in an order.
    fn is_near(&self, from: usize, to: usize, by_name: bool) -> bool {
        to > from && (from + 1..to).filter(|n| self.is_file(self.nth(*n, by_name))).take(NEAR).count() < NEAR
    }

    /// Asks for untouched files so long as the credit lasts; whether none is left.
    fn plan(&mut self, path: &GlobalPath, by_name: bool, credit: &mut u64, asked: &mut Vec<Ahead>) -> bool {
        let (mut passed_over, mut first_left) = (0, None);
        for n in self.cursor..self.listing.len() {
            let place = self.nth(n, by_name);
            if self.state[place] != State::Untouched || !self.is_file(place) {
                continue;
            }
            match self.ahead(path, place, *credit) {
                Some((ahead, bytes)) if asked.len() < MAX_FILES_PER_REQUEST => {
                    self.state[place] = State::Ahead(bytes);
                    *credit -= bytes;
                    asked.push(ahead);
                }
                _ => {
                    first_left.get_or_insert(n);
                    passed_over += 1;
                }
            }
            if passed_over > MAX_PASSED_OVER || *credit == 0 {
                self.cursor = first_left.unwrap_or(n + 1);
                return false;
            }
        }
        self.cursor = first_left.unwrap_or(self.listing.len());
        first_left.is_none()
    }

    fn ahead(&self, path: &GlobalPath, place: usize, credit: u64) -> Option<(Ahead, u64)> {
        let entry = &self.listing[place];
        let file = WantedFile { path: path.join(&entry.name).ok()?, version: entry.attr.version() };
        let size = entry.attr.size;
        if size <= MAX_PACKED_FILE {
            return (size <= credit).then_some((Ahead::Whole(file), size));
        }
        let count = credit.min(MAX_OF_ONE_FILE) / CHUNK_SIZE;
        let span = ChunkSpan { first: ChunkIndex(0), count: count.min(file.chunks()) };
        (count > 0).then_some((Ahead::Part(file, span), (span.count * CHUNK_SIZE).min(size)))
    }
}

#[cfg(test)]
#[path = "walk_tests.rs"]
mod tests;
