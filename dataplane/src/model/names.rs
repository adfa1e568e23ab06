//! What is known of names, and for how long it counts: answers about single names and whole directories.
//!
//! An answer counts while it is younger than the time to live. If its directory is watched and the subscription
//! is alive it counts until a change is heard, at the longest for [`MAX_WATCHED_AGE`]. What a directory's watch
//! does not see goes by the time to live alone: files with several links, which may change by a name elsewhere,
//! and directories as entries of another one. The attributes that came with a directory's own listing are seen.
//! What is known to have changed of such files when a name changes counts at once no more (`outdated.rs`).
//!
//! *Invariants:* of two answers that count the one asked for later is given; what a change that was heard has
//! overtaken is never given; memory stays within its budget.

mod bounds;
mod changed;
mod lasting;
mod outdated;

pub use bounds::{Bounds, Told};
pub use changed::Parent;

use super::directory::{Directory, Origin, is_seen};
use super::freshness::{Asks, Subscription, Ticket, split};
use crate::source::Listing;
use bytes::Bytes;
use globalfs_proto::limits::MAX_ENTRIES_UNASKED;
use globalfs_proto::{Attr, Changes, DirEntry, FileKind, GlobalPath};
use outdated::Outdated;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

/// How long an answer counts at most, however well it is watched: what no watch sees, such as a write through
/// a mapping that stays open, is found after this time.
pub const MAX_WATCHED_AGE: Duration = Duration::from_secs(60);

/// Bytes that one path takes besides its own and those of its listing.
const SLOT_OVERHEAD: usize = 320;

/// How many uses may pass before a slot that is used again counts as recent again.
const RECENCY_GRAIN: u64 = 64;

/// What is known, by path.
pub struct Names {
    ttl: Duration,
    bounds: Bounds,
    budget: usize,
    used: usize,
    /// In the order of their paths, so that what is below a directory lies together.
    slots: BTreeMap<Box<[u8]>, Slot>,
    recency: BTreeMap<u64, Box<[u8]>>,
    uses: u64,
    subscription: Subscription,
    asks: Asks,
    outdated: Outdated,
}

#[derive(Default)]
struct Slot {
    own: Option<Own>,
    directory: Option<Directory>,
    used: u64,
}

/// An answer about one name.
struct Own {
    attr: Option<Attr>,
    origin: Origin,
}

/// What is known of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Its attributes, or that it does not exist.
    Known(Option<Attr>),
    /// Nothing that counts; what to ask.
    Ask(Ask),
}

/// What to ask when a name is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// The name alone: its surroundings are known, or too large.
    Name,
    /// The directory that holds it: it was known and several of its names are wanted again.
    Parent,
    /// The name with all that is likely to be asked next.
    Surroundings,
}

impl Names {
    /// Nothing known. Answers count for `ttl`; with zero nothing is kept.
    pub fn new(ttl: Duration, budget_bytes: u64) -> Self {
        Self {
            ttl,
            bounds: Arc::new(|_, _| None),
            budget: usize::try_from(budget_bytes).unwrap_or(usize::MAX),
            used: 0,
            slots: BTreeMap::new(),
            recency: BTreeMap::new(),
            uses: 0,
            subscription: Subscription::default(),
            asks: Asks::default(),
            outdated: Outdated::default(),
        }
    }

    /// A request is about to be sent. It must be closed.
    pub fn ask(&mut self) -> Ticket {
        self.asks.open(self.subscription.current())
    }

    /// The request brings nothing more.
    pub fn close(&mut self, ticket: Ticket) {
        self.asks.close(ticket);
    }

    /// A subscription begins with the next request.
    pub fn subscribed(&mut self) {
        self.subscription.begin();
    }

    /// The subscription gave a sign of life, perhaps with changes.
    pub fn heard(&mut self, changes: &Changes, now: Duration) {
        self.subscription.heard(now);
        if !changes.is_empty() {
            self.changed(changes);
        }
    }

    /// The subscription has ended: all that is known counts by the time to live alone.
    pub fn lost(&mut self) {
        self.subscription.lost();
    }

    /// Whether changes are heard.
    pub fn is_alive(&self, now: Duration) -> bool {
        self.subscription.is_alive(now, self.ttl)
    }

    /// Bytes in use.
    pub fn used_bytes(&self) -> usize {
        self.used
    }

    /// What is known of `path`, as fresh as the time to live promises.
    pub fn stat(&mut self, path: &GlobalPath, now: Duration) -> Answer {
        if let Some(known) = self.find(path.as_bytes(), now, false) {
            return Answer::Known(known);
        }
        Answer::Ask(self.plan(path.as_bytes(), now))
    }

    /// What is known of `path` because its changes are heard.
    pub fn stat_watched(&mut self, path: &GlobalPath, now: Duration) -> Option<Option<Attr>> {
        self.find(path.as_bytes(), now, true)
    }

    /// The attributes of `path` if they are known and count. Plans nothing.
    pub fn known(&mut self, path: &GlobalPath, now: Duration) -> Option<Attr> {
        self.find(path.as_bytes(), now, false)?
    }

    /// Where the link `path` points, if that was told along with its directory and it still is that link.
    pub fn target(&mut self, path: &GlobalPath, now: Duration) -> Option<Bytes> {
        let attr = self.known(path, now)?;
        let (directory, name) = split(path.as_bytes())?;
        let entry = self.slots.get(directory)?.directory.as_ref()?.entry(name)??;
        let target = entry.target.as_deref().filter(|_| entry.attr.version() == attr.version())?;
        Some(Bytes::copy_from_slice(target))
    }

    /// The listing of `path`, if it is known in all its names.
    pub fn list(&mut self, path: &GlobalPath, now: Duration) -> Option<Listing> {
        let known = self.slots.get(path.as_bytes())?.directory.as_ref()?;
        let listing = known.listing.as_ref().filter(|_| known.changed.is_empty())?;
        if self.is_watched(known.origin, now) {
            let mut listing = Listing { watched: true, ..listing.clone() };
            if !self.is_young(known.origin, now) || self.is_partly_outdated(known) {
                self.renew(path.as_bytes(), &mut listing, now)?;
            }
            self.touch(path.as_bytes());
            return Some(listing);
        }
        if !self.is_young(known.origin, now) {
            return None;
        }
        let mut listing = Listing { watched: false, ..listing.clone() };
        if self.is_partly_outdated(known) {
            self.renew(path.as_bytes(), &mut listing, now)?;
        }
        self.touch(path.as_bytes());
        Some(listing)
    }

    /// The listing of `path` if it is known at all and counts, perhaps with names that have changed since.
    pub fn known_listing(&self, path: &GlobalPath, now: Duration) -> Option<Listing> {
        let known = self.slots.get(path.as_bytes())?.directory.as_ref()?;
        let counts = self.is_young(known.origin, now) || self.is_watched(known.origin, now);
        known.listing.clone().filter(|_| counts)
    }

    /// Whether `path` is known to be left out of answers for now.
    pub fn is_left_out(&self, path: &GlobalPath, now: Duration) -> bool {
        let known = self.slots.get(path.as_bytes()).and_then(|slot| slot.directory.as_ref());
        known.is_some_and(|known| known.listing.is_none() && self.is_young(known.origin, now))
    }

    /// Whether it is known that there is no such name.
    pub fn is_missing(&mut self, path: &GlobalPath, now: Duration) -> bool {
        self.find(path.as_bytes(), now, false) == Some(None)
    }

    /// Whether a change that was heard since concerns what `ticket` will bring about the name `path`.
    pub fn is_overtaken(&self, ticket: Ticket, path: &GlobalPath) -> bool {
        self.asks.is_overtaken(ticket, path.as_bytes())
    }

    /// Whether the changes of `path` are heard from before `ticket` on, so that what it brings counts until one is.
    pub fn is_of_watched(&self, ticket: Ticket, path: &GlobalPath) -> bool {
        self.watch_of_parent(path.as_bytes(), ticket) != 0
    }

    /// Whether a change that was heard since concerns what `ticket` will bring about any name in `directory`.
    pub fn is_listing_overtaken(&self, ticket: Ticket, directory: &GlobalPath) -> bool {
        let key = directory.as_bytes();
        self.asks.is_listing_overtaken(ticket, key) || !self.asks.overtaken_names(ticket, key).is_empty()
    }

    /// The answer to `ticket` about `path` itself.
    pub fn learn(&mut self, ticket: Ticket, path: &GlobalPath, attr: Option<Attr>, now: Duration) {
        let key = path.as_bytes();
        self.drop_contradicted(key, attr.as_ref());
        if self.ttl.is_zero() || self.asks.is_overtaken(ticket, key) {
            return;
        }
        self.keep(ticket, key, attr, now);
    }

    fn keep(&mut self, ticket: Ticket, key: &[u8], attr: Option<Attr>, now: Duration) {
        let subscription = self.watch_of_parent(key, ticket);
        let ttl = self.ttl_of(key, Told::Name);
        let origin = Origin { asked: ticket.number, learned_at: now, ttl, subscription };
        let older = |own: &Own| own.origin.asked <= ticket.number;
        self.change(key, |slot| {
            if slot.own.as_ref().is_none_or(older) {
                slot.own = Some(Own { attr, origin });
            }
        });
    }

    /// A directory that came with the answer to `ticket`; `None`: it is not told unasked.
    pub fn learn_directory(
        &mut self,
        ticket: Ticket,
        path: &GlobalPath,
        listing: Option<Listing>,
        now: Duration,
    ) {
        let key = path.as_bytes();
        if self.ttl.is_zero() || self.asks.is_listing_overtaken(ticket, key) {
            return;
        }
        let watched = listing.as_ref().is_some_and(|listing| listing.watched);
        let subscription = if watched { ticket.subscription } else { 0 };
        let ttl = self.ttl_of(key, Told::Listing);
        let origin = Origin { asked: ticket.number, learned_at: now, ttl, subscription };
        let changed = self.asks.overtaken_names(ticket, key);
        let fresh = Directory::new(listing, changed, origin);
        if fresh.bytes() > self.budget / 4 * 3 {
            return;
        }
        self.change(key, |slot| {
            let keep = slot.directory.as_ref().is_some_and(|known| {
                known.origin.asked > ticket.number || (fresh.listing.is_none() && known.listing.is_some())
            });
            if !keep {
                slot.directory = Some(fresh);
            }
        });
    }

    /// The newest answer that counts.
    fn find(&mut self, path: &[u8], now: Duration, watched: bool) -> Option<Option<Attr>> {
        let counts = |origin, attr: &Option<Attr>| {
            (is_seen(attr.as_ref()) && self.is_watched(origin, now))
                || (!watched && self.is_young(origin, now) && !self.is_outdated(origin, attr.as_ref()))
        };
        let slot = self.slots.get(path);
        let own = slot.and_then(|slot| slot.own.as_ref());
        let own = own.filter(|own| counts(own.origin, &own.attr)).map(|own| (own.origin.asked, own.attr));
        let itself = slot.and_then(|slot| slot.directory.as_ref()).and_then(|known| {
            let attr = known.listing.as_ref().filter(|_| !known.touched)?.attr;
            if self.is_outdated(known.origin, Some(&attr)) {
                return None;
            }
            let counts = self.is_watched(known.origin, now) || (!watched && self.is_young(known.origin, now));
            counts.then_some((known.origin.asked, Some(attr)))
        });
        let listed = split(path).and_then(|(directory, name)| {
            let known = self.slots.get(directory)?.directory.as_ref()?;
            let attr = known.find(name)?;
            counts(known.origin, &attr).then_some((known.origin.asked, attr))
        });
        let newest = own.into_iter().chain(itself).chain(listed).max_by_key(|(asked, _)| *asked);
        if newest.is_some() {
            self.touch(path);
            split(path).iter().for_each(|(directory, _)| self.touch(directory));
        }
        newest.map(|(_, attr)| attr)
    }

    fn plan(&mut self, path: &[u8], now: Duration) -> Ask {
        if self.ttl.is_zero() {
            return Ask::Name;
        }
        let around = split(path).map_or(path, |(directory, _)| directory);
        let Some(known) = self.slots.get(around).and_then(|slot| slot.directory.as_ref()) else {
            return Ask::Surroundings;
        };
        let counts = self.is_young(known.origin, now) || self.is_watched(known.origin, now);
        match &known.listing {
            _ if counts => Ask::Name,
            None => Ask::Surroundings,
            Some(listing) if known.misses == 0 || listing.len() > MAX_ENTRIES_UNASKED => {
                self.change(around, |slot| slot.directory.iter_mut().for_each(|known| known.misses += 1));
                Ask::Name
            }
            Some(_) if around == path => Ask::Name,
            Some(_) => Ask::Parent,
        }
    }

    /// Replaces the attributes that the watch does not see by what is known of them otherwise; `None` when
    /// that is not all of them.
    fn renew(&mut self, directory: &[u8], listing: &mut Listing, now: Duration) -> Option<()> {
        let unseen = self.slots.get(directory)?.directory.as_ref()?.unseen.clone();
        let mut renewed: Option<Vec<DirEntry>> = None;
        for position in unseen {
            let entry = &listing.entries[position as usize];
            let attr = self.find(&join(directory, &entry.name), now, false)??;
            if attr != entry.attr {
                renewed.get_or_insert_with(|| listing.entries.to_vec())[position as usize].attr = attr;
            }
        }
        if let Some(entries) = renewed {
            listing.entries = entries.into();
        }
        Some(())
    }

    fn is_young(&self, origin: Origin, now: Duration) -> bool {
        now.saturating_sub(origin.learned_at) < origin.ttl
    }

    fn is_watched(&self, origin: Origin, now: Duration) -> bool {
        !self.watched_on(origin, now).is_zero()
    }

    /// How long something is watched from now on; zero when it is not.
    fn watched_on(&self, origin: Origin, now: Duration) -> Duration {
        let is_heard = origin.subscription != 0
            && origin.subscription == self.subscription.current()
            && self.is_alive(now);
        let age = now.saturating_sub(origin.learned_at);
        if is_heard { MAX_WATCHED_AGE.saturating_sub(age) } else { Duration::ZERO }
    }

    /// The subscription that hears of the name, which is that of the directory that holds it.
    fn watch_of_parent(&self, path: &[u8], ticket: Ticket) -> u64 {
        let parent = split(path).and_then(|(directory, _)| self.slots.get(directory)?.directory.as_ref());
        let watch = parent.map_or(0, |known| known.origin.subscription);
        if watch == ticket.subscription { watch } else { 0 }
    }

    /// Notes where listings and what was just told of one name differ, so that neither is given any more.
    fn drop_contradicted(&mut self, path: &[u8], attr: Option<&Attr>) {
        if attr.is_none_or(|attr| attr.kind != FileKind::Directory) {
            let gone: Vec<Box<[u8]>> = self.below(path).chain([path.into()]).collect();
            gone.iter().for_each(|key| self.change(key, |slot| slot.directory = None));
        }
        let Some((directory, name)) = split(path) else { return };
        self.change(directory, |slot| {
            if let Some(known) = &mut slot.directory
                && known.find(name).is_some_and(|listed| !is_same(listed.as_ref(), attr))
            {
                known.changed.insert(Bytes::copy_from_slice(name));
            }
        });
    }

    /// The keys that lie below `directory`.
    fn below(&self, directory: &[u8]) -> impl Iterator<Item = Box<[u8]>> + '_ {
        let prefix: Box<[u8]> = join(directory, b"").into();
        let from = (Bound::Excluded(prefix.clone()), Bound::Unbounded);
        self.slots.range(from).map(|(key, _)| key).take_while(move |key| key.starts_with(&prefix)).cloned()
    }

    /// Changes the slot of `key`, which is made if need be and dropped when it is empty.
    fn change(&mut self, key: &[u8], change: impl FnOnce(&mut Slot)) {
        let mut slot = self.slots.remove(key).unwrap_or_default();
        let known = slot.used != 0;
        self.used -= if known { slot.bytes(key) } else { 0 };
        change(&mut slot);
        if slot.own.is_none() && slot.directory.is_none() {
            self.recency.remove(&slot.used);
            return;
        }
        if !known {
            self.uses += 1;
            slot.used = self.uses;
            self.recency.insert(self.uses, key.into());
        }
        self.used += slot.bytes(key);
        self.slots.insert(key.into(), slot);
        self.evict();
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some(slot) = self.slots.remove(key) {
            self.used -= slot.bytes(key);
            self.recency.remove(&slot.used);
        }
    }

    fn touch(&mut self, key: &[u8]) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        if slot.used + RECENCY_GRAIN > self.uses {
            self.uses += 1;
            return;
        }
        self.uses += 1;
        self.recency.remove(&slot.used);
        slot.used = self.uses;
        self.recency.insert(self.uses, key.into());
    }

    fn evict(&mut self) {
        while self.used > self.budget
            && let Some((_, key)) = self.recency.pop_first()
        {
            let slot = self.slots.remove(&key).expect("what is recent is known");
            self.used -= slot.bytes(&key);
        }
    }
}

impl Slot {
    fn bytes(&self, key: &[u8]) -> usize {
        SLOT_OVERHEAD + 2 * key.len() + self.directory.as_ref().map_or(0, Directory::bytes)
    }
}

/// Whether two answers about one name agree. Access times are not worth asking again; what is told of extended
/// attributes may be less in one of them, and where those change ctime does.
fn is_same(one: Option<&Attr>, other: Option<&Attr>) -> bool {
    let timeless = |attr: Option<&Attr>| attr.map(|attr| Attr { atime_ns: 0, no_xattrs: false, ..*attr });
    timeless(one) == timeless(other)
}

fn is_in(path: &[u8], directory: &[u8]) -> bool {
    split(path).is_some_and(|(parent, _)| parent == directory)
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let stem = if directory.len() == 1 { &[][..] } else { directory };
    [stem, b"/", name].concat()
}

#[cfg(test)]
#[path = "names_tests.rs"]
mod tests;
