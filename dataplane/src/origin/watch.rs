//! What others change in an origin beside GlobalFS: the kernel's word (inotify) on the directories that were told
//! to somebody, where the file system sees all changes itself.
//!
//! A directory is watched first and read then, so a change is either in the listing or told. With it all that are
//! above it are watched, from the root down, and each is looked up again once its watch is in place: who moves
//! one of them from then on is seen. What no watch sees is a write through a mapping until the file is closed,
//! and through a name in another directory; answers do not count for ever because of these.
//!
//! *Invariants:* a watch is forgotten here before its loss is told; at most [`MAX_WATCHES`] directories are
//! watched; where the kernel refuses a watch the directory is simply not watched.

use super::tree::{Tree, device, os, proc_path, statx};
use crate::changes::Hub;
use crate::model::watches::{State, WatchNumber, Watches};
use bytes::Bytes;
use globalfs_proto::{ChangedDirectory, Changes, FsResult, GlobalPath};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

/// Directories watched at a time; the kernel's memory for one is about a kilobyte.
const MAX_WATCHES: usize = 32 * 1024;

/// The share of what the kernel grants one user that we take: others watch, too.
const SHARE: usize = 4;

/// What changes within this time is told together. The first change is told at once.
const GATHER: Duration = Duration::from_millis(5);

/// Bytes of events taken from the kernel at a time.
const EVENT_BUFFER: usize = 64 * 1024;

/// How soon the end of the origin is noticed.
const LOOK_AROUND: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// What changes a name in a directory, or what it stands for.
const OF_NAMES: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ATTRIB);

/// What takes a directory away from its place.
const OF_PLACES: WatchFlags = WatchFlags::DELETE.union(WatchFlags::MOVE);

/// File systems on which the kernel sees each change, since nobody else writes to them. On others a change made
/// on another machine would never be told.
const LOCAL_FILE_SYSTEMS: &[u32] = &[
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
    0x2fc1_2fc1, // zfs
    0xf2f5_2010, // f2fs
    0xca45_1a4e, // bcachefs
    0x794c_7630, // overlayfs
];

/// The watches of one origin.
pub(super) struct Watcher {
    /// The origin's directory without links.
    dir: PathBuf,
    /// Shared with the thread that reads it.
    inotify: Arc<OwnedFd>,
    watches: Mutex<Watches>,
    most: usize,
    hub: Hub,
    is_running: AtomicBool,
    /// Nothing is told, so nothing is watched.
    is_broken: AtomicBool,
}

impl Watcher {
    /// `None` where the kernel grants none; then nothing is watched.
    pub(super) fn new(dir: &Path) -> Option<Arc<Self>> {
        Self::of_at_most(dir, granted().clamp(1, MAX_WATCHES))
    }

    fn of_at_most(dir: &Path, most: usize) -> Option<Arc<Self>> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)
            .inspect_err(|error| tracing::warn!(%error, "changes of the origin cannot be watched"))
            .ok()?;
        Some(Arc::new(Self {
            dir: dir.canonicalize().unwrap_or_else(|_| dir.to_owned()),
            inotify: Arc::new(inotify),
            watches: Mutex::default(),
            most,
            hub: Hub::default(),
            is_running: AtomicBool::new(false),
            is_broken: AtomicBool::new(false),
        }))
    }

    /// Where changes are told. From the first call on they are.
    pub(super) fn hub(self: &Arc<Self>) -> &Hub {
        if !self.is_running.swap(true, Ordering::AcqRel) {
            let (watcher, inotify) = (Arc::downgrade(self), self.inotify.clone());
            let run =
                thread::Builder::new().name("globalfs-watch".to_owned()).spawn(|| run(watcher, inotify));
            if let Err(error) = run {
                tracing::warn!(%error, "changes of the origin cannot be watched");
                self.is_broken.store(true, Ordering::Release);
            }
        }
        &self.hub
    }

    /// Directories watched now.
    pub(super) fn len(&self) -> usize {
        self.watches.lock().len()
    }

    /// Watches `path` and all above it, if somebody listens. Whether changes from now on are told.
    pub(super) fn watch(&self, tree: &Tree, path: &GlobalPath) -> bool {
        if !self.hub.is_heard() || self.is_broken.load(Ordering::Acquire) {
            return false;
        }
        let mut chain: Vec<GlobalPath> =
            std::iter::successors(Some(path.clone()), GlobalPath::parent).collect();
        chain.reverse();
        let above = chain.len() - 1;
        let watched = chain.iter().enumerate().all(|(n, directory)| {
            let wanted = if n == above { State::Told } else { State::Above };
            self.watch_one(tree, directory, wanted).unwrap_or(false)
        });
        watched && self.watches.lock().state(path) == State::Told
    }

    fn watch_one(&self, tree: &Tree, path: &GlobalPath, wanted: State) -> FsResult<bool> {
        {
            let mut watches = self.watches.lock();
            let state = watches.state(path);
            if state == State::Told && wanted == State::Told {
                watches.tell(path);
            }
            if state == State::Told || state == wanted {
                return Ok(true);
            }
        }
        // A file system that others change, or that hangs, is met before the lock is taken.
        let found = tree.find(path).map_err(os)?;
        if !is_local(&found) {
            return Ok(false);
        }
        let mut watches = self.watches.lock();
        self.make_room(&mut watches);
        let flags = if wanted == State::Told { OF_NAMES } else { OF_PLACES };
        let flags = flags | WatchFlags::ONLYDIR | WatchFlags::MASK_ADD;
        let number = inotify::add_watch(&self.inotify, proc_path(&found), flags).map_err(os)?;
        if !watches.add(path, number) {
            return Ok(false);
        }
        // Whoever moved it away before the watch was in place is seen here, and later ones in events.
        let (there, here) = (statx(&tree.find(path).map_err(os)?).map_err(os)?, statx(&found).map_err(os)?);
        if (device(&there), there.stx_ino) != (device(&here), here.stx_ino) {
            let gone = watches.remove_tree(path);
            self.remove(&gone);
            return Ok(false);
        }
        if wanted == State::Told {
            watches.tell(path);
        }
        Ok(true)
    }

    fn make_room(&self, watches: &mut Watches) {
        while watches.len() >= self.most {
            let Some((number, path)) = watches.give_up() else { return };
            self.remove(number.as_slice());
            let whole = ChangedDirectory { path, names: Vec::new() };
            self.hub.tell(Arc::new(Changes::of(vec![whole])));
        }
    }

    /// Takes watches from the kernel, which may have dropped them by itself.
    fn remove(&self, numbers: &[WatchNumber]) {
        for number in numbers {
            let _ = inotify::remove_watch(&self.inotify, *number);
        }
    }

    /// Events were lost, or file systems came or went: nothing that was told is certain any more.
    fn start_anew(&self) {
        let all = self.watches.lock().clear();
        self.remove(&all);
        self.hub.tell(Arc::new(Changes::everything()));
    }

    /// Tells all events that wait now.
    fn tell_events(&self) {
        let (mut buffer, mut gathered) = (vec![MaybeUninit::uninit(); EVENT_BUFFER], Gathered::default());
        let mut events = Reader::new(&self.inotify, &mut buffer);
        loop {
            match events.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| Bytes::copy_from_slice(name.to_bytes()));
                    self.note(event.wd(), event.events(), name, &mut gathered);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => {
                    tracing::warn!(%error, "reading changes of the origin");
                    gathered.everything = true;
                    break;
                }
            }
        }
        if gathered.everything {
            return self.start_anew();
        }
        let directories = gathered.directories.into_iter();
        let directories: Vec<_> = directories
            .map(|(path, names)| ChangedDirectory { path, names: names.into_iter().collect() })
            .collect();
        if !directories.is_empty() {
            self.hub.tell(Arc::new(Changes::of(directories)));
        }
    }

    fn note(&self, number: WatchNumber, events: ReadFlags, name: Option<Bytes>, gathered: &mut Gathered) {
        if events.intersects(ReadFlags::QUEUE_OVERFLOW | ReadFlags::UNMOUNT) {
            gathered.everything = true;
            return;
        }
        let mut watches = self.watches.lock();
        if events.contains(ReadFlags::IGNORED) {
            watches.dropped(number);
            return;
        }
        let Some((path, is_told)) = watches.directory(number) else { return };
        match name {
            Some(name) => {
                let moves =
                    events.intersects(ReadFlags::MOVED_FROM | ReadFlags::MOVED_TO | ReadFlags::DELETE);
                if moves
                    && events.contains(ReadFlags::ISDIR)
                    && let Ok(child) = path.join(&name)
                {
                    let gone = watches.remove_tree(&child);
                    self.remove(&gone);
                }
                // What lies below a directory that moved was told to somebody, perhaps.
                if is_told || moves {
                    gathered.directories.entry(path).or_default().insert(name);
                }
            }
            // The directory's own attributes, which it also has as an entry of the one that holds it.
            None => match path.parent() {
                Some(parent) => {
                    let name = Bytes::copy_from_slice(path.name());
                    gathered.directories.entry(parent).or_default().insert(name);
                }
                None => gathered.everything = true,
            },
        }
    }
}

/// What one batch of events says.
#[derive(Default)]
struct Gathered {
    everything: bool,
    directories: BTreeMap<GlobalPath, BTreeSet<Bytes>>,
}

/// Waits for events in a thread of its own until the origin is closed.
fn run(watcher: Weak<Watcher>, inotify: Arc<OwnedFd>) {
    // What is mounted inside the origin hides what was told, and no watch tells so.
    let mut within = watcher.upgrade().map(|watcher| mounts_within(&watcher.dir));
    let mounts = File::open("/proc/self/mountinfo").ok();
    let mut waiting = vec![PollFd::from_borrowed_fd(inotify.as_fd(), PollFlags::IN)];
    waiting.extend(mounts.iter().map(|file| PollFd::from_borrowed_fd(file.as_fd(), PollFlags::PRI)));
    loop {
        let polled = rustix::event::poll(&mut waiting, Some(&LOOK_AROUND));
        let Some(watcher) = watcher.upgrade() else { return };
        match polled {
            Ok(0) | Err(Errno::INTR) => continue,
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "changes of the origin are watched no more");
                watcher.is_broken.store(true, Ordering::Release);
                return watcher.start_anew();
            }
        }
        if waiting.get(1).is_some_and(|mounts| !mounts.revents().is_empty()) {
            let now = Some(mounts_within(&watcher.dir));
            if std::mem::replace(&mut within, now.clone()) != now {
                watcher.start_anew();
            }
        }
        watcher.tell_events();
        drop(watcher);
        thread::sleep(GATHER);
    }
}

/// What is mounted in `dir` or below it: the lines of the kernel's table.
fn mounts_within(dir: &Path) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let is_within = |line: &&str| {
        let place = line.split(' ').nth(4).map(unescaped).unwrap_or_default();
        Path::new(OsStr::from_bytes(&place)).starts_with(dir)
    };
    table.lines().filter(is_within).map(str::to_owned).collect()
}

/// A path of that table, in which blanks and backslashes are `\` and three octal digits.
fn unescaped(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((&first, more)) = rest.split_first() {
        let code = more.first_chunk::<3>().and_then(|digits| std::str::from_utf8(digits).ok());
        match code.filter(|_| first == b'\\').and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &more[3..];
            }
            None => {
                bytes.push(first);
                rest = more;
            }
        }
    }
    bytes
}

/// Whether this machine alone writes to the file system on which what `handle` refers to lies.
pub(super) fn is_local(handle: impl AsFd) -> bool {
    let kind = rustix::fs::fstatfs(handle).map(|stat| stat.f_type as u32);
    kind.is_ok_and(|kind| LOCAL_FILE_SYSTEMS.contains(&kind))
}

/// Directories that the kernel lets one user watch, our share of them.
fn granted() -> usize {
    let text = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_watches");
    let most = text.ok().and_then(|text| text.trim().parse::<usize>().ok());
    most.map_or(1024, |most| most / SHARE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt;
    use globalfs_proto::SiteName;

    #[tokio::test]
    async fn for_a_directory_too_many_another_is_given_up_and_that_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = |text: &str| GlobalPath::new(text.as_bytes()).unwrap();
        for name in ["a", "b", "c"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let tree = Tree::open(dir.path(), &SiteName::new("onprem").unwrap()).unwrap();
        let watcher = Watcher::of_at_most(dir.path(), 3).unwrap();
        let mut changes = watcher.hub().subscribe();
        for name in ["/", "/a", "/b", "/a", "/c"] {
            assert!(watcher.watch(&tree, &path(name)), "{name}");
            assert!(watcher.len() <= 3);
        }
        let told = changes.next().await.unwrap();
        let whole = ChangedDirectory { path: path("/b"), names: Vec::new() };
        assert_eq!(told.directories, [whole], "the one that was told longest ago and is above no other");
        std::fs::write(dir.path().join("b/unseen"), "").unwrap();
        std::fs::write(dir.path().join("c/seen"), "").unwrap();
        assert_eq!(changes.next().await.unwrap().directories[0].path, path("/c"));
    }

    #[test]
    fn mounts_elsewhere_are_none_of_ours() {
        assert_eq!(unescaped(r"/a\040b\134c\9"), br"/a b\c\9");
        assert!(!mounts_within(Path::new("/proc")).is_empty());
        assert!(mounts_within(tempfile::tempdir().unwrap().path()).is_empty());
        assert!(mounts_within(Path::new("/pro")).is_empty());
    }
}
