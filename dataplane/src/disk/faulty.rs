//! A disk that fails on purpose, by seed, for tests of what stands on it.
//!
//! It writes through to the disk below, so files look as after a success; [`FaultyDisk::crash`] then leaves
//! what a loss of power could: of each write that no honest sync covered, all, nothing, or the sectors up
//! to some point. A lying sync answers well and covers nothing. The same seed and the same order of calls
//! give the same faults.

use crate::disk::Disk;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

/// What a device writes as a whole, in bytes.
const SECTOR: u64 = 512;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// How often what goes wrong, in thousandths of the calls.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Reads that end in EIO.
    pub read_error: u16,
    /// Reads of which one bit is flipped.
    pub flipped_bit: u16,
    /// Writes that end in EIO before anything is written.
    pub write_error: u16,
    /// Writes that end in ENOSPC after a part is written.
    pub disk_full: u16,
    /// Syncs that end in EIO.
    pub sync_error: u16,
    /// Syncs that say yes and cover nothing.
    pub lost_sync: u16,
}

/// A disk with faults in front of an honest one.
pub struct FaultyDisk {
    below: Arc<dyn Disk>,
    faults: Faults,
    state: Mutex<State>,
}

struct State {
    random: Random,
    unsynced: Vec<Unsynced>,
}

/// A write that a crash may undo.
struct Unsynced {
    file: Arc<File>,
    offset: u64,
    before: Bytes,
    size_before: u64,
    data: Bytes,
}

impl FaultyDisk {
    /// Faults of `seed` in front of `below`.
    pub fn new(below: Arc<dyn Disk>, faults: Faults, seed: u64) -> Self {
        let state = State { random: Random(seed), unsynced: Vec::new() };
        Self { below, faults, state: Mutex::new(state) }
    }

    /// Loses power: leaves in the files what a crash at this moment could leave. No call may be running.
    pub fn crash(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        let unsynced = std::mem::take(&mut state.unsynced);
        unsynced.iter().rev().try_for_each(Unsynced::undo)?;
        unsynced.iter().try_for_each(|write| {
            let sectors = (write.data.len() as u64).div_ceil(SECTOR);
            let kept = match state.random.below(3) {
                0 => 0,
                1 => state.random.below(sectors + 1) * SECTOR,
                _ => sectors * SECTOR,
            };
            write.file.write_all_at(&write.data[..write.data.len().min(kept as usize)], write.offset)
        })
    }

    fn strikes(&self, per_mille: u16) -> bool {
        per_mille > 0 && self.state.lock().random.below(1000) < u64::from(per_mille)
    }

    async fn write_through(&self, file: &Arc<File>, offset: u64, data: Bytes) -> io::Result<()> {
        let size_before = file.metadata()?.len();
        let readable = data.len().min(size_before.saturating_sub(offset) as usize);
        let mut before = BytesMut::zeroed(readable);
        file.read_exact_at(&mut before, offset)?;
        self.below.write_at(file, offset, data.clone()).await?;
        let write = Unsynced { file: file.clone(), offset, before: before.freeze(), size_before, data };
        self.state.lock().unsynced.push(write);
        Ok(())
    }
}

impl Unsynced {
    fn undo(&self) -> io::Result<()> {
        self.file.write_all_at(&self.before, self.offset)?;
        self.file.set_len(self.size_before)
    }
}

#[async_trait]
impl Disk for FaultyDisk {
    async fn read_at(&self, file: &Arc<File>, offset: u64, length: usize) -> io::Result<Bytes> {
        if self.strikes(self.faults.read_error) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        let data = self.below.read_at(file, offset, length).await?;
        if data.is_empty() || !self.strikes(self.faults.flipped_bit) {
            return Ok(data);
        }
        let bit = self.state.lock().random.below(data.len() as u64 * 8);
        let mut damaged = BytesMut::from(data);
        damaged[(bit / 8) as usize] ^= 1 << (bit % 8);
        Ok(damaged.freeze())
    }

    async fn write_at(&self, file: &Arc<File>, offset: u64, data: Bytes) -> io::Result<()> {
        if self.strikes(self.faults.write_error) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        if self.strikes(self.faults.disk_full) {
            let written = self.state.lock().random.below(data.len() as u64 + 1) as usize;
            self.write_through(file, offset, data.slice(..written)).await?;
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        self.write_through(file, offset, data).await
    }

    async fn sync(&self, file: &Arc<File>) -> io::Result<()> {
        if self.strikes(self.faults.sync_error) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        if self.strikes(self.faults.lost_sync) {
            return Ok(());
        }
        let covered = identity(file)?;
        self.state.lock().unsynced.retain(|write| identity(&write.file).ok() != Some(covered));
        Ok(())
    }

    fn name(&self) -> &'static str {
        "faulty"
    }
}

fn identity(file: &File) -> io::Result<(u64, u64)> {
    file.metadata().map(|m| (m.dev(), m.ino()))
}

/// SplitMix64 (Steele, Lea, Flood 2014): repeatable, which is all that is wanted here.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::PosixDisk;

    const ALWAYS: u16 = 1000;

    fn disk(faults: Faults, seed: u64) -> (FaultyDisk, Arc<File>) {
        let file = Arc::new(tempfile::tempfile().unwrap());
        (FaultyDisk::new(Arc::new(PosixDisk::default()), faults, seed), file)
    }

    async fn content_after_crash(faults: Faults, seed: u64) -> Bytes {
        let (disk, file) = disk(faults, seed);
        disk.write_at(&file, 0, vec![1; 4096].into()).await.unwrap();
        disk.sync(&file).await.unwrap();
        disk.write_at(&file, 0, vec![2; 8192].into()).await.unwrap();
        disk.crash().unwrap();
        disk.read_at(&file, 0, 10_000).await.unwrap()
    }

    #[tokio::test]
    async fn a_crash_keeps_loses_or_tears_what_was_not_synced() {
        let mut outcomes = std::collections::HashSet::new();
        for seed in 0..200 {
            let content = content_after_crash(Faults::default(), seed).await;
            let new = content.iter().take_while(|&&b| b == 2).count();
            assert!(new.is_multiple_of(512) && content.len() == new.max(4096));
            assert!(content[new..].iter().all(|&b| b == 1), "what was synced is there");
            assert_eq!(content, content_after_crash(Faults::default(), seed).await, "a seed repeats");
            outcomes.insert(new);
        }
        assert!(outcomes.contains(&0) && outcomes.contains(&8192) && outcomes.len() > 4);
    }

    #[tokio::test]
    async fn a_lost_sync_covers_nothing() {
        let lying = Faults { lost_sync: ALWAYS, ..Faults::default() };
        let mut lost = false;
        for seed in 0..50 {
            lost |= content_after_crash(lying, seed).await.is_empty();
        }
        assert!(lost);
    }

    #[tokio::test]
    async fn one_bit_is_flipped_and_the_file_is_whole() {
        let (disk, file) = disk(Faults { flipped_bit: ALWAYS, ..Faults::default() }, 7);
        disk.write_at(&file, 0, vec![0; 4096].into()).await.unwrap();
        let damaged = disk.read_at(&file, 0, 4096).await.unwrap();
        assert_eq!(damaged.iter().map(|b| b.count_ones()).sum::<u32>(), 1);
        assert_eq!(disk.below.read_at(&file, 0, 4096).await.unwrap(), vec![0; 4096]);
    }

    #[tokio::test]
    async fn errors_are_those_of_a_kernel() {
        let errno = |outcome: io::Result<()>| outcome.unwrap_err().raw_os_error();
        let (full, file) = disk(Faults { disk_full: ALWAYS, ..Faults::default() }, 1);
        assert_eq!(errno(full.write_at(&file, 0, vec![1; 100].into()).await), Some(ENOSPC));
        let faults =
            Faults { read_error: ALWAYS, write_error: ALWAYS, sync_error: ALWAYS, ..Faults::default() };
        let (bad, file) = disk(faults, 1);
        assert_eq!(errno(bad.write_at(&file, 0, vec![1; 100].into()).await), Some(EIO));
        assert_eq!(errno(bad.read_at(&file, 0, 1).await.map(drop)), Some(EIO));
        assert_eq!(errno(bad.sync(&file).await), Some(EIO));
    }
}
