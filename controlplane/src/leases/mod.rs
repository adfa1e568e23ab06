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
        let driver = Driver::new(kept, options.idle, (receiver, events), held.clone());
        let linked = stop.clone().run_until_cancelled_owned(link::keep(options, commands.clone()));
        tokio::spawn(linked);
        tokio::spawn(stop.run_until_cancelled_owned(driver.run()));
        Ok((Self { commands, held }, told))
    }

    /// A write lease on `scope`, if it is granted in time; if not, it is given up.
    pub async fn acquire(&self, scope: LeaseScope, within: Duration) -> Result<HeldLease, AcquireError> {
        self.ask(within, |done| Command::Acquire { scope, done }).await
    }

    /// Tells all sites that this one is the master of what `request` is on. `Ok`: the record says so.
    pub async fn ready(&self, request: RequestNumber, within: Duration) -> Result<(), AcquireError> {
        self.ask(within, |done| Command::Ready { request, done }).await
    }

    async fn ask<T>(
        &self,
        within: Duration,
        command: impl FnOnce(oneshot::Sender<Result<T, AcquireError>>) -> Command,
    ) -> Result<T, AcquireError> {
        let (done, answer) = oneshot::channel();
        self.tell(command(done));
        match tokio::time::timeout(within, answer).await {
            Ok(Ok(answered)) => answered,
            Ok(Err(_)) => Err(AcquireError::Unreachable),
            Err(_) => Err(AcquireError::TimedOut),
        }
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
