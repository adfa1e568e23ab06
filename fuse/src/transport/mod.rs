//! The ways between the kernel and a mount: `/dev/fuse`, which always works, and rings of io_uring beside it.
//!
//! *Invariant:* every request that waits for an answer gets exactly one; a [`Reply`] that is dropped unsent answers
//! `EIO`.

mod device;
mod system;
mod uring;

pub use device::Notifier;
pub(crate) use device::{BackingId, Device, PATH as DEVICE_PATH, REQUEST_BUFFER};
pub(crate) use uring::{Rings, RunningRings};

use bytes::Bytes;
use rustix::io::Errno;
use std::io::IoSlice;
use std::sync::Arc;
use uring::Held;
use zerocopy::{Immutable, IntoBytes};

/// The duty to answer one request, on whatever thread.
pub(crate) struct Reply {
    unique: u64,
    /// `None` once it is answered.
    way: Option<Way>,
}

/// Where the request came from, which is where its answer goes.
enum Way {
    Device(Arc<Device>),
    Ring(Held),
}

impl Reply {
    pub(crate) fn by_device(device: Arc<Device>, unique: u64) -> Self {
        Self { unique, way: Some(Way::Device(device)) }
    }

    fn by_ring(held: Held, unique: u64) -> Self {
        Self { unique, way: Some(Way::Ring(held)) }
    }

    /// Whether the request came over a ring, whose thread works for one CPU alone.
    pub(crate) fn is_by_ring(&self) -> bool {
        matches!(self.way, Some(Way::Ring(_)))
    }

    /// Whether the request may wait for others' requests of its kind. Over a ring it takes the room of a request meanwhile,
    /// and enough of that has to be left for those whom it waits for.
    pub(crate) fn may_wait(&mut self) -> bool {
        match &mut self.way {
            Some(Way::Ring(held)) => held.may_wait(),
            _ => true,
        }
    }

    /// It is done, and there is nothing to tell.
    pub(crate) fn done(mut self) {
        self.send(0, &[]);
    }

    /// Answers with a structure.
    pub(crate) fn structure(mut self, structure: &(impl IntoBytes + Immutable)) {
        self.send(0, &[IoSlice::new(structure.as_bytes())]);
    }

    /// Answers with bytes.
    pub(crate) fn bytes(mut self, bytes: &[u8]) {
        self.send(0, &[IoSlice::new(bytes)]);
    }

    /// Answers with bytes that lie in several places.
    pub(crate) fn pieces(mut self, pieces: &[Bytes]) {
        let slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        self.send(0, &slices);
    }

    /// It failed.
    pub(crate) fn error(mut self, errno: Errno) {
        self.send(-errno.raw_os_error(), &[]);
    }

    /// Nobody waits for an answer.
    pub(crate) fn not_needed(mut self) {
        // Over a ring every request is answered: the kernel sends none of this kind there.
        if !self.is_by_ring() {
            self.way = None;
        }
    }

    fn send(&mut self, error: i32, pieces: &[IoSlice<'_>]) {
        match self.way.take() {
            Some(Way::Device(device)) => device.answer(self.unique, error, pieces),
            Some(Way::Ring(held)) => held.answer(self.unique, error, pieces),
            None => {}
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.send(-Errno::IO.raw_os_error(), &[]);
    }
}
