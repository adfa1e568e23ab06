//! Grants write leases: drives the machine in `model/lease` over the store and the sites' streams.
//!
//! *Invariants:* one coordinator grants at a time: each change of a record is conditional on its being the leader. A record
//! is durable before anybody is told of it, and in the view of every site from then on.

mod driver;
mod leader;
mod news;

use super::refusal::ServiceError;
use super::registry::Registry;
use crate::model::lease::message::{ToGranter, ToHolder};
use crate::model::lease::{Epoch, RequestNumber, Terms};
use driver::Driver;
use globalfs_proto::{GlobalPath, SiteName};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Messages of sites that wait for the driver.
const COMMANDS_AHEAD: usize = 4096;
/// Messages that wait for one site; a site that reads none of them is disconnected.
const MESSAGES_AHEAD: usize = 4096;

/// Read leases are not granted yet, so there is little to wait for after a start; the right to acknowledge changes is not
/// looked at by holders, so an abandoned one is waited for shortly.
const TERMS: Terms = Terms { read: Duration::from_secs(1), write: Duration::from_secs(30) };

/// From a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Up {
    /// Of the lease machine.
    Lease(ToGranter),
    /// The holder is the master from now on; repeated until it is answered.
    Ready {
        /// Its lease.
        request: RequestNumber,
        /// The lease's epoch.
        epoch: Epoch,
    },
}

/// To a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Down {
    /// Of the lease machine.
    Lease(ToHolder),
    /// The record says that the holder is the master.
    Ready {
        /// The lease.
        request: RequestNumber,
    },
    /// The view has changed.
    View,
    /// Somebody waits for what was changed under this lease.
    SendHome {
        /// The lease.
        request: RequestNumber,
        /// It is to be given back, too.
        release: bool,
    },
    /// A replica is wanted now.
    Replicate {
        /// Of this path and all beneath it.
        path: GlobalPath,
        /// Chosen by who asks, and the same when it is asked again.
        number: u64,
    },
}

/// An administrator asks for changes to come home.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendHome {
    /// From this site alone.
    pub site: Option<SiteName>,
    /// Of leases that this path lies in or that are beneath it.
    pub path: Option<GlobalPath>,
    /// The leases are to be given back, too.
    pub release: bool,
    /// Not home, but a replica at `site`: the number of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<u64>,
}

/// Where an answer goes. Dropped, it says that there is no leader here any more, and that it is not known what was done.
pub(crate) type Answer<T> = oneshot::Sender<Result<T, ServiceError>>;

pub(crate) enum Command {
    Connect {
        site: SiteName,
        done: Answer<mpsc::Receiver<Down>>,
    },
    Up {
        site: SiteName,
        up: Up,
    },
    Abandon {
        path: GlobalPath,
        done: Answer<()>,
    },
    SendHome {
        what: SendHome,
        done: Answer<()>,
    },
    /// Something that a view shows has changed.
    View,
}

/// The way to the driver. Clones are one.
#[derive(Clone)]
pub(crate) struct Leases {
    commands: mpsc::Sender<Command>,
}

impl Leases {
    /// Drives until `stop`; the task ends soon after. `name` says to others which coordinator this is.
    pub(crate) fn start(
        registry: Arc<Registry>,
        name: String,
        stop: CancellationToken,
    ) -> (Self, JoinHandle<()>) {
        let (commands, receiver) = mpsc::channel(COMMANDS_AHEAD);
        let news = news::tell(registry.records.clone(), commands.clone());
        let news = stop.clone().run_until_cancelled_owned(news);
        let driver = Driver::new(registry, name, receiver);
        let task = tokio::spawn(async move {
            tokio::join!(driver.run(stop), news);
        });
        (Self { commands }, task)
    }

    /// A site has connected: what is sent to it from now on.
    pub(crate) async fn connect(&self, site: SiteName) -> Result<mpsc::Receiver<Down>, ServiceError> {
        self.ask(|done| Command::Connect { site, done }).await
    }

    pub(crate) async fn send(&self, command: Command) {
        // An error says that the coordinator stops.
        let _ = self.commands.send(command).await;
    }

    pub(crate) async fn ask<T>(&self, command: impl FnOnce(Answer<T>) -> Command) -> Result<T, ServiceError> {
        let (done, answer) = oneshot::channel();
        self.send(command(done)).await;
        answer.await.unwrap_or(Err(ServiceError::NotLeader(None)))
    }
}
