//! Files at the origin: fresh ones for each phase and round, which nothing has read.

use super::model::{Content, Package};
use anyhow::{Context, Result};
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How old files look: what was just changed is trusted for less time, by us and by others.
const AGE: Duration = Duration::from_secs(24 * 3600);

/// The grain in which large files are made.
const CHUNK_BYTES: u64 = 128 * 1024;

/// Directories and files of a tree, and the mean size of a file: 16 MB in all.
pub(crate) const TREE_FOLDERS: usize = 40;
const FILES_EACH: usize = 50;
const MEAN_FILE_BYTES: usize = 8192;

/// What a directory of which everything is looked at contains, and how many of it are links.
pub(crate) const DIRECTORY_ENTRIES: usize = 500;
const DIRECTORY_LINKS: usize = 20;
const DIRECTORY_FILE_BYTES: usize = 64;

/// Directories and files that stand beside what the phases read, as in a tree that is used.
const OTHER_FOLDERS: usize = 20;
const OTHER_FILES_EACH: usize = 25;

/// The package's name, for Python.
pub(crate) const PACKAGE: &str = "library";

/// Its modules.
const MODULES: usize = 3000;

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

/// Writes 2,000 files of noise in 40 directories, a few of them nested, and gives the sum of their sizes.
pub(crate) fn write_tree(root: &Path, seed: u64) -> Result<u64> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut bytes = 0;
    for folder in 0..TREE_FOLDERS {
        for number in 0..FILES_EACH {
            let size = random.random_range(MEAN_FILE_BYTES / 2..=MEAN_FILE_BYTES * 3 / 2);
            let path = tree_folder(root, folder).join(format!("sample-{number:03}.dat"));
            write_small(&path, seed ^ (folder * FILES_EACH + number + 1) as u64, size)?;
            bytes += size as u64;
        }
    }
    Ok(bytes)
}

/// Writes a directory of small files and a few links to them, and gives the sum of their sizes.
pub(crate) fn write_directory(root: &Path, seed: u64) -> Result<u64> {
    for number in 0..DIRECTORY_ENTRIES {
        let file = root.join(format!("output-{number:03}.dat"));
        if number < DIRECTORY_LINKS {
            create_parent(&file)?;
            symlink(format!("output-{:03}.dat", DIRECTORY_ENTRIES - 1 - number), file)?;
        } else {
            write_small(&file, seed + number as u64, DIRECTORY_FILE_BYTES)?;
        }
    }
    Ok(((DIRECTORY_ENTRIES - DIRECTORY_LINKS) * DIRECTORY_FILE_BYTES) as u64)
}

/// The directory of that number in a tree.
pub(crate) fn tree_folder(root: &Path, number: usize) -> PathBuf {
    // Every fourth lies in the one before it, so that the tree is no flat list.
    match number % 4 {
        3 => root.join(format!("run-{:02}/part", number - 1)),
        _ => root.join(format!("run-{number:02}")),
    }
}

/// Writes what stands beside: a few hundred small files that no phase reads.
pub(crate) fn write_others(origin: &Path) -> Result<()> {
    for folder in 0..OTHER_FOLDERS {
        for number in 0..OTHER_FILES_EACH {
            let path = origin.join(format!("home/user-{folder:02}/note-{number:02}.txt"));
            write_small(&path, (folder * OTHER_FILES_EACH + number) as u64, 700 + 90 * number)?;
        }
    }
    Ok(())
}

/// Writes a Python package and gives the sum of the sizes of its files.
pub(crate) fn write_package(parent: &Path, seed: u64) -> Result<u64> {
    let package = Package { name: PACKAGE.into(), modules: MODULES, seed };
    package.files().try_fold(0, |bytes, module| {
        write_whole(&parent.join(&module.path), module.source.as_bytes())?;
        Ok(bytes + module.source.len() as u64)
    })
}

fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    create_parent(path)?;
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))?;
    let file = File::options().write(true).open(path)?;
    Ok(file.set_modified(SystemTime::now() - AGE)?)
}

fn create_parent(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_has_the_files_and_bytes_that_the_phases_name() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = write_tree(dir.path(), 1).unwrap();
        assert!((15_500_000..17_500_000).contains(&bytes), "{bytes}");
        let files = |folder| fs::read_dir(tree_folder(dir.path(), folder)).unwrap().count();
        // The directory in it counts for those that have one.
        assert_eq!((files(0), files(2), files(3)), (50, 51, 50));
    }

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
