//! Which parts of a file are in the cache of this machine's site, for `globalfs where`.

use super::prefetch::connect;
use crate::config::Document;
use anyhow::Result;
use globalfs_dataplane::{Deadline, Source};
use globalfs_proto::limits::{CHUNK_SIZE, MAX_WARM_CHUNKS, MAX_WARM_FILES};
use globalfs_proto::{
    ByteRange, ChunkIndex, ChunkSpan, FileKind, FsResult, GlobalPath, Version, Warm, WarmFile,
};
use std::path::Path;
use std::time::Duration;

/// What the site is given to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Parts into which a span is divided that is partly there.
const PARTS: u64 = 16;

/// Questions that are put at most; what is not known then counts as not there.
const MAX_QUESTIONS: usize = 256;

/// Ranges of bytes that are there, in order, as (first, behind the last).
pub(super) type Ranges = Vec<(u64, u64)>;

/// The ranges of `path` that are in the cache of the site, or at home there; `None`: `config` is of no node, or it is no file.
pub(super) async fn cached_ranges(config: &Path, path: &GlobalPath) -> Result<Option<Ranges>> {
    let Document::Mount(config) = Document::load(config)? else { return Ok(None) };
    let link = connect(&config).await?;
    let source = link.remote();
    let attr = source.stat(path, Deadline::after(ANSWER)).await;
    let ranges = match attr {
        Ok(attr) if attr.kind == FileKind::Regular => Some(look(&*source, path, attr.version()).await),
        _ => None,
    };
    link.close().await;
    Ok(ranges.transpose()?)
}

/// Asks about spans, and about parts of those which are partly there.
async fn look(source: &dyn Source, path: &GlobalPath, version: Version) -> FsResult<Ranges> {
    let mut ranges = Ranges::new();
    let Some(whole) = ByteRange::new(0, version.size) else { return Ok(ranges) };
    let mut open = split(whole.chunks(), MAX_WARM_CHUNKS.into());
    let mut questions = 0;
    while !open.is_empty() && questions < MAX_QUESTIONS {
        let asked: Vec<ChunkSpan> = batch(&mut open);
        questions += 1;
        let mut partly = Vec::new();
        for (span, here) in asked.iter().zip(here(source, path, version, &asked).await?) {
            let file = WarmFile { path: path.clone(), version, span: *span };
            match here {
                0 => {}
                here if here >= file.bytes() => ranges.push(bytes(&file)),
                _ => partly.extend(split(*span, span.count.div_ceil(PARTS).max(1))),
            }
        }
        open.extend(partly);
    }
    Ok(joined(ranges))
}

fn batch(open: &mut Vec<ChunkSpan>) -> Vec<ChunkSpan> {
    let mut chunks = 0;
    let fits = open.iter().take(MAX_WARM_FILES / 8).take_while(|span| {
        chunks += span.count;
        chunks <= MAX_WARM_CHUNKS.into()
    });
    let count = fits.count().max(1);
    open.drain(..count).collect()
}

/// The bytes of each span that are there.
async fn here(
    source: &dyn Source,
    path: &GlobalPath,
    version: Version,
    spans: &[ChunkSpan],
) -> FsResult<Vec<u64>> {
    let files = spans.iter().map(|span| WarmFile { path: path.clone(), version, span: *span }).collect();
    let mut steps = source.warm(Warm { fetch: false, files }, Deadline::after(ANSWER)).await?;
    let mut here = vec![0; spans.len()];
    while let Some(step) = steps.recv().await {
        let step = step?;
        step.end.unwrap_or(Ok(()))?;
        here[step.file as usize] += step.here_bytes;
    }
    Ok(here)
}

fn split(span: ChunkSpan, most: u64) -> Vec<ChunkSpan> {
    let end = span.first.0 + span.count;
    let part = |first: u64| ChunkSpan { first: ChunkIndex(first), count: most.min(end - first) };
    (span.first.0..end).step_by(most as usize).map(part).collect()
}

fn bytes(file: &WarmFile) -> (u64, u64) {
    let start = file.span.first.0 * CHUNK_SIZE;
    (start, start + file.bytes())
}

fn joined(mut ranges: Ranges) -> Ranges {
    ranges.sort_unstable();
    let mut joined = Ranges::new();
    for (start, end) in ranges {
        match joined.last_mut() {
            Some((_, last)) if *last == start => *last = end,
            _ => joined.push((start, end)),
        }
    }
    joined
}

/// For people.
pub(super) fn text(ranges: &Ranges) -> String {
    const SHOWN: usize = 16;
    if ranges.is_empty() {
        return "nothing".into();
    }
    let shown: Vec<String> =
        ranges.iter().take(SHOWN).map(|(start, end)| format!("{start}-{}", end - 1)).collect();
    let more =
        if ranges.len() > SHOWN { format!(" and {} more", ranges.len() - SHOWN) } else { String::new() };
    format!("bytes {}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use globalfs_dataplane::testing::MemorySource;

    #[test]
    fn ranges_that_touch_are_one() {
        assert_eq!(joined(vec![(4, 8), (0, 4), (9, 12)]), [(0, 8), (9, 12)]);
        assert_eq!(text(&vec![(0, 8), (9, 12)]), "bytes 0-7, 9-11");
        let span = ChunkSpan { first: ChunkIndex(3), count: 5 };
        let parts: Vec<_> = split(span, 2).iter().map(|part| (part.first.0, part.count)).collect();
        assert_eq!(parts, [(3, 2), (5, 2), (7, 1)]);
    }

    #[tokio::test]
    async fn what_is_at_home_is_there() {
        let source = MemorySource::new();
        let attr = source.put_file("/f", vec![1; 3 * CHUNK_SIZE as usize + 5]);
        let path = GlobalPath::new(b"/f").unwrap();
        assert_eq!(look(&source, &path, attr.version()).await.unwrap(), [(0, attr.size)]);
    }
}
