//! What each request of the kernel means, in terms of a [`Volume`] and the tables of nodes and handles.
//!
//! *Invariants:* a read returns bytes of the version that its handle was opened with, all that were asked
//! for up to the end of the file, or an error; no lock is held while the volume works.

use crate::model::xattr;
use crate::model::{
    HandleTable, InodeTable, Listing, Listings, Mark, NodeId, Offset, OpenFile, Place, Position, Touches,
};
use crate::volume::{Names, Volume, WholeFile};
use bytes::Bytes;
use globalfs_proto::{Attr, ByteRange, FileKind, FsError, FsResult, FsStat, GlobalPath, Lasting, PathError};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Bytes of a file whose reads are not worth another thread: a quarter of a chunk to hash and copy.
const SMALL_FILE: u64 = 32 * 1024;

/// The longest read that a volume is told of, in bytes.
const LONGEST_READ: u32 = 1 << 31;

/// How much earlier than names cease to count the kernel is made to forget them: so often is looked for them.
pub(crate) const OVERDUE: Duration = Duration::from_secs(1);

/// A file as the kernel is told of it.
#[derive(Debug, Clone, Copy)]
pub struct Node {
    /// Its number.
    pub id: NodeId,
    /// Its attributes.
    pub attr: Attr,
    /// For how long its name and they count, so long as no change is told.
    pub lasting: Lasting,
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
            volume,
        }
    }

    /// From now on `pushes` is told what the kernel should have before it asks.
    pub(crate) fn push_to(&self, pushes: mpsc::Sender<(u64, u64)>) {
        // A second one is not heard: a volume is mounted once.
        let _ = self.pushes.set(pushes);
    }

    /// The file `name` in `parent`; counts one lookup of it.
    pub async fn look_up(&self, parent: NodeId, name: &[u8]) -> FsResult<Node> {
        let path = self.path(parent)?.join(name).map_err(name_error)?;
        let attr = self.volume.stat(&path).await?;
        let id = self.inodes.lock().look_up(Place { parent, name }, &attr)?;
        Ok(Node { id, attr, lasting: self.volume.lasting(&path, &attr) })
    }

    /// The kernel drops `count` lookups of `id`.
    pub fn forget(&self, id: NodeId, count: u64) {
        self.inodes.lock().forget(id, count);
    }

    /// Attributes of `id`: of an open regular file those of its version, else the present ones.
    ///
    /// `Stale` when its place now holds something else or nothing: the kernel then looks the path up again.
    pub async fn get_attr(&self, id: NodeId) -> FsResult<Node> {
        if let Some(attr) = self.pinned_attr(id)? {
            return Ok(Node { id, attr, lasting: Lasting::default() });
        }
        let path = self.path(id)?;
        let attr = self.volume.stat(&path).await.map_err(gone_is_stale)?;
        self.inodes.lock().refresh(id, &attr)?;
        Ok(Node { id, attr, lasting: self.volume.lasting(&path, &attr) })
    }

    fn pinned_attr(&self, id: NodeId) -> FsResult<Option<Attr>> {
        let inodes = self.inodes.lock();
        let attr = inodes.attr(id)?;
        Ok((attr.kind == FileKind::Regular && inodes.is_open(id)).then_some(attr))
    }

    /// Where the symbolic link `id` points.
    pub async fn read_link(&self, id: NodeId) -> FsResult<Bytes> {
        self.volume.read_link(&self.path(id)?).await.map_err(gone_is_stale)
    }

    /// The value of extended attribute `name` of `id`.
    pub async fn get_xattr(&self, id: NodeId, name: &[u8]) -> FsResult<Bytes> {
        if xattr::is_hidden(name) {
            return Err(xattr::NOT_SUPPORTED);
        }
        self.volume.get_xattr(&self.path(id)?, name).await.map_err(|error| xattr::absent(name, error))
    }

    /// The names of the extended attributes of `id`, each with a final NUL.
    pub async fn list_xattr(&self, id: NodeId) -> FsResult<Bytes> {
        self.volume.list_xattr(&self.path(id)?).await.map(xattr::without_hidden)
    }

    /// Totals of the file system that holds `id`.
    pub async fn fs_stat(&self, id: NodeId) -> FsResult<FsStat> {
        self.volume.fs_stat(&self.path(id)?).await
    }

    /// Opens the regular file `id` and pins its version. `Stale` when its place now holds another
    /// version: the kernel then looks the path up again and opens the node that it finds.
    pub async fn open(&self, id: NodeId) -> FsResult<u64> {
        let path = self.path(id)?;
        let attr = self.volume.stat_for_open(&path).await.map_err(gone_is_stale)?;
        let mut inodes = self.inodes.lock();
        inodes.refresh(id, &attr)?;
        inodes.pin(id)?;
        Ok(self.handles.lock().open(OpenFile { node: id, version: attr.version() }))
    }

    /// Tells the volume which thread has opened the file behind `handle`.
    pub async fn tell_opener(&self, handle: u64, tid: u32) -> FsResult<()> {
        let OpenFile { node, version } = self.handles.lock().file(handle)?;
        self.volume.opened(handle, tid, &self.path(node)?, version.size).await;
        Ok(())
    }

    /// A local file with all that `handle` may read.
    pub async fn whole_file(&self, handle: u64) -> Option<WholeFile> {
        let OpenFile { node, version } = self.handles.lock().file(handle).ok()?;
        self.volume.whole_file(&self.path(node).ok()?, version).await
    }

    /// The kernel reads the file behind `handle` by itself from now on, and nobody sees what of it: all, for all we know.
    pub fn passed_through(&self, handle: u64) {
        let Ok(OpenFile { version, .. }) = self.handles.lock().file(handle) else { return };
        let mut offset = 0;
        while offset < version.size {
            let length = (version.size - offset).min(LONGEST_READ.into());
            self.volume.reading(handle, offset, length as u32);
            offset += length;
        }
    }

    /// Whether the file behind `handle` is so small that to read it is quickly done, once it is here.
    pub fn is_small(&self, handle: u64) -> bool {
        self.handles.lock().file(handle).is_ok_and(|file| file.version.size <= SMALL_FILE)
    }

    /// Up to `length` bytes at `offset` of the version that `handle` pins; fewer only at the end.
    pub async fn read(&self, handle: u64, offset: u64, length: u32) -> FsResult<Vec<Bytes>> {
        let OpenFile { node, version } = self.handles.lock().file(handle)?;
        let Some(range) = ByteRange::of_read(offset, length.into(), version.size) else {
            return Ok(Vec::new());
        };
        self.volume.reading(handle, offset, length);
        let (path, wanted) = (self.path(node)?, range.length());
        let length = u32::try_from(wanted).expect("a read is no longer than was asked");
        let pieces = self.volume.read(&path, version, offset, length).await.map_err(gone_is_stale)?;
        let got: u64 = pieces.iter().map(|p| p.len() as u64).sum();
        if got != wanted {
            return Err(FsError::Protocol(format!("{got} bytes instead of {wanted} at {offset} of {path}")));
        }
        Ok(pieces)
    }

    /// `length` bytes at `offset` were just read through the page cache. Who comes back to a part of a file may find all
    /// of it there soon.
    pub(crate) fn come_by(&self, handle: u64, offset: u64, length: u32) {
        let Some(pushes) = self.pushes.get() else { return };
        let Ok(OpenFile { node, version }) = self.handles.lock().file(handle) else { return };
        if self.touches.lock().read(node, offset, length.into(), version.size) {
            // When too many wait it is left out.
            let _ = pushes.try_send((handle, offset));
        }
    }

    /// The part around `offset` that the volume has here: of which node, from which offset on, and its bytes.
    pub(crate) async fn held_around(&self, handle: u64, offset: u64) -> Option<(NodeId, u64, Bytes)> {
        let OpenFile { node, version } = self.handles.lock().file(handle).ok()?;
        let (start, bytes) = self.volume.held_around(version, offset).await?;
        Some((node, start, bytes))
    }

    /// Closes a file.
    pub fn release(&self, handle: u64) -> FsResult<()> {
        let closed = self.handles.lock().close(handle)?;
        self.inodes.lock().unpin(closed.node);
        self.volume.closed(handle);
        Ok(())
    }

    /// Offers the lines of directory `id` behind `offset` to `take` until it is full. Counts no lookups.
    pub async fn read_dir(
        &self,
        id: NodeId,
        offset: u64,
        mut take: impl FnMut(Line<'_>) -> Filled,
    ) -> FsResult<Reached> {
        let (listing, mut next) = match self.go_on(id, offset).await? {
            Way::On(listing, position) => (listing, Some(position)),
            Way::Ended(reached) => return Ok(reached),
        };
        let inodes = self.inodes.lock();
        while let Some(line) = next.and_then(|position| line_at(&inodes, id, &listing, position)) {
            if take(line) == Filled::Full {
                break;
            }
            next = following(line.offset_after);
        }
        Ok(Reached::More)
    }

    /// Like [`Self::read_dir`], and counts a lookup of each file taken, `.` and `..` apart.
    ///
    /// A file that cannot be made a node here (its place contradicts what is known) is left out; a
    /// lookup of its name says why.
    pub async fn read_dir_plus(
        &self,
        parent: NodeId,
        offset: u64,
        mut take: impl FnMut(Line<'_>) -> Filled,
    ) -> FsResult<Reached> {
        let (listing, mut next) = match self.go_on(parent, offset).await? {
            Way::On(listing, position) => (listing, Some(position)),
            Way::Ended(reached) => return Ok(reached),
        };
        while let Some(position) = next {
            let mut inodes = self.inodes.lock();
            let Some(line) = line_at(&inodes, parent, &listing, position) else { break };
            next = following(line.offset_after);
            let Position::Entry(_) = position else {
                if take(line) == Filled::Full {
                    break;
                }
                continue;
            };
            let Ok(id) = inodes.look_up(Place { parent, name: line.name }, &line.node.attr) else { continue };
            if take(Line { node: Node { id, ..line.node }, ..line }) == Filled::Full {
                inodes.forget(id, 1);
                break;
            }
        }
        Ok(Reached::More)
    }

    /// What a reader of `directory` goes through, and from where on.
    async fn go_on(&self, directory: NodeId, offset: u64) -> FsResult<Way> {
        match Offset::parse(offset) {
            Offset::Start => {
                let listing = self.listed(self.volume.list(&self.path(directory)?).await?);
                self.listings.lock().begin(directory, &listing);
                Ok(Way::On(listing, Position::Itself))
            }
            Offset::Within(mark, position) => {
                let begun = self.listings.lock().go_on(directory, mark);
                let listing = match begun {
                    Some(listing) => listing,
                    None => self.known(directory, mark)?.ok_or(FsError::Stale(None))?,
                };
                Ok(Way::On(listing, position))
            }
            Offset::End(mark) => self.end(directory, mark).map(Way::Ended),
        }
    }

    fn listed(&self, names: Names) -> Listing {
        Listing::of(names, self.unwatched_listings.fetch_add(1, Ordering::Relaxed))
    }

    /// The listing with this mark, if it is what the volume knows now.
    fn known(&self, directory: NodeId, mark: Mark) -> FsResult<Option<Listing>> {
        let known = self.volume.known_names(&self.path(directory)?);
        Ok(known.filter(|names| mark.is_of(names)).map(|names| Listing::of(names, 0)))
    }

    /// The kernel was told all of the listing with this mark, and keeps it once it hears that it was all. If that is up
    /// to date now, a later change makes the kernel forget it.
    fn end(&self, directory: NodeId, mark: Mark) -> FsResult<Reached> {
        let known = self.known(directory, mark)?;
        let lasting = known.and_then(|listing| listing.lasting.checked_sub(OVERDUE));
        let Some(lasting) = lasting else { return Ok(Reached::OutdatedEnd) };
        self.inodes.lock().keep_names(directory, self.born.elapsed() + lasting);
        Ok(Reached::End)
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
}

/// Where a reader of a directory is.
enum Way {
    On(Listing, Position),
    Ended(Reached),
}

/// What comes behind a line in its listing.
fn following(offset_after: u64) -> Option<Position> {
    match Offset::parse(offset_after) {
        Offset::Within(_, position) => Some(position),
        _ => None,
    }
}

fn line_at<'a>(
    inodes: &InodeTable,
    directory: NodeId,
    listing: &'a Listing,
    position: Position,
) -> Option<Line<'a>> {
    let (id, attr, name): (_, _, &[u8]) = match position {
        Position::Itself => (directory, inodes.attr(directory).ok()?, b"."),
        Position::Parent => {
            let parent = inodes.parent(directory).ok()?;
            (parent, inodes.attr(parent).ok()?, b"..")
        }
        Position::Entry(index) => {
            let entry = listing.entries.get(index)?;
            (inodes.id_of(&entry.attr), entry.attr, &entry.name)
        }
    };
    let name_lasts = listing.lasting;
    let lasting =
        Lasting { name: name_lasts, attr: if attr.has_one_name() { name_lasts } else { Duration::ZERO } };
    Some(Line { node: Node { id, attr, lasting }, offset_after: listing.offset_after(position), name })
}

/// A place that holds nothing any more: the kernel is to look the path up again, which gives the
/// application the right error, or the file under its other name.
fn gone_is_stale(error: FsError) -> FsError {
    match error {
        FsError::NOT_FOUND | FsError::NOT_A_DIRECTORY => FsError::Stale(None),
        other => other,
    }
}

fn name_error(error: PathError) -> FsError {
    const EINVAL: i32 = 22;
    const ENAMETOOLONG: i32 = 36;
    FsError::Os(if error == PathError::TooLong { ENAMETOOLONG } else { EINVAL })
}
