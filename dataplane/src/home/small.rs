//! Small files of a batch, between their chunks and the steps that place them.

use super::receive::stale;
use crate::origin::install::Xattrs;
use crate::origin::tree::Tree;
use crate::source::{Chunk, Deadline, FileChunks};
use futures_util::stream;
use globalfs_proto::{Attr, FsError, FsResult, GlobalPath, WantedFile};
use std::collections::HashMap;

/// A file that has come, or why it does not, with its place among those that were asked for.
pub(super) type Come = (usize, FsResult<Vec<Chunk>>);

/// All that is to be known of a file to place it.
pub(super) struct SmallFile {
    pub(super) path: GlobalPath,
    pub(super) attr: Attr,
    pub(super) chunks: Vec<Chunk>,
    pub(super) xattrs: Xattrs,
}

impl SmallFile {
    /// Places it, unless it is too late to begin.
    pub(super) fn install(self, tree: &Tree, deadline: Deadline) -> FsResult<()> {
        let Self { path, attr, chunks, xattrs } = self;
        if deadline.remaining().is_zero() {
            return Err(FsError::Deadline);
        }
        tree.install_file(&path, &chunks, &attr, &xattrs)
    }
}

/// The files whose chunks come in `chunks`, each when it is complete or has failed.
pub(super) fn complete_files(chunks: FileChunks, files: Vec<WantedFile>) -> impl stream::Stream<Item = Come> {
    let begun: HashMap<usize, Vec<Chunk>> = HashMap::new();
    stream::unfold((chunks, files, begun), |(mut chunks, files, mut begun)| async move {
        loop {
            let (number, chunk) = chunks.recv().await?;
            let complete = match (chunk, files.get(number)) {
                (Err(error), _) => Some(Err(stale(error))),
                (Ok(_), None) => None,
                (Ok(chunk), Some(file)) => {
                    let have = begun.entry(number).or_default();
                    have.push(chunk);
                    (have.len() as u64 == file.chunks()).then(|| Ok(std::mem::take(have)))
                }
            };
            if let Some(complete) = complete {
                begun.remove(&number);
                return Some(((number, complete), (chunks, files, begun)));
            }
        }
    })
}
