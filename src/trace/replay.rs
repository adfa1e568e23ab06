//! Replaying a trace: its reads become parts of the files as they are now, in the trace's order.

use super::model::{Trace, clip};
use super::stored;
use crate::prefetch::{Failure, Plan};
use futures_util::{StreamExt, stream};
use globalfs_dataplane::remote::Remote;
use globalfs_dataplane::{Deadline, Source};
use globalfs_proto::{Attr, FileKind, FsError, FsResult, TraceName, WarmFile};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Files whose attributes are asked for together.
const STATS_AT_ONCE: usize = 64;

/// The trace that the site knows under `name`.
pub async fn fetch_trace(remote: &Remote, name: TraceName, deadline: Deadline) -> FsResult<Trace> {
    let bytes = remote.get_trace(name, deadline).await?;
    stored::decode(&bytes).map_err(|error| FsError::Protocol(error.to_string()))
}

/// Plans the reads of one trace, some at a time.
pub struct Planner {
    source: Arc<dyn Source>,
    trace: Arc<Trace>,
    /// What each file is now, once it was asked for.
    attrs: Vec<Option<FsResult<Attr>>>,
    deadline: Duration,
}

impl Planner {
    /// Plans reads of `trace`; `source` is asked what the files are now.
    pub fn new(source: Arc<dyn Source>, trace: Arc<Trace>, deadline: Duration) -> Self {
        let attrs = vec![None; trace.files.len()];
        Self { source, trace, attrs, deadline }
    }

    /// The parts for a range of the trace's reads. A file that is another now is read at the same places, so far
    /// as it has them; one that is gone is a failure, told once.
    pub async fn plan(&mut self, reads: Range<usize>) -> Plan {
        let mut plan = Plan::default();
        self.ask_for(reads.clone(), &mut plan).await;
        for read in &self.trace.reads[reads] {
            let file = &self.trace.files[read.file as usize];
            let Some(Ok(attr)) = &self.attrs[read.file as usize] else { continue };
            if let Some(span) = clip(read.span, attr.size) {
                plan.add(WarmFile { path: file.path.clone(), version: attr.version(), span });
            }
        }
        plan
    }

    async fn ask_for(&mut self, reads: Range<usize>, plan: &mut Plan) {
        let mut numbers: Vec<u32> = self.trace.reads[reads].iter().map(|read| read.file).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.retain(|number| self.attrs[*number as usize].is_none());
        let (source, trace, limit) = (&self.source, &self.trace, self.deadline);
        let asked = stream::iter(numbers).map(|number| async move {
            let deadline = Deadline::after(limit);
            let path = &trace.files[number as usize].path;
            (number, deadline.bound(source.stat(path, deadline)).await.and_then(regular))
        });
        let answers: Vec<_> = asked.buffered(STATS_AT_ONCE).collect().await;
        for (number, answer) in answers {
            match &answer {
                Ok(_) => plan.files += 1,
                Err(error) => {
                    plan.failed.push(Failure::new(&self.trace.files[number as usize].path, error));
                }
            }
            self.attrs[number as usize] = Some(answer);
        }
    }
}

fn regular(attr: Attr) -> FsResult<Attr> {
    if attr.kind == FileKind::Regular {
        return Ok(attr);
    }
    Err(FsError::Limit("it is no regular file any more".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::model::Recording;
    use globalfs_dataplane::testing::MemorySource;
    use globalfs_proto::limits::CHUNK_SIZE;
    use globalfs_proto::{ByteRange, GlobalPath};

    #[tokio::test]
    async fn a_trace_is_planned_for_what_the_files_are_now() {
        let chunk = CHUNK_SIZE as usize;
        let tree = MemorySource::new();
        tree.put_file("/same", vec![1; 3 * chunk]);
        tree.put_file("/shrunk", vec![1; chunk + 1]);
        tree.put_directory("/turned");
        let mut recording = Recording::default();
        for name in ["/same", "/shrunk", "/gone", "/turned"] {
            let path = GlobalPath::new(name.as_bytes()).unwrap();
            let file = recording.opened(&path, 3 * CHUNK_SIZE).unwrap();
            recording.read(file, ByteRange::new(CHUNK_SIZE, CHUNK_SIZE * 2).unwrap());
            recording.read(file, ByteRange::new(0, 1).unwrap());
        }
        let trace = Arc::new(recording.trace(1, 2));
        let mut planner = Planner::new(Arc::new(tree.clone()), trace.clone(), Duration::from_secs(5));
        let plan = planner.plan(0..trace.reads.len()).await;
        let told: Vec<_> =
            plan.parts.iter().map(|p| (p.path.to_string(), p.span.first.0, p.span.count)).collect();
        let want = [("/same", 1, 2), ("/same", 0, 1), ("/shrunk", 1, 1), ("/shrunk", 0, 1)];
        assert_eq!(told, want.map(|(name, first, count)| (name.to_owned(), first, count)));
        let failed: Vec<_> = plan.failed.iter().map(|failure| failure.path.as_str()).collect();
        assert_eq!((failed, plan.files), (vec!["/gone", "/turned"], 2));
        let asked = tree.calls();
        assert!(planner.plan(0..8).await.failed.is_empty(), "told once");
        assert_eq!(tree.calls(), asked, "asked once");
    }
}
