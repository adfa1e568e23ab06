//! Hash-ahead: the hashes of contents that readers go through, asked of the upstream ahead of the data, and
//! what they make of a transfer. Chunks that this cache has under another name or version are copied; only the
//! others go upstream. [`model::dedup`](crate::model::dedup) decides.
//!
//! *Invariants:* a copied chunk has the hash that the upstream told for its place; a fetched chunk whose
//! hash was told and is another ends the transfer and all trust in what was told of that content; asking never
//! delays a transfer, unless much of the content, or something of those before it, has turned out to be here.

use super::bulk::runs;
use super::flight::Claim;
use super::twins::{Twin, Twins, twin_of};
use super::{Hop, ended_early};
use crate::encoding;
use crate::model::dedup::{self, Content, Look};
use crate::source::{Chunk, Deadline, HashStream, Hashes};
use futures_util::future::{BoxFuture, pending};
use futures_util::{StreamExt, stream};
use globalfs_proto::limits::{CHUNK_SIZE, MAX_HASHES_PER_FRAME, MAX_HASHES_PER_REQUEST};
use globalfs_proto::{ChunkHash, ChunkIndex, ChunkSpan, FsError, FsResult, GlobalPath, Version};
use lru::LruCache;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc};

/// Contents of which hashes are kept: 32 MiB at most.
const MAX_CONTENTS: NonZeroUsize = NonZeroUsize::new(64).expect("64 is not zero");

/// Chunks of one transfer that are copied at the same time.
const COPIES_AT_ONCE: usize = 4;

/// How long a transfer waits for hashes that are coming, when much of the content is here.
const PATIENCE: Duration = Duration::from_secs(1);

/// The same for a content of which nothing is known yet, when others turned out to be here. Nearby the first hashes
/// come within that time, while data would overtake them; from afar data comes no earlier than they do.
const HOPE: Duration = Duration::from_millis(20);

/// Contents in a row that may turn out to be strangers while that is done.
const HOPES: u32 = 4;

/// Frames of hashes that wait for whoever asked.
const FRAMES_AHEAD: usize = 16;

/// The hashes that a hop knows.
pub(super) struct Known {
    contents: Mutex<LruCache<Version, Arc<Entry>>>,
    twins: Twins,
    /// Contents that may still turn out to be strangers before hashes are waited for no more.
    hopes: AtomicU32,
}

/// One content.
struct Entry {
    content: Mutex<Content>,
    /// Something was learnt, or will not be.
    changed: Notify,
}

/// A chunk that should be here, or is on its way under another name, and its own name.
type Copy = (Claim, ChunkHash, Option<Twin>);

/// What a transfer has to do.
#[derive(Default)]
struct Division {
    copies: Vec<Copy>,
    fetches: Vec<Claim>,
}

impl Known {
    pub(super) fn new() -> Self {
        let contents = Mutex::new(LruCache::new(MAX_CONTENTS));
        Self { contents, twins: Twins::new(), hopes: AtomicU32::new(0) }
    }

    /// A chunk that is wanted, or was fetched, is here or on its way under another name: there may be more.
    pub(super) fn hope(&self) {
        self.hopes.store(HOPES, Relaxed);
    }

    /// The hashes of a content named nothing that is here.
    fn lose_hope(&self) {
        let fewer = |hopes: u32| Some(hopes.saturating_sub(1));
        let _ = self.hopes.fetch_update(Relaxed, Relaxed, fewer);
    }

    fn entry(&self, version: &Version) -> Arc<Entry> {
        let new = || {
            let content = Mutex::new(Content::new(version.size));
            Arc::new(Entry { content, changed: Notify::new() })
        };
        self.contents.lock().get_or_insert(*version, new).clone()
    }

    /// Whether an arrived chunk is the one that was announced, if any was.
    pub(super) fn check(&self, version: &Version, chunk: &Chunk) -> FsResult<()> {
        let Some(entry) = self.contents.lock().peek(version).cloned() else { return Ok(()) };
        let mut content = entry.content.lock();
        match content.look(chunk.index.0) {
            Look::Known(announced) if announced != chunk.hash => {
                content.distrust();
                let index = chunk.index.0;
                tracing::warn!(index, ?announced, arrived = ?chunk.hash, "a hash was announced wrongly");
                Err(FsError::Protocol(format!("chunk {index} has another hash than was announced")))
            }
            _ => Ok(()),
        }
    }
}

/// A question on behalf of a hop below. Whoever waits for its answer learns of its end, however it ends.
struct Asking<'a> {
    entry: &'a Entry,
    range: Range<u64>,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.entry.content.lock().told(&self.range);
        self.entry.changed.notify_waiters();
    }
}

impl Entry {
    fn ask(&self, range: Range<u64>) -> Asking<'_> {
        let range = self.content.lock().ask(range);
        Asking { entry: self, range }
    }

    /// Waits until none of the claims' hashes is coming any more, if that may pay: `hopeful`, or it does already.
    async fn outwait(&self, claims: &[Claim], hopeful: bool) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let coming = {
                let content = self.content.lock();
                let is_coming = |claim: &Claim| content.look(claim.index().0) == Look::Coming;
                (hopeful || content.is_promising()) && claims.iter().any(is_coming)
            };
            if !coming {
                return;
            }
            changed.await;
        }
    }
}

impl Hop {
    /// Divides claims into what is copied and what is fetched, and asks for the hashes ahead of them.
    async fn divide(
        self: &Arc<Self>,
        path: &GlobalPath,
        version: &Version,
        claims: Vec<Claim>,
        deadline: Deadline,
    ) -> Division {
        let (Some(first), Some(last)) = (claims.first(), claims.last()) else { return Division::default() };
        let run = first.index().0..last.index().0 + 1;
        if !dedup::is_worth_asking(version.size) {
            return Division { copies: Vec::new(), fetches: claims };
        }
        let entry = self.known.entry(version);
        let ask = entry.content.lock().want(run.clone(), self.cache.indexed());
        if let Some(ask) = ask {
            tokio::spawn(self.clone().ask_on(path.clone(), *version, entry.clone(), ask, deadline));
        }
        if self.known.hopes.load(Relaxed) > 0 {
            let _ = tokio::time::timeout(HOPE, entry.outwait(&claims, true)).await;
        }
        let _ = tokio::time::timeout(PATIENCE, entry.outwait(&claims, false)).await;
        let mut division = self.sort(version, &entry, claims);
        // A twin is on the line as well as what is fetched.
        let free = division.copies.iter().filter(|(_, _, twin)| twin.is_none()).count();
        let extra = entry.content.lock().reach(run.end, free, |hash| self.cache.holds(hash));
        let extra = extra.into_iter().filter_map(|index| self.claim(path, version, index)).collect();
        let extra = self.sort(version, &entry, extra);
        division.copies.extend(extra.copies);
        division.fetches.extend(extra.fetches);
        division
    }

    fn sort(&self, version: &Version, entry: &Entry, claims: Vec<Claim>) -> Division {
        let content = entry.content.lock();
        let mut division = Division::default();
        for claim in claims {
            let Look::Known(hash) = content.look(claim.index().0) else {
                division.fetches.push(claim);
                continue;
            };
            let is_here = self.cache.holds(&hash);
            let name = (*version, claim.index());
            let twin = if is_here { None } else { self.known.twins.find(&self.flights, hash, name) };
            if is_here || twin.is_some() {
                self.known.hope();
                division.copies.push((claim, hash, twin));
            } else {
                division.fetches.push(claim);
            }
        }
        division
    }

    fn claim(&self, path: &GlobalPath, version: &Version, index: u64) -> Option<Claim> {
        let index = ChunkIndex(index);
        self.flights.find((*version, index), path, || self.cache.contains(version, index)).1
    }

    /// Copies what is here and fetches the rest, both at once; what could not be copied is fetched then.
    pub(super) async fn settle(
        self: &Arc<Self>,
        path: &GlobalPath,
        version: Version,
        claims: Vec<Claim>,
        deadline: Deadline,
        room: Option<OwnedSemaphorePermit>,
    ) {
        let Division { copies, fetches } = self.divide(path, &version, claims, deadline).await;
        let copying = async {
            let not_copied = self.copy_all(&version, copies).await;
            self.fetch_runs(path, version, not_copied, deadline, None).await;
        };
        tokio::join!(copying, self.fetch_runs(path, version, fetches, deadline, room));
    }

    /// Settles the claims that a transfer left.
    pub(super) fn settle_again<'a>(
        self: &'a Arc<Self>,
        path: &'a GlobalPath,
        version: Version,
        claims: Vec<Claim>,
        deadline: Deadline,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if !claims.is_empty() {
                self.settle(path, version, claims, deadline, None).await;
            }
        })
    }

    /// Resolves when half of what a transfer still has to bring turns out to be here: it was begun before
    /// anything was known, and would keep the link from what is missing.
    pub(super) async fn overtaken(&self, version: &Version, claims: &VecDeque<Claim>) {
        let Some(entry) = self.known.contents.lock().peek(version).cloned() else { return pending().await };
        loop {
            let mut changed = std::pin::pin!(entry.changed.notified());
            changed.as_mut().enable();
            if self.count_here(&entry, claims) * 2 >= claims.len().max(2) {
                return;
            }
            changed.await;
        }
    }

    fn count_here(&self, entry: &Entry, claims: &VecDeque<Claim>) -> usize {
        let content = entry.content.lock();
        let is_here = |claim: &&Claim| match content.look(claim.index().0) {
            Look::Known(hash) => self.cache.holds(&hash),
            _ => false,
        };
        if content.is_promising() { claims.iter().filter(is_here).count() } else { 0 }
    }

    /// Gives back the claims of chunks that are not here after all.
    async fn copy_all(self: &Arc<Self>, version: &Version, copies: Vec<Copy>) -> Vec<Claim> {
        let copied = stream::iter(copies).map(|copy| self.copy(version, copy)).buffered(COPIES_AT_ONCE);
        copied.filter_map(std::future::ready).collect().await
    }

    async fn copy(self: &Arc<Self>, version: &Version, (claim, hash, twin): Copy) -> Option<Claim> {
        let index = claim.index();
        let length = index.bytes(version.size)?.length();
        let data = match twin_of(twin, &hash).await {
            Some(data) => Some(data),
            None => self.cache.copy_of(&hash, length).await,
        };
        let Some(data) = data else { return Some(claim) };
        self.counts.chunks_deduplicated.fetch_add(1, Relaxed);
        self.counts.bytes_deduplicated.fetch_add(length, Relaxed);
        let chunk = Chunk { index, hash, data };
        claim.arrived(chunk.clone());
        if self.cache.put(version, &chunk).await {
            // Only the hop that reads ahead has copied what nobody waits for.
            if self.ahead.is_some() { self.shelf.put(claim) } else { claim.kept() }
        }
        None
    }

    /// Fetches claims in any order, each run of consecutive ones by a request of its own.
    async fn fetch_runs(
        self: &Arc<Self>,
        path: &GlobalPath,
        version: Version,
        mut claims: Vec<Claim>,
        deadline: Deadline,
        mut room: Option<OwnedSemaphorePermit>,
    ) {
        claims.sort_by_key(Claim::index);
        let runs = runs(claims).into_iter().map(|run| {
            let part = room.as_mut().and_then(|room| room.split(run.len() * CHUNK_SIZE as usize));
            self.fetch_run(path, version, run, deadline, part)
        });
        futures_util::future::join_all(runs).await;
    }

    /// Asks for hashes, and goes on so long as that pays.
    async fn ask_on(
        self: Arc<Self>,
        path: GlobalPath,
        version: Version,
        entry: Arc<Entry>,
        mut range: Range<u64>,
        deadline: Deadline,
    ) {
        loop {
            let asked = deadline.bound(self.ask(&path, version, &entry, range.clone(), deadline, None)).await;
            if let Err(error) = &asked {
                tracing::debug!(%path, %error, "no hashes ahead of the data");
            }
            let (next, is_promising) = {
                let mut content = entry.content.lock();
                (content.ended(&range, asked.is_ok()), content.is_promising())
            };
            if !is_promising {
                self.known.lose_hope();
            }
            entry.changed.notify_waiters();
            match next {
                Some(next) => range = next,
                None => return,
            }
        }
    }

    /// Asks the upstream for hashes, remembers them, and hands them on to whoever listens.
    async fn ask(
        &self,
        path: &GlobalPath,
        version: Version,
        entry: &Entry,
        range: Range<u64>,
        deadline: Deadline,
        listener: Option<&mpsc::Sender<FsResult<Hashes>>>,
    ) -> FsResult<()> {
        let span = ChunkSpan { first: ChunkIndex(range.start), count: range.end - range.start };
        let mut stream = self.upstream.hashes(path, version, span, deadline).await?;
        let mut next = range.start;
        while next < range.end {
            let told = stream.recv().await.unwrap_or_else(|| Err(ended_early()))?;
            let count = told.hashes.len() as u64;
            if told.first.0 != next || count == 0 || count > range.end - next {
                return Err(FsError::Protocol("hashes that were not asked for".to_owned()));
            }
            if !(told.first.0..).zip(&told.hashes).all(|(index, hash)| is_possible(&version, index, hash)) {
                return Err(FsError::Protocol("a hash that no chunk of that length has".to_owned()));
            }
            self.learn(&version, entry, &told);
            next += count;
            if let Some(listener) = listener
                && listener.send(Ok(told)).await.is_err()
            {
                return Ok(());
            }
        }
        Ok(())
    }

    fn learn(&self, version: &Version, entry: &Entry, told: &Hashes) {
        let mut content = entry.content.lock();
        for (index, hash) in (told.first.0..).zip(&told.hashes) {
            // What this content's own readers have brought says nothing about its rest.
            let held = self.cache.holds(hash) && !self.cache.contains(version, ChunkIndex(index));
            content.learn(index, *hash, held);
        }
        drop(content);
        entry.changed.notify_waiters();
    }

    /// Tells the hashes of `span` to a hop below: from memory, from the cache, or from the upstream.
    pub(super) fn tell(
        self: &Arc<Self>,
        path: &GlobalPath,
        version: Version,
        span: ChunkSpan,
        deadline: Deadline,
    ) -> HashStream {
        let (sender, stream) = mpsc::channel(FRAMES_AHEAD);
        let (hop, path) = (self.clone(), path.clone());
        tokio::spawn(async move {
            let range = span.first.0..span.first.0 + span.count;
            let told = deadline.bound(hop.tell_all(&path, version, range, deadline, &sender)).await;
            if let Err(error) = told {
                let _ = tokio::time::timeout(super::LAST_WORD, sender.send(Err(error))).await;
            }
        });
        stream
    }

    async fn tell_all(
        &self,
        path: &GlobalPath,
        version: Version,
        range: Range<u64>,
        deadline: Deadline,
        listener: &mpsc::Sender<FsResult<Hashes>>,
    ) -> FsResult<()> {
        let entry = self.known.entry(&version);
        let mut next = range.start;
        while next < range.end {
            let hashes = self.here(&version, &entry, next..range.end).await;
            if hashes.is_empty() {
                // Nothing is remembered, so the rest comes from upstream in one piece.
                let rest = next..range.end.min(next + u64::from(MAX_HASHES_PER_REQUEST));
                next = rest.end;
                let _asking = entry.ask(rest.clone());
                self.ask(path, version, &entry, rest, deadline, Some(listener)).await?;
            } else {
                let first = ChunkIndex(next);
                next += hashes.len() as u64;
                if listener.send(Ok(Hashes { first, hashes })).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The first hashes of `range` that are here, once they are not on their way any more; none when the first
    /// one is not.
    async fn here(&self, version: &Version, entry: &Entry, range: Range<u64>) -> Vec<ChunkHash> {
        loop {
            let mut changed = std::pin::pin!(entry.changed.notified());
            changed.as_mut().enable();
            let (known, coming) = {
                let content = entry.content.lock();
                let known = range.clone().map_while(|index| match content.look(index) {
                    Look::Known(hash) => Some(hash),
                    _ => None,
                });
                let known: Vec<_> = known.take(MAX_HASHES_PER_FRAME).collect();
                (known, content.look(range.start) == Look::Coming)
            };
            if !known.is_empty() {
                return known;
            }
            if !coming {
                let most = MAX_HASHES_PER_FRAME.min((range.end - range.start) as usize);
                return self.cache.stored_hashes(version, range.start, most).await;
            }
            changed.await;
        }
    }
}

/// Only a full chunk can be the chunk of zeros, which is made here without looking for it.
fn is_possible(version: &Version, index: u64, hash: &ChunkHash) -> bool {
    let is_full = ChunkIndex(index).bytes(version.size).is_some_and(|bytes| bytes.length() == CHUNK_SIZE);
    is_full || !encoding::is_hash_of_zeros(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use globalfs_proto::FileId;

    #[test]
    fn who_announced_another_hash_is_refused_and_believed_no_more() {
        let file = FileId { origin: 1, inode: 1 };
        let version = Version { file, size: 3, mtime_ns: 0, ctime_ns: 0 };
        let chunk = Chunk { index: ChunkIndex(0), hash: encoding::hash(b"abc"), data: "abc".into() };
        let known = Known::new();
        assert_eq!(known.check(&version, &chunk), Ok(()), "nothing was announced");
        let entry = known.entry(&version);
        entry.content.lock().learn(0, chunk.hash, false);
        assert_eq!(known.check(&version, &chunk), Ok(()));
        let other = Chunk { hash: encoding::hash(b"xyz"), ..chunk.clone() };
        assert!(matches!(known.check(&version, &other), Err(FsError::Protocol(_))));
        assert_eq!(entry.content.lock().look(0), Look::Unknown);
        assert_eq!(known.check(&version, &other), Ok(()), "nothing announced counts any more");
    }

    #[test]
    fn a_short_chunk_is_not_a_full_one_of_zeros() {
        let file = FileId { origin: 1, inode: 1 };
        let version = Version { file, size: CHUNK_SIZE + 1, mtime_ns: 0, ctime_ns: 0 };
        let zeros = encoding::hash(&vec![0; CHUNK_SIZE as usize]);
        assert!(is_possible(&version, 0, &zeros));
        assert!(!is_possible(&version, 1, &zeros));
        assert!(is_possible(&version, 1, &encoding::hash(&[0])));
    }
}
