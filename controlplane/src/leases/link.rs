//! The stream to the coordinator that grants leases, opened again whenever it ends.

use super::AgentOptions;
use super::driver::FromLink;
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
pub(super) async fn keep(options: AgentOptions, driver: mpsc::Sender<FromLink>) {
    let (mut pause, mut endpoint) = (PAUSE[0], options.coordinator.clone());
    loop {
        let mut link = Link { options: &options, driver: &driver, was_open: false };
        let error = link.once(&endpoint).await.err();
        if let Some(error) = &error {
            tracing::debug!(endpoint, %error, "no stream of leases");
        }
        if link.was_open {
            pause = PAUSE[0];
        }
        if driver.send(FromLink::Linked(None)).await.is_err() {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = PAUSE[1].min(pause * 2);
        endpoint = next_endpoint(&options, error);
    }
}

/// Where another coordinator was named it is asked; in all other cases the one that the site was told.
fn next_endpoint(options: &AgentOptions, error: Option<ClientError>) -> String {
    match error {
        Some(ClientError::NotLeader { leader: Some(leader), .. }) => leader,
        _ => options.coordinator.clone(),
    }
}

/// One connection.
struct Link<'k> {
    options: &'k AgentOptions,
    driver: &'k mpsc::Sender<FromLink>,
    was_open: bool,
}

impl Link<'_> {
    async fn once(&mut self, endpoint: &str) -> Result<(), ClientError> {
        let client = ControlClient::connect_for_leases(endpoint, &self.options.files).await?;
        let (up, messages) = mpsc::channel(MESSAGES_AHEAD);
        let mut down = pin!(client.leases(messages).await?);
        self.was_open = true;
        let _ = self.driver.send(FromLink::Linked(Some(up))).await;
        while let Some(message) = down.next().await {
            if self.driver.send(FromLink::Down(message?)).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}
