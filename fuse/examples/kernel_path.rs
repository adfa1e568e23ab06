//! What the way between the kernel and a mount costs: a volume in memory that answers at once, mounted for real and
//! used with plain blocking calls. Needs root.
//!
//! Each argument is a list of mount options; they take turns, three rounds, and the medians are printed with the CPU
//! time of the whole process (callers, threads of the mount, kernel) for each operation:
//! `cargo run --release -p globalfs-fuse --example kernel_path -- io_uring=off io_uring=on`
#![allow(clippy::unwrap_used, reason = "a measurement that fails ends")]

use async_trait::async_trait;
use bytes::Bytes;
use globalfs_fuse::{Names, Options, Volume, mount};
use globalfs_proto::{Attr, ByteRange, FileId, FileKind, FsError, FsResult, FsStat, GlobalPath, Version};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::hint::black_box;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const ROUNDS: usize = 3;
const PERIOD: Duration = Duration::from_millis(700);
const LARGE: usize = 256 << 20;
const SMALL: usize = 16 << 10;
const SMALL_FILES: usize = 500;
const CHUNK: usize = 128 << 10;
const O_DIRECT: i32 = 0o40000;

/// Files of known content, of which chunks come as pieces, as from a cache.
struct MemoryVolume(HashMap<GlobalPath, (Attr, Bytes)>);

fn path(text: &str) -> GlobalPath {
    GlobalPath::new(text.as_bytes()).unwrap()
}

fn attr(inode: u64, kind: FileKind, size: u64) -> Attr {
    let (mode, nlink) = if kind == FileKind::Directory { (0o755, 2) } else { (0o644, 1) };
    let file = FileId { origin: 1, inode };
    let time = 1_700_000_000_000_000_000;
    Attr {
        file,
        kind,
        mode,
        nlink,
        uid: 0,
        gid: 0,
        rdev: 0,
        size,
        blocks: size.div_ceil(512),
        atime_ns: time,
        mtime_ns: time,
        ctime_ns: time,
        no_xattrs: true,
    }
}

impl MemoryVolume {
    fn new() -> Self {
        let mut files = HashMap::new();
        let large: Bytes = (0..LARGE / 8).flat_map(|n| (n as u64).to_le_bytes()).collect();
        files.insert(GlobalPath::root(), (attr(1, FileKind::Directory, 0), Bytes::new()));
        files.insert(path("/d"), (attr(2, FileKind::Directory, 0), Bytes::new()));
        for n in 0..SMALL_FILES {
            let content = large.slice(n * SMALL..(n + 1) * SMALL);
            files.insert(
                path(&format!("/d/{n}")),
                (attr(100 + n as u64, FileKind::Regular, SMALL as u64), content),
            );
        }
        files.insert(path("/large"), (attr(3, FileKind::Regular, LARGE as u64), large));
        Self(files)
    }
}

#[async_trait]
impl Volume for MemoryVolume {
    async fn stat(&self, path: &GlobalPath) -> FsResult<Attr> {
        self.0.get(path).map(|(attr, _)| *attr).ok_or(FsError::NOT_FOUND)
    }

    async fn stat_for_open(&self, path: &GlobalPath) -> FsResult<Attr> {
        self.stat(path).await
    }

    async fn list(&self, _: &GlobalPath) -> FsResult<Names> {
        Ok(Names { entries: Arc::new([]), edition: None })
    }

    async fn read_link(&self, _: &GlobalPath) -> FsResult<Bytes> {
        Err(FsError::NOT_FOUND)
    }

    async fn get_xattr(&self, _: &GlobalPath, _: &[u8]) -> FsResult<Bytes> {
        Err(FsError::Os(61))
    }

    async fn list_xattr(&self, _: &GlobalPath) -> FsResult<Bytes> {
        Ok(Bytes::new())
    }

    async fn fs_stat(&self, _: &GlobalPath) -> FsResult<FsStat> {
        Err(FsError::NOT_FOUND)
    }

    async fn read(&self, path: &GlobalPath, _: Version, offset: u64, length: u32) -> FsResult<Vec<Bytes>> {
        let (attr, content) = self.0.get(path).ok_or(FsError::NOT_FOUND)?;
        let Some(range) = ByteRange::of_read(offset, length.into(), attr.size) else { return Ok(vec![]) };
        let (mut at, end) = (range.start() as usize, range.end() as usize);
        let mut pieces = Vec::new();
        while at < end {
            let next = ((at / CHUNK + 1) * CHUNK).min(end);
            pieces.push(content.slice(at..next));
            at = next;
        }
        Ok(pieces)
    }
}

/// A place in memory as `O_DIRECT` wants it.
struct Aligned(Vec<u8>, usize);

impl Aligned {
    fn new(length: usize) -> Self {
        let memory = vec![0u8; length + 4096];
        let start = memory.as_ptr().align_offset(4096);
        Self(memory, start)
    }

    fn get(&mut self, length: usize) -> &mut [u8] {
        &mut self.0[self.1..self.1 + length]
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

fn direct(path: &Path) -> File {
    File::options().read(true).custom_flags(O_DIRECT).open(path).unwrap()
}

fn check(block: &[u8], at: u64) {
    assert_eq!(u64::from_le_bytes(block[..8].try_into().unwrap()), at / 8);
}

/// Operations a second and microseconds of CPU for each, of `threads` that repeat `step(thread)` for a while.
fn measure(threads: usize, make: impl Fn(usize) -> Box<dyn FnMut() + Send> + Sync) -> Figure {
    let count = AtomicU64::new(0);
    let (cpu, start) = (cpu_seconds(), Instant::now());
    std::thread::scope(|scope| {
        for n in 0..threads {
            let (count, make) = (&count, &make);
            scope.spawn(move || {
                let mut step = make(n);
                while start.elapsed() < PERIOD {
                    step();
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let done = count.load(Ordering::Relaxed) as f64;
    (done / start.elapsed().as_secs_f64(), (cpu_seconds() - cpu) * 1e6 / done)
}

/// Of all threads of this process, those in the kernel included.
fn cpu_seconds() -> f64 {
    const TICKS: f64 = 100.0;
    let text = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / TICKS
}

fn random_reads(place: &Path, size: u64, length: usize, threads: usize) -> Figure {
    measure(threads, |n| {
        let (file, mut memory, mut random) = (direct(place), Aligned::new(length), Random(n as u64 + 1));
        Box::new(move || {
            let at = random.below(size / length as u64) * length as u64;
            file.read_exact_at(memory.get(length), at).unwrap();
            check(memory.get(length), at);
        })
    })
}

fn stats(at: &Path, threads: usize) -> Figure {
    measure(threads, |n| {
        let (at, mut random) = (at.to_owned(), Random(n as u64 + 1));
        Box::new(move || {
            let n = random.below(SMALL_FILES as u64);
            assert_eq!(fs::symlink_metadata(at.join(format!("d/{n}"))).unwrap().len(), SMALL as u64);
        })
    })
}

fn open_read_close(at: &Path, threads: usize) -> Figure {
    measure(threads, |n| {
        let (at, mut random, mut memory) = (at.to_owned(), Random(n as u64 + 1), Aligned::new(SMALL));
        Box::new(move || {
            let n = random.below(SMALL_FILES as u64);
            direct(&at.join(format!("d/{n}"))).read_exact_at(memory.get(SMALL), 0).unwrap();
            check(memory.get(SMALL), n * SMALL as u64);
        })
    })
}

/// An operation is a megabyte that is not in the page cache.
fn sequential(at: &Path, threads: usize) -> Figure {
    measure(threads, |n| {
        let file = File::open(at.join("large")).unwrap();
        let share = (LARGE / threads) as u64;
        let (mut buffer, start, mut done) = (vec![0u8; 1 << 20], n as u64 * share, 0);
        Box::new(move || {
            if done == 0 {
                let length = std::num::NonZeroU64::new(share);
                rustix::fs::fadvise(&file, start, length, rustix::fs::Advice::DontNeed).unwrap();
            }
            file.read_exact_at(&mut buffer, start + done).unwrap();
            check(&buffer, start + done);
            black_box(&buffer);
            done = (done + (1 << 20)) % share;
        })
    })
}

/// Operations a second, and microseconds of CPU for each.
type Figure = (f64, f64);
type Figures = Vec<(String, Figure)>;

fn round(volume: &Arc<MemoryVolume>, words: &str) -> Figures {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let place = tempfile::tempdir().unwrap();
    let mut figures = Figures::new();
    for (more, is_metadata) in [("", false), (",attr_timeout=0,entry_timeout=0", true)] {
        let mut options = Options::default();
        options.apply(&format!("{words}{more}")).unwrap();
        let session = mount(volume.clone(), place.path(), &options, runtime.handle().clone()).unwrap();
        let at = session.mountpoint().to_owned();
        let mut note =
            |what: &str, threads: usize, figure| figures.push((format!("{what} x{threads}"), figure));
        if is_metadata {
            for threads in [1, 4] {
                note("stat, nothing remembered", threads, stats(&at, threads));
            }
        } else {
            let (large, small) = (at.join("large"), at.join("d/0"));
            for threads in [1, 4, 16] {
                note("4 KiB of a large file", threads, random_reads(&large, LARGE as u64, 4096, threads));
            }
            for threads in [1, 4] {
                note("128 KiB of a large file", threads, random_reads(&large, LARGE as u64, CHUNK, threads));
            }
            for threads in [1, 4, 16] {
                note("4 KiB of a small file", threads, random_reads(&small, SMALL as u64, 4096, threads));
            }
            for threads in [1, 4] {
                note("open, read 16 KiB, close", threads, open_read_close(&at, threads));
            }
            for threads in [1, 4] {
                note("1 MiB, in sequence", threads, sequential(&at, threads));
            }
        }
        session.unmount(globalfs_fuse::Detach::Now).unwrap();
        runtime.block_on(session.wait());
    }
    figures
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let mut variants: Vec<String> = std::env::args().skip(1).collect();
    let rounds = variants.iter().position(|v| v == "--once").map_or(ROUNDS, |at| {
        variants.remove(at);
        1
    });
    let volume = Arc::new(MemoryVolume::new());
    let mut all: BTreeMap<(usize, usize), (String, Vec<Figure>)> = BTreeMap::new();
    for _ in 0..rounds {
        for (v, words) in variants.iter().enumerate() {
            for (w, (name, figure)) in round(&volume, words).into_iter().enumerate() {
                all.entry((w, v)).or_insert_with(|| (name, Vec::new())).1.push(figure);
            }
        }
    }
    for ((_, v), (name, figures)) in &all {
        let rate = median(figures.iter().map(|f| f.0).collect());
        let cpu = median(figures.iter().map(|f| f.1).collect());
        println!("{name:<28}\t{:<28}\t{rate:>9.0} /s\t{cpu:>7.1} us of CPU", variants[*v]);
    }
}
