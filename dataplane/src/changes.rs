//! How what became out of date is handed to all who want to hear it, within one process.
//!
//! *Invariant:* who subscribed before something was told hears of it, or hears that everything may have
//! changed; nobody slows down who tells.

use crate::source::ChangeStream;
use futures_util::{StreamExt, stream};
use globalfs_proto::Changes;
use globalfs_proto::limits::{MAX_CHANGES, MAX_FRAME, MAX_NAMES_PER_CHANGE, MAX_PATH};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::{self, error::RecvError};

/// Messages that a slow subscriber may be behind; then it hears that everything may have changed.
const HUB_MESSAGES: usize = 256;

/// Bytes of one message of changes.
const FRAME_BYTES: usize = 256 * 1024;

const _: () = assert!(FRAME_BYTES + MAX_NAMES_PER_CHANGE * 260 + MAX_PATH < MAX_FRAME);

/// Where changes are told and heard. Clones are one hub.
#[derive(Clone)]
pub struct Hub(broadcast::Sender<Arc<Changes>>);

impl Default for Hub {
    fn default() -> Self {
        Self(broadcast::channel(HUB_MESSAGES).0)
    }
}

impl Hub {
    /// Tells all who have subscribed.
    pub fn tell(&self, changes: Arc<Changes>) {
        // An error says that nobody listens.
        let _ = self.0.send(changes);
    }

    /// Whether anybody listens.
    pub fn is_heard(&self) -> bool {
        self.0.receiver_count() > 0
    }

    /// All that is told from now on. Gives no signs of life.
    pub fn subscribe(&self) -> ChangeStream {
        stream::unfold(self.0.subscribe(), |mut receiver| async move {
            match receiver.recv().await {
                Ok(changes) => Some((changes, receiver)),
                Err(RecvError::Lagged(_)) => Some((Arc::new(Changes::everything()), receiver)),
                Err(RecvError::Closed) => None,
            }
        })
        .boxed()
    }
}

/// `changes`, with a sign of life at once and whenever there was nothing else for `interval`.
pub fn with_heartbeat(changes: ChangeStream, interval: Duration) -> ChangeStream {
    let beats = stream::unfold(changes, move |mut changes| async move {
        match tokio::time::timeout(interval, changes.next()).await {
            Ok(Some(told)) => Some((told, changes)),
            Ok(None) => None,
            Err(_) => Some((Arc::default(), changes)),
        }
    });
    stream::once(async { Arc::default() }).chain(beats).boxed()
}

/// `changes` in messages that fit their frames; at least one.
pub(crate) fn frames(changes: &Changes) -> Vec<Changes> {
    let whole = Changes { everything: changes.everything, directories: Vec::new() };
    let (mut frames, mut size) = (vec![whole], 0);
    for directory in &changes.directories {
        let mut directory = directory.clone();
        if directory.names.len() > MAX_NAMES_PER_CHANGE {
            directory.names.clear();
        }
        let bytes = directory.path.as_bytes().len()
            + directory.names.iter().map(|name| 4 + name.len()).sum::<usize>();
        if frames.last().is_some_and(|f| f.directories.len() == MAX_CHANGES) || size + bytes > FRAME_BYTES {
            frames.push(Changes::default());
            size = 0;
        }
        size += bytes + 8;
        frames.last_mut().expect("there is one").directories.push(directory);
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;
    use globalfs_proto::{ChangedDirectory, GlobalPath, Response};

    #[tokio::test]
    async fn who_is_slow_hears_that_everything_may_have_changed() {
        let hub = Hub::default();
        assert!(!hub.is_heard());
        let mut slow = hub.subscribe();
        assert!(hub.is_heard());
        for _ in 0..=HUB_MESSAGES {
            hub.tell(Arc::default());
        }
        assert!(slow.next().await.unwrap().everything);
        assert!(slow.next().await.unwrap().is_empty());
        drop(slow);
        assert!(!hub.is_heard());
    }

    #[tokio::test]
    async fn silence_is_filled() {
        let hub = Hub::default();
        let mut beats = with_heartbeat(hub.subscribe(), Duration::from_millis(5));
        assert!(beats.next().await.unwrap().is_empty(), "at once");
        assert!(beats.next().await.unwrap().is_empty());
        hub.tell(Arc::new(Changes::everything()));
        assert!(beats.next().await.unwrap().everything);
        drop(hub);
        assert_eq!(beats.next().await, None);
    }

    #[test]
    fn messages_fit_their_frames() {
        let changed = |n: usize, names: usize| ChangedDirectory {
            path: GlobalPath::new(format!("/{n}").as_bytes()).unwrap(),
            names: vec!["x".repeat(255).into(); names],
        };
        let directories = (0..1000).map(|n| changed(n, n % 100)).collect();
        let all = Changes { everything: true, directories };
        let frames = frames(&all);
        let told: Vec<_> = frames.iter().flat_map(|frame| &frame.directories).collect();
        assert_eq!(told.len(), 1000);
        for frame in &frames {
            assert!(Response::Changes(frame.clone()).encode().len() < MAX_FRAME);
            assert!(Response::decode(Response::Changes(frame.clone()).encode()).is_ok());
        }
        assert!(told.iter().all(|d| d.names.len() <= MAX_NAMES_PER_CHANGE));
        assert!(frames[0].everything && frames.len() > 4);
        assert_eq!(super::frames(&Changes::default()), [Changes::default()]);
    }
}
