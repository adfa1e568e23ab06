//! The programs of GlobalFS that are measured: those of this tree as it is now, built with optimisation.

use anyhow::{Context, Result, ensure};
use globalfs::local::Programs;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Set by cargo for the programs that it runs.
const PACKAGE_DIR: &str = "CARGO_MANIFEST_DIR";

/// The programs in `folder`, or beside this one, where they are built first if cargo has started us: cargo
/// builds what it runs and nothing else, and figures of old programs would mislead.
pub(crate) fn programs(folder: Option<&Path>) -> Result<Programs> {
    let programs = match folder {
        Some(folder) => {
            let folder = folder.canonicalize().with_context(|| folder.display().to_string())?;
            Programs { globalfs: folder.join("globalfs"), globalfs_fuse: folder.join("globalfs-fuse") }
        }
        None => built_beside_this()?,
    };
    for program in [&programs.globalfs, &programs.globalfs_fuse] {
        ensure!(program.is_file(), "{} is missing: cargo build --release", program.display());
    }
    Ok(programs)
}

fn built_beside_this() -> Result<Programs> {
    let programs = Programs::beside_this()?;
    // The second half of a run finds what the first one has built.
    if let Some(package) = env::var_os(PACKAGE_DIR).filter(|_| !crate::sandbox::is_inside()) {
        let root = PathBuf::from(package).join("..");
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--quiet", "--package", "globalfs", "--bins"]).current_dir(root);
        if !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        ensure!(cargo.status().context("cannot run cargo")?.success(), "the programs do not build");
    }
    Ok(programs)
}
