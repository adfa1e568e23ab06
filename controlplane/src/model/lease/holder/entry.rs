//! One request of a holder, on its way to being a lease and to its end.

use crate::model::lease::types::{Epoch, Generation, LeaseKind, LeaseScope, RequestNumber, WriteRecord};
use std::time::Duration;

use super::Right;

/// How far a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Not granted yet.
    Waiting,
    /// A write lease that is granted and not durable here yet.
    Persisting,
    /// A lease.
    Held,
    /// A lease under which nothing begins any more.
    Draining,
    /// A write lease that was drained and is being forgotten.
    Forgetting,
}

/// A request or lease.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) kind: LeaseKind,
    pub(super) scope: LeaseScope,
    pub(super) stage: Stage,
    /// Of a write lease, once the grant has come.
    pub(super) epoch: Option<Epoch>,
    pub(super) generation: Generation,
    /// The right ends then.
    pub(super) until: Duration,
    /// When to ask for the first time, again, or to renew.
    pub(super) ask_at: Duration,
    pub(super) used: Duration,
    /// When to look at it again; never while its release waits for the disk.
    pub(super) alarm: Option<Duration>,
    /// It is to be drained as soon as it is held.
    pub(super) leaving: bool,
}

impl Entry {
    pub(super) fn new(kind: LeaseKind, scope: LeaseScope, now: Duration) -> Self {
        Self {
            kind,
            scope,
            stage: Stage::Waiting,
            epoch: None,
            generation: Generation::default(),
            until: Duration::ZERO,
            ask_at: now,
            used: now,
            alarm: Some(now),
            leaving: false,
        }
    }

    /// A write lease after a restart: held, with no right until it is renewed.
    pub(super) fn recovered(record: WriteRecord, now: Duration) -> Self {
        let (epoch, generation) = (Some(record.epoch), record.epoch.into());
        Self { stage: Stage::Held, epoch, generation, ..Self::new(LeaseKind::Write, record.scope, now) }
    }

    pub(super) fn record(&self, request: RequestNumber, epoch: Epoch) -> WriteRecord {
        WriteRecord { request, scope: self.scope.clone(), epoch, abandoned: false }
    }

    pub(super) fn right(&self, request: RequestNumber) -> Right {
        Right { request, epoch: self.epoch, generation: self.generation }
    }

    /// Whether operations that were begun may be answered.
    pub(super) fn is_usable(&self, now: Duration) -> bool {
        matches!(self.stage, Stage::Held | Stage::Draining) && now < self.until
    }

    /// Whether the granter is to hear of it: readers that drain do not prolong what someone waits for.
    pub(super) fn asks(&self) -> bool {
        match self.stage {
            Stage::Waiting | Stage::Persisting | Stage::Held => true,
            Stage::Draining => self.kind == LeaseKind::Write,
            Stage::Forgetting => false,
        }
    }

    /// A read lease is over with its term; a write lease may have what is nowhere else.
    pub(super) fn has_lapsed(&self, now: Duration) -> bool {
        self.is_read_lease() && self.until <= now
    }

    pub(super) fn is_idle(&self, now: Duration, idle: Duration) -> bool {
        self.stage == Stage::Held && self.ask_at <= now && self.used + idle <= now
    }

    pub(super) fn next_alarm(&self) -> Option<Duration> {
        let ask = self.asks().then_some(self.ask_at);
        let lapse = self.is_read_lease().then_some(self.until);
        ask.into_iter().chain(lapse).min()
    }

    fn is_read_lease(&self) -> bool {
        self.kind == LeaseKind::Read && matches!(self.stage, Stage::Held | Stage::Draining)
    }
}
