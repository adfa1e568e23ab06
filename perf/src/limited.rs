//! Commands that are ended when they take longer than they may.

use crate::reader::{TooSlow, within};
use anyhow::{Context, Result, ensure};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// What `timeout` says when it had to end the command.
const TIMED_OUT: i32 = 124;

/// The program, to be run with [`output`]; it speaks English.
pub(crate) fn limited(program: &str, limit: Duration) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=1", &limit.as_secs().max(1).to_string(), program]).env("LC_ALL", "C");
    command.stdin(Stdio::null());
    command
}

/// Runs what [`limited`] made; fails with [`TooSlow`] when it had to be ended, or cannot be because a file system
/// does not answer it.
pub(crate) fn output(mut command: Command, limit: Duration) -> Result<Output> {
    let run = move |_| command.output().context("cannot run `timeout` (package coreutils)");
    let output = within(limit, run)?;
    ensure!(output.status.code() != Some(TIMED_OUT), TooSlow(limit));
    Ok(output)
}

/// The last line that a command has said on its standard error.
pub(crate) fn last_words(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    said.trim().lines().next_back().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_too_long_is_ended() {
        let limit = Duration::from_secs(1);
        let with = |program, argument| {
            let mut command = limited(program, limit);
            command.arg(argument);
            output(command, limit)
        };
        assert!(with("sleep", "60").unwrap_err().is::<TooSlow>());
        let failed = with("ls", "/absent").unwrap();
        assert!(last_words(&failed).contains("/absent"));
    }
}
