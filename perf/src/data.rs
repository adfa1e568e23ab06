//! Files of which contents are made: large ones in chunks, small ones at once; all look old.

use crate::model::Content;
use anyhow::{Context, Result};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// How old files look: what was just changed is trusted for less time, by us and by others.
const AGE: Duration = Duration::from_secs(24 * 3600);

/// The grain in which large files are made.
const CHUNK_BYTES: u64 = 128 * 1024;

/// Writes a file of `bytes`, rounded to whole chunks, and gives its size.
pub(crate) fn write_large(path: &Path, content: Content, seed: u64, bytes: u64) -> Result<u64> {
    create_parent(path)?;
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let chunks = bytes.div_ceil(CHUNK_BYTES);
    let workers = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let write = |first: u64| {
        (first..chunks).step_by(workers as usize).try_for_each(|number| {
            file.write_all_at(&content.chunk(seed, number, chunks), number * CHUNK_BYTES)
        })
    };
    std::thread::scope(|scope| {
        let started: Vec<_> = (0..workers).map(|first| scope.spawn(move || write(first))).collect();
        started.into_iter().try_for_each(|worker| worker.join().expect("a worker that writes does not panic"))
    })?;
    file.set_modified(SystemTime::now() - AGE)?;
    Ok(chunks * CHUNK_BYTES)
}

/// Writes a small file of noise.
pub(crate) fn write_small(path: &Path, seed: u64, bytes: usize) -> Result<()> {
    let mut content = vec![0; bytes];
    SmallRng::seed_from_u64(seed).fill_bytes(&mut content);
    write_whole(path, &content)
}

/// Writes a file of that content.
pub(crate) fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    create_parent(path)?;
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))?;
    let file = File::options().write(true).open(path)?;
    Ok(file.set_modified(SystemTime::now() - AGE)?)
}

/// Makes the directory in which `path` lies.
pub(crate) fn create_parent(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_files_are_whole_chunks_and_look_old() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/large");
        assert_eq!(write_large(&path, Content::Noise, 1, 200_000).unwrap(), 2 * CHUNK_BYTES);
        let bytes = fs::read(&path).unwrap();
        assert!(bytes[CHUNK_BYTES as usize..] == Content::Noise.chunk(1, 1, 2));
        let age = fs::metadata(&path).unwrap().modified().unwrap().elapsed().unwrap();
        assert!(age >= AGE);
    }
}
