//! The content of one larger file: what an old content or an earlier try has of it is kept, the rest is read.
//!
//! *Invariants:* what is kept has the hash that the other site told for its place, and the old file, from which it is copied
//! after that, is still the same in the end. However large the file, a bounded part of what is known of it is in memory.

use super::receive::{Steps, stale};
use crate::origin::draft::{Draft, hash_at};
use crate::origin::install::Xattrs;
use crate::origin::tree::Tree;
use crate::source::{Chunk, ChunkStream, Hashes, Source};
use futures_util::{StreamExt, TryStreamExt, stream};
use globalfs_proto::limits::{CHUNK_SIZE, MAX_HASHES_PER_REQUEST};
use globalfs_proto::{Attr, ChunkIndex, ChunkSpan, FsError, FsResult, GlobalPath, Version};
use std::fs::File;
use std::sync::Arc;

/// Chunks that are compared before the first of them is read: one request, 512 MiB.
const WINDOW: u64 = MAX_HASHES_PER_REQUEST as u64;

/// Runs of a window that are read or copied at a time: scattered changes take few round trips.
const RUNS_AT_ONCE: usize = 8;

/// Chunks that are copied in one step, between two looks at the deadline: 64 MiB.
const CHUNKS_A_COPY: u64 = 512;

/// Chunks that are written in one turn.
const CHUNKS_A_TURN: usize = 8;

/// Where a run of chunks comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Have {
    /// The file that is at the path has them.
    Old,
    /// An earlier try has left them.
    Draft,
    /// They are read.
    Nothing,
}

type Run = (ChunkSpan, Have);

/// The file that is at the path.
#[derive(Clone)]
struct Old {
    file: Arc<File>,
    version: Version,
}

/// A file on its way.
struct Content<'c> {
    steps: &'c Steps,
    from: &'c dyn Source,
    path: GlobalPath,
    attr: Attr,
    old: Option<Old>,
    draft: Draft,
}

/// The regular file `path`, which is not empty, becomes what it is at `from`, its attributes included.
pub(super) async fn place(
    steps: &Steps,
    from: &dyn Source,
    path: GlobalPath,
    (attr, xattrs): (Attr, Xattrs),
) -> FsResult<()> {
    let at = path.clone();
    let (old, draft) = steps.run(move |tree| Ok((tree.old_file(&at)?, tree.draft(&at, attr.size)?))).await?;
    let old = old.map(|(file, attr)| Old { file: Arc::new(file), version: attr.version() });
    let content = Content { steps, from, path, attr, old, draft };
    if content.bring().await? { content.keep_old(xattrs).await } else { content.install(xattrs).await }
}

impl Content<'_> {
    /// True: the old file has this content. False: the draft has it.
    async fn bring(&self) -> FsResult<bool> {
        let whole = globalfs_proto::chunk::chunk_count(self.attr.size);
        let known = self.known();
        let mut untouched = self.old.is_some() && self.draft.left == 0;
        let mut next = 0;
        while next < known {
            let window = span(next, known.min(next + WINDOW));
            let runs = self.compare(window).await?;
            next += window.count;
            if untouched && runs.iter().all(|(_, have)| *have == Have::Old) {
                continue;
            }
            if std::mem::take(&mut untouched) && window.first.0 > 0 {
                self.copy(span(0, window.first.0)).await?;
            }
            self.carry_out(runs).await?;
        }
        if untouched
            && known == whole
            && self.old.as_ref().map(|old| old.version.size) == Some(self.attr.size)
        {
            return Ok(true);
        }
        if untouched && known > 0 {
            self.copy(span(0, known)).await?;
        }
        if known < whole {
            self.read(span(known, whole)).await?;
        }
        Ok(false)
    }

    /// Chunks of which something may be here.
    fn known(&self) -> u64 {
        let old = self.old.as_ref().map_or(0, |old| old.version.size);
        globalfs_proto::chunk::chunk_count(old.max(self.draft.left).min(self.attr.size))
    }

    /// Which runs of chunks are here already, by their hashes.
    async fn compare(&self, window: ChunkSpan) -> FsResult<Vec<Run>> {
        let (version, deadline) = (self.attr.version(), self.steps.deadline);
        let mut hashes = match self.from.hashes(&self.path, version, window, deadline).await {
            // `EOPNOTSUPP`: it tells none.
            Err(FsError::Os(95)) => return Ok(vec![(window, Have::Nothing)]),
            hashes => hashes.map_err(stale)?,
        };
        let (mut runs, mut left) = (Vec::<Run>::new(), window.count);
        while let Some(told) = hashes.recv().await {
            let told = told.map_err(stale)?;
            left = left.saturating_sub(told.hashes.len() as u64);
            let (old, draft, size) = (self.old.clone(), self.draft.clone(), self.attr.size);
            for (index, have) in self.steps.run(move |_| Ok(look(&told, old.as_ref(), &draft, size))).await? {
                match runs.last_mut() {
                    Some((span, same)) if *same == have => span.count += 1,
                    _ => runs.push((ChunkSpan { first: index, count: 1 }, have)),
                }
            }
        }
        if left == 0 { Ok(runs) } else { Err(FsError::Unreachable("the hashes ended too early".to_owned())) }
    }

    async fn carry_out(&self, runs: Vec<Run>) -> FsResult<()> {
        let carry_out = |(span, have)| async move {
            match have {
                Have::Draft => Ok(()),
                Have::Old => self.copy(span).await,
                Have::Nothing => self.read(span).await,
            }
        };
        stream::iter(runs).map(carry_out).buffer_unordered(RUNS_AT_ONCE).try_collect().await
    }

    async fn copy(&self, span: ChunkSpan) -> FsResult<()> {
        let Some(old) = &self.old else { return Err(FsError::Stale(None)) };
        for part in parts(span, CHUNKS_A_COPY) {
            let (draft, old, size) = (self.draft.clone(), old.file.clone(), self.attr.size);
            self.steps.run(move |_| draft.copy(&old, part, size)).await?;
        }
        Ok(())
    }

    async fn read(&self, span: ChunkSpan) -> FsResult<()> {
        let (version, deadline) = (self.attr.version(), self.steps.deadline);
        let mut chunks = self.from.read(&self.path, version, span, deadline).await.map_err(stale)?;
        let mut left = span.count;
        while let (batch, ended) = next_batch(&mut chunks).await
            && !(batch.is_empty() && ended == Ok(()))
        {
            left = left.saturating_sub(batch.len() as u64);
            let draft = self.draft.clone();
            let write =
                move |_: &Tree| batch.iter().try_for_each(|chunk| draft.write(chunk.index, &chunk.data));
            self.steps.run(write).await?;
            ended?;
        }
        if left == 0 { Ok(()) } else { Err(FsError::Unreachable(format!("{} ended too early", self.path))) }
    }

    /// Only attributes differ.
    async fn keep_old(self, xattrs: Xattrs) -> FsResult<()> {
        let Self { steps, path, attr, .. } = self;
        let keep = move |tree: &Tree| {
            tree.install_attributes(&path, &attr, &xattrs)?;
            tree.drop_draft(&path)
        };
        steps.run(keep).await
    }

    async fn install(self, xattrs: Xattrs) -> FsResult<()> {
        let Self { steps, path, attr, old, draft, .. } = self;
        let install = move |tree: &Tree| {
            if old.is_some_and(|old| tree.attr(&*old.file).map(|now| now.version()) != Ok(old.version)) {
                return Err(FsError::Stale(None));
            }
            tree.install_draft(&path, &draft, &attr, &xattrs)
        };
        steps.run(install).await
    }
}

/// What has come, at least one chunk unless it has ended; what has come before an error is worth keeping.
async fn next_batch(chunks: &mut ChunkStream) -> (Vec<Chunk>, FsResult<()>) {
    let (mut told, mut batch) = (Vec::with_capacity(CHUNKS_A_TURN), Vec::with_capacity(CHUNKS_A_TURN));
    chunks.recv_many(&mut told, CHUNKS_A_TURN).await;
    for chunk in told {
        match chunk {
            Ok(chunk) => batch.push(chunk),
            Err(error) => return (batch, Err(stale(error))),
        }
    }
    (batch, Ok(()))
}

fn look(told: &Hashes, old: Option<&Old>, draft: &Draft, size: u64) -> Vec<(ChunkIndex, Have)> {
    let have = |(index, hash)| {
        let index = ChunkIndex(index);
        let have = if draft.hash(index, size) == Some(hash) {
            Have::Draft
        } else if old.and_then(|old| hash_at(&old.file, index, size)) == Some(hash) {
            Have::Old
        } else {
            Have::Nothing
        };
        (index, have)
    };
    (told.first.0..).zip(told.hashes.iter().copied()).map(have).collect()
}

fn span(first: u64, end: u64) -> ChunkSpan {
    ChunkSpan { first: ChunkIndex(first), count: end - first }
}

/// `whole` in parts of at most `most` chunks.
fn parts(whole: ChunkSpan, most: u64) -> impl Iterator<Item = ChunkSpan> {
    let end = whole.first.0 + whole.count;
    (whole.first.0..end).step_by(most as usize).map(move |first| span(first, end.min(first + most)))
}

const _: () = assert!(CHUNKS_A_COPY * CHUNK_SIZE <= 64 << 20);
