//! pjdfstest: the rules of POSIX, case by case. What a local file system of this machine passes, the mounts pass.

use crate::local::Local;
use crate::{Mounted, Place, tool};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use tempfile::TempDir;

/// Cases that the local file system passes and that are skipped on a mount, each with the reason.
const EXCEPTIONS: [(&str, &str); 1] = [(
    "link::link_count_max",
    "the C library knows how many names a file may have by the file system's type, and not of FUSE",
)];

/// Fewer would mean that the suite did not run in full.
const MIN_CASES: usize = 390;

/// What the suite may ask of a file system, users that each machine has, and a sleep that is longer than the steps of times.
/// The cases of file systems that are mounted again to be read are skipped everywhere: the kernel answers them by itself, and
/// refuses to mount again while a file is being closed.
const CONFIGURATION: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.02
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

/// How a case ended, as the suite says it: `ok`, `skipped` or `FAILED`.
type Outcomes = BTreeMap<String, String>;

struct Suite {
    program: PathBuf,
    /// On another file system than any of those that are tried, for what must not cross.
    memory: TempDir,
}

impl Suite {
    fn new(program: PathBuf) -> Self {
        let memory = TempDir::new_in("/dev/shm").unwrap();
        fs::set_permissions(memory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(memory.path().join("configuration"), CONFIGURATION).unwrap();
        Self { program, memory }
    }

    /// All that it printed.
    fn run(&self, directory: &Path) -> String {
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(self.memory.path().join("configuration")).arg("-s").arg(self.memory.path());
        let output = command.arg("-p").arg(directory).env("NO_COLOR", "1").output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&said).into_owned()
    }
}

fn outcomes(said: &str) -> Outcomes {
    let cases = said.lines().filter_map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [name, outcome @ ("ok" | "skipped" | "FAILED")] if name.contains("::") => {
            Some((name.to_owned(), outcome.to_owned()))
        }
        _ => None,
    });
    cases.collect()
}

fn count(outcomes: &Outcomes, wanted: &str) -> usize {
    outcomes.values().filter(|outcome| *outcome == wanted).count()
}

/// Cases that the local file system passes and a mount does not, without those that are excepted.
fn worse(local: &Outcomes, ours: &Outcomes) -> Vec<String> {
    let ours = |name: &str| ours.get(name).map_or("missing", String::as_str);
    let is_excepted =
        |name: &str| ours(name) == "skipped" && EXCEPTIONS.iter().any(|(excepted, _)| *excepted == name);
    let passed = local.iter().filter(|(_, outcome)| *outcome == "ok").map(|(name, _)| name);
    passed.filter(|name| ours(name) != "ok" && !is_excepted(name)).cloned().collect()
}

fn say(place: &str, outcomes: &Outcomes) {
    let [passed, failed, skipped] = ["ok", "FAILED", "skipped"].map(|wanted| count(outcomes, wanted));
    eprintln!(
        "pjdfstest on {place}: {} cases, {passed} pass, {failed} fail, {skipped} skipped",
        outcomes.len()
    );
}

#[test]
fn what_a_local_file_system_passes_the_mounts_pass() {
    let Some(program) = tool("what_a_local_file_system_passes_the_mounts_pass", "pjdfstest") else { return };
    let local = Local::new();
    let mounts = [Place::Home, Place::Held].map(Mounted::at);
    let suite = Suite::new(program);
    let directories = [&local.directory, &mounts[0].directory, &mounts[1].directory];
    let said: [String; 3] = thread::scope(|scope| {
        let runs = directories.map(|directory| scope.spawn(|| suite.run(directory)));
        runs.map(|run| run.join().unwrap())
    });
    let [wanted, ours @ ..] = said.each_ref().map(|said| outcomes(said));
    say(&local.kind, &wanted);
    assert!(wanted.len() >= MIN_CASES, "{}", said[0]);
    for ((mounted, ours), said) in mounts.iter().zip(&ours).zip(&said[1..]) {
        say(&format!("a mount, {:?}", mounted.place), ours);
        assert_eq!(
            worse(&wanted, ours),
            Vec::<String>::new(),
            "{:?}, but {}:\n{said}",
            mounted.place,
            local.kind
        );
        mounted.all_is_home();
    }
}
