//! The machine in the coordinator: who may read and who may write what.
//!
//! Events go in with the `now` of the coordinator's monotonic clock; [`Granter::poll`] gives what is to be done.
//!
//! *Invariants:* a write lease is durable before it is told and removed before another overlaps it; a write lease
//! is granted when every read lease in its scope was given back or has run out by the slowest clock; requests that
//! conflict are served in order of arrival, and a renewal of a read lease does not pass a write request that waits.

mod grants;
mod queue;
mod records;
mod sites;
#[cfg(test)]
mod tests;
mod writes;

use super::generations::{Generations, MAX_REMEMBERED_PATHS};
use super::message::{ToGranter, ToHolder};
use super::term::{Terms, outlasts};
use super::types::{Epoch, LeaseId, LeaseKind, LeaseScope, RequestNumber, Stamp, WriteRecord};
use super::{RECALL_INTERVAL, WAITING_EXPIRY};
use globalfs_proto::SiteName;
use queue::{Arrival, Queue};
use sites::{Id, Sites};
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;
use writes::Writes;

/// Names a change of the durable records; they are numbered in the order in which they are to be made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// What is to change in the durable records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordChange {
    /// Put this record in the place of the one of the same lease, if any.
    Put(WriteRecord),
    /// Remove the record of this lease.
    Remove(RequestNumber),
}

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send a message to a site.
    Send {
        /// The site.
        to: SiteName,
        /// The message.
        message: ToHolder,
    },
    /// Change the records and `last_epoch` in one transaction, in the order of tickets, and then call
    /// [`Granter::persisted`]. Who cannot must give up being the granter and recover.
    Persist {
        /// For the event.
        ticket: Ticket,
        /// Whose record.
        site: SiteName,
        /// The change.
        change: RecordChange,
        /// The highest epoch ever used.
        last_epoch: Epoch,
    },
    /// A lease was abandoned, durably: tell all who know of its scope that there epochs below this are refused.
    Abandoned {
        /// The lease.
        lease: LeaseId,
        /// What it was on.
        scope: LeaseScope,
        /// The fence.
        epoch: Epoch,
    },
}

/// All that outlives a coordinator.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Durable {
    /// The highest epoch ever used.
    pub last_epoch: Epoch,
    /// The records of write leases, by holder.
    pub records: Vec<(SiteName, WriteRecord)>,
}

/// Why records cannot be gone on with: someone else has changed them, and an operator has to look.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecoverError {
    /// Two sites have records that overlap.
    #[error("the write lease of site {site} on {path} overlaps one of another site")]
    Overlap {
        /// The second of them.
        site: SiteName,
        /// Its path.
        path: String,
    },
    /// A record is newer than the highest epoch.
    #[error("a write lease has epoch {epoch}, above the last one, {last}")]
    Epoch {
        /// Of the record.
        epoch: Epoch,
        /// Said to be the highest.
        last: Epoch,
    },
    /// More sites than a granter hears of.
    #[error("write leases of more sites than a cluster has")]
    Sites,
}

/// Why a lease cannot be abandoned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AbandonError {
    /// There is no such write lease, or it is ending by itself: nothing to do.
    #[error("no such write lease")]
    Unknown,
    /// It is being granted at this moment: try again.
    #[error("the lease is being granted; try again")]
    Recording,
}

/// What rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    ReadExpires(Id),
    WaitingExpires(Arrival),
    Write(Id),
    Recalls,
    PauseEnds,
}

/// A request as it came.
#[derive(Debug, Clone)]
struct Ask {
    id: Id,
    kind: LeaseKind,
    scope: LeaseScope,
    held: Option<Epoch>,
    stamp: Stamp,
}

/// The machine.
#[derive(Debug)]
pub struct Granter {
    terms: Terms,
    now: Duration,
    /// Read leases of which a restart has lost all knowledge have run out by then.
    paused_until: Duration,
    last_epoch: Epoch,
    last_ticket: Ticket,
    /// Changes of records that are not durable yet, in order.
    persisting: VecDeque<(Ticket, Id)>,
    sites: Sites,
    writes: Writes,
    queue: Queue,
    generations: Generations,
    timers: BTreeSet<(Duration, Timer)>,
    /// There is a timer for recalls: one, however often requests wait.
    recalling: bool,
    actions: VecDeque<Action>,
}

impl Granter {
    /// Goes on from what is durable; all else is forgotten, so no write lease is granted for a read term.
    pub fn recover(terms: Terms, durable: Durable, now: Duration) -> Result<Self, RecoverError> {
        let paused_until = now + outlasts(terms.read);
        let mut granter = Self {
            terms,
            now,
            paused_until,
            last_epoch: durable.last_epoch,
            last_ticket: Ticket::default(),
            persisting: VecDeque::new(),
            sites: Sites::default(),
            writes: Writes::default(),
            queue: Queue::default(),
            generations: Generations::new(durable.last_epoch, MAX_REMEMBERED_PATHS),
            timers: BTreeSet::from([(paused_until, Timer::PauseEnds)]),
            recalling: false,
            actions: VecDeque::new(),
        };
        durable.records.into_iter().try_for_each(|(site, record)| granter.recover_record(&site, record))?;
        Ok(granter)
    }

    /// What is to be done next.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Self::tick`] is to be called at the latest.
    pub fn next_wake(&self) -> Option<Duration> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Duration) {
        self.now = self.now.max(now);
        while let Some((at, timer)) = self.timers.first().copied().filter(|(at, _)| *at <= self.now) {
            self.timers.remove(&(at, timer));
            self.ring(timer);
        }
    }

    /// A message of the site `from`, whose certificate says so.
    pub fn receive(&mut self, from: &SiteName, message: ToGranter, now: Duration) {
        self.tick(now);
        let Some(site) = self.sites.enter(from) else {
            return self.refuse_stranger(from, &message);
        };
        match message {
            ToGranter::Ask { request, kind, scope, held, stamp } => {
                self.on_ask(Ask { id: Id { site, request }, kind, scope, held, stamp });
            }
            ToGranter::Release { request } => self.on_release(Id { site, request }),
        }
    }

    /// The change with this ticket is durable.
    ///
    /// # Panics
    /// When an earlier one is not: the records would not tell what was granted.
    pub fn persisted(&mut self, ticket: Ticket, now: Duration) {
        self.tick(now);
        let (next, id) = self.persisting.pop_front().expect("only what was asked for is persisted");
        assert_eq!(next, ticket, "records change in order");
        self.on_persisted(id);
    }

    /// An administrator gives up what the holder of a write lease has not brought home. Once this is durable the
    /// holder is fenced ([`Action::Abandoned`]), and others are served when it surely acknowledges nothing more.
    pub fn abandon(&mut self, lease: &LeaseId, now: Duration) -> Result<(), AbandonError> {
        self.tick(now);
        let site = self.sites.find(&lease.site).ok_or(AbandonError::Unknown)?;
        self.on_abandon(Id { site, request: lease.request })
    }

    /// The write leases that are granted or ending, with their holders.
    pub fn records(&self) -> impl Iterator<Item = (&SiteName, WriteRecord)> {
        self.writes.iter().map(|(id, lease)| (self.sites.name(id.site), lease.record(id)))
    }

    /// Looks at all that must agree; slow.
    #[cfg(test)]
    pub(super) fn check(&self) {
        tests::check(self);
    }

    fn ring(&mut self, timer: Timer) {
        match timer {
            Timer::ReadExpires(id) => self.read_alarm(id),
            Timer::WaitingExpires(arrival) => self.waiting_alarm(arrival),
            Timer::Write(id) => self.write_alarm(id),
            Timer::Recalls => self.recall_alarm(),
            Timer::PauseEnds => self.queue.all().into_iter().for_each(|arrival| self.serve(arrival)),
        }
    }

    /// Requests that wait are looked at again and again: recalls may be lost.
    fn recall_alarm(&mut self) {
        self.queue.all().into_iter().for_each(|arrival| self.serve(arrival));
        self.recalling = false;
        self.look_again();
    }

    fn look_again(&mut self) {
        if !self.recalling && !self.queue.is_empty() {
            self.recalling = true;
            self.timers.insert((self.now + RECALL_INTERVAL, Timer::Recalls));
        }
    }

    fn waiting_alarm(&mut self, arrival: Arrival) {
        let Some(request) = self.queue.get(arrival) else { return };
        let expires = request.heard + WAITING_EXPIRY;
        if expires <= self.now {
            self.end_waiting(arrival);
        } else {
            self.timers.insert((expires, Timer::WaitingExpires(arrival)));
        }
    }

    fn end_waiting(&mut self, arrival: Arrival) {
        if let Some(request) = self.queue.remove(arrival) {
            self.sites.get_mut(request.id.site).waiting -= 1;
            self.serve_around(&request.scope);
        }
    }

    fn refuse_stranger(&mut self, from: &SiteName, message: &ToGranter) {
        if let ToGranter::Ask { request, .. } = message {
            let message = ToHolder::Busy { request: *request };
            self.actions.push_back(Action::Send { to: from.clone(), message });
        }
    }

    fn send(&mut self, id: Id, message: ToHolder) {
        self.actions.push_back(Action::Send { to: self.sites.name(id.site).clone(), message });
    }
}
