//! Names, attributes and directories of a peer.
//!
//! *Invariant:* a peer cannot make us hold more than was asked for: directories beyond the budget of the
//! request, or that nobody asked for and are larger than such may be, end the answer.

use super::Remote;
use crate::listing::Assembly;
use crate::source::{DIRECTORIES_AHEAD, Deadline, Directory, DirectoryStream, Found, Listed, no_directories};
use globalfs_proto::limits::{MAX_DIR_ENTRIES, MAX_ENTRIES_UNASKED};
use globalfs_proto::{FsError, FsResult, GlobalPath, Request, Response};
use globalfs_transport::Answer;
use std::sync::atomic::Ordering;
use tokio::sync::mpsc;

pub(super) async fn look_up(
    remote: &Remote,
    path: &GlobalPath,
    below: u32,
    deadline: Deadline,
) -> FsResult<Found> {
    let request = Request::Lookup { path: path.clone(), below, subscription: subscription(remote) };
    let mut answer = remote.ask(request, deadline).await?;
    let attr = match answer.next().await? {
        Some(Response::Attr(attr)) => Some(attr),
        Some(Response::Missing) => None,
        Some(_) => return Err(remote.unexpected()),
        None => return Err(remote.broken("ended its answer too early")),
    };
    Ok(Found { attr, directories: take_in(remote, answer, below) })
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
