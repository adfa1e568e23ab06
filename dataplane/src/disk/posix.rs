//! The disk on pread, pwrite and fsync, on threads of tokio's blocking pool.
//!
//! *Invariant:* at most [`MAX_CALLS`] calls run or wait for a thread; a call whose future was dropped keeps
//! its place until it ends.

use crate::disk::{Disk, check_range, fill};
use async_trait::async_trait;
use bytes::Bytes;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Calls at a time.
const MAX_CALLS: usize = 64;

/// Reads and writes through POSIX calls.
#[derive(Debug)]
pub struct PosixDisk(Arc<Semaphore>);

impl Default for PosixDisk {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_CALLS)))
    }
}

impl PosixDisk {
    async fn call<T: Send + 'static>(
        &self,
        file: &Arc<File>,
        work: impl FnOnce(&File) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let permit = self.0.clone().acquire_owned().await.map_err(io::Error::other)?;
        let file = file.clone();
        let call = move || {
            let _permit = permit;
            work(&file)
        };
        tokio::task::spawn_blocking(call).await.map_err(io::Error::other)?
    }
}

#[async_trait]
impl Disk for PosixDisk {
    async fn read_at(&self, file: &Arc<File>, offset: u64, length: usize) -> io::Result<Bytes> {
        check_range(offset, length)?;
        self.call(file, move |file| read(file, offset, length)).await
    }

    async fn write_at(&self, file: &Arc<File>, offset: u64, data: Bytes) -> io::Result<()> {
        check_range(offset, data.len())?;
        self.call(file, move |file| file.write_all_at(&data, offset)).await
    }

    async fn sync(&self, file: &Arc<File>) -> io::Result<()> {
        self.call(file, |file| file.sync_all()).await
    }

    fn name(&self) -> &'static str {
        "posix"
    }
}

/// Reads until `length` bytes are there or the file ends. Waits for the device.
pub(super) fn read(file: &File, offset: u64, length: usize) -> io::Result<Bytes> {
    fill(length, |room, at| rustix::io::pread(file, room, offset + at))
}
