//! Puts parts of files into the kernel's page cache that readers come back to, before they ask for them.
//!
//! *Invariants:* the calls are made by one thread that holds no lock and serves no request, since the kernel makes them wait
//! for pages that are just being read, by an answer of ours; what the thread cannot keep up with is left out, so
//! nobody waits for it.

use crate::model::NodeId;
use crate::operations::Operations;
use crate::transport::Notifier;
use crate::volume::Volume;
use std::io;
use std::sync::Arc;
use std::thread;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

/// Parts that wait to be pushed.
pub(crate) const MAX_WAITING: usize = 64;

/// Pushes what `wanted` names until the mount ends. Each is the number of a handle and an offset.
pub(crate) fn start(
    mut wanted: mpsc::Receiver<(u64, u64)>,
    notifier: Notifier,
    operations: Arc<Operations<dyn Volume>>,
    mut ended: watch::Receiver<bool>,
    runtime: Handle,
) -> io::Result<()> {
    let run = move || {
        let mut next = || {
            runtime.block_on(async {
                tokio::select! {
                    _ = ended.wait_for(|ended| *ended) => None,
                    wanted = wanted.recv() => wanted,
                }
            })
        };
        while let Some((handle, offset)) = next() {
            let Some(part) = runtime.block_on(operations.held_around(handle, offset)) else { continue };
            store(&notifier, part.node, part.start, &part.bytes);
        }
    };
    thread::Builder::new().name("globalfs-push".to_owned()).spawn(run).map(drop)
}

/// The kernel refuses what it has forgotten meanwhile, which is as well.
fn store(notifier: &Notifier, node: NodeId, offset: u64, bytes: &[u8]) {
    if let Err(error) = notifier.store(node, offset, bytes) {
        tracing::debug!(%error, node = node.0, "the kernel took no part of a file");
    }
}
