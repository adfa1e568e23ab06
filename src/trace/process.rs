//! Who reads: what `/proc` tells of a thread, its process and the processes that started it.
//!
//! *Invariant:* looking is bounded in time: reading another process's environment may wait for a lock of
//! its memory, so it is done aside and given up after [`LOOK_LIMIT`].

use super::model::Job;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The variable by which `globalfs trace record` marks its children.
pub const MARK: &str = "GLOBALFS_TRACE";

/// How long a look may take.
const LOOK_LIMIT: Duration = Duration::from_millis(200);

/// How long it is taken to be the same process under a number: less than numbers take to come round.
const REMEMBERED_FOR: Duration = Duration::from_secs(2);

/// Callers that are remembered.
const MAX_REMEMBERED: usize = 4096;

/// Bytes of an environment.
const MAX_ENVIRONMENT: u64 = 1024 * 1024;

/// Processes between a reader and the one that started all.
const MAX_ANCESTORS: usize = 32;

/// A process, told apart from a later one of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Process {
    pid: u32,
    started_at: u64,
}

/// Whose work a reader does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    /// The mark of a recording, if it has one.
    pub(super) mark: Option<String>,
    /// The batch job, if it belongs to one.
    pub(super) job: Option<Job>,
    /// The reader's process and those above it that belong to the same job.
    pub(super) of_job: Vec<Process>,
    /// The numbers of the reader's process and of all above it.
    pub(super) lineage: Vec<u32>,
}

/// Looks at callers, and remembers them for a moment.
#[derive(Default)]
pub(super) struct Callers(Mutex<HashMap<u32, Looked>>);

/// When a thread was looked at, and what was seen.
type Looked = (Instant, Option<Arc<Caller>>);

impl Callers {
    /// Whose work the thread `tid` does; `None` when it cannot be told.
    pub(super) async fn identify(&self, tid: u32) -> Option<Arc<Caller>> {
        if tid == 0 {
            return None;
        }
        let known = self.0.lock().get(&tid).filter(|(at, _)| at.elapsed() < REMEMBERED_FOR).cloned();
        if let Some((_, caller)) = known {
            return caller;
        }
        let looked = tokio::task::spawn_blocking(move || look_at(tid));
        // Who cannot be looked at in time is nobody's for a while, so that it does not wait each time.
        let looked = tokio::time::timeout(LOOK_LIMIT, looked).await;
        let caller = looked.ok().and_then(Result::ok).flatten().map(Arc::new);
        let mut remembered = self.0.lock();
        if remembered.len() >= MAX_REMEMBERED {
            remembered.clear();
        }
        remembered.insert(tid, (Instant::now(), caller.clone()));
        caller
    }

    /// Looks anew from now on.
    pub(super) fn forget(&self) {
        self.0.lock().clear();
    }
}

impl Process {
    /// Whether it still runs.
    pub(super) fn is_running(self) -> bool {
        Status::of(self.pid).is_some_and(|now| now.process == self)
    }
}

/// A line of `/proc/PID/stat`, so far as it matters here.
struct Status {
    process: Process,
    parent: u32,
}

impl Status {
    fn of(pid: u32) -> Option<Self> {
        let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything, also parentheses.
        let rest = &text[text.iter().rposition(|&b| b == b')')? + 1..];
        let fields: Vec<&str> = std::str::from_utf8(rest).ok()?.split_whitespace().collect();
        let (state, parent, started_at) = (*fields.first()?, fields.get(1)?, fields.get(19)?);
        if matches!(state, "Z" | "X") {
            return None;
        }
        let process = Process { pid, started_at: started_at.parse().ok()? };
        Some(Self { process, parent: parent.parse().ok()? })
    }
}

fn look_at(tid: u32) -> Option<Caller> {
    let pid = process_of(tid)?;
    let environment = environment_of(pid);
    let mark = environment.as_ref().and_then(|e| e.get(MARK)).map(str::to_owned);
    let job = environment.as_ref().and_then(Environment::job);
    let (mut lineage, mut of_job, mut same_job) = (Vec::new(), Vec::new(), job.is_some());
    let mut next = pid;
    while next > 1 && lineage.len() < MAX_ANCESTORS {
        let Some(status) = Status::of(next) else { break };
        same_job = same_job && (next == pid || environment_of(next).and_then(|e| e.job()) == job);
        if same_job {
            of_job.push(status.process);
        }
        lineage.push(next);
        next = status.parent;
    }
    Some(Caller { mark, job, of_job, lineage })
}

/// The kernel tells the thread that reads.
fn process_of(tid: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

struct Environment {
    text: Vec<u8>,
    uid: u32,
}

fn environment_of(pid: u32) -> Option<Environment> {
    use std::os::unix::fs::MetadataExt;
    let file = File::open(format!("/proc/{pid}/environ")).ok()?;
    let uid = file.metadata().ok()?.uid();
    let mut text = Vec::new();
    file.take(MAX_ENVIRONMENT).read_to_end(&mut text).ok()?;
    Some(Environment { text, uid })
}

impl Environment {
    fn get(&self, name: &str) -> Option<&str> {
        let mut entries = self.text.split(|&b| b == 0).filter_map(|entry| std::str::from_utf8(entry).ok());
        entries.find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
    }

    fn job(&self) -> Option<Job> {
        Job::of(|name| self.get(name), self.uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[tokio::test]
    async fn a_child_of_a_job_is_known_with_its_parents() {
        let mut command = Command::new("sleep");
        command.arg("60").env("SLURM_JOB_NAME", "train").env("SLURM_JOB_ID", "5").env("USER", "alice");
        command.env(MARK, "m");
        let mut child = command.spawn().unwrap();
        // A process that has just been replaced has an empty environment for a moment.
        while environment_of(child.id()).unwrap().text.is_empty() {
            std::thread::yield_now();
        }
        let callers = Callers::default();
        let caller = callers.identify(child.id()).await.unwrap();
        assert_eq!(caller.mark.as_deref(), Some("m"));
        assert_eq!(caller.job.as_ref().unwrap().trace.as_str(), "job/alice/train");
        assert_eq!(caller.of_job.len(), 1, "this test is of no job, or of another");
        assert_eq!(caller.lineage[..2], [child.id(), std::process::id()]);
        assert!(caller.of_job[0].is_running());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!caller.of_job[0].is_running());
        assert!(Arc::ptr_eq(&callers.identify(child.id()).await.unwrap(), &caller), "remembered");
        callers.forget();
        assert_eq!(callers.identify(child.id()).await, None);
        assert_eq!(callers.identify(0).await, None);
    }
}
