//! The kernel's requests and replies in `fuser`'s terms, carried to [`Operations`].
//!
//! Each callback answers what is known at once and moves the rest into a task, so one thread keeps reading
//! requests. A reply that is dropped unsent answers `EIO`: no request is left waiting when a task ends early.
//!
//! *Invariant:* whatever would change the volume answers `EROFS`, however it is mounted.

use crate::errno::{ErrorLog, errno};
use crate::kernel_attr::{NO_FILE, file_attr, file_type};
use crate::model::{Keeping, Mode, NodeId};
use crate::operations::{Filled, Line, Node, Operations};
use crate::options::Options;
use crate::passthrough::Passthrough;
use crate::volume::Volume;
use bytes::Bytes;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use globalfs_proto::FsError;
use globalfs_proto::limits::MAX_NAME;
use std::ffi::OsStr;
use std::future::Future;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};
use tokio::runtime::Handle;
use tracing::debug;

/// Read-ahead requests that the kernel may have waiting here: the window of a fast, distant site
/// (10 Gbit/s x 80 ms) is 100 requests of a megabyte.
const MAX_BACKGROUND_REQUESTS: u16 = 128;

/// From this many on the kernel begins no new read-ahead.
const CONGESTION_THRESHOLD: u16 = 96;

/// Files that are passed through lie on a file system of its own. One more, and nobody could lay an overlayfs over the
/// mount, as container engines do.
const STACK_DEPTH: u32 = 1;

/// Node numbers are never given to another file while the kernel may remember them.
const GENERATION: Generation = Generation(0);

/// How long the kernel may answer by itself.
#[derive(Debug, Clone, Copy)]
struct Lifetimes {
    attr: Duration,
    entry: Duration,
    negative: Duration,
}

impl Lifetimes {
    /// Of the node's name and of its attributes.
    fn of(&self, node: &Node) -> (Duration, Duration) {
        (self.entry.max(node.lasting.name), self.attr.max(node.lasting.attr))
    }
}

/// A mounted volume as `fuser` calls it.
pub(crate) struct Adapter {
    shared: Arc<Shared>,
    lifetimes: Lifetimes,
    runtime: Handle,
    passes_through: bool,
}

struct Shared {
    operations: Arc<Operations<dyn Volume>>,
    passthrough: Passthrough,
    errors: ErrorLog,
}

impl Shared {
    /// Notes `error` and gives its number.
    fn fail(&self, operation: &'static str, node: u64, error: &FsError) -> Errno {
        self.errors.record(operation, node, error);
        errno(error)
    }
}

impl Shared {
    async fn opened(&self, node: NodeId, handle: u64, reply: ReplyOpen) {
        let whole = self.operations.whole_file(handle);
        match self.passthrough.open(node, whole, |file| reply.open_backing(file)).await {
            // Keeping the page cache is safe: a node has one version.
            Mode::Cached => reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE),
            Mode::Passed(backing) => {
                self.operations.passed_through(handle);
                reply.opened_passthrough(FileHandle(handle), FopenFlags::empty(), &backing.id);
            }
        }
    }
}

impl Adapter {
    pub(crate) fn new(operations: Arc<Operations<dyn Volume>>, options: &Options, runtime: Handle) -> Self {
        let lifetimes =
            Lifetimes { attr: options.attr_ttl, entry: options.entry_ttl, negative: options.negative_ttl };
        let shared = Shared { operations, passthrough: Passthrough::default(), errors: ErrorLog::default() };
        Self { shared: Arc::new(shared), lifetimes, runtime, passes_through: options.passthrough }
    }

    /// Runs `work` as a task. Their number is that of the callers who wait in the kernel, and of its background
    /// requests; a limit here would make one request wait for others' deadlines. Memory is the volume's to bound.
    fn spawn<F>(&self, work: impl FnOnce(Arc<Shared>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.runtime.spawn(work(self.shared.clone()));
    }

    /// Does `work`, of which little is to be computed, here and now if it waits for nothing, so that no other thread
    /// has to wake up; else it becomes a task.
    fn answer<F>(&self, work: impl FnOnce(Arc<Shared>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let _context = self.runtime.enter();
        let mut work = Box::pin(work(self.shared.clone()));
        // The task polls again, and so leaves a waker of its own. As in a task, a panic costs this request alone.
        let poll = || work.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        if let Ok(Poll::Pending) = catch_unwind(AssertUnwindSafe(poll)) {
            self.runtime.spawn(work);
        }
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let wanted = [
            InitFlags::FUSE_ASYNC_READ,
            // Not the kernel's own choice (`READDIRPLUS_AUTO`): our listings have the attributes at hand,
            // and with it `find` over 100,000 entries looked up each of them by name.
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_PARALLEL_DIROPS,
            // Safe: a link with another target is another node.
            InitFlags::FUSE_CACHE_SYMLINKS,
        ];
        for flag in wanted {
            if config.add_capabilities(flag).is_err() {
                debug!(?flag, "the kernel lacks a capability");
            }
        }
        if self.passes_through
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(STACK_DEPTH).is_ok()
        {
            self.shared.passthrough.permit();
        }
        let refused = |_| std::io::Error::from(std::io::ErrorKind::Unsupported);
        config.set_max_background(MAX_BACKGROUND_REQUESTS).map_err(refused)?;
        config.set_congestion_threshold(CONGESTION_THRESHOLD).map_err(refused)?;
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (lifetimes, name) = (self.lifetimes, name.to_owned());
        self.answer(|shared| async move {
            match shared.operations.look_up(NodeId(parent.0), name.as_bytes()).await {
                Ok(node) => {
                    let (entry, attr) = lifetimes.of(&node);
                    reply.entry_with_ttls(&attr, &entry, &file_attr(&node), GENERATION);
                }
                Err(FsError::NOT_FOUND) if !lifetimes.negative.is_zero() => {
                    reply.entry(&lifetimes.negative, &NO_FILE, GENERATION);
                }
                Err(error) => reply.error(shared.fail("lookup", parent.0, &error)),
            }
        });
    }

    /// Batches come here one by one.
    fn forget(&self, _: &Request, node: INodeNo, count: u64) {
        self.shared.operations.forget(NodeId(node.0), count);
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let lifetimes = self.lifetimes;
        self.answer(|shared| async move {
            match shared.operations.get_attr(NodeId(node.0)).await {
                Ok(node) => reply.attr(&lifetimes.of(&node).1, &file_attr(&node)),
                Err(error) => reply.error(shared.fail("getattr", node.0, &error)),
            }
        });
    }

    fn readlink(&self, _: &Request, node: INodeNo, reply: ReplyData) {
        self.answer(|shared| async move {
            match shared.operations.read_link(NodeId(node.0)).await {
                Ok(target) => reply.data(&target),
                Err(error) => reply.error(shared.fail("readlink", node.0, &error)),
            }
        });
    }

    fn open(&self, request: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        let tid = request.pid();
        self.answer(|shared| async move {
            match shared.operations.open(NodeId(node.0)).await {
                Ok(handle) => {
                    // A handle that is gone already is the volume's affair no more.
                    let _ = shared.operations.tell_opener(handle, tid).await;
                    shared.opened(NodeId(node.0), handle, reply).await;
                }
                Err(error) => reply.error(shared.fail("open", node.0, &error)),
            }
        });
    }

    fn read(
        &self,
        _: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let work = |shared: Arc<Shared>| async move {
            match shared.operations.read(handle.0, offset, length).await {
                Ok(pieces) => reply_pieces(reply, &pieces),
                Err(error) => reply.error(shared.fail("read", node.0, &error)),
            }
        };
        // Whole chunks are hashed, which is for all cores to do.
        if self.shared.operations.is_small(handle.0) { self.answer(work) } else { self.spawn(work) }
    }

    fn release(
        &self,
        _: &Request,
        node: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.shared.passthrough.close(NodeId(node.0));
        self.release_handle(handle, reply);
    }

    fn opendir(&self, _: &Request, node: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.shared.operations.open_dir(NodeId(node.0)) {
            Ok((handle, keeping)) => reply.opened(FileHandle(handle), keeping_flags(keeping)),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.answer(|shared| async move {
            let take = |line: Line<'_>| {
                let Line { node, offset_after, name } = line;
                let kind = file_type(node.attr.kind);
                filled(reply.add(INodeNo(node.id.0), offset_after, kind, OsStr::from_bytes(name)))
            };
            match shared.operations.read_dir(handle.0, offset, take).await {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(shared.fail("readdir", node.0, &error)),
            }
        });
    }

    fn readdirplus(
        &self,
        _: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let lifetimes = self.lifetimes;
        self.answer(|shared| async move {
            let take = |line: Line<'_>| {
                let (attr, name) = (file_attr(&line.node), OsStr::from_bytes(line.name));
                let (for_entry, for_attr) = lifetimes.of(&line.node);
                let lifetime = for_entry.min(for_attr);
                filled(reply.add(attr.ino, line.offset_after, name, &lifetime, &attr, GENERATION))
            };
            match shared.operations.read_dir_plus(handle.0, offset, take).await {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(shared.fail("readdirplus", node.0, &error)),
            }
        });
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.release_handle(handle, reply);
    }

    fn statfs(&self, _: &Request, node: INodeNo, reply: ReplyStatfs) {
        self.answer(|shared| async move {
            match shared.operations.fs_stat(NodeId(node.0)).await {
                Ok(s) => {
                    let block_size = u32::try_from(s.block_size).unwrap_or(u32::MAX);
                    let (free, available) = (s.blocks_free, s.blocks_available);
                    let name_length = MAX_NAME as u32;
                    reply.statfs(
                        s.blocks,
                        free,
                        available,
                        s.files,
                        s.files_free,
                        block_size,
                        name_length,
                        block_size,
                    );
                }
                Err(error) => reply.error(shared.fail("statfs", node.0, &error)),
            }
        });
    }

    fn getxattr(&self, _: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name.to_owned();
        self.answer(|shared| async move {
            match shared.operations.get_xattr(NodeId(node.0), name.as_bytes()).await {
                Ok(value) => reply_xattr(reply, &value, size),
                Err(error) => reply.error(shared.fail("getxattr", node.0, &error)),
            }
        });
    }

    fn listxattr(&self, _: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        self.answer(|shared| async move {
            match shared.operations.list_xattr(NodeId(node.0)).await {
                Ok(names) => reply_xattr(reply, &names, size),
                Err(error) => reply.error(shared.fail("listxattr", node.0, &error)),
            }
        });
    }

    // What the kernel does better alone. `ENOSYS` tells it so once, and it does not ask again.

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, _: i64, _: i32, reply: ReplyLseek) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    // Changes.

    fn setattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: INodeNo,
        _: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn create(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        reply.error(Errno::EROFS);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }

    fn setxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: &[u8], _: i32, _: u32, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn fallocate(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, _: u64, _: i32, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }
}

impl Adapter {
    fn release_handle(&self, handle: FileHandle, reply: ReplyEmpty) {
        match self.shared.operations.release(handle.0) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }
}

fn reply_pieces(reply: ReplyData, pieces: &[Bytes]) {
    match pieces {
        [whole] => reply.data(whole),
        pieces => reply.data(&pieces.concat()),
    }
}

/// `size` is the caller's buffer; 0 asks how large it has to be.
fn reply_xattr(reply: ReplyXattr, value: &[u8], size: u32) {
    match u32::try_from(value.len()) {
        Ok(length) if size == 0 => reply.size(length),
        Ok(length) if length <= size => reply.data(value),
        _ => reply.error(Errno::ERANGE),
    }
}

fn keeping_flags(keeping: Keeping) -> FopenFlags {
    match keeping {
        Keeping::Nothing => FopenFlags::empty(),
        Keeping::Anew => FopenFlags::FOPEN_CACHE_DIR,
        Keeping::On => FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE,
    }
}

fn filled(full: bool) -> Filled {
    if full { Filled::Full } else { Filled::Taken }
}
