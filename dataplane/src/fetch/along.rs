//! What a hop tells its own askers beyond what they asked: the directories that it knows, or that are arriving.
//!
//! *Invariant:* nothing is asked of the upstream for the sake of what nobody asked for.

use super::metadata::Metadata;
use crate::source::{DIRECTORIES_AHEAD, Deadline, Directory, DirectoryStream, Listing, no_directories};
use globalfs_proto::limits::MAX_ENTRIES_UNASKED;
use globalfs_proto::{FileKind, FsError, GlobalPath};
use std::collections::VecDeque;
use tokio::sync::mpsc;

/// A directory to tell, and whether what is below it follows.
type Todo = (GlobalPath, bool);

/// Around `path`: itself if it is a directory, the one that holds it, and what is below.
pub(super) fn around(
    metadata: &Metadata,
    path: &GlobalPath,
    is_directory: bool,
    below: u32,
    deadline: Deadline,
) -> DirectoryStream {
    let own = is_directory.then(|| (path.clone(), true));
    let parent = path.parent().map(|parent| (parent, false));
    tell(metadata, own.into_iter().chain(parent).collect(), below, deadline)
}

/// Below the directory `path`.
pub(super) fn below(
    metadata: &Metadata,
    path: &GlobalPath,
    listing: &Listing,
    below: u32,
    deadline: Deadline,
) -> DirectoryStream {
    tell(metadata, directories_in(path, listing).collect(), below, deadline)
}

fn tell(metadata: &Metadata, queue: VecDeque<Todo>, budget: u32, deadline: Deadline) -> DirectoryStream {
    if budget == 0 || queue.is_empty() {
        return no_directories();
    }
    let (sender, stream) = mpsc::channel(DIRECTORIES_AHEAD);
    let metadata = metadata.clone();
    tokio::spawn(async move {
        let told = async {
            tell_all(&metadata, queue, budget as usize, &sender).await;
            Ok::<_, FsError>(())
        };
        // Whatever did not come in time was a gift.
        let _ = deadline.bound(told).await;
    });
    stream
}

async fn tell_all(
    metadata: &Metadata,
    mut queue: VecDeque<Todo>,
    mut budget: usize,
    sender: &mpsc::Sender<Directory>,
) {
    while let Some((path, descend)) = queue.pop_front() {
        let Some(listing) = known(metadata, &path).await else { continue };
        let listing = listing.filter(|listing| listing.len() < budget.min(MAX_ENTRIES_UNASKED + 1));
        if let Some(listing) = &listing {
            budget -= listing.len() + 1;
            queue.extend(directories_in(&path, listing).filter(|_| descend));
        }
        if sender.send(Directory { path, listing }).await.is_err() || budget == 0 {
            return;
        }
    }
}

/// The directory, once it is here; `Some(None)`: it is too large to be told; `None`: nothing is known.
async fn known(metadata: &Metadata, path: &GlobalPath) -> Option<Option<Listing>> {
    for _ in 0..2 {
        let question = {
            let (mut state, now) = (metadata.0.state.lock(), metadata.now());
            if let Some(listing) = state.names.list(path, now) {
                return Some(Some(listing));
            }
            if state.names.is_left_out(path, now) {
                return Some(None);
            }
            state.bringing(path)?
        };
        let _ = question.along(path).await;
    }
    None
}

fn directories_in<'a>(path: &'a GlobalPath, listing: &'a Listing) -> impl Iterator<Item = Todo> + 'a {
    let directories = listing.iter().filter(|entry| entry.attr.kind == FileKind::Directory);
    directories.filter_map(|entry| Some((path.join(&entry.name).ok()?, true)))
}
