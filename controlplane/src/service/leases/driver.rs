//! One task that owns the granter, the sites' streams and the records.

use super::leader::{Candidacy, KEEP_ALIVE, Leadership};
use super::{Answer, Command, Down, MESSAGES_AHEAD, SendHome, TERMS, Up};
use crate::model::lease::granter::{Action, Durable, RecordChange, Ticket};
use crate::model::lease::message::{ToGranter, ToHolder};
use crate::model::lease::{Epoch, Granter, LeaseId, LeaseKind, WriteRecord};
use crate::model::record::{ClusterRecord, EPOCH_KEY, MasterRecord, NAMESPACE_PREFIX};
use crate::service::records::{Held, after, json, next_view};
use crate::service::refusal::ServiceError;
use crate::service::registry::{Registry, now};
use crate::store::{Key, TxnOutcome};
use globalfs_proto::{GlobalPath, SiteName};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, sleep_until};
use tokio_util::sync::CancellationToken;

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
    /// As they are in the store: nobody else writes them.
    records: BTreeMap<LeaseId, MasterRecord>,
    /// As it was written here last. Others write it, too.
    cluster: Option<Held<ClusterRecord>>,
}

impl Driver {
    pub(super) fn new(registry: Arc<Registry>, name: String, commands: mpsc::Receiver<Command>) -> Self {
        Self { registry, name, commands, streams: BTreeMap::new(), began: Instant::now() }
    }

    /// Leads whenever it can, until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        if self.registry.has_store_alone() {
            let _ = Leadership::depose(self.registry.store()).await;
        }
        let mut known = None;
        while !stop.is_cancelled() {
            let seeking = Leadership::seek(self.registry.store().clone(), &self.name);
            let leader = match seeking.await {
                Ok(Candidacy::Won(leadership)) => {
                    if let Err(error) = self.lead(leadership, &stop).await {
                        tracing::warn!(%error, "leases_paused");
                    }
                    None
                }
                Ok(Candidacy::Lost(leader)) => leader,
                Err(error) => {
                    tracing::debug!(%error, "no leader at this moment");
                    None
                }
            };
            if leader.is_some() && leader != known {
                tracing::info!(leader, "another coordinator grants leases");
                known.clone_from(&leader);
            }
            stop.run_until_cancelled(self.refuse_for(SEEK_AGAIN, leader)).await;
        }
    }

    /// Sites whose streams end come again, and are told where to, as are administrators.
    async fn refuse_for(&mut self, time: Duration, leader: Option<String>) {
        self.streams.clear();
        let until = tokio::time::Instant::now() + time;
        while let Ok(Some(command)) = tokio::time::timeout_at(until, self.commands.recv()).await {
            let refusal = ServiceError::NotLeader(leader.clone());
            match command {
                Command::Connect { done, .. } => drop(done.send(Err(refusal))),
                Command::Abandon { done, .. } => drop(done.send(Err(refusal))),
                Command::SendHome { done, .. } => drop(done.send(Err(refusal))),
                Command::Up { .. } | Command::View => {}
            }
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    async fn lead(&mut self, leadership: Leadership, stop: &CancellationToken) -> Result<(), ServiceError> {
        let mut reign = match self.recover().await {
            Ok((granter, records)) => Reign { driver: self, leadership, granter, records, cluster: None },
            Err(error) => {
                leadership.resign().await;
                return Err(error);
            }
        };
        let ended = stop.run_until_cancelled(reign.go_on()).await;
        reign.leadership.resign().await;
        ended.unwrap_or(Ok(()))
    }

    /// All is read after the leadership was won: what an earlier leader writes later is refused by the store.
    async fn recover(&self) -> Result<(Granter, BTreeMap<LeaseId, MasterRecord>), ServiceError> {
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
        Ok((granter, records))
    }

    /// To all sites that are connected.
    fn tell_view(&mut self) {
        let sites: Vec<SiteName> = self.streams.keys().cloned().collect();
        sites.iter().for_each(|site| self.send(site, Down::View));
    }

    /// What is lost is asked for again. A site that does not read is disconnected: its stream ends with its queue.
    fn send(&mut self, site: &SiteName, down: Down) {
        if self.streams.get(site).is_some_and(|stream| stream.try_send(down).is_err()) {
            self.streams.remove(site);
        }
    }
}

impl Reign<'_> {
    async fn go_on(&mut self) -> Result<(), ServiceError> {
        let mut alive = tokio::time::interval(KEEP_ALIVE);
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.act().await?;
            let wake = self.granter.next_wake().map(|at| self.driver.began + at);
            let wake = wake.unwrap_or_else(|| Instant::now() + KEEP_ALIVE);
            tokio::select! {
                command = self.driver.commands.recv() => match command {
                    Some(command) => {
                        self.leadership.check().await?;
                        self.take(command).await?;
                    }
                    None => return Ok(()),
                },
                () = sleep_until(wake.into()) => {
                    self.leadership.check().await?;
                    self.granter.tick(self.driver.now());
                }
                _ = alive.tick() => {
                    self.leadership.stay().await?;
                    self.end_stuck_claims();
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
            Command::Connect { site, done } => self.connect(site, done),
            Command::Up { site, up: Up::Lease(message) } => match self.fits(&site, &message) {
                true => self.granter.receive(&site, message, now),
                false => self.refuse(&site, &message),
            },
            Command::Up { site, up: Up::Ready { request, epoch } } => {
                self.ready(LeaseId { site, request }, epoch).await?;
            }
            Command::Abandon { path, done } => match self.abandon(&path) {
                Ok(()) => {
                    // An administrator who is told so may rely on it.
                    self.act().await?;
                    let _ = done.send(Ok(()));
                }
                Err(error) => drop(done.send(Err(error))),
            },
            Command::SendHome { what, done } => {
                self.send_home(&what);
                let _ = done.send(Ok(()));
            }
            Command::View => self.driver.tell_view(),
        }
        Ok(())
    }

    /// The stream takes the place of any former one of this site, which ends.
    fn connect(&mut self, site: SiteName, done: Answer<mpsc::Receiver<Down>>) {
        let (down, receiver) = mpsc::channel(MESSAGES_AHEAD);
        self.driver.streams.insert(site.clone(), down);
        // It has not heard of what has changed before.
        self.driver.send(&site, Down::View);
        let _ = done.send(Ok(receiver));
    }

    /// Carries out what the granter has decided.
    async fn act(&mut self) -> Result<(), ServiceError> {
        while let Some(action) = self.granter.poll() {
            match action {
                Action::Send { to, message } => self.driver.send(&to, Down::Lease(message)),
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
                self.write(&record.scope.path, Some(&record), Some(last_epoch)).await?;
                self.records.insert(id, record);
            }
            RecordChange::Remove(request) => {
                let id = LeaseId { site, request };
                if let Some(record) = self.records.remove(&id) {
                    self.write(&record.scope.path, None, Some(last_epoch)).await?;
                }
            }
        }
        self.granter.persisted(ticket, self.driver.now());
        Ok(())
    }

    /// One transaction that also makes the next view, if this coordinator still leads. A record needs no condition of its
    /// own: only the leader writes them.
    async fn write(
        &mut self,
        path: &GlobalPath,
        record: Option<&MasterRecord>,
        last_epoch: Option<Epoch>,
    ) -> Result<(), ServiceError> {
        let key = Key::new(MasterRecord::key(path))?;
        for _ in 0..MAX_TRIES {
            let cluster = match self.cluster.take() {
                Some(cluster) => cluster,
                None => self.driver.registry.records.cluster().await?,
            };
            let view = self.leadership.guard(next_view(&cluster)?);
            let txn = match record {
                Some(record) => view.put(key.clone(), json(record).into_bytes()),
                None => view.delete(key.clone()),
            };
            let txn = match last_epoch {
                Some(epoch) => txn.put(Key::new(EPOCH_KEY)?, json(&epoch).into_bytes()),
                None => txn,
            };
            if let TxnOutcome::Committed { revision } = self.driver.registry.store().txn(txn).await? {
                let value = after(&cluster.value);
                self.cluster = Some(Held { value, revision });
                return Ok(());
            }
            // Others have changed the cluster, or lead it.
            self.leadership.keep_alive().await?;
        }
        Err(ServiceError::Contended)
    }

    /// The holder is the master; told as often as it asks. Who asks for what it has not is asked what it believes to have,
    /// and hears that this is over.
    async fn ready(&mut self, id: LeaseId, epoch: Epoch) -> Result<(), ServiceError> {
        let (site, request) = (id.site.clone(), id.request);
        let Some(record) = self.records.get(&id).filter(|record| record.epoch == epoch && !record.abandoned)
        else {
            self.driver.send(&site, Down::Lease(ToHolder::Check { request }));
            return Ok(());
        };
        if !record.ready {
            let record = MasterRecord { ready: true, ..record.clone() };
            self.write(&record.scope.path, Some(&record), None).await?;
            self.records.insert(id, record);
        }
        self.driver.send(&site, Down::Ready { request });
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

    fn send_home(&mut self, what: &SendHome) {
        if let (Some(number), Some(site), Some(path)) = (what.replica, &what.site, &what.path) {
            return self.driver.send(site, Down::Replicate { path: path.clone(), number });
        }
        let meant = |record: &&MasterRecord| {
            let place = &record.scope.path;
            what.site.as_ref().is_none_or(|site| *site == record.master)
                && what.path.as_ref().is_none_or(|path| place.starts_with(path) || path.starts_with(place))
        };
        for record in self.records.values().filter(meant) {
            let down = Down::SendHome { request: record.request, release: what.release };
            self.driver.send(&record.master, down);
        }
    }

    fn refuse(&mut self, site: &SiteName, message: &ToGranter) {
        if let ToGranter::Ask { request, .. } = message {
            self.driver.send(site, Down::Lease(ToHolder::Busy { request: *request }));
        }
    }

    /// Whether the store can hold the record, and the number is not that of another lease: a site that was set up anew may
    /// use numbers again. Read leases are not granted yet.
    fn fits(&self, site: &SiteName, message: &ToGranter) -> bool {
        match message {
            ToGranter::Ask { request, kind, scope, .. } => {
                let recorded = self.records.get(&LeaseId { site: site.clone(), request: *request });
                *kind == LeaseKind::Write
                    && recorded.is_none_or(|record| record.scope == *scope)
                    && Key::new(MasterRecord::key(&scope.path)).is_ok()
            }
            ToGranter::Release { .. } => true,
        }
    }
}

fn id_of(record: &MasterRecord) -> LeaseId {
    LeaseId { site: record.master.clone(), request: record.request }
}

fn write_record(record: &MasterRecord) -> WriteRecord {
    let MasterRecord { request, scope, epoch, abandoned, .. } = record.clone();
    WriteRecord { request, scope, epoch, abandoned }
}
