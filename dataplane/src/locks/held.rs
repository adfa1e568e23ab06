//! A mount's side: what it holds, so that it can say so again, and what it has lost.
//!
//! *Invariants:* what is told as granted the daemon has granted, and nothing that was asked for later takes it away; a lock
//! of which nobody knows whether it was granted is given back; what was lost fails until its owner has let go.

mod state;

use super::{LONGEST_WAIT, LockService, RENEWAL, TERM};
use crate::model::locks::{Holder, LockPlace, LockTable, Wish};
use crate::source::Deadline;
use globalfs_proto::{
    FileId, FsError, FsResult, KeepLocks, Lock, LockAction, LockOwner, LockRange, LockRequest, LockSession,
    Locked, Tenure,
};
use parking_lot::Mutex;
use state::{Flight, State};
use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

/// `EAGAIN`: somebody else has it.
const HELD: FsError = FsError::Os(11);

/// `EINTR`.
const INTERRUPTED: FsError = FsError::Os(4);

/// `EIO`.
const LOST: FsError = FsError::Os(5);

/// `ENOLCK`.
const NO_SESSION: FsError = FsError::Os(37);

/// What is waited before something is asked again that was not answered.
const PAUSE: Duration = Duration::from_millis(100);

/// What a question of the mount's own may take.
const OWN_LIMIT: Duration = Duration::from_secs(5);

/// The session of all locks in the mount's own table.
const OWN: u64 = 0;

/// Completes when whoever waits for a lock does not want it any more.
pub trait Interrupted: Future<Output = ()> + Send {}

impl<F: Future<Output = ()> + Send> Interrupted for F {}

/// Who asks, and of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Asked {
    /// The file and the kind.
    pub place: LockPlace,
    /// The owner, by the kernel's number.
    pub owner: LockOwner,
    /// Its process.
    pub pid: u32,
}

type Key = (LockPlace, LockOwner);

impl Asked {
    fn key(&self) -> Key {
        (self.place, self.owner)
    }

    fn holder(&self) -> Holder {
        Holder { session: OWN, owner: self.owner }
    }

    fn wish(&self, lock: Lock) -> Wish {
        Wish { place: self.place, holder: self.holder(), pid: self.pid, number: 0, lock }
    }
}

/// The locks of a mount. Clones are one.
#[derive(Clone)]
pub struct HeldLocks(Arc<Inner>);

struct Inner {
    service: Arc<dyn LockService>,
    state: Mutex<State>,
    /// Held while a session begins or is claimed again.
    gate: tokio::sync::Mutex<()>,
    /// Rung when the daemon seems to have been restarted.
    renew: Arc<Notify>,
}

enum Step {
    Granted,
    Held(Lock, u32),
    /// Asked again at once, or after a pause.
    Again(Duration),
    Unknown(FsError),
}

impl HeldLocks {
    /// No locks; they will be asked of `service`. Must be called within a runtime, in which a task keeps the session as long as
    /// clones exist.
    pub fn new(service: Arc<dyn LockService>) -> Self {
        let state = State {
            session: None,
            number: 0,
            table: LockTable::default(),
            renewed: Instant::now(),
            lost: HashSet::new(),
            unsettled: HashMap::new(),
            flying: HashMap::new(),
        };
        let (gate, renew) = (tokio::sync::Mutex::default(), Arc::new(Notify::new()));
        let held = Self(Arc::new(Inner { service, state: Mutex::new(state), gate, renew: renew.clone() }));
        tokio::spawn(keep(Arc::downgrade(&held.0), renew));
        held
    }

    /// Who is in the way of `lock`, and which process, if it is of this node, else 0.
    pub async fn test(&self, asked: Asked, lock: Lock, deadline: Deadline) -> FsResult<Option<(Lock, u32)>> {
        loop {
            let session = self.session(deadline).await?;
            let number = self.number();
            match self.ask(session, number, asked, LockAction::Test(lock), deadline).await? {
                Step::Granted => return Ok(None),
                Step::Held(lock, pid) => return Ok(Some((lock, pid))),
                Step::Again(pause) => sleep(pause).await,
                Step::Unknown(error) => return Err(error),
            }
            if deadline.remaining().is_zero() {
                return Err(FsError::Deadline);
            }
        }
    }

    /// Gets `lock`: `EAGAIN` if somebody else has it and `waits` is false; else waits until it is free, or `EINTR` when
    /// `interrupted` completes. Fails as well when the daemon is silent for `limit`.
    pub async fn set(
        &self,
        asked: Asked,
        lock: Lock,
        waits: bool,
        limit: Duration,
        interrupted: impl Interrupted,
    ) -> FsResult<()> {
        self.check_owner(asked)?;
        self.0.state.lock().give_way(asked, lock);
        let flight = Flight::begin(&self.0, asked.key());
        let mut interrupted = std::pin::pin!(interrupted);
        let mut until = Deadline::after(limit);
        loop {
            let attempt = self.try_set(asked, lock, waits, limit.min(LONGEST_WAIT));
            let step = tokio::select! {
                step = attempt => step,
                () = &mut interrupted => {
                    self.settle(asked, lock, OWN_LIMIT).await;
                    return Err(INTERRUPTED);
                }
            };
            match step {
                Ok(Step::Granted) => break,
                Ok(Step::Held(..)) => return Err(HELD),
                Ok(Step::Again(pause)) => {
                    if waits {
                        until = Deadline::after(limit);
                    }
                    sleep(pause).await;
                }
                Ok(Step::Unknown(error)) => {
                    self.settle(asked, lock, until.remaining()).await;
                    if until.remaining().is_zero() {
                        return Err(error);
                    }
                    sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
            if until.remaining().is_zero() {
                return Err(FsError::Deadline);
            }
        }
        drop(flight);
        Ok(())
    }

    async fn try_set(&self, asked: Asked, lock: Lock, waits: bool, limit: Duration) -> FsResult<Step> {
        let deadline = Deadline::after(limit);
        let session = match self.session(deadline).await {
            Err(error) if error.is_transient() => return Ok(Step::Unknown(error)),
            session => session?,
        };
        let number = self.number();
        let step = self.ask(session, number, asked, LockAction::Set { lock, waits }, deadline).await?;
        self.check_owner(asked)?;
        if !matches!(step, Step::Granted) {
            return Ok(step);
        }
        let mut state = self.0.state.lock();
        let counts = state.session == Some(session) && !state.is_overtaken(asked.key(), number);
        if counts {
            state.table.set(asked.wish(lock), false);
        }
        Ok(if counts { Step::Granted } else { Step::Again(Duration::ZERO) })
    }

    /// `asked` gives up what it has in `range`. It has lost nothing any more when that is all.
    pub async fn unlock(&self, asked: Asked, range: LockRange, deadline: Deadline) -> FsResult<()> {
        let had_some = self.0.state.lock().let_go(asked, range);
        if !had_some {
            return Ok(());
        }
        let Some(session) = self.0.state.lock().session else { return Ok(()) };
        let number = self.number_of_last_word(asked.key());
        match self.ask(session, number, asked, LockAction::Unlock(range), deadline).await {
            Ok(Step::Granted) => {}
            // It has been given up here, and the daemon will hear of it.
            _ => self.settle_later(asked),
        }
        Ok(())
    }

    /// `asked` is gone, and so are its locks of this kind.
    pub async fn release(&self, asked: Asked, deadline: Deadline) -> FsResult<()> {
        self.unlock(asked, LockRange::WHOLE, deadline).await
    }

    /// Whether the content of `file` may be read and written: `EIO` if somebody here has lost a lock on it.
    pub async fn check(&self, file: FileId, deadline: Deadline) -> FsResult<()> {
        if self.0.state.lock().is_sure_of(file)? {
            return Ok(());
        }
        let renewed = bound(deadline, self.renew()).await;
        let state = self.0.state.lock();
        match state.is_sure_of(file)? || state.renewed.elapsed() < TERM {
            true => Ok(()),
            false => Err(renewed.err().unwrap_or(FsError::Deadline)),
        }
    }

    /// Whether nothing is known that forbids it, without asking anybody.
    pub fn is_sure_of(&self, file: FileId) -> bool {
        self.0.state.lock().is_sure_of(file) == Ok(true)
    }

    /// Tells the daemon that all locks go.
    pub async fn end(&self) {
        let session = self.0.state.lock().session.take();
        if let Some(session) = session {
            let keep = KeepLocks { session, tenure: Tenure::Ends };
            // Else it will find out.
            let _ = self.0.service.keep(keep, Deadline::after(PAUSE * 5)).await;
        }
    }

    fn check_owner(&self, asked: Asked) -> FsResult<()> {
        if self.0.state.lock().lost.contains(&asked.key()) { Err(LOST) } else { Ok(()) }
    }

    fn number(&self) -> u64 {
        let mut state = self.0.state.lock();
        state.number += 1;
        state.number
    }

    /// Answers to what `key` asked for before do not count.
    fn number_of_last_word(&self, key: Key) -> u64 {
        let mut state = self.0.state.lock();
        state.number += 1;
        let number = state.number;
        state.flying.entry(key).and_modify(|flying| flying.floor = number);
        number
    }

    async fn ask(
        &self,
        session: LockSession,
        number: u64,
        asked: Asked,
        action: LockAction,
        deadline: Deadline,
    ) -> FsResult<Step> {
        let Asked { place: LockPlace { file, kind }, owner, pid } = asked;
        let request = LockRequest { session, number, file, kind, owner, pid, action };
        match bound(deadline, self.0.service.lock(request, deadline)).await {
            Ok(Locked::Done) => Ok(Step::Granted),
            Ok(Locked::Conflict(lock, pid)) => Ok(Step::Held(lock, pid)),
            Ok(Locked::Again) => {
                self.0.renew.notify_one();
                Ok(Step::Again(PAUSE))
            }
            Ok(Locked::Lost) => {
                self.0.state.lock().lose(session);
                Ok(Step::Again(PAUSE))
            }
            Err(error) if error.is_transient() => Ok(Step::Unknown(error)),
            Err(error) => Err(error),
        }
    }

    /// Nobody knows what came of `lock`: the daemon is told what its owner has without it, now or later.
    async fn settle(&self, asked: Asked, lock: Lock, limit: Duration) {
        self.0.state.lock().weaken(asked, lock);
        self.settle_later(asked);
        let _ = timeout(limit.min(OWN_LIMIT), self.settle_all()).await;
    }

    fn settle_later(&self, asked: Asked) {
        self.0.state.lock().unsettled.insert(asked.key(), asked);
        self.0.renew.notify_one();
    }

    async fn settle_all(&self) -> FsResult<()> {
        let unsettled: Vec<Asked> = self.0.state.lock().unsettled.values().copied().collect();
        for asked in unsettled {
            self.say_what_is_held(asked).await?;
        }
        Ok(())
    }

    async fn say_what_is_held(&self, asked: Asked) -> FsResult<()> {
        loop {
            let Some(session) = self.0.state.lock().session else { return Ok(()) };
            let number = self.number_of_last_word(asked.key());
            let locks = self.0.state.lock().table.locks_of(asked.place, asked.holder());
            let Asked { place: LockPlace { file, kind }, owner, pid } = asked;
            let action = LockAction::Hold(locks.clone());
            let request = LockRequest { session, number, file, kind, owner, pid, action };
            let deadline = Deadline::after(OWN_LIMIT);
            match bound(deadline, self.0.service.lock(request, deadline)).await? {
                Locked::Done => {
                    let mut state = self.0.state.lock();
                    if state.table.locks_of(asked.place, asked.holder()) == locks {
                        state.unsettled.remove(&asked.key());
                        return Ok(());
                    }
                }
                Locked::Again => sleep(PAUSE).await,
                _ => {
                    self.0.state.lock().lose_one(asked);
                    return Ok(());
                }
            }
        }
    }

    /// The session, which begins with the first lock.
    async fn session(&self, deadline: Deadline) -> FsResult<LockSession> {
        if let Some(session) = self.0.state.lock().session {
            return Ok(session);
        }
        let _gate = self.0.gate.lock().await;
        if let Some(session) = self.0.state.lock().session {
            return Ok(session);
        }
        let (session, sent) = (LockSession(rand::random::<u64>().max(1)), Instant::now());
        let keep = KeepLocks { session, tenure: Tenure::Begins };
        match bound(deadline, self.0.service.keep(keep, deadline)).await? {
            Locked::Done => {
                let mut state = self.0.state.lock();
                (state.session, state.renewed) = (Some(session), sent);
                Ok(session)
            }
            _ => Err(NO_SESSION),
        }
    }

    /// Says that this mount is there, and what it holds if the daemon has forgotten that.
    async fn renew(&self) -> FsResult<()> {
        let _gate = self.0.gate.lock().await;
        let Some(session) = self.0.state.lock().session else { return Ok(()) };
        let sent = Instant::now();
        match self.tell(session, Tenure::Goes).await? {
            Locked::Done => {}
            Locked::Again => self.claim(session).await?,
            _ => self.0.state.lock().lose(session),
        }
        self.0.state.lock().renewed = sent;
        self.settle_all().await
    }

    async fn claim(&self, session: LockSession) -> FsResult<()> {
        let holders = self.0.state.lock().table.holders();
        for (place, holder, pid) in holders {
            let asked = Asked { place, owner: holder.owner, pid };
            self.0.state.lock().unsettled.insert(asked.key(), asked);
        }
        self.settle_all().await?;
        if self.tell(session, Tenure::Claimed).await? != Locked::Done {
            self.0.state.lock().lose(session);
        }
        tracing::info!("locks were claimed again after a restart of the site's daemon");
        Ok(())
    }

    async fn tell(&self, session: LockSession, tenure: Tenure) -> FsResult<Locked> {
        let deadline = Deadline::after(OWN_LIMIT);
        bound(deadline, self.0.service.keep(KeepLocks { session, tenure }, deadline)).await
    }
}

async fn bound<T>(deadline: Deadline, work: impl Future<Output = FsResult<T>>) -> FsResult<T> {
    timeout(deadline.remaining(), work).await.unwrap_or(Err(FsError::Deadline))
}

/// Keeps the session of a mount until the mount is gone.
async fn keep(mount: Weak<Inner>, renew: Arc<Notify>) {
    let mut pause = RENEWAL;
    loop {
        let is_rung = timeout(pause, renew.notified()).await.is_ok();
        let Some(held) = mount.upgrade().map(HeldLocks) else { return };
        pause = if held.renew().await.is_ok() { RENEWAL } else { Duration::from_secs(1) };
        drop(held);
        if is_rung {
            // Who rings without end is not served without end.
            sleep(PAUSE).await;
        }
    }
}
