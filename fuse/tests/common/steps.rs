//! Operations by seed on a tree of few names, and what came of each in words that can be compared.
#![allow(dead_code, reason = "each test program uses a part")]

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Few names, so that operations meet.
const NAMES: u64 = 6;

/// Numbers that follow from a seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    /// A name, or one in a directory, or in one of its directories.
    fn path(&mut self) -> PathBuf {
        let depth = 1 + self.below(3);
        (0..depth).map(|_| format!("n{}", self.below(NAMES))).collect()
    }
}

/// One operation.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Create(PathBuf),
    Write(PathBuf, u64, usize),
    Append(PathBuf, usize),
    WriteOpen(usize, u64, usize),
    ReadOpen(usize, u64, usize),
    Open(PathBuf, usize),
    Close(usize),
    Read(PathBuf),
    Truncate(PathBuf, u64),
    Rename(PathBuf, PathBuf),
    Exchange(PathBuf, PathBuf),
    Link(PathBuf, PathBuf),
    Symlink(PathBuf),
    Remove(PathBuf),
    MakeDirectory(PathBuf),
    RemoveDirectory(PathBuf),
    Mode(PathBuf, u32),
    Stat(PathBuf),
    List(PathBuf),
}

/// Files that are held open at a time.
const SLOTS: u64 = 4;

impl Step {
    pub(crate) fn next(random: &mut Random) -> Self {
        let (path, other) = (random.path(), random.path());
        let slot = random.below(SLOTS) as usize;
        let (offset, length) = (random.below(40_000), 1 + random.below(20_000) as usize);
        match random.below(24) {
            0 | 1 => Self::Create(path),
            2 | 3 => Self::Write(path, offset, length),
            4 => Self::Append(path, length),
            5 | 6 => Self::WriteOpen(slot, offset, length),
            7 | 8 => Self::ReadOpen(slot, offset, length),
            9 => Self::Open(path, slot),
            10 => Self::Close(slot),
            11 | 12 => Self::Read(path),
            13 => Self::Truncate(path, offset),
            14 | 15 => Self::Rename(path, other),
            16 => Self::Exchange(path, other),
            17 => Self::Link(path, other),
            18 => Self::Symlink(path),
            19 => Self::Remove(path),
            20 => Self::MakeDirectory(path),
            21 => Self::RemoveDirectory(path),
            22 => [Self::Mode(path.clone(), 0o600 | random.below(64) as u32), Self::Stat(path)]
                [random.below(2) as usize]
                .clone(),
            _ => Self::List(path),
        }
    }
}

/// One of the two trees.
pub(crate) struct Side {
    pub(crate) root: PathBuf,
    pub(crate) open: [Option<File>; SLOTS as usize],
    /// Names of a file are counted.
    pub(crate) counts_links: bool,
    /// It is asked whether what was written is there.
    pub(crate) syncs: bool,
}

impl Side {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), open: Default::default(), counts_links: true, syncs: false }
    }

    /// What came of `step`, in words that are the same for both.
    pub(crate) fn apply(&mut self, step: &Step, number: usize) -> String {
        let outcome = self.outcome(step, number);
        outcome.unwrap_or_else(|error| format!("error {:?}", error.raw_os_error()))
    }

    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)?;
        if self.syncs { file.sync_data() } else { Ok(()) }
    }

    fn outcome(&mut self, step: &Step, number: usize) -> io::Result<String> {
        let at = |path: &PathBuf| self.root.join(path);
        let bytes = |length: usize| (0..length).map(|n| (n + number) as u8).collect::<Vec<_>>();
        let done = |()| "done".to_owned();
        match step {
            Step::Create(path) => {
                File::options().write(true).create_new(true).open(at(path)).map(drop).map(done)
            }
            Step::Write(path, offset, length) => {
                let file = File::options().write(true).open(at(path))?;
                self.write(&file, &bytes(*length), *offset).map(done)
            }
            Step::Append(path, length) => {
                let mut file = File::options().append(true).open(at(path))?;
                io::Write::write_all(&mut file, &bytes(*length)).map(done)
            }
            Step::WriteOpen(slot, offset, length) => match &self.open[*slot] {
                Some(file) => self.write(file, &bytes(*length), *offset).map(done),
                None => Ok("nothing is open".to_owned()),
            },
            Step::ReadOpen(slot, offset, length) => match &self.open[*slot] {
                Some(file) => {
                    let mut content = vec![0; *length];
                    let read = file.read_at(&mut content, *offset)?;
                    Ok(format!("{:?} of {}", &content[..read], file.metadata()?.len()))
                }
                None => Ok("nothing is open".to_owned()),
            },
            Step::Open(path, slot) => {
                let file = File::options().read(true).write(true).open(at(path))?;
                self.open[*slot] = Some(file);
                Ok("open".to_owned())
            }
            Step::Close(slot) => Ok(format!("{}", self.open[*slot].take().is_some())),
            Step::Read(path) => fs::read(at(path)).map(|content| format!("{content:?}")),
            Step::Truncate(path, size) => {
                File::options().write(true).open(at(path))?.set_len(*size).map(done)
            }
            Step::Rename(from, to) => fs::rename(at(from), at(to)).map(done),
            Step::Exchange(from, to) => {
                let (cwd, flags) = (rustix::fs::CWD, rustix::fs::RenameFlags::EXCHANGE);
                rustix::fs::renameat_with(cwd, at(from), cwd, at(to), flags)?;
                Ok("exchanged".to_owned())
            }
            Step::Link(from, to) => fs::hard_link(at(from), at(to)).map(done),
            Step::Symlink(path) => symlink(format!("to {number}"), at(path)).map(done),
            Step::Remove(path) => fs::remove_file(at(path)).map(done),
            Step::MakeDirectory(path) => fs::create_dir(at(path)).map(done),
            Step::RemoveDirectory(path) => fs::remove_dir(at(path)).map(done),
            Step::Mode(path, mode) => {
                if fs::symlink_metadata(at(path))?.is_symlink() {
                    return Ok("a link".to_owned());
                }
                fs::set_permissions(at(path), fs::Permissions::from_mode(*mode)).map(done)
            }
            Step::Stat(path) => describe(&at(path), self.counts_links),
            Step::List(path) => names(&at(path)).map(|names| names.join(" ")),
        }
    }
}

fn names(directory: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(directory)?;
    let mut names: Vec<_> =
        entries.map(|e| Ok(e?.file_name().into_string().unwrap())).collect::<io::Result<_>>()?;
    names.sort();
    Ok(names)
}

fn describe(path: &Path, counts_links: bool) -> io::Result<String> {
    let meta = fs::symlink_metadata(path)?;
    let size = if meta.is_dir() { 0 } else { meta.len() };
    let links = if meta.is_dir() || !counts_links { 0 } else { meta.nlink() };
    Ok(format!("{:o} {size} {links}", meta.mode()))
}

/// All that there is in a tree and is not hidden.
pub(crate) fn all(root: &Path, counts_links: bool) -> Vec<String> {
    let mut found = Vec::new();
    for name in names(root).unwrap().into_iter().filter(|name| !name.starts_with(".globalfs-")) {
        let path = root.join(&name);
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = match () {
            () if meta.is_dir() => all(&path, counts_links).join("\n"),
            () if meta.is_symlink() => format!("{:?}", fs::read_link(&path).unwrap()),
            () => format!("{:?}", fs::read(&path).unwrap()),
        };
        found.push(format!("{name} {} {content}", describe(&path, counts_links).unwrap()));
    }
    found
}
