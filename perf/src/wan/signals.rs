//! Ctrl-C and SIGTERM: the namespaces go before the process does.

use super::namespace::remove_own;
use anyhow::{Context, Result};
use std::thread::Builder;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};

/// From now on SIGINT, SIGTERM and SIGHUP end this process only after its namespaces are removed.
pub fn remove_when_killed() -> Result<()> {
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let mut stream = {
            let _entered = runtime.enter();
            signal(kind)?
        };
        let wait = move || {
            runtime.block_on(stream.recv());
            remove_own();
            // As a shell tells of a process that a signal ended.
            std::process::exit(128 + kind.as_raw_value())
        };
        Builder::new().name("signals".into()).spawn(wait).context("cannot wait for signals")?;
    }
    Ok(())
}
