//! Importing the package with the Python that is installed.

use super::data::PACKAGE;
use crate::limited::{last_words, limited, output};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::time::Duration;

/// How long importing the package below `parent` takes, in seconds, without the start of Python itself.
pub(crate) fn import(parent: &Path, limit: Duration) -> Result<f64> {
    let program = format!(
        "import sys, time\nsys.path.insert(0, {:?})\nstarted = time.perf_counter()\nimport {PACKAGE}\n\
         print(time.perf_counter() - started)",
        parent.display().to_string()
    );
    let mut command = limited("python3", limit);
    command.args(["-B", "-c", &program]).env_remove("PYTHONPYCACHEPREFIX");
    let output = output(command, limit)?;
    ensure!(output.status.success(), "python3: {}", last_words(&output));
    let seconds = String::from_utf8_lossy(&output.stdout);
    seconds.trim().parse().with_context(|| format!("python3 printed {seconds:?}"))
}
