//! Changes of a file's content and attributes.

use super::{MAX_TRIES, Node, Operations, is_gone};
use crate::model::{InodeTable, NodeId, Pages, xattr};
use crate::volume::Volume;
use bytes::Bytes;
use globalfs_proto::limits::{MAX_COPY, MAX_NAME, MAX_XATTR};
use globalfs_proto::{
    Allocation, Change, Changed, CopiedRange, Existing, FsError, FsResult, GlobalPath, NewAttr, Target,
};
use parking_lot::Mutex;

/// The user who keeps set-id bits by writing, as the kernel gives it the right to.
const ROOT: u32 = 0;

/// `EINVAL`.
const INVALID: FsError = FsError::Os(22);

/// Bytes for a file.
#[derive(Debug, Clone)]
pub struct Writing {
    /// Where; `None`: at the end.
    pub offset: Option<u64>,
    /// At least one.
    pub data: Bytes,
    /// Set-id bits are taken away, as `write(2)` does.
    pub drops_set_id: bool,
    /// It is to be there when it is answered.
    pub is_sync: bool,
}

/// Bytes of an open file for another.
#[derive(Debug, Clone, Copy)]
pub struct Copying {
    /// The handle that they are read of.
    pub from: u64,
    /// The first byte of that.
    pub from_offset: u64,
    /// Where it comes to lie.
    pub offset: u64,
    /// How many are wanted.
    pub length: u64,
    /// The user who asks.
    pub uid: u32,
}

/// While it exists what is seen of a node does not count, since what comes of the change will.
struct Changing<'a> {
    inodes: &'a Mutex<InodeTable>,
    id: NodeId,
    changed: Option<Changed>,
}

impl<'a> Changing<'a> {
    fn begin(inodes: &'a Mutex<InodeTable>, id: NodeId) -> FsResult<Self> {
        inodes.lock().begin_change(id)?;
        Ok(Self { inodes, id, changed: None })
    }

    fn end(&self) -> Pages {
        self.inodes.lock().end_change(self.id, self.changed.as_ref())
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        // Again, if it was ended: a volume that panicked is no reason to see nothing for ever.
        self.inodes.lock().end_change(self.id, None);
    }
}

impl<V: Volume + ?Sized> Operations<V> {
    /// Sets attributes of `id` for the user `uid`, and takes its set-id bits away if `drops_set_id`.
    pub async fn set_attr(&self, id: NodeId, attr: NewAttr, drops_set_id: bool, uid: u32) -> FsResult<Node> {
        let now = self.inodes.lock().attr(id)?;
        let dropped = without_set_id(attr.mode.unwrap_or(now.mode));
        let attr = match drops_set_id && dropped != now.mode {
            true => NewAttr { mode: Some(dropped), ..attr },
            // What `chown(2)` with -1 and -1 leaves: as if to the same owner, which takes set-id bits away and moves ctime.
            false if attr == NewAttr::default() && (uid == ROOT || uid == now.uid) => {
                NewAttr { uid: Some(now.uid), ..attr }
            }
            false => attr,
        };
        if attr == NewAttr::default() {
            return self.get_attr(id).await;
        }
        self.alter(id, |target| Change::SetAttr { target, attr }).await?;
        self.told(id).await
    }

    /// Attributes of `id` after a change that told of them.
    async fn told(&self, id: NodeId) -> FsResult<Node> {
        let path = self.path(id)?;
        let attr = self.attr(id)?;
        Ok(Node { id, attr, lasting: self.lasting(id, &path, &attr), is_settled: true })
    }

    /// Sets an extended attribute of `id`; as to one that is there already, see [`Existing`].
    pub async fn set_xattr(&self, id: NodeId, name: Bytes, value: Bytes, existing: Existing) -> FsResult<()> {
        check_xattr(&name)?;
        if value.len() > MAX_XATTR {
            const E2BIG: i32 = 7;
            return Err(FsError::Os(E2BIG));
        }
        let change = |target| {
            let (name, value) = (name.clone(), value.clone());
            Change::SetXattr { target, name, value, existing }
        };
        self.alter(id, change).await
    }

    /// Takes an extended attribute of `id` away.
    pub async fn remove_xattr(&self, id: NodeId, name: Bytes) -> FsResult<()> {
        check_xattr(&name)?;
        self.alter(id, |target| Change::RemoveXattr { target, name: name.clone() }).await
    }

    /// Writes into the file behind `handle`, all or an error, which may be one of an earlier write.
    pub async fn write(&self, handle: u64, writing: Writing) -> FsResult<()> {
        let (id, _) = self.opened(handle)?;
        self.take_error(handle)?;
        if writing.drops_set_id {
            self.drop_set_id(id).await?;
        }
        if self.put_behind(handle, id, &writing).await? {
            return Ok(());
        }
        let Writing { offset, data, .. } = writing;
        self.alter(id, |target| Change::Write { target, offset, data: data.clone() }).await
    }

    /// Copies into the file behind `handle` without moving the bytes here; how many, which may be fewer than were wanted.
    /// `EOPNOTSUPP` or `EXDEV` where the volume cannot: then they are to be read and written.
    pub async fn copy(&self, handle: u64, copying: Copying) -> FsResult<u32> {
        let Copying { from, from_offset, offset, length, uid } = copying;
        self.write_out(self.opened(from)?.0).await;
        let ((source, version), (id, _)) = (self.opened(from)?, self.opened(handle)?);
        let there = version.size.saturating_sub(from_offset);
        let length = length.min(there).min(MAX_COPY);
        if length == 0 {
            return Ok(0);
        }
        if uid != ROOT {
            self.drop_set_id(id).await?;
        }
        let from = self.path(source)?;
        let range = CopiedRange { from, version, from_offset, offset, length };
        self.alter(id, |target| Change::Copy { target, range: range.clone() }).await?;
        Ok(u32::try_from(length).expect("it is within its limit"))
    }

    async fn drop_set_id(&self, id: NodeId) -> FsResult<()> {
        let mode = self.inodes.lock().attr(id)?.mode;
        if without_set_id(mode) == mode {
            return Ok(());
        }
        let attr = NewAttr { mode: Some(without_set_id(mode)), ..NewAttr::default() };
        self.alter(id, |target| Change::SetAttr { target, attr }).await
    }

    /// Allocates or frees space of `id` for the user `uid`.
    pub async fn allocate(&self, id: NodeId, allocation: Allocation, uid: u32) -> FsResult<()> {
        // Of this the kernel does not say whether the bits go, as it does of writes.
        if uid != ROOT {
            self.drop_set_id(id).await?;
        }
        self.alter(id, |target| Change::Allocate { target, allocation }).await
    }

    /// What was changed in `id` survives a crash of its master afterwards. Fails as well if something was lost that was
    /// written, and `handle` was not told yet.
    pub async fn sync(&self, id: NodeId, handle: u64, data_only: bool) -> FsResult<()> {
        let outcome = self.sync_file(id, data_only).await;
        self.take_error(handle).and(outcome)
    }

    /// The same, but for what was lost.
    pub(super) async fn sync_file(&self, id: NodeId, data_only: bool) -> FsResult<()> {
        self.write_out(id).await;
        let asked = self.unconfirmed.lock().last(id);
        let outcome = self.alter(id, |target| Change::Sync { target, data_only }).await;
        if let (Some(change), Ok(())) = (asked, &outcome) {
            self.unconfirmed.lock().confirm(id, change);
        }
        match outcome {
            // What cannot be changed has nothing to be kept.
            Err(FsError::READ_ONLY) => Ok(()),
            outcome => outcome,
        }
    }

    /// Whether a close of `id` counts only when something has come home that has not.
    pub(super) fn is_unconfirmed(&self, id: NodeId) -> bool {
        self.unconfirmed.lock().last(id).is_some()
    }

    pub(super) fn note_unconfirmed(&self, id: NodeId, changed: &Changed) {
        if changed.sync_at_close {
            self.unconfirmed.lock().note(id);
        }
    }

    /// Changes `id` after what was written before, when it is its turn, and takes over what came of it.
    pub(super) async fn alter(&self, id: NodeId, change: impl Fn(Target) -> Change) -> FsResult<()> {
        self.write_out(id).await;
        let _turn = self.turns.take(id).await?;
        self.alter_in_turn(id, change).await
    }

    /// The same for who has the turn. The file is changed at the place where it then is.
    pub(super) async fn alter_in_turn(&self, id: NodeId, change: impl Fn(Target) -> Change) -> FsResult<()> {
        let mut tries = 1..MAX_TRIES;
        loop {
            let (path, target) = self.target(id)?;
            let file = target.file;
            match self.change_file(id, change(target)).await {
                Err(error) if is_gone(&error) => {
                    let is_elsewhere =
                        self.has_moved(id, &path).await || self.was_handed_over(id, &path, file).await;
                    if !is_elsewhere || tries.next().is_none() {
                        return Err(self.gone_is_stale(id, error));
                    }
                }
                outcome => return outcome,
            }
        }
    }

    pub(super) fn target(&self, id: NodeId) -> FsResult<(GlobalPath, Target)> {
        let inodes = self.inodes.lock();
        let (path, file) = (inodes.path(id)?, inodes.attr(id)?.file);
        Ok((path.clone(), Target { path, file }))
    }

    async fn change_file(&self, id: NodeId, change: Change) -> FsResult<()> {
        let mut changing = Changing::begin(&self.inodes, id)?;
        let is_sync = matches!(change, Change::Sync { .. });
        let changed = changing.changed.insert(self.volume.change(change).await?);
        if !is_sync {
            self.note_unconfirmed(id, changed);
        }
        let pages = changing.end();
        self.settle(id, pages);
        Ok(())
    }
}

fn check_xattr(name: &[u8]) -> FsResult<()> {
    match name.len() {
        _ if xattr::is_hidden(name) => Err(xattr::NOT_SUPPORTED),
        1..=MAX_NAME => Ok(()),
        _ => Err(INVALID),
    }
}

/// `mode` after a write or truncation by somebody who may not set these bits. Without execution by the group, the
/// set-group-ID bit means something else.
fn without_set_id(mode: u32) -> u32 {
    const SET_UID: u32 = 0o4000;
    const SET_GID: u32 = 0o2000;
    const GROUP_EXECUTES: u32 = 0o10;
    let mode = mode & !SET_UID;
    if mode & GROUP_EXECUTES != 0 { mode & !SET_GID } else { mode }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_id_bits_go_as_the_kernel_takes_them() {
        let check = |mode, want| assert_eq!(without_set_id(mode), want, "{mode:o}");
        check(0o6755, 0o755);
        check(0o2745, 0o2745);
        check(0o4644, 0o644);
        check(0o1777, 0o1777);
    }
}
