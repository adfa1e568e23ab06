//! What the tour says, and the commands that it runs before the user's eyes.

use crate::cli::output::{Output, complain};
use crate::local::Programs;
use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsString;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tokio_util::sync::CancellationToken;

/// Lines of a command's output that are shown.
const SHOWN_LINES: usize = 14;

/// Speaks on stdout and runs commands in the demo's directory.
pub(super) struct Narrator {
    dir: PathBuf,
    path: OsString,
    stop: CancellationToken,
    output: Output,
}

/// How a command ended.
pub(super) struct Ended {
    pub(super) succeeded: bool,
    /// What it printed, on either stream.
    pub(super) text: String,
}

impl Narrator {
    /// Commands run in `dir`, where `programs` are found first.
    pub(super) fn new(dir: &Path, programs: &Programs, stop: CancellationToken) -> Self {
        let mut path = OsString::from(programs.globalfs.parent().unwrap_or(Path::new(".")));
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into()));
        Self { dir: dir.to_owned(), path, stop, output: Output::new(false) }
    }

    /// Whether the user wants it to end.
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Prints a line. Between two lines is where the tour can be interrupted.
    pub(super) fn line(&self, text: impl Display) -> Result<()> {
        ensure!(!self.is_stopped(), "interrupted");
        Ok(self.output.line(text)?)
    }

    pub(super) fn title(&self, text: &str) -> Result<()> {
        self.line(format_args!("\n== {text}"))
    }

    pub(super) fn text(&self, text: impl Display) -> Result<()> {
        self.line(format!("   {text}").trim_end())
    }

    /// The last words, also when nobody reads stdout any more.
    pub(super) fn farewell(&self, text: impl Display) {
        if self.output.line(&text).is_err() {
            complain(text);
        }
    }

    /// Shows and runs a command, which must succeed, and gives what it printed.
    pub(super) fn command(&self, command: &str) -> Result<String> {
        let ended = self.try_command(command)?;
        if !ended.succeeded {
            bail!("'{command}' failed: {}", ended.text.trim());
        }
        Ok(ended.text)
    }

    /// Shows and runs a command.
    pub(super) fn try_command(&self, command: &str) -> Result<Ended> {
        self.line(format_args!("   $ {command}"))?;
        let ended = self.run(command)?;
        self.show(&ended.text)?;
        Ok(ended)
    }

    /// Runs a command without a word.
    pub(super) fn run(&self, command: &str) -> Result<Ended> {
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).current_dir(&self.dir).env("PATH", &self.path);
        let output = shell.stdin(Stdio::null()).output().context("cannot start sh")?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        Ok(Ended { succeeded: output.status.success(), text })
    }

    fn show(&self, text: &str) -> Result<()> {
        let lines = text.lines().count();
        for line in text.lines().take(SHOWN_LINES) {
            self.text(line)?;
        }
        if lines > SHOWN_LINES {
            self.text(format_args!("... {} lines more", lines - SHOWN_LINES))?;
        }
        Ok(())
    }
}
