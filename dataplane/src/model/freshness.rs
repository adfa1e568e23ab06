//! Whether the subscription to changes is alive, and which answers a change has overtaken on their way.
//!
//! An answer was true at some moment after its request was sent. A change that is heard after that moment may
//! have happened before or after the answer was made, so what the answer says of the changed name counts for
//! nothing. What it says of other names stands, since their changes would have been heard as well.

use bytes::Bytes;
use globalfs_proto::{Changes, GlobalPath};
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// Changed names remembered while requests are under way; beyond, all of them count as overtaken.
const MAX_REMEMBERED: usize = 4096;

/// One request: its number grows with time, and changes are numbered in the same order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// When it was sent, in the order of all requests and changes.
    pub number: u64,
    /// The subscription that was live when it was sent; 0: none.
    pub subscription: u64,
}

/// The subscription to the upstream's changes.
#[derive(Debug, Default)]
pub struct Subscription {
    /// The present one; 0: none.
    current: u64,
    begun: u64,
    heard_at: Option<Duration>,
}

impl Subscription {
    /// A new one. What was told under an earlier one is watched no more.
    pub fn begin(&mut self) {
        self.begun += 1;
        self.current = self.begun;
        self.heard_at = None;
    }

    /// A sign of life.
    pub fn heard(&mut self, now: Duration) {
        self.heard_at = Some(now);
    }

    /// It has ended.
    pub fn lost(&mut self) {
        self.current = 0;
    }

    /// The present one; 0: none.
    pub fn current(&self) -> u64 {
        self.current
    }

    /// Whether it was heard within `patience`.
    pub fn is_alive(&self, now: Duration, patience: Duration) -> bool {
        self.current != 0 && self.heard_at.is_some_and(|heard| now.saturating_sub(heard) < patience)
    }
}

/// When, and which name of a directory; `None` is all of it.
type Noted = (u64, Option<Bytes>);

/// The requests under way, and what changed meanwhile.
#[derive(Debug, Default)]
pub struct Asks {
    clock: u64,
    open: BTreeSet<u64>,
    /// By directory.
    changed: HashMap<Box<[u8]>, Vec<Noted>>,
    remembered: usize,
    /// Requests up to this one are overtaken whatever they are about.
    everything: u64,
}

impl Asks {
    /// A request is about to be sent under `subscription`.
    pub fn open(&mut self, subscription: u64) -> Ticket {
        self.clock += 1;
        self.open.insert(self.clock);
        Ticket { number: self.clock, subscription }
    }

    /// A number for something that happens now, between the requests.
    pub fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// The request is answered, or never will be.
    pub fn close(&mut self, ticket: Ticket) {
        self.open.remove(&ticket.number);
        if self.open.is_empty() {
            self.changed.clear();
            self.remembered = 0;
        }
    }

    /// Remembers what concerns requests under way.
    pub fn note(&mut self, changes: &Changes) {
        self.clock += 1;
        if self.open.is_empty() {
            return;
        }
        let more: usize = changes.directories.iter().map(|directory| directory.names.len().max(1)).sum();
        if changes.everything || self.remembered + more > MAX_REMEMBERED {
            self.everything = self.clock;
            self.changed.clear();
            self.remembered = 0;
            return;
        }
        self.remembered += more;
        for directory in &changes.directories {
            let noted = self.changed.entry(directory.path.as_bytes().into()).or_default();
            noted.extend(directory.names.iter().map(|name| (self.clock, Some(name.clone()))));
            if directory.names.is_empty() {
                noted.push((self.clock, None));
            }
        }
    }

    /// Remembers a change of the name `path` alone.
    pub fn note_name(&mut self, path: &[u8]) {
        let Some((directory, name)) = split(path) else { return self.note(&Changes::everything()) };
        let at = self.tick();
        if self.open.is_empty() {
            return;
        }
        if self.remembered == MAX_REMEMBERED {
            return self.note(&Changes::everything());
        }
        self.remembered += 1;
        self.changed.entry(directory.into()).or_default().push((at, Some(Bytes::copy_from_slice(name))));
    }

    /// Whether a change has overtaken what `ticket` brings about the path itself: of its name, of all names in its
    /// directory, or of the name of a directory above it, which may have been moved away.
    pub fn is_overtaken(&self, ticket: Ticket, path: &[u8]) -> bool {
        let parent = split(path).map(|(directory, _)| directory);
        if parent.is_some_and(|directory| self.since(ticket, directory).any(Option::is_none)) {
            return true;
        }
        let mut at = path;
        while let Some((directory, name)) = split(at) {
            if self.since(ticket, directory).any(|changed| changed.as_deref() == Some(name)) {
                return true;
            }
            at = directory;
        }
        ticket.number < self.everything
    }

    /// Whether anything has changed in the directory of `path`, or above, since `ticket`.
    pub fn has_changed_in(&self, ticket: Ticket, path: &GlobalPath) -> bool {
        let Some((directory, _)) = split(path.as_bytes()) else { return true };
        self.is_overtaken(ticket, directory) || self.since(ticket, directory).next().is_some()
    }

    /// Whether all of the listing of `directory` is overtaken.
    pub fn is_listing_overtaken(&self, ticket: Ticket, directory: &[u8]) -> bool {
        self.is_overtaken(ticket, directory) || self.since(ticket, directory).any(Option::is_none)
    }

    /// The names in `directory` of which `ticket` tells nothing reliable.
    pub fn overtaken_names(&self, ticket: Ticket, directory: &[u8]) -> BTreeSet<Bytes> {
        self.since(ticket, directory).flatten().cloned().collect()
    }

    fn since(&self, ticket: Ticket, directory: &[u8]) -> impl Iterator<Item = &Option<Bytes>> {
        let noted = self.changed.get(directory).into_iter().flatten();
        noted.filter(move |(at, _)| *at > ticket.number).map(|(_, name)| name)
    }
}

/// The directory and the name of a path; `None` for the root.
pub fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let cut = path.iter().rposition(|&b| b == b'/')?;
    let name = &path[cut + 1..];
    (!name.is_empty()).then_some((if cut == 0 { &path[..1] } else { &path[..cut] }, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use globalfs_proto::ChangedDirectory;

    fn changed(directory: &str, names: &[&str]) -> Changes {
        let path = GlobalPath::new(directory.as_bytes()).unwrap();
        let names = names.iter().map(|name| Bytes::copy_from_slice(name.as_bytes())).collect();
        Changes::of(vec![ChangedDirectory { path, names }])
    }

    #[test]
    fn paths_are_split() {
        assert_eq!(split(b"/"), None);
        assert_eq!(split(b"/a"), Some((&b"/"[..], &b"a"[..])));
        assert_eq!(split(b"/a/b"), Some((&b"/a"[..], &b"b"[..])));
    }

    #[test]
    fn a_change_overtakes_what_was_asked_before_it_and_nothing_else() {
        let mut asks = Asks::default();
        let before = asks.open(1);
        asks.note(&changed("/d", &["x"]));
        let after = asks.open(1);
        assert!(asks.is_overtaken(before, b"/d/x") && asks.is_overtaken(before, b"/d/x/below"));
        assert!(!asks.is_overtaken(before, b"/d/y") && !asks.is_overtaken(before, b"/d"));
        assert!(!asks.is_overtaken(after, b"/d/x"));
        assert!(!asks.is_listing_overtaken(before, b"/d") && asks.is_listing_overtaken(before, b"/d/x"));
        assert_eq!(asks.overtaken_names(before, b"/d"), BTreeSet::from([Bytes::from_static(b"x")]));
        assert!(asks.overtaken_names(after, b"/d").is_empty());
        asks.note(&changed("/d", &[]));
        assert!(asks.is_listing_overtaken(after, b"/d") && asks.is_overtaken(after, b"/d/y"));
        assert!(!asks.is_overtaken(after, b"/d") && !asks.is_listing_overtaken(after, b"/d/sub/below"));
        asks.note(&Changes::everything());
        assert!(asks.is_overtaken(after, b"/z"));
        asks.close(before);
        asks.close(after);
        assert!(asks.changed.is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let mut asks = Asks::default();
        let ticket = asks.open(1);
        for n in 0..=MAX_REMEMBERED {
            asks.note(&changed("/d", &[&n.to_string()]));
        }
        assert!(asks.remembered <= MAX_REMEMBERED);
        assert!(asks.is_overtaken(ticket, b"/elsewhere"), "what was forgotten may have been about it");
    }

    #[test]
    fn a_subscription_is_alive_while_it_is_heard() {
        let (mut subscription, patience) = (Subscription::default(), Duration::from_secs(1));
        let at = |ms| Duration::from_millis(ms);
        subscription.heard(at(0));
        assert!(!subscription.is_alive(at(0), patience));
        subscription.begin();
        assert!(!subscription.is_alive(at(0), patience), "begun and not heard yet");
        subscription.heard(at(10));
        assert!(subscription.is_alive(at(1009), patience) && !subscription.is_alive(at(1010), patience));
        subscription.lost();
        assert!(!subscription.is_alive(at(11), patience));
    }
}
