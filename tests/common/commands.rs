//! Running the programs as people do: what they print, how they end, altered configurations, waiting.

use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What any command that has to end by itself is given, in seconds; the machine may be busy.
const COMMAND_LIMIT_S: &str = "60";

/// What a state may take to come about.
const WAIT_LIMIT: Duration = Duration::from_secs(60);

/// How a command ended.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// A command that is stopped when it does not end by itself.
pub fn command<S: AsRef<OsStr>>(program: &Path, args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-k", "5", COMMAND_LIMIT_S]).arg(program).args(args);
    command.env_remove("RUST_LOG").env_remove("RUST_BACKTRACE").stdin(Stdio::null());
    command
}

impl Outcome {
    /// Runs `command` to its end.
    pub fn of(mut command: Command) -> Self {
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let code = output.status.code().unwrap_or(-1);
        Self { code, stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// It worked; gives its standard output.
    #[track_caller]
    pub fn works(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.stdout
    }

    /// It failed with this exit code, says all `words` in its last words, and did not fall over.
    #[track_caller]
    pub fn fails(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        assert!(!self.stderr.contains("panicked") && !self.stderr.contains("backtrace"), "{self:?}");
        // A daemon may have logged before.
        let lines = self.stderr.lines().filter(|line| !line.starts_with('{'));
        let said = lines.collect::<Vec<_>>().join("\n");
        let missing: Vec<_> = words.iter().filter(|word| !said.contains(**word)).collect();
        assert!(missing.is_empty(), "does not say {missing:?}:\n{said}");
        let parts: Vec<&str> = said.split(": ").collect();
        assert!(parts.windows(2).all(|two| two[0] != two[1]), "says it twice:\n{said}");
        assert_eq!(self.stdout, "", "an error is no result");
        self
    }
}

/// Runs `globalfs` with `args` and, behind them, `--config CONFIG`.
pub fn globalfs(args: &[&str], config: &Path) -> Outcome {
    let args = args.iter().map(OsStr::new).chain([OsStr::new("--config"), config.as_os_str()]);
    Outcome::of(command(&super::programs().globalfs, args))
}

/// What `globalfs ARGS --json --config CONFIG` prints.
#[track_caller]
pub fn json(args: &[&str], config: &Path) -> Value {
    let printed = globalfs(&[args, &["--json"]].concat(), config).works();
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
}

/// Writes a copy of the configuration `of` beside it, with other values for some of its keys.
pub fn altered(of: &Path, copy: &str, changes: &[(&str, &str)]) -> PathBuf {
    let text = fs::read_to_string(of).unwrap();
    let mut lines = Vec::new();
    let mut replaced = false;
    for line in text.lines() {
        // What is indented belongs to the key above.
        if !line.starts_with(' ') {
            let key = line.split(':').next().unwrap_or_default();
            replaced = changes.iter().any(|(changed, _)| *changed == key);
        }
        if !replaced {
            lines.push(line.to_owned());
        }
    }
    lines.extend(changes.iter().map(|(key, value)| format!("{key}: {value}")));
    let path = of.with_file_name(copy);
    fs::write(&path, lines.join("\n") + "\n").unwrap();
    path
}

/// The value of a key in a configuration that has it on a line of its own.
pub fn value(config: &Path, key: &str) -> String {
    let text = fs::read_to_string(config).unwrap();
    let found = text.lines().find_map(|line| line.strip_prefix(&format!("{key}: ")));
    found.unwrap_or_else(|| panic!("no {key} in {text}")).to_owned()
}

/// An address of this machine where nobody listens.
pub fn free_address() -> SocketAddr {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    // Free for both kinds of listeners.
    UdpSocket::bind(address).map_or_else(|_| free_address(), |_| address)
}

/// Waits until `state` gives something; fails with what it said last.
#[track_caller]
pub fn eventually<T>(what: &str, mut state: impl FnMut() -> Result<T, String>) -> T {
    let started = Instant::now();
    loop {
        match state() {
            Ok(found) => return found,
            Err(last) => assert!(started.elapsed() < WAIT_LIMIT, "{what} did not come about: {last}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until a log has a line with all `words`, and gives it.
#[track_caller]
pub fn logged(log: &Path, words: &[&str]) -> String {
    eventually(&format!("{words:?} in {}", log.display()), || {
        let text = fs::read_to_string(log).unwrap();
        let line = text.lines().find(|line| words.iter().all(|word| line.contains(word)));
        line.map(str::to_owned).ok_or(text)
    })
}

/// Status and body of `GET PATH` over HTTP.
pub fn http_get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(WAIT_LIMIT)).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}
