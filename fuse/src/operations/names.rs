//! Changes of names: files are made, named, renamed and removed.
//!
//! A file that is removed or replaced while it is open gets a name that no mount shows, and goes with its last close.

use super::{Node, Operations};
use crate::model::{InodeTable, NodeId, Pages, Place, hidden};
use crate::volume::Volume;
use globalfs_proto::{
    Attr, Change, Existing, FileKind, FsError, FsResult, GlobalPath, NewFile, Owner, Target,
};
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

const EXISTS: FsError = FsError::Os(17);

/// `EPERM`: no name that a mount shows may be like this.
const NOT_PERMITTED: FsError = FsError::Os(1);

/// A name in a directory, as whoever changes it says it.
#[derive(Debug, Clone, Copy)]
struct Name<'a> {
    place: Place<'a>,
    path: &'a GlobalPath,
}

impl<V: Volume + ?Sized> Operations<V> {
    /// Makes `name` in `parent`; counts one lookup of it.
    pub async fn make(&self, parent: NodeId, name: &[u8], new: NewFile, owner: Owner) -> FsResult<Node> {
        let _change = self.name_changes.begin();
        let (path, place) = (self.shown_path(parent, name)?, Place { parent, name });
        let made = self.make_at(Name { place, path: &path }, new, owner).await;
        self.doubt_if_lost(made, &[place])
    }

    async fn make_at(&self, name: Name<'_>, new: NewFile, owner: Owner) -> FsResult<Node> {
        let path = name.path;
        let changed = self.volume.change(Change::Make { path: path.clone(), new, owner }).await?;
        let attr = match changed.attr {
            Some(attr) => attr,
            None => self.volume.stat(path).await?,
        };
        self.inodes.lock().part_dead(name.place, &attr);
        let node = self.see(name.place, path, &attr)?;
        self.note_unconfirmed(node.id, &changed);
        Ok(node)
    }

    /// Makes the regular file `name` in `parent` and opens it, to write if `writes`. Counts one lookup of it. If there is
    /// one already that may be, `Stale`: the kernel then finds it, and checks who may open it.
    pub async fn create(
        &self,
        parent: NodeId,
        name: &[u8],
        owner: Owner,
        writes: bool,
        may_exist: bool,
    ) -> FsResult<(Node, u64)> {
        let node = match self.make(parent, name, NewFile::Regular, owner).await {
            Err(EXISTS) if may_exist => {
                // What is looked up next is no older than this.
                let _ = self.volume.stat_for_open(&self.path_in(parent, name)?).await;
                return Err(FsError::Stale(None));
            }
            made => made?,
        };
        let opened = self.open_made(node.id, writes);
        if opened.is_err() {
            self.forget(node.id, 1);
        }
        Ok((node, opened?))
    }

    /// Makes a regular file without a name in `parent` and opens it, to write if `writes`. It has a hidden one, as if it had
    /// been removed, and goes with its last close unless it is given another. Counts one lookup of it.
    pub async fn create_nameless(&self, parent: NodeId, owner: Owner, writes: bool) -> FsResult<(Node, u64)> {
        let _change = self.name_changes.begin();
        let name = hidden::name(unique());
        let path = self.path_in(parent, &name)?;
        let name = Name { place: Place { parent, name: &name }, path: &path };
        let node = self.make_at(name, NewFile::Regular, owner).await?;
        let handle = match self.open_made(node.id, writes) {
            Ok(handle) => handle,
            Err(error) => {
                self.forget(node.id, 1);
                // What cannot be removed now stays, hidden.
                let _ = self.remove_file(path).await;
                return Err(error);
            }
        };
        let mut inodes = self.inodes.lock();
        inodes.set_removed(node.id);
        let attr = inodes.attr(node.id)?;
        Ok((Node { attr, ..node }, handle))
    }

    fn open_made(&self, id: NodeId, writes: bool) -> FsResult<u64> {
        let mut inodes = self.inodes.lock();
        if writes {
            inodes.go_live(id)?;
        }
        inodes.pin(id)?;
        Ok(self.handles.lock().open(id, writes))
    }

    /// Gives `id` the further name `name` in `parent`; counts one lookup of it.
    pub async fn link(&self, id: NodeId, parent: NodeId, name: &[u8]) -> FsResult<Node> {
        let _change = self.name_changes.begin();
        let (path, place) = (self.shown_path(parent, name)?, Place { parent, name });
        let change = |target| Change::Link { target, path: path.clone() };
        let linked = self.alter(id, change).await;
        let other = self.inodes.lock().place(id);
        // How many links it has is not known either.
        let other = other.iter().map(|(parent, name)| Place { parent: *parent, name });
        self.doubt_if_lost(linked, &other.chain([place]).collect::<Vec<_>>())?;
        let sight = self.inodes.lock().see_link(id, place)?;
        Ok(self.seen(sight, &path))
    }

    /// Takes away `name` in `parent`, which must be that of a directory, or must not.
    pub async fn remove(&self, parent: NodeId, name: &[u8], directory: bool) -> FsResult<()> {
        let _change = self.name_changes.begin();
        let path = self.shown_path(parent, name)?;
        let name = Name { place: Place { parent, name }, path: &path };
        let removed = self.remove_at(name, directory).await;
        self.doubt_if_lost(removed, &[name.place])
    }

    async fn remove_at(&self, name: Name<'_>, directory: bool) -> FsResult<()> {
        let path = name.path.clone();
        let before = self.volume.stat(&path).await.ok();
        if let Some(id) = before.and_then(|attr| self.open_at(&attr)) {
            return self.hide(id, name).await;
        }
        self.volume.change(Change::Remove { path, directory }).await?;
        lose_a_name(&mut self.inodes.lock(), name.place, before);
        Ok(())
    }

    /// The kernel does not know that names in `directory` have changed.
    pub(super) fn changed_unasked(&self, directory: NodeId) {
        self.settle(directory, Pages::Drop);
    }

    pub(super) async fn remove_file(&self, path: GlobalPath) -> FsResult<()> {
        self.volume.change(Change::Remove { path, directory: false }).await.map(|_| ())
    }

    /// Renames `name` in `parent` to `new_name` in `new_parent`.
    pub async fn rename(
        &self,
        (parent, name): (NodeId, &[u8]),
        (new_parent, new_name): (NodeId, &[u8]),
        existing: Existing,
    ) -> FsResult<()> {
        let _change = self.name_changes.begin();
        let (from, to) = (self.shown_path(parent, name)?, self.shown_path(new_parent, new_name)?);
        let from = Name { place: Place { parent, name }, path: &from };
        let to = Name { place: Place { parent: new_parent, name: new_name }, path: &to };
        let renamed = self.rename_at(from, to, existing).await;
        self.doubt_if_lost(renamed, &[from.place, to.place])
    }

    async fn rename_at(&self, from: Name<'_>, to: Name<'_>, existing: Existing) -> FsResult<()> {
        let moved = self.volume.stat(from.path).await.map_err(gone_is_missing)?;
        let replaced = self.volume.stat(to.path).await.ok();
        self.write_out_at(&moved).await;
        if replaced.is_some_and(|replaced| replaced.file == moved.file) {
            // Both are names of one file: nothing moves.
            return self.rename_there(from, to, existing).await;
        }
        let is_replaced = existing == Existing::Replace;
        let open = replaced.filter(|_| is_replaced).and_then(|attr| self.open_at(&attr));
        let kept = match open {
            Some(id) => Some((id, self.keep(id, to).await?)),
            None => None,
        };
        let _moving = self.moves.read().await;
        let outcome = self.rename_there(from, to, existing).await;
        if let Some((id, hidden)) = kept {
            self.settle_kept(id, to.place.parent, hidden, outcome.is_ok()).await;
        }
        outcome?;
        self.moved(moved, replaced, (from.place, to.place), existing);
        Ok(())
    }

    /// What a name is given to is whole: others may look at it.
    async fn write_out_at(&self, moved: &Attr) {
        let node = self.inodes.lock().living_id(moved);
        if let Some(id) = node {
            self.write_out(id).await;
        }
    }

    async fn rename_there(&self, from: Name<'_>, to: Name<'_>, existing: Existing) -> FsResult<()> {
        let (from, to) = (from.path.clone(), to.path.clone());
        self.volume.change(Change::Rename { from, to, existing }).await.map(|_| ())
    }

    /// The tables follow a rename.
    fn moved(
        &self,
        moved: Attr,
        replaced: Option<Attr>,
        (from, to): (Place<'_>, Place<'_>),
        existing: Existing,
    ) {
        let mut inodes = self.inodes.lock();
        let node = inodes.living_at(from, &moved);
        let other = replaced.and_then(|attr| inodes.living_at(to, &attr));
        if existing != Existing::Exchange {
            lose_a_name(&mut inodes, to, replaced);
        }
        node.into_iter().for_each(|id| inodes.relocate(id, to));
        if existing == Existing::Exchange {
            other.into_iter().for_each(|id| inodes.relocate(id, from));
        }
    }

    /// A path that is neither hidden now nor will be.
    fn shown_path(&self, parent: NodeId, name: &[u8]) -> FsResult<GlobalPath> {
        if hidden::is_hidden(name) {
            return Err(NOT_PERMITTED);
        }
        self.path_in(parent, name)
    }

    /// The node of a regular file that somebody here has open, if it has no hidden name yet.
    fn open_at(&self, attr: &Attr) -> Option<NodeId> {
        let inodes = self.inodes.lock();
        let id = inodes.living_id(attr).filter(|_| attr.kind == FileKind::Regular)?;
        (inodes.is_open(id) && !inodes.is_removed(id)).then_some(id)
    }

    /// Takes a name away from `id`, which is open, and gives it a hidden one.
    async fn hide(&self, id: NodeId, name: Name<'_>) -> FsResult<()> {
        let hidden = hidden::name(unique());
        let to = self.path_in(name.place.parent, &hidden)?;
        let to = Name { place: Place { parent: name.place.parent, name: &hidden }, path: &to };
        let _moving = self.moves.read().await;
        self.rename_there(name, to, Existing::Refuse).await?;
        self.take_place(id, to).await
    }

    /// Gives `id`, which is open and about to be replaced, a hidden name beside the one that it has at `name`.
    async fn keep(&self, id: NodeId, name: Name<'_>) -> FsResult<Vec<u8>> {
        let hidden = hidden::name(unique());
        let path = self.path_in(name.place.parent, &hidden)?;
        let file = self.inodes.lock().attr(id)?.file;
        let target = Target { path: name.path.clone(), file };
        self.volume
            .change(Change::Link { target, path })
            .await
            .map_err(|error| self.gone_is_stale(id, error))?;
        self.inodes.lock().loosen(id);
        Ok(hidden)
    }

    /// `id` has the hidden name `to` alone now; if it was closed meanwhile it has to go.
    async fn take_place(&self, id: NodeId, to: Name<'_>) -> FsResult<()> {
        let is_open = {
            let mut inodes = self.inodes.lock();
            let is_open = inodes.is_open(id);
            if is_open {
                inodes.relocate(id, to.place);
                inodes.set_removed(id);
            }
            is_open
        };
        if is_open {
            return Ok(());
        }
        let outcome = self.remove_file(to.path.clone()).await;
        self.changed_unasked(to.place.parent);
        outcome
    }

    /// What was kept has been replaced, or has not.
    async fn settle_kept(&self, id: NodeId, parent: NodeId, hidden: Vec<u8>, is_replaced: bool) {
        let Ok(path) = self.path_in(parent, &hidden) else { return };
        let to = Name { place: Place { parent, name: &hidden }, path: &path };
        // What cannot be removed now stays, hidden.
        let _ = match is_replaced {
            true => self.take_place(id, to).await,
            false => self.remove_file(path.clone()).await,
        };
        self.changed_unasked(parent);
    }
}

/// If it has further names its attributes are others now, which nobody has told yet. To the kernel a directory is dead: nothing
/// is made in it any more, so another one with its number must not be taken for it.
fn lose_a_name(inodes: &mut InodeTable, place: Place<'_>, before: Option<Attr>) {
    let Some(attr) = before else { return };
    let Some(id) = inodes.living_at(place, &attr) else { return };
    match attr.kind {
        FileKind::Directory => inodes.part(id),
        _ if attr.nlink > 1 => inodes.loosen(id),
        _ => {}
    }
}

fn gone_is_missing(error: FsError) -> FsError {
    match error {
        FsError::Stale(_) => FsError::NOT_FOUND,
        other => other,
    }
}

/// No other number of any mount, for all that is likely.
fn unique() -> u128 {
    let random = || u128::from(RandomState::new().hash_one(0));
    random() << 64 | random()
}
