//! A cache on a disk that is stuck harms nobody who reads.

use super::tests::{path, soon};
use super::*;
use crate::cache::fixture::{MIB, posix};
use crate::cache::{self, Cache};
use crate::disk::Disk;
use crate::testing::MemorySource;
use std::fs::File;
use std::io;
use tempfile::tempdir;
use tokio::sync::watch;

/// A disk on which no write ends before it is let go.
struct StuckDisk {
    disk: Arc<dyn Disk>,
    stuck: watch::Receiver<bool>,
}

#[async_trait]
impl Disk for StuckDisk {
    async fn read_at(&self, file: &Arc<File>, offset: u64, length: usize) -> io::Result<Bytes> {
        self.disk.read_at(file, offset, length).await
    }

    async fn write_at(&self, file: &Arc<File>, offset: u64, data: Bytes) -> io::Result<()> {
        let _ = self.stuck.clone().wait_for(|stuck| !stuck).await;
        self.disk.write_at(file, offset, data).await
    }

    async fn sync(&self, file: &Arc<File>) -> io::Result<()> {
        self.disk.sync(file).await
    }

    fn name(&self) -> &'static str {
        "stuck"
    }
}

async fn read_all(cached: &Cached, version: Version, step: u64) -> usize {
    let mut length = 0;
    for start in (0..version.size).step_by(step as usize) {
        let range = ByteRange::of_read(start, step, version.size).unwrap();
        let pieces = cached.read_range(&path("/a"), version, range, soon()).await.unwrap();
        length += pieces.iter().map(Bytes::len).sum::<usize>();
    }
    length
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_go_on_while_the_disk_of_the_cache_is_stuck() {
    let dir = tempdir().unwrap();
    let (release, stuck) = watch::channel(true);
    let disk = Arc::new(StuckDisk { disk: posix(), stuck });
    let options = cache::Options { dir: dir.path().to_owned(), quota_bytes: 1024 * MIB };
    let cache = Cache::open(options, disk).unwrap();
    let upstream = MemorySource::new();
    let version = upstream.put_file("/a", vec![7; 200 * MIB as usize]).version();
    let ahead = Some(AheadOptions { bytes: 16 << 20, ..AheadOptions::default() });
    let cached = Cached::new(Arc::new(upstream), cache, Options { ahead, ..Options::default() });
    let (one, other) = tokio::join!(read_all(&cached, version, MIB), read_all(&cached, version, 3 * MIB));
    assert_eq!((one as u64, other as u64), (version.size, version.size));
    assert!(cached.cache().counters().chunks_not_kept > 0);
    release.send_replace(false);
    assert_eq!(read_all(&cached, version, MIB).await as u64, version.size);
}
