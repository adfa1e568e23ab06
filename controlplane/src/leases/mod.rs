//! The leases of one site: what drives the holder's machine over a stream to the coordinator and a file.
//!
//! *Invariants:* a lease is kept on disk before it is told to the site, and forgotten there before its end is told to the
//! coordinator. A site that the coordinator does not reach goes on under the leases that it holds: only an administrator
//! ends them.

mod driver;
mod kept;
mod link;

use crate::files::CertFiles;
use crate::model::lease::holder::Ending;
use crate::model::lease::{Epoch, LeaseScope, RequestNumber};
use driver::{Command, Driver};
use globalfs_proto::{GlobalPath, SiteName};
use kept::Kept;
use parking_lot::RwLock;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// What a site's leases need to know.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// Whose leases they are.
    pub site: SiteName,
    /// The coordinator's `host:port`.
    pub coordinator: String,
    /// The site's certificate.
    pub files: CertFiles,
    /// The file in which leases are kept.
    pub file: PathBuf,
    /// A lease that was not used for so long is given back.
    pub idle: Duration,
}

/// A write lease that this site has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldLease {
    /// Its number.
    pub request: RequestNumber,
    /// What it is on.
    pub scope: LeaseScope,
    /// The fence.
    pub epoch: Epoch,
    /// All sites were told that this one is the master.
    pub ready: bool,
}

/// What happens to leases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseEvent {
    /// Bring home what was changed, change nothing more, then call [`LeaseAgent::drained`].
    Drain(HeldLease),
    /// Somebody waits for what was changed to come home.
    Hurry(HeldLease),
    /// It is over.
    Ended(HeldLease, Ending),
    /// The coordinator's view has changed.
    ViewChanged,
    /// Somebody wants a replica of this path now; the number is the same when it is asked again.
    Replicate(GlobalPath, u64),
}

/// Why there is no lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AcquireError {
    /// Try again when the coordinator is there.
    #[error("the coordinator cannot be reached")]
    Unreachable,
    /// Others hold it and have not given it back in time.
    #[error("the lease was not to be had in time")]
    TimedOut,
    /// There are too many, or it has ended at once.
    #[error("the lease was refused: {0:?}")]
    Refused(Ending),
}

/// Messages of the coordinator that wait; then the stream is not read.
const MESSAGES_AHEAD: usize = 1024;

/// The leases of a site. Clones are one.
#[derive(Clone)]
pub struct LeaseAgent {
    commands: mpsc::UnboundedSender<Command>,
    held: Arc<RwLock<Vec<HeldLease>>>,
}

impl LeaseAgent {
    /// Goes on with the leases that are kept; does not wait for the coordinator.
    pub fn start(
        options: AgentOptions,
        stop: CancellationToken,
    ) -> io::Result<(Self, mpsc::UnboundedReceiver<LeaseEvent>)> {
        let kept = Kept::open(&options.file)?;
        let (commands, receiver) = mpsc::unbounded_channel();
        let (events, told) = mpsc::unbounded_channel();
        let held = Arc::new(RwLock::new(kept.leases()));
        let (link, linked) = mpsc::channel(MESSAGES_AHEAD);
        let driver = Driver::new(kept, options.idle, (receiver, linked, events), held.clone());
        let keeping = stop.clone().run_until_cancelled_owned(link::keep(options, link));
        tokio::spawn(keeping);
        tokio::spawn(stop.run_until_cancelled_owned(driver.run()));
        Ok((Self { commands, held }, told))
    }

    /// A write lease on `scope`, if it is granted in time; if not, or if nobody waits for it any more, it is given up.
    pub async fn acquire(&self, scope: LeaseScope, within: Duration) -> Result<HeldLease, AcquireError> {
        let (done, answer) = oneshot::channel();
        self.tell(Command::Acquire { scope, done });
        let mut wanted = Wanted { agent: self, answer };
        in_time(within, &mut wanted.answer).await
    }

    /// Tells all sites that this one is the master of what `request` is on. `Ok`: the record says so.
    pub async fn ready(&self, request: RequestNumber, within: Duration) -> Result<(), AcquireError> {
        let (done, mut answer) = oneshot::channel();
        self.tell(Command::Ready { request, done });
        in_time(within, &mut answer).await
    }

    /// The lease that `path` lies in is in use.
    pub fn touch(&self, path: &GlobalPath) {
        self.tell(Command::Touch(path.clone()));
    }

    /// Gives a lease back: it is drained first.
    pub fn release(&self, request: RequestNumber) {
        self.tell(Command::Release(request));
    }

    /// What [`LeaseEvent::Drain`] asked for is done.
    pub fn drained(&self, request: RequestNumber) {
        self.tell(Command::Drained(request));
    }

    /// The leases that are held.
    pub fn held(&self) -> Vec<HeldLease> {
        self.held.read().clone()
    }

    fn tell(&self, command: Command) {
        // An error says that the daemon stops.
        let _ = self.commands.send(command);
    }
}

/// A lease that is waited for.
struct Wanted<'a> {
    agent: &'a LeaseAgent,
    answer: Answer<HeldLease>,
}

type Answer<T> = oneshot::Receiver<Result<T, AcquireError>>;

impl Drop for Wanted<'_> {
    /// Nobody would ever give back a lease that came after the last look.
    fn drop(&mut self) {
        self.answer.close();
        if let Ok(Ok(lease)) = self.answer.try_recv() {
            self.agent.release(lease.request);
        }
    }
}

async fn in_time<T>(within: Duration, answer: &mut Answer<T>) -> Result<T, AcquireError> {
    match tokio::time::timeout(within, answer).await {
        Ok(Ok(answered)) => answered,
        // The daemon stops.
        Ok(Err(_)) => Err(AcquireError::Unreachable),
        Err(_) => Err(AcquireError::TimedOut),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::lease::Incarnation;

    #[test]
    fn a_lease_that_comes_when_nobody_waits_goes_back() {
        let (commands, mut told) = mpsc::unbounded_channel();
        let agent = LeaseAgent { commands, held: Arc::default() };
        let (done, answer) = oneshot::channel();
        let wanted = Wanted { agent: &agent, answer };
        let request = RequestNumber { incarnation: Incarnation(1), number: 7 };
        let scope = LeaseScope::subtree(GlobalPath::root());
        done.send(Ok(HeldLease { request, scope, epoch: Epoch(1), ready: false })).unwrap();
        drop(wanted);
        assert!(matches!(told.try_recv(), Ok(Command::Release(released)) if released == request));
    }
}
