//! One task that owns the holder's machine and what is kept of it.

use super::kept::Kept;
use super::{AcquireError, HeldLease, LeaseEvent};
use crate::model::lease::holder::{Action, Ending};
use crate::model::lease::{Holder, LeaseKind, LeaseScope, RequestNumber, WriteRecord};
use crate::service::leases::{Down, Up};
use globalfs_proto::GlobalPath;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep_until;

/// What is not answered is said again after so long.
const SAY_AGAIN: Duration = Duration::from_millis(500);

/// What is waited after the disk has refused to keep a lease.
const DISK_PAUSE: Duration = Duration::from_secs(1);

type Answer<T> = oneshot::Sender<Result<T, AcquireError>>;

pub(super) enum Command {
    Acquire { scope: LeaseScope, done: Answer<HeldLease> },
    Ready { request: RequestNumber, done: Answer<()> },
    Touch(GlobalPath),
    Release(RequestNumber),
    Drained(RequestNumber),
}

/// What the stream to the coordinator has to say.
pub(super) enum FromLink {
    /// Where messages go from now on, if anywhere.
    Linked(Option<mpsc::Sender<Up>>),
    Down(Down),
}

pub(super) struct Driver {
    holder: Holder,
    kept: Kept,
    held: Arc<RwLock<Vec<HeldLease>>>,
    commands: mpsc::UnboundedReceiver<Command>,
    linked: mpsc::Receiver<FromLink>,
    events: mpsc::UnboundedSender<LeaseEvent>,
    link: Option<mpsc::Sender<Up>>,
    waiting: BTreeMap<RequestNumber, Answer<HeldLease>>,
    readying: BTreeMap<RequestNumber, Answer<()>>,
    /// Leases that are not kept any more, and whose end follows.
    ending: BTreeMap<RequestNumber, HeldLease>,
    began: Instant,
}

impl Driver {
    pub(super) fn new(
        kept: Kept,
        idle: Duration,
        (commands, linked, events): (
            mpsc::UnboundedReceiver<Command>,
            mpsc::Receiver<FromLink>,
            mpsc::UnboundedSender<LeaseEvent>,
        ),
        held: Arc<RwLock<Vec<HeldLease>>>,
    ) -> Self {
        let holder = Holder::recover(kept.incarnation(), kept.records(), idle, Duration::ZERO);
        Self {
            holder,
            kept,
            held,
            commands,
            linked,
            events,
            link: None,
            waiting: BTreeMap::new(),
            readying: BTreeMap::new(),
            ending: BTreeMap::new(),
            began: Instant::now(),
        }
    }

    pub(super) async fn run(mut self) {
        let mut again = tokio::time::interval(SAY_AGAIN);
        again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.act().await;
            let wake = self.holder.next_wake().unwrap_or(self.now() + SAY_AGAIN);
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.take(command),
                    None => return,
                },
                Some(message) = self.linked.recv() => self.hear(message).await,
                () = sleep_until((self.began + wake).into()) => self.holder.tick(self.now()),
                _ = again.tick() => self.say_again(),
            }
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn take(&mut self, command: Command) {
        let now = self.now();
        match command {
            Command::Acquire { scope, done } => self.acquire(scope, done),
            Command::Ready { request, done } => self.begin_ready(request, done),
            Command::Touch(path) => self.holder.touch(&path, now),
            Command::Release(request) => self.holder.release(request, now),
            Command::Drained(request) => self.holder.drained(request, now),
        }
    }

    async fn hear(&mut self, message: FromLink) {
        match message {
            FromLink::Linked(link) => self.link = link,
            FromLink::Down(Down::Lease(message)) => self.holder.receive(message, self.now()),
            FromLink::Down(Down::Ready { request }) => self.on_ready(request).await,
            FromLink::Down(Down::View) => self.tell(LeaseEvent::ViewChanged),
            FromLink::Down(Down::Replicate { path, number }) => {
                self.tell(LeaseEvent::Replicate(path, number));
            }
            FromLink::Down(Down::SendHome { request, release }) => self.send_home(request, release),
        }
    }

    fn acquire(&mut self, scope: LeaseScope, done: Answer<HeldLease>) {
        if self.link.is_none() {
            return drop(done.send(Err(AcquireError::Unreachable)));
        }
        match self.holder.acquire(LeaseKind::Write, scope, self.now()) {
            Ok(request) => drop(self.waiting.insert(request, done)),
            Err(_) => drop(done.send(Err(AcquireError::Refused(Ending::Busy)))),
        }
    }

    fn send_home(&mut self, request: RequestNumber, release: bool) {
        if let Some(lease) = self.kept.get(request).cloned() {
            self.tell(LeaseEvent::Hurry(lease));
        }
        if release {
            self.holder.release(request, self.now());
        }
    }

    fn begin_ready(&mut self, request: RequestNumber, done: Answer<()>) {
        if self.kept.get(request).is_none() {
            let _ = done.send(Err(AcquireError::Refused(Ending::Released)));
            return;
        }
        self.readying.insert(request, done);
        self.say_ready(request);
    }

    async fn on_ready(&mut self, request: RequestNumber) {
        if let Some(done) = self.readying.remove(&request) {
            self.keep(|kept| kept.set_ready(request)).await;
            let _ = done.send(Ok(()));
        }
    }

    /// Who does not wait any more gets nothing; what was not answered is said again.
    fn say_again(&mut self) {
        let now = self.now();
        let left = self.waiting.extract_if(.., |_, done| done.is_closed());
        left.for_each(|(request, _)| self.holder.release(request, now));
        self.readying.retain(|_, done| !done.is_closed());
        let readying: Vec<_> = self.readying.keys().copied().collect();
        readying.into_iter().for_each(|request| self.say_ready(request));
    }

    fn say_ready(&self, request: RequestNumber) {
        if let Some(lease) = self.kept.get(request) {
            self.send(Up::Ready { request, epoch: lease.epoch });
        }
    }

    /// Carries out what the machine has decided.
    async fn act(&mut self) {
        while let Some(action) = self.holder.poll() {
            match action {
                Action::Send(message) => self.send(Up::Lease(message)),
                Action::Persist(record) => self.persist(record).await,
                Action::Forget(request) => {
                    let lease = self.keep(|kept| kept.remove(request)).await;
                    self.ending.extend(lease.map(|lease| (request, lease)));
                    self.holder.forgotten(request, self.now());
                }
                Action::Granted { request, .. } => self.granted(request),
                Action::Drain(request) => {
                    if let Some(lease) = self.kept.get(request).cloned() {
                        self.tell(LeaseEvent::Drain(lease));
                    }
                }
                Action::Ended { request, ending } => {
                    if let Some(done) = self.waiting.remove(&request) {
                        let _ = done.send(Err(AcquireError::Refused(ending)));
                    }
                    if let Some(done) = self.readying.remove(&request) {
                        let _ = done.send(Err(AcquireError::Refused(ending)));
                    }
                    if let Some(lease) = self.ending.remove(&request) {
                        self.tell(LeaseEvent::Ended(lease, ending));
                    }
                }
            }
        }
    }

    async fn persist(&mut self, record: WriteRecord) {
        let (request, epoch) = (record.request, record.epoch);
        self.keep(|kept| kept.put(record.clone())).await;
        self.holder.persisted(request, epoch, self.now());
    }

    fn granted(&mut self, request: RequestNumber) {
        let Some(lease) = self.kept.get(request).cloned() else { return };
        let taken = self.waiting.remove(&request).is_some_and(|done| done.send(Ok(lease)).is_ok());
        if !taken {
            // Nobody waits for it any more.
            self.holder.release(request, self.now());
        }
    }

    /// Changes what is kept, on disk first: without that nothing may go on.
    async fn keep<T>(&mut self, change: impl FnOnce(&mut Kept) -> T) -> T {
        let mut next = self.kept.clone();
        let changed = change(&mut next);
        self.kept = written(next).await;
        *self.held.write() = self.kept.leases();
        changed
    }

    fn send(&self, up: Up) {
        // What is lost is said again.
        let _ = self.link.as_ref().map(|link| link.try_send(up));
    }

    fn tell(&self, event: LeaseEvent) {
        let _ = self.events.send(event);
    }
}

/// Writes it, as often as the disk needs.
async fn written(kept: Kept) -> Kept {
    let kept = Arc::new(kept);
    loop {
        let writing = kept.clone();
        let wrote = tokio::task::spawn_blocking(move || writing.write()).await;
        match wrote.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(()) => return Arc::unwrap_or_clone(kept),
            Err(error) => {
                tracing::error!(%error, "cannot keep leases on disk; trying again");
                tokio::time::sleep(DISK_PAUSE).await;
            }
        }
    }
}
