//! Runs one of the jobs in `perf/fio/`.

use super::model::{Work, parse_fio};
use crate::limited::{last_words, limited, output};
use anyhow::{Result, anyhow};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Seconds that what can go on for ever goes on.
const RUN_S: u64 = 1;

/// Seconds after which what reads each block once has shown how fast it is.
const ENOUGH_S: u64 = 2;

/// The job files by name.
const FILES: [(&str, &str); 6] = [
    ("sequential", include_str!("../../fio/sequential.fio")),
    ("random", include_str!("../../fio/random.fio")),
    ("mmap", include_str!("../../fio/mmap.fio")),
    ("mixed", include_str!("../../fio/mixed.fio")),
    ("many-files", include_str!("../../fio/many-files.fio")),
    ("direct", include_str!("../../fio/direct.fio")),
];

/// A job: the file, which of its sections, and what its variables are besides the directory.
#[derive(Debug, Clone)]
pub(super) struct Job {
    /// Its file in `perf/fio/`, without the extension.
    pub file: &'static str,
    /// Its section.
    pub section: &'static str,
    /// Its variables.
    pub variables: Vec<(&'static str, String)>,
}

/// The fio that is installed, and a folder for its job files.
pub(super) struct Fio {
    folder: PathBuf,
}

impl Fio {
    /// Writes the job files into `folder`.
    pub(super) fn prepare(folder: PathBuf) -> Result<Self> {
        fs::create_dir_all(&folder)?;
        for (name, text) in FILES {
            fs::write(folder.join(name).with_extension("fio"), text)?;
        }
        Ok(Self { folder })
    }

    /// Carries a job out on the files in `directory`.
    pub(super) fn run(&self, job: &Job, directory: &Path, limit: Duration) -> Result<Work> {
        let mut command = limited("fio", limit);
        command.args(["--readonly", "--output-format=json", &format!("--section={}", job.section)]);
        command.arg(format!("{}.fio", job.file)).current_dir(&self.folder);
        command.env("DIRECTORY", directory).envs(job.variables.iter().map(|(name, value)| (name, value)));
        let output = output(command, limit)?;
        let work = parse_fio(&String::from_utf8_lossy(&output.stdout));
        work.map_err(|reason| anyhow!("{reason} {}", last_words(&output)))
    }
}

impl Job {
    /// A section that goes on for as long as it is told.
    pub(super) fn endless(file: &'static str, section: &'static str) -> Self {
        Self { file, section, variables: vec![("RUNTIME", RUN_S.to_string())] }
    }

    /// A section that reads everything once.
    pub(super) fn once(file: &'static str, section: &'static str) -> Self {
        Self { file, section, variables: vec![("RUNTIME", ENOUGH_S.to_string())] }
    }

    /// With that variable.
    pub(super) fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.variables.push((name, value.to_string()));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// What a job file names as `${NAME}`.
    fn variables_of(text: &str) -> BTreeSet<&str> {
        let lines = text.lines().filter(|line| !line.starts_with(';'));
        let named = lines.flat_map(|line| line.split("${").skip(1));
        named.filter_map(|rest| rest.split_once('}').map(|(name, _)| name)).collect()
    }

    #[test]
    fn jobs_write_nothing_and_leave_pages_alone() {
        for (name, text) in FILES {
            for line in ["allow_file_create=0", "invalidate=0", "ioengine="] {
                assert!(text.contains(line), "{name}: {line}");
            }
            assert!(!text.contains("rw=write") && !text.contains("rw=rand\n"), "{name}");
            assert!(variables_of(text).contains("DIRECTORY"), "{name}");
        }
    }

    #[test]
    fn every_job_has_its_section_and_all_its_variables() {
        for (phase, job) in super::super::measure::all_jobs() {
            let text = FILES.iter().find(|(name, _)| *name == job.file).unwrap().1;
            assert!(text.lines().any(|line| line == format!("[{}]", job.section)), "{phase:?}");
            let given: BTreeSet<_> =
                job.variables.iter().map(|(name, _)| *name).chain(["DIRECTORY"]).collect();
            let missing: Vec<_> = variables_of(text).difference(&given).copied().collect();
            // The sections of `direct` need different ones.
            assert!(
                missing.iter().all(|name| job.file == "direct" && name.starts_with("SIZE")),
                "{missing:?}"
            );
        }
    }
}
