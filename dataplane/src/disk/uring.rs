//! The disk on io_uring: a few rings, each with its own thread (see [`crate::ring`]), for what a device has to
//! bring. What needs no waiting does not go there, because the way to another thread and back costs more than
//! copying a chunk:
//! - a read that the page cache answers is made at once, on the thread that asks;
//! - a buffered write is a copy into the page cache. Most file systems refuse it to a ring, which then hands it to
//!   threads of the kernel; a thread of ours costs less (see [`super::writers`]);
//! - what lies in memory is read and written at once (see [`super::memory`]).

use crate::disk::cached::{Cached, read_cached};
use crate::disk::memory::Memory;
use crate::disk::writers::Writers;
use crate::disk::{Disk, PosixDisk, check_range, posix};
use crate::ring::Engine;
use async_trait::async_trait;
use bytes::Bytes;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Rings of one disk. Data that comes from the device costs a ring next to nothing.
const RINGS: usize = 2;

/// Reads and writes through io_uring.
#[derive(Debug)]
pub struct UringDisk {
    engine: Engine,
    writers: Writers,
    threads: PosixDisk,
    memory: Memory,
}

impl UringDisk {
    /// Starts the rings; the error is what the kernel said.
    pub fn start() -> io::Result<Self> {
        let (engine, writers) = (Engine::start(RINGS)?, Writers::start()?);
        Ok(Self { engine, writers, threads: PosixDisk::default(), memory: Memory::new() })
    }
}

#[async_trait]
impl Disk for UringDisk {
    async fn read_at(&self, file: &Arc<File>, offset: u64, length: usize) -> io::Result<Bytes> {
        check_range(offset, length)?;
        match read_cached(file, offset, length)? {
            Cached::Whole(data) => Ok(data),
            Cached::NotAll => self.engine.read(file, offset, length).await,
            Cached::Untold if self.memory.holds(file) => posix::read(file, offset, length),
            Cached::Untold => self.threads.read_at(file, offset, length).await,
        }
    }

    async fn write_at(&self, file: &Arc<File>, offset: u64, data: Bytes) -> io::Result<()> {
        check_range(offset, data.len())?;
        if data.is_empty() {
            return Ok(());
        }
        if self.memory.takes(file, data.len()) {
            return file.write_all_at(&data, offset);
        }
        self.writers.write(file, offset, data).await
    }

    async fn sync(&self, file: &Arc<File>) -> io::Result<()> {
        self.engine.sync(file).await
    }

    fn name(&self) -> &'static str {
        "io_uring"
    }
}
