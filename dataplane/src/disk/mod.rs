//! Disk work behind one seam: io_uring, plain POSIX calls where the kernel forbids io_uring, and a faulty
//! disk for tests.

use async_trait::async_trait;
use bytes::Bytes;
use std::fs::File;
use std::io;
use std::sync::Arc;

/// Reads and writes of open files. Opening, naming and removing files are not part of it.
#[async_trait]
pub trait Disk: Send + Sync + 'static {
    /// Reads at `offset` until `length` bytes are there or the file ends.
    async fn read_at(&self, file: &Arc<File>, offset: u64, length: usize) -> io::Result<Bytes>;

    /// Writes all of `data` at `offset`.
    async fn write_at(&self, file: &Arc<File>, offset: u64, data: Bytes) -> io::Result<()>;

    /// Returns when what was written survives a loss of power.
    async fn sync(&self, file: &Arc<File>) -> io::Result<()>;

    /// What a log calls this implementation.
    fn name(&self) -> &'static str;
}
