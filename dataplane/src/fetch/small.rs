//! Link targets and extended attributes. Those that what is known of names does not tell are asked for and
//! repeated for a short time, also that there is none. Other errors are not kept.
//!
//! Extended attributes matter because `ls -l` and `cp -a` ask for some of each file, and most files have none,
//! which their attributes tell.
//!
//! *Invariant:* what was asked before a file was seen to change is not told to who asks after it.

use super::Options;
use super::metadata::Metadata;
use crate::source::{Deadline, Source};
use bytes::Bytes;
use globalfs_proto::limits::DEFAULT_DEADLINE;
use globalfs_proto::{FsError, FsResult, GlobalPath};
use moka::future::Cache;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const ENODATA: FsError = FsError::Os(61);
const EOPNOTSUPP: FsError = FsError::Os(95);

/// What an entry takes besides its own bytes, in this table and in the cache's.
const ENTRY_OVERHEAD: usize = 256;

/// The part of the memory for names that these answers may take.
const SHARE: u64 = 8;

/// Paths that are remembered as changed lately. What is known of those that are forgotten too early grows old by the clock.
const MAX_CHANGED: u64 = 16 * 1024;

/// Times that a question is asked again after another asker's deadline ended it.
const MAX_TAKEOVERS: usize = 8;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Question {
    Link(GlobalPath),
    XattrNames(GlobalPath),
    Xattr(GlobalPath, Bytes),
}

#[derive(Clone)]
enum Answer {
    Link(Bytes),
    Xattr(Bytes),
    /// The file has no such extended attribute, or its file system has none at all.
    NoXattr(FsError),
    Missing,
}

impl Question {
    fn path(&self) -> &GlobalPath {
        match self {
            Self::Link(path) | Self::XattrNames(path) | Self::Xattr(path, _) => path,
        }
    }
}

/// A question, and the last change of its path before it was asked; 0: none that is remembered.
type Asked = (Question, u64);

/// The answers that were asked for.
pub(super) struct Small {
    answers: Cache<Asked, Answer>,
    /// The number of the last change of each path that changed lately.
    changed: Cache<GlobalPath, u64>,
    changes: AtomicU64,
}

impl Small {
    pub(super) fn new(options: Options) -> Self {
        let answers = Cache::builder()
            .weigher(weight)
            .max_capacity(options.metadata_bytes / SHARE)
            .time_to_live(options.metadata_ttl)
            .build();
        // Longer than any answer that was asked for before.
        let remembered = options.metadata_ttl + DEFAULT_DEADLINE;
        let changed = Cache::builder().max_capacity(MAX_CHANGED).time_to_live(remembered).build();
        Self { answers, changed, changes: AtomicU64::new(0) }
    }

    /// What `path` is has changed.
    pub(super) async fn forget(&self, path: &GlobalPath) {
        let number = self.changes.fetch_add(1, Relaxed) + 1;
        self.changed.insert(path.clone(), number).await;
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
        let changed = self.changed.get(question.path()).await.unwrap_or(0);
        let asked = (question, changed);
        for _ in 0..MAX_TAKEOVERS {
            let answer =
                deadline.bound(async { Ok(self.answers.try_get_with_by_ref(&asked, turn()).await) }).await?;
            match answer {
                Err(error) if *error == FsError::Deadline && !deadline.remaining().is_zero() => {}
                answer => return answer.map_err(|error| (*error).clone()),
            }
        }
        Err(FsError::Deadline)
    }
}

impl Metadata {
    pub(super) async fn read_link(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Bytes> {
        if let Some(target) = self.known_target(path) {
            return Ok(target);
        }
        let ask = || async { self.upstream().read_link(path, deadline).await.map(Answer::Link) };
        match self.0.small.ask(Question::Link(path.clone()), deadline, ask).await? {
            Answer::Link(target) => Ok(target),
            _ => Err(FsError::NOT_FOUND),
        }
    }

    pub(super) async fn get_xattr(
        &self,
        path: &GlobalPath,
        name: &[u8],
        deadline: Deadline,
    ) -> FsResult<Bytes> {
        if self.has_no_xattrs(path) {
            return Err(ENODATA);
        }
        let ask = || async { xattr_answer(self.upstream().get_xattr(path, name, deadline).await) };
        let question = Question::Xattr(path.clone(), Bytes::copy_from_slice(name));
        xattr_of(self.0.small.ask(question, deadline, ask).await?)
    }

    pub(super) async fn list_xattr(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Bytes> {
        if self.has_no_xattrs(path) {
            return Ok(Bytes::new());
        }
        let ask = || async { xattr_answer(self.upstream().list_xattr(path, deadline).await) };
        xattr_of(self.0.small.ask(Question::XattrNames(path.clone()), deadline, ask).await?)
    }

    /// The upstream, to which one question is put now.
    fn upstream(&self) -> &dyn Source {
        self.count_asked();
        &*self.0.upstream
    }
}

fn missing(error: FsError) -> FsResult<Answer> {
    if error == FsError::NOT_FOUND { Ok(Answer::Missing) } else { Err(error) }
}

/// Keeps those errors that are answers.
fn xattr_answer(answer: FsResult<Bytes>) -> FsResult<Answer> {
    match answer {
        Ok(bytes) => Ok(Answer::Xattr(bytes)),
        Err(error @ (ENODATA | EOPNOTSUPP)) => Ok(Answer::NoXattr(error)),
        Err(error) => Err(error),
    }
}

fn xattr_of(answer: Answer) -> FsResult<Bytes> {
    match answer {
        Answer::Xattr(bytes) => Ok(bytes),
        Answer::NoXattr(error) => Err(error),
        _ => Err(FsError::NOT_FOUND),
    }
}

fn weight((question, _): &Asked, answer: &Answer) -> u32 {
    let (path, name) = match question {
        Question::Link(path) | Question::XattrNames(path) => (path, 0),
        Question::Xattr(path, name) => (path, name.len()),
    };
    let bytes = match answer {
        Answer::Missing | Answer::NoXattr(_) => 0,
        Answer::Link(bytes) | Answer::Xattr(bytes) => bytes.len(),
    };
    u32::try_from(ENTRY_OVERHEAD + path.as_bytes().len() + name + bytes).unwrap_or(u32::MAX)
}
