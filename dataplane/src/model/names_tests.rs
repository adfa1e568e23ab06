//! Names against a world that changes while questions, answers and changes are on their way.

use super::*;
use crate::testing::some_attr;
use globalfs_proto::{ChangedDirectory, Lasting};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::VecDeque;
use std::sync::Arc;

const TTL: Duration = Duration::from_millis(100);
const BUDGET: u64 = 1 << 20;

pub(super) fn path(text: &str) -> GlobalPath {
    GlobalPath::new(text.as_bytes()).unwrap()
}

pub(super) fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn directory_attr(n: u64) -> Attr {
    Attr { kind: FileKind::Directory, ..some_attr(n) }
}

pub(super) fn listing(entries: &[(&str, Attr)], watched: bool) -> Listing {
    let entry = |(name, attr): &(&str, Attr)| DirEntry::new(Bytes::from((*name).to_owned()), *attr);
    Listing { attr: directory_attr(1), entries: entries.iter().map(entry).collect(), complete: true, watched }
}

fn changed(directory: &str, names: &[&str]) -> Changes {
    let names = names.iter().map(|name| Bytes::from((*name).to_owned())).collect();
    Changes::of(vec![ChangedDirectory { path: path(directory), names }])
}

/// With a subscription that was heard.
pub(super) fn watching() -> Names {
    let mut names = Names::new(TTL, BUDGET);
    names.subscribed();
    names.heard(&Changes::default(), at(0));
    names
}

pub(super) fn learn(names: &mut Names, directory: &str, listing: Listing, now: Duration) {
    let ticket = names.ask();
    names.learn_directory(ticket, &path(directory), Some(listing), now);
    names.close(ticket);
}

pub(super) fn known(names: &mut Names, text: &str, now: Duration) -> Option<Option<u64>> {
    match names.stat(&path(text), now) {
        Answer::Known(attr) => Some(attr.map(|attr| attr.size)),
        Answer::Ask(_) => None,
    }
}

#[test]
fn an_own_change_overtakes_what_is_under_way() {
    let mut names = watching();
    let old = listing(&[("f", some_attr(5)), ("g", some_attr(6))], true);
    learn(&mut names, "/d", old.clone(), at(0));
    let (late_listing, late_name, own) = (names.ask(), names.ask(), names.ask());
    names.change_done(own, &path("/d/f"), (Some(some_attr(7)), Parent::Changed(None)), at(1));
    assert_eq!(known(&mut names, "/d/f", at(1)), Some(Some(7)), "what came of it counts");
    names.learn(late_name, &path("/d/f"), Some(some_attr(5)), at(2));
    names.learn_directory(late_listing, &path("/d"), Some(old), at(2));
    assert_eq!(known(&mut names, "/d/f", at(2)), Some(Some(7)));
    assert_eq!(known(&mut names, "/d/g", at(2)), Some(Some(6)));
    assert!(names.edition(&path("/d"), at(2)).is_none(), "the listing is not whole");
    let own = names.ask();
    names.heard(&changed("/d", &["g"]), at(3));
    names.change_done(own, &path("/d/g"), (Some(some_attr(8)), Parent::Changed(None)), at(3));
    assert_eq!(known(&mut names, "/d/g", at(3)), None, "others have changed it meanwhile");
    let (late, own) = (names.ask(), names.ask());
    names.change_done(own, &path("/d/f"), (None, Parent::Changed(None)), at(4));
    names.learn(late, &path("/d/f"), Some(some_attr(7)), at(5));
    assert_eq!(known(&mut names, "/d/f", at(5)), None, "it may be gone");
}

#[test]
fn what_is_watched_counts_as_long_as_the_subscription_is_heard() {
    let mut names = watching();
    learn(&mut names, "/d", listing(&[("f", some_attr(5))], true), at(0));
    learn(&mut names, "/u", listing(&[("f", some_attr(6))], false), at(0));
    for ms in (50..2_000).step_by(50) {
        names.heard(&Changes::default(), at(ms));
        assert_eq!(known(&mut names, "/d/f", at(ms)), Some(Some(5)));
        assert_eq!(known(&mut names, "/d/none", at(ms)), Some(None), "absence is an answer");
        assert_eq!(known(&mut names, "/u/f", at(ms)), (ms < 100).then_some(Some(6)), "{ms}");
    }
    assert_eq!(known(&mut names, "/d/f", at(2_049)), Some(Some(5)));
    assert_eq!(known(&mut names, "/d/f", at(2_050)), None, "silence");
    names.heard(&Changes::default(), at(2_100));
    assert_eq!(known(&mut names, "/d/f", at(2_100)), Some(Some(5)), "it was late, nothing was lost");
    assert_eq!(names.stat_watched(&path("/d/f"), at(2_100)).unwrap().unwrap().size, 5);
    assert_eq!(names.stat_watched(&path("/u/f"), at(2_100)), None);
    let late = MAX_WATCHED_AGE;
    names.heard(&Changes::default(), late);
    assert_eq!(known(&mut names, "/d/f", late), None, "not for ever");
}

#[test]
fn what_was_told_under_an_earlier_subscription_is_watched_no_more() {
    let mut names = watching();
    learn(&mut names, "/d", listing(&[("f", some_attr(5))], true), at(0));
    names.lost();
    assert_eq!(known(&mut names, "/d/f", at(99)), Some(Some(5)), "young");
    names.subscribed();
    names.heard(&Changes::default(), at(100));
    assert_eq!(known(&mut names, "/d/f", at(100)), None);
    let ticket = names.ask();
    names.lost();
    names.subscribed();
    names.heard(&Changes::default(), at(110));
    names.learn_directory(ticket, &path("/d"), Some(listing(&[("f", some_attr(5))], true)), at(110));
    names.heard(&Changes::default(), at(250));
    assert_eq!(known(&mut names, "/d/f", at(250)), None, "asked under the earlier one");
}

#[test]
fn what_a_watch_does_not_see_grows_old() {
    let mut names = watching();
    let entries =
        [("one", some_attr(1)), ("two", Attr { nlink: 2, ..some_attr(2) }), ("dir", directory_attr(3))];
    learn(&mut names, "/d", listing(&entries, true), at(0));
    assert_eq!(names.list(&path("/d"), at(0)).unwrap().len(), 3);
    names.heard(&Changes::default(), at(100));
    assert_eq!(known(&mut names, "/d/one", at(100)), Some(Some(1)));
    assert_eq!(known(&mut names, "/d/two", at(100)), None, "it may change by its other name");
    assert_eq!(known(&mut names, "/d/dir", at(100)), None, "what happens in it is not told");
    assert_eq!(names.list(&path("/d"), at(100)), None);
    assert!(names.known_listing(&path("/d"), at(100)).is_some());
    let ticket = names.ask();
    names.learn(ticket, &path("/d/two"), Some(Attr { nlink: 2, ..some_attr(22) }), at(100));
    names.close(ticket);
    learn(&mut names, "/d/dir", Listing { attr: directory_attr(33), ..listing(&[], true) }, at(100));
    assert_eq!(known(&mut names, "/d/dir", at(100)), Some(Some(33)), "by its own listing");
}

#[test]
fn a_change_made_here_is_seen_under_all_names_at_once() {
    let mut names = watching();
    let two = |size| Attr { nlink: 2, ..some_attr(size) };
    let entries = [("d", directory_attr(3)), ("a", two(7)), ("b", two(7)), ("c", two(8))];
    learn(&mut names, "/", listing(&entries, true), at(0));
    learn(&mut names, "/d", Listing { attr: directory_attr(3), ..listing(&[], true) }, at(0));
    names.forget(&path("/d/new"));
    assert_eq!(known(&mut names, "/d", at(0)), None, "not as an entry either");
    assert_eq!(names.list(&path("/"), at(0)), None);
    let (ticket, newer) = (names.ask(), Attr { size: 9, ..directory_attr(3) });
    names.learn(ticket, &path("/d"), Some(newer), at(0));
    names.close(ticket);
    assert_eq!(known(&mut names, "/d", at(0)), Some(Some(9)), "asked later");
    names.heard(&changed("/", &["a"]), at(0));
    assert_eq!(known(&mut names, "/b", at(0)), None, "it may have lost a link");
    assert_eq!(known(&mut names, "/c", at(0)), Some(Some(8)));
}

#[test]
fn a_change_made_here_overtakes_what_is_on_its_way() {
    let mut names = watching();
    let (change, before) = (names.ask(), names.ask());
    names.change_done(change, &path("/d/f"), (Some(some_attr(2)), Parent::Changed(None)), at(0));
    assert!(names.is_overtaken(before, &path("/d/f")) && !names.is_overtaken(before, &path("/d/g")));
    names.learn(before, &path("/d/f"), None, at(0));
    names.learn_directory(before, &path("/d"), Some(listing(&[("g", some_attr(3))], true)), at(0));
    assert_eq!(known(&mut names, "/d/f", at(0)), Some(Some(2)), "what was told of the change");
    assert_eq!(known(&mut names, "/d/g", at(0)), Some(Some(3)));
    names.change_done(change, &path("/d/f"), (Some(some_attr(4)), Parent::Changed(None)), at(0));
    assert_eq!(
        known(&mut names, "/d/f", at(0)),
        None,
        "of two changes that met nobody knows which was the last"
    );
    names.close(before);
    names.close(change);
    let (change, before) = (names.ask(), names.ask());
    names.change_done(change, &path("/d/g"), (None, Parent::Changed(None)), at(0));
    names.learn_directory(before, &path("/d"), Some(listing(&[("g", some_attr(3))], true)), at(0));
    assert_eq!(known(&mut names, "/d/g", at(0)), None);
    let linked = Attr { nlink: 2, ..some_attr(5) };
    names.change_done(change, &path("/e"), (Some(linked), Parent::Same), at(0));
    assert_eq!(known(&mut names, "/e", at(0)), None, "its other name may be the next to change");
}

#[test]
fn a_directory_is_forgotten_when_more_has_changed_than_it_had() {
    let mut names = watching();
    let all: Vec<String> = (0..200).map(|n| format!("old-{n}")).collect();
    let entries: Vec<_> = all.iter().map(|name| (&name[..], some_attr(1))).collect();
    learn(&mut names, "/d", listing(&entries, true), at(0));
    let change = |names: &mut Names, n: usize| names.heard(&changed("/d", &[&format!("new-{n}")]), at(0));
    (0..200).for_each(|n| change(&mut names, n));
    assert_eq!(known(&mut names, "/d/old-7", at(0)), Some(Some(1)));
    assert_eq!(known(&mut names, "/d/missing", at(0)), Some(None));
    change(&mut names, 200);
    assert_eq!(known(&mut names, "/d/old-7", at(0)), None);
}

#[test]
fn what_is_told_lasts_as_long_as_its_watch_sees_it() {
    let mut names = watching();
    let two = Attr { nlink: 2, ..some_attr(2) };
    let entries = [("one", some_attr(1)), ("two", two), ("dir", directory_attr(3))];
    learn(&mut names, "/d", listing(&entries, true), at(0));
    learn(&mut names, "/u", listing(&entries, false), at(0));
    names.heard(&Changes::default(), at(10));
    let (left, none) = (MAX_WATCHED_AGE - at(10), Duration::ZERO);
    let lasting = |names: &Names, text: &str, attr: &Attr, ms: u64| {
        let Lasting { name, attr } = names.lasting(&path(text), attr, at(ms));
        (name, attr)
    };
    assert_eq!(lasting(&names, "/d/one", &some_attr(1), 10), (left, left));
    assert_eq!(lasting(&names, "/d/one", &some_attr(9), 10), (none, none), "another file");
    let resized = Attr { size: 77, ..some_attr(1) };
    assert_eq!(lasting(&names, "/d/one", &resized, 10), (left, none), "other attributes");
    assert_eq!(lasting(&names, "/d/two", &two, 10), (left, none), "it may change by its other name");
    assert_eq!(
        lasting(&names, "/d/dir", &directory_attr(3), 10),
        (left, none),
        "what happens in it is not told"
    );
    assert_eq!(lasting(&names, "/u/one", &some_attr(1), 10), (none, none));
    learn(&mut names, "/d/dir", Listing { attr: directory_attr(3), ..listing(&[], true) }, at(10));
    assert_eq!(
        lasting(&names, "/d/dir", &directory_attr(3), 10),
        (left, MAX_WATCHED_AGE),
        "but by its own watch"
    );
    names.heard(&changed("/d", &["one"]), at(20));
    assert_eq!(lasting(&names, "/d/one", &some_attr(1), 20), (none, none));
    assert_eq!(lasting(&names, "/d/two", &two, 20), (MAX_WATCHED_AGE - at(20), none));
    assert_eq!(lasting(&names, "/d/two", &two, 120), (none, none), "silence");
    names.lost();
    assert_eq!(lasting(&names, "/d/two", &two, 20), (none, none));
}

#[test]
fn other_names_are_another_edition() {
    let mut names = watching();
    let number = |names: &Names, text: &str| names.edition(&path(text), at(10)).map(|edition| edition.number);
    assert_eq!(number(&names, "/d"), None);
    learn(&mut names, "/d", listing(&[("f", some_attr(1))], true), at(0));
    learn(&mut names, "/u", listing(&[("f", some_attr(1))], false), at(0));
    learn(&mut names, "/part", Listing { complete: false, ..listing(&[], true) }, at(0));
    let first = number(&names, "/d").unwrap();
    assert_eq!((number(&names, "/u"), number(&names, "/part")), (None, None));
    names.heard(&changed("/e", &["f"]), at(5));
    assert_eq!(number(&names, "/d"), Some(first), "it was another directory");
    names.heard(&changed("/d", &["new"]), at(5));
    assert_eq!(number(&names, "/d"), None);
    learn(&mut names, "/d", listing(&[("f", some_attr(1)), ("new", some_attr(2))], true), at(6));
    assert!(number(&names, "/d").is_some_and(|second| second > first));
    names.heard(&changed("/d", &[]), at(7));
    assert_eq!(number(&names, "/d"), None);
}

fn link(name: &str, n: u64, target: &str) -> DirEntry {
    let attr = Attr { kind: FileKind::Symlink, nlink: 2, ..some_attr(n) };
    let target = Some(target.as_bytes().into());
    DirEntry { target, ..DirEntry::new(Bytes::from(name.to_owned()), attr) }
}

#[test]
fn a_target_belongs_to_the_link_that_was_listed() {
    let mut names = watching();
    let entries: Arc<[DirEntry]> = ["one", "two"].map(|name| link(name, 1, "there")).into();
    learn(&mut names, "/d", Listing { entries, ..listing(&[], true) }, at(0));
    let target = |names: &mut Names, name: &str, ms| names.target(&path(name), at(ms));
    assert_eq!(target(&mut names, "/d/one", 0).unwrap(), "there");
    assert_eq!(target(&mut names, "/d/none", 0), None);
    assert_eq!(names.known(&path("/d/none"), at(0)), None);
    names.heard(&Changes::default(), at(100));
    assert_eq!(target(&mut names, "/d/one", 100), None, "it has another name, by which it may have changed");
    let same = Attr { no_xattrs: true, ..link("one", 1, "").attr };
    for (name, attr) in [("/d/one", same), ("/d/two", link("two", 2, "").attr)] {
        let ticket = names.ask();
        names.learn(ticket, &path(name), Some(attr), at(100));
        names.close(ticket);
    }
    assert_eq!(target(&mut names, "/d/one", 100).unwrap(), "there", "it is the same link");
    assert!(names.known(&path("/d/one"), at(100)).unwrap().no_xattrs, "the newest answer counts");
    assert_eq!(target(&mut names, "/d/two", 100), None, "another link took its place");
}

#[test]
fn a_change_makes_only_its_name_unknown() {
    let mut names = watching();
    learn(&mut names, "/", listing(&[("d", directory_attr(1))], true), at(0));
    learn(&mut names, "/d", listing(&[("a", some_attr(1)), ("b", directory_attr(2))], true), at(0));
    learn(&mut names, "/d/b", listing(&[("c", some_attr(3))], true), at(0));
    names.heard(&changed("/d", &["a", "new"]), at(1));
    assert_eq!(known(&mut names, "/d/a", at(1)), None);
    assert_eq!(names.stat(&path("/d/new"), at(1)), Answer::Ask(Ask::Name));
    assert_eq!(known(&mut names, "/d/b/c", at(1)), Some(Some(3)));
    assert_eq!(known(&mut names, "/d/none", at(1)), Some(None));
    assert_eq!(names.list(&path("/d"), at(1)), None);
    names.heard(&changed("/", &["d"]), at(2));
    for gone in ["/d", "/d/b", "/d/b/c", "/d/none"] {
        assert_eq!(known(&mut names, gone, at(2)), None, "{gone} was moved away, perhaps");
    }
    assert_eq!(known(&mut names, "/x", at(2)), Some(None));
    names.heard(&Changes::everything(), at(3));
    assert_eq!((known(&mut names, "/x", at(3)), names.used_bytes()), (None, 0));
}

#[test]
fn a_directory_that_has_grown_old_is_asked_for_when_several_names_are_wanted() {
    let mut names = Names::new(TTL, BUDGET);
    assert_eq!(names.stat(&path("/d/a"), at(0)), Answer::Ask(Ask::Surroundings));
    learn(&mut names, "/d", listing(&[("a", some_attr(1)), ("b", some_attr(2))], false), at(0));
    assert_eq!(names.stat(&path("/d/a"), at(100)), Answer::Ask(Ask::Name));
    assert_eq!(names.stat(&path("/d/b"), at(100)), Answer::Ask(Ask::Parent));
    let ticket = names.ask();
    names.learn_directory(ticket, &path("/large"), None, at(100));
    names.close(ticket);
    assert_eq!(names.stat(&path("/large/x"), at(100)), Answer::Ask(Ask::Name), "it is left out anyway");
    assert_eq!(names.stat(&path("/large/x"), at(200)), Answer::Ask(Ask::Surroundings));
    let mut nothing = Names::new(Duration::ZERO, BUDGET);
    learn(&mut nothing, "/d", listing(&[("a", some_attr(1))], true), at(0));
    assert_eq!(nothing.stat(&path("/d/a"), at(0)), Answer::Ask(Ask::Name), "nothing is kept");
}

#[test]
fn memory_stays_within_its_budget_and_keeps_what_is_used() {
    let mut names = Names::new(Duration::from_secs(1), 100_000);
    for n in 0..2_000 {
        learn(&mut names, &format!("/d{n}"), listing(&[("f", some_attr(n))], false), at(0));
        assert_eq!(known(&mut names, &format!("/d{n}/f"), at(0)), Some(Some(n)));
        assert!(known(&mut names, "/d0/f", at(0)).is_some(), "used all the time, after {n}");
        assert!(names.used_bytes() <= 100_000);
    }
    let huge: Vec<_> = (0..2_000).map(|n| (["name-", &n.to_string()].concat(), some_attr(n))).collect();
    let huge: Vec<_> = huge.iter().map(|(name, attr)| (name.as_str(), *attr)).collect();
    learn(&mut names, "/huge", listing(&huge, false), at(0));
    assert_eq!(known(&mut names, "/huge/name-1", at(0)), None);
    assert!(known(&mut names, "/d0/f", at(0)).is_some(), "what is too large drives out nothing");
}

/// What is on its way from the master: answers and changes come each in their order, but not in one.
enum Message {
    Name(Ticket, GlobalPath, Option<Attr>),
    Directory(Ticket, GlobalPath, Listing),
}

/// A master whose files change, and a hop that asks it, with messages in between.
struct World {
    random: SmallRng,
    files: BTreeMap<String, u64>,
    /// Every content that each file ever had, with the moment from which it counts.
    history: BTreeMap<String, Vec<(u64, Option<u64>)>>,
    requests: VecDeque<(Ticket, GlobalPath, bool)>,
    answers: Vec<Message>,
    changes: VecDeque<(u64, Changes)>,
    names: Names,
    now: u64,
    /// The moment of the latest change that has reached the hop.
    heard: u64,
    clock: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let names = Names::new(at(1_000_000), BUDGET);
        let mut world = Self {
            random: SmallRng::seed_from_u64(seed),
            files: BTreeMap::new(),
            history: BTreeMap::new(),
            requests: VecDeque::new(),
            answers: Vec::new(),
            changes: VecDeque::new(),
            names,
            now: 0,
            heard: 0,
            clock: 0,
        };
        world.names.subscribed();
        world.names.heard(&Changes::default(), at(0));
        world
    }

    fn pick(&mut self, below: usize) -> usize {
        self.random.random_range(0..below)
    }

    fn any_file(&mut self) -> String {
        format!("/d{}/f{}", self.pick(2), self.pick(4))
    }

    fn change(&mut self) {
        let file = self.any_file();
        self.clock += 1;
        let content = (self.pick(3) > 0).then_some(self.clock);
        match content {
            Some(n) => drop(self.files.insert(file.clone(), n)),
            None => drop(self.files.remove(&file)),
        }
        self.history.entry(file.clone()).or_default().push((self.clock, content));
        let (directory, name) = file.rsplit_once('/').unwrap();
        let told = match self.pick(12) {
            0 => Changes::everything(),
            1 => changed(directory, &[]),
            _ => changed(directory, &[name]),
        };
        self.changes.push_back((self.clock, told));
    }

    fn ask(&mut self) {
        let (whole, file) = (self.pick(2) == 0, self.any_file());
        let asked = if whole { file.rsplit_once('/').unwrap().0.to_owned() } else { file };
        let ticket = self.names.ask();
        self.requests.push_back((ticket, path(&asked), whole));
    }

    /// The master looks, and answers.
    fn answer(&mut self) {
        let Some((ticket, asked, whole)) = self.requests.pop_front() else { return };
        let text = asked.to_string();
        self.answers.push(if whole {
            let inside = self.files.iter().filter_map(|(file, n)| {
                let (directory, name) = file.rsplit_once('/')?;
                (directory == text).then_some((name, some_attr(*n)))
            });
            let entries: Vec<_> = inside.collect();
            Message::Directory(ticket, asked, listing(&entries, true))
        } else {
            Message::Name(ticket, asked, self.files.get(&text).map(|n| some_attr(*n)))
        });
    }

    fn deliver_answer(&mut self) {
        if self.answers.is_empty() {
            return;
        }
        let which = self.pick(self.answers.len());
        let ticket = match self.answers.swap_remove(which) {
            Message::Name(ticket, path, attr) => {
                self.names.learn(ticket, &path, attr, at(self.now));
                ticket
            }
            Message::Directory(ticket, path, listing) => {
                self.names.learn_directory(ticket, &path, Some(listing), at(self.now));
                ticket
            }
        };
        self.names.close(ticket);
    }

    fn deliver_change(&mut self) {
        if let Some((moment, changes)) = self.changes.pop_front() {
            self.names.heard(&changes, at(self.now));
            self.heard = moment;
        }
    }

    /// What the hop answers was true at the latest change that it heard, or at a later moment.
    fn check(&mut self, seed: u64) -> bool {
        let file = self.any_file();
        let Answer::Known(attr) = self.names.stat(&path(&file), at(self.now)) else { return false };
        let told = attr.map(|attr| attr.size);
        let history = self.history.get(&file).map_or(&[][..], Vec::as_slice);
        let before = history.iter().rev().find(|(moment, _)| *moment <= self.heard);
        let later = history.iter().filter(|(moment, _)| *moment > self.heard);
        let possible: Vec<_> =
            later.map(|(_, content)| *content).chain([before.and_then(|(_, content)| *content)]).collect();
        assert!(
            possible.contains(&told),
            "seed {seed}: {file} is {told:?}, heard {}: {history:?}",
            self.heard
        );
        true
    }

    fn step(&mut self) {
        match self.pick(10) {
            0 | 1 => self.change(),
            2 | 3 => self.ask(),
            4 | 5 => self.answer(),
            6 | 7 => self.deliver_answer(),
            _ => self.deliver_change(),
        }
    }
}

/// An answer that was given is never older than the changes that were heard, whatever overtakes what.
#[test]
fn no_interleaving_gives_an_answer_that_a_change_has_overtaken() {
    let mut checked = 0;
    for seed in 0..3_000 {
        let mut world = World::new(seed);
        for _ in 0..60 {
            world.step();
            checked += usize::from(world.check(seed));
        }
    }
    assert!(checked > 10_000, "{checked} answers were checked");
}
