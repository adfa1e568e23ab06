//! Carries a plan out: batches of parts to the site's daemon, several at a time, until each part has ended.

use super::Failure;
use futures_util::{StreamExt, stream};
use globalfs_dataplane::{Deadline, Source};
use globalfs_proto::chunk::chunk_count;
use globalfs_proto::limits::MAX_DEADLINE;
use globalfs_proto::{Attr, ChunkSpan, FsError, FsResult, Warm, WarmFile, Warmed};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Times that the rest of a batch is asked for again without a step forward in between.
const MAX_FRUITLESS_ATTEMPTS: u32 = 3;

/// Pause before the daemon is asked again.
const RETRY_AFTER: std::time::Duration = std::time::Duration::from_secs(1);

/// What became of the parts of a plan.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Bytes that were in the site's cache before, or are at home at the site.
    pub here_bytes: u64,
    /// Bytes that were brought.
    pub fetched_bytes: u64,
    /// Bytes that are not there.
    pub missing_bytes: u64,
    /// The smallest quota of a cache that holds some of it; `None` before anything was told.
    pub quota_bytes: Option<u64>,
    /// What was not brought, by path: parts of one file fail as one.
    failed: BTreeMap<String, String>,
}

impl Tally {
    /// Counts a step.
    pub fn count(&mut self, step: &Warmed) {
        self.here_bytes += step.here_bytes;
        self.fetched_bytes += step.fetched_bytes;
        self.missing_bytes += step.missing_bytes;
        if step.end != Some(Err(FsError::Deadline)) && step.quota_bytes > 0 {
            let least = self.quota_bytes.unwrap_or(u64::MAX).min(step.quota_bytes);
            self.quota_bytes = Some(least);
        }
    }

    /// What was not brought.
    pub fn failed(&self) -> impl Iterator<Item = Failure> {
        self.failed.iter().map(|(path, error)| Failure { path: path.clone(), error: error.clone() })
    }
}

/// How plans are carried out.
pub struct Batches {
    /// The daemon that is asked.
    pub source: Arc<dyn Source>,
    /// Requests under way together.
    pub at_once: usize,
    /// Whether what is missing is fetched, or only looked for.
    pub fetch: bool,
}

impl Batches {
    /// Works through `parts` in order; `told` hears of each step. Dropping the future stops the daemon's work.
    pub async fn run(&self, parts: &[WarmFile], told: impl Fn(&Warmed) + Sync) -> Tally {
        let tally = Mutex::new(Tally::default());
        let counted = |step: &Warmed| {
            tally.lock().count(step);
            told(step);
        };
        let (counted, failures) = (&counted, &tally);
        stream::iter(batches(parts))
            .for_each_concurrent(self.at_once, |batch| async move {
                for (part, error) in self.run_batch(batch, counted).await {
                    let failure = Failure::new(&part.path, &error);
                    failures.lock().failed.insert(failure.path, failure.error);
                }
            })
            .await;
        tally.into_inner()
    }

    /// Asks until every part has ended; gives those that failed.
    async fn run_batch(&self, parts: &[WarmFile], told: &impl Fn(&Warmed)) -> Vec<(WarmFile, FsError)> {
        let (mut open, mut failed) = (parts.to_vec(), Vec::new());
        let mut fruitless = 0;
        while !open.is_empty() {
            let before = open.len();
            let (rest, broken) = self.ask(open, &mut failed, told).await;
            let advanced = rest.len() < before;
            fruitless = if advanced { 0 } else { fruitless + 1 };
            let Some(error) = broken else { return failed };
            if !error.is_transient() || fruitless >= MAX_FRUITLESS_ATTEMPTS {
                failed.extend(rest.into_iter().map(|part| (part, error.clone())));
                return failed;
            }
            open = rest;
            tokio::time::sleep(RETRY_AFTER).await;
        }
        failed
    }

    /// One request. Gives the parts that did not end, and what ended the request early.
    async fn ask(
        &self,
        parts: Vec<WarmFile>,
        failed: &mut Vec<(WarmFile, FsError)>,
        told: &impl Fn(&Warmed),
    ) -> (Vec<WarmFile>, Option<FsError>) {
        let mut open: Vec<Option<WarmFile>> = parts.iter().cloned().map(Some).collect();
        let mut changed = Vec::new();
        let ended = self.follow(parts, |step| {
            told(step);
            let place = open.get_mut(step.file as usize);
            match (step.end.clone(), place) {
                (Some(Err(FsError::Stale(Some(attr)))), Some(place)) => {
                    changed.extend(place.take().and_then(|part| renewed(part, &attr)));
                }
                (Some(Err(error)), Some(place)) => failed.extend(place.take().map(|part| (part, error))),
                (Some(Ok(())), Some(place)) => *place = None,
                _ => {}
            }
        });
        let broken = ended.await.err();
        let mut rest: Vec<WarmFile> = open.into_iter().flatten().collect();
        let broken =
            broken.or_else(|| (!rest.is_empty() || !changed.is_empty()).then_some(FsError::Deadline));
        rest.extend(changed);
        (rest, broken)
    }

    async fn follow(&self, parts: Vec<WarmFile>, mut told: impl FnMut(&Warmed)) -> FsResult<()> {
        let deadline = Deadline::after(MAX_DEADLINE);
        let mut steps = self.source.warm(Warm { fetch: self.fetch, files: parts }, deadline).await?;
        while let Some(step) = steps.recv().await {
            told(&step?);
        }
        Ok(())
    }
}

/// The same part of what the file is now: all of it, if all was wanted, else what still lies inside.
fn renewed(part: WarmFile, attr: &Attr) -> Option<WarmFile> {
    let (was, now) = (chunk_count(part.version.size), chunk_count(attr.size));
    let whole = part.span.first.0 == 0 && part.span.count == was;
    let end = if whole { now } else { now.min(part.span.first.0 + part.span.count) };
    let count = end.checked_sub(part.span.first.0).filter(|count| *count > 0)?;
    Some(WarmFile { version: attr.version(), span: ChunkSpan { count, ..part.span }, ..part })
}

fn batches(parts: &[WarmFile]) -> impl Iterator<Item = &[WarmFile]> {
    let mut rest = parts;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (batch, later) = rest.split_at(Warm::batch(rest));
        rest = later;
        Some(batch)
    })
}
