//! What is due when, and what stays owed.

use super::*;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn path(text: &str) -> GlobalPath {
    GlobalPath::new(text.as_bytes()).unwrap()
}

fn changed(pending: &mut Pending, at: &str, now: Duration) -> bool {
    let is_new = pending.begin(&path(at), now);
    pending.end(&path(at), Some(10), now);
    is_new
}

fn names(due: &[Due]) -> Vec<String> {
    due.iter().map(|due| String::from_utf8_lossy(due.path.as_bytes()).into_owned()).collect()
}

#[test]
fn a_path_is_new_once_and_due_when_it_is_quiet() {
    let mut pending = Pending::default();
    assert!(changed(&mut pending, "/r/a", ms(0)));
    assert!(!changed(&mut pending, "/r/a", ms(60)));
    assert!(pending.due(9, false, ms(120)).is_empty());
    assert_eq!(pending.next_due(ms(120)), Some(ms(160)));
    assert_eq!(names(&pending.due(9, false, ms(160))), ["/r/a"]);
    assert_eq!(names(&pending.due(9, true, ms(60))), ["/r/a"]);
    assert_eq!(pending.debt(), Debt { paths: 1, bytes: 10, oldest: Some(ms(0)) });
}

#[test]
fn what_never_rests_is_due_when_patience_is_over() {
    let mut pending = Pending::default();
    for n in 0..=100 {
        changed(&mut pending, "/r/a", ms(50 * n));
    }
    assert_eq!(pending.due(9, false, PATIENCE).len(), 1);
}

#[test]
fn only_what_did_not_change_meanwhile_is_settled() {
    let mut pending = Pending::default();
    changed(&mut pending, "/r/a", ms(0));
    let due = pending.due(9, true, ms(0)).remove(0);
    pending.begin(&path("/r/a"), ms(1));
    assert!(!pending.settle(&due), "a change is under way");
    pending.end(&path("/r/a"), Some(20), ms(2));
    assert!(!pending.settle(&due), "it has changed");
    assert_eq!(pending.debt().bytes, 20);
    let due = pending.due(9, true, ms(2)).remove(0);
    assert!(pending.settle(&due) && pending.is_empty());
    assert!(!pending.settle(&due));
    assert_eq!(pending.debt(), Debt::default());
}

#[test]
fn what_is_being_changed_is_never_due() {
    let mut pending = Pending::default();
    pending.begin(&path("/r/a"), ms(0));
    assert!(pending.due(9, true, PATIENCE * 2).is_empty());
    assert_eq!(pending.next_due(ms(0)), None);
}

#[test]
fn directories_lead_and_come_along_although_they_are_busy() {
    let mut pending = Pending::default();
    changed(&mut pending, "/r/d/e/f", ms(0));
    changed(&mut pending, "/r/d", ms(0));
    pending.begin(&path("/r/d/e"), ms(0));
    let due = pending.due(1, true, ms(0));
    assert_eq!(names(&due), ["/r/d", "/r/d/e", "/r/d/e/f"]);
    assert!(!pending.settle(&due[1]), "the directory is told again once it rests");
}

#[test]
fn who_was_changed_first_comes_first() {
    let mut pending = Pending::default();
    changed(&mut pending, "/r/b", ms(0));
    changed(&mut pending, "/r/a", ms(1));
    changed(&mut pending, "/r/b", ms(2));
    assert_eq!(names(&pending.due(1, true, ms(2))), ["/r/a"]);
}

#[test]
fn failures_wait_longer_each_time_until_they_are_forgiven() {
    let mut pending = Pending::default();
    changed(&mut pending, "/r/a", ms(0));
    let due = pending.due(9, true, ms(0)).remove(0);
    pending.fail(&due, ms(1000));
    assert_eq!(pending.next_due(ms(1000)), Some(ms(1200)));
    pending.fail(&due, ms(2000));
    assert_eq!(pending.next_due(ms(2000)), Some(ms(2400)));
    (0..20).for_each(|_| pending.fail(&due, ms(3000)));
    assert_eq!(pending.next_due(ms(3000)), Some(ms(3000) + RETRY[1]));
    pending.forgive();
    assert_eq!(pending.next_due(ms(3000)), Some(ms(3000)));
}

fn goes(pending: &mut Pending, due: &Due) -> bool {
    pending.gone(due) && pending.first_present().is_none_or(|first| due.changed < first)
}

#[test]
fn what_is_gone_goes_after_what_was_changed_before() {
    let mut pending = Pending::default();
    changed(&mut pending, "/r/new", ms(0));
    changed(&mut pending, "/r/old", ms(0));
    changed(&mut pending, "/r", ms(0));
    let due = pending.due(9, true, ms(0));
    let at = |name: &str| due.iter().find(|due| due.path == path(name)).unwrap();
    assert!(!goes(&mut pending, at("/r/old")), "the other name is not home yet");
    assert!(pending.settle(at("/r/new")));
    assert!(goes(&mut pending, at("/r/old")), "the directory was changed later");
    changed(&mut pending, "/r/old", ms(1));
    assert!(!goes(&mut pending, at("/r/old")), "it is there again");
}

/// A start adds what is gone last: it is not known what it was changed after.
#[test]
fn what_was_moved_does_not_wait_for_what_is_gone_beneath_it() {
    let mut pending = Pending::default();
    pending.add_whole(&path("/r/to"), ms(0));
    pending.add(&path("/r/to/a"), ms(0));
    let due = pending.due(9, true, ms(0));
    assert!(!goes(&mut pending, &due[1]), "what is above it was changed before");
    assert!(pending.settle(&due[0]) && goes(&mut pending, &due[1]));
    assert!(pending.settle(&due[1]) && pending.is_empty());
}

#[test]
fn what_was_moved_stays_until_all_beneath_it_is_home() {
    let mut pending = Pending::default();
    pending.add_whole(&path("/r/to"), ms(0));
    changed(&mut pending, "/r/from", ms(0));
    let due = pending.due(9, true, ms(0));
    assert_eq!(due.iter().map(|due| due.whole).collect::<Vec<_>>(), [false, true]);
    pending.add(&path("/r/to/a"), ms(0));
    pending.add(&path("/r/to-b"), ms(0));
    assert!(!pending.settle(&due[1]) && !goes(&mut pending, &due[0]));
    let below = pending.due(9, true, ms(0)).into_iter().find(|due| due.path == path("/r/to/a")).unwrap();
    assert!(pending.settle(&below) && pending.settle(&due[1]) && goes(&mut pending, &due[0]));
}

#[test]
fn debts_are_of_subtrees() {
    let mut pending = Pending::default();
    for at in ["/r/a", "/r/a-b", "/r/a/c", "/r/b"] {
        changed(&mut pending, at, ms(5));
    }
    assert_eq!(pending.debt_below(&path("/r/a")), Debt { paths: 2, bytes: 20, oldest: Some(ms(5)) });
    assert_eq!(pending.debt_below(&path("/r")).paths, 4);
}

#[test]
fn what_somebody_waits_for_comes_first_and_alone() {
    let mut pending = Pending::default();
    changed(&mut pending, "/r", ms(0));
    changed(&mut pending, "/r/a", ms(0));
    changed(&mut pending, "/r/b", ms(1));
    let moment = pending.want_home(&path("/r/b")).unwrap();
    assert_eq!(pending.want_home(&path("/r/c")), None);
    assert_eq!(pending.next_due(ms(1)), Some(ms(1)), "although it was changed just now");
    let due = pending.due(9, false, ms(500));
    assert_eq!(names(&due), ["/r", "/r/b"], "with the directory that it lies in");
    assert!(!pending.is_home(&path("/r/b"), moment));
    assert!(pending.settle(&due[1]) && pending.is_home(&path("/r/b"), moment));
    assert_eq!(names(&pending.due(9, false, ms(500))), ["/r", "/r/a"]);
}

#[test]
fn who_waits_does_not_wait_for_what_is_changed_later() {
    let mut pending = Pending::default();
    changed(&mut pending, "/r/a", ms(0));
    let moment = pending.want_home(&path("/r/a")).unwrap();
    let due = pending.due(9, false, ms(0)).remove(0);
    changed(&mut pending, "/r/a", ms(1));
    assert!(!pending.settle(&due), "it stays owed");
    assert!(pending.is_home(&path("/r/a"), moment));
    assert!(pending.due(9, false, ms(2)).is_empty(), "nobody waits any more");
    let later = pending.want_home(&path("/r/a")).unwrap();
    assert!(!pending.is_home(&path("/r/a"), later));
}

#[test]
fn others_are_patient_with_what_somebody_waits_for_but_not_for_ever() {
    let mut pending = Pending::default();
    changed(&mut pending, "/r/a", ms(0));
    changed(&mut pending, "/r/b", ms(1));
    pending.want_home(&path("/r/b"));
    assert_eq!(names(&pending.due(9, false, PATIENCE - ms(1))), ["/r/b"]);
    assert_eq!(names(&pending.due(9, false, PATIENCE)), ["/r/a", "/r/b"]);
}

#[test]
fn names_and_what_was_moved_are_found() {
    let mut pending = Pending::default();
    for at in ["/r/d/a", "/r/d/a/b", "/r/d-e", "/r/d"] {
        changed(&mut pending, at, ms(0));
    }
    assert_eq!(pending.names_in(&path("/r/d")), [path("/r/d/a")]);
    pending.add_whole(&path("/r/d"), ms(0));
    assert!(pending.was_moved(&path("/r/d/x/y")) && !pending.was_moved(&path("/r/d")));
}

#[test]
fn what_is_open_elsewhere_comes_home_each_time_it_is_told_and_stays_until_it_is_closed() {
    let mut pending = Pending::default();
    assert!(pending.open(&path("/r/log"), ms(0)));
    let due = pending.due(9, true, ms(1)).remove(0);
    assert!(!pending.settle(&due), "it may be written to at any moment");
    assert!(pending.due(9, true, ms(1000)).is_empty() && pending.next_due(ms(1000)).is_none());
    changed(&mut pending, "/r/gone", ms(1));
    let gone = pending.due(9, true, ms(2)).remove(0);
    assert!(pending.gone(&gone));
    assert_eq!(pending.first_present(), None, "what is gone need not wait until it is closed");
    assert!(pending.settle(&gone));
    pending.add(&path("/r/log"), ms(2000));
    assert_eq!(names(&pending.due(9, false, ms(2100))), ["/r/log"]);
    let due = pending.due(9, true, ms(2100)).remove(0);
    pending.close(&path("/r/log"), ms(2101));
    assert!(!pending.settle(&due), "it may have been written to until then");
    let due = pending.due(9, true, ms(2102)).remove(0);
    assert!(pending.settle(&due) && pending.is_empty());
}
