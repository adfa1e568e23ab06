//! Many files in one request, divided among the sources that answer for them.

use crate::source::{Chunk, Deadline, FileChunks, Source};
use globalfs_proto::{FsResult, GlobalPath, WantedFile};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Chunks that wait for the reader when several sources answer.
const CHUNKS_AHEAD: usize = 64;

/// The files of one source, and their places in the request.
struct Part {
    source: Arc<dyn Source>,
    files: Vec<WantedFile>,
    numbers: Vec<usize>,
}

/// Reads each file from the source that `choose` names; without one the file fails alone.
pub(super) async fn read_files(
    choose: impl Fn(&GlobalPath) -> FsResult<Arc<dyn Source>>,
    files: Vec<WantedFile>,
    deadline: Deadline,
) -> FsResult<FileChunks> {
    let (mut parts, mut failed) = (Vec::<Part>::new(), Vec::new());
    for (number, file) in files.into_iter().enumerate() {
        match choose(&file.path) {
            Ok(source) => add(&mut parts, source, number, file),
            Err(error) => failed.push((number, error)),
        }
    }
    if let ([part], []) = (&mut parts[..], &failed[..]) {
        // The usual case: the places are the same.
        return part.source.read_files(std::mem::take(&mut part.files), deadline).await;
    }
    let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
    for part in parts {
        tokio::spawn(part.pass_on(deadline, sender.clone()));
    }
    tokio::spawn(async move {
        for (number, error) in failed {
            if sender.send((number, Err(error))).await.is_err() {
                return;
            }
        }
    });
    Ok(chunks)
}

fn add(parts: &mut Vec<Part>, source: Arc<dyn Source>, number: usize, file: WantedFile) {
    match parts.iter_mut().find(|part| Arc::ptr_eq(&part.source, &source)) {
        Some(part) => {
            part.files.push(file);
            part.numbers.push(number);
        }
        None => parts.push(Part { source, files: vec![file], numbers: vec![number] }),
    }
}

impl Part {
    async fn pass_on(self, deadline: Deadline, sender: mpsc::Sender<(usize, FsResult<Chunk>)>) {
        let mut chunks = match self.source.read_files(self.files, deadline).await {
            Ok(chunks) => chunks,
            Err(error) => {
                for number in self.numbers {
                    let _ = sender.send((number, Err(error.clone()))).await;
                }
                return;
            }
        };
        while let Some((place, told)) = chunks.recv().await {
            let Some(number) = self.numbers.get(place) else { return };
            if sender.send((*number, told)).await.is_err() {
                return;
            }
        }
    }
}
