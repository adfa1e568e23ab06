//! The benchmark of a running site: files that are there already, read as one of its nodes.

use super::session::{Session, Tally};
use super::{PassReport, Ratio, Report, State, ratio};
use crate::Client;
use crate::cli::output;
use crate::cli::progress::Progress;
use anyhow::{Context, Result, ensure};
use globalfs_proto::{FileKind, GlobalPath};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// Files that are read at most: enough for any percentile.
const MAX_FILES: usize = 10_000;

/// Directories that are looked through at most.
const MAX_DIRECTORIES: usize = 10_000;

/// What to measure.
#[derive(Debug, Clone)]
pub(crate) struct RunningPlan {
    /// The configuration of a registered node.
    pub(crate) config: PathBuf,
    /// A file, or a directory of which all files are read.
    pub(crate) path: GlobalPath,
    /// Bytes that are read at most in a pass over everything.
    pub(crate) limit_bytes: u64,
    /// Numbers of files that are read at a time.
    pub(crate) concurrency: Vec<usize>,
    /// How often the warm passes are repeated.
    pub(crate) rounds: usize,
    /// Where the site's daemon serves its metrics.
    pub(crate) site_metrics: Option<SocketAddr>,
}

/// Files to read, with their sizes added up.
#[derive(Default)]
struct Found {
    files: Vec<GlobalPath>,
    sizes: Vec<u64>,
}

impl RunningPlan {
    /// Measures everything.
    pub(crate) async fn run(self) -> Result<Report> {
        let session = Session::open(&self.config, self.site_metrics).await?;
        let found = self.find(&session.client).await?;
        let mut progress = Progress::begin("read", found.bytes().saturating_mul(1 + self.rounds as u64));
        let (mut passes, mut first) = (Vec::new(), Tally::new());
        for (set, &concurrency) in found.split(self.concurrency.len()).iter().zip(&self.concurrency) {
            let mut cold = Tally::new();
            session.read(&mut cold, set.files.as_slice().into(), concurrency, &mut progress).await?;
            passes.push(session.report((set.size(), concurrency, State::Cold), &cold));
            first.moved = first.moved.plus(cold.moved);
            first.pass.reads += cold.pass.reads;
            first.pass.bytes += cold.pass.bytes;
            passes.push(self.again(&session, set, concurrency, &mut progress).await?);
        }
        progress.finish();
        let ratios = vec![self.ratio(&first)];
        Ok(Report { about: self.about(&found), bounds: session.close().await, passes, ratios })
    }

    async fn again(
        &self,
        session: &Session,
        set: &Found,
        concurrency: usize,
        progress: &mut Progress,
    ) -> Result<PassReport> {
        let (mut warm, files): (_, Arc<[GlobalPath]>) = (Tally::new(), set.files.as_slice().into());
        for _ in 0..self.rounds {
            session.read(&mut warm, files.clone(), concurrency, progress).await?;
        }
        Ok(session.report((set.size(), concurrency, State::Warm), &warm))
    }

    /// The leg between sites where its counters are known and something moved on it, else the node's.
    fn ratio(&self, first: &Tally) -> Ratio {
        let moved = first.moved;
        let between = moved.site.filter(|site| site.fetched > 0);
        let (leg, fetched_bytes, wire_bytes) = match between {
            Some(site) => ("other sites to site", site.fetched, site.wire),
            None => ("site to node", moved.node_fetched, moved.node_wire),
        };
        Ratio {
            data: self.path.to_string(),
            leg,
            files: first.pass.reads,
            bytes_read: first.pass.bytes,
            distinct_bytes: None,
            fetched_bytes,
            wire_bytes,
            compression: ratio(fetched_bytes, wire_bytes),
            dedup: None,
        }
    }

    fn about(&self, found: &Found) -> String {
        let told = match self.site_metrics {
            Some(_) => "the bytes between sites tell how much of them the site had before",
            None => "whether the site had them before is not known here: --site-metrics would tell",
        };
        format!(
            "{} files of {} below {}; cold: not read before in this run, {told}; warm: the same files \
             again; no cache at the node",
            found.files.len(),
            output::bytes(found.bytes()),
            self.path
        )
    }

    /// All regular files at and below the path, until a limit is reached.
    async fn find(&self, client: &Client) -> Result<Found> {
        let mut found = Found::default();
        let cannot = |path: &GlobalPath| format!("cannot look at {path}");
        let attr = client.stat(self.path.as_bytes()).await.with_context(|| cannot(&self.path))?;
        let mut directories = vec![self.path.clone()];
        if attr.kind != FileKind::Directory {
            let readable = attr.kind == FileKind::Regular && attr.size > 0;
            ensure!(readable, "{} is neither a directory nor a file with content", self.path);
            found.add(directories.remove(0), attr.size);
        }
        let mut seen = 0;
        while let Some(directory) = directories.pop().filter(|_| seen < MAX_DIRECTORIES) {
            seen += 1;
            let listing = client.read_dir(directory.as_bytes()).await.with_context(|| cannot(&directory))?;
            for entry in listing.iter() {
                let path = directory.join(&entry.name)?;
                match entry.attr.kind {
                    FileKind::Directory => directories.push(path),
                    FileKind::Regular if entry.attr.size > 0 && self.has_room(&found, entry.attr.size) => {
                        found.add(path, entry.attr.size);
                    }
                    _ => {}
                }
            }
        }
        ensure!(
            !found.files.is_empty(),
            "no file with content of at most {} below {}",
            output::bytes(self.limit_bytes),
            self.path
        );
        Ok(found)
    }

    fn has_room(&self, found: &Found, size: u64) -> bool {
        found.files.len() < MAX_FILES && found.bytes().saturating_add(size) <= self.limit_bytes
    }
}

impl Found {
    fn add(&mut self, path: GlobalPath, size: u64) {
        self.files.push(path);
        self.sizes.push(size);
    }

    fn bytes(&self) -> u64 {
        self.sizes.iter().fold(0, |sum, size| sum.saturating_add(*size))
    }

    /// The size that all of them have.
    fn size(&self) -> Option<u64> {
        let first = *self.sizes.first()?;
        self.sizes.iter().all(|&size| size == first).then_some(first)
    }

    /// Parts of about the same number of files, so that no pass is cold on what another one has read. Fewer
    /// parts when there are fewer files.
    fn split(&self, parts: usize) -> Vec<Found> {
        let each = self.files.len().div_ceil(parts.max(1)).max(1);
        let sets = self.files.chunks(each).zip(self.sizes.chunks(each));
        sets.map(|(files, sizes)| Found { files: files.to_vec(), sizes: sizes.to_vec() }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_passes_share_a_file() {
        let mut found = Found::default();
        for n in 0..7 {
            found.add(GlobalPath::new(format!("/{n}").as_bytes()).unwrap(), 10);
        }
        let lengths = |parts| found.split(parts).iter().map(|set| set.files.len()).collect::<Vec<_>>();
        assert_eq!(lengths(1), [7]);
        assert_eq!(lengths(3), [3, 3, 1]);
        assert_eq!(lengths(100), [1; 7]);
        assert_eq!((found.size(), found.bytes()), (Some(10), 70));
    }
}
