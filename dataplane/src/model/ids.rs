//! Users and groups of a site's own origin, and those that the namespace shows for them.
//!
//! *Invariant:* two ids of one side never stand for one of the other, but for the anonymous ones; what a list names by
//! accident is nobody's.

use bytes::Bytes;

/// `count` ids from `site` on in the origin are those from `global` on in the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The first in the origin.
    pub site: u32,
    /// The first in the namespace.
    pub global: u32,
    /// How many, not 0.
    pub count: u32,
}

/// Who makes and owns what without being known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anonymous {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

impl Default for Anonymous {
    /// `nobody`, as the kernel has it.
    fn default() -> Self {
        Self { uid: 65534, gid: 65534 }
    }
}

/// Why ranges do not fit together. The numbers say which, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdMapError {
    /// It has no ids.
    #[error("the range has no ids; expected a count of 1 or more")]
    Empty(usize),
    /// It passes the last id.
    #[error("the range passes the last id, {}", LAST)]
    TooLong(usize),
    /// An id of the origin is in two of them.
    #[error("ids of the site from {1} on are in another range already")]
    SameSite(usize, u32),
    /// An id of the namespace is in two of them.
    #[error("global ids from {1} on are in another range already")]
    SameGlobal(usize, u32),
}

impl IdMapError {
    /// Which range is to be mended.
    pub fn range(&self) -> usize {
        match self {
            Self::Empty(at) | Self::TooLong(at) | Self::SameSite(at, _) | Self::SameGlobal(at, _) => *at,
        }
    }
}

/// The last id: the next one means none in system calls.
pub const LAST: u32 = u32::MAX - 1;

/// Ranges of users, or of groups.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IdRanges(Vec<IdRange>);

impl IdRanges {
    /// Ranges that overlap on neither side.
    pub fn new(ranges: Vec<IdRange>) -> Result<Self, IdMapError> {
        for (at, range) in ranges.iter().enumerate() {
            let last = |first: u32| first.checked_add(range.count.max(1) - 1).filter(|last| *last <= LAST);
            if range.count == 0 {
                return Err(IdMapError::Empty(at));
            }
            if last(range.site).is_none() || last(range.global).is_none() {
                return Err(IdMapError::TooLong(at));
            }
            for earlier in &ranges[..at] {
                if overlap((earlier.site, earlier.count), (range.site, range.count)) {
                    return Err(IdMapError::SameSite(at, earlier.site.max(range.site)));
                }
                if overlap((earlier.global, earlier.count), (range.global, range.count)) {
                    return Err(IdMapError::SameGlobal(at, earlier.global.max(range.global)));
                }
            }
        }
        Ok(Self(ranges))
    }

    /// What the namespace shows for `site`, if that stands for anybody.
    fn shown(&self, site: u32) -> Option<u32> {
        let mapped = self.0.iter().find_map(|range| translate(site, range.site, range.global, range.count));
        mapped.or_else(|| self.0.iter().all(|range| !within(site, range.global, range.count)).then_some(site))
    }

    /// What the origin has for `global`, if anything.
    fn stored(&self, global: u32) -> Option<u32> {
        let mapped = self.0.iter().find_map(|range| translate(global, range.global, range.site, range.count));
        mapped
            .or_else(|| self.0.iter().all(|range| !within(global, range.site, range.count)).then_some(global))
    }
}

fn within(id: u32, first: u32, count: u32) -> bool {
    id >= first && id - first < count
}

fn translate(id: u32, from: u32, to: u32, count: u32) -> Option<u32> {
    within(id, from, count).then(|| to + (id - from))
}

fn overlap(one: (u32, u32), other: (u32, u32)) -> bool {
    within(one.0, other.0, other.1) || within(other.0, one.0, one.1)
}

/// Both ways between an origin's ids and the namespace's. Without ranges all ids are the same.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IdMap {
    /// Users.
    pub users: IdRanges,
    /// Groups.
    pub groups: IdRanges,
    /// What nodes make as root belongs to the anonymous ones.
    pub root_squash: bool,
    /// Who that is, in the origin; and who owns, in the namespace, what has no id there.
    pub anonymous: Anonymous,
}

/// Entries of an access control list that name a user or a group.
const NAMES_USER: u16 = 0x02;
const NAMES_GROUP: u16 = 0x08;

/// A list's form, in front of its entries: tag, permissions, id.
const ACL_VERSION: u32 = 2;
const ACL_ENTRY: usize = 8;

/// Names of the attributes in which the kernel keeps lists.
const ACL_NAMES: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

impl IdMap {
    /// Whether all ids are the same on both sides, and nobody is squashed.
    pub fn is_plain(&self) -> bool {
        !self.root_squash && self.users.0.is_empty() && self.groups.0.is_empty()
    }

    /// The user whom the namespace shows for the origin's `uid`.
    pub fn shown_uid(&self, uid: u32) -> u32 {
        self.users.shown(uid).unwrap_or(self.anonymous.uid)
    }

    /// The group that the namespace shows for the origin's `gid`.
    pub fn shown_gid(&self, gid: u32) -> u32 {
        self.groups.shown(gid).unwrap_or(self.anonymous.gid)
    }

    /// The origin's user for `uid`; `None` when it has none.
    pub fn stored_uid(&self, uid: u32) -> Option<u32> {
        self.users.stored(uid)
    }

    /// The origin's group for `gid`; `None` when it has none.
    pub fn stored_gid(&self, gid: u32) -> Option<u32> {
        self.groups.stored(gid)
    }

    /// The same for who makes something at a node, where root may be anybody.
    pub fn maker_uid(&self, uid: u32) -> Option<u32> {
        if self.root_squash && uid == 0 { Some(self.anonymous.uid) } else { self.stored_uid(uid) }
    }

    /// The group of who makes something at a node.
    pub fn maker_gid(&self, gid: u32) -> Option<u32> {
        if self.root_squash && gid == 0 { Some(self.anonymous.gid) } else { self.stored_gid(gid) }
    }

    /// The value of extended attribute `name` as the namespace shows it.
    pub fn shown_xattr(&self, name: &[u8], value: Bytes) -> Bytes {
        let shown = self.translate_list(name, &value, |user, id| {
            Some(if user { self.shown_uid(id) } else { self.shown_gid(id) })
        });
        shown.flatten().unwrap_or(value)
    }

    /// The value of extended attribute `name` as the origin has it; `None` when it names somebody who has no id there.
    pub fn stored_xattr(&self, name: &[u8], value: &Bytes) -> Option<Bytes> {
        let stored =
            self.translate_list(
                name,
                value,
                |user, id| if user { self.stored_uid(id) } else { self.stored_gid(id) },
            );
        stored.unwrap_or_else(|| Some(value.clone()))
    }

    /// `None` for what is no list, which stays what it is.
    fn translate_list(
        &self,
        name: &[u8],
        value: &[u8],
        id_of: impl Fn(bool, u32) -> Option<u32>,
    ) -> Option<Option<Bytes>> {
        let (version, entries) = value.split_first_chunk::<4>()?;
        let is_list = u32::from_le_bytes(*version) == ACL_VERSION && entries.len().is_multiple_of(ACL_ENTRY);
        if self.is_plain() || !ACL_NAMES.contains(&name) || !is_list {
            return None;
        }
        let mut list = value.to_vec();
        for entry in list[4..].chunks_exact_mut(ACL_ENTRY) {
            let tag = u16::from_le_bytes([entry[0], entry[1]]);
            if matches!(tag, NAMES_USER | NAMES_GROUP) {
                let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
                match id_of(tag == NAMES_USER, id) {
                    Some(id) => entry[4..].copy_from_slice(&id.to_le_bytes()),
                    None => return Some(None),
                }
            }
        }
        Some(Some(list.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(site: u32, global: u32, count: u32) -> IdRange {
        IdRange { site, global, count }
    }

    fn map(ranges: &[IdRange]) -> IdMap {
        let ranges = IdRanges::new(ranges.to_vec()).unwrap();
        IdMap { users: ranges.clone(), groups: ranges, ..IdMap::default() }
    }

    #[test]
    fn ids_are_translated_both_ways_and_nobody_is_taken_for_another() {
        let map = map(&[range(1000, 5000, 10), range(0, 900, 1)]);
        let check = |site, global| {
            assert_eq!((map.shown_uid(site), map.stored_uid(global)), (global, Some(site)));
        };
        check(1000, 5000);
        check(1009, 5009);
        check(0, 900);
        check(77, 77);
        assert_eq!((map.shown_gid(5003), map.stored_gid(1003)), (65534, None), "of the other side");
        assert_eq!(map.stored_uid(0), None, "the origin's root is another one");
    }

    #[test]
    fn root_of_a_node_is_nobody_if_the_site_says_so() {
        let plain = IdMap::default();
        assert_eq!((plain.maker_uid(0), plain.maker_gid(0), plain.is_plain()), (Some(0), Some(0), true));
        let anonymous = Anonymous { uid: 99, gid: 98 };
        let squashed = IdMap { root_squash: true, anonymous, ..map(&[range(5, 6, 1)]) };
        assert_eq!((squashed.maker_uid(0), squashed.maker_gid(0)), (Some(99), Some(98)));
        assert_eq!((squashed.maker_uid(6), squashed.shown_uid(0)), (Some(5), 0));
    }

    #[test]
    fn ranges_that_do_not_fit_are_refused() {
        let check = |ranges: &[IdRange], want| assert_eq!(IdRanges::new(ranges.to_vec()), Err(want));
        check(&[range(1, 1, 0)], IdMapError::Empty(0));
        check(&[range(1, 1, 1), range(u32::MAX, 9, 1)], IdMapError::TooLong(1));
        check(&[range(2, LAST, 2)], IdMapError::TooLong(0));
        check(&[range(10, 100, 5), range(14, 200, 5)], IdMapError::SameSite(1, 14));
        check(&[range(10, 100, 5), range(20, 96, 5)], IdMapError::SameGlobal(1, 100));
        assert!(IdRanges::new(vec![range(10, 100, 5), range(15, 105, 5)]).is_ok());
    }

    #[test]
    fn lists_name_those_who_are_meant() {
        let map = map(&[range(1000, 5000, 1)]);
        let list = |id: u32| -> Bytes {
            let entry = |tag: u16, id: u32| [&tag.to_le_bytes()[..], &[7, 0], &id.to_le_bytes()].concat();
            [&2_u32.to_le_bytes()[..], &entry(1, u32::MAX), &entry(2, id), &entry(8, id), &entry(4, u32::MAX)]
                .concat()
                .into()
        };
        let name = b"system.posix_acl_access";
        assert_eq!(map.shown_xattr(name, list(1000)), list(5000));
        assert_eq!(map.stored_xattr(name, &list(5000)), Some(list(1000)));
        assert_eq!(map.stored_xattr(name, &list(1000)), None);
        assert_eq!(map.stored_xattr(b"user.x", &list(1000)), Some(list(1000)));
        let odd = Bytes::from_static(b"\x02\0\0\0odd");
        assert_eq!(map.stored_xattr(name, &odd), Some(odd));
    }

    proptest! {
        #[test]
        fn whoever_is_shown_as_somebody_is_stored_as_the_same(
            ranges in prop::collection::vec((0..50_u32, 0..50_u32, 1..9_u32), 0..6), id in 0..70_u32
        ) {
            let ranges = ranges.into_iter().map(|(site, global, count)| range(site, global, count)).collect();
            if let Ok(ranges) = IdRanges::new(ranges) {
                if let Some(shown) = ranges.shown(id) {
                    prop_assert_eq!(ranges.stored(shown), Some(id));
                }
                if let Some(stored) = ranges.stored(id) {
                    prop_assert_eq!(ranges.shown(stored), Some(id));
                }
            }
        }
    }
}
