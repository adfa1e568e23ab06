//! Directories cut into parts for the wire, and put together again.
//!
//! *Invariants:* decoding makes no more than a part may hold, whatever its bytes claim; the parts of one
//! directory come one after another and agree about it.

use crate::source::Listing;
use bytes::Bytes;
use globalfs_proto::limits::{LIST_PART_TARGET, MAX_DIR_ENTRIES};
use globalfs_proto::listing::{decode_entries, encode_entries};
use globalfs_proto::{DirEntry, DirectoryPart, FsError, FsResult, GlobalPath, PartEncoding};

/// Bytes of an entry on the wire without its name and target, and with the lengths of both.
const ENTRY_SIZE: usize = 90;

/// Smaller bodies are sent as they are: a frame of zstd would save a few bytes of a packet.
const COMPRESS_FROM: usize = 512;

const LEVEL: i32 = 1;

/// `listing` of the directory `path` in parts; at least one.
pub(crate) fn parts<'a>(
    path: &'a GlobalPath,
    listing: &'a Listing,
) -> impl Iterator<Item = DirectoryPart> + Send + 'a {
    let mut rest = Some(&listing.entries[..]);
    std::iter::from_fn(move || {
        let entries = rest?;
        let (now, later) = entries.split_at(part_length(entries));
        rest = (!later.is_empty()).then_some(later);
        Some(part(path, listing, now, later.is_empty()))
    })
}

fn part(path: &GlobalPath, listing: &Listing, entries: &[DirEntry], last: bool) -> DirectoryPart {
    let raw = encode_entries(entries);
    let length = u32::try_from(raw.len()).expect("a part is below its limit");
    let (encoding, body) = match compressed(&raw) {
        Some(smaller) => (PartEncoding::Zstd, smaller),
        None => (PartEncoding::Raw, raw),
    };
    let Listing { attr, complete, watched, .. } = *listing;
    DirectoryPart { path: path.clone(), attr, complete, watched, last, encoding, length, body }
}

fn compressed(raw: &[u8]) -> Option<Bytes> {
    if raw.len() < COMPRESS_FROM {
        return None;
    }
    let smaller = zstd::bulk::compress(raw, LEVEL).ok()?;
    (smaller.len() < raw.len()).then(|| smaller.into())
}

/// How many of `entries` go into the next part.
fn part_length(entries: &[DirEntry]) -> usize {
    let mut size = 0;
    let fits = entries.iter().take_while(|entry| {
        let begins_below = size < LIST_PART_TARGET;
        size += ENTRY_SIZE + entry.name.len() + entry.target.as_ref().map_or(0, |target| target.len());
        begins_below
    });
    fits.count()
}

/// Directories as their parts arrive.
#[derive(Default)]
pub(crate) struct Assembly(Option<(GlobalPath, Listing, Vec<DirEntry>)>);

impl Assembly {
    /// Takes a part; gives the directory that is whole with it.
    pub(crate) fn add(&mut self, part: DirectoryPart) -> FsResult<Option<(GlobalPath, Listing)>> {
        let entries = entries_of(&part)?;
        if entries.is_empty() && !part.last {
            return Err(FsError::Protocol("an empty part of a listing".to_owned()));
        }
        let DirectoryPart { path, attr, complete, watched, last, .. } = part;
        let (known, mut listing, mut all) = self.0.take().unwrap_or_else(|| {
            (path.clone(), Listing { attr, entries: [].into(), complete, watched }, Vec::new())
        });
        if known != path {
            return Err(FsError::Protocol(format!("{path} within the parts of {known}")));
        }
        if all.len() + entries.len() > MAX_DIR_ENTRIES {
            return Err(FsError::Limit(format!("{path} has more than {MAX_DIR_ENTRIES} entries")));
        }
        all.extend(entries);
        if !last {
            self.0 = Some((known, listing, all));
            return Ok(None);
        }
        listing.entries = all.into();
        Ok(Some((known, listing)))
    }

    /// Entries of the directory whose parts are missing.
    pub(crate) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |(_, _, entries)| entries.len())
    }

    /// Whether parts are missing.
    pub(crate) fn is_unfinished(&self) -> bool {
        self.0.is_some()
    }
}

fn entries_of(part: &DirectoryPart) -> FsResult<Vec<DirEntry>> {
    let nonsense = |what: String| FsError::Protocol(format!("a part of a listing: {what}"));
    let body = match part.encoding {
        PartEncoding::Raw => part.body.clone(),
        // The frame on the wire has limited the length already, and no more than that is made.
        PartEncoding::Zstd => zstd::bulk::decompress(&part.body, part.length as usize)
            .map_err(|error| nonsense(error.to_string()))?
            .into(),
    };
    if body.len() != part.length as usize {
        return Err(nonsense("another length than announced".to_owned()));
    }
    decode_entries(body).map_err(|error| nonsense(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::some_attr;

    fn listing(names: usize) -> Listing {
        let entry = |n: usize| DirEntry::new(format!("name-{n:06}").into(), some_attr(n as u64));
        let entries = (0..names).map(entry).collect();
        Listing { attr: some_attr(0), entries, complete: true, watched: false }
    }

    #[test]
    fn directories_of_any_size_come_back() {
        for count in [0, 1, 5, 3_000, 10_000] {
            let (path, sent) = (GlobalPath::root(), listing(count));
            let mut assembly = Assembly::default();
            let parts: Vec<_> = parts(&path, &sent).collect();
            assert_eq!(parts.len() > 1, count >= 3_000, "{count} in {} parts", parts.len());
            let wire: usize = parts.iter().map(|part| part.body.len()).sum();
            assert!(count < 1_000 || wire < count * 20, "{count} entries in {wire} bytes");
            let whole: Vec<_> = parts.into_iter().filter_map(|part| assembly.add(part).unwrap()).collect();
            assert_eq!(whole, [(path, sent)]);
            assert!(!assembly.is_unfinished());
        }
    }

    #[test]
    fn bombs_and_lies_are_refused() {
        let (path, sent) = (GlobalPath::root(), listing(10));
        let good = parts(&path, &sent).next().unwrap();
        let refused = |change: &dyn Fn(&mut DirectoryPart)| {
            let mut bad = good.clone();
            change(&mut bad);
            assert!(matches!(Assembly::default().add(bad), Err(FsError::Protocol(_))));
        };
        let bomb: Bytes = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap().into();
        refused(&|part| part.body = bomb.clone());
        refused(&|part| part.length += 1);
        refused(&|part| part.body = good.body.slice(..good.body.len() / 2));
        let mut assembly = Assembly::default();
        assembly.add(DirectoryPart { last: false, ..good.clone() }).unwrap();
        assert!(assembly.is_unfinished());
        let other = GlobalPath::new(b"/other").unwrap();
        assert!(assembly.add(DirectoryPart { path: other, ..good.clone() }).is_err());
    }
}
