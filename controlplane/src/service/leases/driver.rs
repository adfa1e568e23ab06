//! One task that owns the granter, the sites' streams and the records.

use super::leader::{Candidacy, KEEP_ALIVE, Leadership};
use super::{Command, Down, SendHome, TERMS, Up};
use crate::model::lease::granter::{Action, Durable, RecordChange, Ticket};
use crate::model::lease::message::{ToGranter, ToHolder};
use crate::model::lease::{Epoch, Granter, LeaseId, LeaseKind, WriteRecord};
use crate::model::record::{EPOCH_KEY, MasterRecord, NAMESPACE_PREFIX};
use crate::service::records::{Held, delete, json, next_view, replace};
use crate::service::refusal::ServiceError;
use crate::service::registry::{Registry, now};
use crate::store::{Key, Txn};
use globalfs_proto::{GlobalPath, SiteName};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::{sleep, sleep_until, timeout};

/// What is waited before the leadership is sought again.
const SEEK_AGAIN: Duration = Duration::from_secs(1);
/// A lease whose holder is not the master by then is ended; a holder gives up much sooner.
const CLAIM_LIMIT: Duration = Duration::from_secs(60);
/// Tries to write what others write to, too.
const MAX_TRIES: usize = 64;

/// See the module.
pub(super) struct Driver {
    registry: Arc<Registry>,
    name: String,
    commands: mpsc::Receiver<Command>,
    streams: BTreeMap<SiteName, mpsc::Sender<Down>>,
    began: Instant,
}

/// While this coordinator leads.
struct Reign<'d> {
    driver: &'d mut Driver,
    leadership: Leadership,
    granter: Granter,
    records: BTreeMap<LeaseId, MasterRecord>,
}

impl Driver {
    pub(super) fn new(registry: Arc<Registry>, name: String, commands: mpsc::Receiver<Command>) -> Self {
        Self { registry, name, commands, streams: BTreeMap::new(), began: Instant::now() }
    }

    /// Leads whenever it can.
    pub(super) async fn run(mut self) {
        if self.registry.has_store_alone() {
            let _ = Leadership::depose(self.registry.store()).await;
        }
        let mut leader = String::new();
        loop {
            match Leadership::seek(self.registry.store().clone(), &self.name).await {
                Ok(Candidacy::Won(leadership)) => {
                    if let Err(error) = self.lead(leadership).await {
                        tracing::warn!(%error, "leases_paused");
                    }
                }
                Ok(Candidacy::Lost(other)) => {
                    if other != leader {
                        tracing::info!(leader = other, "another coordinator grants leases");
                    }
                    leader = other;
                    self.refuse_for(SEEK_AGAIN, &leader).await;
                }
                Err(error) => {
                    tracing::debug!(%error, "no leader at this moment");
                    self.refuse_for(SEEK_AGAIN, "nobody at this moment").await;
                }
            }
        }
    }

    /// Sites whose streams end come again; administrators are told who leads.
    async fn refuse_for(&mut self, time: Duration, leader: &str) {
        self.streams.clear();
        let until = tokio::time::Instant::now() + time;
        while let Ok(Some(command)) = tokio::time::timeout_at(until, self.commands.recv()).await {
            let refused = || Err(ServiceError::NotLeader(leader.to_owned()));
            match command {
                Command::Abandon { done, .. } => drop(done.send(refused())),
                Command::SendHome { done, .. } => drop(done.send(refused())),
                Command::Connect { .. } | Command::Up { .. } | Command::View => {}
            }
        }
        if self.commands.is_closed() {
            sleep(time).await;
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    async fn lead(&mut self, leadership: Leadership) -> Result<(), ServiceError> {
        let held: Vec<Held<MasterRecord>> = self.registry.records.range(NAMESPACE_PREFIX).await?;
        let last_epoch = self.registry.records.get::<Epoch>(EPOCH_KEY).await?.map(|held| held.value);
        let records: BTreeMap<LeaseId, MasterRecord> =
            held.into_iter().map(|held| (id_of(&held.value), held.value)).collect();
        let durable = Durable {
            last_epoch: last_epoch.unwrap_or_default(),
            records: records.values().map(|record| (record.master.clone(), write_record(record))).collect(),
        };
        let granter = Granter::recover(TERMS, durable, self.now()).map_err(|error| {
            ServiceError::Damaged { key: NAMESPACE_PREFIX.into(), reason: error.to_string() }
        })?;
        tracing::info!(leases = records.len(), "leases_granted_here");
        let mut reign = Reign { driver: self, leadership, granter, records };
        let ended = reign.go_on().await;
        reign.leadership.resign().await;
        ended
    }
}

impl Reign<'_> {
    async fn go_on(&mut self) -> Result<(), ServiceError> {
        let mut alive = tokio::time::interval(KEEP_ALIVE);
        let mut kept = Instant::now();
        loop {
            self.act().await?;
            let wake = self.granter.next_wake().map(|at| self.driver.began + at);
            let wake = wake.unwrap_or_else(|| Instant::now() + KEEP_ALIVE);
            tokio::select! {
                command = self.driver.commands.recv() => match command {
                    Some(command) => self.take(command).await?,
                    None => return Ok(()),
                },
                () = sleep_until(wake.into()) => self.granter.tick(self.driver.now()),
                _ = alive.tick() => {
                    self.end_stuck_claims();
                    match timeout(KEEP_ALIVE, self.leadership.keep_alive()).await {
                        Ok(Ok(())) => kept = Instant::now(),
                        Ok(Err(error)) if kept.elapsed() > 2 * KEEP_ALIVE => return Err(error),
                        _ => {}
                    }
                }
            }
        }
    }

    /// A holder that does not become the master has changed nothing, and meanwhile nobody can.
    fn end_stuck_claims(&mut self) {
        let is_stuck = |record: &&MasterRecord| {
            !record.ready && !record.abandoned && now().since(record.since) > CLAIM_LIMIT
        };
        let stuck: Vec<LeaseId> = self.records.values().filter(is_stuck).map(id_of).collect();
        for id in stuck {
            tracing::warn!(site = %id.site, "a lease that was not taken up is ended");
            // What cannot be abandoned is ending already.
            let _ = self.granter.abandon(&id, self.driver.now());
        }
    }

    async fn take(&mut self, command: Command) -> Result<(), ServiceError> {
        let now = self.driver.now();
        match command {
            Command::Connect { site, down } => {
                self.driver.streams.insert(site, down);
            }
            Command::Up { site, up: Up::Lease(message) } => match fits(&message) {
                true => self.granter.receive(&site, message, now),
                false => self.refuse(&site, &message),
            },
            Command::Up { site, up: Up::Ready { request, epoch } } => {
                self.ready(LeaseId { site, request }, epoch).await?;
            }
            Command::Abandon { path, done } => {
                let _ = done.send(self.abandon(&path));
            }
            Command::SendHome { what, done } => {
                let _ = done.send(self.send_home(&what));
            }
            Command::View => self.tell_view(),
        }
        Ok(())
    }

    /// Carries out what the granter has decided.
    async fn act(&mut self) -> Result<(), ServiceError> {
        while let Some(action) = self.granter.poll() {
            match action {
                Action::Send { to, message } => self.send(&to, Down::Lease(message)),
                Action::Persist { ticket, site, change, last_epoch } => {
                    self.persist(ticket, site, change, last_epoch).await?;
                }
                Action::Abandoned { lease, scope, epoch } => {
                    tracing::warn!(path = %scope.path, site = %lease.site, %epoch, "lease_abandoned");
                }
            }
        }
        Ok(())
    }

    async fn persist(
        &mut self,
        ticket: Ticket,
        site: SiteName,
        change: RecordChange,
        last_epoch: Epoch,
    ) -> Result<(), ServiceError> {
        match change {
            RecordChange::Put(record) => {
                let id = LeaseId { site: site.clone(), request: record.request };
                let before = self.records.get(&id);
                let record = MasterRecord {
                    ready: before.is_some_and(|before| before.ready),
                    since: before.map_or_else(now, |before| before.since),
                    scope: record.scope,
                    master: site,
                    epoch: record.epoch,
                    request: record.request,
                    abandoned: record.abandoned,
                };
                self.write(&record, Some(last_epoch)).await?;
                self.records.insert(id, record);
            }
            RecordChange::Remove(request) => {
                let id = LeaseId { site, request };
                if let Some(record) = self.records.remove(&id) {
                    self.change(&record.scope.path, None, Some(last_epoch)).await?;
                }
            }
        }
        self.granter.persisted(ticket, self.driver.now());
        Ok(())
    }

    async fn write(&self, record: &MasterRecord, last_epoch: Option<Epoch>) -> Result<(), ServiceError> {
        self.change(&record.scope.path, Some(record), last_epoch).await
    }

    /// One transaction that also makes the next view, if this coordinator still leads.
    async fn change(
        &self,
        path: &GlobalPath,
        record: Option<&MasterRecord>,
        last_epoch: Option<Epoch>,
    ) -> Result<(), ServiceError> {
        let (records, key) = (&self.driver.registry.records, MasterRecord::key(path));
        for _ in 0..MAX_TRIES {
            let cluster = records.cluster().await?;
            let held = records.get::<MasterRecord>(&key).await?;
            let view = self.leadership.guard(next_view(&cluster)?);
            let txn = match (record, &held) {
                (Some(record), held) => replace(view, &key, held.as_ref(), record)?,
                (None, Some(held)) => delete(view, &key, held)?,
                (None, None) => view,
            };
            let txn: Txn = match last_epoch {
                Some(epoch) => txn.put(Key::new(EPOCH_KEY)?, json(&epoch).into_bytes()),
                None => txn,
            };
            if records.commit(txn).await? {
                self.tell_view();
                return Ok(());
            }
            self.leadership.keep_alive().await?;
        }
        Err(ServiceError::Contended)
    }

    /// The holder is the master; told as often as it asks.
    async fn ready(&mut self, id: LeaseId, epoch: Epoch) -> Result<(), ServiceError> {
        let Some(record) = self.records.get(&id).filter(|record| record.epoch == epoch && !record.abandoned)
        else {
            return Ok(());
        };
        if !record.ready {
            let record = MasterRecord { ready: true, ..record.clone() };
            self.write(&record, None).await?;
            self.records.insert(id.clone(), record);
        }
        self.send(&id.site, Down::Ready { request: id.request });
        Ok(())
    }

    fn abandon(&mut self, path: &GlobalPath) -> Result<(), ServiceError> {
        let id = self.records.iter().find(|(_, record)| record.scope.path == *path).map(|(id, _)| id.clone());
        let missing =
            || ServiceError::NotFound(format!("there is no lease on {path}; see 'globalfs lease list'"));
        let failed =
            |error: crate::model::lease::granter::AbandonError| ServiceError::Invalid(error.to_string());
        self.granter.abandon(&id.ok_or_else(missing)?, self.driver.now()).map_err(failed)
    }

    fn send_home(&self, what: &SendHome) -> Result<(), ServiceError> {
        let meant = |record: &&MasterRecord| {
            let place = &record.scope.path;
            what.site.as_ref().is_none_or(|site| *site == record.master)
                && what.path.as_ref().is_none_or(|path| place.starts_with(path) || path.starts_with(place))
        };
        for record in self.records.values().filter(meant) {
            self.send(&record.master, Down::SendHome { request: record.request, release: what.release });
        }
        Ok(())
    }

    fn tell_view(&self) {
        self.driver.streams.keys().for_each(|site| self.send(site, Down::View));
    }

    /// What is lost is asked for again.
    fn send(&self, site: &SiteName, down: Down) {
        if let Some(stream) = self.driver.streams.get(site) {
            let _ = stream.try_send(down);
        }
    }

    fn refuse(&self, site: &SiteName, message: &ToGranter) {
        if let ToGranter::Ask { request, .. } = message {
            self.send(site, Down::Lease(ToHolder::Busy { request: *request }));
        }
    }
}

/// Whether the store can hold the record. Read leases are not granted yet.
fn fits(message: &ToGranter) -> bool {
    match message {
        ToGranter::Ask { kind, scope, .. } => {
            *kind == LeaseKind::Write && Key::new(MasterRecord::key(&scope.path)).is_ok()
        }
        ToGranter::Release { .. } => true,
    }
}

fn id_of(record: &MasterRecord) -> LeaseId {
    LeaseId { site: record.master.clone(), request: record.request }
}

fn write_record(record: &MasterRecord) -> WriteRecord {
    let MasterRecord { request, scope, epoch, abandoned, .. } = record.clone();
    WriteRecord { request, scope, epoch, abandoned }
}
