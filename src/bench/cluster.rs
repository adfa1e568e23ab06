//! The self-contained benchmark: two sites of its own, files made at `onprem`, read through `cloud`.

use super::dataset::{Kind, write_set};
use super::session::{Session, Tally};
use super::{PassReport, Ratio, Report, State, ratio};
use crate::cli::output;
use crate::cli::progress::Progress;
use crate::local::{LocalCluster, LocalOptions, LocalSiteOptions, Programs};
use anyhow::{Context, Result, ensure};
use globalfs_proto::GlobalPath;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// Bytes that a reader of small files reads in a round.
const BYTES_PER_READER: u64 = 4 * 1024 * 1024;

/// Files that a reader reads in a round at most.
const MAX_READS_PER_READER: u64 = 64;

/// Files of each kind of data, and how many of them are read at a time.
const KIND_FILES: usize = 8;
const KIND_CONCURRENCY: usize = 4;

/// The largest of these files.
const MAX_KIND_BYTES: u64 = 4 * 1024 * 1024;

/// Room for all else: certificates, logs, directories.
const SPARE_BYTES: u64 = 256 * 1024 * 1024;

const ABOUT: &str = "two sites on this machine, noise read at cloud from onprem; cold: files made for this \
                     pass, so neither site has served them, yet the kernel still holds them in memory; warm: \
                     the same files again, from the cache of cloud; no cache at the node";

/// What to measure.
#[derive(Debug, Clone)]
pub(crate) struct LocalPlan {
    /// Sizes of files.
    pub(crate) sizes: Vec<u64>,
    /// Numbers of files that are read at a time.
    pub(crate) concurrency: Vec<usize>,
    /// Fresh sets of files for each size and number.
    pub(crate) rounds: usize,
    /// Where everything is put, in a directory of its own that is removed at the end.
    pub(crate) dir: PathBuf,
}

/// The running cluster. Declared so that it ends before its directory goes.
struct Bed {
    cluster: LocalCluster,
    node: PathBuf,
    origin: PathBuf,
    scratch: TempDir,
    sets: u64,
}

impl LocalPlan {
    /// Measures everything.
    pub(crate) async fn run(self) -> Result<Report> {
        let plan = self.clone();
        let mut bed = tokio::task::spawn_blocking(move || Bed::start(&plan)).await??;
        let session = Session::open(&bed.node, bed.site_metrics()).await?;
        let mut progress = Progress::begin("read", 2 * self.matrix_bytes() + self.kind_bytes());
        let mut passes = Vec::new();
        for &size in &self.sizes {
            for &concurrency in &self.concurrency {
                passes.extend(self.measure(&mut bed, &session, size, concurrency, &mut progress).await?);
            }
        }
        let mut ratios = Vec::new();
        for kind in Kind::ALL {
            ratios.push(self.measure_kind(&mut bed, &session, kind, &mut progress).await?);
        }
        progress.finish();
        let bounds = session.close().await;
        // Ending the cluster waits for its processes.
        tokio::task::spawn_blocking(move || drop(bed)).await?;
        Ok(Report { about: ABOUT.to_owned(), bounds, passes, ratios })
    }

    /// Cold and warm passes over files of one size.
    async fn measure(
        &self,
        bed: &mut Bed,
        session: &Session,
        size: u64,
        concurrency: usize,
        progress: &mut Progress,
    ) -> Result<[PassReport; 2]> {
        let mut tallies = [(State::Cold, Tally::new()), (State::Warm, Tally::new())];
        for _ in 0..self.rounds {
            let set = bed.make_set(Kind::Noise, set_length(size, concurrency), size).await?;
            for (_, tally) in &mut tallies {
                session.read(tally, set.clone(), concurrency, progress).await?;
            }
            bed.remove_set().await?;
        }
        Ok(tallies.map(|(state, tally)| session.report((Some(size), concurrency, state), &tally)))
    }

    async fn measure_kind(
        &self,
        bed: &mut Bed,
        session: &Session,
        kind: Kind,
        progress: &mut Progress,
    ) -> Result<Ratio> {
        let size = self.kind_size();
        let set = bed.make_set(kind, KIND_FILES, size).await?;
        let mut tally = Tally::new();
        session.read(&mut tally, set, KIND_CONCURRENCY, progress).await?;
        bed.remove_set().await?;
        let moved = tally.moved.site.context("the metrics of cloud are always read")?;
        Ok(Ratio {
            data: kind.name().to_owned(),
            leg: "onprem to cloud",
            files: tally.pass.reads,
            bytes_read: tally.pass.bytes,
            distinct_bytes: Some(if kind.repeats() { size } else { tally.pass.bytes }),
            fetched_bytes: moved.fetched,
            wire_bytes: moved.wire,
            compression: ratio(moved.fetched, moved.wire),
            dedup: Some(ratio(tally.pass.bytes, moved.fetched)),
        })
    }

    /// Bytes of all files of all sizes, each counted once.
    fn matrix_bytes(&self) -> u64 {
        let sets =
            self.sizes.iter().flat_map(|size| self.concurrency.iter().map(move |n| set_bytes(*size, *n)));
        sets.fold(0, u64::saturating_add).saturating_mul(self.rounds as u64)
    }

    fn kind_size(&self) -> u64 {
        self.sizes.iter().copied().max().unwrap_or(MAX_KIND_BYTES).min(MAX_KIND_BYTES)
    }

    fn kind_bytes(&self) -> u64 {
        (Kind::ALL.len() * KIND_FILES) as u64 * self.kind_size()
    }

    /// What the cache of cloud holds in the end, and how much of the disk is used at most.
    fn needed_bytes(&self) -> (u64, u64) {
        let read = self.matrix_bytes().saturating_add(self.kind_bytes());
        let largest =
            self.sizes.iter().flat_map(|size| self.concurrency.iter().map(move |n| set_bytes(*size, *n)));
        let cache = read.saturating_add(read / 8).saturating_add(SPARE_BYTES);
        (cache, cache.saturating_add(largest.max().unwrap_or(0)))
    }
}

impl Bed {
    fn start(plan: &LocalPlan) -> Result<Self> {
        let (cache_bytes, needed_bytes) = plan.needed_bytes();
        check_room(&plan.dir, needed_bytes)?;
        let scratch = TempDir::with_prefix_in("globalfs-bench-", &plan.dir)
            .with_context(|| format!("cannot make a directory in {}", plan.dir.display()))?;
        let origin = scratch.path().join("onprem-origin");
        let site = |name: &str| LocalSiteOptions {
            name: name.into(),
            origin: scratch.path().join(format!("{name}-origin")),
            cache_size: cache_bytes.to_string(),
            extra_yaml: String::new(),
        };
        let options = LocalOptions {
            dir: scratch.path().join("cluster"),
            store_yaml: "store: embedded".into(),
            policy_yaml: String::new(),
            sites: vec![site("onprem"), site("cloud")],
        };
        let mut cluster = LocalCluster::start(Programs::beside_this()?, options)?;
        let node = cluster.add_node("bench", "cloud", "4MiB", "")?;
        Ok(Self { cluster, node, origin, scratch, sets: 0 })
    }

    fn site_metrics(&self) -> Option<SocketAddr> {
        self.cluster.metrics_address("cloud")
    }

    /// Makes files that were never read, and gives their paths.
    async fn make_set(&mut self, kind: Kind, count: usize, size: u64) -> Result<Arc<[GlobalPath]>> {
        self.sets += 1;
        let (dir, seed) = (self.set_dir(), self.sets);
        tokio::task::spawn_blocking(move || write_set(&dir, kind, count, size, seed))
            .await?
            .with_context(|| format!("cannot write files below {}", self.scratch.path().display()))?;
        let path = |n: usize| GlobalPath::new(format!("/set-{}/{n}", self.sets).as_bytes());
        Ok((0..count).map(path).collect::<Result<_, _>>()?)
    }

    /// Removes the last set from the origin.
    async fn remove_set(&self) -> Result<()> {
        let dir = self.set_dir();
        Ok(tokio::task::spawn_blocking(move || fs::remove_dir_all(dir)).await??)
    }

    fn set_dir(&self) -> PathBuf {
        self.origin.join(format!("set-{}", self.sets))
    }
}

/// Files of one size that a pass reads in a round.
fn set_length(size: u64, concurrency: usize) -> usize {
    concurrency * (BYTES_PER_READER / size.max(1)).clamp(1, MAX_READS_PER_READER) as usize
}

fn set_bytes(size: u64, concurrency: usize) -> u64 {
    size.saturating_mul(set_length(size, concurrency) as u64)
}

fn check_room(dir: &Path, needed_bytes: u64) -> Result<()> {
    let stat = rustix::fs::statvfs(dir).with_context(|| format!("cannot use {}", dir.display()))?;
    let free_bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
    let (dir, needed, free) = (dir.display(), output::bytes(needed_bytes), output::bytes(free_bytes));
    ensure!(
        needed_bytes <= free_bytes,
        "this takes {needed} in {dir}, which has {free} free: choose smaller --sizes, less --concurrency, \
         or another --dir"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_files_are_read_often_and_large_ones_once() {
        let check = |size, concurrency, want| assert_eq!(set_length(size, concurrency), want);
        check(1, 1, 64);
        check(4096, 4, 256);
        check(1024 * 1024, 4, 16);
        check(64 * 1024 * 1024, 16, 16);
    }

    #[test]
    fn what_cannot_fit_is_refused_before_anything_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let plan =
            LocalPlan { sizes: vec![u64::MAX], concurrency: vec![256], rounds: 9, dir: dir.path().into() };
        let error = Bed::start(&plan).err().unwrap().to_string();
        assert!(error.contains("free: choose smaller --sizes"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
