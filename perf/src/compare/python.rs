//! Importing the package with the Python that is installed.

use super::data::PACKAGE;
use crate::reader::TooSlow;
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// What `timeout` says when it had to end the command.
const TIMED_OUT: i32 = 124;

/// How long importing the package below `parent` takes, in seconds, without the start of Python itself.
pub(crate) fn import(parent: &Path, limit: Duration) -> Result<f64> {
    let program = format!(
        "import sys, time\nsys.path.insert(0, {:?})\nstarted = time.perf_counter()\nimport {PACKAGE}\n\
         print(time.perf_counter() - started)",
        parent.display().to_string()
    );
    let mut command = Command::new("timeout");
    command.args(["--kill-after=1", &limit.as_secs().to_string(), "python3", "-B", "-c", &program]);
    let output = command.env_remove("PYTHONPYCACHEPREFIX").output()?;
    ensure!(output.status.code() != Some(TIMED_OUT), TooSlow(limit));
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "python3: {}", said.trim().lines().next_back().unwrap_or_default());
    let seconds = String::from_utf8_lossy(&output.stdout);
    seconds.trim().parse().with_context(|| format!("python3 printed {seconds:?}"))
}
