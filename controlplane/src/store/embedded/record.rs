//! The bytes of entries and log records, as the format in [`super`] says.
//!
//! *Invariant:* decoding what encoding made gives it back; anything else is an error, never a panic.

use crate::store::{Change, Entry, Event, Key, LeaseId, Result, Revision, StoreError};

const PUT: u8 = 1;
const DELETE: u8 = 2;

/// An entry and the lease that it is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoredEntry {
    pub(super) entry: Entry,
    pub(super) lease: Option<LeaseId>,
}

impl StoredEntry {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(24 + self.entry.value.len());
        bytes.extend(self.entry.create_revision.0.to_be_bytes());
        bytes.extend(self.entry.mod_revision.0.to_be_bytes());
        bytes.extend(self.lease.map_or(0, |lease| lease.0).to_be_bytes());
        bytes.extend(&self.entry.value);
        bytes
    }

    pub(super) fn decode(key: &[u8], bytes: &[u8]) -> Result<StoredEntry> {
        let mut reader = Reader(bytes);
        let create_revision = Revision(reader.u64()?);
        let mod_revision = Revision(reader.u64()?);
        let lease = Some(reader.u64()?).filter(|lease| *lease != 0).map(LeaseId);
        let entry = Entry { key: decode_key(key)?, value: reader.0.to_vec(), mod_revision, create_revision };
        Ok(StoredEntry { entry, lease })
    }
}

pub(super) fn encode_changes(changes: &[Change]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for change in changes {
        bytes.push(if matches!(change, Change::Put(_)) { PUT } else { DELETE });
        push_sized(&mut bytes, change.key().as_bytes());
        if let Change::Put(entry) = change {
            bytes.extend(entry.create_revision.0.to_be_bytes());
            push_sized(&mut bytes, &entry.value);
        }
    }
    bytes
}

pub(super) fn decode_changes(revision: Revision, bytes: &[u8]) -> Result<Vec<Event>> {
    let mut reader = Reader(bytes);
    let mut events = Vec::new();
    while !reader.0.is_empty() {
        events.push(Event { revision, change: decode_change(revision, &mut reader)? });
    }
    Ok(events)
}

fn decode_change(revision: Revision, reader: &mut Reader<'_>) -> Result<Change> {
    let kind = reader.take(1)?[0];
    let key = decode_key(reader.sized()?)?;
    match kind {
        DELETE => Ok(Change::Delete(key)),
        PUT => {
            let create_revision = Revision(reader.u64()?);
            let value = reader.sized()?.to_vec();
            Ok(Change::Put(Entry { key, value, mod_revision: revision, create_revision }))
        }
        other => Err(damaged(format!("change of kind {other}"))),
    }
}

pub(super) fn decode_u64(bytes: &[u8]) -> Result<u64> {
    Reader(bytes).u64()
}

fn decode_key(bytes: &[u8]) -> Result<Key> {
    let text = std::str::from_utf8(bytes).map_err(|error| damaged(error.to_string()))?;
    Key::new(text).map_err(|error| damaged(error.to_string()))
}

fn push_sized(bytes: &mut Vec<u8>, part: &[u8]) {
    // The limits of keys and values keep the length far below 4 GiB.
    bytes.extend((part.len() as u32).to_be_bytes());
    bytes.extend(part);
}

fn damaged(what: impl Into<String>) -> StoreError {
    StoreError::Broken(format!("damaged record: {}", what.into()))
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (part, rest) = self.0.split_at_checked(length).ok_or_else(|| damaged("too short"))?;
        self.0 = rest;
        Ok(part)
    }

    fn u64(&mut self) -> Result<u64> {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(self.take(8)?);
        Ok(u64::from_be_bytes(bytes))
    }

    fn sized(&mut self) -> Result<&'a [u8]> {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(self.take(4)?);
        self.take(u32::from_be_bytes(bytes) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        let key = Key::new("/globalfs/k").unwrap();
        Entry { key, value: vec![0, 255, 7], mod_revision: Revision(9), create_revision: Revision(3) }
    }

    #[test]
    fn an_entry_has_its_documented_bytes() {
        let stored = StoredEntry { entry: entry(), lease: Some(LeaseId(5)) };
        let expected = "000000000000000300000000000000090000000000000005\
                        00ff07";
        assert_eq!(hex::encode(stored.encode()), expected);
        assert_eq!(StoredEntry::decode(b"/globalfs/k", &stored.encode()), Ok(stored));
    }

    #[test]
    fn changes_have_their_documented_bytes() {
        let changes = vec![Change::Put(entry()), Change::Delete(entry().key)];
        let bytes = encode_changes(&changes);
        let expected = "010000000b2f676c6f62616c66732f6b00000000000000030000000300ff07\
                        020000000b2f676c6f62616c66732f6b";
        assert_eq!(hex::encode(&bytes), expected);
        let events = decode_changes(Revision(9), &bytes).unwrap();
        assert_eq!(events.into_iter().map(|event| event.change).collect::<Vec<_>>(), changes);
    }

    #[test]
    fn a_cut_record_is_an_error() {
        let bytes = encode_changes(&[Change::Put(entry())]);
        for length in 1..bytes.len() {
            assert!(decode_changes(Revision(9), &bytes[..length]).is_err(), "{length}");
        }
        assert!(StoredEntry::decode(b"/globalfs/k", &[0; 23]).is_err());
        assert!(StoredEntry::decode(b"/other/k", &[0; 24]).is_err());
    }
}
