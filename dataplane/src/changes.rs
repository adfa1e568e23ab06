//! How what became out of date is handed to all who want to hear it, within one process.
//!
//! *Invariant:* who subscribed before something was told hears of it, or hears that everything may have
//! changed; nobody slows down who tells. Of hand-overs everybody hears, whenever they were told.

use crate::source::ChangeStream;
use futures_util::{StreamExt, stream};
use globalfs_proto::limits::{MAX_CHANGES, MAX_FRAME, MAX_NAMES_PER_CHANGE, MAX_PATH};
use globalfs_proto::{Changes, HandOvers};
use parking_lot::Mutex;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::broadcast::{self, error::RecvError};

/// Messages that a slow subscriber may be behind; then it hears that everything may have changed.
const HUB_MESSAGES: usize = 256;

/// Bytes of one message of changes.
const FRAME_BYTES: usize = 256 * 1024;

const _: () = assert!(FRAME_BYTES + MAX_NAMES_PER_CHANGE * 260 + MAX_PATH < MAX_FRAME);

/// Where changes are told and heard. Clones are one hub.
#[derive(Clone)]
pub struct Hub(Arc<Told>);

struct Told {
    messages: broadcast::Sender<Arc<Changes>>,
    handed_over: Mutex<HandOvers>,
}

impl Default for Hub {
    fn default() -> Self {
        let messages = broadcast::channel(HUB_MESSAGES).0;
        Self(Arc::new(Told { messages, handed_over: Mutex::default() }))
    }
}

impl Hub {
    /// Tells all who have subscribed.
    pub fn tell(&self, changes: Arc<Changes>) {
        if !changes.handed_over.is_empty() {
            let mut known = self.0.handed_over.lock();
            for told in &changes.handed_over {
                known.learn(told);
            }
        }
        // An error says that nobody listens.
        let _ = self.0.messages.send(changes);
    }

    /// Whether anybody listens.
    pub fn is_heard(&self) -> bool {
        self.0.messages.receiver_count() > 0
    }

    /// All that is told from now on, and what was handed over before. Gives no signs of life.
    pub fn subscribe(&self) -> ChangeStream {
        let told = Receiving { receiver: self.0.messages.subscribe(), hub: Arc::downgrade(&self.0) };
        let before = Changes { handed_over: self.0.handed_over.lock().all(), ..Changes::default() };
        let before = (!before.is_empty()).then(|| Arc::new(before));
        stream::iter(before).chain(stream::unfold(told, Receiving::next)).boxed()
    }
}

/// One who listens.
struct Receiving {
    receiver: broadcast::Receiver<Arc<Changes>>,
    /// It ends with the last who may tell.
    hub: Weak<Told>,
}

impl Receiving {
    async fn next(mut self) -> Option<(Arc<Changes>, Self)> {
        match self.receiver.recv().await {
            Ok(changes) => Some((changes, self)),
            Err(RecvError::Lagged(_)) => {
                let handed_over = self.hub.upgrade().map(|hub| hub.handed_over.lock().all());
                let handed_over = handed_over.unwrap_or_default();
                Some((Arc::new(Changes { handed_over, ..Changes::everything() }), self))
            }
            Err(RecvError::Closed) => None,
        }
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

/// `changes` in messages that fit their frames; at least one. What was handed over comes first: who hears of a change of the
/// names there looks again.
pub(crate) fn frames(changes: &Changes) -> Vec<Changes> {
    let mut frames = Frames::begin(Changes { everything: changes.everything, ..Changes::default() });
    for told in &changes.handed_over {
        frames.with_room(told.scope.as_bytes().len()).handed_over.push(told.clone());
    }
    for directory in &changes.directories {
        let mut directory = directory.clone();
        if directory.names.len() > MAX_NAMES_PER_CHANGE {
            directory.names.clear();
        }
        let bytes = directory.path.as_bytes().len()
            + directory.names.iter().map(|name| 4 + name.len()).sum::<usize>();
        frames.with_room(bytes).directories.push(directory);
    }
    frames.full.push(frames.last);
    frames.full
}

/// Messages, the last of which is being filled.
struct Frames {
    full: Vec<Changes>,
    last: Changes,
    bytes: usize,
}

impl Frames {
    fn begin(first: Changes) -> Self {
        Self { full: Vec::new(), last: first, bytes: 0 }
    }

    /// A message with room for something of `bytes`.
    fn with_room(&mut self, bytes: usize) -> &mut Changes {
        let items = self.last.directories.len() + self.last.handed_over.len();
        if items == MAX_CHANGES || self.bytes + bytes > FRAME_BYTES {
            self.full.push(std::mem::take(&mut self.last));
            self.bytes = 0;
        }
        self.bytes += bytes + 16;
        &mut self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use globalfs_proto::{ChangedDirectory, Fence, GlobalPath, HandedOver, Response};

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
    async fn of_hand_overs_hears_also_who_comes_late_and_who_was_slow() {
        let handed = |scope: &str, fence| {
            let scope = GlobalPath::new(scope.as_bytes()).unwrap();
            vec![HandedOver { scope, fence: Fence(fence) }]
        };
        let tell = |hub: &Hub, handed_over| hub.tell(Arc::new(Changes { handed_over, ..Changes::default() }));
        let hub = Hub::default();
        tell(&hub, handed("/r/a", 1));
        tell(&hub, handed("/r/a", 2));
        let mut late = hub.subscribe();
        let first = late.next().await.unwrap();
        assert_eq!((&first.handed_over, first.everything), (&handed("/r/a", 2), false));
        tell(&hub, handed("/r/a", 3));
        (0..HUB_MESSAGES).for_each(|_| hub.tell(Arc::default()));
        let next = late.next().await.unwrap();
        assert_eq!((&next.handed_over, next.everything), (&handed("/r/a", 3), true));
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
        let handed = |n: usize| {
            let scope = format!("/h{}", "/h".repeat(n));
            HandedOver { scope: GlobalPath::new(scope.as_bytes()).unwrap(), fence: Fence(1) }
        };
        let handed_over: Vec<_> = (0..1000).map(handed).collect();
        let all = Changes { everything: true, directories, handed_over: handed_over.clone() };
        let frames = frames(&all);
        let told: Vec<_> = frames.iter().flat_map(|frame| &frame.directories).collect();
        assert_eq!(told.len(), 1000);
        assert!(frames.iter().flat_map(|frame| &frame.handed_over).eq(&handed_over));
        for frame in &frames {
            assert!(Response::Changes(frame.clone()).encode().len() < MAX_FRAME);
            assert!(Response::decode(Response::Changes(frame.clone()).encode()).is_ok());
        }
        assert!(told.iter().all(|d| d.names.len() <= MAX_NAMES_PER_CHANGE));
        assert!(frames[0].everything && frames.len() > 4);
        assert_eq!(super::frames(&Changes::default()), [Changes::default()]);
    }
}
