//! Reading copies: a source before another site's, which answers from this site's origin what that has of the wanted version.
//!
//! *Invariant:* bytes come from the origin under the version that the copy had when it was brought; where that is gone the
//! rest comes from the other site, as for any reader. While that site is away names are those that were brought last, if
//! policy says so, and nothing else is made up.

use super::{Replicas, kept::Away};
use crate::source::{
    ChangeStream, Chunk, ChunkStream, Deadline, FileChunks, Found, HashStream, Listed, Listing, Source,
    WarmStream,
};
use crate::warm::{Group, merge};
use async_trait::async_trait;
use bytes::Bytes;
use globalfs_proto::{
    Attr, Change, Changed, ChunkIndex, ChunkSpan, FsError, FsResult, FsStat, GlobalPath, Seek, Version,
    WantedFile, Warm,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Chunks that wait for the reader.
const CHUNKS_AHEAD: usize = 4;

/// Chunks of many files that wait for their reader.
const FILE_CHUNKS_AHEAD: usize = 64;

/// Another site's files, as far as they are here from here. Clones are the same.
#[derive(Clone)]
pub struct Copies {
    pub(super) replicas: Replicas,
    pub(super) master: Arc<dyn Source>,
    pub(super) away: Arc<Away>,
}

/// The files of one request by where they are read.
#[derive(Default)]
struct Divided {
    here: Vec<WantedFile>,
    here_numbers: Vec<usize>,
    /// The same files as they are here.
    copies: Vec<WantedFile>,
    there: Vec<WantedFile>,
    there_numbers: Vec<usize>,
}

impl Copies {
    /// Before `master`, which answers for one other site.
    pub fn new(replicas: Replicas, master: Arc<dyn Source>) -> Self {
        Self { replicas, master, away: Arc::default() }
    }

    /// The copy of `path`. Where there is none it may become one, as it is read here.
    async fn copy_of(&self, path: &GlobalPath, version: &Version) -> Option<Version> {
        let copy = self.replicas.copy_of(path, version).await;
        if copy.is_none() {
            self.replicas.was_read(path);
        }
        copy
    }

    /// Hands the chunks of a copy on; what it does not give comes from the master.
    async fn deliver(
        self,
        mut chunks: ChunkStream,
        (path, version, span): (GlobalPath, Version, ChunkSpan),
        deadline: Deadline,
        sender: mpsc::Sender<FsResult<Chunk>>,
    ) {
        let mut next = span.first.0;
        let end = span.first.0 + span.count;
        while let Some(Ok(chunk)) = chunks.recv().await {
            next = chunk.index.0 + 1;
            if sender.send(Ok(chunk)).await.is_err() {
                return;
            }
        }
        if next == end {
            return;
        }
        self.replicas.suspect(&path);
        let rest = ChunkSpan { first: ChunkIndex(next), count: end - next };
        match self.master.read(&path, version, rest, deadline).await {
            Ok(mut chunks) => {
                while let Some(chunk) = chunks.recv().await {
                    if sender.send(chunk).await.is_err() {
                        return;
                    }
                }
            }
            Err(error) => drop(sender.send(Err(error)).await),
        }
    }

    async fn divide(&self, files: Vec<WantedFile>) -> Divided {
        let mut divided = Divided::default();
        for (number, file) in files.into_iter().enumerate() {
            match self.copy_of(&file.path, &file.version).await {
                Some(version) => {
                    divided.copies.push(WantedFile { path: file.path.clone(), version });
                    divided.here.push(file);
                    divided.here_numbers.push(number);
                }
                None => {
                    divided.there.push(file);
                    divided.there_numbers.push(number);
                }
            }
        }
        divided
    }

    /// Whole small files from here. Those that fail are read at the master, from their beginning: so chunks are kept until
    /// their file is complete.
    async fn deliver_files(
        self,
        (files, copies, numbers): (Vec<WantedFile>, Vec<WantedFile>, Vec<usize>),
        deadline: Deadline,
        sender: FileSender,
    ) {
        let mut begun: Vec<Vec<Chunk>> = vec![Vec::new(); files.len()];
        let mut open = vec![true; files.len()];
        if let Ok(mut chunks) = self.replicas.0.origin.read_files(copies, deadline).await {
            while let Some((place, chunk)) = chunks.recv().await {
                let (Ok(chunk), true) = (chunk, open[place]) else { continue };
                begun[place].push(chunk);
                if (begun[place].len() as u64) < files[place].chunks() {
                    continue;
                }
                open[place] = false;
                for chunk in std::mem::take(&mut begun[place]) {
                    if sender.send((numbers[place], Ok(chunk))).await.is_err() {
                        return;
                    }
                }
            }
        }
        let (mut left, mut places) = (Vec::new(), Vec::new());
        for (place, file) in files.into_iter().enumerate().filter(|(place, _)| open[*place]) {
            self.replicas.suspect(&file.path);
            left.push(file);
            places.push(numbers[place]);
        }
        if !left.is_empty() {
            pass_on(self.master, left, places, deadline, sender).await;
        }
    }
}

type FileSender = mpsc::Sender<(usize, FsResult<Chunk>)>;

/// The files of `source`, under the numbers that they have in the whole request.
async fn pass_on(
    source: Arc<dyn Source>,
    files: Vec<WantedFile>,
    numbers: Vec<usize>,
    deadline: Deadline,
    sender: FileSender,
) {
    match source.read_files(files, deadline).await {
        Ok(mut chunks) => {
            while let Some((place, chunk)) = chunks.recv().await {
                let Some(number) = numbers.get(place) else { return };
                if sender.send((*number, chunk)).await.is_err() {
                    return;
                }
            }
        }
        Err(error) => {
            for number in numbers {
                let _ = sender.send((number, Err(error.clone()))).await;
            }
        }
    }
}

#[async_trait]
impl Source for Copies {
    async fn stat(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Attr> {
        let ask = |deadline| async move { self.master.stat(path, deadline).await };
        self.ask(path, deadline, ask, || async { self.kept_stat(path).await }).await
    }

    async fn list(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Listing> {
        let ask = |deadline| async move { self.master.list(path, deadline).await };
        self.ask(path, deadline, ask, || async { self.kept_list(path).await }).await
    }

    async fn look_up(&self, path: &GlobalPath, below: u32, deadline: Deadline) -> FsResult<Found> {
        let ask = |deadline| async move { self.master.look_up(path, below, deadline).await };
        self.ask(path, deadline, ask, || async { self.kept_look_up(path).await }).await
    }

    async fn list_below(&self, path: &GlobalPath, below: u32, deadline: Deadline) -> FsResult<Listed> {
        let ask = |deadline| async move { self.master.list_below(path, below, deadline).await };
        self.ask(path, deadline, ask, || async { self.kept_list_below(path).await }).await
    }

    fn watch(&self, heartbeat: Duration) -> ChangeStream {
        self.master.watch(heartbeat)
    }

    async fn read_link(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Bytes> {
        let ask = |deadline| async move { self.master.read_link(path, deadline).await };
        self.ask(path, deadline, ask, || async {
            self.check_kept(path).await?;
            self.replicas.0.origin.read_link(path, deadline).await
        })
        .await
    }

    async fn get_xattr(&self, path: &GlobalPath, name: &[u8], deadline: Deadline) -> FsResult<Bytes> {
        let ask = |deadline| async move { self.master.get_xattr(path, name, deadline).await };
        self.ask(path, deadline, ask, || async {
            self.check_kept(path).await?;
            self.replicas.0.origin.get_xattr(path, name, deadline).await
        })
        .await
    }

    async fn list_xattr(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Bytes> {
        let ask = |deadline| async move { self.master.list_xattr(path, deadline).await };
        self.ask(path, deadline, ask, || async {
            self.check_kept(path).await?;
            self.replicas.0.origin.list_xattr(path, deadline).await
        })
        .await
    }

    async fn fs_stat(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<FsStat> {
        let ask = |deadline| async move { self.master.fs_stat(path, deadline).await };
        self.ask(path, deadline, ask, || async {
            self.check_kept(path).await?;
            self.replicas.0.origin.fs_stat(path, deadline).await
        })
        .await
    }

    /// Holes are where the master has them; while it is away all counts as data.
    async fn seek(&self, seek: &Seek, deadline: Deadline) -> FsResult<u64> {
        const NOT_SUPPORTED: FsError = FsError::Os(95);
        let ask = |deadline| async move { self.master.seek(seek, deadline).await };
        self.ask(&seek.path, deadline, ask, || async { Err(NOT_SUPPORTED) }).await
    }

    async fn change(&self, change: &Change, deadline: Deadline) -> FsResult<Changed> {
        self.master.change(change, deadline).await
    }

    async fn read(
        &self,
        path: &GlobalPath,
        version: Version,
        span: ChunkSpan,
        deadline: Deadline,
    ) -> FsResult<ChunkStream> {
        let Some(copy) = self.copy_of(path, &version).await else {
            return self.master.read(path, version, span, deadline).await;
        };
        let Ok(chunks) = self.replicas.0.origin.read(path, copy, span, deadline).await else {
            self.replicas.suspect(path);
            return self.master.read(path, version, span, deadline).await;
        };
        let (sender, stream) = mpsc::channel(CHUNKS_AHEAD);
        tokio::spawn(self.clone().deliver(chunks, (path.clone(), version, span), deadline, sender));
        Ok(stream)
    }

    async fn warm(&self, warm: Warm, deadline: Deadline) -> FsResult<WarmStream> {
        let origin = Arc::new(self.replicas.0.origin.clone()) as Arc<dyn Source>;
        let mut here = Group::new(Ok(origin), warm.fetch);
        let mut there = Group::new(Ok(self.master.clone()), warm.fetch);
        for (number, file) in (0..).zip(warm.files) {
            let is_here = self.replicas.copy_of(&file.path, &file.version).await.is_some();
            if is_here { here.add(number, file) } else { there.add(number, file) }
        }
        let groups = [here, there].into_iter().filter(|group| !group.is_empty()).collect();
        Ok(merge(groups, deadline))
    }

    async fn hashes(
        &self,
        path: &GlobalPath,
        version: Version,
        span: ChunkSpan,
        deadline: Deadline,
    ) -> FsResult<HashStream> {
        if let Some(copy) = self.replicas.copy_of(path, &version).await
            && let Ok(hashes) = self.replicas.0.origin.hashes(path, copy, span, deadline).await
        {
            return Ok(hashes);
        }
        self.master.hashes(path, version, span, deadline).await
    }

    async fn read_files(&self, files: Vec<WantedFile>, deadline: Deadline) -> FsResult<FileChunks> {
        let Divided { here, here_numbers, copies, there, there_numbers } = self.divide(files).await;
        if here.is_empty() {
            return self.master.read_files(there, deadline).await;
        }
        let (sender, chunks) = mpsc::channel(FILE_CHUNKS_AHEAD);
        tokio::spawn(self.clone().deliver_files((here, copies, here_numbers), deadline, sender.clone()));
        if !there.is_empty() {
            tokio::spawn(pass_on(self.master.clone(), there, there_numbers, deadline, sender));
        }
        Ok(chunks)
    }
}
