//! Reading the chunks of one version of one file.
//!
//! *Invariant:* a chunk leaves only if its bytes are those of the wanted version, by this argument. Every
//! change of a file sets its ctime to the kernel's coarse clock, before the new bytes can be read. Reading
//! begins only when the wanted ctime is older than a tick of that clock ([`SETTLE`]) and no write is at work
//! any more that began under it, so a change from then on sets another ctime, and the look at the attributes
//! after the read, before the chunk is let out, finds it. A file that loses its name to another gets a new
//! ctime too, so its readers are told to look again.
//!
//! What this cannot see: stores into a page that is mapped and already dirty, which move no time stamp until
//! the page is written back; direct writes over allocated blocks that take longer than the settling; and
//! another host's changes on a network file system that caches attributes.

use super::watch::is_local;
use super::{Inner, Origin};
use crate::encoding;
use crate::source::{Chunk, ChunkStream, Deadline};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use globalfs_proto::{ChunkHash, ChunkIndex, ChunkSpan, FsError, FsResult, GlobalPath, Version};
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;

/// How old a ctime must be before content is read under it. The coarse clock ticks every 1 to 10 ms; file
/// systems with finer stamps (some, from Linux 6.13) do not need it, but do not tell.
const SETTLE: Duration = Duration::from_millis(20);

const EINVAL: FsError = FsError::Os(22);

/// An open file and what is wanted of it.
pub(super) struct Reading {
    pub(super) origin: Origin,
    pub(super) file: Arc<File>,
    pub(super) version: Version,
    pub(super) span: ChunkSpan,
    pub(super) deadline: Deadline,
    /// To look at the file's attributes needs no waiting for another machine.
    is_local: bool,
}

impl Reading {
    /// Opens `path` and waits until `version`, which it must have, has settled.
    pub(super) async fn open(
        origin: Origin,
        path: &GlobalPath,
        version: Version,
        span: ChunkSpan,
        deadline: Deadline,
    ) -> FsResult<Self> {
        let path = path.clone();
        let open = move |inner: &Inner| {
            let (file, attr) = inner.tree.open_regular(&path)?;
            let is_local = is_local(&file);
            Ok((file, attr, is_local))
        };
        let (file, attr, is_local) = origin.call(deadline, open).await?;
        if attr.version() != version {
            return Err(FsError::Stale(Some(Box::new(attr))));
        }
        check_span(span, version.size)?;
        let reading = Self { origin, file: Arc::new(file), version, span, deadline, is_local };
        reading.settle().await?;
        Ok(reading)
    }

    /// Waits at most [`SETTLE`], also for a ctime in the future: by then the clock that stamped the version
    /// has moved on, whatever it shows.
    async fn settle(&self) -> FsResult<()> {
        let wait = time_to_settle(self.version.ctime_ns, SystemTime::now());
        if wait > self.deadline.remaining() {
            return Err(FsError::Deadline);
        }
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        self.outwait_writer().await
    }

    async fn outwait_writer(&self) -> FsResult<()> {
        let (file, version) = (self.file.clone(), self.version);
        let look = move |inner: &Inner| {
            outwait_writer(&file);
            inner.check_version(&file, version)
        };
        self.origin.call(self.deadline, look).await
    }

    /// Reads on until the span is done, an error, the deadline, or until nobody listens any more.
    pub(super) fn start(self) -> ChunkStream {
        let (sender, chunks) = mpsc::channel(self.origin.0.options.read_window.max(1) + 1);
        // The last place is kept for an error, so that a stream never ends early without one.
        let last = sender.clone().try_reserve_owned();
        tokio::spawn(async move {
            let outcome = self.deadline.bound(self.send_all(sender)).await;
            if let (Err(error), Ok(last)) = (outcome, last) {
                last.send(Err(error));
            }
        });
        chunks
    }

    async fn send_all(&self, sender: mpsc::Sender<FsResult<Chunk>>) -> FsResult<()> {
        let window = self.origin.0.options.read_window.max(1);
        let mut chunks = stream::iter(self.span.iter()).map(|index| self.chunk(index)).buffered(window);
        while let Some(chunk) = chunks.next().await {
            if sender.send(Ok(chunk?)).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    async fn chunk(&self, index: ChunkIndex) -> FsResult<Chunk> {
        let range = index.bytes(self.version.size).ok_or(EINVAL)?;
        let counters = &self.origin.0.counters;
        let read = self.origin.0.disk.read_at(&self.file, range.start(), range.length() as usize);
        let data = read.await.map_err(FsError::from).inspect_err(|error| counters.failed(error))?;
        let (hash, data) = self.check(data).await?;
        if data.len() as u64 != range.length() {
            return Err(FsError::Stale(None));
        }
        counters.reads.fetch_add(1, Ordering::Relaxed);
        counters.bytes_read.fetch_add(range.length(), Ordering::Relaxed);
        Ok(Chunk { index, hash, data })
    }

    /// Hashes `data`, and lets it through if the file still has the wanted version. On this thread where that
    /// waits for nobody: 25 us, not much more than another thread would cost beside it.
    async fn check(&self, data: Bytes) -> FsResult<(ChunkHash, Bytes)> {
        if self.is_local {
            return check(&self.origin.0, &self.file, self.version, data);
        }
        let (file, version) = (self.file.clone(), self.version);
        self.origin.call(self.deadline, move |inner| check(inner, &file, version, data)).await
    }
}

fn check(inner: &Inner, file: &File, version: Version, data: Bytes) -> FsResult<(ChunkHash, Bytes)> {
    let hash = encoding::hash(&data);
    inner.check_version(file, version)?;
    Ok((hash, data))
}

fn check_span(span: ChunkSpan, size: u64) -> FsResult<()> {
    let last = span.count.checked_sub(1).and_then(|rest| span.first.0.checked_add(rest));
    let within = last.is_some_and(|last| ChunkIndex(last).bytes(size).is_some());
    if within { Ok(()) } else { Err(EINVAL) }
}

/// A write stamps the file when it begins, and may take long. Looking for data waits for the lock that ext4,
/// btrfs and tmpfs hold from the stamp to the last byte; XFS holds it against each read by itself.
pub(super) fn outwait_writer(file: &File) {
    // There may be no data: the wait alone matters, and the offset of our descriptor serves nobody.
    let _ = rustix::fs::seek(file, rustix::fs::SeekFrom::Data(0));
}

pub(super) fn time_to_settle(ctime_ns: i64, now: SystemTime) -> Duration {
    let changed = UNIX_EPOCH + Duration::from_nanos(u64::try_from(ctime_ns).unwrap_or(0));
    now.duration_since(changed).map_or(SETTLE, |age| SETTLE.saturating_sub(age))
}

#[cfg(test)]
mod tests {
    use super::*;
    use globalfs_proto::limits::CHUNK_SIZE;

    #[test]
    fn only_young_versions_wait() {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        let check = |ctime_ms: i64, want_ms| {
            assert_eq!(time_to_settle(ctime_ms * 1_000_000, now), Duration::from_millis(want_ms));
        };
        check(0, 0);
        check(-5, 0);
        check(999_980, 0);
        check(999_990, 10);
        check(1_000_000, 20);
        check(5_000_000, 20);
    }

    #[test]
    fn spans_lie_within_the_file() {
        let check = |first, count, size, fine: bool| {
            let span = ChunkSpan { first: ChunkIndex(first), count };
            assert_eq!(check_span(span, size).is_ok(), fine, "{first} {count} {size}");
        };
        check(0, 1, 1, true);
        check(0, 1, 0, false);
        check(0, 0, 1, false);
        check(0, 2, CHUNK_SIZE, false);
        check(1, 1, CHUNK_SIZE + 1, true);
        check(u64::MAX, 1, u64::MAX, false);
        check(1, u64::MAX, u64::MAX, false);
    }
}
