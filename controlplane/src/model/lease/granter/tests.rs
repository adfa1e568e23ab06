//! The granter alone, message by message; and a look at all of its state, which the simulation takes too.

use super::*;
use crate::model::lease::types::{Incarnation, LeaseScope};
use crate::model::lease::{MAX_WAITING_PER_SITE, Reach};
use globalfs_proto::GlobalPath;

/// All indexes, counters and timers agree with the leases, and no two leases exclude each other.
pub(super) fn check(granter: &Granter) {
    let writes: Vec<_> = granter.writes.iter().collect();
    for (n, (id, lease)) in writes.iter().enumerate() {
        let clash =
            writes[..n].iter().find(|(o, other)| o.site != id.site && other.scope.overlaps(&lease.scope));
        assert!(clash.is_none(), "{id:?} and {clash:?}");
        assert!(lease.epoch <= granter.last_epoch);
        let waits_for_disk = granter.persisting.iter().any(|(_, waiting)| waiting == id);
        assert_eq!(
            waits_for_disk,
            !matches!(lease.stage, writes::Stage::Held | writes::Stage::Fenced),
            "{id:?}"
        );
        let timed = lease.alarm.is_some_and(|at| granter.timers.contains(&(at, Timer::Write(*id))));
        assert!(timed || waits_for_disk, "somebody looks at {id:?} again");
    }
    for (site, table) in granter.sites.all() {
        for (request, lease) in table.reads() {
            assert!(!granter.writes.held_against(site, &lease.scope), "{site:?} reads what another writes");
            assert!(
                granter.timers.contains(&(lease.alarm, Timer::ReadExpires(Id { site, request: *request })))
            );
        }
        assert_eq!(table.writes, writes.iter().filter(|(id, _)| id.site == site).count());
        let waiting = granter.queue.all().into_iter().filter_map(|arrival| granter.queue.get(arrival));
        assert_eq!(table.waiting, waiting.filter(|request| request.id.site == site).count());
    }
    let recalls = granter.timers.iter().filter(|(_, timer)| *timer == Timer::Recalls).count();
    assert!(recalls <= 1, "one timer, however often requests wait");
    assert!(recalls == 1 || granter.queue.is_empty(), "who waits is looked at again");
}

/// A granter with its driver: what is persisted is so at once, unless it is held back.
struct Bench {
    granter: Granter,
    now: Duration,
    sent: Vec<(String, ToHolder)>,
    persist: Vec<(Ticket, RecordChange, Epoch)>,
    fenced: Vec<Epoch>,
    slow_disk: bool,
}

const TERMS: Terms = Terms { read: Duration::from_secs(10), write: Duration::from_secs(60) };
const A: &str = "a";
const B: &str = "b";
const C: &str = "c";

fn number(number: u64) -> RequestNumber {
    RequestNumber { incarnation: Incarnation(1), number }
}

fn scope(text: &str) -> LeaseScope {
    LeaseScope { path: GlobalPath::new(text.as_bytes()).unwrap(), reach: Reach::Subtree }
}

fn name(site: &str) -> SiteName {
    SiteName::new(site).unwrap()
}

impl Bench {
    /// The pause after the start is over.
    fn new() -> Self {
        let mut bench = Self::recovered(Durable::default());
        bench.pass(outlasts(TERMS.read));
        bench
    }

    fn recovered(durable: Durable) -> Self {
        let granter = Granter::recover(TERMS, durable, Duration::ZERO).unwrap();
        let (sent, persist, fenced) = (Vec::new(), Vec::new(), Vec::new());
        Self { granter, now: Duration::ZERO, sent, persist, fenced, slow_disk: false }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.granter.tick(self.now);
        self.poll();
    }

    fn poll(&mut self) {
        while let Some(action) = self.granter.poll() {
            match action {
                Action::Send { to, message } => self.sent.push((to.to_string(), message)),
                Action::Persist { ticket, change, last_epoch, .. } => {
                    self.persist.push((ticket, change, last_epoch));
                    if !self.slow_disk {
                        self.granter.persisted(ticket, self.now);
                    }
                }
                Action::Abandoned { epoch, .. } => self.fenced.push(epoch),
            }
        }
        check(&self.granter);
    }

    fn ask(&mut self, site: &str, n: u64, kind: LeaseKind, path: &str, held: Option<Epoch>) {
        let stamp = Stamp { incarnation: Incarnation(1), at: self.now };
        let ask = ToGranter::Ask { request: number(n), kind, scope: scope(path), held, stamp };
        self.granter.receive(&name(site), ask, self.now);
        self.poll();
    }

    fn read(&mut self, site: &str, n: u64, path: &str) {
        self.ask(site, n, LeaseKind::Read, path, None);
    }

    fn write(&mut self, site: &str, n: u64, path: &str) {
        self.ask(site, n, LeaseKind::Write, path, None);
    }

    fn release(&mut self, site: &str, n: u64) {
        self.granter.receive(&name(site), ToGranter::Release { request: number(n) }, self.now);
        self.poll();
    }

    fn abandon(&mut self, site: &str, n: u64) -> Result<(), AbandonError> {
        let result = self.granter.abandon(&LeaseId { site: name(site), request: number(n) }, self.now);
        self.poll();
        result
    }

    /// What was sent since the last call: a letter for the message, site and number.
    fn sent(&mut self) -> String {
        let short = |(site, message): (String, ToHolder)| match message {
            ToHolder::Grant { request, .. } => format!("grant {site}{}", request.number),
            ToHolder::Recall { request, .. } => format!("recall {site}{}", request.number),
            ToHolder::Check { request } => format!("check {site}{}", request.number),
            ToHolder::Busy { request } => format!("busy {site}{}", request.number),
            ToHolder::Ended { request, .. } => format!("ended {site}{}", request.number),
        };
        let mut all: Vec<String> = self.sent.drain(..).map(short).collect();
        all.sort();
        all.join(", ")
    }
}

#[test]
fn a_writer_waits_for_each_reader_and_no_longer() {
    let mut bench = Bench::new();
    bench.read(A, 1, "/x/y");
    bench.read(B, 1, "/x");
    bench.read(C, 9, "/elsewhere");
    bench.sent();
    bench.write(C, 1, "/x");
    assert_eq!(bench.sent(), "recall a1, recall b1");
    bench.release(B, 1);
    assert_eq!(bench.sent(), "", "one reader is silent");
    bench.pass(outlasts(TERMS.read) - Duration::from_nanos(1));
    bench.write(C, 1, "/x");
    assert!(!bench.sent().contains("grant"));
    bench.pass(Duration::from_nanos(1));
    assert_eq!(bench.sent(), "grant c1", "the term is over by any clock");
}

#[test]
fn a_renewal_does_not_pass_a_writer_that_waits() {
    let mut bench = Bench::new();
    bench.read(A, 1, "/x");
    bench.write(B, 1, "/x");
    bench.sent();
    bench.pass(RECALL_INTERVAL);
    assert_eq!(bench.sent(), "recall a1", "recalls are repeated");
    bench.read(A, 1, "/x");
    assert_eq!(bench.sent(), "");
    bench.read(C, 1, "/x/y");
    assert_eq!(bench.sent(), "", "new readers come after the writer");
}

#[test]
fn requests_that_conflict_are_served_in_order_and_others_at_once() {
    let mut bench = Bench::new();
    bench.write(A, 1, "/x");
    bench.read(B, 1, "/x/y");
    bench.write(C, 1, "/x/y");
    bench.read(B, 2, "/x/y/z");
    bench.read(B, 3, "/x-y");
    assert_eq!(bench.sent(), "grant a1, grant b3, recall a1");
    bench.release(A, 1);
    assert_eq!(bench.sent(), "grant b1, recall b1");
    bench.release(B, 1);
    assert_eq!(bench.sent(), "grant c1, recall c1");
    bench.release(C, 1);
    assert_eq!(bench.sent(), "grant b2");
}

#[test]
fn a_path_has_one_lease_at_a_time_also_of_one_site() {
    let mut bench = Bench::new();
    bench.write(A, 1, "/x");
    bench.write(A, 2, "/x/y");
    assert_eq!(bench.sent(), "grant a1, grant a2", "other paths of its own site are not in the way");
    bench.write(A, 3, "/x");
    assert_eq!(bench.sent(), "recall a1");
    bench.write(B, 1, "/x");
    assert_eq!(bench.sent(), "", "it comes after");
    bench.release(A, 1);
    assert_eq!(bench.sent(), "grant a3, recall a2, recall a3");
    bench.release(A, 2);
    bench.release(A, 3);
    assert_eq!(bench.sent(), "grant b1");
}

#[test]
fn of_two_requests_of_one_site_that_wait_for_one_path_the_first_is_served() {
    let mut bench = Bench::new();
    bench.write(B, 1, "/x");
    bench.write(A, 1, "/x");
    bench.write(A, 2, "/x");
    bench.sent();
    bench.release(B, 1);
    assert_eq!(bench.sent(), "grant a1, recall a1");
    bench.release(A, 1);
    assert_eq!(bench.sent(), "grant a2");
}

#[test]
fn after_a_restart_only_readers_are_served_for_a_term() {
    let mut bench = Bench::recovered(Durable::default());
    bench.write(A, 1, "/x");
    bench.read(B, 1, "/y");
    assert_eq!(bench.sent(), "grant b1");
    bench.pass(outlasts(TERMS.read) / 2);
    bench.write(A, 1, "/x");
    bench.pass(outlasts(TERMS.read) / 2 - Duration::from_nanos(1));
    assert_eq!(bench.sent(), "");
    bench.pass(Duration::from_nanos(2));
    assert_eq!(bench.sent(), "grant a1");
}

#[test]
fn nothing_is_told_before_it_is_durable() {
    let mut bench = Bench::new();
    bench.slow_disk = true;
    bench.write(A, 1, "/x");
    bench.write(A, 1, "/x");
    assert_eq!((bench.sent(), bench.persist.len()), (String::new(), 1));
    let (ticket, _, epoch) = bench.persist[0].clone();
    assert_eq!(epoch, Epoch(1));
    bench.granter.persisted(ticket, bench.now);
    bench.poll();
    assert_eq!(bench.sent(), "grant a1");
    bench.release(A, 1);
    bench.write(B, 1, "/x");
    assert_eq!(bench.sent(), "", "the old record is still there");
    let (ticket, change, _) = bench.persist[1].clone();
    assert_eq!(change, RecordChange::Remove(number(1)));
    bench.granter.persisted(ticket, bench.now);
    bench.poll();
    assert_eq!(bench.persist[2].2, Epoch(2));
}

#[test]
fn a_lease_given_up_while_it_was_recorded_is_removed() {
    let mut bench = Bench::new();
    bench.slow_disk = true;
    bench.write(A, 1, "/x");
    bench.release(A, 1);
    bench.granter.persisted(bench.persist[0].0, bench.now);
    bench.poll();
    assert_eq!(bench.sent(), "");
    assert_eq!(bench.persist[1].1, RecordChange::Remove(number(1)));
}

#[test]
fn silence_ends_no_write_lease_but_an_administrator_does_after_its_term() {
    let mut bench = Bench::new();
    bench.write(A, 1, "/x");
    bench.pass(TERMS.write * 10);
    assert!(bench.sent().contains("check a1"), "the holder is asked after");
    bench.ask(A, 1, LeaseKind::Write, "/x", Some(Epoch(1)));
    bench.sent();
    assert_eq!(bench.abandon(A, 1), Ok(()));
    assert_eq!((bench.sent(), bench.fenced.clone()), ("ended a1".to_owned(), vec![Epoch(2)]));
    bench.ask(A, 1, LeaseKind::Write, "/x", Some(Epoch(1)));
    assert_eq!(bench.sent(), "ended a1", "it is not renewed");
    bench.write(B, 1, "/x");
    for _ in 0..60 {
        bench.pass(Duration::from_secs(1));
        bench.write(B, 1, "/x");
    }
    assert_eq!(bench.sent(), "", "the holder may still acknowledge changes");
    bench.pass(outlasts(TERMS.write) - Duration::from_secs(60));
    assert_eq!(bench.sent(), "grant b1");
    assert_eq!(bench.persist.last().map(|(_, _, epoch)| *epoch), Some(Epoch(3)));
}

#[test]
fn a_holder_that_confirms_ends_the_wait_after_an_abandon() {
    let mut bench = Bench::new();
    bench.write(A, 1, "/x");
    assert_eq!(bench.abandon(A, 2), Err(AbandonError::Unknown));
    assert_eq!(bench.abandon(A, 1), Ok(()));
    bench.write(B, 1, "/x");
    bench.sent();
    bench.release(A, 1);
    assert_eq!(bench.sent(), "grant b1");
}

#[test]
fn an_abandoned_record_is_waited_for_after_a_restart_too() {
    let record = WriteRecord { request: number(1), scope: scope("/x"), epoch: Epoch(7), abandoned: true };
    let records = vec![(name(A), record)];
    let mut bench = Bench::recovered(Durable { last_epoch: Epoch(8), records });
    bench.pass(outlasts(TERMS.write) - Duration::from_nanos(1));
    bench.write(B, 1, "/x");
    assert_eq!((bench.sent(), bench.fenced.clone()), (String::new(), vec![Epoch(8)]));
    bench.pass(Duration::from_nanos(1));
    assert_eq!(bench.sent(), "grant b1");
    assert_eq!(bench.persist.last().map(|(_, _, epoch)| *epoch), Some(Epoch(9)));
}

#[test]
fn who_is_silent_loses_its_place() {
    let mut bench = Bench::new();
    bench.write(A, 1, "/x");
    bench.write(B, 1, "/x");
    bench.pass(WAITING_EXPIRY);
    bench.sent();
    bench.release(A, 1);
    assert_eq!(bench.sent(), "", "nothing is granted to who may be gone");
}

#[test]
fn a_late_request_of_a_known_lease_makes_no_second_one() {
    let mut bench = Bench::new();
    bench.write(A, 1, "/x");
    bench.write(A, 1, "/x");
    bench.ask(A, 1, LeaseKind::Write, "/x", Some(Epoch(1)));
    assert_eq!(bench.sent(), "grant a1, grant a1, grant a1");
    assert_eq!((bench.persist.len(), bench.granter.records().count()), (1, 1));
}

#[test]
fn limits_are_told() {
    let mut bench = Bench::new();
    bench.write(A, 1, "/x");
    (0..MAX_WAITING_PER_SITE as u64).for_each(|n| bench.granter.receive(&name(B), waiting(n), bench.now));
    bench.poll();
    bench.sent();
    bench.write(B, 1 << 20, "/x");
    assert_eq!(bench.sent(), format!("busy b{}", 1 << 20));
}

fn waiting(n: u64) -> ToGranter {
    let stamp = Stamp { incarnation: Incarnation(1), at: Duration::ZERO };
    ToGranter::Ask { request: number(n), kind: LeaseKind::Read, scope: scope("/x"), held: None, stamp }
}

#[test]
fn records_that_contradict_each_other_are_refused() {
    let record =
        |n, path, epoch| WriteRecord { request: number(n), scope: scope(path), epoch, abandoned: false };
    let recover =
        |last_epoch, records| Granter::recover(TERMS, Durable { last_epoch, records }, Duration::ZERO);
    let one = (name(A), record(1, "/x", Epoch(1)));
    let overlap = recover(Epoch(2), vec![one.clone(), (name(B), record(1, "/x/y", Epoch(2)))]);
    assert!(matches!(overlap, Err(RecoverError::Overlap { .. })));
    assert!(recover(Epoch(2), vec![one.clone(), (name(A), record(2, "/x/y", Epoch(2)))]).is_ok());
    assert!(matches!(recover(Epoch(0), vec![one]), Err(RecoverError::Epoch { .. })));
}
