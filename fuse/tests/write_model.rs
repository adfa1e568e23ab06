//! Random operations by seed, on a mount and on a plain directory: every outcome is compared, and at the end all of both
//! trees. Needs root and `/dev/fuse`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::mounted::{LONG, Mounted, inside};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Operations of each seed.
const STEPS: usize = 2500;

/// Few names, so that operations meet.
const NAMES: u64 = 6;

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    /// A name, or one in a directory, or in one of its directories.
    fn path(&mut self) -> PathBuf {
        let depth = 1 + self.below(3);
        (0..depth).map(|_| format!("n{}", self.below(NAMES))).collect()
    }
}

#[derive(Debug, Clone)]
enum Step {
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
    fn next(random: &mut Random) -> Self {
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
struct Side {
    root: PathBuf,
    open: [Option<File>; SLOTS as usize],
}

impl Side {
    /// What came of `step`, in words that are the same for both.
    fn apply(&mut self, step: &Step, number: usize) -> String {
        let outcome = self.outcome(step, number);
        outcome.unwrap_or_else(|error| format!("error {:?}", error.raw_os_error()))
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
                file.write_all_at(&bytes(*length), *offset).map(done)
            }
            Step::Append(path, length) => {
                let mut file = File::options().append(true).open(at(path))?;
                io::Write::write_all(&mut file, &bytes(*length)).map(done)
            }
            Step::WriteOpen(slot, offset, length) => match &self.open[*slot] {
                Some(file) => file.write_all_at(&bytes(*length), *offset).map(done),
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
            Step::Stat(path) => describe(&at(path)),
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

fn describe(path: &Path) -> io::Result<String> {
    let meta = fs::symlink_metadata(path)?;
    let size = if meta.is_dir() { 0 } else { meta.len() };
    Ok(format!("{:o} {size} {}", meta.mode(), if meta.is_dir() { 0 } else { meta.nlink() }))
}

/// All that there is in a tree.
fn all(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for name in names(root).unwrap() {
        let path = root.join(&name);
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = match () {
            () if meta.is_dir() => all(&path).join("\n"),
            () if meta.is_symlink() => format!("{:?}", fs::read_link(&path).unwrap()),
            () => format!("{:?}", fs::read(&path).unwrap()),
        };
        found.push(format!("{name} {} {content}", describe(&path).unwrap()));
    }
    found
}

fn compare(seed: u64, words: &str, is_local: bool) {
    let mounted = Mounted::new(&format!("rw,{words}"));
    mounted.volume.make_writable();
    if is_local {
        mounted.volume.make_local();
    }
    let plain = tempfile::tempdir().unwrap();
    let sides = [mounted.at(""), plain.path().to_owned()];
    let [mut ours, mut theirs] = sides.map(|root| Side { root, open: Default::default() });
    let mut random = Random(seed);
    for number in 0..STEPS {
        let step = Step::next(&mut random);
        let (our, their) = (ours.apply(&step, number), theirs.apply(&step, number));
        assert!(our == their, "seed {seed}, step {number} {step:?}: {our:.200} instead of {their:.200}");
    }
    assert_eq!(all(&ours.root), all(&theirs.root), "seed {seed}");
    drop(ours);
    let is_clean = |mounted: &Mounted| !mounted.volume.names().iter().any(|name| name.contains("/."));
    mounted.eventually("nothing hidden stays", is_clean);
    mounted.eventually("all is closed", |mounted| mounted.session.counts().1 == 0);
}

#[test]
fn a_mount_does_what_a_local_directory_does() {
    if !inside("a_mount_does_what_a_local_directory_does") {
        return;
    }
    for seed in 1..4 {
        compare(seed, LONG, false);
    }
    compare(4, "attr_timeout=0,entry_timeout=0", false);
    compare(5, LONG, true);
}

#[test]
fn many_at_once_leave_what_the_volume_has() {
    if !inside("many_at_once_leave_what_the_volume_has") {
        return;
    }
    let mounted = Mounted::new(&format!("rw,{LONG}"));
    mounted.volume.make_writable();
    let workers: Vec<_> = (0..8)
        .map(|seed| {
            let mut side = Side { root: mounted.at(""), open: Default::default() };
            std::thread::spawn(move || {
                let mut random = Random(seed);
                for number in 0..STEPS {
                    // Whatever comes of it: others do the same.
                    side.apply(&Step::next(&mut random), number);
                }
            })
        })
        .collect();
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    mounted.eventually("all is closed", |mounted| mounted.session.counts().1 == 0);
    let is_clean = |mounted: &Mounted| !mounted.volume.names().iter().any(|name| name.contains("/."));
    mounted.eventually("nothing hidden stays", is_clean);
    for name in mounted.volume.names().iter().filter(|name| *name != "/") {
        let meta = || fs::symlink_metadata(mounted.at(&name[1..])).unwrap();
        let (attr, seen) = (mounted.volume.attr(name), meta());
        assert_eq!((seen.mode() & 0o7777, seen.nlink()), (attr.mode, attr.nlink.into()), "{name}");
        // The kernel hears a moment later of what it did not ask for.
        mounted.eventually(name, |_| meta().mtime() == attr.mtime_ns / 1_000_000_000);
        if seen.is_file() {
            assert!(fs::read(mounted.at(&name[1..])).unwrap() == mounted.volume.content(name), "{name}");
        }
    }
    assert_eq!(mounted.shell("find . | wc -l").trim(), mounted.volume.names().len().to_string());
}
