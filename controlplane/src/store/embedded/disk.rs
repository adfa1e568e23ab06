//! The fjall database with its keyspaces, and the reads over it.
//!
//! *Invariant:* every read works on one snapshot, so entries and revision belong together.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::Path;

use fjall::{
    KeyspaceCreateOptions, PersistMode, Readable, SingleWriterTxDatabase, SingleWriterTxKeyspace,
    SingleWriterWriteTx,
};

use super::record::{StoredEntry, decode_u64};
use crate::store::{Entry, Key, MAX_RANGE_BYTES, Result, Revision, Snapshot, StoreError};

const FORMAT: u32 = 1;

/// Handles to an open database; clones share it.
#[derive(Clone)]
pub(super) struct Disk {
    database: SingleWriterTxDatabase,
    pub(super) entries: SingleWriterTxKeyspace,
    pub(super) log: SingleWriterTxKeyspace,
    pub(super) leases: SingleWriterTxKeyspace,
}

impl Disk {
    /// Opens the database in `dir`, which is made when there is none.
    pub(super) fn open(dir: &Path) -> Result<Disk> {
        let is_empty = |mut entries: fs::ReadDir| entries.next().is_none();
        if fs::read_dir(dir).map_or_else(|error| error.kind() == ErrorKind::NotFound, is_empty) {
            make(dir)?;
        }
        Self::open_in(dir)
    }

    fn open_in(dir: &Path) -> Result<Disk> {
        let database = SingleWriterTxDatabase::builder(dir).open().map_err(|error| match error {
            fjall::Error::Locked => StoreError::Locked(dir.to_owned()),
            fjall::Error::Io(error) => cannot("open", dir, &error),
            other => StoreError::Broken(format!("cannot open {}: {}", dir.display(), describe(&other))),
        })?;
        let keyspace = |name| database.keyspace(name, KeyspaceCreateOptions::default).map_err(broken);
        let meta = keyspace("meta")?;
        let disk = Disk {
            entries: keyspace("entries")?,
            log: keyspace("log")?,
            leases: keyspace("leases")?,
            database: database.clone(),
        };
        disk.check_format(&meta)?;
        Ok(disk)
    }

    fn check_format(&self, meta: &SingleWriterTxKeyspace) -> Result<()> {
        match meta.get("format").map_err(broken)? {
            Some(format) if *format == FORMAT.to_be_bytes() => Ok(()),
            Some(other) => Err(StoreError::Broken(format!(
                "format {}, this build reads format {FORMAT}",
                hex::encode(&*other)
            ))),
            None => {
                let mut write = self.begin();
                write.insert(meta, "format", FORMAT.to_be_bytes());
                write.commit().map_err(broken)
            }
        }
    }

    /// A transaction whose commit returns after the fsync, and which nobody sees before.
    pub(super) fn begin(&self) -> SingleWriterWriteTx<'_> {
        self.database.write_tx().durability(Some(PersistMode::SyncAll))
    }

    pub(super) fn snapshot(&self) -> fjall::Snapshot {
        self.database.read_tx()
    }

    pub(super) fn get(&self, key: &Key) -> Result<Option<Entry>> {
        Ok(self.get_in(&self.snapshot(), key)?.map(|stored| stored.entry))
    }

    /// The entry as `view`, a snapshot or a transaction, sees it.
    pub(super) fn get_in(&self, view: &impl Readable, key: &Key) -> Result<Option<StoredEntry>> {
        let bytes = view.get(&self.entries, key.as_bytes()).map_err(broken)?;
        bytes.map(|bytes| StoredEntry::decode(key.as_bytes(), &bytes)).transpose()
    }

    pub(super) fn range(&self, prefix: &Key) -> Result<Snapshot> {
        let snapshot = self.snapshot();
        let mut entries = Vec::new();
        let mut size_bytes = 0;
        for item in snapshot.prefix(&self.entries, prefix.as_bytes()) {
            let (key, value) = item.into_inner().map_err(broken)?;
            size_bytes += key.len() + value.len();
            StoreError::check_limit("bytes in a range", size_bytes, MAX_RANGE_BYTES)?;
            entries.push(StoredEntry::decode(&key, &value)?.entry);
        }
        Ok(Snapshot { entries, revision: self.revision(&snapshot)? })
    }

    /// The newest revision in the log, 0 in a new store.
    pub(super) fn revision(&self, snapshot: &fjall::Snapshot) -> Result<Revision> {
        let last = snapshot.last_key_value(&self.log);
        let key = last.map(|item| item.key().map_err(broken)).transpose()?;
        Ok(Revision(key.map_or(Ok(0), |key| decode_u64(&key))?))
    }
}

/// Makes a database beside its place and moves it there once it is whole: fjall does not open what a crash
/// or a full disk has left half made. If two processes do so at a time, the second one finds its place taken.
fn make(dir: &Path) -> Result<()> {
    let failed = |error| cannot("create", dir, &error);
    let fresh = dir.with_added_extension(format!("new-{}", std::process::id()));
    fs::create_dir_all(dir).map_err(failed)?;
    let place = || {
        fs::rename(&fresh, dir)?;
        // Otherwise a loss of power could take back the name, and with it what is acknowledged later.
        File::open(dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))?.sync_all()
    };
    let made = Disk::open_in(&fresh).map(drop).and_then(|()| place().map_err(failed));
    if made.is_err() {
        // Gives the space back; what cannot be removed does no harm.
        let _ = fs::remove_dir_all(&fresh);
    }
    made
}

fn cannot(act: &str, dir: &Path, error: &io::Error) -> StoreError {
    let text = format!("cannot {act} {}: {error}", dir.display());
    if error.kind() == ErrorKind::StorageFull { StoreError::Full(text) } else { StoreError::Broken(text) }
}

/// An error of the database, for an administrator to look at.
pub(super) fn broken(error: fjall::Error) -> StoreError {
    StoreError::Broken(describe(&error))
}

fn describe(error: &fjall::Error) -> String {
    match error {
        fjall::Error::Io(error) => error.to_string(),
        fjall::Error::Poisoned => "an earlier write or sync failed".into(),
        other => format!("{other:?}"),
    }
}
