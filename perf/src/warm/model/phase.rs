//! The phases of the warm path: what each measures, in which unit, and what is aimed at.

use super::Work;
use crate::arguments::named;
use crate::model::Better;
use serde::Serialize;

/// One thing that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// A large file, page cache dropped.
    Sequential,
    /// The same, from the page cache.
    SequentialCached,
    /// CPU time of that with the page cache dropped.
    SequentialCpu,
    /// Small reads all over a file that is in memory, one reader.
    Random1,
    /// The same, sixteen readers.
    Random16,
    /// One reader, page cache dropped.
    Random1Dropped,
    /// Sixteen readers, page cache dropped.
    Random16Dropped,
    /// Small reads of a file that is mapped.
    Mmap,
    /// Reads of many sizes.
    Mixed,
    /// Medium files one after another, page cache dropped.
    ManyFiles,
    /// Large reads with O_DIRECT.
    DirectSequential,
    /// Small reads with O_DIRECT.
    DirectRandom,
    /// Small reads of what is here of a file that is not whole.
    Partly,
    /// Small files, page cache dropped.
    SmallFiles,
    /// Opening and closing them.
    OpenClose,
    /// Attributes of files that were just looked at.
    Stat,
    /// The same after a rest.
    StatLater,
    /// Every name of a large tree.
    Find,
    /// Every name of it with attributes.
    List,
    /// Names of large directories.
    ReadDir,
}

/// The files that a phase reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// A large file that was read whole.
    Large,
    /// A large file of which the first quarter was read.
    Partly,
    /// Files of a megabyte that were read.
    Many,
    /// Files of 8 KiB that were read.
    Small,
    /// 100,000 names that were seen.
    Names,
}

/// In what a phase is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Megabytes (10^6 bytes) per second.
    MegabytesPerSecond,
    /// Thousands of reads per second.
    ThousandsPerSecond,
    /// Microseconds for each operation.
    MicrosecondsEach,
    /// Seconds for everything.
    Seconds,
    /// CPU seconds of everybody for 10^9 bytes.
    CpuPerGigabyte,
}

/// What is aimed at.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    /// In parts of the local file system's figure.
    OfLocal(f64),
    /// So many times as good as the best of the others.
    OfBestPeer(f64),
}

/// A phase in words.
struct Description {
    name: &'static str,
    about: &'static str,
    part: Part,
    unit: Unit,
    goal: Option<Goal>,
}

impl Phase {
    /// Every phase, in the order in which they are run and shown: the longest walks come last, for a file system may be
    /// busy with one long after who asked has given up.
    pub(crate) const ALL: [Self; 20] = [
        Self::Sequential,
        Self::SequentialCached,
        Self::SequentialCpu,
        Self::Random1,
        Self::Random16,
        Self::Random1Dropped,
        Self::Random16Dropped,
        Self::Mmap,
        Self::Mixed,
        Self::ManyFiles,
        Self::DirectSequential,
        Self::DirectRandom,
        Self::Partly,
        Self::SmallFiles,
        Self::OpenClose,
        Self::Stat,
        Self::StatLater,
        Self::Find,
        Self::List,
        Self::ReadDir,
    ];

    /// What it is called on command lines and in JSON.
    pub(crate) fn name(self) -> &'static str {
        self.description().name
    }

    /// The phase of that name.
    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        named(&Self::ALL, Self::name, "phase", name)
    }

    /// What it measures, in a few words.
    pub(crate) fn about(self) -> &'static str {
        self.description().about
    }

    /// What it reads.
    pub(crate) fn part(self) -> Part {
        self.description().part
    }

    /// In what it is measured.
    pub(crate) fn unit(self) -> Unit {
        self.description().unit
    }

    /// What is aimed at, if anything.
    pub(crate) fn goal(self) -> Option<Goal> {
        self.description().goal
    }

    /// Whether neither the mount's pages nor those of what it keeps on disk are in memory when it begins.
    pub(crate) fn drops_pages(self) -> bool {
        matches!(
            self,
            Self::Sequential
                | Self::SequentialCpu
                | Self::Random1Dropped
                | Self::Random16Dropped
                | Self::ManyFiles
                | Self::SmallFiles
        )
    }

    /// Whether everything that it reads is in memory when it begins.
    pub(crate) fn reads_memory(self) -> bool {
        matches!(
            self,
            Self::SequentialCached
                | Self::Random1
                | Self::Random16
                | Self::Mmap
                | Self::Mixed
                | Self::Partly
                | Self::OpenClose
        )
    }

    fn description(self) -> Description {
        use Goal::{OfBestPeer, OfLocal};
        use Part::{Large, Many, Names, Partly, Small};
        use Unit::{CpuPerGigabyte, MegabytesPerSecond, MicrosecondsEach, Seconds, ThousandsPerSecond};
        let (name, about, part, unit, goal) = match self {
            Self::Sequential => (
                "sequential",
                "1 MiB reads, page cache dropped",
                Large,
                MegabytesPerSecond,
                Some(OfLocal(0.97)),
            ),
            Self::SequentialCached => (
                "sequential-cached",
                "1 MiB reads from the page cache",
                Large,
                MegabytesPerSecond,
                Some(OfLocal(0.95)),
            ),
            Self::SequentialCpu => (
                "sequential-cpu",
                "CPU time of reader and file system, page cache dropped",
                Large,
                CpuPerGigabyte,
                Some(OfLocal(1.15)),
            ),
            Self::Random1 => (
                "random-1",
                "random 4 KiB reads, 1 reader, in memory",
                Large,
                ThousandsPerSecond,
                Some(OfLocal(0.92)),
            ),
            Self::Random16 => {
                ("random-16", "the same, 16 readers", Large, ThousandsPerSecond, Some(OfLocal(0.92)))
            }
            Self::Random1Dropped => (
                "random-1-dropped",
                "random 4 KiB reads, 1 reader, page cache dropped",
                Large,
                ThousandsPerSecond,
                Some(OfLocal(0.92)),
            ),
            Self::Random16Dropped => {
                ("random-16-dropped", "the same, 16 readers", Large, ThousandsPerSecond, Some(OfLocal(0.92)))
            }
            Self::Mmap => (
                "mmap",
                "4 KiB at random places of a mapped file, each once, in memory",
                Large,
                ThousandsPerSecond,
                Some(OfLocal(0.92)),
            ),
            Self::Mixed => {
                ("mixed", "reads of 4 KiB to 1 MiB, 4 readers, in memory", Large, MegabytesPerSecond, None)
            }
            Self::ManyFiles => (
                "many-files",
                "256 files of 1 MiB one after another, page cache dropped",
                Many,
                MegabytesPerSecond,
                None,
            ),
            Self::DirectSequential => {
                ("direct-sequential", "1 MiB reads, O_DIRECT", Large, MegabytesPerSecond, None)
            }
            Self::DirectRandom => {
                ("direct-random", "random 4 KiB reads, 4 readers, O_DIRECT", Large, ThousandsPerSecond, None)
            }
            Self::Partly => (
                "partly",
                "random 4 KiB reads in the cached quarter of a file, 4 readers, the mount's pages dropped",
                Partly,
                ThousandsPerSecond,
                Some(OfBestPeer(2.0)),
            ),
            Self::Stat => (
                "stat",
                "attributes of 20,000 files, again at once",
                Names,
                MicrosecondsEach,
                Some(OfLocal(1.3)),
            ),
            Self::StatLater => {
                ("stat-later", "the same after 3 s in which nobody asked", Names, MicrosecondsEach, None)
            }
            Self::Find => {
                ("find", "find over 100,000 entries, again at once", Names, Seconds, Some(OfLocal(1.3)))
            }
            Self::List => ("list", "ls -lR of 20,000 files, again at once", Names, Seconds, None),
            Self::ReadDir => {
                ("readdir", "names of 64 directories of 1,000, again at once", Names, MicrosecondsEach, None)
            }
            Self::SmallFiles => (
                "small-files",
                "open + read + close of 2,000 files of 8 KiB, page cache dropped",
                Small,
                MicrosecondsEach,
                Some(OfLocal(3.0)),
            ),
            Self::OpenClose => {
                ("open-close", "open + close of the same, in memory", Small, MicrosecondsEach, None)
            }
        };
        Description { name, about, part, unit, goal }
    }
}

impl Unit {
    /// Which way figures in this unit point.
    pub(crate) fn better(self) -> Better {
        match self {
            Self::MegabytesPerSecond | Self::ThousandsPerSecond => Better::Higher,
            Self::MicrosecondsEach | Self::Seconds | Self::CpuPerGigabyte => Better::Lower,
        }
    }

    /// What stands behind a figure.
    pub(crate) fn symbol(self) -> &'static str {
        match self {
            Self::MegabytesPerSecond => "MB/s",
            Self::ThousandsPerSecond => "k/s",
            Self::MicrosecondsEach => "us each",
            Self::Seconds => "s",
            Self::CpuPerGigabyte => "CPU s/GB",
        }
    }

    /// The figure that `work` comes to.
    pub(crate) fn figure(self, work: &Work) -> f64 {
        match self {
            Self::MegabytesPerSecond => work.bytes as f64 / 1e6 / work.elapsed_s,
            Self::ThousandsPerSecond => work.operations as f64 / 1e3 / work.elapsed_s,
            Self::MicrosecondsEach => work.elapsed_s * 1e6 / work.operations as f64,
            Self::Seconds => work.elapsed_s,
            Self::CpuPerGigabyte => work.cpu_s() / (work.bytes as f64 / 1e9),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for phase in Phase::ALL {
            assert_eq!(Phase::parse(phase.name()), Ok(phase));
        }
        assert!(Phase::parse("lone").unwrap_err().contains("sequential, sequential-cached"));
    }

    #[test]
    fn figures_follow_from_the_work() {
        let work = Work {
            bytes: 2_000_000_000,
            operations: 50_000,
            elapsed_s: 0.5,
            reader_cpu_s: Some(0.3),
            daemons_cpu_s: 0.1,
            ..Work::default()
        };
        let check = |unit: Unit, want: f64| {
            let figure = unit.figure(&work);
            assert!((figure - want).abs() < 1e-9, "{unit:?}: {figure}");
        };
        check(Unit::MegabytesPerSecond, 4000.0);
        check(Unit::ThousandsPerSecond, 100.0);
        check(Unit::MicrosecondsEach, 10.0);
        check(Unit::Seconds, 0.5);
        check(Unit::CpuPerGigabyte, 0.2);
    }

    #[test]
    fn no_goal_asks_for_more_than_the_local_file_system_has() {
        for phase in Phase::ALL {
            if let Some(Goal::OfLocal(goal)) = phase.goal() {
                assert!(phase.unit().better().reaches(1.0, goal), "{phase:?}");
            }
        }
    }
}
