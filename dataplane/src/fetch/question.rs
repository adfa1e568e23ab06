//! One question to the upstream, with everybody who waits for its answer: for its first frame, or for a
//! directory that comes along.
//!
//! A question belongs to nobody: it is a task with its own deadline that goes on when its askers leave.
//!
//! *Invariant:* a question ends, whatever becomes of its task, and with it every wait for it.

use super::metadata::Metadata;
use crate::model::freshness::{Ticket, split};
use crate::source::{Deadline, Directory, DirectoryStream, Found, Listed, Listing};
use globalfs_proto::{Attr, FsError, FsResult, GlobalPath};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// What a name waits for a directory to come along, once the answer has begun.
const JOIN_LIMIT: Duration = Duration::from_millis(500);

/// How often a name is asked for again because a change of it was heard before the answer came. A file that is written all the
/// time is not worth more.
const MAX_AGAIN: u32 = 2;

/// What is asked.
pub(super) enum About {
    /// The name alone.
    Name(GlobalPath),
    /// The name, and along with it so many entries around it.
    Surroundings(GlobalPath, u32),
    /// A directory, and so many entries below it.
    Listing(GlobalPath, u32),
}

/// The first frame of an answer.
#[derive(Clone)]
pub(super) enum First {
    Name(FsResult<Option<Attr>>),
    Listing(FsResult<Listing>),
}

/// What has arrived.
#[derive(Default)]
struct Progress {
    first: Option<First>,
    /// Directories that came, or will not.
    settled: HashSet<GlobalPath>,
    ended: bool,
}

pub(super) struct Question {
    about: About,
    pub(super) ticket: Ticket,
    /// How often it was asked before.
    again: u32,
    progress: watch::Sender<Progress>,
}

impl Question {
    pub(super) fn new(about: About, ticket: Ticket, again: u32) -> Self {
        Self { about, ticket, again, progress: watch::Sender::new(Progress::default()) }
    }

    /// The name that it is about, if that is worth asking for again while the answer is yet to come, and for the how many-th time.
    pub(super) fn renewed(&self) -> Option<(GlobalPath, u32)> {
        match &self.about {
            About::Name(path) | About::Surroundings(path, _)
                if self.again < MAX_AGAIN && self.progress.borrow().first.is_none() =>
            {
                Some((path.clone(), self.again + 1))
            }
            _ => None,
        }
    }

    /// Whether its answer may go on for a while.
    pub(super) fn is_long(&self) -> bool {
        matches!(self.about, About::Surroundings(_, 1..) | About::Listing(_, 1..))
    }

    /// Whether its first frame, yet to come, is about the name `path`.
    pub(super) fn will_answer_name(&self, path: &GlobalPath) -> bool {
        matches!(&self.about, About::Name(asked) | About::Surroundings(asked, _) if asked == path)
            && self.progress.borrow().first.is_none()
    }

    /// Whether its first frame, yet to come, is the directory `path`.
    pub(super) fn will_answer_listing(&self, path: &GlobalPath) -> bool {
        matches!(&self.about, About::Listing(asked, _) if asked == path)
            && self.progress.borrow().first.is_none()
    }

    /// Whether `directory` may still come along.
    pub(super) fn may_bring(&self, directory: &GlobalPath) -> bool {
        let fits = match &self.about {
            About::Name(_) => false,
            About::Listing(path, 0) | About::Surroundings(path, 0) => directory == path,
            About::Listing(path, _) => directory.starts_with(path),
            About::Surroundings(path, _) => directory.starts_with(path) || is_parent(directory, path),
        };
        fits && !self.is_settled(directory)
    }

    fn is_settled(&self, directory: &GlobalPath) -> bool {
        let progress = self.progress.borrow();
        progress.ended || progress.settled.contains(directory)
    }

    /// The answer about the name.
    pub(super) async fn name(&self) -> FsResult<Option<Attr>> {
        match self.first().await {
            Some(First::Name(answer)) => answer,
            _ => Err(FsError::Deadline),
        }
    }

    /// The directory that was asked for.
    pub(super) async fn listing(&self) -> FsResult<Listing> {
        match self.first().await {
            Some(First::Listing(answer)) => answer,
            _ => Err(FsError::Deadline),
        }
    }

    async fn first(&self) -> Option<First> {
        let mut progress = self.progress.subscribe();
        let arrived = progress.wait_for(|progress| progress.first.is_some() || progress.ended).await;
        arrived.ok()?.first.clone()
    }

    /// Returns when `directory` has come or will not, or the wait for it becomes too long.
    pub(super) async fn along(&self, directory: &GlobalPath) -> FsResult<()> {
        self.first().await;
        let mut progress = self.progress.subscribe();
        let settled = progress.wait_for(|progress| progress.ended || progress.settled.contains(directory));
        let _ = timeout(JOIN_LIMIT, settled).await;
        Ok(())
    }

    /// Gets the answer and hands it to all who wait.
    pub(super) async fn answer(self: Arc<Self>, metadata: Metadata, deadline: Deadline) {
        let ending = Ending { question: self, metadata };
        let (question, metadata) = (&ending.question, &ending.metadata);
        let outcome = deadline.bound(question.ask(metadata, deadline)).await;
        if let Err(error) = outcome {
            question.arrived(question.failure(error));
        }
    }

    async fn ask(&self, metadata: &Metadata, deadline: Deadline) -> FsResult<()> {
        let upstream = &metadata.0.upstream;
        match &self.about {
            About::Name(path) => drop(self.ask_name(metadata, path, 0, deadline).await?),
            About::Surroundings(path, along) => {
                let directories = self.ask_name(metadata, path, *along, deadline).await?;
                self.take_in(metadata, directories).await;
            }
            About::Listing(path, below) => {
                let listed = upstream.list_below(path, *below, deadline).await;
                let Listed { listing, directories } = listed.inspect_err(|error| {
                    if *error == FsError::NOT_FOUND {
                        metadata.learn(self.ticket, path, None);
                    }
                })?;
                metadata.learn_directory(self.ticket, path, Some(listing.clone()));
                self.arrived(First::Listing(Ok(listing)));
                self.settled(path.clone());
                self.take_in(metadata, directories).await;
            }
        }
        Ok(())
    }

    async fn ask_name(
        &self,
        metadata: &Metadata,
        path: &GlobalPath,
        along: u32,
        deadline: Deadline,
    ) -> FsResult<DirectoryStream> {
        let Found { attr, directories, content } = metadata.0.upstream.look_up(path, along, deadline).await?;
        if let (Some(attr), Some(content)) = (attr, content) {
            metadata.0.cache.put(&attr.version(), &content).await;
        }
        metadata.learn(self.ticket, path, attr);
        self.arrived(First::Name(Ok(attr)));
        Ok(directories)
    }

    async fn take_in(&self, metadata: &Metadata, mut directories: DirectoryStream) {
        while let Some(Directory { path, listing }) = directories.recv().await {
            metadata.learn_directory(self.ticket, &path, listing);
            self.settled(path);
        }
    }

    fn arrived(&self, first: First) {
        self.progress.send_modify(|progress| {
            progress.first.get_or_insert(first);
        });
    }

    fn settled(&self, directory: GlobalPath) {
        self.progress.send_modify(|progress| {
            progress.settled.insert(directory);
        });
    }

    fn failure(&self, error: FsError) -> First {
        match self.about {
            About::Listing(..) => First::Listing(Err(error)),
            _ => First::Name(Err(error)),
        }
    }
}

/// Ends a question when it goes.
struct Ending {
    question: Arc<Question>,
    metadata: Metadata,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.metadata.end(&self.question);
        self.question.progress.send_modify(|progress| progress.ended = true);
    }
}

fn is_parent(directory: &GlobalPath, path: &GlobalPath) -> bool {
    split(path.as_bytes()).is_some_and(|(parent, _)| parent == directory.as_bytes())
}
