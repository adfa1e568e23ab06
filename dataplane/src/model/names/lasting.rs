//! For how long what was told of names counts, for those who can be told of changes: the kernel.
//!
//! *Invariant:* nothing lasts longer than its watch sees it, nor what differs from what is known now.

use super::super::directory::is_seen;
use super::super::freshness::split;
use super::{Names, is_same};
use globalfs_proto::{Attr, Edition, GlobalPath, Lasting};
use std::time::Duration;

impl Names {
    /// What the names in the directory `path` are known by, if all of them are and their changes are heard.
    pub fn edition(&self, path: &GlobalPath, now: Duration) -> Option<Edition> {
        let known = self.slots.get(path.as_bytes())?.directory.as_ref()?;
        let is_whole = known.changed.is_empty() && known.listing.as_ref().is_some_and(|l| l.complete);
        let lasting = self.watched_on(known.origin, now);
        (is_whole && !lasting.is_zero()).then_some(Edition { number: known.origin.asked, lasting })
    }

    /// How long it counts that `path` has the attributes `attr`, so long as no change is told.
    pub fn lasting(&self, path: &GlobalPath, attr: &Attr, now: Duration) -> Lasting {
        let key = path.as_bytes();
        let slot = self.slots.get(key);
        let own = slot.and_then(|slot| slot.own.as_ref()).and_then(|own| Some((own.attr?, own.origin)));
        let listed = split(key).and_then(|(directory, name)| {
            let known = self.slots.get(directory)?.directory.as_ref()?;
            Some((known.find(name)??, known.origin))
        });
        let mut lasting = Lasting::default();
        for (known, origin) in own.into_iter().chain(listed) {
            let left = self.watched_on(origin, now);
            if known.file == attr.file && known.kind == attr.kind {
                lasting.name = lasting.name.max(left);
            }
            if is_seen(Some(&known)) && is_same(Some(&known), Some(attr)) {
                lasting.attr = lasting.attr.max(left);
            }
        }
        let itself = slot.and_then(|slot| slot.directory.as_ref()).filter(|known| !known.touched);
        if let Some((known, origin)) =
            itself.and_then(|known| Some((known.listing.as_ref()?.attr, known.origin)))
            && is_same(Some(&known), Some(attr))
        {
            lasting.attr = lasting.attr.max(self.watched_on(origin, now));
        }
        lasting
    }
}
