//! The content of one larger file: what an old content or an earlier try has of it is kept, the rest is read.

use crate::origin::Origin;
use crate::origin::install::{Draft, Xattrs, hash_at};
use crate::source::{Deadline, Hashes, Source};
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
    origin: &Origin,
    from: &Arc<dyn Source>,
    path: GlobalPath,
    (attr, xattrs): (Attr, Xattrs),
    deadline: Deadline,
) -> FsResult<()> {
    let old = origin.old_file(path.clone(), deadline).await?;
    let old_size = old.as_ref().map(|(_, attr)| attr.size);
    let old = old.map(|(file, _)| Arc::new(file)).filter(|_| old_size > Some(0));
    let draft = origin.draft(path.clone(), attr.size, deadline).await?;
    let whole = ChunkSpan { first: ChunkIndex(0), count: globalfs_proto::chunk::chunk_count(attr.size) };
    let mut runs = vec![(whole, Have::Nothing)];
    if old.is_some() || draft.left > 0 {
        match compare(from, &path, &attr, whole, (&old, &draft), deadline).await {
            Ok(known) => runs = known,
            // `EOPNOTSUPP`: it tells no hashes.
            Err(FsError::Os(95)) => {}
            Err(error) => return Err(error),
        }
    }
    if old_size == Some(attr.size) && runs.iter().all(|(_, have)| *have == Have::Old) {
        origin.install_attributes(path.clone(), (attr, xattrs), deadline).await?;
        return origin.drop_draft(path, deadline).await;
    }
    for (span, have) in runs {
        match (have, &old) {
            (Have::Draft, _) => {}
            (Have::Old, Some(old)) => {
                let (draft, old) = (draft.clone(), old.clone());
                blocking(move || draft.copy(&old, span, attr.size)).await?;
            }
            _ => read(from, &path, &attr, span, &draft, deadline).await?,
        }
    }
    origin.install_draft(path, (draft, attr, xattrs), deadline).await
}

/// Which runs of chunks are here already, by their hashes.
async fn compare(
    from: &Arc<dyn Source>,
    path: &GlobalPath,
    attr: &Attr,
    whole: ChunkSpan,
    (old, draft): (&Option<Arc<File>>, &Draft),
    deadline: Deadline,
) -> FsResult<Vec<(ChunkSpan, Have)>> {
    let mut hashes = from.hashes(path, attr.version(), whole, deadline).await?;
    let mut runs: Vec<(ChunkSpan, Have)> = Vec::new();
    let mut next = 0;
    while let Some(told) = hashes.recv().await {
        let told = told?;
        next = told.first.0 + told.hashes.len() as u64;
        let (old, draft, size) = (old.clone(), draft.clone(), attr.size);
        for (index, have) in blocking(move || Ok(look(&told, old.as_deref(), &draft, size))).await? {
            match runs.last_mut() {
                Some((span, same)) if *same == have => span.count += 1,
                _ => runs.push((ChunkSpan { first: index, count: 1 }, have)),
            }
        }
    }
    if next == whole.count { Ok(runs) } else { Err(FsError::Unreachable("the hashes ended too early".to_owned())) }
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
    from: &Arc<dyn Source>,
    path: &GlobalPath,
    attr: &Attr,
    span: ChunkSpan,
    draft: &Draft,
    deadline: Deadline,
) -> FsResult<()> {
    let mut chunks = from.read(path, attr.version(), span, deadline).await?;
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
        blocking(move || batch.iter().try_for_each(|chunk| draft.write(chunk.index, &chunk.data))).await?;
    }
    if left == 0 { Ok(()) } else { Err(FsError::Unreachable(format!("{path} ended too early"))) }
}

/// Chunks that are written in one turn.
const CHUNKS_A_TURN: usize = 8;

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> FsResult<T> + Send + 'static) -> FsResult<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}
