//! Readers of a mount that know what they must get, and what they saw.

use super::{Chaos, DEADLINE, FILES, MIB, file_path};
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rustix::fs::OFlags;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// What one system call may take: an `open` is several operations, and the machine may be busy.
const CALL_LIMIT: Duration = DEADLINE.saturating_mul(3);

/// Between two operations of a reader.
const READER_PAUSE: Duration = Duration::from_millis(5);

/// Bytes asked for by one read.
const READ_LENGTH: usize = 256 * 1024;

/// What memory, offsets and lengths of direct reads are multiples of, as every disk's file system demands.
const DIRECT_GRAIN: usize = 4096;

/// The longest of many times.
#[derive(Default)]
pub(crate) struct Longest(AtomicU64);

impl Longest {
    pub(crate) fn note(&self, time: Duration) {
        self.0.fetch_max(time.as_millis() as u64, Ordering::SeqCst);
    }
}

impl std::fmt::Display for Longest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ms", self.0.load(Ordering::SeqCst))
    }
}

/// Readers and what they saw.
pub(crate) struct Load {
    files: Vec<Vec<u8>>,
    pub(crate) stop: AtomicBool,
    /// Odd while something is down.
    pub(crate) outages: AtomicU64,
    read_bytes: AtomicU64,
    errors: AtomicU64,
    faults: std::sync::Mutex<Vec<String>>,
    longest_call: Longest,
    pub(crate) longest_restart: Longest,
    pub(crate) longest_recovery: Longest,
}

impl Load {
    pub(crate) fn new(chaos: &Chaos) -> Self {
        Self {
            files: chaos.files.clone(),
            stop: AtomicBool::default(),
            outages: AtomicU64::default(),
            read_bytes: AtomicU64::default(),
            errors: AtomicU64::default(),
            faults: std::sync::Mutex::default(),
            longest_call: Longest::default(),
            longest_restart: Longest::default(),
            longest_recovery: Longest::default(),
        }
    }

    /// Errors are fine while something is down, and only then.
    pub(crate) fn read_until_stopped(&self, mount: &Path, seed: u64) {
        let mut random = SmallRng::seed_from_u64(seed);
        while !self.stop.load(Ordering::SeqCst) {
            let before = self.outages.load(Ordering::SeqCst);
            let outcome = match random.random_range(0..6) {
                0 => self.list(mount),
                1 => self.read_whole(mount, &mut random),
                _ => self.read_part(mount, random.random_range(0..FILES), &mut random),
            };
            // The programs need the processors to come back.
            thread::sleep(READER_PAUSE);
            let Err(error) = outcome else { continue };
            self.errors.fetch_add(1, Ordering::SeqCst);
            if before.is_multiple_of(2) && before == self.outages.load(Ordering::SeqCst) {
                self.fault(format!("{}: nothing is down, and yet: {error}", mount.display()));
            }
        }
    }

    fn read_whole(&self, mount: &Path, random: &mut SmallRng) -> io::Result<()> {
        let file = random.random_range(0..FILES);
        let (opened, _) = self.open(mount, file, random)?;
        self.compare(&opened, file, 0, usize::MAX)
    }

    pub(crate) fn read_part(&self, mount: &Path, file: usize, random: &mut SmallRng) -> io::Result<()> {
        let (opened, grain) = self.open(mount, file, random)?;
        let offset = random.random_range(0..=self.files[file].len()) / grain * grain;
        self.compare(&opened, file, offset, random.random_range(1..READ_LENGTH))
    }

    /// Half of the readers go past the kernel's page cache, to the mount itself. Gives besides what their offsets have to
    /// be multiples of.
    fn open(&self, mount: &Path, file: usize, random: &mut SmallRng) -> io::Result<(File, usize)> {
        let (flags, grain) =
            if random.random() { (OFlags::DIRECT, DIRECT_GRAIN) } else { (OFlags::empty(), 1) };
        let path = mount.join(file_path(file));
        let open = || File::options().read(true).custom_flags(flags.bits() as i32).open(path);
        Ok((self.timed("open", open)?, grain))
    }

    /// A call may give fewer bytes than asked for, and none at the end alone.
    fn compare(&self, opened: &File, file: usize, offset: usize, length: usize) -> io::Result<()> {
        let rest = &self.files[file][offset..];
        let mut rest = &rest[..length.min(rest.len())];
        let (mut room, mut at) = (vec![0; READ_LENGTH + DIRECT_GRAIN], offset as u64);
        let start = room.as_ptr().align_offset(DIRECT_GRAIN);
        let buffer = &mut room[start..start + READ_LENGTH];
        while !rest.is_empty() {
            let wanted = rest.len().next_multiple_of(DIRECT_GRAIN).min(READ_LENGTH);
            let got = self.timed("read", || opened.read_at(&mut buffer[..wanted], at))?.min(rest.len());
            if got == 0 || buffer[..got] != rest[..got] {
                self.fault(format!("file {file}: {got} bytes at {at} are not those of the origin"));
                return Ok(());
            }
            self.read_bytes.fetch_add(got as u64, Ordering::SeqCst);
            (rest, at) = (&rest[got..], at + got as u64);
        }
        Ok(())
    }

    fn list(&self, mount: &Path) -> io::Result<()> {
        let listed =
            self.timed("readdir", || fs::read_dir(mount.join("data/1"))?.collect::<io::Result<Vec<_>>>())?;
        let mut found: Vec<usize> =
            listed.iter().map(|entry| entry.file_name().to_str().unwrap().parse().unwrap()).collect();
        found.sort_unstable();
        if !found.iter().copied().eq((0..FILES).filter(|n| n % 3 == 1)) {
            self.fault(format!("a wrong listing: {found:?}"));
        }
        Ok(())
    }

    fn timed<T>(&self, what: &str, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let begun = Instant::now();
        let outcome = call();
        self.longest_call.note(begun.elapsed());
        if begun.elapsed() > CALL_LIMIT {
            self.fault(format!("{what} took {:?}", begun.elapsed()));
        }
        outcome
    }

    fn fault(&self, what: String) {
        self.faults.lock().unwrap().push(what);
    }

    /// Nothing that must never happen has happened.
    pub(crate) fn check(&self) {
        let faults = self.faults.lock().unwrap();
        assert!(faults.is_empty(), "{faults:#?}");
    }

    pub(crate) fn summary(&self) -> String {
        format!(
            "{} outages, {} MiB read, {} errors meanwhile; the longest call {}, restart {}, recovery {}",
            self.outages.load(Ordering::SeqCst) / 2,
            self.read_bytes.load(Ordering::SeqCst) / MIB as u64,
            self.errors.load(Ordering::SeqCst),
            self.longest_call,
            self.longest_restart,
            self.longest_recovery,
        )
    }
}
