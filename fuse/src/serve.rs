//! What the kernel's requests mean in terms of [`Operations`], and how their answers come about.
//!
//! Each is answered at once with what is known, or becomes a task, so that a thread which takes requests waits for
//! none of them.

mod changes;
mod drops;
mod interrupts;
mod locks;

use crate::errno::{ErrorLog, errno};
use crate::kernel::abi;
use crate::kernel::reply::{self, Lifetimes, Listing};
use crate::kernel::request::{self, Operation, Request};
use crate::model::{Mode, NodeId};
use crate::operations::{Line, Operations, Reached};
use crate::options::Options;
use crate::passthrough::Passthrough;
use crate::transport::{Device, Notifier, Reply};
use crate::volume::Volume;
use changes::{cached, passed, writes};
use drops::Drops;
use globalfs_proto::limits::CHUNK_SIZE;
use globalfs_proto::{FsError, FsResult};
use interrupts::Interrupts;
use rustix::io::Errno;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use tokio::runtime::Handle;
use tracing::debug;

/// Bytes of a read that a ring's thread works on by itself: a chunk. It serves one CPU, so others are not kept waiting.
const SHORT_READ: u32 = CHUNK_SIZE as u32;

/// Whether more requests are to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// They are.
    Continue,
    /// The kernel has said good-bye.
    End,
}

/// What is to be read.
#[derive(Debug, Clone, Copy)]
struct ReadAt {
    handle: u64,
    offset: u64,
    length: u32,
    /// Past the page cache.
    is_direct: bool,
}

/// A mounted volume as the kernel sees it.
pub(crate) struct Server {
    shared: Arc<Shared>,
    lifetimes: Lifetimes,
    runtime: Handle,
}

struct Shared {
    operations: Arc<Operations<dyn Volume>>,
    passthrough: Passthrough,
    notifier: OnceLock<Notifier>,
    interrupts: Interrupts,
    drops: Drops,
    errors: ErrorLog,
}

impl Shared {
    /// Notes `error` and answers with it.
    fn fail(&self, operation: &'static str, node: NodeId, error: &FsError, reply: Reply) {
        self.errors.record(operation, node.0, error);
        reply.error(errno(error));
    }

    async fn open_to_read(&self, node: NodeId, tid: u32) -> FsResult<abi::OpenOut> {
        let (handle, pages) = self.operations.open_to(node, false).await?;
        // A handle that is gone already is the volume's affair no more.
        let _ = self.operations.tell_opener(handle, tid).await;
        let whole = self.operations.whole_file(handle);
        Ok(match self.passthrough.open(node, whole).await {
            // Keeping the page cache is safe: a node has one version, or its pages are dropped when others change it.
            Mode::Cached => cached(handle, pages),
            Mode::Passed(backing) => {
                self.operations.passed_through(handle);
                passed(handle, &backing)
            }
        })
    }

    /// Answers with lines of a directory. Before the kernel hears that it was told all, when it takes what it was told
    /// to be whole and shows it to others, it has forgotten what it must not show.
    fn listed(
        &self,
        operation: &'static str,
        node: NodeId,
        reached: FsResult<Reached>,
        listing: &Listing,
        reply: Reply,
    ) {
        match (reached, self.notifier.get().cloned()) {
            (Ok(Reached::OutdatedEnd), Some(notifier)) => {
                // On a thread of its own, as calls of this kind wait for locks of the kernel.
                tokio::task::spawn_blocking(move || {
                    let _ = notifier.inval_inode(node, 0, 0);
                    reply.bytes(&[]);
                });
            }
            (Ok(_), _) => reply.bytes(listing.bytes()),
            (Err(error), _) => self.fail(operation, node, &error, reply),
        }
    }
}

impl Server {
    pub(crate) fn new(operations: Arc<Operations<dyn Volume>>, options: &Options, runtime: Handle) -> Self {
        let lifetimes =
            Lifetimes { attr: options.attr_ttl, entry: options.entry_ttl, negative: options.negative_ttl };
        let shared = Shared {
            operations,
            passthrough: Passthrough::default(),
            notifier: OnceLock::new(),
            interrupts: Interrupts::default(),
            drops: Drops::default(),
            errors: ErrorLog::default(),
        };
        Self { shared: Arc::new(shared), lifetimes, runtime }
    }

    /// The kernel is told by `notifier` what it must forget.
    pub(crate) fn notify_by(&self, notifier: Notifier) {
        let (runtime, by, drops) = (self.runtime.clone(), notifier.clone(), self.shared.drops.clone());
        // On a thread of its own: such a call waits for pages that are being read or written.
        self.shared.operations.drop_pages_by(move |node| {
            let (by, dropping) = (by.clone(), drops.begin(node));
            runtime.spawn_blocking(move || {
                // What the kernel does not know it refuses, which is as well.
                let _ = by.inval_inode(node, 0, 0);
                drop(dropping);
            });
        });
        // A second one is not heard: a volume is mounted once.
        let _ = self.shared.notifier.set(notifier);
    }

    /// From now on writes are answered before they are sent.
    pub(crate) fn write_behind(&self) {
        let (runtime, shared) = (self.runtime.clone(), Arc::downgrade(&self.shared));
        self.shared.operations.stream_by(move |node, start| {
            let Some(shared) = shared.upgrade() else { return };
            runtime.spawn(async move { shared.operations.stream_out(node, start).await });
        });
    }

    /// The kernel behind `device` may read local files by itself.
    pub(crate) fn permit_passthrough(&self, device: &Arc<Device>) {
        self.shared.passthrough.permit(device);
    }

    /// Sees to it that `request` is answered by `reply`. A bug costs this request alone, not the thread.
    pub(crate) fn handle(&self, request: &Request<'_>, reply: Reply) -> Then {
        let handle = AssertUnwindSafe(|| self.begin(request, reply));
        catch_unwind(handle).unwrap_or(Then::Continue)
    }

    fn begin(&self, request: &Request<'_>, reply: Reply) -> Then {
        let (node, tid) = (request.node, request.tid);
        match request.operation {
            Operation::LookUp { name } => self.look_up(node, name, reply),
            Operation::Forget { lookups } => {
                self.shared.operations.forget(node, lookups);
                reply.not_needed();
            }
            Operation::BatchForget { nodes } => {
                let forgotten = request::forgotten(nodes);
                forgotten.for_each(|(node, lookups)| self.shared.operations.forget(node, lookups));
                reply.not_needed();
            }
            Operation::GetAttr => self.get_attr(node, reply),
            Operation::ReadLink => self.read_link(node, reply),
            Operation::Open { flags } => self.open(node, flags, tid, reply),
            Operation::Read { handle, offset, length, is_direct } => {
                self.read(node, ReadAt { handle, offset, length, is_direct }, reply);
            }
            Operation::Seek { handle, offset, whence } => self.seek(node, handle, offset, whence, reply),
            Operation::Release { handle, unlocks } => {
                unlocks.into_iter().for_each(|owner| self.release_lock(node, owner));
                self.release(node, handle, reply);
            }
            Operation::ReadDir { offset, size } => self.read_dir(node, offset, size, reply),
            Operation::ReadDirPlus { offset, size } => self.read_dir_plus(node, offset, size, reply),
            Operation::StatFs => self.fs_stat(node, reply),
            Operation::GetXattr { name, size } => self.get_xattr(node, name, size, reply),
            Operation::ListXattr { size } => self.list_xattr(request, size, reply),
            Operation::Ioctl => reply.error(Errno::NOTTY),
            Operation::Change(change) => self.change(request, change, reply),
            Operation::Lock(lock) => self.lock(request, lock, reply),
            Operation::NotifyReply => reply.not_needed(),
            Operation::Destroy => {
                reply.done();
                return Then::End;
            }
            // What the kernel does better alone. `ENOSYS` tells it so once, and it
            // does not ask again.
            Operation::Other { opcode } => {
                debug!(opcode, "left to the kernel");
                reply.error(Errno::NOSYS);
            }
        }
        Then::Continue
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

    fn look_up(&self, parent: NodeId, name: &[u8], reply: Reply) {
        let (lifetimes, name) = (self.lifetimes, name.to_vec());
        self.answer(|shared| async move {
            match shared.operations.look_up(parent, &name).await {
                Ok(node) => reply.structure(&reply::entry(&node, &lifetimes)),
                Err(FsError::NOT_FOUND) if !lifetimes.negative.is_zero() => {
                    reply.structure(&reply::no_entry(lifetimes.negative));
                }
                Err(error) => shared.fail("lookup", parent, &error, reply),
            }
        });
    }

    fn get_attr(&self, id: NodeId, reply: Reply) {
        let lifetimes = self.lifetimes;
        self.answer(|shared| async move {
            match shared.operations.get_attr(id).await {
                Ok(node) => reply.structure(&reply::attributes(&node, &lifetimes)),
                Err(error) => shared.fail("getattr", id, &error, reply),
            }
        });
    }

    fn read_link(&self, node: NodeId, reply: Reply) {
        self.answer(|shared| async move {
            match shared.operations.read_link(node).await {
                Ok(target) => reply.bytes(&target),
                Err(error) => shared.fail("readlink", node, &error, reply),
            }
        });
    }

    fn open(&self, node: NodeId, flags: u32, tid: u32, reply: Reply) {
        self.answer(|shared| async move {
            let opened = match writes(flags) {
                true => shared.open_to_write(node, tid).await,
                false => shared.open_to_read(node, tid).await,
            };
            match opened {
                Ok(answer) => reply.structure(&answer),
                Err(error) => shared.fail("open", node, &error, reply),
            }
        });
    }

    fn read(&self, node: NodeId, read: ReadAt, reply: Reply) {
        let ReadAt { handle, offset, length, is_direct } = read;
        // Whole chunks are hashed, which is for all cores to do.
        let here = self.shared.operations.is_small(handle) || (reply.is_by_ring() && length <= SHORT_READ);
        let work = |shared: Arc<Shared>| async move {
            match shared.operations.read(handle, offset, length).await {
                Ok(pieces) => {
                    reply.pieces(&pieces);
                    if !is_direct {
                        shared.operations.come_by(handle, offset, length);
                    }
                }
                Err(error) => shared.fail("read", node, &error, reply),
            }
        };
        if here { self.answer(work) } else { self.spawn(work) }
    }

    /// The kernel knows all but where data and holes begin.
    fn seek(&self, node: NodeId, handle: u64, offset: u64, whence: u32, reply: Reply) {
        let hole = match whence {
            abi::whence::DATA => false,
            abi::whence::HOLE => true,
            _ => return reply.error(Errno::INVAL),
        };
        self.spawn(move |shared| async move {
            match shared.operations.seek(handle, offset, hole).await {
                Ok(offset) => reply.structure(&abi::LseekOut { offset }),
                Err(error) => shared.fail("lseek", node, &error, reply),
            }
        });
    }

    /// Who has closed it does not wait for the answer.
    fn release(&self, node: NodeId, handle: u64, reply: Reply) {
        self.answer(move |shared| async move {
            // A mapping may have been written to after the close.
            shared.operations.write_out(node).await;
            shared.passthrough.close(node);
            let untold = shared.operations.untold_direct(node);
            match shared.operations.release(handle) {
                Ok(hidden) => {
                    reply.done();
                    if let Some(target) = untold {
                        shared.operations.tell_direct(target).await;
                    }
                    if let Some(node) = hidden {
                        shared.remove_hidden(node).await;
                    }
                }
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn read_dir(&self, node: NodeId, offset: u64, size: u32, reply: Reply) {
        self.answer(|shared| async move {
            let mut listing = Listing::new(size);
            let take = |line: Line<'_>| listing.take(&line);
            let reached = shared.operations.read_dir(node, offset, take).await;
            shared.listed("readdir", node, reached, &listing, reply);
        });
    }

    fn read_dir_plus(&self, node: NodeId, offset: u64, size: u32, reply: Reply) {
        let lifetimes = self.lifetimes;
        self.answer(|shared| async move {
            let mut listing = Listing::new(size);
            let take = |line: Line<'_>| listing.take_plus(&line, &lifetimes);
            let reached = shared.operations.read_dir_plus(node, offset, take).await;
            shared.listed("readdirplus", node, reached, &listing, reply);
        });
    }

    fn fs_stat(&self, node: NodeId, reply: Reply) {
        self.answer(|shared| async move {
            match shared.operations.fs_stat(node).await {
                Ok(stat) => reply.structure(&reply::totals(&stat)),
                Err(error) => shared.fail("statfs", node, &error, reply),
            }
        });
    }

    fn get_xattr(&self, node: NodeId, name: &[u8], size: u32, reply: Reply) {
        let name = name.to_vec();
        self.answer(|shared| async move {
            match shared.operations.get_xattr(node, &name).await {
                Ok(value) => answer_xattr(reply, &value, size),
                Err(error) => shared.fail("getxattr", node, &error, reply),
            }
        });
    }

    fn list_xattr(&self, request: &Request<'_>, size: u32, reply: Reply) {
        let (node, uid) = (request.node, request.uid);
        self.answer(|shared| async move {
            match shared.operations.list_xattr(node, uid).await {
                Ok(names) => answer_xattr(reply, &names, size),
                Err(error) => shared.fail("listxattr", node, &error, reply),
            }
        });
    }
}

/// `size` is the caller's buffer; 0 asks how large it has to be.
fn answer_xattr(reply: Reply, value: &[u8], size: u32) {
    match u32::try_from(value.len()) {
        Ok(length) if size == 0 => reply.structure(&abi::GetxattrOut { size: length, padding: 0 }),
        Ok(length) if length <= size => reply.bytes(value),
        _ => reply.error(Errno::RANGE),
    }
}
