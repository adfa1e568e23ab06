//! A small run of the warm path on real mounts. Needs root, FUSE, fio and the programs.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use globalfs_perf::sandbox::has_program;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder of the programs that are measured, or what is missing here.
fn can_measure(test: &str) -> Option<PathBuf> {
    let this = Path::new(env!("CARGO_BIN_EXE_globalfs-perf"));
    let folder = this.parent().unwrap();
    let missing = [
        (rustix::process::geteuid().is_root(), "root"),
        (Path::new("/dev/fuse").exists(), "/dev/fuse"),
        (Path::new("/dev/net/tun").exists(), "/dev/net/tun"),
        (has_program("fio"), "fio"),
        (folder.join("globalfs-fuse").is_file(), "the programs: cargo build --workspace --bins"),
    ];
    let Some((_, missing)) = missing.iter().find(|(here, _)| !here) else { return Some(folder.to_owned()) };
    let full = std::env::var_os("GLOBALFS_TEST_FULL").is_some_and(|value| value == "1");
    assert!(!full, "{test} needs {missing}, and GLOBALFS_TEST_FULL=1 forbids to skip");
    eprintln!("SKIPPED: {test} needs {missing}");
    None
}

fn run(programs: &Path, args: &[&str]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_globalfs-perf"));
    command.args(["warm", "--systems", "globalfs", "--rounds", "1", "--size-scale", "0.02", "--json"]);
    command.arg("--programs").arg(programs).args(args).output().unwrap()
}

#[test]
fn each_phase_reads_the_same_on_both_sides() {
    let Some(programs) = can_measure("each_phase_reads_the_same_on_both_sides") else { return };
    let phases = "sequential,partly";
    let output = run(&programs, &["--dir", "/var/tmp", "--phases", phases]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = report["rows"].as_array().unwrap();
    let names: Vec<_> = rows.iter().map(|row| row["phase"].as_str().unwrap()).collect();
    assert_eq!(names.join(","), phases);
    for row in rows {
        let figure = &row["systems"]["globalfs"];
        assert!(figure["ratio"].as_f64().is_some_and(|ratio| ratio > 0.0), "{row}\n{said}");
        let sample = &figure["samples"][0];
        for what in ["bytes", "operations"] {
            assert_eq!(sample["local"][what], sample["mounted"][what], "{row}");
        }
    }
    let read = &rows[0]["systems"]["globalfs"]["samples"][0]["mounted"];
    assert_eq!(read["bytes"], 20 << 20, "the whole file was read");
    assert!(read["daemons_cpu_s"].as_f64().is_some());
}

#[test]
fn pages_that_cannot_be_dropped_are_refused() {
    let Some(programs) = can_measure("pages_that_cannot_be_dropped_are_refused") else { return };
    let output = run(&programs, &["--dir", "/dev/shm", "--phases", "sequential"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("is on tmpfs"), "{said}");
}
