//! What the kernel's requests to change something mean in terms of [`Operations`].
//!
//! [`Operations`]: crate::operations::Operations

use super::{Server, Shared};
use crate::kernel::abi::{self, open_flag};
use crate::kernel::change_request::{ChangeRequest, CopyRequest, WriteRequest};
use crate::kernel::reply::{self, Lifetimes};
use crate::kernel::request::Request;
use crate::model::{NodeId, Pages};
use crate::operations::{Copying, Node, Writing};
use crate::passthrough::{Backing, ToWrite};
use crate::transport::Reply;
use bytes::Bytes;
use globalfs_proto::{Existing, FsError, FsResult, NewAttr, NewFile, Owner};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::sync::Arc;

/// `O_ACCMODE` of open(2), of which `O_RDONLY` is 0.
const ACCESS_MODE: u32 = 0o3;

/// Whether who opens a file with `flags` may write to it.
pub(super) fn writes(flags: u32) -> bool {
    flags & ACCESS_MODE != 0
}

impl Shared {
    /// Opens `node` to write. Not beside a content that the kernel reads by itself: the next lookup gives another node,
    /// of which both processes that write and those that read see every byte.
    pub(super) async fn open_to_write(&self, node: NodeId, tid: u32) -> FsResult<abi::OpenOut> {
        let (handle, pages) = self.operations.open_to(node, true).await?;
        let Some(open) = self.pass_to_write(node, handle, pages).await else {
            self.give_up(node, handle).await;
            return Err(FsError::Stale(None));
        };
        // A handle that is gone already is the volume's affair no more.
        let _ = self.operations.tell_opener(handle, tid).await;
        Ok(open)
    }

    /// How `handle` of `node`, which writes, is opened; `None`: not as this node.
    async fn pass_to_write(&self, node: NodeId, handle: u64, pages: Pages) -> Option<abi::OpenOut> {
        let find = self.operations.writable_file(node);
        match self.passthrough.open_to_write(node, find).await {
            ToWrite::Cached => Some(cached(handle, pages)),
            ToWrite::Passed(backing, whole) => {
                self.operations.begin_direct(node, whole);
                Some(passed(handle, &backing))
            }
            ToWrite::Elsewhere => None,
        }
    }

    /// `node` was opened, and is to be opened as another one.
    async fn give_up(&self, node: NodeId, handle: u64) {
        // A hidden name of it goes as with any last close.
        if let Ok(Some(hidden)) = self.operations.release(handle) {
            self.remove_hidden(hidden).await;
        }
        self.operations.part(node);
    }

    /// Answers that a file was made, and is open.
    async fn created(
        &self,
        operation: &'static str,
        (parent, tid): (NodeId, u32),
        (made, passes): (FsResult<(Node, u64)>, bool),
        lifetimes: &Lifetimes,
        reply: Reply,
    ) {
        match made {
            Ok((node, handle)) => {
                let Some(open) = self.open_made(node.id, handle, passes).await else {
                    // Somebody has found it in a listing and has the kernel read it by itself.
                    self.give_up(node.id, handle).await;
                    self.operations.forget(node.id, 1);
                    return reply.error(Errno::STALE);
                };
                let _ = self.operations.tell_opener(handle, tid).await;
                reply.structure(&reply::created(&node, lifetimes, open));
            }
            Err(error) => self.fail(operation, parent, &error, reply),
        }
    }

    async fn open_made(&self, node: NodeId, handle: u64, passes: bool) -> Option<abi::OpenOut> {
        match passes {
            true => self.pass_to_write(node, handle, Pages::Keep).await,
            false => self.passthrough.open_cached(node).then(|| cached(handle, Pages::Keep)),
        }
    }

    pub(super) fn done(&self, operation: &'static str, node: NodeId, outcome: FsResult<()>, reply: Reply) {
        match outcome {
            Ok(()) => reply.done(),
            Err(error) => self.fail(operation, node, &error, reply),
        }
    }

    /// A content of `node` that the kernel reads by itself is to be changed: that goes on elsewhere.
    fn gives_way(&self, node: NodeId, attr: &NewAttr) -> bool {
        let is_read = || self.passthrough.is_passed(node) && !self.operations.is_direct(node);
        let gives_way = attr.size.is_some() && is_read();
        if gives_way {
            self.operations.part(node);
        }
        gives_way
    }

    /// Nobody waits for it.
    pub(super) async fn remove_hidden(&self, node: NodeId) {
        if let Err(error) = self.operations.remove_hidden(node).await {
            tracing::warn!(%error, "a file that was removed while it was open stays, hidden");
        }
    }
}

/// How an open file is read and written through the page cache.
pub(super) fn cached(handle: u64, pages: Pages) -> abi::OpenOut {
    let flags = if pages == Pages::Keep { open_flag::KEEP_CACHE } else { 0 };
    abi::OpenOut { handle, flags, backing_id: 0 }
}

/// How the kernel serves an open file by itself.
pub(super) fn passed(handle: u64, backing: &Backing) -> abi::OpenOut {
    abi::OpenOut { handle, flags: open_flag::PASSTHROUGH, backing_id: backing.id.number() }
}

impl Server {
    pub(super) fn change(&self, request: &Request<'_>, change: ChangeRequest<'_>, reply: Reply) {
        let node = request.node;
        let owner = |mode| Owner { uid: request.uid, gid: request.gid, mode };
        match change {
            ChangeRequest::Create { name, mode, flags } => {
                self.create(request, name, owner(mode), flags, reply);
            }
            ChangeRequest::CreateNameless { mode, flags } => {
                self.create_nameless(request, owner(mode), flags, reply);
            }
            ChangeRequest::MakeNode { name, kind, mode, device } => match kind {
                Some(globalfs_proto::FileKind::Regular) => {
                    self.make("mknod", node, name, NewFile::Regular, owner(mode), reply);
                }
                Some(kind) => {
                    let new = NewFile::Special(kind, device.into());
                    self.make("mknod", node, name, new, owner(mode), reply);
                }
                None => reply.error(Errno::INVAL),
            },
            ChangeRequest::MakeDirectory { name, mode } => {
                self.make("mkdir", node, name, NewFile::Directory, owner(mode), reply);
            }
            ChangeRequest::MakeSymlink { name, target } => {
                let new = NewFile::Symlink(Bytes::copy_from_slice(target));
                self.make("symlink", node, name, new, owner(0o777), reply);
            }
            ChangeRequest::Link { node: target, name } => self.link(target, node, name, reply),
            ChangeRequest::Remove { name, directory } => self.remove(node, name, directory, reply),
            ChangeRequest::Rename { name, new_parent, new_name, existing } => match existing {
                Some(existing) => self.rename((node, name), (new_parent, new_name), existing, reply),
                None => reply.error(Errno::INVAL),
            },
            ChangeRequest::SetAttr { attr, drops_set_id } => {
                self.set_attr(request, attr, drops_set_id, reply)
            }
            ChangeRequest::SetXattr { name, value, existing } => match existing {
                Some(existing) => self.set_xattr(node, name, value, existing, reply),
                None => reply.error(Errno::INVAL),
            },
            ChangeRequest::RemoveXattr { name } => self.remove_xattr(node, name, reply),
            ChangeRequest::Write(write) => self.write(request, &write, reply),
            ChangeRequest::Allocate { allocation } => {
                let uid = request.uid;
                self.spawn(move |shared| async move {
                    let outcome = shared.operations.allocate(node, allocation, uid).await;
                    shared.done("fallocate", node, outcome, reply);
                });
            }
            ChangeRequest::Copy(copy) => self.copy(request, copy, reply),
            ChangeRequest::Sync { handle, data_only } => self.spawn(move |shared| async move {
                let outcome = shared.operations.sync(node, handle, data_only).await;
                shared.done("fsync", node, outcome, reply);
            }),
        }
    }

    fn create(&self, request: &Request<'_>, name: &[u8], owner: Owner, flags: u32, reply: Reply) {
        let (parent, name, tid, lifetimes) = (request.node, name.to_vec(), request.tid, self.lifetimes);
        let may_exist = flags & OFlags::EXCL.bits() == 0;
        self.spawn(move |shared| async move {
            let made = shared.operations.create(parent, &name, owner, writes(flags), may_exist).await;
            shared.created("create", (parent, tid), (made, writes(flags)), &lifetimes, reply).await;
        });
    }

    fn create_nameless(&self, request: &Request<'_>, owner: Owner, flags: u32, reply: Reply) {
        let (parent, tid, lifetimes) = (request.node, request.tid, self.lifetimes);
        self.spawn(move |shared| async move {
            let made = shared.operations.create_nameless(parent, owner, writes(flags)).await;
            // What has no name owes nothing to anybody until it gets one.
            shared.created("tmpfile", (parent, tid), (made, false), &lifetimes, reply).await;
        });
    }

    fn make(
        &self,
        operation: &'static str,
        parent: NodeId,
        name: &[u8],
        new: NewFile,
        owner: Owner,
        reply: Reply,
    ) {
        let (name, lifetimes) = (name.to_vec(), self.lifetimes);
        self.spawn(|shared| async move {
            match shared.operations.make(parent, &name, new, owner).await {
                Ok(node) => reply.structure(&reply::entry(&node, &lifetimes)),
                Err(error) => shared.fail(operation, parent, &error, reply),
            }
        });
    }

    fn link(&self, target: NodeId, parent: NodeId, name: &[u8], reply: Reply) {
        let (name, lifetimes) = (name.to_vec(), self.lifetimes);
        self.spawn(|shared| async move {
            match shared.operations.link(target, parent, &name).await {
                Ok(node) => reply.structure(&reply::entry(&node, &lifetimes)),
                Err(error) => shared.fail("link", parent, &error, reply),
            }
        });
    }

    fn remove(&self, parent: NodeId, name: &[u8], directory: bool, reply: Reply) {
        let name = name.to_vec();
        self.spawn(|shared| async move {
            let outcome = shared.operations.remove(parent, &name, directory).await;
            shared.done("remove", parent, outcome, reply);
        });
    }

    fn rename(&self, from: (NodeId, &[u8]), to: (NodeId, &[u8]), existing: Existing, reply: Reply) {
        let ((parent, name), (new_parent, new_name)) = ((from.0, from.1.to_vec()), (to.0, to.1.to_vec()));
        self.spawn(|shared| async move {
            let (from, to) = ((parent, &name[..]), (new_parent, &new_name[..]));
            let outcome = shared.operations.rename(from, to, existing).await;
            shared.done("rename", parent, outcome, reply);
        });
    }

    fn set_attr(&self, request: &Request<'_>, attr: NewAttr, drops_set_id: bool, reply: Reply) {
        let (node, uid, lifetimes) = (request.node, request.uid, self.lifetimes);
        self.spawn(|shared| async move {
            if shared.gives_way(node, &attr) {
                return reply.error(Errno::STALE);
            }
            match shared.operations.set_attr(node, attr, drops_set_id, uid).await {
                Ok(node) => reply.structure(&reply::attributes(&node, &lifetimes)),
                Err(error) => shared.fail("setattr", node, &error, reply),
            }
        });
    }

    fn set_xattr(&self, node: NodeId, name: &[u8], value: &[u8], existing: Existing, reply: Reply) {
        let (name, value) = (Bytes::copy_from_slice(name), Bytes::copy_from_slice(value));
        self.spawn(|shared| async move {
            let outcome = shared.operations.set_xattr(node, name, value, existing).await;
            shared.done("setxattr", node, outcome, reply);
        });
    }

    fn remove_xattr(&self, node: NodeId, name: &[u8], reply: Reply) {
        let name = Bytes::copy_from_slice(name);
        self.spawn(|shared| async move {
            let outcome = shared.operations.remove_xattr(node, name).await;
            shared.done("removexattr", node, outcome, reply);
        });
    }

    fn copy(&self, request: &Request<'_>, copy: CopyRequest, reply: Reply) {
        let CopyRequest { from, from_offset, to, offset, length } = copy;
        let (node, copying) = (request.node, Copying { from, from_offset, offset, length, uid: request.uid });
        self.spawn(move |shared| async move {
            match shared.operations.copy(to, copying).await {
                Ok(size) => reply.structure(&abi::WriteOut { size, padding: 0 }),
                Err(error) => shared.fail("copy", node, &error, reply),
            }
        });
    }

    fn write(&self, request: &Request<'_>, write: &WriteRequest<'_>, reply: Reply) {
        let WriteRequest { handle, offset, data, drops_set_id, is_sync } = *write;
        let Ok(size) = u32::try_from(data.len()) else { return reply.error(Errno::INVAL) };
        if data.is_empty() {
            return reply.structure(&abi::WriteOut { size, padding: 0 });
        }
        // Copied here, if not yet: the next request comes into the same memory.
        let data = match request.buffer {
            Some(buffer) => buffer.slice_ref(data),
            None => Bytes::copy_from_slice(data),
        };
        let (node, writing) = (request.node, Writing { offset, data, drops_set_id, is_sync });
        let work = |shared: Arc<Shared>| async move {
            match shared.operations.write(handle, writing).await {
                Ok(()) => reply.structure(&abi::WriteOut { size, padding: 0 }),
                Err(error) => shared.fail("write", node, &error, reply),
            }
        };
        // What is kept for later is done at once.
        if offset.is_some() && !is_sync { self.answer(work) } else { self.spawn(work) }
    }
}
