//! The daemon's side: who holds what, which mounts are there, and who waits.
//!
//! *Invariants:* a session that was ended has no locks; nothing that was asked for before a mount said what it holds is
//! carried out afterwards; while sessions of before a restart may still say what they hold nobody gets a lock.

use super::records::{Of, Records};
use super::{GRACE, LONGEST_WAIT, MAX_SESSIONS, TERM};
use crate::model::locks::{Held, Holder, LockPlace, LockTable, Settlement, Ticket, Verdict, Wish};
use crate::source::Deadline;
use globalfs_proto::{
    FsError, FsResult, KeepLocks, Lock, LockAction, LockMode, LockRange, LockRequest, Locked, NodeName,
    Tenure,
};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

/// `EDEADLK`.
const DEADLOCK: FsError = FsError::Os(35);

/// `ENOLCK`.
const TOO_MANY: FsError = FsError::Os(37);

/// All locks of a site's nodes. Clones are one.
#[derive(Clone)]
pub struct LockKeeper(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    records: Records,
}

struct State {
    table: LockTable,
    sessions: HashMap<Of, Session>,
    /// Sessions that there have been since the start.
    count: u64,
    grace_ends: Instant,
    waiting: HashMap<Ticket, oneshot::Sender<Settlement>>,
}

struct Session {
    /// In the table.
    number: u64,
    heard: Instant,
    /// It is of before the restart, and may not have said yet what it holds.
    claims: bool,
    /// What has a lower number is not carried out any more.
    floor: u64,
}

impl LockKeeper {
    /// No locks; sessions that `dir` tells of may claim theirs. Blocks.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let (records, found) = Records::open(dir)?;
        let now = Instant::now();
        let (waiting, grace_ends) = (HashMap::new(), now + GRACE);
        let mut state =
            State { table: LockTable::default(), sessions: HashMap::new(), count: 0, grace_ends, waiting };
        found.into_iter().for_each(|of| state.begin(of, true, now));
        Ok(Self(Arc::new(Inner { state: Mutex::new(state), records })))
    }

    /// Locks that are held, and requests that wait.
    pub fn counts(&self) -> (usize, usize) {
        self.0.state.lock().table.counts()
    }

    /// What `node` says of its session.
    pub async fn keep(&self, node: &NodeName, keep: KeepLocks) -> FsResult<Locked> {
        let of = (node.clone(), keep.session);
        if keep.tenure == Tenure::Begins {
            return self.begin(of).await;
        }
        let (locked, ended) = self.0.state.lock().keep(&of, keep.tenure);
        self.remove_records(ended);
        Ok(locked)
    }

    async fn begin(&self, of: Of) -> FsResult<Locked> {
        if self.0.state.lock().sessions.len() >= MAX_SESSIONS {
            return Err(TOO_MANY);
        }
        let (records, record) = (self.0.records.clone(), of.clone());
        tokio::task::spawn_blocking(move || records.add(&record)).await.map_err(io::Error::other)??;
        self.0.state.lock().begin(of, false, Instant::now());
        Ok(Locked::Done)
    }

    /// What `node` wants. It waits for others no longer than a part of what is left until `deadline`.
    pub async fn ask(&self, node: &NodeName, request: LockRequest, deadline: Deadline) -> FsResult<Locked> {
        let of = (node.clone(), request.session);
        let waiting = {
            let mut state = self.0.state.lock();
            let ended = state.expire();
            let answer = state.ask(&of, &request);
            drop(state);
            self.remove_records(ended);
            match answer? {
                Answer::Now(locked) => return Ok(locked),
                Answer::Later(ticket, settled) => Waiting { keeper: self.clone(), ticket, settled },
            }
        };
        Ok(waiting.wait(deadline).await)
    }

    fn remove_records(&self, ended: Vec<Of>) {
        if !ended.is_empty() {
            let records = self.0.records.clone();
            tokio::task::spawn_blocking(move || ended.iter().for_each(|of| records.remove(of)));
        }
    }
}

enum Answer {
    Now(Locked),
    Later(Ticket, oneshot::Receiver<Settlement>),
}

/// Somebody who waits for a lock.
struct Waiting {
    keeper: LockKeeper,
    ticket: Ticket,
    settled: oneshot::Receiver<Settlement>,
}

impl Waiting {
    async fn wait(mut self, deadline: Deadline) -> Locked {
        // So that the answer is there before the deadline.
        let limit = LONGEST_WAIT.min(deadline.remaining() * 3 / 4);
        match timeout(limit, &mut self.settled).await {
            Ok(Ok(Settlement::Granted)) => Locked::Done,
            _ => Locked::Again,
        }
    }
}

impl Drop for Waiting {
    /// If the lock was granted meanwhile its owner has it, and hears so when it asks again, or says that it has not.
    fn drop(&mut self) {
        let mut state = self.keeper.0.state.lock();
        state.table.leave(self.ticket);
        state.waiting.remove(&self.ticket);
    }
}

impl State {
    fn begin(&mut self, of: Of, claims: bool, now: Instant) {
        self.end(&of);
        self.count += 1;
        self.sessions.insert(of, Session { number: self.count, heard: now, claims, floor: 0 });
    }

    fn end(&mut self, of: &Of) {
        if let Some(session) = self.sessions.remove(of) {
            self.table.end_session(session.number);
            self.tell_settled();
        }
    }

    fn tell_settled(&mut self) {
        for (ticket, settlement) in self.table.take_settled() {
            if let Some(waiting) = self.waiting.remove(&ticket) {
                // Who has left says what it holds.
                let _ = waiting.send(settlement);
            }
        }
    }

    /// Ends the sessions that were not heard of, and gives them.
    fn expire(&mut self) -> Vec<Of> {
        let (now, grace_ends) = (Instant::now(), self.grace_ends);
        let is_over = |session: &Session| now > session.heard + TERM || (session.claims && now > grace_ends);
        let over = self.sessions.iter().filter(|(_, session)| is_over(session));
        let over: Vec<_> = over.map(|(of, _)| of.clone()).collect();
        for of in &over {
            tracing::warn!(node = %of.0, "a mount was not heard of, and has lost its locks");
            self.end(of);
        }
        over
    }

    fn is_in_grace(&self) -> bool {
        self.sessions.values().any(|session| session.claims)
    }

    fn keep(&mut self, of: &Of, tenure: Tenure) -> (Locked, Vec<Of>) {
        let mut ended = self.expire();
        let Some(session) = self.sessions.get_mut(of) else { return (Locked::Lost, ended) };
        session.heard = Instant::now();
        match tenure {
            Tenure::Ends => {
                self.end(of);
                ended.push(of.clone());
            }
            Tenure::Claimed => session.claims = false,
            Tenure::Goes if session.claims => return (Locked::Again, ended),
            Tenure::Goes | Tenure::Begins => {}
        }
        (Locked::Done, ended)
    }

    fn ask(&mut self, of: &Of, request: &LockRequest) -> FsResult<Answer> {
        let now = |locked| Ok(Answer::Now(locked));
        let in_grace = self.is_in_grace();
        let Some(session) = self.sessions.get_mut(of) else { return now(Locked::Lost) };
        session.heard = Instant::now();
        let (claims, floor) = (session.claims, session.floor);
        if request.number < floor {
            return now(Locked::Again);
        }
        let wish = wish(session.number, request, lock_of(&request.action));
        match &request.action {
            LockAction::Hold(locks) => {
                session.floor = request.number;
                let held = self.table.hold(wish, locks, claims);
                self.tell_settled();
                now(if held { Locked::Done } else { Locked::Lost })
            }
            LockAction::Unlock(range) => {
                let done = self.table.unlock(wish.place, wish.holder, *range);
                self.tell_settled();
                if done { now(Locked::Done) } else { Err(TOO_MANY) }
            }
            LockAction::Test(_) | LockAction::Set { .. } if in_grace => now(Locked::Again),
            LockAction::Test(lock) => {
                let found = self.table.test(wish.place, wish.holder, *lock);
                now(found.map_or(Locked::Done, |held| conflict(&held, &wish)))
            }
            LockAction::Set { waits, .. } => self.set(wish, *waits),
        }
    }

    fn set(&mut self, wish: Wish, waits: bool) -> FsResult<Answer> {
        let verdict = self.table.set(wish, waits);
        self.tell_settled();
        match verdict {
            Verdict::Granted => Ok(Answer::Now(Locked::Done)),
            Verdict::Conflict(held) => Ok(Answer::Now(conflict(&held, &wish))),
            Verdict::Deadlock => Err(DEADLOCK),
            Verdict::Full => Err(TOO_MANY),
            Verdict::Waits(ticket) => {
                let (sender, settled) = oneshot::channel();
                self.waiting.insert(ticket, sender);
                Ok(Answer::Later(ticket, settled))
            }
        }
    }
}

/// Processes are told to those of the same node alone: elsewhere their numbers mean others.
fn conflict(held: &Held, wish: &Wish) -> Locked {
    let is_near = held.holder.session == wish.holder.session;
    Locked::Conflict(held.lock, if is_near { held.pid } else { 0 })
}

fn wish(session: u64, request: &LockRequest, lock: Lock) -> Wish {
    let place = LockPlace { file: request.file, kind: request.kind };
    let holder = Holder { session, owner: request.owner };
    Wish { place, holder, pid: request.pid, number: request.number, lock }
}

/// The lock that `action` is about; where it is about none, it does not count.
fn lock_of(action: &LockAction) -> Lock {
    match action {
        LockAction::Test(lock) | LockAction::Set { lock, .. } => *lock,
        LockAction::Unlock(range) => Lock { range: *range, mode: LockMode::Shared },
        LockAction::Hold(_) => Lock { range: LockRange::WHOLE, mode: LockMode::Shared },
    }
}
