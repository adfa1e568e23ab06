//! The order of events: who does what when, by one seed.

use super::LONGEST_WAIT;
use super::coordinator::Coordinator;
use super::machine::{Random, Wake};
use super::network::{Network, Way};
use super::oracle::Oracle;
use super::outcome::Outcome;
use super::site::{Site, Wanted};
use crate::model::lease::granter::{self, RecordChange};
use crate::model::lease::holder::{self, Ending, Right};
use crate::model::lease::message::{ToGranter, ToHolder};
use crate::model::lease::term::Terms;
use crate::model::lease::types::{Incarnation, LeaseKind, LeaseScope, Reach, RequestNumber};
use globalfs_proto::GlobalPath;
use std::collections::BTreeMap;
use std::time::Duration;

/// Faults happen so long.
const FAULTS: Duration = Duration::from_secs(40);
/// After that applications go on so long.
const CALM: Duration = Duration::from_secs(8);

/// Applications of a site that wait at once.
const MOST_WANTED: usize = 5;

/// What happens next.
#[derive(Debug, Clone)]
enum Event {
    ToGranter(usize, ToGranter),
    ToHolder(usize, ToHolder),
    WakeCoordinator,
    WakeSite(usize),
    CoordinatorDisk(u64),
    SiteDisk(usize, Incarnation),
    Drained(usize, Incarnation, RequestNumber),
    Release(usize, Incarnation, RequestNumber),
    Want(usize),
    Use(usize),
    Abandon,
    StopCoordinator,
    StartCoordinator,
    StopSite(usize),
    StartSite(usize),
    Cut(usize, Option<Way>, bool),
    EndFaults,
}

/// All there is.
pub(super) struct World {
    now: Duration,
    random: Random,
    terms: Terms,
    scopes: Vec<LeaseScope>,
    write_permille: u32,
    pace_ms: u64,
    /// The longest that a disk takes, and that a timer is late.
    disk_ms: u64,
    late_ms: u64,
    events: BTreeMap<(Duration, u64), Event>,
    sequence: u64,
    network: Network,
    coordinator: Coordinator,
    sites: Vec<Site>,
    oracle: Oracle,
    outcome: Outcome,
    told: bool,
}

impl World {
    pub(super) fn new(seed: u64, told: bool) -> Self {
        let mut random = Random::new(seed);
        let count = 2 + random.below(4);
        let longest = [6_000, 12_000, 25_000][random.below(3)];
        let read = random.millis(3_000, longest);
        let mut world = Self {
            now: Duration::ZERO,
            terms: Terms { read, write: read + random.millis(0, 15_000) },
            scopes: scopes(&mut random),
            write_permille: [150, 500, 850][random.below(3)],
            pace_ms: [1_500, 4_000, 12_000][random.below(3)],
            disk_ms: [4, 300][random.below(2)],
            late_ms: [1, 30][random.below(2)],
            events: BTreeMap::new(),
            sequence: 0,
            network: Network::any(&mut random, count),
            coordinator: Coordinator::new(&mut random),
            sites: (0..count).map(|n| Site::new(&mut random, n)).collect(),
            oracle: Oracle::default(),
            outcome: Outcome::default(),
            random,
            told,
        };
        if world.random.chance(250) {
            world.coordinator.clock.run_at(1_010_000);
            world.sites.iter_mut().for_each(|site| site.clock.run_at(990_000));
        }
        world.plan();
        world
    }

    fn plan(&mut self) {
        self.at(Duration::ZERO, Event::StartCoordinator);
        for site in 0..self.sites.len() {
            self.at(Duration::ZERO, Event::StartSite(site));
            self.after(0, 1_500, Event::Want(site));
            self.after(0, 3_000, Event::Use(site));
            self.plan_faults(site);
        }
        for _ in 0..self.random.below(4) {
            self.outage(Event::StopCoordinator, Event::StartCoordinator);
        }
        for _ in 0..self.random.below(10) {
            self.after(1_000, FAULTS.as_millis() as u64, Event::Abandon);
        }
        self.at(FAULTS, Event::EndFaults);
    }

    fn plan_faults(&mut self, site: usize) {
        for _ in 0..self.random.below(3) {
            self.outage(Event::StopSite(site), Event::StartSite(site));
        }
        for _ in 0..self.random.below(3) {
            let way = [None, None, Some(Way::ToGranter), Some(Way::ToHolder)][self.random.below(4)];
            self.outage(Event::Cut(site, way, true), Event::Cut(site, way, false));
        }
    }

    fn outage(&mut self, begins: Event, ends: Event) {
        let from = self.random.millis(500, FAULTS.as_millis() as u64 - 1);
        let longest = [200, 5_000, 30_000][self.random.below(3)];
        let to = from + self.random.millis(1, longest);
        self.at(from, begins);
        self.at(to.min(FAULTS), ends);
    }

    /// Lets everything happen and checks after each step.
    pub(super) fn run(mut self) -> Outcome {
        while let Some(((at, _), event)) = self.events.pop_first().filter(|_| !self.is_over()) {
            self.now = at;
            self.outcome.events += 1;
            self.tell(&event);
            self.happen(event);
        }
        for site in &self.sites {
            assert!(site.wanted.is_empty(), "{} still waits: {:?}", site.name, site.wanted);
        }
        self.outcome
    }

    /// All are served, or have waited too long.
    fn is_over(&self) -> bool {
        let calm = self.now > FAULTS + CALM;
        calm && self.sites.iter().all(|site| site.wanted.is_empty())
            || self.now > FAULTS + CALM + LONGEST_WAIT
    }

    fn tell(&self, event: &Event) {
        if self.told {
            println!("{:>12.6} {event:?}", self.now.as_secs_f64());
        }
    }

    fn happen(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::ToGranter(site, message) => self.arrive_at_granter(site, message),
            Event::ToHolder(n, message) => {
                self.sites[n].with(now, |holder, local| holder.receive(message, local));
                self.after_site(n);
            }
            Event::WakeCoordinator => {
                if self.coordinator.wake.is_some_and(|wake| wake.rings == now) {
                    self.coordinator.wake = None;
                    self.coordinator.tick(now);
                    self.after_coordinator();
                }
            }
            Event::WakeSite(n) => {
                if self.sites[n].wake.is_some_and(|wake| wake.rings == now) {
                    self.sites[n].wake = None;
                    self.sites[n].with(now, |holder, local| holder.tick(local));
                    self.after_site(n);
                }
            }
            Event::CoordinatorDisk(life) => self.coordinator_disk(life),
            Event::SiteDisk(n, life) => self.of_life(n, life, |site| site.disk_done(now)),
            Event::Drained(n, life, request) => self.of_life(n, life, |site| {
                site.with(now, |holder, local| holder.drained(request, local));
            }),
            Event::Release(n, life, request) => self.of_life(n, life, |site| {
                site.wanted.remove(&request);
                site.with(now, |holder, local| holder.release(request, local));
            }),
            Event::Want(n) => self.want(n),
            Event::Use(n) => self.use_any(n),
            Event::Abandon => self.abandon(),
            Event::StopCoordinator => self.stop_coordinator(),
            Event::StartCoordinator => self.start_coordinator(),
            Event::StopSite(n) => {
                self.outcome.crashes += 1;
                self.sites[n].crash(&mut self.random);
            }
            Event::StartSite(n) => self.start_site(n),
            Event::Cut(n, way, cut) => {
                let ways = way.map_or(vec![Way::ToGranter, Way::ToHolder], |way| vec![way]);
                ways.into_iter().for_each(|way| self.network.cut(n, way, cut));
            }
            Event::EndFaults => self.end_faults(),
        }
    }

    fn of_life(&mut self, n: usize, life: Incarnation, event: impl FnOnce(&mut Site)) {
        if self.sites[n].incarnation == life && self.sites[n].holder.is_some() {
            event(&mut self.sites[n]);
            self.after_site(n);
        }
    }

    fn arrive_at_granter(&mut self, n: usize, message: ToGranter) {
        if !self.coordinator.runs() {
            return;
        }
        let (name, local) = (self.sites[n].name.clone(), self.coordinator.clock.read(self.now));
        // What is due before the message is done before it.
        self.coordinator.tick(self.now);
        self.after_coordinator();
        match &message {
            ToGranter::Ask { request, kind, scope, held, .. } => {
                let ask = (*request, *kind, scope);
                self.oracle.on_ask(
                    &name,
                    ask,
                    held.is_some() && *kind == LeaseKind::Write,
                    &self.coordinator.store,
                    local,
                );
            }
            ToGranter::Release { request } => self.oracle.on_ended(&name, *request),
        }
        self.coordinator.receive(&name, message, self.now);
        self.after_coordinator();
    }

    fn after_coordinator(&mut self) {
        while let Some(action) = self.coordinator.poll() {
            self.on_coordinator_action(action);
        }
        self.coordinator.check();
        let Some(due) = self.coordinator.next_wake() else { return };
        if self.coordinator.wake.is_none_or(|wake| due < wake.due) {
            let rings = due.max(self.now) + self.lateness();
            self.coordinator.wake = Some(Wake { due, rings });
            self.at(rings, Event::WakeCoordinator);
        }
    }

    fn on_coordinator_action(&mut self, action: granter::Action) {
        let local = self.coordinator.clock.read(self.now);
        match &action {
            granter::Action::Send { to, message } => {
                match message {
                    ToHolder::Grant { request, generation, epoch, .. } => {
                        self.oracle.on_served(to, *request, local);
                        let n = self.sites.iter().position(|site| site.name == *to).expect("a site");
                        if let Some((_, scope)) =
                            self.sites[n].scopes.get(request).filter(|_| epoch.is_none())
                        {
                            self.oracle.on_told(scope, *generation);
                        }
                    }
                    ToHolder::Busy { request } => self.oracle.on_ended(to, *request),
                    _ => {}
                }
                let n = self.sites.iter().position(|site| site.name == *to).expect("a site");
                for delay in self.network.carry(&mut self.random, n, Way::ToHolder) {
                    self.at(self.now + delay, Event::ToHolder(n, message.clone()));
                }
            }
            granter::Action::Persist { site, change, .. } => {
                if let RecordChange::Put(record) = change {
                    self.oracle.on_recorded(record);
                    self.oracle.on_served(site, record.request, local);
                }
                let at =
                    self.now + self.random.millis(1, if self.network.faulty { self.disk_ms } else { 20 });
                if let Some(at) = self.coordinator.begin(action, at) {
                    self.at(at, Event::CoordinatorDisk(self.coordinator.life));
                }
            }
            granter::Action::Abandoned { .. } => self.outcome.abandoned += 1,
        }
    }

    fn coordinator_disk(&mut self, life: u64) {
        if life != self.coordinator.life || !self.coordinator.runs() {
            return;
        }
        if let Some(removed) = self.coordinator.disk_done(self.now) {
            self.oracle.on_removed(&self.sites, &removed);
            self.oracle.on_ended(&removed.0, removed.1);
        }
        self.after_coordinator();
    }

    fn after_site(&mut self, n: usize) {
        while let Some(action) = self.sites[n].poll() {
            self.on_site_action(n, action);
        }
        self.oracle.check(&self.sites, n, &self.coordinator.store, self.now);
        let site = &self.sites[n];
        let Some(due) = site.next_wake() else { return };
        if site.wake.is_none_or(|wake| due < wake.due) {
            let rings = due.max(self.now) + self.lateness();
            self.sites[n].wake = Some(Wake { due, rings });
            self.at(rings, Event::WakeSite(n));
        }
    }

    fn on_site_action(&mut self, n: usize, action: holder::Action) {
        let life = self.sites[n].incarnation;
        match action {
            holder::Action::Send(message) => {
                for delay in self.network.carry(&mut self.random, n, Way::ToGranter) {
                    self.at(self.now + delay, Event::ToGranter(n, message.clone()));
                }
            }
            holder::Action::Persist(_) | holder::Action::Forget(_) => {
                let at =
                    self.now + self.random.millis(1, if self.network.faulty { self.disk_ms } else { 20 });
                if let Some(at) = self.sites[n].begin(action, at) {
                    self.at(at, Event::SiteDisk(n, life));
                }
            }
            holder::Action::Granted { request, epoch, generation } => {
                self.on_granted(n, Right { request, epoch, generation });
            }
            holder::Action::Drain(request) => {
                self.outcome.recalls += 1;
                let longest = if self.network.faulty && self.random.chance(100) { 20_000 } else { 500 };
                self.after(1, longest, Event::Drained(n, life, request));
            }
            holder::Action::Ended { request, ending } => self.on_ended(n, request, ending),
        }
    }

    fn on_granted(&mut self, n: usize, right: Right) {
        let site = &mut self.sites[n];
        let (_, scope) = site.scopes[&right.request].clone();
        self.oracle.on_granted(&site.name, &scope, right);
        *(if right.epoch.is_some() { &mut self.outcome.writes } else { &mut self.outcome.reads }) += 1;
        let life = site.incarnation;
        if let Some(wanted) = site.wanted.remove(&right.request) {
            self.waited(wanted.since);
        }
        if self.random.chance(700) {
            self.after(1, 4_000, Event::Release(n, life, right.request));
        }
    }

    fn waited(&mut self, since: Duration) {
        let waited = self.now.saturating_sub(since.max(FAULTS));
        assert!(waited <= LONGEST_WAIT, "a request waited for {waited:?}");
        self.outcome.longest_wait = self.outcome.longest_wait.max(waited);
    }

    fn on_ended(&mut self, n: usize, request: RequestNumber, ending: Ending) {
        self.outcome.lapsed += u64::from(ending == Ending::Lapsed);
        self.outcome.fenced += u64::from(ending == Ending::Abandoned);
        // Applications that were not served ask again.
        if let Some(wanted) = self.sites[n].wanted.remove(&request) {
            self.sites[n].acquire(wanted, self.now);
        }
    }

    fn want(&mut self, n: usize) {
        let scope = self.scopes[self.random.below(self.scopes.len())].clone();
        let kind = if self.random.chance(self.write_permille) { LeaseKind::Write } else { LeaseKind::Read };
        if self.sites[n].wanted.len() < MOST_WANTED {
            self.sites[n].acquire(Wanted { kind, scope, since: self.now }, self.now);
        }
        if let Some((request, _)) = self.sites[n].wanted.last_key_value().filter(|_| self.random.chance(80)) {
            let (life, request) = (self.sites[n].incarnation, *request);
            self.after(1, 3_000, Event::Release(n, life, request));
        }
        self.after_site(n);
        if self.now < FAULTS + CALM {
            self.after(1, self.pace_ms, Event::Want(n));
        }
    }

    /// An application works somewhere, which keeps leases from being idle.
    fn use_any(&mut self, n: usize) {
        let path = self.scopes[self.random.below(self.scopes.len())].path.clone();
        let kind = if self.random.chance(500) { LeaseKind::Write } else { LeaseKind::Read };
        self.sites[n].with(self.now, |holder, local| {
            let right = holder.begin(kind, &path, local);
            assert!(
                right.is_none() || holder.may_finish(kind, &path, local).is_some(),
                "what begins may end"
            );
        });
        if self.now < FAULTS + CALM {
            self.after(1, 3_000, Event::Use(n));
        }
    }

    fn abandon(&mut self) {
        // Mostly of a site that is not heard, as an administrator would.
        let silent = |site: &&Site| {
            site.holder.is_none()
                || self.network.is_cut(self.sites.iter().position(|s| s.name == site.name).unwrap_or(0))
        };
        let mut names: Vec<_> = self.sites.iter().filter(silent).map(|site| site.name.clone()).collect();
        if names.is_empty() || self.random.chance(200) {
            names = self.sites.iter().map(|site| site.name.clone()).collect();
        }
        if let Some(lease) = self.coordinator.abandon_any(&mut self.random, &names, self.now) {
            self.oracle.on_abandoned(lease.site, lease.request);
        }
        self.after_coordinator();
    }

    fn stop_coordinator(&mut self) {
        self.outcome.crashes += 1;
        self.coordinator.crash(&mut self.random);
        self.oracle.on_coordinator_crash(self.coordinator.store.last_epoch);
    }

    fn start_coordinator(&mut self) {
        if !self.coordinator.runs() {
            self.coordinator.start(self.terms, self.now);
            self.after_coordinator();
        }
    }

    fn start_site(&mut self, n: usize) {
        if self.sites[n].holder.is_none() {
            self.sites[n].start(self.now);
            self.after_site(n);
        }
    }

    fn end_faults(&mut self) {
        self.network.faulty = false;
        self.start_coordinator();
        (0..self.sites.len()).for_each(|n| self.start_site(n));
    }

    fn lateness(&mut self) -> Duration {
        self.random.millis(0, if self.network.faulty { self.late_ms } else { 2 })
    }

    fn after(&mut self, from_ms: u64, to_ms: u64, event: Event) {
        let at = self.now + self.random.millis(from_ms, to_ms);
        self.at(at, event);
    }

    fn at(&mut self, at: Duration, event: Event) {
        self.sequence += 1;
        self.events.insert((at, self.sequence), event);
    }
}

/// Some of the places that may overlap, so that sites meet.
fn scopes(random: &mut Random) -> Vec<LeaseScope> {
    let paths = ["/", "/a", "/a/b", "/a/b/c", "/a-b", "/d", "/d/e"];
    let count = 2 + random.below(5);
    let pick = |random: &mut Random| LeaseScope {
        path: GlobalPath::new(paths[random.below(paths.len())].as_bytes()).expect("a path"),
        reach: if random.chance(600) { Reach::Subtree } else { Reach::Alone },
    };
    (0..count).map(|_| pick(random)).collect()
}
