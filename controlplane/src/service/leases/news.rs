//! Says when what a view shows has changed, whichever coordinator changed it.
//!
//! *Invariant:* after the last of many changes something is said, and never more often than [`PAUSE`] allows.

use super::Command;
use crate::model::record::CLUSTER_KEY;
use crate::service::records::Records;
use crate::service::refusal::ServiceError;
use crate::store::Key;
use futures_util::{FutureExt, StreamExt};
use std::time::Duration;
use tokio::sync::mpsc;

/// Between two words: a site that fetches the view each time is not kept busy by that.
const PAUSE: Duration = Duration::from_millis(50);
/// What is waited when the store does not say what changes.
const WATCH_AGAIN: Duration = Duration::from_secs(1);

/// For ever.
pub(super) async fn tell(records: Records, driver: mpsc::Sender<Command>) {
    loop {
        if let Err(error) = watch(&records, &driver).await {
            tracing::debug!(%error, "changes of the cluster are not heard of");
        }
        tokio::time::sleep(WATCH_AGAIN).await;
        // Whatever has changed meanwhile.
        let _ = driver.send(Command::View).await;
    }
}

async fn watch(records: &Records, driver: &mpsc::Sender<Command>) -> Result<(), ServiceError> {
    let (key, from) = (Key::new(CLUSTER_KEY)?, records.cluster().await?.revision);
    let mut changes = records.store().watch(&key, from).await?;
    while let Some(change) = changes.next().await {
        change?;
        while let Some(Some(more)) = changes.next().now_or_never() {
            more?;
        }
        let _ = driver.send(Command::View).await;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}
