//! The files of the warm path, the same bytes at the origin and on the local file system, and how a mount comes to
//! have them: by reading them.

use super::model::Part;
use crate::data::{write_large, write_small};
use crate::limited::{last_words, limited, output};
use crate::model::Content;
use crate::reader::{Until, read_large, within};
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const MIB: u64 = 1 << 20;

/// Sizes of large files are multiples of this, so that many readers have equal parts of whole chunks.
const GRAIN_BYTES: u64 = 2 * MIB;

/// Sizes of the large files before scaling.
const LARGE_BYTES: u64 = 1024 * MIB;
const PARTLY_BYTES: u64 = 1024 * MIB;

/// The part of the second one that is read: what is fetched ahead may be as much again.
pub(super) const PARTLY_READ: u64 = 4;

/// Files of a megabyte.
pub(super) const MANY_FILES: u64 = 256;
pub(super) const MANY_FILE_BYTES: u64 = MIB;

/// Small files and how they are spread.
const SMALL_FILES: usize = 2000;
const SMALL_FILE_BYTES: usize = 8192;
const SMALL_FILES_EACH: usize = 100;

/// 100,000 names: 64 directories of 1,000 files and 3,264 of ten, these in 32 others.
const WIDE_FOLDERS: usize = 64;
const WIDE_FILES: usize = 1000;
const DEEP_FOLDERS: usize = 32;
const DEEP_FOLDERS_EACH: usize = 102;
const DEEP_FILES: usize = 10;
pub(super) const NAMES: usize =
    WIDE_FOLDERS * (WIDE_FILES + 1) + DEEP_FOLDERS * (1 + DEEP_FOLDERS_EACH * (DEEP_FILES + 1));

/// Large directories of which each file is asked for its attributes.
const KNOWN_FOLDERS: usize = 20;

/// How old names look: what was just made is trusted for less time.
const AGE: Duration = Duration::from_secs(24 * 3600);

/// Bytes that are compared at a time.
const BLOCK_BYTES: usize = 1024 * 1024;

/// Sizes of what depends on the scale.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// Of the large file.
    pub large: u64,
    /// Of the file of which the first quarter is read.
    pub partly: u64,
}

impl Sizes {
    /// Those of large files that are `scale` times as large as usual.
    pub(super) fn scaled(scale: f64) -> Self {
        let scaled = |bytes: u64| {
            let grains = (bytes as f64 * scale / GRAIN_BYTES as f64).round() as u64;
            grains.max(1) * GRAIN_BYTES
        };
        Self { large: scaled(LARGE_BYTES), partly: scaled(PARTLY_BYTES) }
    }
}

/// A tree with the files of all parts: the local one, the origin or a mount.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    /// Its root.
    pub root: PathBuf,
    /// How large its large files are.
    pub sizes: Sizes,
}

impl Tree {
    /// The file of [`Part::Large`].
    pub(super) fn large(&self) -> PathBuf {
        self.root.join("large")
    }

    /// The file of [`Part::Partly`].
    pub(super) fn partly(&self) -> PathBuf {
        self.root.join("partly")
    }

    fn many(&self) -> Vec<PathBuf> {
        (0..MANY_FILES).map(|number| self.root.join(format!("many/file-{number}"))).collect()
    }

    /// The files of [`Part::Small`].
    pub(super) fn small(&self) -> Vec<PathBuf> {
        let path = |number| format!("small/folder-{:02}/file-{number:04}", number / SMALL_FILES_EACH);
        (0..SMALL_FILES).map(|number| self.root.join(path(number))).collect()
    }

    /// The root of [`Part::Names`].
    pub(super) fn names(&self) -> PathBuf {
        self.root.join("names")
    }

    /// Its large directories.
    pub(super) fn wide_folders(&self) -> Vec<PathBuf> {
        (0..WIDE_FOLDERS).map(|number| self.names().join(format!("wide-{number:02}"))).collect()
    }

    /// Those whose files are asked for their attributes.
    pub(super) fn known_folders(&self) -> Vec<PathBuf> {
        let mut folders = self.wide_folders();
        folders.truncate(KNOWN_FOLDERS);
        folders
    }

    /// Those files.
    pub(super) fn known_files(&self) -> Vec<PathBuf> {
        let folders = self.known_folders();
        folders.iter().flat_map(|folder| files_of(folder, WIDE_FILES)).collect()
    }

    /// Makes the files of a part.
    pub(super) fn write(&self, part: Part) -> Result<()> {
        match part {
            Part::Large => write_large(&self.large(), Content::Noise, 1, self.sizes.large).map(drop),
            Part::Partly => write_large(&self.partly(), Content::Noise, 2, self.sizes.partly).map(drop),
            Part::Many => self.many().iter().zip(3..).try_for_each(|(path, seed)| {
                write_large(path, Content::Noise, seed << 32, MANY_FILE_BYTES).map(drop)
            }),
            Part::Small => self
                .small()
                .iter()
                .zip(0..)
                .try_for_each(|(path, seed)| write_small(path, 4 << 32 | seed, SMALL_FILE_BYTES)),
            Part::Names => self.write_names(),
        }
    }

    fn write_names(&self) -> Result<()> {
        let old = SystemTime::now() - AGE;
        let deep = (0..DEEP_FOLDERS).flat_map(|folder| {
            let parent = self.names().join(format!("deep-{folder:02}"));
            (0..DEEP_FOLDERS_EACH).map(move |number| parent.join(format!("run-{number:03}")))
        });
        let wide = self.wide_folders().into_iter().map(|folder| (folder, WIDE_FILES));
        for (folder, files) in wide.chain(deep.map(|folder| (folder, DEEP_FILES))) {
            fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
            for path in files_of(&folder, files) {
                let file = File::create(&path).with_context(|| path.display().to_string())?;
                file.set_modified(old)?;
            }
        }
        Ok(())
    }

    /// Reads what a mount is to have of a part, and compares it with the `local` tree. Gives the bytes that were
    /// read.
    pub(super) fn read(&self, part: Part, local: &Self, limit: Duration) -> Result<u64> {
        let pairs = match part {
            Part::Large => vec![(self.large(), local.large())],
            Part::Partly => vec![(self.partly(), local.partly())],
            Part::Many => self.many().into_iter().zip(local.many()).collect(),
            Part::Small => self.small().into_iter().zip(local.small()).collect(),
            Part::Names => return count_names(&self.names(), limit).map(|()| 0),
        };
        let length = if part == Part::Partly { self.sizes.partly / PARTLY_READ } else { u64::MAX };
        within(limit, move |until| pairs.iter().map(|(a, b)| read_equal(a, b, length, until)).sum())
    }

    /// Brings what a part reads into memory, as far as a mount has it.
    pub(super) fn read_into_memory(&self, part: Part, limit: Duration) -> Result<()> {
        let (files, length) = match part {
            Part::Large => (vec![self.large()], u64::MAX),
            Part::Partly => (vec![self.partly()], self.sizes.partly / PARTLY_READ),
            Part::Many => (self.many(), u64::MAX),
            Part::Small => (self.small(), u64::MAX),
            Part::Names => return Ok(()),
        };
        within(limit, move |until| {
            files.iter().try_for_each(|path| read_large(path, length, until).map(drop))
        })
    }
}

fn files_of(folder: &Path, files: usize) -> impl Iterator<Item = PathBuf> {
    (0..files).map(|number| folder.join(format!("output-{number:04}.dat")))
}

/// Walks a tree of [`NAMES`] entries and counts them.
fn count_names(root: &Path, limit: Duration) -> Result<()> {
    let mut find = limited("find", limit);
    find.arg(root).args(["-mindepth", "1", "-printf", "."]);
    let output = output(find, limit)?;
    ensure!(output.status.success(), "find: {}", last_words(&output));
    ensure!(output.stdout.len() == NAMES, "{} entries instead of {NAMES}", output.stdout.len());
    Ok(())
}

/// Reads `path` up to `length` and compares it with `local`; gives the bytes read.
fn read_equal(path: &Path, local: &Path, length: u64, until: Until) -> Result<u64> {
    let open = |path: &Path| File::open(path).with_context(|| path.display().to_string());
    let (mut shown, mut real) = (open(path)?.take(length), open(local)?.take(length));
    let (mut a, mut b) = (vec![0; BLOCK_BYTES], vec![0; BLOCK_BYTES]);
    let mut read = 0;
    loop {
        until.check()?;
        let got = read_block(&mut shown, &mut a)?;
        let wanted = read_block(&mut real, &mut b)?;
        ensure!(a[..got] == b[..wanted], "wrong bytes in {} at {read} or behind", path.display());
        read += got as u64;
        if got < BLOCK_BYTES {
            return Ok(read);
        }
    }
}

/// Fills the block, up to the end of the file.
fn read_block(file: &mut impl Read, block: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match file.read(&mut block[filled..])? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(root: &Path) -> Tree {
        Tree { root: root.to_owned(), sizes: Sizes::scaled(0.001) }
    }

    #[test]
    fn sizes_are_whole_grains() {
        let sizes = Sizes::scaled(0.01);
        assert_eq!((sizes.large, sizes.partly), (10 * MIB, 10 * MIB));
        assert_eq!(Sizes::scaled(0.001).partly, GRAIN_BYTES);
        assert_eq!(Sizes::scaled(1.0).large, 1 << 30);
    }

    #[test]
    fn there_are_as_many_names_as_is_said() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(NAMES, 100_000);
        assert_eq!(tree(dir.path()).known_files().len(), 20_000);
    }

    #[test]
    fn what_was_made_twice_is_equal_and_what_differs_is_seen() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (one, other) = (tree(one.path()), tree(other.path()));
        let limit = Duration::from_secs(60);
        for part in [Part::Large, Part::Partly, Part::Small] {
            one.write(part).unwrap();
            other.write(part).unwrap();
            assert!(one.read(part, &other, limit).unwrap() > 0, "{part:?}");
        }
        assert_eq!(one.read(Part::Partly, &other, limit).unwrap(), GRAIN_BYTES / PARTLY_READ);
        fs::write(&one.small()[7], [0; SMALL_FILE_BYTES]).unwrap();
        let error = one.read(Part::Small, &other, limit).unwrap_err();
        assert!(error.to_string().contains("wrong bytes"), "{error}");
    }
}
