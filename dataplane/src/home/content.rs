//! The content of one larger file: what an old content or an earlier try has of it is kept, the rest is read.

use super::receive::Steps;
use crate::origin::install::{Draft, Xattrs, hash_at};
use crate::origin::tree::Tree;
use crate::source::{Hashes, Source};
use globalfs_proto::{Attr, ChunkIndex, ChunkSpan, FsError, FsResult, GlobalPath};
use std::fs::File;
use std::sync::Arc;

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

/// The regular file `path` becomes what it is at `from`, its attributes included.
pub(super) async fn place(
    steps: &Steps,
    from: &Arc<dyn Source>,
    path: GlobalPath,
    (attr, xattrs): (Attr, Xattrs),
) -> FsResult<()> {
    let at = path.clone();
    let (old, draft) = steps.run(move |tree| Ok((tree.old_file(&at)?, tree.draft(&at, attr.size)?))).await?;
    let old_size = old.as_ref().map(|(_, attr)| attr.size);
    let old = old.map(|(file, _)| Arc::new(file)).filter(|_| old_size > Some(0));
    let whole = ChunkSpan { first: ChunkIndex(0), count: globalfs_proto::chunk::chunk_count(attr.size) };
    let mut runs = vec![(whole, Have::Nothing)];
    if old.is_some() || draft.left > 0 {
        match compare(steps, from, (&path, &attr, whole), (&old, &draft)).await {
            Ok(known) => runs = known,
            // `EOPNOTSUPP`: it tells no hashes.
            Err(FsError::Os(95)) => {}
            Err(error) => return Err(error),
        }
    }
    if old_size == Some(attr.size) && runs.iter().all(|(_, have)| *have == Have::Old) {
        let keep = move |tree: &Tree| {
            tree.install_attributes(&path, &attr, &xattrs)?;
            tree.drop_draft(&path)
        };
        return steps.run(keep).await;
    }
    for (span, have) in runs {
        match (have, &old) {
            (Have::Draft, _) => {}
            (Have::Old, Some(old)) => {
                let (draft, old) = (draft.clone(), old.clone());
                steps.run(move |_| draft.copy(&old, span, attr.size)).await?;
            }
            _ => read(steps, from, &path, &attr, span, &draft).await?,
        }
    }
    steps.run(move |tree| tree.install_draft(&path, &draft, &attr, &xattrs)).await
}

/// Which runs of chunks are here already, by their hashes.
async fn compare(
    steps: &Steps,
    from: &Arc<dyn Source>,
    (path, attr, whole): (&GlobalPath, &Attr, ChunkSpan),
    (old, draft): (&Option<Arc<File>>, &Draft),
) -> FsResult<Vec<(ChunkSpan, Have)>> {
    let mut hashes = from.hashes(path, attr.version(), whole, steps.deadline).await?;
    let mut runs: Vec<(ChunkSpan, Have)> = Vec::new();
    let mut next = 0;
    while let Some(told) = hashes.recv().await {
        let told = told?;
        next = told.first.0 + told.hashes.len() as u64;
        let (old, draft, size) = (old.clone(), draft.clone(), attr.size);
        for (index, have) in steps.run(move |_| Ok(look(&told, old.as_deref(), &draft, size))).await? {
            match runs.last_mut() {
                Some((span, same)) if *same == have => span.count += 1,
                _ => runs.push((ChunkSpan { first: index, count: 1 }, have)),
            }
        }
    }
    if next == whole.count {
        Ok(runs)
    } else {
        Err(FsError::Unreachable("the hashes ended too early".to_owned()))
    }
}

fn look(told: &Hashes, old: Option<&File>, draft: &Draft, size: u64) -> Vec<(ChunkIndex, Have)> {
    let have = |(index, hash)| {
        let index = ChunkIndex(index);
        let have = if draft.hash(index, size) == Some(hash) {
            Have::Draft
        } else if old.and_then(|old| hash_at(old, index, size)) == Some(hash) {
            Have::Old
        } else {
            Have::Nothing
        };
        (index, have)
    };
    (told.first.0..).zip(told.hashes.iter().copied()).map(have).collect()
}

async fn read(
    steps: &Steps,
    from: &Arc<dyn Source>,
    path: &GlobalPath,
    attr: &Attr,
    span: ChunkSpan,
    draft: &Draft,
) -> FsResult<()> {
    let mut chunks = from.read(path, attr.version(), span, steps.deadline).await?;
    let mut left = span.count;
    while let Some(chunk) = chunks.recv().await {
        // What has come meanwhile is written in the same turn.
        let mut batch = vec![chunk?];
        while batch.len() < CHUNKS_A_TURN
            && let Ok(chunk) = chunks.try_recv()
        {
            batch.push(chunk?);
        }
        left -= batch.len() as u64;
        let draft = draft.clone();
        steps.run(move |_| batch.iter().try_for_each(|chunk| draft.write(chunk.index, &chunk.data))).await?;
    }
    if left == 0 { Ok(()) } else { Err(FsError::Unreachable(format!("{path} ended too early"))) }
}

/// Chunks that are written in one turn.
const CHUNKS_A_TURN: usize = 8;
