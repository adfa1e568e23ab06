//! Many files in one request, divided among the sources that answer for them.

use super::{Master, Placement};
use crate::source::{Chunk, Deadline, FileChunks, Source};
use globalfs_proto::{FsResult, GlobalPath, WantedFile};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Chunks that wait for the reader when several sources answer.
const CHUNKS_AHEAD: usize = 64;

/// The files of one master, and their places in the request.
struct Part {
    master: Master,
    source: Arc<dyn Source>,
    files: Vec<WantedFile>,
    numbers: Vec<usize>,
}

/// Reads each file from the source that `choose` names for its master; without one the file fails alone.
pub(super) async fn read_files(
    placement: &dyn Placement,
    choose: impl Fn(&GlobalPath, &Master) -> FsResult<Arc<dyn Source>>,
    files: Vec<WantedFile>,
    deadline: Deadline,
) -> FsResult<FileChunks> {
    let (mut parts, mut failed) = (Vec::<Part>::new(), Vec::new());
    for (number, file) in files.into_iter().enumerate() {
        let master = placement.keeper(&file.path, &file.version);
        match parts.iter_mut().find(|part| part.master == master) {
            Some(part) => part.add(number, file),
            None => match choose(&file.path, &master) {
                Ok(source) => parts.push(Part::new(master, source, number, file)),
                Err(error) => failed.push((number, error)),
            },
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

impl Part {
    fn new(master: Master, source: Arc<dyn Source>, number: usize, file: WantedFile) -> Self {
        Self { master, source, files: vec![file], numbers: vec![number] }
    }

    fn add(&mut self, number: usize, file: WantedFile) {
        self.files.push(file);
        self.numbers.push(number);
    }

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
