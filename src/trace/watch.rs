//! Watches the reads of a mount: finds out whose they are, records them, and replays what earlier runs of the
//! same job read.
//!
//! *Invariants:* a read that nobody records costs one look at a counter; sessions, files and memory are
//! bounded; what a job read is put to its site now and then and when it ends, so that a node that is shut
//! down loses a minute at most.

use super::model::{Job, Pace, Recording, Trace};
use super::process::{Caller, Callers, Process};
use super::replay::{Planner, fetch_trace};
use super::{now_ns, stored};
use crate::config::TraceMode;
use crate::prefetch::Batches;
use globalfs_dataplane::remote::Remote;
use globalfs_dataplane::{Deadline, Source};
use globalfs_proto::{ByteRange, FsError, FsResult, GlobalPath, PutTrace, Warmed};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Jobs and recordings that are watched together; the quietest job makes room for another.
const MAX_SESSIONS: usize = 64;

/// Processes of one job whose life is looked at.
const MAX_PROCESSES: usize = 256;

/// How often jobs are looked after.
const TICK: Duration = Duration::from_secs(1);

/// A job whose processes have been gone for this long has ended.
const GONE_FOR: Duration = Duration::from_secs(2);

/// A job that opened nothing for this long has ended, so far as its trace goes.
const QUIET_FOR: Duration = Duration::from_secs(30 * 60);

/// How often the trace of a job that goes on is put to its site.
const PUT_EVERY: Duration = Duration::from_secs(60);

/// What a site is given to keep a trace.
const PUT_LIMIT: Duration = Duration::from_secs(10);

/// What the last traces of a mount that ends may take.
const STOP_LIMIT: Duration = Duration::from_secs(3);

/// What a replay waits before it looks again whether its job has caught up.
const PACE_POLL: Duration = Duration::from_millis(500);

/// Bytes, and reads, of a trace that are warmed before the pace is looked at again.
const WINDOW_BYTES: u64 = 32 * 1024 * 1024;
const WINDOW_READS: usize = 512;

/// Requests of a replay to the site at a time.
const REPLAY_REQUESTS: usize = 2;

/// The watch of one mount.
pub struct Watch {
    mode: TraceMode,
    source: Arc<dyn Source>,
    remote: Arc<Remote>,
    deadline: Duration,
    callers: Callers,
    sessions: Mutex<HashMap<Key, Arc<Session>>>,
    handles: Mutex<HashMap<u64, Watched>>,
    /// The number of `handles`, to be looked at without the lock.
    watched: AtomicUsize,
    /// The number of recordings on demand.
    recordings: AtomicUsize,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    /// `globalfs trace record` with this mark.
    Recording(String),
    /// A run of a batch job.
    Job(Job),
}

/// One run that is recorded.
struct Session {
    key: Key,
    /// The process that was started for a recording, by its number.
    root: u32,
    state: Mutex<State>,
    ended: CancellationToken,
}

struct State {
    recording: Recording,
    processes: HashSet<Process>,
    last_event: Instant,
    gone_since: Option<Instant>,
    put_events: u64,
    put_at: Instant,
    pace: Option<Pace>,
}

/// An open file of a session.
struct Watched {
    session: Arc<Session>,
    file: u32,
    path: GlobalPath,
    size: u64,
}

impl Session {
    fn new(key: Key, root: u32) -> Arc<Self> {
        let now = Instant::now();
        let state = State {
            recording: Recording::default(),
            processes: HashSet::new(),
            last_event: now,
            gone_since: None,
            put_events: 0,
            put_at: now,
            pace: None,
        };
        Arc::new(Self { key, root, state: Mutex::new(state), ended: CancellationToken::new() })
    }

    fn opened(&self, caller: &Caller, path: &GlobalPath, size: u64) -> Option<u32> {
        let mut state = self.state.lock();
        state.last_event = Instant::now();
        state.gone_since = None;
        if state.processes.len() < MAX_PROCESSES {
            state.processes.extend(&caller.of_job);
        }
        state.recording.opened(path, size)
    }

    fn read(&self, file: u32, path: &GlobalPath, range: ByteRange) {
        let mut state = self.state.lock();
        let fresh = state.recording.read(file, range);
        if let Some(pace) = &mut state.pace {
            fresh.into_iter().for_each(|span| pace.read(path, span));
        }
    }

    fn may_go_on(&self) -> bool {
        self.state.lock().pace.as_ref().is_none_or(Pace::may_go_on)
    }

    /// Whether its processes are gone, or it has been quiet for long.
    fn is_over(&self, now: Instant) -> bool {
        let mut state = self.state.lock();
        state.processes.retain(|process| process.is_running());
        if !state.processes.is_empty() {
            state.gone_since = None;
            return now.duration_since(state.last_event) > QUIET_FOR;
        }
        now.duration_since(*state.gone_since.get_or_insert(now)) >= GONE_FOR
    }

    /// The trace, if it has changed since it was put last.
    fn due(&self, at_once: bool) -> Option<Trace> {
        let Key::Job(job) = &self.key else { return None };
        let mut state = self.state.lock();
        let events = state.recording.events();
        if events == state.put_events || !at_once && state.put_at.elapsed() < PUT_EVERY {
            return None;
        }
        (state.put_events, state.put_at) = (events, Instant::now());
        Some(state.recording.trace(job.run(), now_ns())).filter(|trace| !trace.reads.is_empty())
    }
}

impl Watch {
    /// Watches for a mount that reads `source` and belongs to the site at `remote`.
    pub fn new(
        mode: TraceMode,
        source: Arc<dyn Source>,
        remote: Arc<Remote>,
        deadline: Duration,
    ) -> Arc<Self> {
        Arc::new(Self {
            mode,
            source,
            remote,
            deadline,
            callers: Callers::default(),
            sessions: Mutex::default(),
            handles: Mutex::default(),
            watched: AtomicUsize::new(0),
            recordings: AtomicUsize::new(0),
        })
    }

    /// The thread `tid` has opened `path` as `handle`.
    pub async fn opened(self: &Arc<Self>, handle: u64, tid: u32, path: &GlobalPath, size: u64) {
        if self.mode == TraceMode::Off && self.recordings.load(Ordering::Relaxed) == 0 {
            return;
        }
        let Some(caller) = self.callers.identify(tid).await else { return };
        let Some(session) = self.session_of(&caller) else { return };
        let Some(file) = session.opened(&caller, path, size) else { return };
        let mut handles = self.handles.lock();
        handles.insert(handle, Watched { session, file, path: path.clone(), size });
        self.watched.store(handles.len(), Ordering::Relaxed);
    }

    /// Something of `handle` is read.
    pub fn reading(&self, handle: u64, offset: u64, length: u32) {
        if self.watched.load(Ordering::Relaxed) == 0 {
            return;
        }
        let handles = self.handles.lock();
        let Some(watched) = handles.get(&handle) else { return };
        if let Some(range) = ByteRange::of_read(offset, length.into(), watched.size) {
            watched.session.read(watched.file, &watched.path, range);
        }
    }

    /// `handle` is closed.
    pub fn closed(&self, handle: u64) {
        if self.watched.load(Ordering::Relaxed) > 0 {
            let mut handles = self.handles.lock();
            handles.remove(&handle);
            self.watched.store(handles.len(), Ordering::Relaxed);
        }
    }

    /// A recording that was asked for goes before the job in which it runs.
    fn session_of(self: &Arc<Self>, caller: &Caller) -> Option<Arc<Session>> {
        let mut sessions = self.sessions.lock();
        let asked = sessions.values().find(|session| match &session.key {
            Key::Recording(mark) => {
                caller.mark.as_ref() == Some(mark)
                    || session.root > 1 && caller.lineage.contains(&session.root)
            }
            Key::Job(_) => false,
        });
        if let Some(session) = asked {
            return Some(session.clone());
        }
        let job = caller.job.clone().filter(|_| self.mode != TraceMode::Off)?;
        let key = Key::Job(job);
        if let Some(session) = sessions.get(&key) {
            return Some(session.clone());
        }
        self.make_room(&mut sessions);
        let session = Session::new(key.clone(), 0);
        sessions.insert(key, session.clone());
        if self.mode == TraceMode::Replay {
            tokio::spawn(self.clone().replay(session.clone()));
        }
        Some(session)
    }

    fn make_room(self: &Arc<Self>, sessions: &mut HashMap<Key, Arc<Session>>) {
        if sessions.len() < MAX_SESSIONS {
            return;
        }
        let jobs = sessions.values().filter(|session| matches!(session.key, Key::Job(_)));
        let quietest = jobs.min_by_key(|session| session.state.lock().last_event).cloned();
        if let Some(session) = quietest {
            sessions.remove(&session.key);
            tokio::spawn(self.clone().end(session));
        }
    }

    /// Records what the process `root`, its descendants and whoever has `mark` read, until
    /// [`Watch::finish_recording`].
    pub(super) fn begin_recording(&self, mark: String, root: u32) {
        let key = Key::Recording(mark);
        self.sessions.lock().insert(key.clone(), Session::new(key, root));
        self.recordings.fetch_add(1, Ordering::Relaxed);
        self.callers.forget();
    }

    /// Ends a recording and gives its trace.
    pub(super) fn finish_recording(&self, mark: &str, run: u64) -> Option<Trace> {
        let session = self.sessions.lock().remove(&Key::Recording(mark.to_owned()))?;
        self.recordings.fetch_sub(1, Ordering::Relaxed);
        self.forget_handles(&session);
        let state = session.state.lock();
        Some(state.recording.trace(run, now_ns()))
    }

    fn forget_handles(&self, session: &Arc<Session>) {
        let mut handles = self.handles.lock();
        handles.retain(|_, watched| !Arc::ptr_eq(&watched.session, session));
        self.watched.store(handles.len(), Ordering::Relaxed);
    }

    /// Looks after jobs until `stop`, then puts what was recorded.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(TICK)).await.is_some() {
            let now = Instant::now();
            let jobs: Vec<_> = self.sessions.lock().values().cloned().collect();
            for session in jobs.into_iter().filter(|session| matches!(session.key, Key::Job(_))) {
                if session.is_over(now) {
                    self.sessions.lock().remove(&session.key);
                    self.clone().end(session).await;
                } else {
                    self.put_if_due(&session, false).await;
                }
            }
        }
        let rest: Vec<_> = self.sessions.lock().drain().map(|(_, session)| session).collect();
        let ends = futures_util::future::join_all(rest.into_iter().map(|session| self.clone().end(session)));
        let _ = tokio::time::timeout(STOP_LIMIT, ends).await;
    }

    async fn end(self: Arc<Self>, session: Arc<Session>) {
        session.ended.cancel();
        self.put_if_due(&session, true).await;
        self.forget_handles(&session);
    }

    /// A trace that cannot be put costs the next run its replay and is no concern of the job.
    async fn put_if_due(&self, session: &Session, at_once: bool) {
        let (Key::Job(job), Some(trace)) = (&session.key, session.due(at_once)) else { return };
        let (files, bytes) = (trace.files.len(), trace.bytes());
        let put = PutTrace { name: job.trace.clone(), replace: false, trace: stored::encode(&trace) };
        match self.remote.put_trace(put, Deadline::after(PUT_LIMIT)).await {
            Ok(()) => tracing::info!(trace = %job.trace, run = job.id, files, bytes, "trace_recorded"),
            Err(error) => {
                session.state.lock().put_events = 0;
                tracing::warn!(trace = %job.trace, %error, "the site does not take the trace");
            }
        }
    }

    /// Warms what earlier runs of the job read, in their order, so long as this one reads it, too.
    async fn replay(self: Arc<Self>, session: Arc<Session>) {
        let Key::Job(job) = &session.key else { return };
        let replayed = session.ended.run_until_cancelled(self.replay_all(&session, job)).await;
        match replayed {
            None => tracing::info!(trace = %job.trace, "the job ended before its replay"),
            Some(Ok(bytes)) => tracing::info!(trace = %job.trace, bytes, "trace_replayed"),
            Some(Err(FsError::NOT_FOUND)) => tracing::debug!(trace = %job.trace, "no trace yet"),
            Some(Err(error)) => tracing::warn!(trace = %job.trace, %error, "no replay"),
        }
    }

    async fn replay_all(&self, session: &Session, job: &Job) -> FsResult<u64> {
        let trace = fetch_trace(&self.remote, job.trace.clone(), Deadline::after(self.deadline)).await?;
        let trace = Arc::new(trace);
        session.state.lock().pace = Some(Pace::new(&trace));
        let mut planner = Planner::new(self.source.clone(), trace.clone(), self.deadline);
        let source = self.remote.clone() as Arc<dyn Source>;
        let batches = Batches { source, at_once: REPLAY_REQUESTS, fetch: true };
        let mut bytes = 0;
        for window in windows(&trace) {
            while !session.may_go_on() {
                tokio::time::sleep(PACE_POLL).await;
            }
            let plan = planner.plan(window).await;
            let told = |step: &Warmed| {
                session.state.lock().pace.iter_mut().for_each(|pace| pace.warmed(step.fetched_bytes));
            };
            bytes += batches.run(&plan.parts, told).await.fetched_bytes;
        }
        Ok(bytes)
    }
}

/// The reads of a trace in pieces of bounded size.
fn windows(trace: &Trace) -> Vec<Range<usize>> {
    let (mut windows, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (at, read) in trace.reads.iter().enumerate() {
        bytes += super::model::span_bytes(read.span, trace.files[read.file as usize].size);
        if bytes >= WINDOW_BYTES || at + 1 - start >= WINDOW_READS {
            windows.push(start..at + 1);
            (start, bytes) = (at + 1, 0);
        }
    }
    if start < trace.reads.len() {
        windows.push(start..trace.reads.len());
    }
    windows
}
