//! Files at the origin: fresh ones for each phase and round, which nothing has read.

use super::model::Package;
use crate::data::{create_parent, write_small, write_whole};
use anyhow::Result;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_tree_has_the_files_and_bytes_that_the_phases_name() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = write_tree(dir.path(), 1).unwrap();
        assert!((15_500_000..17_500_000).contains(&bytes), "{bytes}");
        let files = |folder| fs::read_dir(tree_folder(dir.path(), folder)).unwrap().count();
        // The directory in it counts for those that have one.
        assert_eq!((files(0), files(2), files(3)), (50, 51, 50));
    }
}
