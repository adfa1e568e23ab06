//! The leases of a site on its disk, one small JSON file.
//!
//! *Invariant:* what changed here counts only when [`Kept::write`] has returned: who could not write has changed a copy.

use super::HeldLease;
use crate::model::lease::{Epoch, Incarnation, LeaseScope, RequestNumber, WriteRecord};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// What is kept.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    file: PathBuf,
    incarnation: Incarnation,
    leases: BTreeMap<RequestNumber, HeldLease>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    incarnation: Incarnation,
    leases: Vec<StoredLease>,
}

#[derive(Serialize, Deserialize)]
struct StoredLease {
    request: RequestNumber,
    #[serde(flatten)]
    scope: LeaseScope,
    epoch: Epoch,
    ready: bool,
}

impl Stored {
    /// A site that has lost its file must not use numbers of its earlier life again: leases of that life may still be
    /// recorded, and a request with the number of one would be answered as if it were about that one. So it begins at
    /// the time, in seconds, which is above the number of all starts before.
    fn fresh() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { incarnation: Incarnation(since.as_secs()), leases: Vec::new() }
    }
}

impl Kept {
    /// Reads `file`, which need not be there, and begins the next incarnation.
    pub(super) fn open(file: &Path) -> io::Result<Self> {
        let damaged = |error| io::Error::other(format!("{} is damaged: {error}", file.display()));
        let stored: Stored = match fs::read(file) {
            Ok(text) => serde_json::from_slice(&text).map_err(damaged)?,
            Err(error) if error.kind() == ErrorKind::NotFound => Stored::fresh(),
            Err(error) => return Err(error),
        };
        let lease = |stored: StoredLease| {
            let StoredLease { request, scope, epoch, ready } = stored;
            (request, HeldLease { request, scope, epoch, ready })
        };
        let leases = stored.leases.into_iter().map(lease).collect();
        let kept = Self { file: file.to_owned(), incarnation: stored.incarnation.next(), leases };
        kept.write()?;
        Ok(kept)
    }

    pub(super) fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    pub(super) fn leases(&self) -> Vec<HeldLease> {
        self.leases.values().cloned().collect()
    }

    pub(super) fn get(&self, request: RequestNumber) -> Option<&HeldLease> {
        self.leases.get(&request)
    }

    pub(super) fn records(&self) -> Vec<WriteRecord> {
        let record = |lease: &HeldLease| WriteRecord {
            request: lease.request,
            scope: lease.scope.clone(),
            epoch: lease.epoch,
            abandoned: false,
        };
        self.leases.values().map(record).collect()
    }

    pub(super) fn put(&mut self, record: WriteRecord) {
        let WriteRecord { request, scope, epoch, .. } = record;
        self.leases.insert(request, HeldLease { request, scope, epoch, ready: false });
    }

    pub(super) fn set_ready(&mut self, request: RequestNumber) {
        self.leases.entry(request).and_modify(|lease| lease.ready = true);
    }

    pub(super) fn remove(&mut self, request: RequestNumber) -> Option<HeldLease> {
        self.leases.remove(&request)
    }

    /// All of it is on disk when this returns. Blocks.
    pub(super) fn write(&self) -> io::Result<()> {
        let lease = |lease: &HeldLease| StoredLease {
            request: lease.request,
            scope: lease.scope.clone(),
            epoch: lease.epoch,
            ready: lease.ready,
        };
        let stored =
            Stored { incarnation: self.incarnation, leases: self.leases.values().map(lease).collect() };
        let fresh = self.file.with_added_extension("new");
        let mut file = File::create(&fresh)?;
        file.write_all(&serde_json::to_vec_pretty(&stored)?)?;
        file.sync_all()?;
        fs::rename(&fresh, &self.file)?;
        File::open(self.file.parent().unwrap_or(Path::new(".")))?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use globalfs_proto::GlobalPath;

    #[test]
    fn leases_outlive_a_start_and_incarnations_grow() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("leases.json");
        let mut kept = Kept::open(&file).unwrap();
        let first = kept.incarnation();
        let request = RequestNumber { incarnation: first, number: 1 };
        let scope = LeaseScope::subtree(GlobalPath::new(b"/r/\xff%").unwrap());
        let record = WriteRecord { request, scope: scope.clone(), epoch: Epoch(7), abandoned: false };
        kept.put(record.clone());
        kept.set_ready(request);
        kept.write().unwrap();
        let mut kept = Kept::open(&file).unwrap();
        assert!(kept.incarnation() > first);
        assert_eq!(kept.records(), [record]);
        assert_eq!(kept.leases(), [HeldLease { request, scope, epoch: Epoch(7), ready: true }]);
        assert!(kept.remove(request).is_some());
        kept.write().unwrap();
        assert!(Kept::open(&file).unwrap().leases().is_empty());
        fs::write(&file, "{").unwrap();
        assert!(Kept::open(&file).err().unwrap().to_string().contains("leases.json is damaged"));
    }

    #[test]
    fn who_has_lost_its_file_uses_no_number_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("leases.json");
        let first = Kept::open(&file).unwrap().incarnation();
        fs::remove_file(&file).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(1100));
        assert!(Kept::open(&file).unwrap().incarnation() > first);
    }
}
