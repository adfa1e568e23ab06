//! When files that nodes write to by themselves are looked at, and when they are done.

use super::*;

fn path(text: &str) -> GlobalPath {
    GlobalPath::new(text.as_bytes()).unwrap()
}

fn file(inode: u64) -> FileId {
    FileId { origin: 1, inode }
}

fn version(size: u64) -> Version {
    Version { file: file(1), size, mtime_ns: 2, ctime_ns: 3 }
}

const ZERO: Duration = Duration::ZERO;

fn one() -> DirectFiles<u8> {
    let mut files = DirectFiles::default();
    assert!(files.begin(file(1), &path("/a/b"), 7, Some(version(0)), ZERO));
    files
}

#[test]
fn a_file_stays_until_nobody_writes_to_it() {
    let mut files = one();
    assert!(files.due(ZERO).is_empty() && files.next_due() == Some(SOON));
    let due = files.due(SOON).remove(0);
    assert_eq!((due.file, due.handle), (file(1), 7));
    let looked = files.looked(&due, Some(version(5)), true, SOON).unwrap();
    assert!(looked.has_changed && !looked.has_ended && files.contains(file(1)));
    let looked = files.looked(&due, Some(version(5)), true, SOON).unwrap();
    assert!(!looked.has_changed, "that was seen before");
    let looked = files.looked(&due, Some(version(6)), false, SOON).unwrap();
    assert_eq!(looked, Looked { path: path("/a/b"), has_changed: true, has_ended: true });
    assert!(files.is_empty() && files.looked(&due, None, false, SOON).is_none());
}

#[test]
fn who_begins_while_it_is_looked_for_writers_counts() {
    let mut files = one();
    let due = files.due(SOON).remove(0);
    assert!(!files.begin(file(1), &path("/a/b"), 8, None, SOON));
    assert!(!files.looked(&due, None, false, SOON).unwrap().has_ended);
    let due = files.due(LONGEST * 2).remove(0);
    assert!(files.looked(&due, None, false, SOON).unwrap().has_ended);
}

#[test]
fn what_nobody_tells_of_is_looked_at_more_and_more_rarely_but_always() {
    let mut files = one();
    let (mut now, mut pauses) = (ZERO, Vec::new());
    for _ in 0..8 {
        let next = files.next_due().unwrap();
        pauses.push((next - now).as_millis());
        now = next;
        let due = files.due(now).remove(0);
        files.looked(&due, None, true, now);
    }
    assert_eq!(pauses, [50, 100, 200, 400, 800, 1000, 1000, 1000]);
    files.told(file(1), version(9), now);
    assert_eq!(files.next_due(), Some(now + SOON));
}

#[test]
fn paths_follow_what_is_renamed() {
    let mut files = one();
    files.begin(file(2), &path("/c"), 0, None, ZERO);
    let check = |files: &mut DirectFiles<u8>, from, to, existing, want: &[(&str, &str)]| {
        let moved = files.renamed(&path(from), &path(to), existing);
        let mut moved: Vec<_> =
            moved.iter().map(|(_, from, to)| (from.to_string(), to.to_string())).collect();
        moved.sort();
        let want: Vec<_> = want.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect();
        assert_eq!(moved, want);
    };
    check(&mut files, "/a", "/d", Existing::Replace, &[("/a/b", "/d/b")]);
    check(&mut files, "/d/bb", "/e", Existing::Replace, &[]);
    check(&mut files, "/d/b", "/c", Existing::Exchange, &[("/c", "/d/b"), ("/d/b", "/c")]);
    assert_eq!(files.named_below(&path("/d"), |_| false), Some(path("/d/b")));
    assert_eq!(files.named_below(&path("/d"), |_| true), None);
    assert_eq!(files.below(&path("/d")).len(), 1);
    assert_eq!(files.below(&GlobalPath::root()).len(), 2);
}
