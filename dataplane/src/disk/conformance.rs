//! What every [`Disk`] must do, run over each implementation.

use super::{Disk, PosixDisk, UringDisk};
use bytes::Bytes;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The disk on io_uring, or `None`, said aloud, where the kernel forbids it.
fn uring() -> Option<Arc<dyn Disk>> {
    match UringDisk::start() {
        Ok(disk) => Some(Arc::new(disk)),
        Err(error) if std::env::var_os("GLOBALFS_TEST_FULL").is_some_and(|v| v == "1") => {
            panic!("io_uring is missing: {error}")
        }
        Err(error) => {
            eprintln!("SKIPPED: io_uring is missing: {error}");
            None
        }
    }
}

fn posix() -> Option<Arc<dyn Disk>> {
    Some(Arc::new(PosixDisk::default()))
}

macro_rules! conformance {
    ($($case:ident)*) => { $(
        mod $case {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn uring() {
                if let Some(disk) = super::uring() {
                    super::case::$case(disk).await;
                }
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn posix() {
                if let Some(disk) = super::posix() {
                    super::case::$case(disk).await;
                }
            }
        }
    )* };
}

conformance! {
    reads_end_with_the_file
    large_reads_and_writes
    a_thousand_reads_at_once
    what_is_written_is_read
    dropped_futures_do_no_harm
    the_wrong_mode_is_an_error
    impossible_ranges_are_refused
    dropping_the_disk_finishes_writes
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 / 7) as u8).collect()
}

fn file_with(content: &[u8]) -> Arc<File> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    Arc::new(file)
}

mod case {
    use super::*;

    pub(super) async fn reads_end_with_the_file(disk: Arc<dyn Disk>) {
        let file = file_with(b"hello");
        let check = async |offset, length, want: &[u8]| {
            assert_eq!(disk.read_at(&file, offset, length).await.unwrap(), want, "{offset} {length}");
        };
        check(0, 5, b"hello").await;
        check(1, 3, b"ell").await;
        check(3, 100, b"lo").await;
        check(5, 1, b"").await;
        check(1 << 40, 10, b"").await;
        check(2, 0, b"").await;
    }

    pub(super) async fn large_reads_and_writes(disk: Arc<dyn Disk>) {
        let content = Bytes::from(pattern(64 << 20));
        let file = file_with(b"");
        disk.write_at(&file, 3, content.clone()).await.unwrap();
        disk.sync(&file).await.unwrap();
        let back = disk.read_at(&file, 3, content.len() + 1).await.unwrap();
        assert!(back == content, "64 MiB come back as they were");
    }

    pub(super) async fn a_thousand_reads_at_once(disk: Arc<dyn Disk>) {
        let content = pattern(1_000_000);
        let file = file_with(&content);
        let reads: Vec<_> = (0..1000)
            .map(|i| {
                let (disk, file) = (disk.clone(), file.clone());
                tokio::spawn(async move { disk.read_at(&file, i * 997, 4096).await })
            })
            .collect();
        for (i, read) in reads.into_iter().enumerate() {
            let (start, end) = (i * 997, (i * 997 + 4096).min(content.len()));
            assert_eq!(read.await.unwrap().unwrap(), content[start..end], "read {i}");
        }
    }

    pub(super) async fn what_is_written_is_read(disk: Arc<dyn Disk>) {
        let file = file_with(&[9; 100]);
        disk.write_at(&file, 50, Bytes::from_static(b"middle")).await.unwrap();
        disk.write_at(&file, 5000, Bytes::from_static(b"behind")).await.unwrap();
        disk.write_at(&file, 9000, Bytes::new()).await.unwrap();
        assert_eq!(disk.read_at(&file, 49, 8).await.unwrap(), b"\x09middle\x09"[..]);
        assert_eq!(disk.read_at(&file, 4998, 100).await.unwrap(), b"\0\0behind"[..]);
        assert_eq!(file.metadata().unwrap().len(), 5006);
    }

    pub(super) async fn dropped_futures_do_no_harm(disk: Arc<dyn Disk>) {
        let content = pattern(1 << 20);
        let file = file_with(&content);
        for round in 0..200 {
            let patience = Duration::from_micros(round % 10 * 20);
            let _ = tokio::time::timeout(patience, disk.read_at(&file, 0, content.len())).await;
            let scrap = Bytes::from(vec![0; 4096]);
            let _ = tokio::time::timeout(patience, disk.write_at(&file, 2 << 20, scrap)).await;
        }
        assert_eq!(disk.read_at(&file, 0, content.len()).await.unwrap(), content);
    }

    pub(super) async fn the_wrong_mode_is_an_error(disk: Arc<dyn Disk>) {
        const EBADF: i32 = 9;
        let errno = |error: io::Error| error.raw_os_error();
        let named = tempfile::NamedTempFile::new().unwrap();
        let read_only = Arc::new(File::open(named.path()).unwrap());
        let write_only = Arc::new(OpenOptions::new().write(true).open(named.path()).unwrap());
        assert_eq!(errno(disk.read_at(&write_only, 0, 1).await.unwrap_err()), Some(EBADF));
        let write = disk.write_at(&read_only, 0, Bytes::from_static(b"x"));
        assert_eq!(errno(write.await.unwrap_err()), Some(EBADF));
        const EISDIR: i32 = 21;
        let directory = Arc::new(File::open("/").unwrap());
        assert_eq!(errno(disk.read_at(&directory, 0, 1).await.unwrap_err()), Some(EISDIR));
    }

    pub(super) async fn impossible_ranges_are_refused(disk: Arc<dyn Disk>) {
        let file = file_with(b"hello");
        for (offset, length) in [(u64::MAX, 1), (1 << 63, 1), (0, usize::MAX)] {
            let error = disk.read_at(&file, offset, length).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
        let write = disk.write_at(&file, u64::MAX, Bytes::from_static(b"x"));
        assert_eq!(write.await.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    pub(super) async fn dropping_the_disk_finishes_writes(disk: Arc<dyn Disk>) {
        let (file, content) = (file_with(b""), Bytes::from(pattern(8 << 20)));
        let write = disk.write_at(&file, 0, content.clone());
        let abandoned = futures_util::FutureExt::now_or_never(write);
        assert!(abandoned.is_none_or(|outcome| outcome.is_ok()));
        drop(disk);
        let patience = Instant::now() + Duration::from_secs(20);
        let mut back = vec![0; content.len()];
        while file.read_exact_at(&mut back, 0).is_err() || back != content {
            assert!(Instant::now() < patience, "the write was submitted, so it is finished");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
