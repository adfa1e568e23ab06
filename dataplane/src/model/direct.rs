//! The files that nodes of this site write to by themselves, beside its daemon, and when each is looked at.
//!
//! *Invariants:* a file stays until it was seen that nobody writes to it any more, and nobody has begun since that was
//! looked for; what it was when it was last looked at is remembered, so that no change is missed.

use globalfs_proto::{Existing, FileId, GlobalPath, Version};
use std::collections::HashMap;
use std::time::Duration;

/// The first pause after somebody has begun, or told: most files are closed soon.
const SOON: Duration = Duration::from_millis(50);

/// The longest: so late others hear of what nobody tells.
const LONGEST: Duration = Duration::from_secs(1);

/// All of them, each with a handle `H`. Times are of one monotonic clock.
#[derive(Debug)]
pub struct DirectFiles<H>(HashMap<FileId, Written<H>>);

#[derive(Debug)]
struct Written<H> {
    path: GlobalPath,
    handle: H,
    seen: Option<Version>,
    /// Counts who has begun.
    begun: u64,
    pause: Duration,
    look_at: Duration,
}

/// A file that is due to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueLook<H> {
    /// Which.
    pub file: FileId,
    /// By what.
    pub handle: H,
    /// To be told with what was seen.
    pub begun: u64,
}

/// What a look came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// Where the file is.
    pub path: GlobalPath,
    /// It has changed since it was looked at last.
    pub has_changed: bool,
    /// Nobody writes to it any more.
    pub has_ended: bool,
}

impl<H> Default for DirectFiles<H> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<H: Clone> DirectFiles<H> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Somebody begins to write to `file`, which is at `path` and is `seen`, if that is known: true if nobody did before.
    pub fn begin(
        &mut self,
        file: FileId,
        path: &GlobalPath,
        handle: H,
        seen: Option<Version>,
        now: Duration,
    ) -> bool {
        let new = Written { path: path.clone(), handle, seen, begun: 0, pause: SOON, look_at: now + SOON };
        let is_new = !self.0.contains_key(&file);
        let written = self.0.entry(file).or_insert(new);
        written.begun += 1;
        (written.pause, written.look_at) = (SOON, now + SOON);
        is_new
    }

    /// Whether somebody writes to `file`.
    pub fn contains(&self, file: FileId) -> bool {
        self.0.contains_key(&file)
    }

    /// `file` was looked at for who writes to it, and is `seen`; soon it is looked at again.
    pub fn told(&mut self, file: FileId, seen: Version, now: Duration) {
        if let Some(written) = self.0.get_mut(&file) {
            (written.seen, written.pause, written.look_at) = (Some(seen), SOON, now + SOON);
        }
    }

    /// Those that lie at or beneath `top`.
    pub fn below(&self, top: &GlobalPath) -> Vec<DueLook<H>> {
        let within = self.0.iter().filter(|(_, written)| written.path.starts_with(top));
        within.map(|(file, written)| written.due(*file)).collect()
    }

    /// One of those that lie at or beneath `top` and count: a name that nobody sees does not.
    pub fn named_below(
        &self,
        top: &GlobalPath,
        is_hidden: impl Fn(&GlobalPath) -> bool,
    ) -> Option<GlobalPath> {
        let mut paths = self.0.values().map(|written| &written.path);
        paths.find(|path| path.starts_with(top) && !is_hidden(path)).cloned()
    }

    /// Those that are to be looked at by `now`.
    pub fn due(&self, now: Duration) -> Vec<DueLook<H>> {
        let due = self.0.iter().filter(|(_, written)| written.look_at <= now);
        due.map(|(file, written)| written.due(*file)).collect()
    }

    /// When one is to be looked at next.
    pub fn next_due(&self) -> Option<Duration> {
        self.0.values().map(|written| written.look_at).min()
    }

    /// What was seen of one that was due: its content, if it still is there, and whether somebody still writes to it.
    pub fn looked(
        &mut self,
        due: &DueLook<H>,
        seen: Option<Version>,
        is_written: bool,
        now: Duration,
    ) -> Option<Looked> {
        let written = self.0.get_mut(&due.file)?;
        let has_changed = seen.is_some() && written.seen != seen;
        written.seen = seen.or(written.seen);
        written.pause = LONGEST.min(written.pause * 2);
        written.look_at = now + written.pause;
        let (path, has_ended) = (written.path.clone(), !is_written && written.begun == due.begun);
        if has_ended {
            self.0.remove(&due.file);
        }
        Some(Looked { path, has_changed, has_ended })
    }

    /// `from` is called `to` from now on, and the other way round if they are exchanged: which files have moved, from
    /// where to where.
    pub fn renamed(
        &mut self,
        from: &GlobalPath,
        to: &GlobalPath,
        existing: Existing,
    ) -> Vec<(FileId, GlobalPath, GlobalPath)> {
        let mut moved = Vec::new();
        for (file, written) in &mut self.0 {
            let path = match moved_path(&written.path, from, to) {
                Some(path) => Some(path),
                None if existing == Existing::Exchange => moved_path(&written.path, to, from),
                None => None,
            };
            if let Some(path) = path {
                let before = std::mem::replace(&mut written.path, path.clone());
                moved.push((*file, before, path));
            }
        }
        moved
    }
}

impl<H: Clone> Written<H> {
    fn due(&self, file: FileId) -> DueLook<H> {
        DueLook { file, handle: self.handle.clone(), begun: self.begun }
    }
}

/// `path` after `from` was renamed to `to`, if it lay there.
fn moved_path(path: &GlobalPath, from: &GlobalPath, to: &GlobalPath) -> Option<GlobalPath> {
    if !path.starts_with(from) {
        return None;
    }
    let rest = &path.as_bytes()[from.as_bytes().len()..];
    GlobalPath::new(&[to.as_bytes(), rest].concat()).ok()
}

#[cfg(test)]
#[path = "direct_tests.rs"]
mod tests;
