//! The programs as a user meets them: what they print where, and their exit status.

// The functions beside the tests fail a test as the tests themselves do.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Stdio};

/// Runs `globalfs` and checks its exit status and the beginnings of what it says on stdout and stderr.
#[track_caller]
fn run(arguments: &[&str], status: i32, stdout: &str, stderr: &str) {
    let program = Command::new(env!("CARGO_BIN_EXE_globalfs"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&program.stdout), String::from_utf8_lossy(&program.stderr));
    assert_eq!(program.status.code(), Some(status), "{out}{err}");
    assert!(out.starts_with(stdout) && err.starts_with(stderr), "{out}{err}");
    assert_eq!((out.is_empty(), err.is_empty()), (stdout.is_empty(), stderr.is_empty()), "{out}{err}");
}

#[test]
fn the_program_tells_by_its_exit_status() {
    let coordinator = "examples/coordinator.yaml";
    run(&["config", "check", coordinator], 0, "examples/coordinator.yaml: ok (coordinator)", "");
    run(
        &["config", "check", "nope"],
        1,
        "",
        "nope: cannot be read: No such file or directory\nglobalfs: 1 of 1",
    );
    run(&["config", "check", "--json", "nope"], 1, "[\n  {\n    \"file\": \"nope\"", "globalfs: 1 of 1");
    run(&["config", "check"], 2, "", "error: ");
    run(
        &["policy", "test", "/scratch/x", "--config", coordinator],
        0,
        "/scratch/x\n  policy        scratch",
        "",
    );
    run(
        &["policy", "test", "x", "--config", coordinator],
        1,
        "",
        "globalfs: \"x\" is not a path of the namespace: ",
    );
    run(&["policy", "test", "/x"], 2, "", "error: ");
    run(&["--help"], 0, "One file tree", "");
}

#[test]
fn a_closed_pipe_ends_the_program_quietly() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_globalfs"));
    command.args(["policy", "test", "--config", "examples/coordinator.yaml"]).args(vec!["/a"; 2000]);
    command.current_dir(env!("CARGO_MANIFEST_DIR")).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), ended.stderr.len()), (Some(0), 0), "{ended:?}");
}
