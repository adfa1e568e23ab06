//! Answers about names, repeated for a short time: attributes, directories, link targets, extended attributes,
//! and that a name or an extended attribute does not exist. Other errors are not kept.
//!
//! Extended attributes matter because `ls -l` and `cp -a` ask for some of each file, and most files have none.
//! Unlike the rest they are not forgotten when a file is seen to change: they grow old by the clock alone.
//!
//! A directory's entries answer for the attributes of what they name. That a name is not listed is not taken
//! as an answer: the lister may have left out what it could not reach.

use super::Options;
use crate::source::{Deadline, Listing, Source};
use bytes::Bytes;
use futures_util::FutureExt;
use globalfs_proto::{Attr, FsError, FsResult, GlobalPath};
use moka::future::Cache;
use std::future::Future;
use std::sync::Arc;

/// What an entry takes besides its own bytes, in this table and in the cache's.
const ENTRY_OVERHEAD: usize = 256;

/// Times that a question is asked again after another asker's deadline ended it.
const MAX_TAKEOVERS: usize = 8;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Question {
    Attr(GlobalPath),
    List(GlobalPath),
    Link(GlobalPath),
    XattrNames(GlobalPath),
    Xattr(GlobalPath, Bytes),
}

#[derive(Clone)]
enum Answer {
    Attr(Attr),
    List(Arc<Directory>),
    Link(Bytes),
    Xattr(Bytes),
    /// The file has no such extended attribute, or its file system has none at all.
    NoXattr(FsError),
    Missing,
}

/// A listing that finds entries by name.
struct Directory {
    entries: Listing,
    /// Positions in `entries`, in the order of their names.
    by_name: Box<[u32]>,
}

pub(super) struct Metadata(Cache<Question, Answer>);

impl Metadata {
    pub(super) fn new(options: Options) -> Self {
        let cache = Cache::builder()
            .weigher(weight)
            .max_capacity(options.metadata_bytes)
            .time_to_live(options.metadata_ttl)
            .build();
        Self(cache)
    }

    pub(super) async fn stat(
        &self,
        upstream: &Arc<dyn Source>,
        path: &GlobalPath,
        deadline: Deadline,
    ) -> FsResult<Attr> {
        let question = Question::Attr(path.clone());
        if !self.0.contains_key(&question)
            && let Some(attr) = self.listed(path).await
        {
            return Ok(attr);
        }
        let ask = || async { upstream.stat(path, deadline).await.map(Answer::Attr) };
        match self.ask(question, deadline, ask).await? {
            Answer::Attr(attr) => Ok(attr),
            _ => Err(FsError::NOT_FOUND),
        }
    }

    pub(super) async fn list(
        &self,
        upstream: &Arc<dyn Source>,
        path: &GlobalPath,
        deadline: Deadline,
    ) -> FsResult<Listing> {
        let ask = || async {
            let entries = upstream.list(path, deadline).await?;
            Ok(Answer::List(Arc::new(Directory::new(entries))))
        };
        match self.ask(Question::List(path.clone()), deadline, ask).await? {
            Answer::List(directory) => Ok(directory.entries.clone()),
            _ => Err(FsError::NOT_FOUND),
        }
    }

    pub(super) async fn read_link(
        &self,
        upstream: &Arc<dyn Source>,
        path: &GlobalPath,
        deadline: Deadline,
    ) -> FsResult<Bytes> {
        let ask = || async { upstream.read_link(path, deadline).await.map(Answer::Link) };
        match self.ask(Question::Link(path.clone()), deadline, ask).await? {
            Answer::Link(target) => Ok(target),
            _ => Err(FsError::NOT_FOUND),
        }
    }

    pub(super) async fn get_xattr(
        &self,
        upstream: &Arc<dyn Source>,
        path: &GlobalPath,
        name: &[u8],
        deadline: Deadline,
    ) -> FsResult<Bytes> {
        let ask = || async { xattr_answer(upstream.get_xattr(path, name, deadline).await) };
        self.xattr(Question::Xattr(path.clone(), Bytes::copy_from_slice(name)), deadline, ask).await
    }

    pub(super) async fn list_xattr(
        &self,
        upstream: &Arc<dyn Source>,
        path: &GlobalPath,
        deadline: Deadline,
    ) -> FsResult<Bytes> {
        let ask = || async { xattr_answer(upstream.list_xattr(path, deadline).await) };
        self.xattr(Question::XattrNames(path.clone()), deadline, ask).await
    }

    async fn xattr<F: Future<Output = FsResult<Answer>>>(
        &self,
        question: Question,
        deadline: Deadline,
        ask: impl Fn() -> F,
    ) -> FsResult<Bytes> {
        match self.ask(question, deadline, ask).await? {
            Answer::Xattr(bytes) => Ok(bytes),
            Answer::NoXattr(error) => Err(error),
            _ => Err(FsError::NOT_FOUND),
        }
    }

    /// The listing of `directory`, if it is known at this moment.
    pub(super) fn known_listing(&self, directory: &GlobalPath) -> Option<Listing> {
        match self.0.get(&Question::List(directory.clone())).now_or_never()?? {
            Answer::List(directory) => Some(directory.entries.clone()),
            _ => None,
        }
    }

    /// The master told these attributes just now.
    pub(super) async fn learn(&self, path: &GlobalPath, attr: Attr) {
        self.0.insert(Question::Attr(path.clone()), Answer::Attr(attr)).await;
    }

    /// The master told just now that the name does not exist.
    pub(super) async fn learn_missing(&self, path: &GlobalPath) {
        self.forget(path).await;
        self.0.insert(Question::Attr(path.clone()), Answer::Missing).await;
    }

    /// What is known of `path` is out of date; its attributes may be known anew.
    pub(super) async fn changed(&self, path: &GlobalPath, attr: Option<&Attr>) {
        self.forget(path).await;
        if let Some(attr) = attr {
            self.learn(path, *attr).await;
        }
    }

    async fn forget(&self, path: &GlobalPath) {
        self.0.invalidate(&Question::Attr(path.clone())).await;
        self.0.invalidate(&Question::List(path.clone())).await;
        self.0.invalidate(&Question::Link(path.clone())).await;
        if let Some(parent) = path.parent() {
            self.0.invalidate(&Question::List(parent)).await;
        }
    }

    /// The attributes of `path` in the listing of its directory, if that is known.
    async fn listed(&self, path: &GlobalPath) -> Option<Attr> {
        match self.0.get(&Question::List(path.parent()?)).await? {
            Answer::List(directory) => directory.find(path.name()),
            _ => None,
        }
    }

    /// The known answer, or the one to `ask`, which one asker puts for all who wait. An asker that leaves or
    /// whose deadline passes is replaced by another.
    async fn ask<F: Future<Output = FsResult<Answer>>>(
        &self,
        question: Question,
        deadline: Deadline,
        ask: impl Fn() -> F,
    ) -> FsResult<Answer> {
        let turn = || async { deadline.bound(ask()).await.or_else(missing) };
        for _ in 0..MAX_TAKEOVERS {
            let answer =
                deadline.bound(async { Ok(self.0.try_get_with_by_ref(&question, turn()).await) }).await?;
            match answer {
                Err(error) if *error == FsError::Deadline && !deadline.remaining().is_zero() => {}
                answer => return answer.map_err(|error| (*error).clone()),
            }
        }
        Err(FsError::Deadline)
    }
}

fn missing(error: FsError) -> FsResult<Answer> {
    if error == FsError::NOT_FOUND { Ok(Answer::Missing) } else { Err(error) }
}

/// Keeps those errors that are answers.
fn xattr_answer(answer: FsResult<Bytes>) -> FsResult<Answer> {
    const ENODATA: FsError = FsError::Os(61);
    const EOPNOTSUPP: FsError = FsError::Os(95);
    match answer {
        Ok(bytes) => Ok(Answer::Xattr(bytes)),
        Err(error @ (ENODATA | EOPNOTSUPP)) => Ok(Answer::NoXattr(error)),
        Err(error) => Err(error),
    }
}

fn weight(question: &Question, answer: &Answer) -> u32 {
    let (path, name) = match question {
        Question::Attr(path) | Question::List(path) | Question::Link(path) | Question::XattrNames(path) => {
            (path, 0)
        }
        Question::Xattr(path, name) => (path, name.len()),
    };
    let bytes = match answer {
        Answer::Attr(_) | Answer::Missing | Answer::NoXattr(_) => 0,
        Answer::Link(bytes) | Answer::Xattr(bytes) => bytes.len(),
        Answer::List(directory) => directory.bytes(),
    };
    u32::try_from(ENTRY_OVERHEAD + path.as_bytes().len() + name + bytes).unwrap_or(u32::MAX)
}

impl Directory {
    fn new(entries: Listing) -> Self {
        let mut by_name: Vec<u32> = (0..u32::try_from(entries.len()).unwrap_or(u32::MAX)).collect();
        by_name.sort_unstable_by(|a, b| entries[*a as usize].name.cmp(&entries[*b as usize].name));
        Self { entries, by_name: by_name.into() }
    }

    fn find(&self, name: &[u8]) -> Option<Attr> {
        let at = self.by_name.binary_search_by(|n| self.entries[*n as usize].name[..].cmp(name)).ok()?;
        Some(self.entries[self.by_name[at] as usize].attr)
    }

    fn bytes(&self) -> usize {
        let names: usize = self.entries.iter().map(|entry| entry.name.len()).sum();
        names + self.entries.len() * (size_of::<globalfs_proto::DirEntry>() + size_of::<u32>())
    }
}
