//! From errors of the volume to the numbers that the kernel takes, and their lines in the log.

use globalfs_proto::FsError;
use parking_lot::Mutex;
use rustix::io::Errno;
use std::time::{Duration, Instant};
use tracing::warn;

/// The kernel takes errors below this alone; with others it drops the reply, and the caller waits for ever.
const ERRNO_LIMIT: i32 = 512;

/// Lines in the log for each [`LOG_WINDOW`]; a mount that lost its site daemon fails thousands a second.
const MAX_LOG_LINES: u32 = 10;
const LOG_WINDOW: Duration = Duration::from_secs(10);

/// The number for `error` that the kernel takes.
///
/// `ENOSYS` becomes `EOPNOTSUPP`: the kernel would not ask again on the whole mount, for any file.
pub(crate) fn errno(error: &FsError) -> Errno {
    match error.errno() {
        number if number == Errno::NOSYS.raw_os_error() => Errno::OPNOTSUPP,
        number if (1..ERRNO_LIMIT).contains(&number) => Errno::from_raw_os_error(number),
        _ => Errno::IO,
    }
}

/// Writes errors that an operator wants to know of to the log, at a bounded rate.
#[derive(Debug, Default)]
pub(crate) struct ErrorLog(Mutex<Option<Window>>);

#[derive(Debug)]
struct Window {
    start: Instant,
    lines: u32,
    dropped: u64,
}

impl ErrorLog {
    /// What applications cause by themselves and what they look up again is not told.
    pub(crate) fn record(&self, operation: &'static str, node: u64, error: &FsError) {
        if matches!(error, FsError::Os(_) | FsError::Stale(_)) {
            return;
        }
        if let Some(dropped) = self.admit(Instant::now()) {
            warn!(operation, node, %error, similar_lines_dropped = dropped, "a request failed");
        }
    }

    /// Whether a line may be written at `now`, and how many were not since the window before.
    fn admit(&self, now: Instant) -> Option<u64> {
        let mut slot = self.0.lock();
        let window = slot.get_or_insert(Window { start: now, lines: 0, dropped: 0 });
        if now.saturating_duration_since(window.start) >= LOG_WINDOW {
            (window.start, window.lines) = (now, 0);
        }
        if window.lines == MAX_LOG_LINES {
            window.dropped += 1;
            return None;
        }
        window.lines += 1;
        Some(std::mem::take(&mut window.dropped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_one_that_the_kernel_takes() {
        let check = |error: FsError, want| assert_eq!(errno(&error).raw_os_error(), want);
        check(FsError::NOT_FOUND, 2);
        check(FsError::Stale(None), 116);
        check(FsError::Deadline, 110);
        check(FsError::Os(38), 95);
        check(FsError::Os(0), 5);
        check(FsError::Os(-3), 5);
        check(FsError::Os(512), 5);
        check(FsError::Os(4095), 5);
    }

    #[test]
    fn the_log_has_a_bounded_rate() {
        let (log, start) = (ErrorLog::default(), Instant::now());
        let lines = (0..100).filter_map(|_| log.admit(start)).count();
        assert_eq!(lines, MAX_LOG_LINES as usize);
        assert_eq!(log.admit(start + LOG_WINDOW), Some(100 - u64::from(MAX_LOG_LINES)));
        assert_eq!(log.admit(start + LOG_WINDOW), Some(0));
    }
}
