//! Chunks: right bytes, right hash, one version, also while a writer runs.

use super::*;
use globalfs_proto::limits::CHUNK_SIZE;
use std::collections::HashMap;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i / 97) as u8).collect()
}

#[tokio::test]
async fn chunks_come_in_order_with_their_hashes() {
    let fixture = Fixture::new();
    let content = pattern(CHUNK_SIZE as usize * 20 + 77);
    fs::write(fixture.at("file"), &content).unwrap();
    let version = fixture.version("/file").await;
    let chunks = fixture.read("/file", version, 0, 21).await.unwrap();
    for (i, (chunk, want)) in chunks.iter().zip(content.chunks(CHUNK_SIZE as usize)).enumerate() {
        assert_eq!(chunk.index, ChunkIndex(i as u64));
        assert!(chunk.data == want && chunk.hash.0 == *blake3::hash(want).as_bytes(), "chunk {i}");
    }
    assert_eq!(fixture.read("/file", version, 20, 1).await.unwrap()[0].data.len(), 77);
    let counters = fixture.origin.counters();
    assert_eq!(counters.reads.load(Ordering::Relaxed), 22);
    assert_eq!(counters.bytes_read.load(Ordering::Relaxed), content.len() as u64 + 77);
    assert_eq!(counters.errors.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn spans_outside_the_file_are_refused() {
    let fixture = Fixture::new();
    fs::write(fixture.at("empty"), b"").unwrap();
    fs::write(fixture.at("file"), b"x").unwrap();
    let (empty, file) = (fixture.version("/empty").await, fixture.version("/file").await);
    assert_eq!(fixture.read("/empty", empty, 0, 1).await, Err(EINVAL));
    assert_eq!(fixture.read("/file", file, 0, 2).await, Err(EINVAL));
    assert_eq!(fixture.read("/file", file, 0, 0).await, Err(EINVAL));
    assert_eq!(fixture.read("/file", file, u64::MAX, 1).await, Err(EINVAL));
    assert_eq!(fixture.read("/missing", file, 0, 1).await, Err(ENOENT));
}

#[tokio::test]
async fn a_hundred_sparse_gigabytes_are_read_where_asked() {
    const SIZE: u64 = 100 << 30;
    let fixture = Fixture::new();
    let file = fs::File::create(fixture.at("sparse")).unwrap();
    file.set_len(SIZE).unwrap();
    file.write_all_at(b"middle", SIZE / 2).unwrap();
    file.write_all_at(b"end", SIZE - 3).unwrap();
    let version = fixture.version("/sparse").await;
    let middle = fixture.read("/sparse", version, SIZE / 2 / CHUNK_SIZE, 1).await.unwrap();
    assert_eq!(middle[0].data[..7], b"middle\0"[..]);
    let end = fixture.read("/sparse", version, SIZE / CHUNK_SIZE - 1, 1).await.unwrap();
    assert!(end[0].data.ends_with(b"\0end") && end[0].data.len() as u64 == CHUNK_SIZE);
    let hole = fixture.read("/sparse", version, 3, 2).await.unwrap();
    assert!(hole.iter().all(|chunk| chunk.data.iter().all(|&b| b == 0)));
}

#[tokio::test]
async fn a_changed_file_is_stale_and_says_what_it_is_now() {
    let fixture = Fixture::new();
    fs::write(fixture.at("file"), b"one").unwrap();
    let old = fixture.version("/file").await;
    std::thread::sleep(Duration::from_millis(30));
    fs::write(fixture.at("file"), b"two").unwrap();
    let Err(FsError::Stale(Some(now))) = fixture.read("/file", old, 0, 1).await else { panic!("not stale") };
    assert_eq!(fixture.read("/file", now.version(), 0, 1).await.unwrap()[0].data, b"two"[..]);
    fs::write(fixture.at("new"), b"six").unwrap();
    fs::rename(fixture.at("new"), fixture.at("file")).unwrap();
    assert!(matches!(fixture.read("/file", now.version(), 0, 1).await, Err(FsError::Stale(Some(_)))));
}

#[tokio::test]
async fn a_change_in_the_middle_of_a_stream_ends_it() {
    const CHUNKS: u64 = 64;
    let fixture = Fixture::new();
    fs::write(fixture.at("file"), vec![1; (CHUNKS * CHUNK_SIZE) as usize]).unwrap();
    let version = fixture.version("/file").await;
    let span = ChunkSpan { first: ChunkIndex(0), count: CHUNKS };
    let check = async |change: &dyn Fn(), version| {
        let mut stream = fixture.origin.read(&global("/file"), version, span, soon()).await.unwrap();
        stream.recv().await.unwrap().unwrap();
        change();
        let (mut count, mut last) = (1, Ok(()));
        while let Some(chunk) = stream.recv().await {
            assert!(last.is_ok(), "nothing comes after an error");
            last = chunk.map(|chunk| assert!(chunk.data.iter().all(|&b| b == 1)));
            count += u64::from(last.is_ok());
        }
        assert!(matches!(last, Err(FsError::Stale(Some(_)))) && count < CHUNKS, "{last:?} after {count}");
    };
    let fill = || fs::write(fixture.at("file"), vec![1; (CHUNKS * CHUNK_SIZE) as usize]).unwrap();
    check(&|| fs::write(fixture.at("file"), vec![2; (CHUNKS * CHUNK_SIZE) as usize]).unwrap(), version).await;
    fill();
    check(&|| fs::write(fixture.at("file"), b"short").unwrap(), fixture.version("/file").await).await;
    fill();
    // Losing its name moves a file's ctime, so this ends the stream as well, although the bytes are still there.
    fs::write(fixture.at("new"), b"new").unwrap();
    let replace = || fs::rename(fixture.at("new"), fixture.at("file")).unwrap();
    check(&replace, fixture.version("/file").await).await;
    let new = fixture.version("/file").await;
    assert_eq!(fixture.read("/file", new, 0, 1).await.unwrap()[0].data, b"new"[..]);
}

/// A write stamps the file when it begins, and a long one is still at work when that stamp has settled.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_takes_long_is_one_change() {
    const LENGTH: u64 = 1536 * CHUNK_SIZE;
    let fixture = Fixture::new();
    let file = fs::File::create(fixture.at("file")).unwrap();
    let write = move |generation| file.write_all_at(&vec![generation; LENGTH as usize], 0).unwrap();
    write(0);
    let writer = std::thread::spawn(move || {
        (1..=6).for_each(|generation| {
            write(generation);
            std::thread::sleep(Duration::from_millis(100));
        });
    });
    let (mut whole, mut seen) = (0, 0);
    while !writer.is_finished() || whole == 0 {
        let version = fixture.version("/file").await;
        let Ok(first) = fixture.read("/file", version, 0, 1).await else { continue };
        let Ok(last) = fixture.read("/file", version, LENGTH / CHUNK_SIZE - 1, 1).await else { continue };
        assert_eq!(first[0].data[0], last[0].data[0], "two generations under one version");
        (whole, seen) = (whole + 1, first[0].data[0].max(seen));
    }
    assert!(whole > 3 && seen > 0, "{whole} reads, last generation {seen}");
}

/// Writes generation after generation into the same file, in place, without any pause.
fn write_until(stop: &AtomicBool, path: &Path, length: usize) {
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    for generation in 1_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        file.seek(SeekFrom::Start(0)).unwrap();
        file.write_all(&generation.to_le_bytes().repeat(length / 8)).unwrap();
        // Bursts within one tick of the clock are the danger; the pauses let readers finish sometimes.
        if generation % 5 == 0 {
            std::thread::sleep(Duration::from_millis(generation % 60));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_has_one_content_under_a_hard_writer() {
    const CHUNKS: u64 = 4;
    let length = (CHUNKS * CHUNK_SIZE) as usize;
    let fixture = Fixture::new();
    fs::write(fixture.at("file"), vec![0; length]).unwrap();
    let (stop, path) = (Arc::new(AtomicBool::new(false)), fixture.at("file"));
    let stopped = stop.clone();
    let writer = std::thread::spawn(move || write_until(&stopped, &path, length));
    let mut hashes = HashMap::new();
    let (mut complete, mut stale, end) = (0, 0, Instant::now() + Duration::from_secs(4));
    while Instant::now() < end {
        let version = fixture.version("/file").await;
        for _ in 0..2 {
            match fixture.read("/file", version, 0, CHUNKS).await {
                Ok(chunks) => {
                    complete += 1;
                    for chunk in chunks {
                        let known = *hashes.entry((version, chunk.index)).or_insert(chunk.hash);
                        assert_eq!(known, chunk.hash, "one version, one content");
                        let words: Vec<_> = chunk.data.chunks(8).collect();
                        assert!(words.iter().all(|&word| word == words[0]), "no mix within a chunk");
                    }
                }
                Err(error) => {
                    assert!(matches!(error, FsError::Stale(Some(_))), "{error:?}");
                    stale += 1;
                }
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    assert!(complete > 0 && stale > 0, "the race was run: {complete} complete, {stale} stale");
}

#[tokio::test]
async fn a_stream_that_nobody_takes_from_ends_with_its_deadline() {
    const CHUNKS: u64 = 64;
    let fixture = Fixture::new();
    fs::write(fixture.at("file"), vec![1; (CHUNKS * CHUNK_SIZE) as usize]).unwrap();
    let version = fixture.version("/file").await;
    let span = ChunkSpan { first: ChunkIndex(0), count: CHUNKS };
    let deadline = Deadline::after(Duration::from_millis(300));
    let mut stream = fixture.origin.read(&global("/file"), version, span, deadline).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut last = None;
    let mut count = 0;
    while let Some(chunk) = stream.recv().await {
        count += 1;
        last = Some(chunk);
    }
    assert_eq!(last, Some(Err(FsError::Deadline)));
    assert!(count < CHUNKS, "a bounded number waits: {count}");
}

#[tokio::test]
async fn reading_works_on_the_posix_disk_as_well() {
    let fixture = Fixture::new();
    fs::write(fixture.at("file"), b"content").unwrap();
    let origin = open(&fixture.at("")).unwrap();
    let version = origin.stat(&global("/file"), soon()).await.unwrap().version();
    let span = ChunkSpan { first: ChunkIndex(0), count: 1 };
    let mut stream = origin.read(&global("/file"), version, span, soon()).await.unwrap();
    assert_eq!(stream.recv().await.unwrap().unwrap().data, b"content"[..]);
    assert!(stream.recv().await.is_none());
}
