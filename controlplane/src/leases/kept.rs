//! The leases of a site on its disk, one small JSON file.

use super::HeldLease;
use crate::model::lease::{Epoch, Incarnation, LeaseScope, RequestNumber, WriteRecord};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// What is kept. Each change is on disk when its call returns.
pub(super) struct Kept {
    file: PathBuf,
    incarnation: Incarnation,
    leases: BTreeMap<RequestNumber, HeldLease>,
}

#[derive(Default, Serialize, Deserialize)]
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

impl Kept {
    /// Reads `file`, which need not be there, and begins the next incarnation.
    pub(super) fn open(file: &Path) -> io::Result<Self> {
        let damaged = |error| io::Error::other(format!("{} is damaged: {error}", file.display()));
        let stored: Stored = match fs::read(file) {
            Ok(text) => serde_json::from_slice(&text).map_err(damaged)?,
            Err(error) if error.kind() == ErrorKind::NotFound => Stored::default(),
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

    pub(super) fn put(&mut self, record: WriteRecord) -> io::Result<()> {
        let WriteRecord { request, scope, epoch, .. } = record;
        let before = self.leases.insert(request, HeldLease { request, scope, epoch, ready: false });
        self.write().inspect_err(|_| drop(before.map(|before| self.leases.insert(request, before))))
    }

    pub(super) fn set_ready(&mut self, request: RequestNumber) -> io::Result<()> {
        match self.leases.get_mut(&request) {
            Some(lease) if !lease.ready => lease.ready = true,
            _ => return Ok(()),
        }
        self.write()
    }

    pub(super) fn remove(&mut self, request: RequestNumber) -> io::Result<Option<HeldLease>> {
        let removed = self.leases.remove(&request);
        self.write()?;
        Ok(removed)
    }

    fn write(&self) -> io::Result<()> {
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
        kept.put(record.clone()).unwrap();
        kept.set_ready(request).unwrap();
        let mut kept = Kept::open(&file).unwrap();
        assert!(kept.incarnation() > first);
        assert_eq!(kept.records(), [record]);
        assert_eq!(kept.leases(), [HeldLease { request, scope, epoch: Epoch(7), ready: true }]);
        assert!(kept.remove(request).unwrap().is_some());
        assert!(Kept::open(&file).unwrap().leases().is_empty());
        fs::write(&file, "{").unwrap();
        assert!(Kept::open(&file).err().unwrap().to_string().contains("leases.json is damaged"));
    }
}
