//! What each request of the kernel means, in terms of a [`Volume`] and the tables of nodes and handles.
//!
//! *Invariants:* a read returns bytes of one version, which is that of its node: all that were asked for up to the end of
//! the file, or an error; no lock is held while the volume works, but that a file is changed once at a time.

mod behind;
mod changes;
mod direct;
mod directories;
mod doubted;
mod held;
mod locks;
mod moved;
mod names;
mod reading;
mod removed;
mod seek;
mod turns;

pub use crate::model::behind::Start;
pub use changes::{Copying, Writing};
pub use locks::LockAsker;

use crate::model::{Doubts, Unconfirmed, hidden, xattr};
use crate::model::{HandleTable, InodeTable, Listings, NameChanges, NodeId, Pages, Place, Sight, Touches};
use crate::volume::{Volume, WholeFile};
use behind::Unsent;
use bytes::Bytes;
use direct::DirectFiles;
use globalfs_proto::{
    Attr, FileKind, FsError, FsResult, FsStat, GlobalPath, Lasting, PathError, Target, Version,
};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, RwLock, mpsc, watch};
use turns::{Turn, Turns};

/// Bytes of a file whose reads are not worth another thread: a quarter of a chunk to hash and copy.
const SMALL_FILE: u64 = 32 * 1024;

/// The longest read that a volume is told of, in bytes.
const LONGEST_READ: u32 = 1 << 31;

/// How much earlier than names cease to count the kernel is made to forget them: so often is looked for them.
pub(crate) const OVERDUE: Duration = Duration::from_secs(1);

/// How often something is tried again that changes of this mount, or of others, have overtaken.
const MAX_TRIES: usize = 5;

/// Makes the kernel forget all pages of a node.
type DropPages = Box<dyn Fn(NodeId) + Send + Sync>;

/// A file as the kernel is told of it.
#[derive(Debug, Clone, Copy)]
pub struct Node {
    /// Its number.
    pub id: NodeId,
    /// Its attributes.
    pub attr: Attr,
    /// For how long its name and they count, so long as no change is told.
    pub lasting: Lasting,
    /// No change of names that this mount made meanwhile has overtaken them. Else they must not be kept.
    pub is_settled: bool,
}

/// One line of a listing as the kernel is told of it.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    /// The file.
    pub node: Node,
    /// Where to go on behind this line.
    pub offset_after: u64,
    /// The name; `.` and `..` come first.
    pub name: &'a [u8],
}

/// Whether a buffer took a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filled {
    /// It did.
    Taken,
    /// It did not, for want of room.
    Full,
}

/// What a reader of a directory has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// It has to ask again, if only to hear that this was all.
    More,
    /// The end of names whose changes will be told: the kernel may keep what it was told.
    End,
    /// The end of what may be out of date: the kernel must forget it before it hears so.
    OutdatedEnd,
}

/// A mounted volume: every request comes through here.
pub struct Operations<V: ?Sized> {
    inodes: Mutex<InodeTable>,
    handles: Mutex<HandleTable>,
    listings: Mutex<Listings>,
    /// How many of them nobody would tell changes of.
    unwatched_listings: AtomicU64,
    touches: Mutex<Touches>,
    /// Since when its clock runs.
    born: Instant,
    /// Where is told what the kernel should have before it asks: the number of a handle, and an offset.
    pushes: OnceLock<mpsc::Sender<(u64, u64)>>,
    /// How the kernel forgets pages.
    drop_pages: OnceLock<DropPages>,
    /// What was written and is not sent yet.
    unsent: Unsent,
    /// What the kernel writes to by itself.
    direct: DirectFiles,
    /// Nodes on which somebody here was granted a lock.
    locked: Mutex<HashSet<NodeId>>,
    turns: Turns,
    name_changes: NameChanges,
    /// Counts hidden names that have gone.
    gone: watch::Sender<u64>,
    /// Counts messages of hand-overs.
    heard: watch::Sender<u64>,
    /// Held for reading while names move, so that who missed a file knows when to look again.
    moves: RwLock<()>,
    unconfirmed: Mutex<Unconfirmed>,
    /// Names of which it is not known what became of them.
    doubts: Mutex<Doubts>,
    /// Wakes who has the kernel forget them.
    doubted: Notify,
    volume: Arc<V>,
}

impl<V: Volume + ?Sized> Operations<V> {
    /// Nothing looked up, nothing open.
    pub fn new(volume: Arc<V>) -> Self {
        Self {
            inodes: Mutex::default(),
            handles: Mutex::default(),
            listings: Mutex::default(),
            unwatched_listings: AtomicU64::new(0),
            touches: Mutex::default(),
            born: Instant::now(),
            pushes: OnceLock::new(),
            drop_pages: OnceLock::new(),
            unsent: Unsent::default(),
            direct: DirectFiles::default(),
            locked: Mutex::default(),
            turns: Turns::default(),
            name_changes: NameChanges::default(),
            gone: watch::Sender::default(),
            heard: watch::Sender::default(),
            moves: RwLock::new(()),
            unconfirmed: Mutex::default(),
            doubts: Mutex::default(),
            doubted: Notify::new(),
            volume,
        }
    }

    /// From now on `pushes` is told what the kernel should have before it asks.
    pub(crate) fn push_to(&self, pushes: mpsc::Sender<(u64, u64)>) {
        // A second one is not heard: a volume is mounted once.
        let _ = self.pushes.set(pushes);
    }

    /// From now on `drop_pages` makes the kernel forget what others have changed. It must not wait.
    pub fn drop_pages_by(&self, drop_pages: impl Fn(NodeId) + Send + Sync + 'static) {
        // A second one is not heard: a volume is mounted once.
        let _ = self.drop_pages.set(Box::new(drop_pages));
    }

    /// The kernel reads one content of `id` by itself, and others are to see the next ones: they get another node.
    pub(crate) fn part(&self, id: NodeId) {
        self.inodes.lock().part(id);
    }

    fn settle(&self, id: NodeId, pages: Pages) {
        // Of what the kernel writes to by itself it keeps no pages.
        if let (Pages::Drop, Some(drop_pages)) =
            (pages, self.drop_pages.get().filter(|_| !self.is_direct(id)))
        {
            drop_pages(id);
        }
    }

    /// The file `name` in `parent`; counts one lookup of it.
    pub async fn look_up(&self, parent: NodeId, name: &[u8]) -> FsResult<Node> {
        if hidden::is_hidden(name) {
            return Err(FsError::NOT_FOUND);
        }
        let (path, moment) = (self.path_in(parent, name)?, self.name_changes.moment());
        let mut attr = self.stat(&path).await?;
        let is_outdated = self.inodes.lock().is_outdated(&attr);
        if is_outdated {
            attr = self.volume.stat_for_open(&path).await?;
        }
        let node = self.see(Place { parent, name }, &path, &attr)?;
        // What was written may have left since the volume was asked.
        self.write_out(node.id).await;
        let attr = self.attr(node.id)?;
        Ok(Node { attr, is_settled: self.name_changes.none_since(moment), ..node })
    }

    /// `attr` is what was found at `place`, which is `path`; counts one lookup of it.
    fn see(&self, place: Place<'_>, path: &GlobalPath, attr: &Attr) -> FsResult<Node> {
        let sight = self.inodes.lock().sight(place, attr)?;
        Ok(self.seen(sight, path))
    }

    fn seen(&self, Sight { id, attr, pages }: Sight, path: &GlobalPath) -> Node {
        self.settle(id, pages);
        Node { id, attr, lasting: self.lasting(id, path, &attr), is_settled: true }
    }

    /// The kernel drops `count` lookups of `id`.
    pub fn forget(&self, id: NodeId, count: u64) {
        let mut inodes = self.inodes.lock();
        inodes.forget(id, count);
        self.forget_dead(&inodes, id);
    }

    fn forget_dead(&self, inodes: &InodeTable, id: NodeId) {
        if !inodes.lives(id) {
            self.unconfirmed.lock().forget(id);
            self.locked.lock().remove(&id);
        }
    }

    /// Attributes of `id`: of an open regular file those of its version, else the present ones.
    ///
    /// `Stale` when its place now holds something else or nothing: the kernel then looks the path up again.
    pub async fn get_attr(&self, id: NodeId) -> FsResult<Node> {
        let moment = self.name_changes.moment();
        self.write_out(id).await;
        if let Some(attr) = self.open_attr(id).await? {
            let is_settled = self.name_changes.none_since(moment);
            return Ok(Node { id, attr, lasting: Lasting::default(), is_settled });
        }
        let path = self.path(id)?;
        let attr = self.stat(&path).await.map_err(|error| self.gone_is_stale(id, error))?;
        let pages = self.refresh(id, &attr).await?;
        self.settle(id, pages);
        let attr = self.attr(id)?;
        let is_settled = self.name_changes.none_since(moment);
        Ok(Node { id, attr, lasting: self.lasting(id, &path, &attr), is_settled })
    }

    /// Those of an open regular file. Of one that is open for writing they are the newest, if it is still there.
    async fn open_attr(&self, id: NodeId) -> FsResult<Option<Attr>> {
        let (attr, is_live) = {
            let inodes = self.inodes.lock();
            (inodes.attr(id)?, inodes.follows(id))
        };
        if attr.kind != FileKind::Regular || !self.inodes.lock().is_open(id) {
            return Ok(None);
        }
        // What is being changed is known when it has been.
        if is_live && let Some(_turn) = self.turns.try_take(id) {
            match self.stat(&self.path(id)?).await.map_err(|error| self.gone_is_stale(id, error)) {
                Ok(attr) => {
                    let pages = self.inodes.lock().refresh(id, &attr);
                    self.settle(id, pages.unwrap_or(Pages::Keep));
                }
                Err(FsError::Stale(_)) => {}
                Err(error) => return Err(error),
            }
        }
        self.attr(id).map(Some)
    }

    /// A place that holds nothing any more: the kernel is to look the path up again, which gives the application the right
    /// error, or the file under its other name.
    fn gone_is_stale(&self, id: NodeId, error: FsError) -> FsError {
        if !is_gone(&error) {
            return error;
        }
        self.inodes.lock().doubt(id);
        if matches!(error, FsError::Stale(_)) { error } else { FsError::Stale(None) }
    }

    /// Where the symbolic link `id` points.
    pub async fn read_link(&self, id: NodeId) -> FsResult<Bytes> {
        self.volume.read_link(&self.path(id)?).await.map_err(|error| self.gone_is_stale(id, error))
    }

    /// The value of extended attribute `name` of `id`.
    pub async fn get_xattr(&self, id: NodeId, name: &[u8]) -> FsResult<Bytes> {
        if xattr::is_hidden(name) {
            return Err(xattr::NOT_SUPPORTED);
        }
        self.volume.get_xattr(&self.path(id)?, name).await.map_err(|error| xattr::absent(name, error))
    }

    /// The names of the extended attributes of `id` that the user `uid` may see, each with a final NUL.
    pub async fn list_xattr(&self, id: NodeId, uid: u32) -> FsResult<Bytes> {
        self.volume.list_xattr(&self.path(id)?).await.map(|names| xattr::shown_to(uid, names))
    }

    /// Totals of the file system that holds `id`.
    pub async fn fs_stat(&self, id: NodeId) -> FsResult<FsStat> {
        self.volume.fs_stat(&self.path(id)?).await
    }

    /// Opens the regular file `id` and pins its version. `Stale` when its place now holds another
    /// version: the kernel then looks the path up again and opens the node that it finds.
    pub async fn open(&self, id: NodeId) -> FsResult<u64> {
        self.open_to(id, false).await.map(|(handle, _)| handle)
    }

    /// The same, to write as well if `writes`; and whether the pages that the kernel has are right.
    pub(crate) async fn open_to(&self, id: NodeId, writes: bool) -> FsResult<(u64, Pages)> {
        self.write_out(id).await;
        let path = self.path(id)?;
        if writes {
            let target = Target { path: path.clone(), file: self.inodes.lock().attr(id)?.file };
            if !self.volume.is_writable(target).await {
                return Err(FsError::READ_ONLY);
            }
        }
        let attr = self.volume.stat_for_open(&path).await.map_err(|error| self.gone_is_stale(id, error))?;
        // What the kernel is being given of the file is there before somebody writes over it.
        let _turn = if writes { Some(self.turns.take(id).await?) } else { None };
        let mut inodes = self.inodes.lock();
        let pages = inodes.refresh(id, &attr)?;
        if writes {
            inodes.go_live(id)?;
        }
        inodes.pin(id)?;
        Ok((self.handles.lock().open(id, writes), pages))
    }

    /// Tells the volume which thread has opened the file behind `handle`.
    pub async fn tell_opener(&self, handle: u64, tid: u32) -> FsResult<()> {
        let (node, version) = self.opened(handle)?;
        self.volume.opened(handle, tid, &self.path(node)?, version.size).await;
        Ok(())
    }

    /// What `handle` is open on, and which content is read of it.
    fn opened(&self, handle: u64) -> FsResult<(NodeId, Version)> {
        let node = self.handles.lock().node(handle)?;
        self.learn(node);
        Ok((node, self.inodes.lock().version(node)?))
    }

    /// A local file with all that `handle` may read.
    pub async fn whole_file(&self, handle: u64) -> Option<WholeFile> {
        let (node, version) = self.opened(handle).ok()?;
        self.volume.whole_file(&self.path(node).ok()?, version).await
    }

    /// The kernel reads the file behind `handle` by itself from now on, and nobody sees what of it: all, for all we know.
    pub fn passed_through(&self, handle: u64) {
        let Ok((_, version)) = self.opened(handle) else { return };
        let mut offset = 0;
        while offset < version.size {
            let length = (version.size - offset).min(LONGEST_READ.into());
            self.volume.reading(handle, offset, length as u32);
            offset += length;
        }
    }

    /// Whether the file behind `handle` is so small that to read it is quickly done, once it is here.
    pub fn is_small(&self, handle: u64) -> bool {
        self.opened(handle).is_ok_and(|(_, version)| version.size <= SMALL_FILE)
    }

    /// `id` was not at `path`: whether this mount has moved it. Waits for moves that are under way.
    async fn has_moved(&self, id: NodeId, path: &GlobalPath) -> bool {
        drop(self.moves.write().await);
        self.path(id).is_ok_and(|now| now != *path)
    }

    /// Directories whose names the kernel may keep no longer. To be asked every [`OVERDUE`].
    pub(crate) fn outlasted(&self) -> Vec<NodeId> {
        self.inodes.lock().take_outlasted(self.born.elapsed())
    }

    /// All directories whose names the kernel keeps.
    pub(crate) fn all_kept(&self) -> Vec<NodeId> {
        self.inodes.lock().take_outlasted(Duration::MAX)
    }

    /// The kernel is about to forget the names in `directory`.
    pub(crate) fn forget_names(&self, directory: NodeId) {
        self.inodes.lock().forget_names(directory);
    }

    /// The directory that the kernel knows at `path`.
    pub fn directory_at(&self, path: &GlobalPath) -> Option<NodeId> {
        self.inodes.lock().directory_at(path)
    }

    /// Calls `forget` with every place where a node was last seen that lies in `directory`, or anywhere. No lock is held
    /// meanwhile.
    pub fn each_place(&self, directory: Option<NodeId>, mut forget: impl FnMut(NodeId, &[u8])) {
        let nodes = self.inodes.lock().nodes_in(directory);
        for id in nodes {
            let place = self.inodes.lock().place(id);
            place.iter().for_each(|(parent, name)| forget(*parent, name));
        }
    }

    /// Nodes that the kernel holds, the root included, and open handles.
    pub fn counts(&self) -> (usize, usize) {
        (self.inodes.lock().len(), self.handles.lock().len())
    }

    fn path(&self, id: NodeId) -> FsResult<GlobalPath> {
        self.inodes.lock().path(id)
    }

    fn path_in(&self, parent: NodeId, name: &[u8]) -> FsResult<GlobalPath> {
        self.path(parent)?.join(name).map_err(name_error)
    }
}

fn is_gone(error: &FsError) -> bool {
    matches!(error, FsError::Stale(_) | &FsError::NOT_FOUND | &FsError::NOT_A_DIRECTORY)
}

fn name_error(error: PathError) -> FsError {
    const EINVAL: i32 = 22;
    const ENAMETOOLONG: i32 = 36;
    FsError::Os(if error == PathError::TooLong { ENAMETOOLONG } else { EINVAL })
}
