//! The stream to the coordinator, opened again whenever it ends.

use super::AgentOptions;
use super::driver::Command;
use crate::client::{ClientError, ControlClient};
use futures_util::StreamExt;
use std::pin::pin;
use std::time::Duration;
use tokio::sync::mpsc;

/// Messages that wait for the coordinator.
const MESSAGES_AHEAD: usize = 1024;

/// The first and the longest pause before it is tried again.
const PAUSE: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(5)];

/// Keeps the stream open, and tells the driver of it and of what it brings.
pub(super) async fn keep(options: AgentOptions, driver: mpsc::UnboundedSender<Command>) {
    let mut pause = PAUSE[0];
    loop {
        match once(&options, &driver).await {
            Ok(()) => pause = PAUSE[0],
            Err(error) => tracing::debug!(%error, "no stream of leases"),
        }
        if driver.send(Command::Linked(None)).is_err() {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = PAUSE[1].min(pause * 2);
    }
}

async fn once(options: &AgentOptions, driver: &mpsc::UnboundedSender<Command>) -> Result<(), ClientError> {
    let client = ControlClient::connect(&options.coordinator, &options.files).await?;
    let (up, messages) = mpsc::channel(MESSAGES_AHEAD);
    let mut down = pin!(client.leases(messages).await?);
    let _ = driver.send(Command::Linked(Some(up)));
    while let Some(message) = down.next().await {
        if driver.send(Command::Down(message?)).is_err() {
            break;
        }
    }
    Ok(())
}
