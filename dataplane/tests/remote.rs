//! A source seen through the network equals the source itself, and nothing damaged comes through.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use bytes::Bytes;
use common::{endpoints, soon};
use globalfs_dataplane::cache::{self, Cache};
use globalfs_dataplane::disk::Preference;
use globalfs_dataplane::fetch::{self, Cached};
use globalfs_dataplane::remote::{MAX_REFETCHES, Remote};
use globalfs_dataplane::serve::{Server, Tamper};
use globalfs_dataplane::testing::MemorySource;
use globalfs_dataplane::{Chunk, Deadline, Source};
use globalfs_proto::limits::{CHUNK_SIZE, MAX_CHUNKS_PER_READ, MAX_WRITE};
use globalfs_proto::{
    Attr, Change, Changed, ChunkEncoding, ChunkIndex, ChunkSpan, FileKind, FsError, FsResult, GlobalPath,
    Response, Target, WantedFile,
};
use globalfs_transport::Peer;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// A source, and the same seen from another site.
struct Pair {
    source: MemorySource,
    server: Arc<Server>,
    remote: Remote,
}

impl Pair {
    fn new() -> Self {
        Self::with_server(|server| server)
    }

    fn with_tamper(tamper: impl Fn(&Response, Bytes) -> Bytes + Send + Sync + 'static) -> Self {
        let tamper: Tamper = Arc::new(tamper);
        Self::with_server(|server| server.with_tamper(tamper))
    }

    fn with_server(change: impl FnOnce(Server) -> Server) -> Self {
        let source = MemorySource::new();
        let server = Arc::new(change(Server::new(Arc::new(source.clone()), Arc::new(|_| Ok(())))));
        let [onprem, cloud] = endpoints();
        let (serving, handler) = (onprem.clone(), server.clone());
        tokio::spawn(async move { serving.serve(handler, CancellationToken::new()).await });
        let peer = Peer::new(cloud, onprem.local_addr().to_string(), onprem.identity().clone());
        Self { source, server, remote: Remote::new(peer) }
    }
}

fn path(text: &str) -> GlobalPath {
    GlobalPath::new(text.as_bytes()).unwrap()
}

fn whole(attr: &Attr) -> ChunkSpan {
    ChunkSpan { first: ChunkIndex(0), count: attr.size.div_ceil(CHUNK_SIZE) }
}

/// What a reader gets in the end: every chunk, or the error.
async fn collect(
    source: &dyn Source,
    path: &GlobalPath,
    attr: &Attr,
    span: ChunkSpan,
) -> FsResult<Vec<Chunk>> {
    let mut stream = source.read(path, attr.version(), span, soon()).await?;
    let mut chunks = Vec::new();
    while let Some(chunk) = stream.recv().await {
        chunks.push(chunk?);
    }
    Ok(chunks)
}

/// Bytes of which some chunks compress, some do not, some are zeros.
fn content(length: u64) -> Vec<u8> {
    let mut data = vec![0; length as usize];
    for (n, chunk) in data.chunks_mut(CHUNK_SIZE as usize).enumerate() {
        match n % 3 {
            0 => blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(chunk),
            1 => chunk.fill(n as u8),
            _ => {}
        }
    }
    data
}

#[tokio::test]
async fn every_method_gives_what_the_source_gives() {
    let Pair { source, remote, .. } = Pair::new();
    source.set_details(true);
    source.put_file("/d/file", content(1000));
    source.put_directory("/d");
    source.put_symlink("/d/link", "../there");
    source.put_xattr("/d/file", "user.colour", b"blue\0green");
    source.put_xattr("/d/file", "user.empty", b"");
    source.put(&GlobalPath::new(b"/d/\n\xff").unwrap(), FileKind::Fifo, Bytes::new());
    for text in ["/", "/d", "/d/file", "/d/link", "/missing"] {
        let path = path(text);
        assert_eq!(remote.stat(&path, soon()).await, source.stat(&path, soon()).await, "{text}");
        assert_eq!(remote.list(&path, soon()).await, source.list(&path, soon()).await, "{text}");
        assert_eq!(remote.read_link(&path, soon()).await, source.read_link(&path, soon()).await, "{text}");
        assert_eq!(remote.list_xattr(&path, soon()).await, source.list_xattr(&path, soon()).await, "{text}");
        assert_eq!(remote.fs_stat(&path, soon()).await, source.fs_stat(&path, soon()).await, "{text}");
        for name in ["user.colour", "user.empty", "user.none"] {
            let there = source.get_xattr(&path, name.as_bytes(), soon()).await;
            assert_eq!(remote.get_xattr(&path, name.as_bytes(), soon()).await, there, "{text} {name}");
        }
    }
    assert_eq!(remote.list(&path("/d"), soon()).await.unwrap().len(), 3);
    remote.ping(soon()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_every_length_arrive_in_order() {
    let Pair { source, remote, server } = Pair::new();
    let window = u64::from(MAX_CHUNKS_PER_READ) * CHUNK_SIZE;
    for size in [1, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, window, window + 1, 9 * window + 17] {
        let attr = source.put_file("/f", content(size));
        let there = collect(&source, &path("/f"), &attr, whole(&attr)).await.unwrap();
        let here = collect(&remote, &path("/f"), &attr, whole(&attr)).await.unwrap();
        assert!(here == there, "{size} bytes");
        let part = ChunkSpan { first: ChunkIndex(whole(&attr).count / 2), count: 1 };
        assert_eq!(
            collect(&remote, &path("/f"), &attr, part).await.unwrap()[..],
            there[part.first.0 as usize..][..1]
        );
    }
    let (sent, received) = (server.counters(), remote.counters());
    assert_eq!(
        (sent.chunks, sent.bytes, sent.wire_bytes),
        (received.chunks, received.bytes, received.wire_bytes)
    );
    assert!(received.wire_bytes < received.bytes / 2, "two chunks of three compress");
    assert!(remote.peer().counters().bytes_received > received.wire_bytes);
    assert_eq!(received.chunks_damaged, 0);
}

#[tokio::test]
async fn a_large_directory_comes_in_many_frames() {
    let Pair { source, remote, server } = Pair::new();
    for n in 0..10_000 {
        source.put_file(&format!("/a-name-of-some-length-{n:010}"), "");
    }
    let there = source.list(&GlobalPath::root(), soon()).await;
    assert_eq!(remote.list(&GlobalPath::root(), soon()).await, there);
    assert_eq!(server.counters().entries, 10_000);
}

#[tokio::test]
async fn a_changed_file_is_stale() {
    let Pair { source, remote, .. } = Pair::new();
    let old = source.put_file("/f", content(1000));
    let new = source.put_file("/f", content(2000));
    let stale = collect(&remote, &path("/f"), &old, whole(&old)).await;
    assert_eq!(stale, Err(FsError::Stale(Some(Box::new(new)))));
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_read_gives_old_bytes_then_stale() {
    let Pair { source, remote, .. } = Pair::new();
    let attr = source.put_file("/f", content(200 * CHUNK_SIZE));
    let old = collect(&source, &path("/f"), &attr, whole(&attr)).await.unwrap();
    let mut stream = remote.read(&path("/f"), attr.version(), whole(&attr), soon()).await.unwrap();
    assert_eq!(stream.recv().await.unwrap().unwrap(), old[0]);
    let new = source.put_file("/f", vec![1; 200 * CHUNK_SIZE as usize]);
    let mut next = 1;
    let error = loop {
        match stream.recv().await.expect("an error comes before the end") {
            Ok(chunk) => assert!(chunk == old[next], "chunk {next}"),
            Err(error) => break error,
        }
        next += 1;
    };
    assert_eq!(error, FsError::Stale(Some(Box::new(new))));
    assert_eq!(stream.recv().await, None, "nothing follows an error");
}

#[tokio::test]
async fn damage_on_the_wire_is_mended() {
    let seen = AtomicU64::new(0);
    let pair = Pair::with_tamper(move |_, payload| {
        // Every fifth payload loses a bit, wherever it is.
        let n = seen.fetch_add(1, Ordering::SeqCst);
        let mut payload = payload.to_vec();
        if n % 5 == 2 && !payload.is_empty() {
            let at = (n as usize * 7919) % payload.len();
            payload[at] ^= 1;
        }
        payload.into()
    });
    let data: Vec<u8> = (0..40).flat_map(|n| content(CHUNK_SIZE).into_iter().map(move |b| b ^ n)).collect();
    let attr = pair.source.put_file("/f", data);
    let there = collect(&pair.source, &path("/f"), &attr, whole(&attr)).await.unwrap();
    assert!(collect(&pair.remote, &path("/f"), &attr, whole(&attr)).await.unwrap() == there);
    let damaged = pair.remote.counters().chunks_damaged;
    assert!(damaged >= 8, "{damaged} chunks were damaged");
    assert_eq!(pair.remote.counters().chunks, 40);
}

#[tokio::test]
async fn damage_that_stays_is_an_error_and_no_bytes() {
    let pair = Pair::with_tamper(|header, payload| {
        let mut payload = payload.to_vec();
        if matches!(header, Response::Chunk(header) if header.index == ChunkIndex(2)) {
            payload[100] ^= 0x80;
        }
        payload.into()
    });
    let data: Vec<u8> = (0..4).flat_map(|n| content(CHUNK_SIZE).into_iter().map(move |b| b ^ n)).collect();
    let attr = pair.source.put_file("/f", data);
    let mut stream = pair.remote.read(&path("/f"), attr.version(), whole(&attr), soon()).await.unwrap();
    assert_eq!(stream.recv().await.unwrap().unwrap().index, ChunkIndex(0));
    assert_eq!(stream.recv().await.unwrap().unwrap().index, ChunkIndex(1));
    let error = stream.recv().await.unwrap().unwrap_err();
    assert!(matches!(&error, FsError::Damaged(what) if what.contains("/f")), "{error:?}");
    assert_eq!(stream.recv().await, None);
    assert_eq!(pair.remote.counters().chunks_damaged, u64::from(MAX_REFETCHES) + 1);
}

#[tokio::test]
async fn a_slow_source_ends_at_the_deadline() {
    let Pair { source, remote, .. } = Pair::new();
    let attr = source.put_file("/f", content(1000));
    remote.ping(soon()).await.unwrap();
    source.set_delay(Duration::from_secs(60));
    let begun = Instant::now();
    let deadline = Deadline::after(Duration::from_millis(200));
    assert_eq!(remote.stat(&path("/f"), deadline).await, Err(FsError::Deadline));
    let mut stream = remote.read(&path("/f"), attr.version(), whole(&attr), deadline).await.unwrap();
    assert_eq!(stream.recv().await, Some(Err(FsError::Deadline)));
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_dropped_read_stops_the_source() {
    let Pair { source, remote, .. } = Pair::new();
    let attr = source.put_file("/f", content(400 * CHUNK_SIZE));
    source.set_delay(Duration::from_millis(5));
    let mut stream = remote.read(&path("/f"), attr.version(), whole(&attr), soon()).await.unwrap();
    stream.recv().await.unwrap().unwrap();
    drop(stream);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let read = source.chunks_read();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(source.chunks_read(), read, "nobody reads on");
    assert!(read < 400);
}

/// What is told of each file, all its bytes or the error, by whoever tells it.
async fn collect_files(source: &dyn Source, files: &[WantedFile]) -> Vec<FsResult<Vec<u8>>> {
    let mut told = source.read_files(files.to_vec(), soon()).await.unwrap();
    let mut all: Vec<FsResult<BTreeMap<ChunkIndex, Bytes>>> = vec![Ok(BTreeMap::new()); files.len()];
    while let Some((number, chunk)) = told.recv().await {
        match (&mut all[number], chunk) {
            (Ok(chunks), Ok(chunk)) => assert!(chunks.insert(chunk.index, chunk.data).is_none()),
            (all, Err(error)) => *all = Err(error),
            (Err(error), Ok(_)) => panic!("a chunk behind {error}"),
        }
    }
    let join = |chunks: BTreeMap<_, Bytes>| chunks.into_values().collect::<Vec<_>>().concat();
    all.into_iter().map(|told| told.map(join)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_files_come_as_the_source_has_them() {
    let Pair { source, remote, server } = Pair::new();
    let contents: Vec<Vec<u8>> = (1..1500).map(|n| content(n * 37 % 300_000 + 1)).collect();
    let mut files = Vec::new();
    for (n, bytes) in contents.iter().enumerate() {
        let name = format!("/d{}/f{n}", n / 50);
        files
            .push(WantedFile { path: path(&name), version: source.put_file(&name, bytes.clone()).version() });
    }
    source.remove("/d0/f7");
    let changed = source.put_file("/d0/f8", "new");
    let told = collect_files(&remote, &files).await;
    for (n, (told, bytes)) in told.into_iter().zip(&contents).enumerate() {
        match n {
            7 => assert_eq!(told, Err(FsError::NOT_FOUND)),
            8 => assert_eq!(told, Err(FsError::Stale(Some(Box::new(changed))))),
            _ => assert!(told.unwrap() == *bytes, "file {n}"),
        }
    }
    let (sent, got) = (server.counters(), remote.counters());
    assert_eq!((sent.chunks, sent.bytes), (got.chunks, got.bytes));
    assert!(got.wire_bytes < got.bytes, "text and zeros compress");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_of_files_needs_few_requests() {
    let Pair { source, remote, .. } = Pair::new();
    let mut files = Vec::new();
    for n in 0..2000 {
        let (name, bytes) = (format!("/d{}/f{n}", n / 50), content(8 * 1024));
        files.push(WantedFile { path: path(&name), version: source.put_file(&name, bytes).version() });
    }
    let before = remote.peer().counters().requests_started;
    assert!(collect_files(&remote, &files).await.iter().all(Result::is_ok));
    assert!(remote.peer().counters().requests_started - before <= 4);
}

/// Fifty files in a few packs: noise, which travels as it is, or lines of text, which are compressed.
fn put_small_files(source: &MemorySource, compress: bool) -> (Vec<WantedFile>, Vec<Vec<u8>>) {
    let bytes_of =
        |n: u64| if compress { b"a line\n".repeat(1_000 + n as usize) } else { content(20_000 + n) };
    let contents: Vec<_> = (0..50).map(bytes_of).collect();
    let put = |(n, bytes): (usize, &Vec<u8>)| {
        let name = format!("/f{n}");
        WantedFile { path: path(&name), version: source.put_file(&name, bytes.clone()).version() }
    };
    (contents.iter().enumerate().map(put).collect(), contents)
}

#[tokio::test]
async fn damage_in_a_pack_is_mended_and_counted() {
    for compress in [false, true] {
        let pair = Pair::with_tamper(move |header, payload| {
            let Response::Pack(pack) = header else { return payload };
            assert_eq!(pack.encoding == ChunkEncoding::Zstd, compress);
            let mut payload = payload.to_vec();
            // In the middle of the first file of a raw pack, or of what then does not decompress or has no records.
            let at = if compress { payload.len() / 2 } else { 10_000 };
            payload[at] ^= 1;
            payload.into()
        });
        let (files, contents) = put_small_files(&pair.source, compress);
        let told = collect_files(&pair.remote, &files).await;
        assert!(
            told.into_iter().zip(&contents).all(|(told, bytes)| told.as_ref() == Ok(bytes)),
            "{compress}"
        );
        let counters = pair.remote.counters();
        assert!(counters.chunks_damaged > 0, "{compress}: {counters:?}");
        assert_eq!(counters.chunks, 50, "each whole chunk is taken once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wherever_a_pack_is_damaged_its_files_are_right_or_an_error() {
    let (mut right, mut failed) = (0, 0);
    for seed in 0..120 {
        let pair = Pair::with_tamper(move |header, payload| {
            if matches!(header, Response::Chunk(_)) {
                return payload;
            }
            let (mut payload, mut place) = (payload.to_vec(), [0; 8]);
            blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut place);
            // Every third one near the beginning, where the first record's numbers are.
            let within = if seed.is_multiple_of(3) { 48 } else { payload.len() as u64 };
            payload[(u64::from_le_bytes(place) % within) as usize] ^= 1 << (seed % 8);
            payload.into()
        });
        let (files, contents) = put_small_files(&pair.source, seed.is_multiple_of(2));
        for (n, told) in collect_files(&pair.remote, &files).await.into_iter().enumerate() {
            match told {
                Ok(bytes) if bytes == contents[n] => right += 1,
                Ok(bytes) => {
                    // The stream ended early because the peer broke the protocol.
                    assert!(bytes.is_empty(), "seed {seed}: wrong bytes of file {n}");
                    failed += 1;
                }
                Err(FsError::Protocol(_) | FsError::Damaged(_) | FsError::Stale(_) | FsError::Os(_)) => {
                    failed += 1
                }
                Err(other) => panic!("seed {seed}: {other}"),
            }
        }
    }
    assert!(right > 120 * 25 && failed > 0, "{right} right, {failed} failed");
}

#[tokio::test]
async fn changes_are_carried_out_there() {
    let pair = Pair::new();
    let before = pair.source.put_file("/f", "before");
    let target = Target { path: path("/f"), file: before.file };
    let data = Bytes::from(vec![7; MAX_WRITE]);
    let write = Change::Write { target: target.clone(), offset: Some(0), data };
    let changed = pair.remote.change(&write, soon()).await.unwrap();
    assert_eq!(changed.before, Some(before.version()));
    let now = pair.source.stat(&path("/f"), soon()).await.unwrap();
    assert_eq!((changed.attr, now.size), (Some(now), MAX_WRITE as u64));
    let remove = Change::Remove { path: path("/f"), directory: false };
    assert_eq!(pair.remote.change(&remove, soon()).await, Ok(Changed::default()));
    assert_eq!(pair.remote.change(&remove, soon()).await, Err(FsError::NOT_FOUND));
    let sync = Change::Sync { target, data_only: false };
    assert_eq!(pair.remote.change(&sync, soon()).await, Err(FsError::Os(95)));
}

/// Both over QUIC and over TCP, which the second one finds open.
#[tokio::test]
async fn a_change_that_was_begun_is_made_though_nobody_waits_for_it_any_more() {
    let Pair { source, remote, .. } = Pair::new();
    for name in ["/one", "/other"] {
        source.put_file(name, "x");
        remote.stat(&path(name), soon()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        source.set_delay(Duration::from_millis(300));
        let (calls, remove) = (source.calls(), Change::Remove { path: path(name), directory: false });
        let asked = tokio::time::timeout(Duration::from_millis(100), remote.change(&remove, soon())).await;
        assert!(asked.is_err() && source.calls() > calls, "it was begun");
        source.set_delay(Duration::ZERO);
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert_eq!(source.stat(&path(name), soon()).await, Err(FsError::NOT_FOUND), "{name}");
    }
}

#[tokio::test]
async fn a_cache_in_front_answers_anew_after_a_change() {
    let pair = Pair::new();
    let scratch = tempfile::tempdir().unwrap();
    let options = cache::Options { dir: scratch.path().to_owned(), quota_bytes: 1 << 30 };
    let cache = Cache::open(options, globalfs_dataplane::disk::open(Preference::Auto).unwrap()).unwrap();
    let cached = Cached::new(Arc::new(pair.remote.clone()), cache, fetch::Options::default());
    let before = pair.source.put_file("/f", "before");
    assert_eq!(cached.list(&GlobalPath::root(), soon()).await.unwrap().len(), 1);
    assert_eq!(cached.stat(&path("/f"), soon()).await.unwrap(), before);
    let target = Target { path: path("/f"), file: before.file };
    let write = Change::Write { target, offset: Some(0), data: Bytes::from_static(b"and after") };
    let attr = cached.change(&write, soon()).await.unwrap().attr.unwrap();
    assert_eq!(cached.stat(&path("/f"), soon()).await.unwrap(), attr);
    assert_eq!(cached.list(&GlobalPath::root(), soon()).await.unwrap()[0].attr, attr);
    let span = ChunkSpan { first: ChunkIndex(0), count: 1 };
    assert_eq!(collect(&cached, &path("/f"), &attr, span).await.unwrap()[0].data, "and after");
    cached.change(&Change::Remove { path: path("/f"), directory: false }, soon()).await.unwrap();
    assert_eq!(cached.stat(&path("/f"), soon()).await, Err(FsError::NOT_FOUND));
    assert_eq!(cached.list(&GlobalPath::root(), soon()).await.unwrap().len(), 0);
}
