//! What is owed, over starts of the daemon.

use super::*;
use globalfs_proto::{Attr, NewFile, Owner};

fn path(text: &str) -> GlobalPath {
    GlobalPath::new(text.as_bytes()).unwrap()
}

fn make(at: &str) -> Change {
    let owner = Owner { uid: 0, gid: 0, mode: 0o644 };
    Change::Make { path: path(at), new: NewFile::Regular, owner }
}

fn rename(from: &str, to: &str) -> Change {
    Change::Rename { from: path(from), to: path(to), existing: Existing::Replace }
}

fn apply(holdings: &Holdings, change: &Change) {
    let noted = holdings.note(change, Vec::new()).unwrap();
    noted.expect("it is held").done(&Changed::default());
}

fn owed(holding: &Holding) -> Vec<String> {
    let paths = holding.some_paths(99);
    paths.iter().map(|path| String::from_utf8_lossy(path.as_bytes()).into_owned()).collect()
}

fn due(holding: &Holding) -> Vec<Due> {
    holding.pending.lock().due(99, true, Duration::ZERO)
}

#[test]
fn what_is_owed_outlives_the_daemon_and_what_is_home_does_not() {
    let dir = tempfile::tempdir().unwrap();
    {
        let holdings = Holdings::open(dir.path()).unwrap();
        let holding = holdings.hold(&path("/r/job"), Fence(7)).unwrap();
        apply(&holdings, &make("/r/job/a"));
        apply(&holdings, &make("/r/job/b"));
        assert_eq!(owed(&holding), ["/r/job", "/r/job/a", "/r/job/b"]);
        let a: Vec<Due> = due(&holding).into_iter().filter(|due| due.path == path("/r/job/a")).collect();
        assert_eq!(holdings.settle(&holding, &a).unwrap(), 1);
    }
    let holdings = Holdings::open(dir.path()).unwrap();
    let holding = holdings.at(&path("/r/job/x/y")).unwrap();
    assert_eq!((holding.fence, owed(&holding)), (Fence(7), vec!["/r/job".into(), "/r/job/b".to_owned()]));
    assert!(holding.next_batch() >= 2 << BATCH_BITS, "later than all of the start before");
    assert!(holdings.at(&path("/r/job-2")).is_none() && holdings.at(&path("/r")).is_none());
    holdings.forget(&path("/r/job")).unwrap();
    drop((holding, holdings));
    assert!(Holdings::open(dir.path()).unwrap().all().is_empty());
}

#[test]
fn what_is_under_way_is_never_settled() {
    let dir = tempfile::tempdir().unwrap();
    let holdings = Holdings::open(dir.path()).unwrap();
    let holding = holdings.hold(&path("/r"), Fence(1)).unwrap();
    apply(&holdings, &make("/r/a"));
    let before = due(&holding);
    let noted = holdings.note(&make("/r/a"), Vec::new()).unwrap();
    assert_eq!(holdings.settle(&holding, &before).unwrap(), 0);
    drop(noted);
    assert_eq!(holdings.settle(&holding, &before).unwrap(), 0);
    let now = due(&holding);
    assert_eq!(holdings.settle(&holding, &now).unwrap(), 2);
    assert!(holding.owes_nothing());
}

#[test]
fn a_name_that_was_left_comes_after_the_one_that_was_taken() {
    let dir = tempfile::tempdir().unwrap();
    let holdings = Holdings::open(dir.path()).unwrap();
    let holding = holdings.hold(&path("/r"), Fence(1)).unwrap();
    apply(&holdings, &rename("/r/from", "/r/to"));
    let all = due(&holding);
    let at = |name: &str| all.iter().find(|due| due.path == path(name)).unwrap();
    assert!(at("/r/to").changed < at("/r/from").changed && at("/r/from").changed < at("/r").changed);
    assert!(at("/r/to").whole && !at("/r/from").whole);
    drop((holdings, holding));
    let holdings = Holdings::open(dir.path()).unwrap();
    assert!(due(&holdings.at(&path("/r")).unwrap()).iter().any(|due| due.whole), "also over a start");
}

#[test]
fn names_of_two_subtrees_are_of_two_devices_and_others_are_not_noted() {
    let dir = tempfile::tempdir().unwrap();
    let holdings = Holdings::open(dir.path()).unwrap();
    holdings.hold(&path("/r/a"), Fence(1)).unwrap();
    holdings.hold(&path("/r/b"), Fence(2)).unwrap();
    let note = |from, to| holdings.note(&rename(from, to), Vec::new()).map(|noted| noted.is_some());
    assert_eq!(note("/r/a/x", "/r/b/x"), Err(OTHER_DEVICE));
    assert_eq!(note("/r/a/x", "/r/x"), Err(OTHER_DEVICE));
    assert_eq!(note("/r/x", "/r/y"), Ok(false));
    assert_eq!(note("/r/a/x", "/r/a/y"), Ok(true));
}

#[test]
fn hidden_names_are_the_holders_own() {
    let dir = tempfile::tempdir().unwrap();
    let holdings = Holdings::open(dir.path()).unwrap();
    let holding = holdings.hold(&path("/r"), Fence(1)).unwrap();
    apply(&holdings, &rename("/r/d/a", "/r/d/.globalfs-removed-1"));
    apply(&holdings, &make("/r/.globalfs-x/b"));
    assert_eq!(owed(&holding), ["/r/d", "/r/d/a"]);
    assert!(due(&holding).iter().all(|due| !due.whole));
    apply(&holdings, &rename("/r/d/.globalfs-removed-1", "/r/d/c"));
    assert_eq!(owed(&holding), ["/r/d", "/r/d/a", "/r/d/c"]);
}

#[test]
fn what_was_written_by_a_name_that_goes_is_owed_by_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let holdings = Holdings::open(dir.path()).unwrap();
    let holding = holdings.hold(&path("/r"), Fence(1)).unwrap();
    let file = Attr { nlink: 2, ..crate::testing::some_attr(1) };
    ["/r/a", "/r/b"].iter().for_each(|name| holding.links.lock().see(&path(name), &file));
    let remove = |at: &str| apply(&holdings, &Change::Remove { path: path(at), directory: false });
    remove("/r/a");
    assert_eq!(owed(&holding), ["/r", "/r/a"], "it was home");
    holding.links.lock().see(&path("/r/a"), &file);
    remove("/r/a");
    assert_eq!(owed(&holding), ["/r", "/r/a", "/r/b"]);
}
