//! fsx: reads, writes, truncations, holes, copies and mappings of one file in random order, each read compared with what was
//! written.

use crate::common::setting;
use crate::{Mounted, Place, tool};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Operations of one seed in the suite.
const OPERATIONS: u64 = 5000;

/// In the suite another seed is begun until so much time is over.
const LIMIT: Duration = Duration::from_secs(25);

/// Everything that it can do on Linux, in a file of some chunks.
const CONFIGURATION: &str = "
flen = 1048576
[opsize]
max = 131072
[weights]
close_open = 1
read = 10
write = 10
mapread = 10
mapwrite = 10
invalidate = 1
truncate = 3
fsync = 0.3
fdatasync = 0.3
posix_fallocate = 1
punch_hole = 2
sendfile = 2
posix_fadvise = 1
copy_file_range = 2
";

/// Runs `operations` of `seed` on a file.
fn run(program: &Path, file: &Path, scratch: &Path, (seed, operations): (u64, u64)) {
    let configuration = scratch.join("fsx.toml");
    fs::write(&configuration, CONFIGURATION).unwrap();
    let mut command = Command::new(program);
    command.arg("-f").arg(&configuration).arg("-P").arg(env!("CARGO_TARGET_TMPDIR"));
    command.args(["-S", &seed.to_string(), "-N", &operations.to_string()]).arg(file);
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "fsx, seed {seed}, {}:\n{said}", file.display());
}

fn exercise(test: &str, place: Place) {
    let Some(program) = tool(test, "fsx") else { return };
    let mounted = Mounted::at(place);
    let seed = setting("GLOBALFS_MODEL_SEED", 51);
    let operations = setting("GLOBALFS_FSX_OPERATIONS", OPERATIONS);
    let (begun, mut runs) = (Instant::now(), 0);
    while runs == 0 || (operations == OPERATIONS && begun.elapsed() < LIMIT) {
        let file = mounted.directory.join("file");
        run(&program, &file, mounted.test.scratch.path(), (seed + runs, operations));
        runs += 1;
    }
    let elapsed = begun.elapsed();
    eprintln!("fsx, {place:?}: {runs} seeds from {seed} with {operations} operations each, in {elapsed:.0?}");
    mounted.all_is_home();
}

/// Holds promise 9 of docs/semantics.md.
#[test]
fn one_file_keeps_every_byte_at_home() {
    exercise("one_file_keeps_every_byte_at_home", Place::Home);
}

/// Holds promise 9, promise 18 of docs/semantics.md.
#[test]
fn one_file_keeps_every_byte_where_its_subtree_is_held() {
    exercise("one_file_keeps_every_byte_where_its_subtree_is_held", Place::Held);
}
