//! A directory of traces, one file each, within limits of number and size. `docs/format.md` tells the layout.
//!
//! Beside the traces lies an outbox: the runs that another site has yet to be told of, the last one of each
//! name.
//!
//! *Invariants:* a file is written beside its place, synced and renamed, so that a crash leaves the old trace or
//! the new one; a file that is no trace is left where it is and never served. All of it blocks the thread.

use super::model::{Trace, merge};
use super::stored::{self, StoredError};
use bytes::Bytes;
use globalfs_proto::limits::{MAX_TRACE_BYTES, MAX_TRACES};
use globalfs_proto::{PutTrace, TraceName, TraceSummary};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Disk space of all traces of a site.
const MAX_STORE_BYTES: u64 = 256 * 1024 * 1024;

/// What the file of a trace ends with.
const ENDING: &str = ".trace";

/// What the file of a run ends with that replaces an earlier trace when it arrives.
const REPLACING: &str = ".replace";

/// Why a trace cannot be kept or given.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It is not there.
    #[error("there is no such trace")]
    Missing,
    /// What was to be kept is no trace: the sender has to mend it.
    #[error(transparent)]
    NoTrace(#[from] StoredError),
    /// The disk said no: an administrator has to look.
    #[error("traces cannot be kept: {0}")]
    Disk(#[from] io::Error),
}

/// The traces of a site.
pub struct Store {
    dir: PathBuf,
    entries: Mutex<HashMap<TraceName, Entry>>,
}

struct Entry {
    summary: TraceSummary,
    bytes: u64,
    /// When it was put or asked for: the least recent one goes first.
    used: SystemTime,
}

impl Store {
    /// Opens the store in `dir`, which is made if missing.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(dir.join("outbox"))?;
        let mut entries = HashMap::new();
        for (name, path) in names_in(dir, ENDING)? {
            match read(&path).and_then(|bytes| Ok((bytes.len(), stored::decode(&bytes)?))) {
                Ok((length, trace)) => {
                    let used = fs::metadata(&path)?.modified()?;
                    let summary = trace.summary(name.clone());
                    entries.insert(name, Entry { summary, bytes: length as u64, used });
                }
                Err(error) => tracing::warn!(%error, path = %path.display(), "a trace cannot be used"),
            }
        }
        Ok(Self { dir: dir.to_owned(), entries: Mutex::new(entries) })
    }

    /// Keeps a run in its stored form: in place of an earlier trace of the name, or merged with it.
    pub fn put(&self, name: &TraceName, replace: bool, run: &[u8]) -> Result<(), StoreError> {
        let new = stored::decode(run)?;
        let mut entries = self.entries.lock();
        let old = if replace { None } else { self.find(&entries, name) };
        let merged = old.map_or(new.clone(), |old| merge(&old, &new));
        let bytes = stored::encode(&merged);
        write_whole(&self.path(name), &bytes)?;
        let (summary, bytes) = (merged.summary(name.clone()), bytes.len() as u64);
        entries.insert(name.clone(), Entry { summary, bytes, used: SystemTime::now() });
        self.make_room(&mut entries, name);
        Ok(())
    }

    /// An old trace that cannot be read any more is as good as none.
    fn find(&self, entries: &HashMap<TraceName, Entry>, name: &TraceName) -> Option<Trace> {
        entries.get(name)?;
        stored::decode(&read(&self.path(name)).ok()?).ok()
    }

    /// The stored form of a trace.
    pub fn get(&self, name: &TraceName) -> Result<Bytes, StoreError> {
        let mut entries = self.entries.lock();
        entries.get_mut(name).ok_or(StoreError::Missing)?.used = SystemTime::now();
        let bytes = read(&self.path(name))?;
        stored::decode(&bytes)?;
        Ok(bytes.into())
    }

    /// All traces, by name.
    pub fn list(&self) -> Vec<TraceSummary> {
        let mut all: Vec<_> = self.entries.lock().values().map(|entry| entry.summary.clone()).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Forgets a trace, also where it has yet to be forwarded.
    pub fn remove(&self, name: &TraceName) -> Result<(), StoreError> {
        self.posted(name)?;
        let mut entries = self.entries.lock();
        entries.remove(name).ok_or(StoreError::Missing)?;
        Ok(gone(&self.path(name))?)
    }

    fn make_room(&self, entries: &mut HashMap<TraceName, Entry>, keep: &TraceName) {
        let too_much = |entries: &HashMap<TraceName, Entry>| {
            entries.len() > MAX_TRACES || entries.values().map(|e| e.bytes).sum::<u64>() > MAX_STORE_BYTES
        };
        while too_much(entries) {
            let others = entries.iter().filter(|(name, _)| *name != keep);
            let Some(oldest) = others.min_by_key(|(_, entry)| entry.used).map(|(name, _)| name.clone())
            else {
                return;
            };
            entries.remove(&oldest);
            if let Err(error) = gone(&self.path(&oldest)) {
                tracing::warn!(%error, trace = %oldest, "an old trace cannot be removed");
            }
        }
    }

    /// Puts a run into the outbox.
    pub fn post(&self, parcel: &PutTrace) -> Result<(), StoreError> {
        self.posted(&parcel.name)?;
        let ending = if parcel.replace { REPLACING } else { ENDING };
        Ok(write_whole(&self.outbox(&parcel.name, ending), &parcel.trace)?)
    }

    /// Takes a run out of the outbox.
    pub fn posted(&self, name: &TraceName) -> Result<(), StoreError> {
        [ENDING, REPLACING].into_iter().try_for_each(|ending| gone(&self.outbox(name, ending)))?;
        Ok(())
    }

    /// What is in the outbox.
    pub fn parcels(&self) -> Result<Vec<PutTrace>, StoreError> {
        let mut parcels = Vec::new();
        for ending in [ENDING, REPLACING] {
            for (name, path) in names_in(&self.dir.join("outbox"), ending)? {
                parcels.push(PutTrace { name, replace: ending == REPLACING, trace: read(&path)?.into() });
            }
        }
        Ok(parcels)
    }

    fn path(&self, name: &TraceName) -> PathBuf {
        self.dir.join(file_name(name, ENDING))
    }

    fn outbox(&self, name: &TraceName, ending: &str) -> PathBuf {
        self.dir.join("outbox").join(file_name(name, ending))
    }
}

/// A name has no `%` itself.
fn file_name(name: &TraceName, ending: &str) -> String {
    name.as_str().replace('/', "%") + ending
}

fn names_in(dir: &Path, ending: &str) -> io::Result<Vec<(TraceName, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(ending));
        if let Some(Ok(name)) = name.map(|name| TraceName::new(&name.replace('%', "/"))) {
            found.push((name, path));
        }
    }
    Ok(found)
}

/// No more of a file than a trace may have.
fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_TRACE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_TRACE_BYTES {
        return Err(StoredError::Damaged("it is too large".to_owned()).into());
    }
    Ok(bytes)
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".tmp");
    let mut file = File::create(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}

fn gone(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::{Recording, TracedRead};
    use super::*;
    use globalfs_proto::{ByteRange, GlobalPath};

    fn name(text: &str) -> TraceName {
        TraceName::new(text).unwrap()
    }

    fn run(number: u64, file: &str) -> Bytes {
        let mut recording = Recording::default();
        let file = recording.opened(&GlobalPath::new(file.as_bytes()).unwrap(), 10).unwrap();
        recording.read(file, ByteRange::new(0, 10).unwrap());
        stored::encode(&recording.trace(number, number as i64))
    }

    #[test]
    fn what_is_put_survives_and_runs_are_merged() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.put(&name("job/a/b"), false, &run(1, "/x")).unwrap();
        store.put(&name("job/a/b"), false, &run(2, "/y")).unwrap();
        store.put(&name("other"), false, &run(1, "/x")).unwrap();
        store.put(&name("other"), true, &run(2, "/y")).unwrap();
        drop(store);
        fs::write(dir.path().join("junk.trace"), "junk").unwrap();
        let store = Store::open(dir.path()).unwrap();
        let listed = store.list();
        let told: Vec<_> = listed.iter().map(|t| (t.name.as_str(), t.files, t.runs, t.bytes)).collect();
        assert_eq!(told, [("job/a/b", 2, 2, 20), ("other", 1, 1, 10)]);
        let trace = stored::decode(&store.get(&name("job/a/b")).unwrap()).unwrap();
        let missed = |read: &TracedRead| (trace.files[read.file as usize].path.to_string(), read.missed);
        assert_eq!(trace.reads.iter().map(missed).collect::<Vec<_>>(), [("/y".into(), 0), ("/x".into(), 1)]);
        store.remove(&name("other")).unwrap();
        assert!(matches!(store.remove(&name("other")), Err(StoreError::Missing)));
        assert!(matches!(store.get(&name("junk")), Err(StoreError::Missing)));
        assert!(matches!(store.put(&name("c"), false, b"junk"), Err(StoreError::NoTrace(_))));
        assert_eq!(Store::open(dir.path()).unwrap().list().len(), 1);
    }

    #[test]
    fn the_outbox_holds_the_last_run_of_each_name() {
        let dir = tempfile::tempdir().unwrap();
        let parcel = |replace, number| PutTrace { name: name("a/b"), replace, trace: run(number, "/x") };
        let store = Store::open(dir.path()).unwrap();
        store.post(&parcel(false, 1)).unwrap();
        store.post(&parcel(true, 2)).unwrap();
        assert_eq!(Store::open(dir.path()).unwrap().parcels().unwrap(), [parcel(true, 2)]);
        store.posted(&name("a/b")).unwrap();
        assert!(store.parcels().unwrap().is_empty());
    }

    #[test]
    fn the_number_of_traces_is_limited() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for n in 0..=MAX_TRACES {
            store.put(&name(&format!("t{n}")), false, &run(1, "/x")).unwrap();
        }
        assert_eq!(store.list().len(), MAX_TRACES);
        assert!(matches!(store.get(&name("t0")), Err(StoreError::Missing)));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), MAX_TRACES + 1);
    }
}
