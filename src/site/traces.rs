//! The traces that a site keeps: of its own nodes, and, at the cluster's default primary, of all sites, so
//! that they survive a burst.
//!
//! *Invariant:* a request of another site is answered from what is kept here and never sent on, so requests
//! cannot go in circles.

use super::peers::Peers;
use super::view::View;
use crate::trace::store::{Store, StoreError};
use bytes::Bytes;
use globalfs_dataplane::Deadline;
use globalfs_dataplane::remote::Remote;
use globalfs_proto::trace::encode_summaries;
use globalfs_proto::{FsError, FsResult, PeerIdentity, PutTrace, Request, SiteName, TraceName, TraceSummary};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What the primary is given for one request.
const FORWARD_LIMIT: Duration = Duration::from_secs(30);

/// How soon what could not be forwarded is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// The traces of one site.
pub(super) struct Traces {
    here: SiteName,
    store: Arc<Store>,
    view: Arc<View>,
    peers: Arc<Peers>,
    posted: Notify,
}

impl Traces {
    pub(super) fn new(here: SiteName, store: Store, view: Arc<View>, peers: Arc<Peers>) -> Self {
        Self { here, store: Arc::new(store), view, peers, posted: Notify::new() }
    }

    /// Whether `request` is for this part of the daemon.
    pub(super) fn takes(request: &Request) -> bool {
        matches!(
            request,
            Request::PutTrace(_) | Request::GetTrace(_) | Request::ListTraces | Request::RemoveTrace(_)
        )
    }

    /// Answers a request that it takes.
    pub(super) async fn answer(
        &self,
        peer: &PeerIdentity,
        request: Request,
        deadline: Deadline,
    ) -> FsResult<Bytes> {
        let of_node = matches!(peer, PeerIdentity::Node(..));
        let primary = if of_node { self.primary() } else { None };
        match request {
            Request::PutTrace(put) => self.put(put, primary.is_some()).await,
            Request::GetTrace(name) => self.get(name, primary, deadline).await,
            Request::ListTraces => self.list(primary, deadline).await,
            Request::RemoveTrace(name) => self.remove(name, primary, deadline).await,
            _ => Err(FsError::Refused("this is no request for traces".to_owned())),
        }
    }

    /// The way to the cluster's default primary, unless this is it.
    fn primary(&self) -> Option<FsResult<Arc<Remote>>> {
        let view = self.view.now();
        let primary = &view.cluster.default_primary;
        (*primary != self.here).then(|| self.peers.remote(primary))
    }

    async fn put(&self, parcel: PutTrace, forward: bool) -> FsResult<Bytes> {
        self.in_store(move |store| {
            store.put(&parcel.name, parcel.replace, &parcel.trace)?;
            if forward { store.post(&parcel) } else { Ok(()) }
        })
        .await?;
        self.posted.notify_one();
        Ok(Bytes::new())
    }

    async fn get(
        &self,
        name: TraceName,
        primary: Option<FsResult<Arc<Remote>>>,
        deadline: Deadline,
    ) -> FsResult<Bytes> {
        let wanted = name.clone();
        let kept = self.in_store(move |store| store.get(&wanted)).await;
        let (Err(FsError::NOT_FOUND), Some(primary)) = (&kept, primary) else { return kept };
        let trace = primary?.get_trace(name.clone(), deadline).await?;
        let copy = trace.clone();
        self.in_store(move |store| store.put(&name, true, &copy)).await?;
        Ok(trace)
    }

    /// Without the primary a list is what is kept here: better than none.
    async fn list(&self, primary: Option<FsResult<Arc<Remote>>>, deadline: Deadline) -> FsResult<Bytes> {
        let mut all: BTreeMap<TraceName, TraceSummary> = BTreeMap::new();
        let asked = async { primary.transpose()?.map_or(Ok(None), |remote| Ok(Some(remote))) };
        let there = match asked.await {
            Ok(Some(remote)) => remote.list_traces(deadline).await,
            Ok(None) => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        if let Err(error) = &there {
            tracing::warn!(%error, "the primary's traces are missing in a list");
        }
        let here = self.store.list();
        all.extend(there.unwrap_or_default().into_iter().chain(here).map(|t| (t.name.clone(), t)));
        let most = globalfs_proto::limits::MAX_TRACES;
        let listed: Vec<_> = all.into_values().take(most).collect();
        Ok(encode_summaries(&listed))
    }

    async fn remove(
        &self,
        name: TraceName,
        primary: Option<FsResult<Arc<Remote>>>,
        deadline: Deadline,
    ) -> FsResult<Bytes> {
        let wanted = name.clone();
        let here = self.in_store(move |store| store.remove(&wanted)).await;
        let there = match primary {
            Some(remote) => remote?.remove_trace(name, deadline).await,
            None => Err(FsError::NOT_FOUND),
        };
        match (here, there) {
            (Ok(()), Ok(()) | Err(FsError::NOT_FOUND)) | (Err(FsError::NOT_FOUND), Ok(())) => {
                Ok(Bytes::new())
            }
            (Err(error), _) if error != FsError::NOT_FOUND => Err(error),
            (_, Err(error)) => Err(error),
            (Err(error), _) => Err(error),
        }
    }

    /// Sends what is in the outbox to the primary, until `stop`.
    pub(super) async fn forward(self: Arc<Self>, stop: CancellationToken) {
        loop {
            if let Err(error) = self.forward_all().await {
                tracing::debug!(%error, "traces are forwarded later");
            }
            let rest = tokio::time::timeout(RETRY_AFTER, self.posted.notified());
            if stop.run_until_cancelled(rest).await.is_none() {
                return;
            }
        }
    }

    async fn forward_all(&self) -> FsResult<()> {
        for parcel in self.in_store(Store::parcels).await? {
            let name = &parcel.name;
            if let Some(primary) = self.primary() {
                let deadline = Deadline::after(FORWARD_LIMIT);
                match primary?.put_trace(parcel.clone(), deadline).await {
                    Ok(()) => tracing::debug!(trace = %name, "forwarded"),
                    Err(error) if error.is_transient() => return Err(error),
                    Err(error) => tracing::warn!(trace = %name, %error, "the primary does not take a trace"),
                }
            }
            // A newer run may have come meanwhile; it is another parcel.
            self.in_store(move |store| match store.parcels()?.contains(&parcel) {
                true => store.posted(&parcel.name),
                false => Ok(()),
            })
            .await?;
        }
        Ok(())
    }

    async fn in_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> FsResult<T> {
        let store = self.store.clone();
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        done.unwrap_or_else(|_| Err(std::io::Error::other("the daemon is stopping").into())).map_err(told)
    }
}

fn told(error: StoreError) -> FsError {
    match error {
        StoreError::Missing => FsError::NOT_FOUND,
        StoreError::NoTrace(why) => FsError::Refused(why.to_string()),
        StoreError::Disk(error) => error.into(),
    }
}
