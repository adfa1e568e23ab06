//! The disk on io_uring: a few rings, each with its own thread. See [`crate::ring`].

use crate::disk::{Disk, check_range};
use crate::ring::Engine;
use async_trait::async_trait;
use bytes::Bytes;
use std::fs::File;
use std::io;
use std::sync::Arc;

/// Rings of one disk. Page-cached data is copied on the ring's thread, so one ring alone would be a core's
/// worth of copying; data that comes from the device costs a ring next to nothing.
const RINGS: usize = 2;

/// Reads and writes through io_uring.
#[derive(Debug)]
pub struct UringDisk(Engine);

impl UringDisk {
    /// Starts the rings; the error is what the kernel said.
    pub fn start() -> io::Result<Self> {
        Engine::start(RINGS).map(Self)
    }
}

#[async_trait]
impl Disk for UringDisk {
    async fn read_at(&self, file: &Arc<File>, offset: u64, length: usize) -> io::Result<Bytes> {
        check_range(offset, length)?;
        self.0.read(file, offset, length).await
    }

    async fn write_at(&self, file: &Arc<File>, offset: u64, data: Bytes) -> io::Result<()> {
        check_range(offset, data.len())?;
        self.0.write(file, offset, data).await
    }

    async fn sync(&self, file: &Arc<File>) -> io::Result<()> {
        self.0.sync(file).await
    }

    fn name(&self) -> &'static str {
        "io_uring"
    }
}
