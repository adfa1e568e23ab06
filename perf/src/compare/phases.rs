//! How each phase is measured: the data that it needs at the origin, and what is done on a mount.

use super::data::{DIRECTORY_ENTRIES, TREE_FOLDERS, tree_folder, write_directory, write_package, write_tree};
use super::model::{Phase, Unit};
use super::python;
use crate::data::{write_large, write_small};
use crate::model::Content;
use crate::reader::{Until, look_closely, read_all, read_at, read_large, read_small, walk, within};
use crate::systems::{MOUNTS, System};
use crate::wan::Wan;
use anyhow::{Context, Result, ensure};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
const SMALL_BYTES: usize = 4096;

/// Cold mounts of which one small file is read, in each round.
const LONE_TRIES: usize = 3;

/// Directories and files of which further ones are read, and how many.
const FURTHER_FOLDERS: usize = 8;
const FURTHER_FILES_EACH: usize = 12;
const FURTHER_READS: usize = 16;

/// Random reads in a large file.
const RANDOM_READS: usize = 64;

/// Directories of a tree that are read before the reader has enough.
const EARLY_FOLDERS: usize = 5;

/// The part of a large file that is read before the reader has enough.
const EARLY_PART: u64 = 16;

/// How long what was asked for in advance may still arrive.
const LINGER: Duration = Duration::from_secs(2);

/// Blocks that are compared with the origin after a large file was read.
const VERIFIED_BLOCKS: usize = 32;

/// What a phase reads in one round.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The phase.
    pub phase: Phase,
    /// Its directory below the origin and below each mount.
    pub folder: PathBuf,
    /// Bytes that it reads.
    pub read_bytes: u64,
    /// By how much they can be made smaller.
    pub shrinks_by: f64,
    /// How long the same takes on this machine's disk, where that matters.
    pub local_s: f64,
    seed: u64,
}

/// What a phase needs to know besides its data.
#[derive(Clone, Copy)]
pub(crate) struct Setting<'a> {
    /// The link.
    pub wan: &'a Wan,
    /// The directory at the far end that all systems show.
    pub origin: &'a Path,
    /// Its round trip.
    pub rtt: Duration,
    /// What it carries.
    pub bytes_per_s: f64,
    /// What a measurement may take.
    pub limit: Duration,
}

/// Makes the files of a phase. `scale` makes large ones smaller.
pub(crate) fn prepare(phase: Phase, origin: &Path, round: u64, scale: f64) -> Result<Prepared> {
    let folder = PathBuf::from(format!("{}-{round}", phase.name()));
    let seed = (phase as u64) << 32 | round << 8 | 1;
    let at = origin.join(&folder);
    let mut prepared = Prepared { phase, folder, read_bytes: 0, shrinks_by: 1.0, local_s: 0.0, seed };
    let large = |content, megabytes| {
        let bytes = ((megabytes * MIB) as f64 * scale).max(MIB as f64) as u64;
        write_large(&at.join("file"), content, seed, bytes)
    };
    prepared.read_bytes = match phase {
        Phase::Lone => lone_files(&at, seed)?,
        Phase::Further => further_files(&at, seed)?,
        Phase::Walk | Phase::Tree | Phase::EarlyTree => write_tree(&at, seed)?,
        Phase::Details => write_directory(&at, seed)?,
        Phase::Import => write_package(&at, seed)?,
        Phase::Text => large(Content::Text, 256)?,
        Phase::Field => large(Content::Field, 256)?,
        Phase::Dedup => large(Content::Revised, 128)?,
        Phase::FanOutBytes | Phase::FanOutTime => large(Content::Noise, 128)?,
        // A smaller one would be read ahead as a whole.
        Phase::Random => write_large(&at.join("file"), Content::Noise, seed, 512 * MIB)?,
        _ => large(Content::Noise, 512)?,
    };
    match phase {
        Phase::Dedup | Phase::FanOutBytes | Phase::FanOutTime => {
            let other = if phase == Phase::Dedup { seed } else { !seed };
            write_large(&at.join("other"), Content::Noise, other, prepared.read_bytes)?;
        }
        Phase::Import => prepared.local_s = python::import(&at, Duration::from_secs(60))?,
        _ => {}
    }
    prepared.shrinks_by = prepared.reckon_shrinking();
    Ok(prepared)
}

fn lone_files(at: &Path, seed: u64) -> Result<u64> {
    for number in 0..LONE_TRIES {
        write_small(&lone_path(at, number), seed + number as u64, SMALL_BYTES)?;
    }
    Ok(SMALL_BYTES as u64)
}

/// Four directories deep, the first of which is the phase's own.
fn lone_path(at: &Path, number: usize) -> PathBuf {
    at.join(format!("project-{number}/results/final/file"))
}

fn further_files(at: &Path, seed: u64) -> Result<u64> {
    for folder in 0..FURTHER_FOLDERS {
        for number in 0..FURTHER_FILES_EACH {
            let tag = (folder * FURTHER_FILES_EACH + number) as u64;
            write_small(&further_path(at, folder, number), seed + tag, SMALL_BYTES)?;
        }
    }
    Ok(SMALL_BYTES as u64)
}

fn further_path(at: &Path, folder: usize, number: usize) -> PathBuf {
    at.join(format!("case-{folder}/results/final/file-{number:02}"))
}

impl Prepared {
    fn reckon_shrinking(&self) -> f64 {
        let content = match self.phase {
            Phase::Text => Content::Text,
            Phase::Field => Content::Field,
            Phase::Dedup => Content::Revised,
            _ => return 1.0,
        };
        content.shrinks_by(self.seed, self.read_bytes.div_ceil(128 * 1024))
    }

    /// Measures the phase on `system`: its samples, in the phase's unit.
    pub(crate) fn measure(&self, system: &mut dyn System, setting: Setting<'_>) -> Result<Vec<f64>> {
        match self.phase {
            Phase::Lone => self.lone(system, setting),
            Phase::FanOutBytes | Phase::FanOutTime => self.fan_out(system, setting),
            Phase::Lan | Phase::LanJumbo | Phase::Loopback => {
                let mount = system.mount_cold_beside_data()?;
                self.sequential(mount.join(&self.folder), setting)
            }
            _ => {
                let mount = system.mount_cold(1)?.swap_remove(0);
                self.on_mount(mount.join(&self.folder), setting)
            }
        }
    }

    fn on_mount(&self, at: PathBuf, setting: Setting<'_>) -> Result<Vec<f64>> {
        match self.phase {
            Phase::Further => self.further(at, setting),
            Phase::Random => self.random(at, setting),
            Phase::Walk => self.walk(at, setting),
            Phase::Details => self.details(at, setting),
            Phase::Tree => self.tree(at, setting),
            Phase::EarlyTree => self.early_tree(at, setting),
            Phase::EarlyFile => self.early_file(at, setting),
            Phase::Import => Ok(vec![python::import(&at, setting.limit)?]),
            Phase::Dedup => {
                let other = at.join("other");
                within(setting.limit, move |until| read_large(&other, u64::MAX, until))?;
                self.sequential(at, setting)
            }
            _ => self.sequential(at, setting),
        }
    }

    fn lone(&self, system: &mut dyn System, setting: Setting<'_>) -> Result<Vec<f64>> {
        let tries = (0..LONE_TRIES).map(|number| {
            let mount = system.mount_cold(1)?.swap_remove(0);
            let path = lone_path(&mount.join(&self.folder), number);
            let (took, bytes) = within(setting.limit, move |_| read_small(&path))?;
            let want = std::fs::read(lone_path(&setting.origin.join(&self.folder), number))?;
            ensure!(bytes == want, "wrong bytes");
            Ok(setting.round_trips(took))
        });
        tries.collect()
    }

    fn further(&self, at: PathBuf, setting: Setting<'_>) -> Result<Vec<f64>> {
        let mut random = SmallRng::seed_from_u64(self.seed);
        let all = (0..FURTHER_FOLDERS).flat_map(|f| (1..FURTHER_FILES_EACH).map(move |n| (f, n)));
        let mut order: Vec<_> = all.collect();
        order.shuffle(&mut random);
        order.truncate(FURTHER_READS);
        let took = within(setting.limit, move |_| {
            // Now the directories are seen.
            (0..FURTHER_FOLDERS).try_for_each(|f| read_small(&further_path(&at, f, 0)).map(drop))?;
            order
                .iter()
                .map(|(f, n)| Ok(read_small(&further_path(&at, *f, *n))?.0))
                .collect::<Result<Vec<_>>>()
        })?;
        Ok(took.into_iter().map(|took| setting.round_trips(took)).collect())
    }

    fn random(&self, at: PathBuf, setting: Setting<'_>) -> Result<Vec<f64>> {
        let mut random = SmallRng::seed_from_u64(self.seed);
        let blocks = self.read_bytes / SMALL_BYTES as u64;
        let offset = |_| random.random_range(0..blocks) * SMALL_BYTES as u64;
        let offsets: Vec<u64> = (0..RANDOM_READS).map(offset).collect();
        let path = at.join("file");
        // The open counts, too: there are systems that fetch the whole file in it.
        let read = move |until| read_at(&path, &offsets, SMALL_BYTES, until);
        let (took, ()) = timed(setting.limit, read)?;
        Ok(vec![setting.round_trips(took) / RANDOM_READS as f64])
    }

    fn walk(&self, at: PathBuf, setting: Setting<'_>) -> Result<Vec<f64>> {
        let (took, files) = timed(setting.limit, move |until| walk(&at, until))?;
        ensure!(files.len() == 2000, "{} files instead of 2,000", files.len());
        Ok(vec![took.as_secs_f64()])
    }

    fn details(&self, at: PathBuf, setting: Setting<'_>) -> Result<Vec<f64>> {
        let (took, entries) = timed(setting.limit, move |until| look_closely(&at, until))?;
        ensure!(entries == DIRECTORY_ENTRIES, "{entries} entries instead of {DIRECTORY_ENTRIES}");
        Ok(vec![took.as_secs_f64()])
    }

    fn tree(&self, at: PathBuf, setting: Setting<'_>) -> Result<Vec<f64>> {
        let (took, read) = timed(setting.limit, move |until| read_all(&walk(&at, until)?, until))?;
        ensure!(read == self.read_bytes, "{read} bytes instead of {}", self.read_bytes);
        Ok(vec![took.as_secs_f64()])
    }

    fn sequential(&self, at: PathBuf, setting: Setting<'_>) -> Result<Vec<f64>> {
        let path = at.join("file");
        let (took, read) = timed(setting.limit, move |until| read_large(&path, u64::MAX, until))?;
        ensure!(read == self.read_bytes, "{read} bytes instead of {}", self.read_bytes);
        self.verify(at.join("file"), setting)?;
        let bytes_per_s = read as f64 / took.as_secs_f64();
        Ok(vec![match self.phase.unit() {
            Unit::MegabytesPerSecond => bytes_per_s / 1e6,
            _ => bytes_per_s / setting.bytes_per_s,
        }])
    }

    /// Compares some blocks with the origin, after the clock has stopped.
    fn verify(&self, path: PathBuf, setting: Setting<'_>) -> Result<()> {
        let mut random = SmallRng::seed_from_u64(!self.seed);
        let last = self.read_bytes - SMALL_BYTES as u64;
        let offsets: Vec<u64> = (0..VERIFIED_BLOCKS).map(|_| random.random_range(0..=last)).collect();
        let origin = setting.origin.join(&self.folder).join("file");
        within(setting.limit, move |_| {
            let (shown, real) = (File::open(path)?, File::open(origin)?);
            let (mut a, mut b) = ([0; SMALL_BYTES], [0; SMALL_BYTES]);
            offsets.iter().try_for_each(|offset| {
                shown.read_exact_at(&mut a, *offset)?;
                real.read_exact_at(&mut b, *offset)?;
                ensure!(a == b, "wrong bytes at {offset}");
                Ok(())
            })
        })
    }

    /// Names and attributes are known before the bytes are counted.
    fn early_tree(&self, at: PathBuf, setting: Setting<'_>) -> Result<Vec<f64>> {
        let root = at.clone();
        within(setting.limit, move |until| walk(&root, until))?;
        std::thread::sleep(LINGER);
        setting.moved_of_read(move |until| {
            let folders = (0..EARLY_FOLDERS).map(|n| tree_folder(&at, n * (TREE_FOLDERS / EARLY_FOLDERS)));
            folders.map(|folder| read_all(&files_in(&folder)?, until)).sum()
        })
    }

    fn early_file(&self, at: PathBuf, setting: Setting<'_>) -> Result<Vec<f64>> {
        let (path, length) = (at.join("file"), self.read_bytes / EARLY_PART);
        setting.moved_of_read(move |until| read_large(&path, length, until))
    }

    fn fan_out(&self, system: &mut dyn System, setting: Setting<'_>) -> Result<Vec<f64>> {
        let one = self.read_at_once(system, 1, "other", setting)?;
        let all = self.read_at_once(system, MOUNTS, "file", setting)?;
        Ok(vec![if self.phase == Phase::FanOutBytes { all.1 / one.1 } else { all.0 / one.0 }])
    }

    /// Seconds and bytes over the link until that many mounts have read the file.
    fn read_at_once(
        &self,
        system: &mut dyn System,
        mounts: usize,
        name: &str,
        setting: Setting<'_>,
    ) -> Result<(f64, f64)> {
        let paths: Vec<_> =
            system.mount_cold(mounts)?.iter().map(|at| at.join(&self.folder).join(name)).collect();
        let before = setting.moved();
        let (took, ()) = timed(setting.limit, move |until| {
            std::thread::scope(|scope| {
                let read = |path: PathBuf| scope.spawn(move || read_large(&path, u64::MAX, until));
                let reading: Vec<_> = paths.into_iter().map(read).collect();
                reading.into_iter().try_for_each(|one| one.join().expect("readers do not panic").map(drop))
            })
        })?;
        std::thread::sleep(LINGER);
        Ok((took.as_secs_f64(), setting.moved() - before))
    }
}

impl Setting<'_> {
    fn round_trips(&self, took: Duration) -> f64 {
        took.as_secs_f64() / self.rtt.as_secs_f64()
    }

    /// Bytes that the near end was sent so far.
    fn moved(&self) -> f64 {
        self.wan.counters().far_to_near.bytes as f64
    }

    /// Bytes that crossed the link for each byte that `read` says it has read.
    fn moved_of_read(&self, read: impl FnOnce(Until) -> Result<u64> + Send + 'static) -> Result<Vec<f64>> {
        let before = self.moved();
        let read = within(self.limit, read)?;
        std::thread::sleep(LINGER);
        Ok(vec![(self.moved() - before) / read as f64])
    }
}

fn timed<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce(Until) -> Result<T> + Send + 'static,
) -> Result<(Duration, T)> {
    within(limit, move |until| {
        let started = Instant::now();
        let done = work(until)?;
        Ok((started.elapsed(), done))
    })
}

fn files_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            files.push(entry.path());
        }
    }
    Ok(files)
}
