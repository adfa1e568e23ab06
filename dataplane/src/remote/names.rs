//! Names, attributes and directories of a peer.
//!
//! *Invariant:* a peer cannot make us hold more than was asked for: directories beyond the budget of the
//! request, or that nobody asked for and are larger than such may be, end the answer.

use super::Remote;
use crate::encoding;
use crate::listing::Assembly;
use crate::source::{
    Chunk, DIRECTORIES_AHEAD, Deadline, Directory, DirectoryStream, Found, Listed, no_directories,
};
use globalfs_proto::limits::{MAX_DIR_ENTRIES, MAX_ENTRIES_UNASKED};
use globalfs_proto::{
    Attr, ChunkHeader, ChunkIndex, FileKind, FsError, FsResult, GlobalPath, Request, Response,
};
use globalfs_transport::Answer;
use std::sync::atomic::Ordering;
use tokio::sync::mpsc;

pub(super) async fn look_up(
    remote: &Remote,
    path: &GlobalPath,
    below: u32,
    deadline: Deadline,
) -> FsResult<Found> {
    // Where no directory is told there is nothing whose changes would be.
    let subscription = if below == 0 { 0 } else { subscription(remote) };
    let request = Request::Lookup { path: path.clone(), below, content: remote.content, subscription };
    let mut answer = remote.ask(request, deadline).await?;
    let mut content = None;
    let attr = loop {
        match answer.next().await? {
            Some(Response::Attr(attr)) => break Some(attr),
            Some(Response::Missing) => break None,
            Some(Response::Chunk(header)) if content.is_none() && header.length <= remote.content => {
                content = Some(content_of(remote, &header, &mut answer).await?);
            }
            Some(_) => return Err(remote.unexpected()),
            None => return Err(remote.broken("ended its answer too early")),
        }
    };
    let is_whole = |chunk: &Chunk| attr.is_some_and(|attr| is_all_of(chunk, &attr));
    let content = content.flatten().filter(is_whole);
    Ok(Found { attr, directories: take_in(remote, answer, below), content })
}

/// A chunk that nobody asked for by name: one that is damaged is left out.
async fn content_of(remote: &Remote, header: &ChunkHeader, answer: &mut Answer) -> FsResult<Option<Chunk>> {
    let payload = answer.payload(header.wire_length).await?;
    remote.count_wire_bytes(header.wire_length);
    let chunk = encoding::decode(header, payload).inspect_err(|_| remote.count_damaged()).ok();
    chunk.iter().for_each(|chunk| remote.count_chunk(chunk.data.len()));
    Ok(chunk)
}

fn is_all_of(chunk: &Chunk, attr: &Attr) -> bool {
    attr.kind == FileKind::Regular && chunk.index == ChunkIndex(0) && chunk.data.len() as u64 == attr.size
}

pub(super) async fn list_below(
    remote: &Remote,
    path: &GlobalPath,
    below: u32,
    deadline: Deadline,
) -> FsResult<Listed> {
    let request = Request::List { path: path.clone(), below, subscription: subscription(remote) };
    let mut answer = remote.ask(request, deadline).await?;
    match next_directory(remote, &mut answer, MAX_DIR_ENTRIES).await? {
        Some(Directory { path: told, listing: Some(listing) }) if told == *path => {
            Ok(Listed { listing, directories: take_in(remote, answer, below) })
        }
        Some(_) => Err(remote.unexpected()),
        None => Err(remote.broken("ended a listing too early")),
    }
}

fn subscription(remote: &Remote) -> u64 {
    remote.live.subscription.load(Ordering::Acquire)
}

/// The rest of an answer, read in the background, whoever waits for it.
fn take_in(remote: &Remote, answer: Answer, below: u32) -> DirectoryStream {
    if below == 0 {
        return no_directories();
    }
    let (sender, stream) = mpsc::channel(DIRECTORIES_AHEAD);
    let remote = remote.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = sender.closed() => {}
            outcome = hand_on(&remote, answer, below as usize, &sender) => {
                if let Err(error) = outcome {
                    tracing::debug!(peer = %remote.peer.identity(), %error, "no further directories");
                }
            }
        }
    });
    stream
}

async fn hand_on(
    remote: &Remote,
    mut answer: Answer,
    mut budget: usize,
    sender: &mpsc::Sender<Directory>,
) -> FsResult<()> {
    while let Some(directory) = next_directory(remote, &mut answer, MAX_ENTRIES_UNASKED).await? {
        let cost = directory.listing.as_ref().map_or(0, |listing| listing.len());
        let left = budget.checked_sub(cost);
        budget = left.ok_or_else(|| remote.broken("told of more entries than were asked for"))?;
        if sender.send(directory).await.is_err() {
            break;
        }
    }
    Ok(())
}

async fn next_directory(remote: &Remote, answer: &mut Answer, most: usize) -> FsResult<Option<Directory>> {
    let mut assembly = Assembly::default();
    loop {
        match answer.next().await? {
            Some(Response::Directory(part)) => {
                let whole = assembly.add(part).map_err(|error| remote.blame(error))?;
                if let Some((path, listing)) = whole {
                    remote.live.directories.fetch_add(1, Ordering::Relaxed);
                    return Ok(Some(Directory { path, listing: Some(listing) }));
                }
            }
            Some(Response::LeftOut(path)) if !assembly.is_unfinished() => {
                return Ok(Some(Directory { path, listing: None }));
            }
            Some(_) => return Err(remote.unexpected()),
            None if assembly.is_unfinished() => return Err(remote.broken("ended a listing too early")),
            None => return Ok(None),
        }
        if assembly.len() > most {
            return Err(FsError::Limit(format!("a directory has more than {most} entries")));
        }
    }
}
