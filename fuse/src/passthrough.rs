//! Whole local files are passed through: the kernel reads and maps them by itself, at the speed of the file system that
//! holds them, and asks nothing between open and close.
//!
//! Where that is not to be had (an old kernel, a mount that is not root's, files on a stacked file system) everything
//! is read through us, without an error. A file that becomes whole while it is open is passed through when it is
//! opened again after its last close.
//!
//! Who opens a file to write gets the file itself, where its volume has it here and permits that; never a copy of one
//! content. Those who read and those who write then share it.
//!
//! *Invariants:* a local file is kept until the kernel has closed it; only what is the file itself is written to.

use crate::model::{Mode, Modes, NodeId};
use crate::transport::{BackingId, Device};
use crate::volume::WholeFile;
use parking_lot::Mutex;
use rustix::io::Errno;
use std::any::Any;
use std::fs::File;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};
use tracing::{debug, info};

/// A local file that the kernel reads.
pub(crate) struct Backing {
    /// Given back before the file is let go.
    pub(crate) id: BackingId,
    is_original: bool,
    _keep: Option<Box<dyn Any + Send + Sync>>,
}

/// How a file that is to be written is opened.
pub(crate) enum ToWrite {
    /// As all others.
    Cached,
    /// The kernel writes to the file by itself, for as long as the other one is kept.
    Passed(Arc<Backing>, WholeFile),
    /// Not as this node, of which the kernel reads one content by itself.
    Elsewhere,
}

/// What is open, and how the kernel reads it.
#[derive(Default)]
pub(crate) struct Passthrough {
    modes: Mutex<Modes<Backing>>,
    permitted: AtomicBool,
    /// Of the mount, which must not live on for our sake.
    device: OnceLock<Weak<Device>>,
}

impl Passthrough {
    /// The kernel behind `device` offers it, and nobody has said no.
    pub(crate) fn permit(&self, device: &Arc<Device>) {
        let is_first = self.device.set(Arc::downgrade(device)).is_ok();
        self.permitted.store(is_first, Relaxed);
    }

    /// `node` is opened once more: how the kernel is to read it. `find` looks for its local file.
    pub(crate) async fn open(
        &self,
        node: NodeId,
        find: impl Future<Output = Option<WholeFile>>,
    ) -> Mode<Backing> {
        if let Some(mode) = self.modes.lock().join(node) {
            return mode;
        }
        let whole = if self.permitted.load(Relaxed) { find.await } else { None };
        let register = |WholeFile { file, is_original, keep }| self.register(&file, is_original, Some(keep));
        let wanted = whole.and_then(register).unwrap_or(Mode::Cached);
        let mode = self.modes.lock().open(node, wanted.clone());
        // What another open made needless is given back here, outside the lock.
        drop(wanted);
        mode
    }

    /// `node` is opened once more, to be written. `find` looks for the file itself.
    pub(crate) async fn open_to_write(
        &self,
        node: NodeId,
        find: impl Future<Output = Option<WholeFile>>,
    ) -> ToWrite {
        let is_possible = match self.modes.lock().mode(node) {
            Some(Mode::Passed(backing)) if !backing.is_original => return ToWrite::Elsewhere,
            Some(Mode::Passed(_)) | None => self.permitted.load(Relaxed),
            Some(Mode::Cached) => false,
        };
        let whole = if is_possible { find.await } else { None };
        let cached = || if self.open_cached(node) { ToWrite::Cached } else { ToWrite::Elsewhere };
        let Some(whole) = whole else { return cached() };
        let Some(wanted) = self.register(&whole.file, true, None) else { return cached() };
        let mode = self.modes.lock().open(node, wanted.clone());
        // What another open made needless is given back here, outside the lock.
        drop(wanted);
        match mode {
            Mode::Cached => ToWrite::Cached,
            Mode::Passed(backing) if backing.is_original => ToWrite::Passed(backing, whole),
            Mode::Passed(_) => {
                self.close(node);
                ToWrite::Elsewhere
            }
        }
    }

    /// `node` is opened once more, to be written by us: whether it can be, which is not so while the kernel reads it by
    /// itself.
    pub(crate) fn open_cached(&self, node: NodeId) -> bool {
        self.modes.lock().open_cached(node)
    }

    /// Whether the kernel reads `node` by itself.
    pub(crate) fn is_passed(&self, node: NodeId) -> bool {
        self.modes.lock().is_passed(node)
    }

    /// The kernel has closed `node` once.
    pub(crate) fn close(&self, node: NodeId) {
        let last = self.modes.lock().close(node);
        drop(last);
    }

    fn register(
        &self,
        file: &File,
        is_original: bool,
        keep: Option<Box<dyn Any + Send + Sync>>,
    ) -> Option<Mode<Backing>> {
        let device = self.device.get()?.upgrade()?;
        match BackingId::open(&device, file) {
            Ok(id) => Some(Mode::Passed(Backing { id, is_original, _keep: keep }.into())),
            Err(error) => {
                self.refused(&error);
                None
            }
        }
    }

    /// What will not change is not tried again.
    fn refused(&self, error: &io::Error) {
        let reason = match Errno::from_io_error(error) {
            Some(Errno::PERM) => "only root may",
            Some(Errno::LOOP) => "the cache lies on a stacked file system, such as overlayfs",
            Some(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL) => {
                "the kernel or the cache's file system cannot"
            }
            _ => return debug!(%error, "a file is not passed through to the kernel"),
        };
        if self.permitted.swap(false, Relaxed) {
            info!(%error, reason, "cached files are not passed through to the kernel");
        }
    }
}
