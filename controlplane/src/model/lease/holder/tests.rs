//! The holder alone, message by message: what arrives late, twice or in the wrong order does no harm.

use super::*;
use crate::model::lease::message::ToHolder;

const TERM: Duration = Duration::from_secs(30);
const IDLE: Duration = Duration::from_secs(600);

fn path(text: &str) -> GlobalPath {
    GlobalPath::new(text.as_bytes()).unwrap()
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn holder() -> Holder {
    Holder::recover(Incarnation(2), Vec::new(), IDLE, Duration::ZERO)
}

fn record() -> WriteRecord {
    let request = RequestNumber { incarnation: Incarnation(1), number: 1 };
    WriteRecord { request, scope: LeaseScope::subtree(path("/x")), epoch: Epoch(5), abandoned: false }
}

fn actions(holder: &mut Holder) -> Vec<Action> {
    std::iter::from_fn(|| holder.poll()).collect()
}

fn release(request: RequestNumber) -> Action {
    Action::Send(ToGranter::Release { request })
}

fn ended(request: RequestNumber, ending: Ending) -> Action {
    Action::Ended { request, ending }
}

fn grant(request: RequestNumber, epoch: Option<u64>, incarnation: u64, asked: Duration) -> ToHolder {
    let epoch = epoch.map(Epoch);
    let stamp = Stamp { incarnation: Incarnation(incarnation), at: asked };
    ToHolder::Grant { request, epoch, generation: epoch.unwrap_or_default().into(), stamp, term: TERM }
}

fn acquire(holder: &mut Holder, kind: LeaseKind) -> RequestNumber {
    let request = holder.acquire(kind, LeaseScope::subtree(path("/x")), Duration::ZERO).unwrap();
    assert!(matches!(actions(holder)[..], [Action::Send(ToGranter::Ask { held: None, .. })]));
    request
}

/// A write lease with epoch 7 that is in use.
fn writer() -> (Holder, RequestNumber) {
    let mut holder = holder();
    let request = acquire(&mut holder, LeaseKind::Write);
    holder.receive(grant(request, Some(7), 2, Duration::ZERO), Duration::ZERO);
    assert!(matches!(actions(&mut holder)[..], [Action::Persist(_)]));
    assert_eq!(holder.begin(LeaseKind::Write, &path("/x/y"), Duration::ZERO), None, "not durable yet");
    holder.persisted(request, Epoch(7), Duration::ZERO);
    assert!(matches!(actions(&mut holder)[..], [Action::Granted { .. }]));
    (holder, request)
}

#[test]
fn a_right_ends_a_term_after_it_was_asked_for() {
    let mut holder = holder();
    let request = acquire(&mut holder, LeaseKind::Read);
    holder.receive(grant(request, None, 2, Duration::ZERO), at(20));
    let last = TERM - Duration::from_nanos(1);
    assert!(holder.begin(LeaseKind::Read, &path("/x/y"), last).is_some());
    assert_eq!(holder.begin(LeaseKind::Write, &path("/x/y"), last), None);
    assert_eq!(holder.begin(LeaseKind::Read, &path("/x-y"), last), None);
    assert_eq!(holder.begin(LeaseKind::Read, &path("/x/y"), TERM), None);
    holder.tick(TERM);
    assert_eq!(actions(&mut holder).last(), Some(&ended(request, Ending::Lapsed)));
}

#[test]
fn a_grant_that_comes_after_its_term_or_its_request_is_not_taken() {
    let mut holder = holder();
    let request = acquire(&mut holder, LeaseKind::Read);
    holder.receive(grant(request, None, 2, Duration::ZERO), TERM);
    assert!(matches!(actions(&mut holder)[..], [Action::Send(ToGranter::Ask { .. })]), "it asks on");
    holder.release(request, TERM);
    holder.receive(grant(request, None, 2, TERM), TERM);
    let told = [release(request), ended(request, Ending::Released), release(request)];
    assert_eq!(actions(&mut holder), told);
    assert_eq!(holder.begin(LeaseKind::Read, &path("/x"), TERM), None);
}

#[test]
fn a_grant_for_an_earlier_incarnation_gives_no_right() {
    // The clock of the earlier start stood far ahead.
    let mut holder = Holder::recover(Incarnation(2), vec![record()], IDLE, Duration::ZERO);
    holder.receive(grant(record().request, Some(5), 1, at(100_000)), at(1));
    assert_eq!(holder.begin(LeaseKind::Write, &path("/x"), at(1)), None);
}

#[test]
fn a_recovered_lease_gives_a_right_once_it_is_renewed() {
    let mut holder = Holder::recover(Incarnation(2), vec![record()], IDLE, Duration::ZERO);
    let asked = actions(&mut holder);
    assert!(matches!(asked[..], [Action::Send(ToGranter::Ask { held: Some(Epoch(5)), .. })]));
    assert_eq!(holder.begin(LeaseKind::Write, &path("/x"), Duration::ZERO), None);
    holder.receive(grant(record().request, Some(5), 2, Duration::ZERO), at(1));
    let right = holder.begin(LeaseKind::Write, &path("/x"), at(1)).unwrap();
    assert_eq!(right.epoch, Some(Epoch(5)));
}

#[test]
fn a_newer_epoch_of_a_held_lease_means_that_it_was_abandoned() {
    let (mut holder, request) = writer();
    holder.receive(grant(request, Some(9), 2, Duration::ZERO), at(1));
    let told = [Action::Forget(request), release(request), ended(request, Ending::Abandoned)];
    assert_eq!(actions(&mut holder), told);
    assert_eq!(holder.may_finish(LeaseKind::Write, &path("/x"), at(1)), None);
}

#[test]
fn only_the_word_about_its_own_epoch_ends_a_lease() {
    let (mut holder, request) = writer();
    holder.receive(ToHolder::Ended { request, epoch: Epoch(6) }, at(1));
    holder.receive(ToHolder::Busy { request }, at(1));
    assert!(holder.begin(LeaseKind::Write, &path("/x"), at(1)).is_some());
    holder.receive(ToHolder::Ended { request, epoch: Epoch(7) }, at(1));
    assert_eq!(holder.begin(LeaseKind::Write, &path("/x"), at(1)), None);
}

#[test]
fn a_release_is_told_after_it_was_drained_and_forgotten() {
    let (mut holder, request) = writer();
    holder.receive(ToHolder::Recall { request, kind: LeaseKind::Write }, at(1));
    holder.receive(ToHolder::Recall { request, kind: LeaseKind::Write }, at(1));
    assert_eq!(actions(&mut holder), [Action::Drain(request)]);
    assert_eq!(holder.begin(LeaseKind::Write, &path("/x"), at(1)), None);
    assert!(holder.may_finish(LeaseKind::Write, &path("/x"), at(1)).is_some());
    holder.drained(request, at(2));
    assert_eq!(actions(&mut holder), [Action::Forget(request)]);
    assert_eq!(holder.may_finish(LeaseKind::Write, &path("/x"), at(2)), None);
    holder.receive(grant(request, Some(7), 2, at(2)), at(2));
    assert_eq!(holder.may_finish(LeaseKind::Write, &path("/x"), at(2)), None, "it does not come back");
    holder.forgotten(request, at(3));
    assert_eq!(actions(&mut holder), [release(request), ended(request, Ending::Released)]);
}

#[test]
fn a_recall_that_overtakes_a_grant_waits_for_it() {
    let mut holder = holder();
    let request = acquire(&mut holder, LeaseKind::Write);
    holder.receive(ToHolder::Recall { request, kind: LeaseKind::Write }, Duration::ZERO);
    holder.receive(grant(request, Some(7), 2, Duration::ZERO), Duration::ZERO);
    holder.persisted(request, Epoch(7), Duration::ZERO);
    let told = actions(&mut holder);
    assert!(matches!(told[..], [Action::Persist(_), Action::Granted { .. }, Action::Drain(_)]), "{told:?}");
}

#[test]
fn what_is_not_known_is_released_except_reads_of_earlier_incarnations() {
    let mut holder = holder();
    let earlier = record().request;
    let own = RequestNumber { incarnation: Incarnation(2), number: 99 };
    holder.receive(ToHolder::Recall { request: earlier, kind: LeaseKind::Read }, at(1));
    holder.receive(grant(earlier, None, 1, at(1)), at(1));
    assert_eq!(actions(&mut holder), []);
    holder.receive(ToHolder::Recall { request: earlier, kind: LeaseKind::Write }, at(1));
    holder.receive(ToHolder::Check { request: earlier }, at(1));
    holder.receive(ToHolder::Recall { request: own, kind: LeaseKind::Read }, at(1));
    assert_eq!(actions(&mut holder), [release(earlier), release(earlier), release(own)]);
}

#[test]
fn leases_that_nobody_uses_are_given_back() {
    let (mut holder, request) = writer();
    let mut now = Duration::ZERO;
    while now < IDLE {
        now = holder.next_wake().unwrap();
        holder.tick(now);
        holder.receive(grant(request, Some(7), 2, now), now);
    }
    assert!(actions(&mut holder).contains(&Action::Drain(request)));
    assert!(now < IDLE + TERM);
}

#[test]
fn without_the_coordinator_a_write_lease_stays_but_acknowledges_nothing() {
    let (mut holder, request) = writer();
    holder.tick(TERM * 2);
    assert_eq!(holder.begin(LeaseKind::Write, &path("/x"), TERM * 2), None);
    assert_eq!(holder.holds_writes().next().map(|(held, ..)| held), Some(request));
    holder.receive(grant(request, Some(7), 2, TERM * 2), TERM * 2);
    assert!(holder.begin(LeaseKind::Write, &path("/x"), TERM * 2).is_some());
}
