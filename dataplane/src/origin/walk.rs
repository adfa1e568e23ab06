//! Directories that come along with an answer: the path's own, the one that holds it, and breadth first what
//! is below, within a budget of entries and of time.
//!
//! *Invariant:* a walk holds no thread while its reader is slow, and ends after [`WALK_TIME`].

use super::Origin;
use super::list::{Contents, open_below};
use crate::source::{
    DIRECTORIES_AHEAD, Deadline, Directory, DirectoryStream, Found, Listed, Listing, no_directories,
};
use bytes::Bytes;
use globalfs_proto::limits::MAX_ENTRIES_UNASKED;
use globalfs_proto::{FileKind, FsError, FsResult, GlobalPath};
use rustix::fd::OwnedFd;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// What an origin spends on what nobody asked for; a local disk reads some 100,000 entries in it.
const WALK_TIME: Duration = Duration::from_millis(200);

/// Directories read in one call, so that handing over to a thread costs little beside it.
const DIRECTORIES_PER_CALL: usize = 16;

/// Calls of one walk at a time: storage behind a network answers several in the time of one.
const CALLS_AT_ONCE: usize = 4;

pub(super) async fn look_up(
    origin: &Origin,
    path: &GlobalPath,
    below: u32,
    deadline: Deadline,
) -> FsResult<Found> {
    let asked = path.clone();
    let attr = match origin.call(deadline, move |inner| inner.tree.stat(&asked)).await {
        Ok(attr) => Some(attr),
        Err(FsError::NOT_FOUND) => None,
        Err(error) => return Err(error),
    };
    let own = attr.filter(|attr| attr.kind == FileKind::Directory).map(|_| Todo::by_path(path.clone(), true));
    let parent = path.parent().map(|parent| Todo::by_path(parent, false));
    let directories = walk(origin, own.into_iter().chain(parent).collect(), below, deadline);
    Ok(Found { directories, ..Found::alone(attr) })
}

pub(super) async fn list_below(
    origin: &Origin,
    path: &GlobalPath,
    below: u32,
    deadline: Deadline,
) -> FsResult<Listed> {
    let asked = path.clone();
    let (contents, directory) = origin.call(deadline, move |inner| inner.list(&asked, deadline)).await?;
    let Contents { listing, enterable } = contents;
    let top = Top { directory: Arc::new(directory), path: path.clone() };
    let queue = enterable.iter().filter_map(|name| Todo::below(&top, path, name)).collect();
    Ok(Listed { listing, directories: walk(origin, queue, below, deadline) })
}

/// A handle on a directory from which those below it are opened.
#[derive(Clone)]
struct Top {
    directory: Arc<OwnedFd>,
    path: GlobalPath,
}

/// A directory to read.
struct Todo {
    path: GlobalPath,
    /// Where it is opened from; `None`: from the origin's root, across mount points.
    top: Option<Top>,
    /// Whether what is below it follows.
    descend: bool,
}

/// What became of a directory.
struct Done {
    path: GlobalPath,
    listing: Option<Listing>,
    next: Vec<Todo>,
}

impl Todo {
    fn by_path(path: GlobalPath, descend: bool) -> Self {
        Self { path, top: None, descend }
    }

    fn below(top: &Top, directory: &GlobalPath, name: &Bytes) -> Option<Self> {
        Some(Self { path: directory.join(name).ok()?, top: Some(top.clone()), descend: true })
    }
}

fn walk(origin: &Origin, queue: VecDeque<Todo>, below: u32, deadline: Deadline) -> DirectoryStream {
    if below == 0 || queue.is_empty() {
        return no_directories();
    }
    let (sender, stream) = mpsc::channel(DIRECTORIES_AHEAD);
    let deadline = deadline.min(Deadline::after(WALK_TIME));
    tokio::spawn(go(origin.clone(), queue, below as usize, deadline, sender));
    stream
}

async fn go(
    origin: Origin,
    mut queue: VecDeque<Todo>,
    mut budget: usize,
    deadline: Deadline,
    sender: mpsc::Sender<Directory>,
) {
    while !queue.is_empty() && budget > 0 && !deadline.remaining().is_zero() {
        let Ok(round) = read_round(&origin, &mut queue, budget, deadline).await else { return };
        for Done { path, listing, next } in round {
            // An empty directory costs something, too.
            let cost = listing.as_ref().map_or(1, |listing| listing.len() + 1);
            let listing = listing.filter(|_| cost <= budget);
            if listing.is_some() {
                budget = budget.saturating_sub(cost);
                queue.extend(next);
            }
            if sender.send(Directory { path, listing }).await.is_err() {
                return;
            }
        }
    }
}

/// Reads the first directories of the queue, in as many calls as are worth it.
async fn read_round(
    origin: &Origin,
    queue: &mut VecDeque<Todo>,
    budget: usize,
    deadline: Deadline,
) -> FsResult<Vec<Done>> {
    let now = queue.len().min(CALLS_AT_ONCE * DIRECTORIES_PER_CALL);
    let mut todo: Vec<Todo> = queue.drain(..now).collect();
    let mut calls = Vec::new();
    while !todo.is_empty() {
        let rest = todo.split_off(todo.len().min(now.div_ceil(CALLS_AT_ONCE)));
        let some = std::mem::replace(&mut todo, rest);
        let most = budget.min(MAX_ENTRIES_UNASKED);
        calls.push(origin.call(deadline, move |inner| {
            Ok(some.into_iter().map(|todo| read(inner, todo, most, deadline)).collect::<Vec<_>>())
        }));
    }
    Ok(futures_util::future::try_join_all(calls).await?.into_iter().flatten().collect())
}

/// One that cannot be read is left out; who asks for it learns why.
fn read(inner: &super::Inner, todo: Todo, most: usize, deadline: Deadline) -> Done {
    let read = try_read(inner, &todo, most, deadline).ok().flatten();
    let (listing, next) = read.map_or((None, Vec::new()), |(listing, next)| (Some(listing), next));
    Done { path: todo.path, listing, next }
}

fn try_read(
    inner: &super::Inner,
    todo: &Todo,
    most: usize,
    deadline: Deadline,
) -> FsResult<Option<(Listing, Vec<Todo>)>> {
    let watched = inner.watch(&todo.path);
    let directory = match &todo.top {
        Some(top) => open_below(&top.directory, below(&todo.path, &top.path))?,
        None => inner.tree.open_directory(&todo.path)?,
    };
    let Some(contents) = inner.tree.contents(&directory, most, deadline)? else { return Ok(None) };
    let Contents { listing, enterable } = contents.watched(watched);
    if !todo.descend {
        return Ok(Some((listing, Vec::new())));
    }
    let new_top = || Top { directory: Arc::new(directory), path: todo.path.clone() };
    let top = todo.top.clone().unwrap_or_else(new_top);
    let next = enterable.iter().filter_map(|name| Todo::below(&top, &todo.path, name)).collect();
    Ok(Some((listing, next)))
}

/// The part of `path` behind that of the directory `top`, which is above it.
fn below<'a>(path: &'a GlobalPath, top: &GlobalPath) -> &'a [u8] {
    if top.is_root() { path.relative() } else { &path.as_bytes()[top.as_bytes().len() + 1..] }
}
