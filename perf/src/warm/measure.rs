//! How each phase is measured on one tree: what comes before, and what is timed.

use super::data::{MANY_FILE_BYTES, MANY_FILES, PARTLY_READ, Tree};
use super::fio::{Fio, Job};
use super::model::{Phase, Work};
use super::pages;
use super::processes::CpuTimes;
use crate::limited::{last_words, limited, output};
use crate::reader::{Until, read_all, within};
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Longer than what a default mount keeps names for, so that the pass after it makes all of them known anew.
const FORGOTTEN_AFTER: Duration = Duration::from_millis(1100);

/// How long nobody asks for names in the phase about that.
const PAUSE: Duration = Duration::from_secs(3);

/// Measures phases, one at a time.
pub(super) struct Meter {
    /// Runs jobs.
    pub fio: Fio,
    /// What a measurement may take.
    pub limit: Duration,
}

/// What is timed in a phase.
enum Timed {
    Job(Job),
    Read(fn(&[PathBuf], Until) -> Result<u64>, Vec<PathBuf>),
    Command(&'static str, Vec<&'static str>, Vec<PathBuf>),
}

impl Meter {
    /// Brings trees into the state in which all rounds of a phase begin. What is to be in memory is read from the
    /// beginning to the end, after everything was dropped: the kernel keeps what came one by one in smaller pieces.
    pub(super) fn prepare(&self, phase: Phase, trees: [&Tree; 2]) -> Result<()> {
        if phase.reads_memory() {
            pages::drop_all()?;
            trees.into_iter().try_for_each(|tree| tree.read_into_memory(phase.part(), self.limit))?;
        }
        Ok(())
    }

    /// Measures a phase once.
    pub(super) fn measure(&self, phase: Phase, tree: &Tree) -> Result<Work> {
        let timed = timed(phase, tree);
        let known_for = self.make_known(phase, &timed)?;
        if phase.drops_pages() {
            pages::drop_all()?;
        }
        let before = CpuTimes::now()?;
        let work = self.time(&timed, tree)?;
        let daemons_cpu_s = CpuTimes::now()?.seconds_since(&before);
        Ok(Work { daemons_cpu_s, known_for_s: known_for.map(|known| known.as_secs_f64()), ..work })
    }

    /// Where names are asked for twice, asks for the first time, and gives how long ago that is now.
    fn make_known(&self, phase: Phase, timed: &Timed) -> Result<Option<Duration>> {
        let (rest, pause) = match phase {
            Phase::Stat => (FORGOTTEN_AFTER, Duration::ZERO),
            Phase::StatLater => (Duration::ZERO, PAUSE),
            Phase::Find | Phase::List | Phase::ReadDir => (Duration::ZERO, Duration::ZERO),
            _ => return Ok(None),
        };
        std::thread::sleep(rest);
        let started = Instant::now();
        self.time_names(timed)?;
        std::thread::sleep(pause);
        Ok(Some(started.elapsed()))
    }

    fn time(&self, timed: &Timed, tree: &Tree) -> Result<Work> {
        match timed {
            Timed::Job(job) => self.fio.run(job, &tree.root, self.limit),
            _ => self.time_names(timed),
        }
    }

    fn time_names(&self, timed: &Timed) -> Result<Work> {
        match timed {
            Timed::Job(_) => Ok(Work::default()),
            Timed::Read(read, paths) => {
                let (read, paths) = (*read, paths.clone());
                within(self.limit, move |until| {
                    let started = Instant::now();
                    let bytes = read(&paths, until)?;
                    Ok(Work::of(paths.len() as u64, bytes, started.elapsed()))
                })
            }
            Timed::Command(program, args, paths) => self.time_command(program, args, paths),
        }
    }

    fn time_command(&self, program: &str, args: &[&str], paths: &[PathBuf]) -> Result<Work> {
        let mut command = limited(program, self.limit);
        command.args(args).args(paths).stdout(Stdio::null());
        let started = Instant::now();
        let output = output(command, self.limit)?;
        let elapsed = started.elapsed();
        ensure!(output.status.success(), "{program}: {}", last_words(&output));
        Ok(Work::of(1, 0, elapsed))
    }
}

fn timed(phase: Phase, tree: &Tree) -> Timed {
    if let Some(job) = job(phase, tree) {
        return Timed::Job(job);
    }
    match phase {
        Phase::Find => Timed::Command("find", vec![], vec![tree.names()]),
        Phase::List => Timed::Command("ls", vec!["-lR"], tree.known_folders()),
        Phase::ReadDir => Timed::Read(list_all, tree.wide_folders()),
        Phase::SmallFiles => Timed::Read(read_all, tree.small()),
        Phase::OpenClose => Timed::Read(open_all, tree.small()),
        _ => Timed::Read(stat_all, tree.known_files()),
    }
}

/// The job of fio that a phase is, if it is one.
fn job(phase: Phase, tree: &Tree) -> Option<Job> {
    let sizes = tree.sizes;
    let random = |job: Job, readers: u64| {
        job.with("FILE", "large").with("READERS", readers).with("SIZE", sizes.large / readers)
    };
    let (in_memory, once) = (Job::endless("random", "cached"), Job::once("random", "once"));
    Some(match phase {
        Phase::Sequential | Phase::SequentialCpu => Job::once("sequential", "once").with("SIZE", sizes.large),
        Phase::SequentialCached => Job::endless("sequential", "cached").with("SIZE", sizes.large),
        Phase::Random1 => random(in_memory, 1),
        Phase::Random16 => random(in_memory, 16),
        Phase::Random1Dropped => random(once, 1),
        Phase::Random16Dropped => random(once, 16),
        Phase::Mmap => Job::once("mmap", "mmap").with("SIZE", sizes.large),
        Phase::Mixed => Job::endless("mixed", "mixed").with("SIZE", sizes.large / 4),
        Phase::ManyFiles => {
            Job::once("many-files", "many-files").with("FILES", MANY_FILES).with("SIZE", MANY_FILE_BYTES)
        }
        Phase::DirectSequential => Job::endless("direct", "sequential").with("SIZE", sizes.large),
        Phase::DirectRandom => Job::endless("direct", "random").with("SIZE_EACH", sizes.large / 4),
        Phase::Partly => {
            once.with("FILE", "partly").with("READERS", 4).with("SIZE", sizes.partly / PARTLY_READ / 4)
        }
        _ => return None,
    })
}

/// Every job that any phase runs.
#[cfg(test)]
pub(super) fn all_jobs() -> Vec<(Phase, Job)> {
    let tree = Tree { root: PathBuf::new(), sizes: super::data::Sizes::scaled(1.0) };
    Phase::ALL.into_iter().filter_map(|phase| Some((phase, job(phase, &tree)?))).collect()
}

fn stat_all(paths: &[PathBuf], until: Until) -> Result<u64> {
    paths.iter().try_fold(0, |_, path| {
        until.check()?;
        fs::symlink_metadata(path).with_context(|| path.display().to_string())?;
        Ok(0)
    })
}

fn open_all(paths: &[PathBuf], until: Until) -> Result<u64> {
    paths.iter().try_fold(0, |_, path| {
        until.check()?;
        File::open(path).with_context(|| path.display().to_string())?;
        Ok(0)
    })
}

fn list_all(folders: &[PathBuf], until: Until) -> Result<u64> {
    folders.iter().try_fold(0, |_, folder| {
        until.check()?;
        for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
            entry?;
        }
        Ok(0)
    })
}
