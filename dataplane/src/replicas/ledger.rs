//! What this site has of replicas, kept in a small embedded database.
//!
//! *Invariant:* a path is in the ledger before it is made in the origin. What the ledger says of a copy is checked when the
//! copy is read, so a ledger that is behind costs time and nothing else.
//!
//! The key of a path is its directory, a NUL, and its name: so what is in one directory lies together.

use crate::model::replicas::{Here, Record};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use globalfs_proto::{FileKind, FsError, FsResult, GlobalPath};
use parking_lot::Mutex;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The ledger of one site. Clones are the same. Calls may wait for the disk.
#[derive(Clone)]
pub(super) struct Ledger(Arc<Inner>);

struct Inner {
    database: Database,
    paths: Keyspace,
    files: AtomicU64,
    bytes: AtomicU64,
    records: AtomicU64,
    /// One change after the other, so that what is counted is right.
    changing: Mutex<()>,
}

/// What is here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Regular files that are copied.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Ledger {
    /// Goes on from what `dir` keeps; makes it if it is not there.
    pub(super) fn open(dir: &Path) -> FsResult<Self> {
        let database = Database::builder(dir).open().map_err(broken)?;
        let paths = database.keyspace("paths", KeyspaceCreateOptions::default).map_err(broken)?;
        let none = AtomicU64::default;
        let ledger = Self(Arc::new(Inner {
            database,
            paths,
            files: none(),
            bytes: none(),
            records: none(),
            changing: Mutex::default(),
        }));
        for item in ledger.0.paths.iter() {
            let (_, value) = item.into_inner().map_err(broken)?;
            ledger.count(&decode(&value)?, true);
        }
        Ok(ledger)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.records.load(Ordering::Relaxed) == 0
    }

    pub(super) fn totals(&self) -> Totals {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Totals { files: read(&self.0.files), bytes: read(&self.0.bytes) }
    }

    pub(super) fn get(&self, path: &GlobalPath) -> FsResult<Option<Record>> {
        if self.is_empty() {
            return Ok(None);
        }
        let value = self.0.paths.get(key(path)).map_err(broken)?;
        value.map(|value| decode(&value)).transpose()
    }

    /// Keeps records. `durable`: they survive a loss of power when this returns.
    pub(super) fn put(&self, records: &[(GlobalPath, Record)], durable: bool) -> FsResult<()> {
        let _turn = self.0.changing.lock();
        for (path, record) in records {
            let before = self.get(path)?;
            self.0.paths.insert(key(path), record.encode()).map_err(broken)?;
            before.iter().for_each(|before| self.count(before, false));
            self.count(record, true);
        }
        if durable && !records.is_empty() {
            self.0.database.persist(PersistMode::SyncData).map_err(broken)?;
        }
        Ok(())
    }

    pub(super) fn forget(&self, path: &GlobalPath) -> FsResult<()> {
        let _turn = self.0.changing.lock();
        if let Some(before) = self.get(path)? {
            self.0.paths.remove(key(path)).map_err(broken)?;
            self.count(&before, false);
        }
        Ok(())
    }

    /// What is kept of the names in `directory`.
    pub(super) fn children(&self, directory: &GlobalPath) -> FsResult<Vec<(GlobalPath, Record)>> {
        if self.is_empty() {
            return Ok(Vec::new());
        }
        let items = self.0.paths.prefix([directory.as_bytes(), b"\0"].concat());
        let records =
            items.map(|item| item.into_inner().map_err(broken).and_then(|(key, value)| pair(&key, &value)));
        records.filter(|record| !record.as_ref().is_ok_and(|(path, _)| path.is_root())).collect()
    }

    /// Some of what is kept beneath `directory`, at most `most`: each behind all that is beneath it.
    pub(super) fn below(&self, directory: &GlobalPath, most: usize) -> FsResult<Vec<GlobalPath>> {
        let at = directory.as_bytes();
        let prefixes = match directory.is_root() {
            true => vec![b"/".to_vec()],
            false => vec![[at, b"/"].concat(), [at, b"\0"].concat()],
        };
        // Backwards, since the key of a path is smaller than those beneath it, as a NUL is smaller than all in a name.
        let items = prefixes.into_iter().flat_map(|prefix| self.0.paths.prefix(prefix).rev());
        let paths = items.map(|item| {
            let (key, value) = item.into_inner().map_err(broken)?;
            Ok(pair(&key, &value)?.0)
        });
        paths.filter(|path| !path.as_ref().is_ok_and(GlobalPath::is_root)).take(most).collect()
    }

    /// The next records behind `after`, in the order of their keys.
    pub(super) fn next(
        &self,
        after: Option<&GlobalPath>,
        most: usize,
    ) -> FsResult<Vec<(GlobalPath, Record)>> {
        let from = after.map(|path| [&key(path)[..], b"\0"].concat()).unwrap_or_default();
        let items = self.0.paths.range(from..).take(most);
        items
            .map(|item| item.into_inner().map_err(broken).and_then(|(key, value)| pair(&key, &value)))
            .collect()
    }

    fn count(&self, record: &Record, added: bool) {
        let change = |counter: &AtomicU64, by: u64| match added {
            true => drop(counter.fetch_add(by, Ordering::Relaxed)),
            false => drop(counter.fetch_sub(by, Ordering::Relaxed)),
        };
        change(&self.0.records, 1);
        if record.master.kind == FileKind::Regular && matches!(record.here, Here::Copy(_)) {
            change(&self.0.files, 1);
            change(&self.0.bytes, record.master.size);
        }
    }
}

fn key(path: &GlobalPath) -> Vec<u8> {
    let parent = path.parent().unwrap_or_else(GlobalPath::root);
    let name = if path.is_root() { b"" } else { path.name() };
    [parent.as_bytes(), b"\0", name].concat()
}

fn pair(key: &[u8], value: &[u8]) -> FsResult<(GlobalPath, Record)> {
    let damaged = || FsError::Damaged("a path in the ledger of replicas".to_owned());
    let cut = key.iter().position(|byte| *byte == 0).ok_or_else(damaged)?;
    let parent = GlobalPath::new(&key[..cut]).map_err(|_| damaged())?;
    let name = &key[cut + 1..];
    let path = if name.is_empty() { Ok(parent) } else { parent.join(name).map_err(|_| damaged()) };
    Ok((path?, decode(value)?))
}

fn decode(value: &[u8]) -> FsResult<Record> {
    Record::decode(value).map_err(|error| FsError::Damaged(format!("the ledger of replicas: {error}")))
}

fn broken(error: fjall::Error) -> FsError {
    match error {
        fjall::Error::Io(error) if error.kind() == io::ErrorKind::StorageFull => FsError::Os(28),
        fjall::Error::Io(error) => FsError::from(error),
        other => FsError::Damaged(format!("the ledger of replicas cannot be used: {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::MemorySource;

    fn path(text: &str) -> GlobalPath {
        GlobalPath::new(text.as_bytes()).unwrap()
    }

    fn names(records: Vec<(GlobalPath, Record)>) -> Vec<String> {
        records.into_iter().map(|(path, _)| path.to_string()).collect()
    }

    #[test]
    fn what_is_in_a_directory_lies_together_and_survives() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path()).unwrap();
        let attr = MemorySource::new().put_file("/x", "abc");
        let record = |here| Record { master: attr, here };
        let all = ["/", "/a", "/a/b", "/a/b/c", "/a/b-c", "/a-b"];
        let records = all.map(|name| (path(name), record(Here::Copy(attr.version()))));
        ledger.put(&records, true).unwrap();
        assert_eq!(names(ledger.children(&GlobalPath::root()).unwrap()), ["/a", "/a-b"]);
        assert_eq!(names(ledger.children(&path("/a")).unwrap()), ["/a/b", "/a/b-c"]);
        let below = |top: &str, most| {
            ledger.below(&path(top), most).unwrap().iter().map(GlobalPath::to_string).collect::<Vec<_>>()
        };
        assert_eq!(below("/a", 9), ["/a/b/c", "/a/b-c", "/a/b"]);
        assert_eq!(below("/", 9), ["/a/b/c", "/a/b-c", "/a/b", "/a-b", "/a"]);
        assert_eq!(below("/", 2), ["/a/b/c", "/a/b-c"], "the lowest first");
        ledger.forget(&path("/a/b-c")).unwrap();
        ledger.put(&[(path("/a/b"), record(Here::Bringing(None)))], false).unwrap();
        assert_eq!(ledger.totals(), Totals { files: 4, bytes: 12 });
        drop(ledger);
        let ledger = Ledger::open(dir.path()).unwrap();
        assert_eq!(ledger.totals(), Totals { files: 4, bytes: 12 });
        assert_eq!(ledger.get(&path("/a/b")).unwrap(), Some(record(Here::Bringing(None))));
        let (mut after, mut seen) = (None, Vec::new());
        while let Some((last, _)) = ledger.next(after.as_ref(), 2).unwrap().last().cloned() {
            seen.extend(names(ledger.next(after.as_ref(), 2).unwrap()));
            after = Some(last);
        }
        assert_eq!(seen.len(), 5, "{seen:?}");
    }
}
