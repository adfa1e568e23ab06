//! All that is in a subtree, as items to bring elsewhere.

use super::links::is_linked;
use crate::source::{Deadline, Listed, Listing, Source};
use globalfs_proto::limits::{HIDDEN_PREFIX, MAX_ENTRIES_BELOW};
use globalfs_proto::{FileId, FileKind, FsError, FsResult, GlobalPath, HomeItem};
use std::collections::{HashMap, VecDeque};

/// How large a subtree may be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Names in it.
    pub entries: usize,
    /// Bytes of its files.
    pub bytes: u64,
}

/// The directory `scope` and all that is beneath it; `None`: it is no directory, or larger than `limits`.
pub async fn survey(
    source: &dyn Source,
    scope: &GlobalPath,
    limits: Limits,
    deadline: Deadline,
) -> FsResult<Option<Vec<HomeItem>>> {
    let Listed { listing, mut directories } =
        match source.list_below(scope, MAX_ENTRIES_BELOW, deadline).await {
            Err(FsError::NOT_FOUND | FsError::NOT_A_DIRECTORY) => return Ok(None),
            listed => listed?,
        };
    let mut known: HashMap<GlobalPath, Listing> = HashMap::from([(scope.clone(), listing)]);
    while let Some(told) = directories.recv().await {
        known.extend(told.listing.map(|listing| (told.path, listing)));
    }
    let mut survey = Survey { items: Vec::new(), bytes: 0, names: HashMap::new(), below: VecDeque::new() };
    survey.below.push_back(scope.clone());
    while let Some(directory) = survey.below.pop_front() {
        let listing = match known.remove(&directory) {
            Some(listing) => listing,
            None => source.list(&directory, deadline).await?,
        };
        if !listing.complete {
            return Err(FsError::Unreachable(format!("parts of {directory} are not to be had")));
        }
        survey.add(directory, &listing)?;
        if survey.items.len() > limits.entries || survey.bytes > limits.bytes {
            return Ok(None);
        }
    }
    Ok(Some(survey.items))
}

struct Survey {
    items: Vec<HomeItem>,
    bytes: u64,
    names: HashMap<FileId, GlobalPath>,
    below: VecDeque<GlobalPath>,
}

impl Survey {
    fn add(&mut self, directory: GlobalPath, listing: &Listing) -> FsResult<()> {
        self.items.push(HomeItem { path: directory.clone(), attr: Some(listing.attr), same_as: None });
        for entry in listing.iter().filter(|entry| !entry.name.starts_with(HIDDEN_PREFIX)) {
            let path = directory.join(&entry.name).map_err(|_| FsError::Os(36))?;
            if entry.attr.kind == FileKind::Directory {
                self.below.push_back(path);
                continue;
            }
            let mut same_as = None;
            if is_linked(&entry.attr) {
                same_as = self.names.get(&entry.attr.file).cloned();
                self.names.entry(entry.attr.file).or_insert_with(|| path.clone());
            }
            if same_as.is_none() && entry.attr.kind == FileKind::Regular {
                self.bytes = self.bytes.saturating_add(entry.attr.size);
            }
            self.items.push(HomeItem { path, attr: Some(entry.attr), same_as });
        }
        Ok(())
    }
}
