//! Names and attributes in front of an upstream: answers are repeated while they count, questions under way
//! are joined, and one question brings what is likely to be asked next.
//!
//! *Invariants:* who asks after a change was heard joins no question that the change may have overtaken; what counts
//! is decided by [`Names`] alone, under one lock with the questions under way; no lock is held while the upstream works.

use super::Options;
use super::question::{About, Question};
use super::small::Small;
use crate::cache::Cache;
use crate::changes::Hub;
use crate::model::freshness::Ticket;
use crate::model::names::{Answer, Ask, Names, Parent};
use crate::source::{ChangeStream, Deadline, Listing, Source};
use bytes::Bytes;
use globalfs_proto::limits::{DEFAULT_DEADLINE, MAX_ENTRIES_BELOW};
use globalfs_proto::{Attr, Change, Changed, Edition, FsError, FsResult, GlobalPath, Lasting};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Entries that come along with a name that is looked up among unknown ones.
const ENTRIES_ALONG: u32 = 8 * 1024;

/// Times that a question is put anew after others' questions failed to answer it.
const MAX_ROUNDS: usize = 8;

/// Answers of several directories that arrive at a time. Further questions are about one name or directory.
const MAX_LONG_ANSWERS: usize = 64;

/// What a hop knows of names. Clones are one.
#[derive(Clone)]
pub(super) struct Metadata(pub(super) Arc<Shared>);

pub(super) struct Shared {
    pub(super) upstream: Arc<dyn Source>,
    /// Where content goes that is told along with attributes.
    pub(super) cache: Cache,
    pub(super) ttl: Duration,
    pub(super) state: Mutex<State>,
    pub(super) small: Small,
    /// Where changes are told on to those who ask this hop.
    pub(super) hub: Hub,
    pub(super) watching: AtomicBool,
    pub(super) counts: Counts,
    begun: Instant,
}

pub(super) struct State {
    pub(super) names: Names,
    questions: Vec<Arc<Question>>,
}

/// What a hop has learned of names since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NameCounters {
    /// Names and directories asked for and answered without asking the upstream.
    pub answered_here: u64,
    /// Questions put to the upstream.
    pub asked_upstream: u64,
    /// Directories that arrived.
    pub directories: u64,
    /// Messages of changes that were heard.
    pub changes: u64,
    /// Whether the upstream's changes are heard.
    pub is_watching: bool,
}

#[derive(Default)]
pub(super) struct Counts {
    answered_here: AtomicU64,
    asked_upstream: AtomicU64,
    pub(super) directories: AtomicU64,
    pub(super) changes: AtomicU64,
}

/// How to get an answer.
enum Step<T> {
    Known(T),
    /// It is the first frame of the answer to this question.
    First(Arc<Question>),
    /// It may come along with the answer to this question.
    Along(Arc<Question>),
}

impl Metadata {
    pub(super) fn new(upstream: Arc<dyn Source>, cache: Cache, hub: Hub, options: Options) -> Self {
        let names = Names::new(options.metadata_ttl, options.metadata_bytes);
        Self(Arc::new(Shared {
            upstream,
            cache,
            ttl: options.metadata_ttl,
            state: Mutex::new(State { names, questions: Vec::new() }),
            small: Small::new(options),
            hub,
            watching: AtomicBool::new(false),
            counts: Counts::default(),
            begun: Instant::now(),
        }))
    }

    pub(super) async fn stat(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Attr> {
        self.find(path, deadline).await?.ok_or(FsError::NOT_FOUND)
    }

    /// The attributes, or that there is no such name.
    pub(super) async fn find(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Option<Attr>> {
        let parent = path.parent().unwrap_or_else(GlobalPath::root);
        let mut may_join = true;
        for _ in 0..MAX_ROUNDS {
            match self.step_to_name(path, &parent, may_join, deadline) {
                Step::Known(attr) => return Ok(attr),
                Step::Along(question) => {
                    may_join = false;
                    deadline.bound(question.along(&parent)).await?;
                }
                Step::First(question) => match deadline.bound(question.name()).await {
                    Err(FsError::Deadline) if !deadline.remaining().is_zero() => {}
                    answer => return answer,
                },
            }
        }
        Err(FsError::Deadline)
    }

    fn step_to_name(
        &self,
        path: &GlobalPath,
        parent: &GlobalPath,
        may_join: bool,
        deadline: Deadline,
    ) -> Step<Option<Attr>> {
        self.start_watching();
        let mut state = self.0.state.lock();
        let ask = match state.names.stat(path, self.now()) {
            Answer::Known(attr) => {
                self.0.counts.answered_here.fetch_add(1, Relaxed);
                return Step::Known(attr);
            }
            Answer::Ask(ask) => ask,
        };
        if let Some(question) = state.answering_name(path) {
            return Step::First(question);
        }
        if may_join && let Some(question) = state.question(|question| question.may_bring(parent)) {
            return Step::Along(question);
        }
        match ask {
            Ask::Surroundings if state.has_room() => {
                Step::First(self.put(&mut state, About::Surroundings(path.clone(), ENTRIES_ALONG), deadline))
            }
            Ask::Parent if may_join => {
                Step::Along(self.put(&mut state, About::Listing(parent.clone(), 0), deadline))
            }
            _ => Step::First(self.put(&mut state, About::Name(path.clone()), deadline)),
        }
    }

    /// The attributes as they are now: what `open(2)` promises. What is watched need not be asked for.
    pub(super) async fn stat_fresh(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Attr> {
        self.start_watching();
        if let Some(attr) = self.watched(path, deadline).await {
            self.0.counts.answered_here.fetch_add(1, Relaxed);
            return attr.ok_or(FsError::NOT_FOUND);
        }
        let asking = self.asking();
        let answer = deadline.bound(self.0.upstream.stat(path, deadline)).await;
        match &answer {
            Ok(attr) => self.learn(asking.ticket, path, Some(*attr)),
            Err(FsError::NOT_FOUND) => self.learn(asking.ticket, path, None),
            Err(_) => {}
        }
        answer
    }

    /// What is known of `path` because its changes are heard, or will be in a moment: an answer on its way counts as if it
    /// had been here already.
    async fn watched(&self, path: &GlobalPath, deadline: Deadline) -> Option<Option<Attr>> {
        let question = {
            let mut state = self.0.state.lock();
            let known = state.names.stat_watched(path, self.now());
            if known.is_some() {
                return known;
            }
            // Of another one it is not known whether it will count.
            state.answering_name(path).filter(|question| state.names.is_of_watched(question.ticket, path))?
        };
        let _ = deadline.bound(question.name()).await;
        self.0.state.lock().names.stat_watched(path, self.now())
    }

    /// Asks again at once where a change that was heard has overtaken a question under way: else its answer would be good for
    /// nothing when it comes.
    pub(super) fn ask_again(&self) {
        let mut state = self.0.state.lock();
        let is_overtaken =
            |question: &&Arc<Question>, path: &GlobalPath| state.names.is_overtaken(question.ticket, path);
        let renewed = state.questions.iter().filter_map(|question| Some((question, question.renewed()?)));
        let overtaken: Vec<_> =
            renewed.filter(|(question, (path, _))| is_overtaken(question, path)).map(|(_, of)| of).collect();
        for (path, again) in overtaken {
            if state.answering_name(&path).is_none() {
                let about = About::Name(path);
                self.put_again(&mut state, about, Deadline::after(DEFAULT_DEADLINE), again);
            }
        }
    }

    pub(super) async fn list(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Listing> {
        let mut may_join = true;
        for _ in 0..MAX_ROUNDS {
            match self.step_to_listing(path, may_join, deadline) {
                Step::Known(answer) => return answer,
                Step::Along(question) => {
                    may_join = false;
                    deadline.bound(question.along(path)).await?;
                }
                Step::First(question) => match deadline.bound(question.listing()).await {
                    Err(FsError::Deadline) if !deadline.remaining().is_zero() => {}
                    answer => return answer,
                },
            }
        }
        Err(FsError::Deadline)
    }

    fn step_to_listing(
        &self,
        path: &GlobalPath,
        may_join: bool,
        deadline: Deadline,
    ) -> Step<FsResult<Listing>> {
        self.start_watching();
        let mut state = self.0.state.lock();
        if let Some(answer) = state.listing(path, self.now()) {
            self.0.counts.answered_here.fetch_add(1, Relaxed);
            return Step::Known(answer);
        }
        if let Some(question) = state.answering_listing(path) {
            return Step::First(question);
        }
        if may_join && let Some(question) = state.question(|question| question.may_bring(path)) {
            return Step::Along(question);
        }
        // Where only some names have changed, what is below is known.
        let known = state.names.known_listing(path, self.now()).is_some();
        let alone = known || self.0.ttl.is_zero() || !state.has_room();
        let below = if alone { 0 } else { MAX_ENTRIES_BELOW };
        Step::First(self.put(&mut state, About::Listing(path.clone(), below), deadline))
    }

    /// Puts a question to the upstream, in a task of its own.
    fn put(&self, state: &mut State, about: About, wanted: Deadline) -> Arc<Question> {
        self.put_again(state, about, wanted, 0)
    }

    /// The same for the time `again`.
    fn put_again(&self, state: &mut State, about: About, wanted: Deadline, again: u32) -> Arc<Question> {
        self.count_asked();
        let question = Arc::new(Question::new(about, state.names.ask(), again));
        state.questions.push(question.clone());
        let deadline = wanted.max(Deadline::after(DEFAULT_DEADLINE));
        tokio::spawn(question.clone().answer(self.clone(), deadline));
        question
    }

    /// A question that no other asker may join.
    fn asking(&self) -> Asking<'_> {
        self.count_asked();
        Asking { metadata: self, ticket: self.0.state.lock().names.ask() }
    }

    /// The question brings nothing more.
    pub(super) fn end(&self, question: &Arc<Question>) {
        let mut state = self.0.state.lock();
        state.names.close(question.ticket);
        state.questions.retain(|other| !Arc::ptr_eq(other, question));
    }

    pub(super) fn learn(&self, ticket: Ticket, path: &GlobalPath, attr: Option<Attr>) {
        self.0.state.lock().names.learn(ticket, path, attr, self.now());
    }

    pub(super) fn learn_directory(&self, ticket: Ticket, path: &GlobalPath, listing: Option<Listing>) {
        self.0.counts.directories.fetch_add(1, Relaxed);
        self.0.state.lock().names.learn_directory(ticket, path, listing, self.now());
    }

    /// Asks for a change and takes over what came of it, unless others' changes have overtaken that.
    pub(super) async fn change(&self, change: &Change, deadline: Deadline) -> FsResult<Changed> {
        self.start_watching();
        let asking = self.asking();
        let outcome = deadline.bound(self.0.upstream.change(change, deadline)).await;
        if change.is_without_effect() {
            return outcome;
        }
        let changed = outcome.as_ref().copied().unwrap_or_default();
        let directory = change.directory();
        for path in change.paths() {
            let of_directory = match change.is_of_names() {
                true => Parent::Changed(changed.directory.filter(|_| path.parent() == directory)),
                false => Parent::Same,
            };
            let told = (changed.attr, of_directory);
            self.0.state.lock().names.change_done(asking.ticket, path, told, self.now());
        }
        if let (Change::Remove { .. } | Change::Rename { .. }, Some(before)) = (change, changed.before) {
            self.0.state.lock().names.lost_a_name(before.file);
        }
        // Whoever asked may wait no longer, and what is known of names is right by now.
        for path in change.paths() {
            self.0.small.forget(path).await;
        }
        outcome
    }

    /// What is known of `path` is out of date; its attributes may be known anew.
    pub(super) async fn changed(&self, path: &GlobalPath, attr: Option<&Attr>) {
        self.0.state.lock().names.forget(path);
        self.0.small.forget(path).await;
        if let Some(attr) = attr {
            let asking = self.asking();
            self.learn(asking.ticket, path, Some(*attr));
        }
    }

    /// Whether it is known, as fresh as any answer about the name, that `path` has no extended attributes.
    pub(super) fn has_no_xattrs(&self, path: &GlobalPath) -> bool {
        let known = self.0.state.lock().names.known(path, self.now());
        let told = known.is_some_and(|attr| attr.no_xattrs);
        self.0.counts.answered_here.fetch_add(told.into(), Relaxed);
        told
    }

    /// Where the link `path` points, if that came along with its directory.
    pub(super) fn known_target(&self, path: &GlobalPath) -> Option<Bytes> {
        let target = self.0.state.lock().names.target(path, self.now());
        self.0.counts.answered_here.fetch_add(target.is_some().into(), Relaxed);
        target
    }

    pub(super) fn count_asked(&self) {
        self.0.counts.asked_upstream.fetch_add(1, Relaxed);
    }

    /// The listing of `directory` if it is known, without asking anybody.
    pub(super) fn known_listing(&self, directory: &GlobalPath) -> Option<Listing> {
        self.0.state.lock().names.known_listing(directory, self.now())
    }

    pub(super) fn edition(&self, directory: &GlobalPath) -> Option<Edition> {
        self.0.state.lock().names.edition(directory, self.now())
    }

    pub(super) fn lasting(&self, path: &GlobalPath, attr: &Attr) -> Lasting {
        self.0.state.lock().names.lasting(path, attr, self.now())
    }

    /// All that is told on from here.
    pub(super) fn watch(&self) -> ChangeStream {
        self.0.hub.subscribe()
    }

    pub(super) fn counters(&self) -> NameCounters {
        let counts = &self.0.counts;
        NameCounters {
            answered_here: counts.answered_here.load(Relaxed),
            asked_upstream: counts.asked_upstream.load(Relaxed),
            directories: counts.directories.load(Relaxed),
            changes: counts.changes.load(Relaxed),
            is_watching: self.0.state.lock().names.is_alive(self.now()),
        }
    }

    pub(super) fn now(&self) -> Duration {
        self.0.now()
    }
}

impl Shared {
    pub(super) fn now(&self) -> Duration {
        self.begun.elapsed()
    }
}

impl State {
    fn question(&self, fits: impl Fn(&Question) -> bool) -> Option<Arc<Question>> {
        self.questions.iter().find(|question| fits(question)).cloned()
    }

    /// A question about the name whose answer is as good as that to a new one.
    fn answering_name(&self, path: &GlobalPath) -> Option<Arc<Question>> {
        self.question(|question| {
            question.will_answer_name(path) && !self.names.is_overtaken(question.ticket, path)
        })
    }

    /// The same about the directory.
    fn answering_listing(&self, path: &GlobalPath) -> Option<Arc<Question>> {
        self.question(|question| {
            question.will_answer_listing(path) && !self.names.is_listing_overtaken(question.ticket, path)
        })
    }

    fn listing(&mut self, path: &GlobalPath, now: Duration) -> Option<FsResult<Listing>> {
        match self.names.list(path, now) {
            Some(listing) => Some(Ok(listing)),
            None => self.names.is_missing(path, now).then_some(Err(FsError::NOT_FOUND)),
        }
    }

    /// A question that may bring `directory` along.
    pub(super) fn bringing(&self, directory: &GlobalPath) -> Option<Arc<Question>> {
        self.question(|question| question.may_bring(directory))
    }

    fn has_room(&self) -> bool {
        self.questions.iter().filter(|question| question.is_long()).count() < MAX_LONG_ANSWERS
    }
}

/// A ticket that is closed when it goes.
struct Asking<'m> {
    metadata: &'m Metadata,
    ticket: Ticket,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.metadata.0.state.lock().names.close(self.ticket);
    }
}
